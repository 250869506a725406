"""An imported manifest lives on: found by TD3.1b, replaced when images and report come, unpublished when asked."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from dicom_store.archive import Archive
from dicom_store.header import read_header
from drimbox.adapters.database import Database
from drimbox.adapters.documents import Documents
from drimbox.adapters.signing import RsaSigner
from drimbox.adapters.transactions import SqlTransactions
from drimbox.domain.exam import Policy
from drimbox.domain.retry import RetryPolicy
from drimbox.domain.vihf import VihfIdentity
from drimbox.domain.xds.metadata import DocumentEntry
from drimbox.domain.xds.outcome import Exchange, Found, Registered
from drimbox.domain.xds.publication import FrozenLot, Publisher, XdsOptions
from drimbox.domain.xds.vocabulary import APPROVED, DEPRECATED
from drimbox.domain.xds.withdrawal import FrozenWithdrawal
from drimbox.domain.xds.xdm_reader import LotFiles
from drimbox.flow import exams
from drimbox.flow.archive_import import Importing
from drimbox.flow.group_commit import GroupCommit
from drimbox.flow.manifest import ManifestMaker
from drimbox.flow.prepare import Preparing
from drimbox.flow.publish import Publishing
from drimbox.flow.receive_instance import receive_instance
from drimbox.flow.receive_report import Arrival, Reception
from drimbox.flow.reconcile import Reconciling
from drimbox.flow.settle import Settling
from fixtures.archives import LotSpec, make_lot
from fixtures.certificates import make_authority, make_leaf
from fixtures.images import SeriesSpec, StudySpec, study_datasets
from fixtures.newest_database import bring_to_newest
from fixtures.reports import make_cda

SPEC = LotSpec()
STUDY = SPEC.study
IMAGES = StudySpec(
    study_instance_uid=STUDY, accession="ACN901", patient_id="IPP901", series=(SeriesSpec("CT", 3),),
    series_uid_pattern=f"{STUDY}.{{series}}", sop_uid_pattern=f"{STUDY}.{{series}}.{{instance}}",
)  # fmt: skip
REAL_ENTRY = "urn:uuid:11111111-2222-3333-4444-555555555555"
EXCHANGE = Exchange("urn:uuid:1", 200, "", b"<answer/>")
LEAF = make_leaf(make_authority())


class Dmp:
    """Holds the imported manifest under another entryUUID than the archive says; takes everything."""

    def __init__(self) -> None:
        self.status = APPROVED
        self.asked: list[tuple[str, VihfIdentity]] = []
        self.published: list[FrozenLot] = []
        self.withdrawn: list[FrozenWithdrawal] = []

    def find(self, unique_id: str, identity: VihfIdentity) -> Found:
        self.asked.append((unique_id, identity))
        entry = DocumentEntry(REAL_ENTRY, "application/dicom", unique_id, SPEC.patient_id, status=self.status)
        return Found(EXCHANGE, (entry,))

    def publish(self, lot: FrozenLot) -> Registered:
        self.published.append(lot)
        return Registered(EXCHANGE)

    def withdraw(self, withdrawal: FrozenWithdrawal) -> Registered:
        self.withdrawn.append(withdrawal)
        return Registered(EXCHANGE)


class Box:
    """The inside of an appliance around an imported lot."""

    def __init__(self, root: Path) -> None:
        self.now = datetime(2026, 10, 1, 12, 0, tzinfo=UTC)
        self.count = 0
        self.database = Database(f"sqlite:///{root / 'drimbox.sqlite'}")
        bring_to_newest(self.database)
        self.archive = Archive(root / "images", 0)
        self.documents = Documents(root / "documents")
        self.transactions = SqlTransactions(self.database, self.archive)
        self.dmp = Dmp()
        maker = ManifestMaker(
            Publisher("CENTRE", "1999999999", "BOX-1", "DRIMBox", "1.2.250.1.999.7"), XdsOptions(),
            lambda: RsaSigner(LEAF.key, LEAF.certificate), "https://db.example.fr/dicom-web-rs", "Europe/Paris",
            lambda: f"2.25.{self.next()}", self.next, "",
        )  # fmt: skip
        self.reconciling = Reconciling(
            self.transactions, self.documents, Preparing(self.documents, maker, self.new_id),
            Policy(("1.2.250.1.213.1.4.10",), "", settle_after=60), "Europe/Paris", lambda: self.now, self.fail,
        )  # fmt: skip
        settling = Settling(self.documents, RetryPolicy(10, 100), "worker:test", lambda: 0.0, self.fail)
        self.publishing = Publishing(
            self.transactions, self.documents, self.dmp, settling, lambda: self.now, "node", 60, lambda *_, **__: None,
            lambda: True,
        )  # fmt: skip
        self.importing = Importing(
            self.transactions, self.documents, lambda: self.now, self.new_id, "Europe/Paris", "1999999999",
            "SA08", "operator",
        )  # fmt: skip

    def fail(self, event: str, **detail: Any) -> None:
        raise AssertionError(f"{event}: {detail}")

    def next(self) -> int:
        self.count += 1
        return self.count

    def new_id(self) -> str:
        return f"id-{self.next()}"

    def work(self) -> None:
        self.now += timedelta(seconds=61)
        for _ in range(10):
            if not self.reconciling.run_due() + self.publishing.run_due():
                return

    def take(self, spec: LotSpec = SPEC) -> None:
        assert self.importing.take(LotFiles("SS000001", 0, make_lot(spec))).verdict == "imported"

    def images(self, count: int) -> None:
        for dataset in list(study_datasets(IMAGES))[:count]:
            buffer = io.BytesIO()
            dataset.save_as(buffer, enforce_file_format=True)
            part10 = buffer.getvalue()
            data = part10[144 + int.from_bytes(part10[140:144], "little") :]
            syntax, sop_class = str(dataset.file_meta.TransferSyntaxUID), str(dataset.SOPClassUID)
            header = read_header(data, syntax, sop_class, str(dataset.SOPInstanceUID))
            with self.archive.writer() as writer:
                receive_instance(
                    GroupCommit(self.transactions), writer.take(header, data),
                    now=self.now, actor="test", settle_after=60,
                )  # fmt: skip

    def report(self) -> None:
        reception = Reception(self.transactions, self.documents, "Europe/Paris", self.new_id, lambda: "A")
        reception.document(Arrival(make_cda(), "http", "test", self.now))

    def exam(self) -> dict[str, Any]:
        return exams.show_exam(self.transactions, self.documents, STUDY, "Europe/Paris")

    def events(self) -> list[str]:
        return [event["event"] for event in exams.trace_exam(self.transactions, STUDY)]


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    box = Box(tmp_path)
    yield box
    box.archive.close()
    box.database.close()


def test_the_registry_names_the_entry_not_the_archive(box: Box) -> None:
    box.take()
    box.work()
    ((asked, identity),) = box.dmp.asked
    assert asked == SPEC.kos_uid
    assert (identity.name_id, identity.patient) == ("899900000019", SPEC.patient_id)
    manifest = box.exam()["manifest"]
    assert (manifest["status"], manifest["entry_uuid"]) == ("published", REAL_ENTRY)
    assert REAL_ENTRY != SPEC.entry_uuid


def test_without_images_and_report_it_stays_as_it_is(box: Box) -> None:
    box.take()
    for _ in range(3):
        box.work()
    assert (box.dmp.published, box.dmp.withdrawn) == ([], [])
    assert box.exam()["manifest"]["status"] == "published"


def test_images_and_report_replace_it(box: Box) -> None:
    box.take()
    box.work()
    box.images(3)
    box.report()
    box.work()
    (lot,) = box.dmp.published
    assert REAL_ENTRY.encode() in lot.submit_objects_request
    assert [step["status"] for step in box.exam()["history"]] == ["replaced", "published"]


def test_fewer_images_than_it_had_wait_for_an_operator(box: Box) -> None:
    box.take()
    box.work()
    box.images(1)
    box.report()
    box.work()
    assert box.dmp.published == []
    assert box.exam()["rule"] == "thinner"


def test_it_is_unpublished_when_the_exam_is_withdrawn(box: Box) -> None:
    box.take()
    box.work()
    exams.withdraw_exam(box.transactions, STUDY, now=box.now, actor="operator", reason="asked")
    box.work()
    (withdrawal,) = box.dmp.withdrawn
    assert (withdrawal.entry_uuid, withdrawal.vihf.name_id) == (REAL_ENTRY, "899900000019")
    assert box.exam()["manifest"]["status"] == "unpublished"


def test_what_the_registry_no_longer_holds_as_approved_is_said(box: Box) -> None:
    box.dmp.status = DEPRECATED
    box.take()
    box.work()
    assert "GONE_AT_DMP" in box.events()
    assert box.exam()["manifest"]["entry_uuid"] is None


def test_history_that_was_imported_is_not_looked_up(box: Box) -> None:
    box.take(replace(SPEC, status=DEPRECATED))
    box.work()
    assert box.dmp.asked == []
    assert box.exam()["manifest"]["status"] == "replaced"
