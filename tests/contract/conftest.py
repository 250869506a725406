"""The inside of an appliance for contract tests: real stores, a scripted DMP, a clock of our own."""

from __future__ import annotations

import io
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset

from dicom_store.archive import Archive
from dicom_store.header import read_header
from drimbox.adapters.database import Database
from drimbox.adapters.documents import Documents
from drimbox.adapters.signing import load_signer
from drimbox.adapters.transactions import SqlTransactions
from drimbox.domain.exam import Policy
from drimbox.domain.retry import RetryPolicy
from drimbox.domain.xds.metadata import DocumentEntry
from drimbox.domain.xds.outcome import Exchange, Found, Registered
from drimbox.domain.xds.publication import FrozenLot, Publisher, XdsOptions
from drimbox.domain.xds.withdrawal import FrozenWithdrawal
from drimbox.flow import exams
from drimbox.flow.group_commit import GroupCommit
from drimbox.flow.keep_report import Arrival
from drimbox.flow.manifest import ManifestMaker
from drimbox.flow.prepare import Preparing
from drimbox.flow.publish import Publishing
from drimbox.flow.receive_instance import receive_instance
from drimbox.flow.receive_report import Reception
from drimbox.flow.reconcile import Reconciling
from drimbox.flow.settle import Settling
from drimbox.simulators.appliance_files import drimbox_toml
from drimbox.simulators.ports import assign_ports
from fixtures.certificates import NOW as CERTIFICATE_NOW
from fixtures.certificates import make_authority, make_leaf
from fixtures.images import SeriesSpec, StudySpec, study_datasets
from fixtures.kept_pki import kept_pki
from fixtures.newest_database import bring_to_newest
from fixtures.reports import ReportSpec, make_cda

STUDY = "1.2.250.1.999.1.901"  # of the default report
SPEC = StudySpec(
    study_instance_uid=STUDY, accession="ACN901", patient_id="IPP901", series=(SeriesSpec("CT", 3),)
)
EXCHANGE = Exchange("urn:uuid:1", 200, "", b"<answer/>")


class ScriptedDmp:
    """Answers what the script says, then Registered and Found; keeps what it was given."""

    def __init__(self) -> None:
        self.answers: list[Any] = []
        self.lookups: list[Any] = []
        self.published: list[FrozenLot] = []
        self.asked: list[str] = []
        self.withdrawn: list[FrozenWithdrawal] = []

    def publish(self, lot: FrozenLot) -> Any:
        self.published.append(lot)
        return self.answers.pop(0) if self.answers else Registered(EXCHANGE)

    def find(self, unique_id: str, identity: Any) -> Any:
        self.asked.append(unique_id)
        return self.lookups.pop(0) if self.lookups else found(entry_of(unique_id))

    def withdraw(self, withdrawal: FrozenWithdrawal) -> Any:
        self.withdrawn.append(withdrawal)
        return self.answers.pop(0) if self.answers else Registered(EXCHANGE)


