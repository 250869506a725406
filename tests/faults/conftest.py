"""What the fault runs share: what must be public of an exam, a DMP in memory, the inside of an appliance.

`Expected` is told what was acknowledged and knows, without any code of the product, what the DMP must hold at the end.
"""

from __future__ import annotations

import io
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset

from dicom_store.header import read_header
from drimbox.adapters.database import Database
from drimbox.bootstrap import lay_foundation, make_publishing, make_reception, make_reconciling
from drimbox.domain.xds.metadata import DocumentEntry
from drimbox.domain.xds.outcome import Exchange, Found, NoAnswer, NotFound, NotSent, Refused, Registered
from drimbox.domain.xds.publication import FrozenLot
from drimbox.domain.xds.response import ERROR_KINDS, RegistryError
from drimbox.domain.xds.vocabulary import APPROVED, DELETED, DEPRECATED
from drimbox.domain.xds.withdrawal import FrozenWithdrawal
from drimbox.flow import exams
from drimbox.flow.keep_report import Arrival
from drimbox.flow.receive_instance import receive_instance
from drimbox.settings.whole import Settings, parse_settings
from drimbox.simulators.appliance_files import drimbox_toml
from drimbox.simulators.ports import assign_ports
from fixtures.images import SeriesSpec, StudySpec, uid
from fixtures.kept_pki import kept_pki
from fixtures.reports import (
    DEFAULT_FLAGS,
    TEST_INS,
    ActSpec,
    OrderSpec,
    ReportSpec,
    make_cda,
    make_mdm,
    make_omi,
    make_oru,
    replacement_of,
)

OTHER_INS = "162018885045327"
ROOT = "1.2.250.1.999.60"
# What the ledger says of a manifest, and what the DMP must say then; of any other it must know nothing.
AT_DMP = {"REGISTERED": "Approved", "DEPRECATED": "Deprecated", "WITHDRAWN": "Deleted"}


@dataclass
class Expected:
    """One exam as the department knows it: what was acknowledged, hence what must be public."""

    number: int
    images: int = 5
    stored: set[str] = field(default_factory=set)
    rejected: dict[str, set[str]] = field(default_factory=dict)  # SOP Instance UID -> codes
    report: ReportSpec | None = None
    last: ReportSpec | None = None  # also when it was withdrawn
    flags: dict[str, bool] = field(default_factory=dict)
    reports: int = 0
    notes: int = 0
    withdrawn: str | None = None
    patients: set[str] = field(default_factory=set)

    @property
    def study(self) -> str:
        return f"{ROOT}.{self.number}"

    @property
    def spec(self) -> StudySpec:
        return StudySpec(
            study_instance_uid=self.study,
            accession=f"ACN{self.number}",
            patient_id="IPP901",
            series=(SeriesSpec("CT", self.images),),
        )

    @property
    def listed(self) -> set[str]:
        """The images that a manifest must name."""
        return {sop for sop in self.stored if not self.rejected.get(sop)}

    @property
    def due(self) -> bool:
        """Whether a manifest must be public."""
        destined = self.flags.get("DESTDMP", True)
        return bool(self.listed) and self.report is not None and destined and self.withdrawn is None

    @property
    def patient(self) -> str:
        assert self.report is not None
        return self.report.ins

    def sop(self, instance: int) -> str:
        return uid(self.spec, 1, instance)

    def new_report(self, ins: str = TEST_INS) -> ReportSpec:
        self.reports += 1
        return ReportSpec(
            ins=ins,
            document_id=f"{ROOT}.9.{self.number}.{self.reports}",
            orders=(OrderSpec(accession=f"ACN{self.number}", placer=f"OPN{self.number}"),),
            acts=(ActSpec(studies=(self.study,)),),
        )

    def next_report(self, ins: str = "") -> ReportSpec:
        assert self.report is not None
        self.reports += 1
        following = replacement_of(self.report, f"{ROOT}.9.{self.number}.{self.reports}")
        return replace(following, ins=ins) if ins else following

    def message(self, report: ReportSpec, control: str, flags: Mapping[str, bool], *, mdm: bool) -> bytes:
        make = make_mdm if mdm else make_oru
        return make(
            make_cda(report),
            report,
            order_control=control,
            flags=DEFAULT_FLAGS | dict(flags),
            control_id=f"{control}{self.number}-{self.reports}",
        )

    def order(self, control: str) -> bytes:
        """An order about the exam, of the patient of its last report."""
        report = self.report or self.last
        return make_omi(report, self.study, f"ACN{self.number}", control=control)

    def took_image(self, sop: str) -> None:
        if sop in self.stored and self.rejected.get(sop) == {"113039"}:
            self.rejected[sop] = set()  # expired, and stored again
        self.stored.add(sop)

    def took_note(self, code: str, sops: set[str]) -> None:
        for sop in sops:
            self.rejected.setdefault(sop, set()).add(code)

    def took_report(self, report: ReportSpec, flags: Mapping[str, bool]) -> None:
        self.report = self.last = report
        self.flags = dict(flags)
        self.patients.add(report.ins)
        if self.withdrawn == "order":
            self.withdrawn = None

    def took_order(self, control: str) -> None:
        if control == "CA":
            self.withdrawn = self.withdrawn or "order"
        elif self.withdrawn == "order":
            self.withdrawn = None


