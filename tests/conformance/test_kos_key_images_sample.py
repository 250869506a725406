"""Key images in a manifest, tag by tag against Manifest_KOS.xml (drim-m-data 6.3), and dciodvfy's opinion."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, dcmread

from dicom_store.study import InstanceRef, KeyImageNote, SeriesSnapshot, StudySnapshot
from drimbox.domain import kos
from drimbox.domain.identifiers import Identifier, Ins
from drimbox.domain.report import Code, Order, Organization, Patient, Report, StudyAct, Timestamp

NOW = datetime(2024, 8, 28, 14, 23, 26, tzinfo=UTC)


def run(*command: object) -> tuple[int, str]:
    if shutil.which(str(command[0])) is None:
        pytest.skip(f"{command[0]} is not installed")
    done = subprocess.run([str(part) for part in command], capture_output=True, timeout=60)
    return done.returncode, (done.stdout + done.stderr).decode("latin-1")


@pytest.fixture
def sample(official: Path, tmp_path: Path) -> Dataset:
    path = tmp_path / "sample.dcm"
    status, output = run("xml2dcm", official / "kos" / "Manifest_KOS.xml", path)
    assert status == 0, output
    return dcmread(path)


def report(sample: Dataset) -> Report:
    when = Timestamp("20220822", NOW)
    patient = Patient(
        Ins("279035121518989", "1.2.250.1.213.1.4.10"), (), "PAT-TROIS", "DOMINIQUE", "DOMINIQUE", "PAT-TROIS",
        "DOMINIQUE", "F", "19790328", "63220",
    )  # fmt: skip
    order = Order(
        Identifier("1.2.250.1.213.4.5.2.6", "OPN101"), (Identifier("1.2.250.1.213.4.5.2.5", "ACN101"),)
    )
    act = StudyAct(sample.StudyInstanceUID, Code("1", "2", "CT"), None, (), (), when, None, None)
    return Report(
        Identifier("1.2.9"), "", 1, (), Code("18748-4", ""), (), "", when, Code("N", ""), "fr-FR", 1, patient, (),
        None, (order,), (act,), None, None,
    )  # fmt: skip


def images(sample: Dataset) -> StudySnapshot:
    """The study of the sample: two images and the key image note, which marks the second."""
    evidence = sample.CurrentRequestedProcedureEvidenceSequence[0]
    series = tuple(
        SeriesSnapshot(
            one.SeriesInstanceUID,
            "CT",
            int(one.SeriesNumber),
            "Serie",
            "",
            tuple(
                InstanceRef(
                    ref.ReferencedSOPInstanceUID, ref.ReferencedSOPClassUID, "1.2", int(ref.InstanceNumber)
                )
                for ref in one.ReferencedSOPSequence
            ),
        )
        for one in evidence.ReferencedSeriesSequence
    )
    key = series[2]
    text = marked(sample).ReferencedSOPSequence[0].ContentSequence[0].TextValue
    note = KeyImageNote(
        key.instances[0].SOPInstanceUID, key.SeriesInstanceUID, "113000", "DCM", "Of Interest", text,
        (series[1].instances[0].SOPInstanceUID,),
    )  # fmt: skip
    return StudySnapshot(
        sample.StudyInstanceUID,
        "20220822",
        "083117.658000",
        "Examen A",
        ("ACN101",),
        (),
        (),
        series,
        (),
        (note,),
    )


def marked(manifest: Dataset) -> Dataset:
    """The item of the key instance."""
    evidence = manifest.CurrentRequestedProcedureEvidenceSequence[0]
    reference: Dataset = evidence.ReferencedSeriesSequence[1].ReferencedSOPSequence[0]
    return reference


def arguments(sample: Dataset) -> dict[str, Any]:
    study, facts = images(sample), report(sample)
    return {
        "requests": kos.requests_for(facts, study.AccessionNumbers),
        "retrieve_base": "http://localhost:4200/api/source",
        "manufacturer": "ANS",
        "institution": Organization(
            Identifier("1.2.250.1.71.4.2.2", "101235555"), "Centre de radiologie Ambroise"
        ),
        "sop_instance_uid": sample.SOPInstanceUID,
        "series_instance_uid": sample.SeriesInstanceUID,
        "now": NOW,
        "time_zone": "Europe/Paris",
    }


@pytest.fixture
def ours(sample: Dataset, tmp_path: Path) -> Path:
    path = tmp_path / "ours.dcm"
    path.write_bytes(kos.manifest_bytes(images(sample), report(sample), **arguments(sample)))
    return path


def flat(dataset: Dataset, place: str = "") -> Iterator[tuple[str, tuple[str, str]]]:
    """(place, (VR, value)) of every attribute, items numbered."""
    for element in dataset:
        if element.VR == "SQ":
            yield place + element.keyword, ("SQ", str(len(element.value)))
            for number, item in enumerate(element.value):
                yield from flat(item, f"{place}{element.keyword}[{number}].")
        else:
            yield place + element.keyword, (element.VR, str(element.value or ""))


def test_every_attribute_agrees_with_the_sample(sample: Dataset, ours: Path) -> None:
    """All but the text 113012, which is of another exam in the sample."""
    theirs, mine = dict(flat(sample)), dict(flat(dcmread(ours)))
    assert {place for place in theirs.keys() | mine.keys() if theirs.get(place) != mine.get(place)} == {
        "ContentSequence[3].TextValue"
    }


def test_the_key_instance_says_who_marks_it(sample: Dataset, ours: Path) -> None:
    theirs, mine = marked(sample), marked(dcmread(ours))
    assert list(flat(mine)) == list(flat(theirs))
    assert [element.keyword for element in mine.ReferencedSOPSequence[0]] == [
        "ReferencedSOPInstanceUID",
        "SeriesInstanceUID",
        "ConceptNameCodeSequence",
        "ContentSequence",
    ]


def test_the_note_itself_is_composite_in_its_own_series(sample: Dataset, ours: Path) -> None:
    manifest = dcmread(ours)
    assert [item.ValueType for item in manifest.ContentSequence] == ["IMAGE", "IMAGE", "COMPOSITE", "TEXT"]
    own = manifest.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[2]
    assert own.ReferencedSOPSequence[0].ReferencedSOPClassUID == "1.2.840.10008.5.1.4.1.1.88.59"


def test_both_are_judged_alike(sample: Dataset, ours: Path) -> None:
    data = ours.read_bytes()
    assert {violation.rule for violation in kos.check_manifest(data)} == {"drim-m-retrieve-https"}
    assert kos.manifest_errors(data) == ()


def test_dciodvfy_finds_no_error(ours: Path) -> None:
    status, output = run("dciodvfy", ours)
    assert status == 0, output
    assert "Error" not in output
    status, output = run("dcmdump", "+L", ours)
    assert status == 0
    assert output.count("Of Interest") == 1