class Box:
    """The inside of an appliance, without doors or processes."""

    def __init__(self, root: Path, url: str = "") -> None:
        self.now = datetime(2026, 10, 1, 12, 0, tzinfo=UTC)
        self.count = 0
        self.in_the_mesh = True
        self.database = Database(url or f"sqlite:///{root / 'drimbox.sqlite'}")
        bring_to_newest(self.database)
        self.archive = Archive(root / "images", 0)
        self.documents = Documents(root / "documents")
        self.transactions = SqlTransactions(self.database, self.archive)
        self.dmp = ScriptedDmp()
        self.logged: list[str] = []
        self.reception = Reception(
            self.transactions, self.documents, "Europe/Paris", self.new_id, lambda: "ACK1"
        )
        preparing = Preparing(self.documents, self.maker(root), self.new_id)
        self.reconciling = Reconciling(
            self.transactions, self.documents, preparing, POLICY, "Europe/Paris", lambda: self.now, self.say
        )
        self.publishing = self.publisher("node-a")

    def say(self, event: str, **_: Any) -> None:
        self.logged.append(event)

    def publisher(self, node: str, dmp: Any = None) -> Publishing:
        settling = Settling(self.documents, RetryPolicy(10, 100), f"worker:{node}", lambda: 0.0, self.say)
        return Publishing(
            self.transactions, self.documents, dmp or self.dmp, settling, lambda: self.now, node, 60, self.say,
            lambda: self.in_the_mesh,
        )  # fmt: skip

    def maker(self, root: Path) -> ManifestMaker:
        leaf = LEAF
        (root / "sign.pem").write_bytes(leaf.certificate_pem)
        (root / "sign.key").touch(0o600)
        (root / "sign.key").write_bytes(leaf.key_pem())
        publisher = Publisher("CENTRE", "1750803447", "BOX-1", "DRIMBox", "1.2.250.1.999.7")
        return ManifestMaker(
            publisher, XdsOptions(), partial(load_signer, root / "sign.pem", root / "sign.key", CERTIFICATE_NOW),
            "https://db.example.fr/dicom-web-rs", "Europe/Paris", self.new_uid, self.next, "",
        )  # fmt: skip

    def next(self) -> int:
        self.count += 1
        return self.count

    def new_uid(self) -> str:
        return f"2.25.{self.next()}"

    def new_id(self) -> str:
        return f"id-{self.next()}"

    def image(self, dataset: Dataset) -> None:

        buffer = io.BytesIO()
        dataset.save_as(buffer, enforce_file_format=True)
        part10 = buffer.getvalue()
        data_set = part10[144 + int.from_bytes(part10[140:144], "little") :]
        header = read_header(
            data_set,
            str(dataset.file_meta.TransferSyntaxUID),
            str(dataset.SOPClassUID),
            str(dataset.SOPInstanceUID),
        )
        with self.archive.writer() as writer:
            receive_instance(
                GroupCommit(self.transactions), writer.take(header, data_set),
                now=self.now, actor="test", settle_after=60,
            )  # fmt: skip

    def bring(self, images: int = 2) -> None:
        """A report and the first images of the study, then a quiet minute."""
        self.reception.document(
            Arrival(make_cda(ReportSpec(acts=ReportSpec().acts)), "http", "test", self.now)
        )
        for dataset in list(study_datasets(SPEC))[:images]:
            self.image(dataset)
        self.later(61)

    def later(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def work(self) -> None:
        """Both halves of the worker, until nothing is due."""
        for _ in range(10):
            if not self.reconciling.run_due() + self.publishing.run_due():
                return

    def exam(self) -> dict[str, Any]:
        return exams.show_exam(self.transactions, self.documents, STUDY, "Europe/Paris")

    def trace(self) -> list[dict[str, Any]]:
        return exams.trace_exam(self.transactions, STUDY)

    def events(self) -> list[str]:
        return [event["event"] for event in self.trace()]


LEAF = make_leaf(make_authority())
POLICY = Policy(("1.2.250.1.213.1.4.10",), "", settle_after=60)


def entry_of(unique_id: str) -> str:
    """The entryUUID that our DMP gives to a document."""
    return f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, unique_id)}"


def found(entry_uuid: str) -> Found:
    entry = DocumentEntry.__new__(DocumentEntry)
    object.__setattr__(entry, "id", entry_uuid)
    object.__setattr__(entry, "status", "urn:oasis:names:tc:ebxml-regrep:StatusType:Approved")
    return Found(EXCHANGE, (entry,))


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    box = Box(tmp_path)
    yield box
    box.archive.close()
    box.database.close()


@pytest.fixture(scope="session")
def toml(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The configuration that the simulators write, and the directory of its certificates; nobody listens."""
    directory = tmp_path_factory.mktemp("world")
    pki = kept_pki(directory / "pki")
    return directory, drimbox_toml(directory, assign_ports(None), pki)


@pytest.fixture
def make_box() -> type[Box]:
    """Boxes with another database than SQLite; whoever makes one closes it."""
    return Box