# --- a DMP in memory


class Killed(BaseException):
    """The worker dies here."""


@dataclass
class Held:
    """A manifest at the DMP."""

    unique_id: str
    entry_uuid: str
    study: str
    patient: str
    listed: set[str]
    status: str = "Approved"


_STATUS = {"Approved": APPROVED, "Deprecated": DEPRECATED, "Deleted": DELETED}
_RPLC = re.compile(rb'associationType="[^"]*:RPLC"')
_TARGET = re.compile(rb'targetObject="(urn:uuid:[^"]+)"')
# What may become of a message: `name`, with (True) or without the effect that was asked for.
WEATHER = ("fine", "lost", "silence", "unreachable", "killed before", "killed after")


class RegistryModel:
    """Documents with a status, as a registry keeps them; each call meets the next weather of `ahead`, then `fine`.

    A weather is one of `WEATHER` or an error code of `ERROR_KINDS`.
    """

    def __init__(self) -> None:
        self.documents: dict[str, Held] = {}
        self.sets: set[str] = set()
        self.ahead: list[str] = []
        self.calls = 0

    def approved(self, study: str) -> list[Held]:
        return [one for one in self.documents.values() if (one.study, one.status) == (study, "Approved")]

    def publish(self, lot: FrozenLot) -> Any:
        return self._exchange(lambda: self._register(lot))

    def withdraw(self, withdrawal: FrozenWithdrawal) -> Any:
        return self._exchange(lambda: self._delete(withdrawal))

    def find(self, unique_id: str, identity: Any) -> Any:
        return self._exchange(lambda: self._found(unique_id, identity.patient))

    def _exchange(self, act: Callable[[], Any]) -> Any:
        self.calls += 1
        weather = self.ahead.pop(0) if self.ahead else "fine"
        exchange = Exchange(f"urn:uuid:{self.calls}", 200, "", f"<answer n='{self.calls}'/>".encode())
        if weather in ERROR_KINDS:
            return _refusal(exchange, weather)
        if weather == "unreachable":
            return NotSent(exchange, "nobody listens")
        if weather == "killed before":
            raise Killed
        answer = act() if weather in ("fine", "lost", "killed after") else None
        if weather == "killed after":
            raise Killed
        if weather in ("lost", "silence"):
            return NoAnswer(exchange, "nothing heard")
        return _refusal(exchange, answer) if isinstance(answer, str) else replace(answer, exchange=exchange)

    def _register(self, lot: FrozenLot) -> Any:
        target = self._target(lot.submit_objects_request)
        wrong = self._wrong(lot.submission_set_uid, lot.patient.cx, target)
        if wrong or lot.kos_uid in self.documents:
            return wrong or "XDSDuplicateUniqueIdInRegistry"
        if target:
            self._entry(target).status = "Deprecated"
        kos = pydicom.dcmread(io.BytesIO(lot.kos))
        self.sets.add(lot.submission_set_uid)
        entry, study = f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, lot.kos_uid)}", str(kos.StudyInstanceUID)
        self.documents[lot.kos_uid] = Held(lot.kos_uid, entry, study, lot.patient.cx, listed_in(kos))
        return Registered(Exchange(""))

    def _delete(self, withdrawal: FrozenWithdrawal) -> Any:
        wrong = self._wrong(withdrawal.submission_set_uid, withdrawal.patient.cx, withdrawal.entry_uuid)
        if wrong:
            return wrong
        self.sets.add(withdrawal.submission_set_uid)
        self._entry(withdrawal.entry_uuid).status = "Deleted"
        return Registered(Exchange(""))

    def _found(self, unique_id: str, patient: str) -> Any:
        held = self.documents.get(unique_id)
        if held is None or held.patient != patient:
            return NotFound(Exchange(""))
        entry = DocumentEntry(held.entry_uuid, "", unique_id, patient, status=_STATUS[held.status])
        return Found(Exchange(""), (entry,))

    def _wrong(self, submission_set: str, patient: str, target: str) -> str:
        if submission_set in self.sets:
            return "XDSDuplicateUniqueIdInRegistry"
        if not target:
            return ""
        held = self._entry(target)
        if held is None:
            return "UnresolvedReferenceException"
        if held.patient != patient:
            return "XDSPatientIdDoesNotMatch"
        return "" if held.status == "Approved" else "XDSRegistryDeprecatedDocumentError"

    def _entry(self, entry_uuid: str) -> Any:
        return next((one for one in self.documents.values() if one.entry_uuid == entry_uuid), None)

    @staticmethod
    def _target(request: bytes) -> str:
        if not _RPLC.search(request):
            return ""
        found = _TARGET.findall(request)
        assert len(found) == 1
        return str(found[0].decode())


