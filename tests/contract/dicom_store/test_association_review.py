"""The DICOM door against peers that are odd, mute or many, and against faults of its own disk and files."""

from __future__ import annotations

import os
import resource
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from dicom_store.admission import Terms
from dicom_store.association import Association
from dicom_store.connections import Connections
from dicom_store.data_set_intake import SERVICE_BYTES
from dicom_store.scp import DicomDoor, stop_doors
from dicom_store.sink import Peer, ServiceAnswer, StoreCommand
from fixtures import raw_association as raw
from fixtures.raw_association import (
    COMMITMENT,
    DICOM,
    EXPLICIT,
    SECONDARY_CAPTURE,
    RawPeer,
    item,
    number,
    p_data,
    pdv,
)
from fixtures.sinks import Recorder, WholeArrival

OpenDoor = Callable[..., DicomDoor]
SOUND = raw.request()
UID = SECONDARY_CAPTURE.encode()
SECRET = "PAT^ONE"  # what an exception may quote


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def refused() -> list[str]:
    return []


@pytest.fixture
def open_door(recorder: Recorder, refused: list[str]) -> Iterator[OpenDoor]:
    doors: list[DicomDoor] = []

    def open_one(**changes: Any) -> DicomDoor:
        values: dict[str, Any] = {
            "max_associations": 6,
            "idle_timeout": 5.0,
            "max_instance_bytes": 10_000_000,
            "open_sink": recorder.open,
            "on_refused": lambda _peer, reason: refused.append(reason),
        }
        doors.append(DicomDoor("127.0.0.1", 0, "DRIMBOX", ["PACS"], **{**values, **changes}))
        doors[-1].start()
        return doors[-1]

    yield open_one
    for door in doors:
        door.stop(grace=0.1)


def eventually(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.005)


# --- negotiation -------------------------------------------------------------------------------------------

CONTEXT = struct.pack(">Bxxx", 1) + item(0x30, UID) + item(0x40, EXPLICIT.encode())
HEAD = SOUND[6:74] + item(0x10, DICOM.encode())
ROLE = struct.pack(">H", len(UID)) + UID
SKIPPED = {
    "an item of no known type": HEAD + item(0x20, CONTEXT) + raw.user_information() + item(0x60, b"new"),
    "one before the others": SOUND[6:74] + item(0x07, b"") + SOUND[74:],
    "a sub-item of a context": HEAD + item(0x20, CONTEXT + item(0x77, b"new")) + raw.user_information(),
    "a sub-item about the user": raw.request(information=raw.user_information(more=item(0x5F, b"new")))[6:],
    "an identity of another kind": raw.request(
        information=raw.user_information(more=item(0x58, b"\x09\0\0\2me\0\0"))
    )[6:],
    "the identity of an acceptor": raw.request(
        information=raw.user_information(more=item(0x59, b"\0\2ok"))
    )[6:],
    "a long version name": raw.request(information=raw.user_information(more=item(0x55, b"v" * 40)))[6:],
    "no implementation class": raw.request(
        information=item(0x50, item(0x51, struct.pack(">L", 16384)) + item(0x52, b"none"))
    )[6:],
    "neither of both roles": raw.request(
        information=raw.user_information(more=item(0x54, ROLE + b"\0\0"))
    )[6:],
}  # fmt: skip


@pytest.mark.parametrize("body", SKIPPED.values(), ids=SKIPPED)
def test_what_is_not_read_of_a_request_is_skipped(
    open_door: OpenDoor, refused: list[str], body: bytes
) -> None:
    """PS3.8 9.3.1: items of unrecognized types shall be ignored and skipped."""
    with RawPeer.connect(open_door().port) as peer:
        peer.send(raw.pdu(1, body))
        assert peer.receive()[0] == 2
        assert peer.store() == 0
        peer.release()
    assert refused == []


# --- faults of ours ----------------------------------------------------------------------------------------


class _Broken(dict[str, Any]):
    """Services that cannot be looked up."""

    def get(self, _key: object, _default: object = None) -> Any:
        raise RuntimeError(SECRET)


