"""A rare service on an association: N-ACTION answered, N-EVENT-REPORT sent by another thread when it is idle."""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from dicom_store.scp import DicomDoor
from dicom_store.sink import Association, Peer, ServiceAnswer
from fixtures import raw_association as raw
from fixtures.raw_association import COMMITMENT, EXPLICIT, IMPLICIT, SECONDARY_CAPTURE, RawPeer, number
from fixtures.sinks import Recorder

CONTEXTS = {1: (SECONDARY_CAPTURE, (EXPLICIT,)), 7: (COMMITMENT, (IMPLICIT, EXPLICIT))}
WELL_KNOWN = "1.2.840.10008.1.20.1.1"
ACTION = raw.with_length(
    raw.ui(3, COMMITMENT) + raw.us(0x100, raw.N_ACTION) + raw.us(0x110, 8) + raw.us(0x800, 1)
    + raw.ui(0x1001, WELL_KNOWN) + raw.us(0x1008, 1)
)  # fmt: skip
# TransactionUID, explicit VR little endian
INFORMATION = struct.pack("<HH2sH", 0x0008, 0x1195, b"UI", 6) + b"1.2.3\0"
Asked = tuple[Mapping[str, Any], bytes, str, Peer]


class Commitment:
    """Remembers what was asked, and the association that asked."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.associations: list[Association] = []
        self.answer: ServiceAnswer | Exception = ServiceAnswer(
            0, {"AffectedSOPClassUID": COMMITMENT, "AffectedSOPInstanceUID": WELL_KNOWN, "ActionTypeID": 1}
        )

    def handle(
        self,
        command: Mapping[str, Any],
        data_set: bytes,
        transfer_syntax: str,
        peer: Peer,
        association: Association,
    ) -> ServiceAnswer:
        self.asked.append((dict(command), data_set, transfer_syntax, peer))
        self.associations.append(association)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def report(self) -> tuple[threading.Thread, list[bool]]:
        """Begin to report success to the association that asked last."""
        results: list[bool] = []
        association = self.associations[-1]
        thread = threading.Thread(
            target=lambda: results.append(association.report(COMMITMENT, WELL_KNOWN, 1, INFORMATION))
        )
        thread.start()
        return thread, results


@pytest.fixture
def service() -> Commitment:
    return Commitment()


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def open_door(recorder: Recorder, service: Commitment) -> Iterator[Callable[..., DicomDoor]]:
    doors: list[DicomDoor] = []

    def open_one(**changes: Any) -> DicomDoor:
        values: dict[str, Any] = {"idle_timeout": 5.0, **changes}
        doors.append(
            DicomDoor("127.0.0.1", 0, "DRIMBOX", ["PACS"], max_associations=4, max_instance_bytes=10_000_000,
                      open_sink=recorder.open, services={COMMITMENT: service}, **values)
        )  # fmt: skip
        doors[-1].start()
        return doors[-1]

    yield open_one
    for door in doors:
        door.stop(grace=0.1)


@pytest.fixture(params=["own", "reference"])
def peer(open_door: Callable[..., DicomDoor], request: pytest.FixtureRequest) -> Iterator[RawPeer]:
    with RawPeer.connect(open_door(engine=request.param).port) as connected:
        connected.associate(CONTEXTS)
        yield connected


@pytest.fixture
def own(open_door: Callable[..., DicomDoor]) -> Iterator[RawPeer]:
    with RawPeer.connect(open_door().port) as connected:
        connected.associate(CONTEXTS)
        yield connected


def ask(peer: RawPeer, data: bytes = INFORMATION) -> dict[int, bytes]:
    peer.send(*raw.message(7, ACTION, data))
    return peer.answer()


def receive_report(peer: RawPeer) -> tuple[dict[int, bytes], bytes]:
    """Command set and data set of an N-EVENT-REPORT-RQ that came in one PDV each, or in one PDU."""
    parts: list[bytes] = []
    while len(parts) < 2:
        kind, body = peer.receive()
        assert kind == 4, (kind, body)
        while body:
            size, context, control = struct.unpack_from(">LBB", body)
            assert (context, control) == (7, 3 if not parts else 2)
            parts.append(body[6 : 4 + size])
            body = body[4 + size :]
    return raw.elements(parts[0]), parts[1]


def answer_report(peer: RawPeer, message_id: int, status: int = 0) -> None:
    body = raw.ui(2, COMMITMENT) + raw.us(0x100, 0x8100) + raw.us(0x120, message_id) + raw.us(0x800, 0x0101)
    peer.send(
        *raw.message(7, raw.with_length(body + raw.us(0x900, status) + raw.ui(0x1000, WELL_KNOWN)), None)
    )


def test_a_request_is_handed_to_its_service(peer: RawPeer, service: Commitment) -> None:
    answer = ask(peer)
    ((command, data_set, syntax, who),) = service.asked
    assert (data_set, syntax, who.ae_title, who.address) == (INFORMATION, EXPLICIT, "PACS", "127.0.0.1")
    assert (command["RequestedSOPInstanceUID"], command["ActionTypeID"]) == (WELL_KNOWN, 1)
    assert (number(answer, 0x900), number(answer, 0x100), number(answer, 0x120)) == (0, 0x8130, 8)
    assert answer[2].rstrip(b"\0").decode() == COMMITMENT
    assert number(answer, 0x1008) == 1


def test_a_service_that_fails_is_answered_and_logged(
    peer: RawPeer, service: Commitment, caplog: pytest.LogCaptureFixture
) -> None:
    service.answer = RuntimeError("PAT^ONE")
    assert number(ask(peer), 0x900) == 0x0110
    assert "PAT^ONE" not in caplog.text
    assert "failed: RuntimeError" in caplog.text
    assert peer.store() == 0


@pytest.mark.parametrize("status", [0, 0x0110])
def test_a_report_on_the_same_association(peer: RawPeer, service: Commitment, status: int) -> None:
    ask(peer)
    assert peer.store() == 0
    thread, results = service.report()
    command, data_set = receive_report(peer)
    assert (number(command, 0x100), number(command, 0x1002)) == (raw.N_EVENT, 1)
    assert (command[2].rstrip(b"\0").decode(), command[0x1000].rstrip(b"\0").decode()) == (
        COMMITMENT,
        WELL_KNOWN,
    )
    assert data_set == INFORMATION
    answer_report(peer, number(command, 0x110), status)
    thread.join(10)
    assert results == [status == 0]
    assert peer.store() == 0
    peer.release()


def test_a_report_and_a_store_that_cross(own: RawPeer, service: Commitment, recorder: Recorder) -> None:
    ask(own)
    for _ in range(20):
        thread, results = service.report()
        own.send(raw.store())
        statuses: list[int] = []
        reported = 0
        while not statuses or not reported:
            kind, body = own.receive()
            assert kind == 4
            command = raw.elements(body[6:]) if body[5] & 1 else {}
            if command and number(command, 0x100) == raw.N_EVENT:
                reported = number(command, 0x110)
                answer_report(own, reported)
            elif command:
                statuses.append(number(command, 0x900))
        thread.join(10)
        assert (statuses, results) == ([0], [True])
    assert len(recorder.requests) == 20


def test_a_report_waits_for_the_instance_at_hand(
    own: RawPeer, service: Commitment, recorder: Recorder
) -> None:
    ask(own)
    first, *rest = raw.message(1, raw.store_command(), bytes(100_000))
    own.send(first)
    deadline = time.monotonic() + 10
    while not recorder.arrivals and time.monotonic() < deadline:
        time.sleep(0.005)
    thread, results = service.report()
    time.sleep(0.05)
    own.send(*rest)
    assert number(own.answer(), 0x900) == 0, "before the report"
    command, _ = receive_report(own)
    answer_report(own, number(command, 0x110))
    thread.join(10)
    assert results == [True]


def test_reports_that_come_too_late(own: RawPeer, service: Commitment) -> None:
    ask(own)
    own.release()
    own.connection.close()
    deadline = time.monotonic() + 5
    while service.associations[0].report(COMMITMENT, WELL_KNOWN, 1, INFORMATION):
        assert time.monotonic() < deadline
    assert not service.associations[0].report("1.2.3", WELL_KNOWN, 1, INFORMATION), "no such context"


def test_a_report_that_is_never_answered(open_door: Callable[..., DicomDoor], service: Commitment) -> None:
    with RawPeer.connect(open_door(idle_timeout=0.5).port) as peer:
        peer.associate(CONTEXTS)
        ask(peer)
        started = time.monotonic()
        thread, results = service.report()
        receive_report(peer)
        thread.join(10)
        assert results == [False]
        assert time.monotonic() - started < 3


def test_the_peer_goes_before_it_answers(own: RawPeer, service: Commitment) -> None:
    ask(own)
    thread, results = service.report()
    receive_report(own)
    own.send(raw.abort())
    thread.join(4)
    assert results == [False], "well before the timeout"


def test_an_answer_that_nobody_waits_for_is_ignored(own: RawPeer) -> None:
    answer_report(own, 99)
    assert own.store() == 0


def test_another_sop_class_or_a_long_data_set(own: RawPeer, service: Commitment) -> None:
    other = ACTION.replace(
        COMMITMENT.encode() + b"\0" * (len(COMMITMENT) % 2), b"1.2.840.10008.1.20.2".ljust(20, b"\0"), 1
    )
    own.send(*raw.message(7, other, INFORMATION))
    assert number(own.answer(), 0x900) == 0x0122
    own.send(raw.p_data(raw.pdv(7, 3, ACTION)))
    piece = raw.p_data(raw.pdv(7, 0, bytes(131_000)))
    with pytest.raises((OSError, AssertionError)):
        for _ in range(140):  # 18 MB
            own.connection.sendall(piece)
        assert own.answer() == {}
    assert service.asked == []


def test_the_service_is_not_offered_where_there_is_none(recorder: Recorder) -> None:
    door = DicomDoor("127.0.0.1", 0, "DRIMBOX", ["PACS"], max_associations=1, idle_timeout=5,
                     max_instance_bytes=1000, open_sink=recorder.open)  # fmt: skip
    door.start()
    try:
        with RawPeer.connect(door.port) as peer:
            body = peer.associate(CONTEXTS)
            assert b"\7\0\3\0" in body, "context 7: abstract syntax not supported"
            peer.release()
    finally:
        door.stop(0.1)