def _refusal(exchange: Exchange, code: str) -> Refused:
    return Refused(exchange, (RegistryError(code, "said the registry"),), ERROR_KINDS[code])


def listed_in(kos: Dataset) -> set[str]:
    """The SOP Instance UIDs that a manifest names."""
    (study,) = kos.CurrentRequestedProcedureEvidenceSequence
    return {
        str(one.ReferencedSOPInstanceUID)
        for series in study.ReferencedSeriesSequence
        for one in series.ReferencedSOPSequence
    }


# --- the inside of an appliance


class Clock:
    """A clock that tests move. `start` None: it goes on from the real time."""

    def __init__(self, start: datetime | None = None) -> None:
        self._start, self._offset = start, timedelta()

    def __call__(self) -> datetime:
        return (self._start or datetime.now(UTC)) + self._offset

    def move(self, seconds: float) -> None:
        self._offset += timedelta(seconds=seconds)


class Inside:
    """The parts of an appliance as `bootstrap` makes them, without processes, on a clock that tests move."""

    def __init__(self, settings: Settings, root: Path, clock: Clock, migrated: Path, dmp: Any = None) -> None:
        root.mkdir(parents=True, exist_ok=True)
        shutil.copy(migrated, root / "drimbox.sqlite")
        storage = settings.storage.model_copy(update={"root": root / "storage", "minimum_free_bytes": 0})
        database = settings.database.model_copy(
            update={"url": f"sqlite:///{root / 'drimbox.sqlite'}", "busy_timeout": 0.3}
        )
        settings = settings.model_copy(update={"storage": storage, "database": database})
        self.root, self.clock = root, clock
        self.foundation = lay_foundation(settings)
        self.transactions, self.documents = self.foundation.transactions, self.foundation.documents
        self.reception = make_reception(self.foundation)
        self.reconciling = replace(make_reconciling(self.foundation), clock=clock)
        self.load_worker(dmp)

    def load_worker(self, dmp: Any = None) -> None:
        """What a worker does at its start; also after it was killed."""
        made = make_publishing(replace(self.foundation, held=[]))  # one that has read no key yet
        door = dmp or replace(made.dmp, clock=self.clock)
        settling = replace(made.settling, chance=lambda: 0.0)
        self.publishing = replace(
            made, clock=self.clock, dmp=door, settling=settling, may_publish=lambda: True
        )
        self.publishing.expire_leases_of_this_node()

    def close(self) -> None:
        self.foundation.archive.close()
        self.foundation.database.close()

    def store(self, dataset: Dataset) -> str:
        """As the DICOM door does; returns the SOP Instance UID."""
        sop, part10 = str(dataset.SOPInstanceUID), io.BytesIO()
        dataset.save_as(part10, enforce_file_format=True)
        data_set = data_set_of(part10.getvalue())
        syntax, archive = str(dataset.file_meta.TransferSyntaxUID), self.foundation.archive
        header = read_header(data_set, syntax, str(dataset.SOPClassUID), sop)
        with archive.writer() as writer:
            receive_instance(
                self.foundation.commits, writer.take(header, data_set), now=self.clock(), actor="pacs:test",
                settle_after=self.foundation.settings.policy.settle_after,
            )  # fmt: skip
        return sop

    def say(self, message: bytes) -> bytes:
        """An HL7v2 message; its acknowledgement."""
        return self.reception.message(Arrival(message, "mllp", "test", self.clock())) or b""

    def work(self, rounds: int = 12) -> None:
        """Both halves of the worker, until nothing is due; killed, it starts again."""
        for _ in range(rounds):
            try:
                if not self.reconciling.run_due() + self.publishing.run_due():
                    return
            except Killed:
                self.publishing.expire_leases_of_this_node()

    def exam(self, study: str) -> dict[str, Any]:
        return exams.show_exam(self.transactions, self.documents, study, "Europe/Paris")

    def release(self, study: str) -> bool:
        try:
            exams.release_exam(self.transactions, study, now=self.clock(), actor="operator")
        except (exams.NothingToRelease, exams.UnknownExam):
            return False
        return True

    def known(self, study: str) -> bool:
        with self.transactions.reading() as transaction:
            return transaction.ledger.exam(study) is not None