def test_a_failure_of_ours_is_an_abort_a_log_and_a_row(
    open_door: OpenDoor, refused: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    door = open_door(services=_Broken({"1.2.3": None}))
    find = raw.with_length(
        raw.ui(2, SECONDARY_CAPTURE) + raw.us(0x100, raw.C_FIND) + raw.us(0x110, 1) + raw.us(0x800, 0x0101)
    )
    with RawPeer.connect(door.port) as peer, RawPeer.connect(door.port) as other:
        peer.associate()
        other.associate()
        peer.send(p_data(pdv(1, 3, find)))
        assert peer.aborted() == (2, 0), "service provider, not specified"
        assert other.store() == 0
    eventually(lambda: refused == ["association aborted: a failure of the appliance"])
    assert "an association failed: RuntimeError" in caplog.text
    assert SECRET not in caplog.text


def test_a_sink_that_cannot_be_closed(
    open_door: OpenDoor, recorder: Recorder, refused: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise OSError(5, SECRET)

    recorder.close = fail  # type: ignore[method-assign]
    with RawPeer.connect(open_door().port) as peer:
        peer.associate()
        assert peer.store() == 0
        peer.send(p_data(pdv(9, 3, b"")))
        assert peer.aborted() == (2, 6)
    eventually(lambda: refused == ["association aborted: a presentation context that was not accepted"])
    assert "the end of an association failed: OSError" in caplog.text
    assert SECRET not in caplog.text


class _Stalling(WholeArrival):
    """A disk that stands still once, in the middle of an instance."""

    def more(self, piece: memoryview) -> None:
        if len(self.pieces) == 1:
            time.sleep(0.8)
        super().more(piece)


def test_a_slow_disk_slows_its_sender_and_aborts_nobody(
    open_door: OpenDoor, recorder: Recorder, refused: list[str]
) -> None:
    def begin(command: StoreCommand) -> WholeArrival:
        return _Stalling(recorder, command)

    recorder.begin = begin  # type: ignore[method-assign]
    data = bytes(range(256)) * 12_000
    with RawPeer.connect(open_door(idle_timeout=0.5).port) as peer:
        peer.associate()
        peer.send(*raw.message(1, raw.store_command(), data, 131_066))
        assert number(peer.answer(), 0x900) == 0
    assert [kept for _, kept in recorder.requests] == [data]
    assert refused == []


def test_without_descriptors_the_door_waits(open_door: OpenDoor, caplog: pytest.LogCaptureFixture) -> None:
    door = open_door()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    waiting = socket.socket()
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        waiting.connect(("127.0.0.1", door.port))
        before = time.process_time()
        time.sleep(0.6)
        used = time.process_time() - before
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    with RawPeer(waiting) as peer:
        peer.associate()
        assert peer.echo() == 0
    assert used < 0.3, "it tried again and again"
    assert f"no connection can be taken: {os.strerror(24)}" in caplog.text


# --- TLS files ---------------------------------------------------------------------------------------------


def _no_context() -> ssl.SSLContext:
    raise ssl.SSLError(1, "[X509: KEY_VALUES_MISMATCH] key values mismatch")


@pytest.mark.parametrize("engine", ["own", "reference"])
def test_tls_files_that_cannot_be_used_open_no_door(open_door: OpenDoor, engine: str) -> None:
    with pytest.raises(ssl.SSLError, match="key values mismatch"):
        open_door(tls=_no_context, engine=engine)


def test_tls_files_that_break_later_are_no_fault_of_the_peer(
    open_door: OpenDoor, refused: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    contexts = [lambda: ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), _no_context]
    door = open_door(tls=lambda: contexts.pop(0)() if len(contexts) > 1 else contexts[0]())
    with RawPeer.connect(door.port) as peer:
        assert peer.receive() == (0, b"")
    eventually(lambda: "our TLS files cannot be used, 127.0.0.1 was sent away: SSLError" in caplog.text)
    assert refused == []


# --- two doors of one appliance ----------------------------------------------------------------------------


def test_doors_that_share_their_limits_and_their_end(open_door: OpenDoor, refused: list[str]) -> None:
    shared = Connections(2, 0)
    doors = [open_door(connections=shared), open_door(connections=shared)]
    with (
        RawPeer.connect(doors[0].port) as first, RawPeer.connect(doors[1].port) as second,
        RawPeer.connect(doors[1].port) as third,
    ):  # fmt: skip
        first.associate()
        second.associate()
        third.send(raw.request())
        assert third.receive() == (3, bytes([0, 2, 3, 2]))
        eventually(lambda: refused == ["association rejected: too many associations"])
        third.connection.close()
        started = time.monotonic()
        stop_doors(doors, grace=0.7)
        assert time.monotonic() - started < 1.2, "one grace for both"
        assert first.aborted() == second.aborted() == (0, 0)


# --- the rare services -------------------------------------------------------------------------------------

CONTEXTS = {1: (SECONDARY_CAPTURE, (EXPLICIT,)), 7: (COMMITMENT, (EXPLICIT,))}
ACTION = raw.with_length(
    raw.ui(3, COMMITMENT) + raw.us(0x100, raw.N_ACTION) + raw.us(0x110, 8) + raw.us(0x800, 1)
    + raw.ui(0x1001, "1.2.840.10008.1.20.1.1") + raw.us(0x1008, 1)
)  # fmt: skip


class _Service:
    """Says yes."""

    def __init__(self) -> None:
        self.associations: list[Any] = []

    def handle(
        self, _command: Any, _data_set: bytes, _transfer_syntax: str, _peer: Peer, association: Any
    ) -> ServiceAnswer:
        self.associations.append(association)
        return ServiceAnswer(0, {})


def _ask(peer: RawPeer) -> int:
    peer.send(*raw.message(7, ACTION, b"what"))
    return number(peer.answer(), 0x900)


def test_what_the_rare_services_hold_is_bounded_for_all(open_door: OpenDoor) -> None:
    door = open_door(services={COMMITMENT: _Service()})
    greedy = [RawPeer.connect(door.port) for _ in range(4)]
    piece = p_data(pdv(7, 0, bytes(SERVICE_BYTES // 128)))
    with RawPeer.connect(door.port) as peer:
        peer.associate(CONTEXTS)
        assert _ask(peer) == 0
        for one in greedy:
            one.associate(CONTEXTS)
            one.send(p_data(pdv(7, 3, ACTION)), piece * 128)
        eventually(lambda: _ask(peer) == 0x0213)
        assert peer.store() == 0, "images are not held up"
        greedy[0].send(p_data(pdv(7, 2, b"")))
        assert number(greedy[0].answer(), 0x900) == 0
        for one in greedy:
            one.connection.close()
        eventually(lambda: _ask(peer) == 0)


def test_who_leaves_a_report_unanswered_is_waited_for_once(open_door: OpenDoor) -> None:
    service = _Service()
    door = open_door(services={COMMITMENT: service}, idle_timeout=0.6)
    report = (COMMITMENT, "1.2.840.10008.1.20.1.1", 1, b"result")
    with RawPeer.connect(door.port) as peer:
        peer.associate(CONTEXTS)
        assert _ask(peer) == 0
        (association,) = service.associations
        answers: list[bool] = []
        thread = threading.Thread(target=lambda: answers.append(association.report(*report)))
        thread.start()
        command = raw.elements(_command_of(peer))
        while thread.is_alive():  # it is not idle, only mute
            assert peer.store() == 0
            time.sleep(0.05)
        started = time.monotonic()
        assert not association.report(*report)
        assert time.monotonic() - started < 0.2
        peer.send(*raw.message(7, _event_answer(number(command, 0x110)), None))
        assert peer.store() == 0
        thread = threading.Thread(target=lambda: answers.append(association.report(*report)))
        thread.start()
        command = raw.elements(_command_of(peer))
        peer.send(*raw.message(7, _event_answer(number(command, 0x110)), None))
        thread.join(5)
    assert answers == [False, True]


def _command_of(peer: RawPeer) -> bytes:
    """The command set of a report whose command and data set come in one PDV each."""
    (_, command), (_, _data_set) = peer.receive(), peer.receive()
    return command[6:]


def _event_answer(message_id: int) -> bytes:
    return raw.with_length(
        raw.ui(2, COMMITMENT) + raw.us(0x100, 0x8100) + raw.us(0x120, message_id) + raw.us(0x800, 0x0101)
        + raw.us(0x900, 0) + raw.ui(0x1000, "1.2.840.10008.1.20.1.1")
    )  # fmt: skip


# --- what is refused leaves a row --------------------------------------------------------------------------


def test_who_does_not_wait_for_its_refusal_is_told_of_all_the_same(recorder: Recorder) -> None:
    told: list[str] = []
    terms = Terms("DRIMBOX", frozenset(["PACS"]), 5.0, 5.0, 10_000, recorder.open)
    terms = replace(terms, on_refused=lambda _peer, reason: told.append(reason))
    ours, theirs = socket.socketpair()
    connections = Connections(1)
    assert connections.enter(ours, "192.0.2.1")
    association = Association(ours, connections.place(ours), connections, terms)
    thread = threading.Thread(target=association.run)
    thread.start()
    with ours, RawPeer(theirs) as peer:
        peer.associate()
        theirs.shutdown(socket.SHUT_RD)  # nobody reads the answer
        nameless = raw.store_command().replace(raw.ui(0x1000, "1.2.3"), raw.ui(0x1000, ""))
        peer.send(*raw.message(1, nameless, b"data"))
        thread.join(5)
    assert told == ["C-STORE without AffectedSOPInstanceUID"]
