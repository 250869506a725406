"""What the benchmarks work on: synthetic exams, brought by the inner doors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from io import BytesIO
from pathlib import Path

from pydicom.dataset import Dataset

from dicom_store.header import read_header
from dicom_store.image_writer import ImageWriter
from drimbox.bootstrap import Foundation, lay_foundation, make_reception, utc_now
from drimbox.entrypoints.demo_stage import Stage, open_stage, start_world
from drimbox.flow.keep_report import Arrival
from drimbox.flow.receive_instance import receive_instance
from drimbox.flow.receive_report import Reception
from drimbox.settings.whole import Settings, load_settings
from drimbox.simulators.dmp_state import TEST_PATIENTS
from fixtures.images import SeriesSpec, StudySpec, study_datasets
from fixtures.reports import ActSpec, OrderSpec, ReportSpec, make_cda

ROOT = "1.2.250.1.999.60"
ACTOR = "bench"
PREAMBLE, META_LENGTH_END = 132, 144  # PS3.10 7.1: preamble and prefix; then (0002,0000), 12 bytes


@contextmanager
def open_appliance(directory: Path) -> Iterator[tuple[Stage, Foundation]]:
    """The outside world as a process of its own, and the stores of an appliance that lives in it."""
    with open_stage(directory) as stage:
        start_world(stage)
        foundation = make_stores(load_settings(Path(stage.config)))
        try:
            yield stage, foundation
        finally:
            foundation.database.close()


def make_stores(settings: Settings) -> Foundation:
    """Stores opened in their directory, the schema at its newest revision."""
    settings.storage.root.mkdir(parents=True, exist_ok=True)
    foundation = lay_foundation(settings)
    foundation.database.migrate()
    return foundation


def bring_exams(foundation: Foundation, count: int, *, instances: int = 3) -> None:
    """`count` exams whose report and CT images arrived a while ago: each is due to be reconciled."""
    settle_after = foundation.settings.policy.settle_after
    at = utc_now() - timedelta(seconds=settle_after + 1)
    reception = make_reception(foundation)
    with foundation.archive.writer() as writer:
        for number in range(count):
            report = report_of(number)
            bring_report(reception, report, at)
            for dataset in study_datasets(images_of(report, instances)):
                _bring_image(foundation, writer, dataset, at)


def report_of(number: int) -> ReportSpec:
    """The report of exam `number`: its own order, study and document, of a patient who has a DMP."""
    return ReportSpec(
        ins=TEST_PATIENTS[number % len(TEST_PATIENTS)],
        ipp=f"IPP{number}",
        document_id=f"{ROOT}.9.{number}",
        set_id=f"{ROOT}.8.{number}",
        orders=(OrderSpec(placer=f"OPN{number}", accession=f"ACN{number}"),),
        acts=(ActSpec(studies=(f"{ROOT}.1.{number}",)),),
    )


def images_of(report: ReportSpec, instances: int) -> StudySpec:
    """The study that goes with a report: one CT series."""
    return StudySpec(
        study_instance_uid=report.acts[0].studies[0],
        accession=report.orders[0].accession,
        patient_id=report.ipp,
        series=(SeriesSpec("CT", instances),),
    )


def bring_report(reception: Reception, report: ReportSpec, at: datetime) -> None:
    """One bare CDA by the inner door of `POST /reports`."""
    reception.document(Arrival(make_cda(report), "http", ACTOR, at))


def _bring_image(foundation: Foundation, writer: ImageWriter, dataset: Dataset, at: datetime) -> None:
    data_set = _data_set_of(dataset)
    header = read_header(
        data_set,
        str(dataset.file_meta.TransferSyntaxUID),
        str(dataset.SOPClassUID),
        str(dataset.SOPInstanceUID),
    )
    receive_instance(
        foundation.commits,
        writer.take(header, data_set),
        now=at,
        actor=ACTOR,
        settle_after=foundation.settings.policy.settle_after,
    )


def _data_set_of(dataset: Dataset) -> bytes:
    """The data set as C-STORE carries it: a Part 10 file without preamble and File Meta Information."""
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    part10 = buffer.getvalue()
    return part10[META_LENGTH_END + int.from_bytes(part10[META_LENGTH_END - 4 : META_LENGTH_END], "little") :]