def data_set_of(part10: bytes) -> bytes:
    """What follows the file meta information."""
    return part10[144 + int.from_bytes(part10[140:144], "little") :]


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """The configuration that the simulators write, with certificates in force; nobody listens."""
    directory = tmp_path_factory.mktemp("settings")
    pki = kept_pki(directory / "pki")
    return parse_settings(drimbox_toml(directory, assign_ports(None), pki))


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database of the newest revision, to be copied."""
    path = tmp_path_factory.mktemp("migrated") / "drimbox.sqlite"
    database = Database(f"sqlite:///{path}")
    database.migrate()
    database.close()
    return path


@pytest.fixture
def quick_path() -> Iterator[Path]:
    """A directory in memory where there is one: nothing here is about what a disk keeps, and syncing takes time."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as directory:
        yield Path(directory)


@pytest.fixture
def make_inside(settings: Settings, migrated: Path, quick_path: Path) -> Iterator[Callable[..., Inside]]:
    """`make_inside(root=, clock=, dmp=, settings=)`: closed with the test."""
    made: list[Inside] = []

    def make(**options: Any) -> Inside:
        root = options.pop("root", quick_path / f"inside{len(made)}")
        clock = options.pop("clock", None) or Clock()
        inside = Inside(options.pop("settings", settings), root, clock, migrated, **options)
        made.append(inside)
        return inside

    yield make
    for inside in made:
        inside.close()


# --- what must hold at the end


def check_history(events: list[dict[str, Any]]) -> None:
    """The trace of an exam is a true history: states follow each other, and nothing is registered unsent."""
    for name, chain in _chains(events).items():
        for before, after in pairwise(chain):
            assert after["from"] == before["to"], (name, before, after)
        if name[0] == "study":
            assert chain[0]["from"] == "RECEIVING", chain[0]
        if name[0] == "submission":
            sent = [event["event"] for event in chain]
            assert chain[0]["from"] == "PREPARED", (name, chain[0])
            for place, event in enumerate(sent):
                assert event not in ("REGISTERED", "FOUND") or "CLAIMED" in sent[:place], (name, sent)
    prepared = [e["detail"]["submission"] for e in events if e["event"] == "PREPARED"]
    assert len(prepared) == len(set(prepared))
    moved = {name[1] for name in _chains(events) if name[0] == "submission"}
    assert moved <= set(prepared)


def _chains(events: list[dict[str, Any]]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    chains: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for event in events:
        if event["to"] is None:
            continue
        if event["event"].startswith("REPORT_"):
            name = ("report", event["detail"]["document"])
        elif "submission" in event["detail"]:
            name = ("submission", event["detail"]["submission"])
        else:
            name = ("study", "")
        chains.setdefault(name, []).append(event)
    return chains


def check_ledger(foundation: Any, study: str, at_dmp: Mapping[str, tuple[str, str]]) -> None:
    """Ledger and DMP agree. `at_dmp`: uniqueId of each manifest of the study -> (INS, status there)."""
    with foundation.transactions.reading() as transaction:
        lots = transaction.ledger.submissions_of(study)
        exam = transaction.ledger.exam(study)
    ours = {
        lot.kos_uid: (lot.patient_ins, AT_DMP[lot.state])
        for lot in lots
        if lot.kind != "unpublish" and lot.state in AT_DMP
    }
    assert ours == dict(at_dmp)
    unfinished = [(lot.kind, lot.state) for lot in lots if lot.state not in (*AT_DMP, "DROPPED")]
    assert unfinished == []
    events = exams.trace_exam(foundation.transactions, study)
    check_history(events)
    ends = {name[1]: chain[-1]["to"] for name, chain in _chains(events).items() if name[0] == "submission"}
    assert ends == {lot.id: lot.state for lot in lots if lot.state != "PREPARED"}
    studies = _chains(events).get(("study", ""))
    assert exam.state == (studies[-1]["to"] if studies else "RECEIVING")


@pytest.fixture(scope="session")
def rules() -> Any:
    """The names of this file that the tests use: `conftest` cannot be imported."""
    return Rules


class Rules:
    """See `rules`."""

    Expected, Held, RegistryModel, Killed, Clock, Inside = (
        Expected,
        Held,
        RegistryModel,
        Killed,
        Clock,
        Inside,
    )
    WEATHER, OTHER_INS = WEATHER, OTHER_INS
    check_history, check_ledger = staticmethod(check_history), staticmethod(check_ledger)
    listed_in, data_set_of = staticmethod(listed_in), staticmethod(data_set_of)
