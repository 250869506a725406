"""Storage commitment on real stores and real associations: pynetdicom and Orthanc ask, and are answered both ways."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
from pydicom import Dataset, dcmwrite
from pynetdicom import AE, build_context, evt
from pynetdicom.sop_class import StorageCommitmentPushModel, Verification

from dicom_store.admission import SERVICE_SYNTAXES
from dicom_store.commitment import (
    SOP_CLASS,
    SOP_INSTANCE,
    Asked,
    CommitmentRequest,
    CommitmentResult,
    Reason,
)
from dicom_store.scp import DicomDoor
from drimbox.adapters.event_reports import EventReports
from drimbox.domain.errors import Unavailable
from drimbox.entrypoints.commitments import CommitmentDesk, make_committing
from drimbox.entrypoints.intake import InstanceIntake
from drimbox.flow.commit_storage import LEASE, PATIENCE, CommittingStorage, NotDelivered
from drimbox.flow.records import Commitment
from drimbox.simulators.still_reactor import still_reactor
from fixtures.images import study_datasets
from fixtures.kept_images import KeptImages, exam
from fixtures.notes import note_dataset

CT = "1.2.840.10008.5.1.4.1.1.2"
TRANSACTION = "1.2.250.1.999.7.1"
NOW = datetime(2026, 10, 1, 12, 0, tzinfo=UTC)
PATIENCE_SECONDS = 20.0


def eventually(condition: Callable[[], Any], seconds: float = PATIENCE_SECONDS) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)
    return found


class Listener:
    """Somebody who takes reports: a storage commitment SCU on a port of its own. `status`: what it answers."""

    def __init__(self, status: int = 0x0000) -> None:
        self.status = status
        self.heard: list[tuple[int, Dataset]] = []
        self.roles: list[Any] = []
        entity = AE("CT1")
        entity.add_supported_context(
            StorageCommitmentPushModel, SERVICE_SYNTAXES, scu_role=False, scp_role=True
        )
        self.server = entity.start_server(
            ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_N_EVENT_REPORT, self.on_report)]
        )

    def on_report(self, event: Any) -> tuple[int, None]:
        information = event.event_information
        information.decode()
        self.heard.append((event.event_type, information))
        return self.status, None

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.server.server_address[:2]
        return str(host), int(port)

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def listener() -> Iterator[Listener]:
    made = Listener()
    yield made
    made.close()


class Recorder:
    """A door of reports without a network."""

    def __init__(self) -> None:
        self.delivered: list[CommitmentResult] = []
        self.trouble: Exception | None = None

    def deliver(self, address: tuple[str, int], ae_title: str, result: CommitmentResult) -> None:
        if self.trouble is not None:
            raise self.trouble
        self.delivered.append(result)


class Box(KeptImages):
    """The stores, and the flow with a clock of ours."""

    def __init__(self, root: Path, url: str = "") -> None:
        super().__init__(root, url)
        self.now = NOW
        self.door = Recorder()
        self.said: list[str] = []
        self.peers: dict[str, tuple[str, int]] = {"CT1": ("192.0.2.7", 104)}
        made = make_committing(self.foundation, self.peers, "worker:test")
        self.committing: CommittingStorage = replace(
            made, door=self.door, clock=lambda: self.now, chance=lambda: 0.0, log=self.say, alarm=self.say
        )

    def say(self, event: str, **_: Any) -> None:
        self.said.append(event)

    def later(self, delay: timedelta) -> None:
        self.now += delay

    def asked(self, study: str) -> tuple[Asked, ...]:
        return tuple(Asked(one.sop_class_uid, one.sop_instance_uid) for one in self.records(study))

    def ask(self, *asked: Asked, transaction: str = TRANSACTION, ae: str = "CT1") -> tuple[str, datetime]:
        return self.committing.receive(CommitmentRequest(transaction, asked), ae, "192.0.2.7")

    def row(self, commitment_id: str) -> Commitment:
        with self.foundation.transactions.reading() as transaction:
            found = transaction.storage.commitment(commitment_id)
            assert found is not None
            return found

    def work(self) -> int:
        return self.committing.run_due()


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    made = Box(tmp_path / "box")
    yield made
    made.close()


@pytest.fixture
def on_each_engine(tmp_path: Path, newest_url: str) -> Iterator[Box]:
    made = Box(tmp_path / "box", newest_url)
    yield made
    made.close()


# --- judged on disk ----------------------------------------------------------------------------------------


def test_what_is_kept_is_committed(on_each_engine: Box) -> None:
    box = on_each_engine
    study = box.store_exam().study_instance_uid
    asked = box.asked(study)
    row, _ = box.ask(*asked)
    assert box.work() == 0, "whoever received it answers it first"
    box.later(LEASE)
    assert box.work() == 1
    (result,) = box.door.delivered
    assert (result.transaction_uid, result.event_type) == (TRANSACTION, 1)
    assert result.judged == tuple((one, Reason.COMMITTED) for one in asked)
    kept = box.row(row)
    assert (kept.delivered_at, kept.due_at, kept.asked) == (box.now, None, [])
    assert box.work() == 0
    events = box.trace("COMMITMENT_ASKED", "COMMITMENT_JUDGED", "COMMITMENT_REPORTED")
    assert [one.event for one in events] == ["COMMITMENT_ASKED", "COMMITMENT_JUDGED", "COMMITMENT_REPORTED"]
    assert (events[0].actor, events[0].detail["count"]) == ("pacs:CT1@192.0.2.7", 4)
    assert (events[1].study_instance_uid, events[1].detail["committed"]) == (study, 4)


def test_each_failure_has_its_reason(box: Box) -> None:
    spec = box.store_exam(instances=6)
    study = spec.study_instance_uid
    box.store([note_dataset(spec, "113001", [(1, 1)])])
    by_number = [Asked(CT, str(one.SOPInstanceUID)) for one in study_datasets(spec)]
    rejected, spoilt, cut, wrong, good, _ = by_number
    records = {one.sop_instance_uid: one for one in box.records(study)}
    path = box.segments / records[spoilt.sop_instance_uid].segment
    with path.open("r+b") as file:
        file.seek(records[spoilt.sop_instance_uid].offset + 300)
        file.write(b"\xde\xad\xbe\xef")
    with path.open("r+b") as file:
        file.seek(records[cut.sop_instance_uid].start)
        file.write(b"XXXX")
    unknown = Asked(CT, "1.2.9.9")
    box.ask(rejected, spoilt, cut, Asked("1.2.840.10008.5.1.4.1.1.4", wrong.sop_instance_uid), good, unknown)
    box.later(LEASE)
    box.work()
    (result,) = box.door.delivered
    assert result.event_type == 2
    assert [reason for _, reason in result.judged] == [
        Reason.NO_SUCH_INSTANCE,
        Reason.PROCESSING_FAILURE,
        Reason.PROCESSING_FAILURE,
        Reason.CLASS_INSTANCE_CONFLICT,
        Reason.COMMITTED,
        Reason.NO_SUCH_INSTANCE,
    ]
    (damage,) = box.trace("STORAGE_DAMAGED")
    assert set(damage.detail["instances"]) == {spoilt.sop_instance_uid, cut.sop_instance_uid}
    assert "storage_damaged" in box.said
    judged = box.trace("COMMITMENT_JUDGED")
    assert {one.study_instance_uid: one.detail["failed"] for one in judged} == {study: 4, None: 1}


def test_forgotten_instances_are_not_committed(box: Box) -> None:
    study = box.store_exam().study_instance_uid
    asked = box.asked(study)
    with box.foundation.transactions.writing() as transaction:
        transaction.storage.forget(study)
        transaction.commit()
    box.ask(*asked)
    box.later(LEASE)
    box.work()
    assert {reason for _, reason in box.door.delivered[0].judged} == {Reason.NO_SUCH_INSTANCE}


def test_a_disk_that_cannot_be_read_commits_nothing(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    study = box.store_exam().study_instance_uid
    box.ask(*box.asked(study))
    box.later(LEASE)

    def fail(*_: object) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "pread", fail)
    box.work()
    assert {reason for _, reason in box.door.delivered[0].judged} == {Reason.PROCESSING_FAILURE}


# --- asked again -------------------------------------------------------------------------------------------


def test_the_same_question_again_is_answered_again(on_each_engine: Box) -> None:
    box = on_each_engine
    asked = box.asked(box.store_exam().study_instance_uid)
    first, _ = box.ask(*asked)
    box.later(LEASE)
    box.work()
    again, _ = box.ask(*reversed(asked))
    assert again == first
    box.later(LEASE)
    box.work()
    assert [one.event_type for one in box.door.delivered] == [1, 1]


@pytest.mark.parametrize("ae", ["CT1", "MR1"])
def test_a_transaction_uid_that_is_in_use_is_a_duplicate(box: Box, ae: str) -> None:
    box.peers["MR1"] = ("192.0.2.8", 104)
    asked = box.asked(box.store_exam().study_instance_uid)
    box.ask(*asked)
    others = asked[:2] if ae == "CT1" else asked
    duplicate, _ = box.ask(*others, ae=ae)
    box.later(LEASE)
    box.work()
    results = {len(one.judged): {why for _, why in one.judged} for one in box.door.delivered}
    verdicts = [{why for _, why in one.judged} for one in box.door.delivered]
    assert {Reason.DUPLICATE_TRANSACTION} in verdicts
    assert {Reason.COMMITTED} in verdicts
    assert results[len(asked)] is not None
    assert box.ask(*others, ae=ae)[0] == duplicate
    box.later(LEASE)
    box.work()
    assert {why for _, why in box.door.delivered[-1].judged} == {Reason.DUPLICATE_TRANSACTION}


# --- delivered, sooner or later ----------------------------------------------------------------------------


def test_an_answer_that_is_not_taken_is_offered_again_without_a_new_look(box: Box) -> None:
    asked = box.asked(box.store_exam().study_instance_uid)
    row, _ = box.ask(*asked)
    box.door.trouble = NotDelivered("no association with the peer")
    box.later(LEASE)
    for expected in (1, 2, 3):
        box.work()
        kept = box.row(row)
        assert (kept.attempts, kept.last_error, kept.delivered_at) == (
            expected,
            "no association with the peer",
            None,
        )
        assert kept.due_at is not None
        assert kept.due_at > box.now
        box.now = kept.due_at
    shutil.rmtree(box.segments)  # what was judged stays judged
    box.door.trouble = None
    box.work()
    assert box.door.delivered[0].event_type == 1
    assert len(box.trace("COMMITMENT_JUDGED")) == 1


def test_patience_has_an_end(box: Box) -> None:
    row, _ = box.ask(*box.asked(box.store_exam().study_instance_uid))
    box.door.trouble = NotDelivered("the peer rejected the association")
    box.later(PATIENCE)
    box.work()
    assert (box.row(row).given_up_at, box.row(row).due_at) == (box.now, None)
    (given_up,) = box.trace("COMMITMENT_GIVEN_UP")
    assert given_up.detail["reason"] == "the peer rejected the association"


def test_without_an_address_only_the_same_association_will_do(box: Box) -> None:
    box.peers.clear()
    asked = box.asked(box.store_exam().study_instance_uid)
    row, held = box.ask(*asked)
    taken: list[CommitmentResult] = []
    box.committing.run(row, held, lambda result: taken.append(result) is None)
    assert taken[0].event_type == 1
    assert box.door.delivered == []
    other, held = box.ask(*asked, transaction="1.2.3.77")
    box.committing.run(other, held, lambda _: False)
    assert "dicom.peers" in str(box.row(other).last_error)
    assert box.row(other).given_up_at == box.now


def test_who_lost_the_claim_says_nothing(box: Box) -> None:
    row, held = box.ask(*box.asked(box.store_exam().study_instance_uid))
    box.later(LEASE)
    assert box.work() == 1
    box.committing.run(row, held, lambda _: pytest.fail("it was answered already"))
    assert len(box.door.delivered) == 1


def test_a_defect_holds_up_nobody(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = box.asked(box.store_exam().study_instance_uid)
    bad, _ = box.ask(*asked, transaction="1.2.3.1")
    box.later(timedelta(seconds=1))
    good, _ = box.ask(*asked, transaction="1.2.3.2")
    box.later(LEASE)
    real = Recorder.deliver

    def deliver(self: Recorder, address: Any, ae_title: str, result: CommitmentResult) -> None:
        if result.transaction_uid == "1.2.3.1":
            raise RuntimeError("a bug")
        real(self, address, ae_title, result)

    monkeypatch.setattr(Recorder, "deliver", deliver)
    assert box.work() == 2
    assert box.row(good).delivered_at is not None
    assert box.row(bad).last_error == "a defect of the appliance: RuntimeError"
    assert "commitment_failed" in box.said


# --- on real associations ----------------------------------------------------------------------------------


def test_on_an_association_of_ours(box: Box, listener: Listener) -> None:
    asked = box.asked(box.store_exam().study_instance_uid)
    result = CommitmentResult(
        TRANSACTION, ((asked[0], Reason.COMMITTED), (asked[1], Reason.NO_SUCH_INSTANCE))
    )
    EventReports("DRIMBOX", 5).deliver(listener.address, "CT1", result)
    ((event_type, information),) = listener.heard
    assert event_type == 2
    assert (information.TransactionUID, information.RetrieveAETitle) == (TRANSACTION, "DRIMBOX")
    assert information.FailedSOPSequence[0].FailureReason == 0x0112
    assert information.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == asked[0].sop_instance_uid


def test_a_peer_that_refuses_the_report(listener: Listener) -> None:
    listener.status = 0x0110
    with pytest.raises(NotDelivered, match="0110"):
        EventReports("DRIMBOX", 5).deliver(
            listener.address, "CT1", CommitmentResult("1.2", ((Asked(CT, "1.2.3"), Reason.COMMITTED),))
        )


# pynetdicom leaves the socket of a connection that was refused to the garbage collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_peer_that_is_away_or_takes_no_reports(free_port: Callable[[], int]) -> None:
    result = CommitmentResult("1.2", ((Asked(CT, "1.2.3"), Reason.COMMITTED),))
    with pytest.raises(NotDelivered, match="no association"):
        EventReports("DRIMBOX", 2).deliver(("127.0.0.1", free_port()), "CT1", result)
    entity = AE("CT1")
    entity.add_supported_context(Verification)
    server = entity.start_server(("127.0.0.1", 0), block=False)
    with pytest.raises(NotDelivered):
        EventReports("DRIMBOX", 2).deliver(server.server_address[:2], "CT1", result)
    server.shutdown()
    server.server_close()


@pytest.fixture(params=["own", "reference"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@contextmanager
def opened_door(box: Box, desk: CommitmentDesk, engine: str) -> Iterator[int]:
    """The DICOM door with the service; its port."""
    door = DicomDoor(
        "127.0.0.1",
        0,
        "DRIMBOX",
        ["CT1"],
        max_associations=4,
        idle_timeout=20.0,
        max_instance_bytes=10_000_000,
        open_sink=lambda peer: InstanceIntake(box.foundation, f"pacs:{peer.ae_title}@{peer.address}"),
        services={SOP_CLASS: desk},
        engine="own" if engine == "own" else "reference",
    )
    desk.start()
    door.start()
    try:
        yield door.port
    finally:
        door.stop(grace=1.0)
        desk.stop()


def real_desk(box: Box, peers: dict[str, tuple[str, int]]) -> CommitmentDesk:
    return CommitmentDesk(make_committing(box.foundation, peers, "dicom:test"), "DRIMBOX")


class Asking:
    """A storage commitment SCU that stays on its association."""

    def __init__(
        self,
        port: int,
        syntaxes: list[str] | None = None,
        *,
        storage: bool = False,
        one_context_each: bool = False,
    ) -> None:
        self.heard: list[tuple[int, Dataset]] = []
        entity = AE("CT1")
        entity.dimse_timeout = entity.acse_timeout = entity.network_timeout = 20
        offered = [build_context(StorageCommitmentPushModel, syntaxes or SERVICE_SYNTAXES)]
        if one_context_each:
            offered = [build_context(StorageCommitmentPushModel, one) for one in SERVICE_SYNTAXES]
        if storage:
            offered.append(build_context(CT))
        self.association = entity.associate(
            "127.0.0.1",
            port,
            offered,
            ae_title="DRIMBOX",
            evt_handlers=[(evt.EVT_N_EVENT_REPORT, self.on_report)],
        )
        assert self.association.is_established

    def on_report(self, event: Any) -> tuple[int, None]:
        information = event.event_information
        information.decode()
        self.heard.append((event.event_type, information))
        return 0x0000, None

    def ask(
        self, *asked: Asked, transaction: str = TRANSACTION, action: int = 1, instance: str = SOP_INSTANCE
    ) -> int:
        information = Dataset()
        information.TransactionUID = transaction
        information.ReferencedSOPSequence = [_item(one) for one in asked]
        with still_reactor(self.association):
            status, _ = self.association.send_n_action(information, action, SOP_CLASS, instance)
        return int(status.Status)


def _item(asked: Asked) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = asked.sop_class_uid, asked.sop_instance_uid
    return item


@pytest.mark.parametrize("syntax", SERVICE_SYNTAXES)
def test_the_answer_comes_on_the_association_that_asked(box: Box, syntax: str, engine: str) -> None:
    asked = box.asked(box.store_exam().study_instance_uid)
    with opened_door(box, real_desk(box, {}), engine) as port:
        scu = Asking(port, [syntax])
        assert scu.ask(*asked) == 0x0000
        eventually(lambda: scu.heard)
        assert scu.ask(Asked(CT, "1.2.9"), transaction="1.2.3.78") == 0x0000
        eventually(lambda: len(scu.heard) == 2)
        scu.association.release()
    (first, information), (second, failures) = scu.heard
    assert (first, second) == (1, 2)
    assert {one.ReferencedSOPInstanceUID for one in information.ReferencedSOPSequence} == {
        one.sop_instance_uid for one in asked
    }
    assert failures.FailedSOPSequence[0].FailureReason == 0x0112
    eventually(lambda: len(box.trace("COMMITMENT_REPORTED")) == 2)


def test_the_answer_follows_who_hung_up(
    box: Box, engine: str, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = box.asked(box.store_exam().study_instance_uid)
    desk = real_desk(box, {"CT1": listener.address})
    gone = threading.Event()
    real = CommittingStorage.run

    def wait_then_run(self: CommittingStorage, *given: Any) -> None:
        assert gone.wait(PATIENCE_SECONDS)
        real(self, *given)

    monkeypatch.setattr(CommittingStorage, "run", wait_then_run)
    with opened_door(box, desk, engine) as port:
        scu = Asking(port)
        assert scu.ask(*asked) == 0x0000
        scu.association.release()
        gone.set()
        eventually(lambda: listener.heard)
        eventually(lambda: box.trace("COMMITMENT_REPORTED"))
    assert listener.heard[0][0] == 1
    assert scu.heard == []


def test_requests_that_are_refused(box: Box, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    good = Asked(CT, "1.2.3")
    with opened_door(box, real_desk(box, {}), engine) as port:
        scu = Asking(port)
        assert scu.ask(good, action=2) == 0x0123
        assert scu.ask(good, instance="1.2.3") == 0x0112
        assert scu.ask() == 0x0115
        assert box.trace("COMMITMENT_ASKED") == []

        def away(*_: object) -> None:
            raise Unavailable("the disk is full")

        monkeypatch.setattr(CommittingStorage, "receive", away)
        assert scu.ask(good) == 0x0213, "success is answered after the commit, never before"

        def broken(*_: object) -> None:
            raise RuntimeError("a bug")

        monkeypatch.setattr(CommittingStorage, "receive", broken)
        assert scu.ask(good) == 0x0110
        scu.association.release()


_CHILD = """
import sys, time
from pathlib import Path
from dicom_store.commitment import Asked, CommitmentRequest
from drimbox.bootstrap import lay_foundation
from drimbox.entrypoints.commitments import make_committing
from drimbox.settings.whole import load_settings
foundation = lay_foundation(load_settings(Path(sys.argv[1])))
committing = make_committing(foundation, {}, "dicom:child")
asked = tuple(Asked(*one.split(" ")) for one in sys.argv[2:])
print(*committing.receive(CommitmentRequest("1.2.250.1.999.7.1", asked), "CT1", "192.0.2.7"), flush=True)
time.sleep(60)
"""


def test_a_request_that_was_answered_outlives_the_door(box: Box) -> None:
    asked = box.asked(box.store_exam().study_instance_uid)
    names = [f"{one.sop_class_uid} {one.sop_instance_uid}" for one in asked]
    command = [sys.executable, "-c", _CHILD, str(box.config), *names]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline()
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    box.now = datetime.now(UTC) + LEASE
    assert box.work() == 1
    assert box.door.delivered[0].event_type == 1


# --- Orthanc as SCU ----------------------------------------------------------------------------------------

ORTHANC = shutil.which("Orthanc")


@pytest.fixture
def orthanc(tmp_path: Path, free_port: Callable[[], int]) -> Iterator[Callable[[int], tuple[str, int]]]:
    """A function that starts Orthanc with us as a modality at a port: (URL, its DICOM port)."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(port: int) -> tuple[str, int]:
        http, dicom = free_port(), free_port()
        home = tmp_path / "orthanc"
        home.mkdir()
        settings = {
            "Name": "CT1", "DicomAet": "CT1", "DicomPort": dicom, "HttpPort": http, "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False, "StorageDirectory": str(home), "IndexDirectory": str(home),
            "DicomModalities": {"drimbox": ["DRIMBOX", "127.0.0.1", port]}, "Plugins": [], "DicomScuTimeout": 10,
        }  # fmt: skip
        (home / "orthanc.json").write_text(json.dumps(settings))
        processes.append(
            subprocess.Popen(
                [str(ORTHANC), str(home / "orthanc.json")],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )
        url = f"http://127.0.0.1:{http}"

        def is_up() -> bool:
            try:
                return requests.get(f"{url}/system", timeout=1).ok
            except requests.ConnectionError:
                return False

        eventually(is_up, 30)
        return url, dicom

    yield start
    for process in processes:
        process.terminate()
        process.wait(20)


def test_the_answer_comes_in_the_context_of_the_question(box: Box, engine: str) -> None:
    """Some senders propose a context for each transfer syntax."""
    asked = box.asked(box.store_exam().study_instance_uid)
    with opened_door(box, real_desk(box, {}), engine) as port:
        scu = Asking(port, one_context_each=True)
        assert len(scu.association.accepted_contexts) == len(SERVICE_SYNTAXES)
        assert scu.ask(*asked) == 0x0000
        eventually(lambda: scu.heard)
        scu.association.release()
    assert scu.heard[0][1].TransactionUID == TRANSACTION


def test_images_and_questions_take_turns_on_one_association(box: Box, engine: str) -> None:
    """Not beside each other: as SCU, pynetdicom takes a report that comes for the answer to its own C-STORE."""
    images = list(study_datasets(exam(instances=8)))
    with opened_door(box, real_desk(box, {}), engine) as port:
        scu = Asking(port, storage=True)
        for number, image in enumerate(images):
            with still_reactor(scu.association):
                assert scu.association.send_c_store(image, number + 1).Status == 0x0000
            one = Asked(CT, str(image.SOPInstanceUID))
            assert scu.ask(one, transaction=f"1.2.3.7.{number}") == 0x0000
            eventually(lambda: len(scu.heard) > number)  # noqa: B023
        scu.association.release()
    assert {event_type for event_type, _ in scu.heard} == {1}
    assert {str(one.TransactionUID) for _, one in scu.heard} == {f"1.2.3.7.{n}" for n in range(len(images))}


@pytest.mark.skipif(ORTHANC is None, reason="Orthanc is not installed")
def test_orthanc_asks_and_is_answered(
    box: Box, engine: str, orthanc: Callable[[int], tuple[str, int]], tmp_path: Path
) -> None:
    spec = box.store_exam(instances=3)
    peers: dict[str, tuple[str, int]] = {}
    with opened_door(box, real_desk(box, peers), engine) as port:
        url, dicom = orthanc(port)
        peers["CT1"] = ("127.0.0.1", dicom)
        kept = []
        for number, dataset in enumerate(study_datasets(spec)):
            path = tmp_path / f"{number}.dcm"
            dcmwrite(path, dataset, enforce_file_format=True)
            kept.append(requests.post(f"{url}/instances", data=path.read_bytes(), timeout=10).json()["ID"])

        def report_of(**body: Any) -> dict[str, Any]:
            asked = requests.post(f"{url}/modalities/drimbox/storage-commitment", json=body, timeout=20)
            assert asked.ok, asked.text
            place = f"{url}{asked.json()['Path']}"

            def answered() -> dict[str, Any] | None:
                found: dict[str, Any] = requests.get(place, timeout=5).json()
                return None if found["Status"] == "Pending" else found

            return dict(eventually(answered))

        success = report_of(Resources=kept)
        assert success["Status"] == "Success"
        assert len(success["Success"]) == 3
        stranger = {"SOPClassUID": CT, "SOPInstanceUID": "1.2.9.9"}
        failure = report_of(DicomInstances=[stranger])
        assert failure["Status"] == "Failure"
        assert [one["SOPInstanceUID"] for one in failure["Failures"]] == ["1.2.9.9"]
        eventually(lambda: len(box.trace("COMMITMENT_REPORTED")) == 2)
