"""association: what a peer may send byte by byte, and what it is answered (PS3.7, PS3.8)."""

from __future__ import annotations

import logging
import socket
import struct
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pynetdicom.pdu import A_ASSOCIATE_AC

from dicom_store.part10 import IMPLEMENTATION_CLASS_UID
from dicom_store.scp import DicomDoor
from dicom_store.status import Outcome, StoreRefused
from fixtures import raw_association as raw
from fixtures.raw_association import (
    DEFAULT_CONTEXTS,
    EXPLICIT,
    IMPLICIT,
    SECONDARY_CAPTURE,
    VERIFICATION,
    RawPeer,
    message,
    number,
    p_data,
    pdv,
    store_command,
)
from fixtures.sinks import Recorder

USER, PROVIDER = 0, 2
UNRECOGNIZED, UNEXPECTED, UNEXPECTED_PARAMETER, INVALID = 1, 2, 5, 6
OpenDoor = Callable[..., DicomDoor]


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
            "host": "127.0.0.1",
            "port": 0,
            "ae_title": "DRIMBOX",
            "calling_ae_titles": ["PACS"],
            "max_associations": 4,
            "idle_timeout": 5.0,
            "max_instance_bytes": 10_000_000,
            "open_sink": recorder.open,
            "on_refused": lambda _peer, reason: refused.append(reason),
        }
        doors.append(DicomDoor(**{**values, **changes}))
        doors[-1].start()
        return doors[-1]

    yield open_one
    for door in doors:
        door.stop(grace=0.1)


@pytest.fixture(params=["own", "reference"])
def either(open_door: OpenDoor, request: pytest.FixtureRequest) -> DicomDoor:
    return open_door(engine=request.param)


@pytest.fixture
def peer(open_door: OpenDoor) -> Iterator[RawPeer]:
    """Connected to our own engine."""
    with RawPeer.connect(open_door().port) as connected:
        yield connected


def eventually(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.005)


# --- negotiation -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "answer", "reason"),
    [
        ({"called": "OTHER"}, (1, 1, 7), "the called AE title is not ours"),
        ({"calling": "STRANGER"}, (1, 1, 3), "the calling AE title is not known"),
        ({"calling": "pacs"}, (1, 1, 3), "the calling AE title is not known"),
    ],
)
def test_strangers_are_rejected(
    either: DicomDoor, refused: list[str], changes: dict[str, str], answer: tuple[int, int, int], reason: str
) -> None:
    with RawPeer.connect(either.port) as peer:
        peer.send(raw.request(**changes))
        kind, body = peer.receive()
    assert (kind, tuple(body[1:])) == (3, answer)
    eventually(lambda: refused == [f"association rejected: {reason}"])


@pytest.mark.parametrize(
    ("changes", "answer", "reason"),
    [
        ({"version": 2}, (1, 2, 2), "the protocol version is not 1"),
        ({"name": ""}, (1, 1, 2), "the application context is not DICOM's"),
        ({"name": "1.2.840.10008.3.1.1.2"}, (1, 1, 2), "the application context is not DICOM's"),
    ],
)
def test_what_is_not_our_protocol_is_rejected(
    peer: RawPeer, refused: list[str], changes: dict[str, Any], answer: tuple[int, int, int], reason: str
) -> None:
    peer.send(raw.request(**changes))
    kind, body = peer.receive()
    assert (kind, tuple(body[1:])) == (3, answer)
    eventually(lambda: refused == [f"association rejected: {reason}"])


def test_nothing_more_of_a_stranger_is_read(peer: RawPeer) -> None:
    whole = raw.request(calling="STRANGER")
    peer.send(raw.pdu(1, whole[6:74] + b"\xff" * 500_000))
    assert peer.receive()[0] == 3


def test_the_limits_of_associations_are_transient_rejections(open_door: OpenDoor, refused: list[str]) -> None:
    door = open_door(max_associations=3, max_associations_per_address=2)
    with (
        RawPeer.connect(door.port, "127.0.0.2") as first, RawPeer.connect(door.port, "127.0.0.2") as second,
        RawPeer.connect(door.port, "127.0.0.2") as third, RawPeer.connect(door.port, "127.0.0.3") as other,
        RawPeer.connect(door.port, "127.0.0.4") as last,
    ):  # fmt: skip
        first.associate()
        second.associate()
        third.send(raw.request())
        assert third.receive() == (3, bytes([0, 2, 3, 2]))
        other.associate()
        last.send(raw.request())
        assert last.receive() == (3, bytes([0, 2, 3, 2]))
        first.release()
        with RawPeer.connect(door.port, "127.0.0.2") as again:
            again.associate()
            assert again.echo() == 0
    assert refused == [
        "association rejected: too many associations of this address",
        "association rejected: too many associations",
    ]


def test_the_limit_of_one_address_in_the_reference(open_door: OpenDoor, refused: list[str]) -> None:
    door = open_door(engine="reference", max_associations_per_address=1)
    with RawPeer.connect(door.port) as first, RawPeer.connect(door.port) as second:
        first.associate()
        second.send(raw.request())
        assert second.receive() == (3, bytes([0, 2, 3, 2]))
        eventually(lambda: refused == ["association rejected: too many associations of this address"])


def accepted(body: bytes) -> Any:
    answer = A_ASSOCIATE_AC()
    answer.decode(raw.pdu(2, body))
    return answer


def test_what_is_accepted(either: DicomDoor) -> None:
    contexts = {
        1: (SECONDARY_CAPTURE, (IMPLICIT, EXPLICIT)),
        3: (SECONDARY_CAPTURE, ("1.2.840.10008.1.2.4.70", EXPLICIT)),
        5: (VERIFICATION, (IMPLICIT,)),
        7: ("1.2.840.10008.5.1.4.1.2.1.1", (IMPLICIT,)),
        9: ("1.2.3.4.5", ("1.2.3.4.6",)),
    }
    with RawPeer.connect(either.port) as peer:
        answer = accepted(peer.associate(contexts))
        peer.release()
    results = {one.context_id: (one.result, str(one.transfer_syntax)) for one in answer.presentation_context}
    assert {number: result for number, (result, _) in results.items()} == {1: 0, 3: 0, 5: 0, 7: 3, 9: 0}
    assert [results[one][1] for one in (1, 3, 5, 9)] == [
        EXPLICIT,
        "1.2.840.10008.1.2.4.70",
        IMPLICIT,
        "1.2.3.4.6",
    ]
    assert answer.user_information.maximum_length == 131072
    assert str(answer.user_information.implementation_class_uid) == IMPLEMENTATION_CLASS_UID


def test_what_else_is_negotiated(peer: RawPeer) -> None:
    """Roles and the asynchronous window are answered, identity and extended negotiation are not (PS3.7 D.3.3)."""
    uid = SECONDARY_CAPTURE.encode()
    more = raw.item(0x53, struct.pack(">HH", 8, 8))
    more += raw.item(0x54, struct.pack(">H", len(uid)) + uid + b"\1\1")
    more += raw.item(0x56, struct.pack(">H", len(uid)) + uid + b"\2\0\1\0\1\0")
    more += raw.item(0x58, b"\1\1" + struct.pack(">H", 3) + b"doc" + struct.pack(">H", 0))
    answer = accepted(peer.associate(information=raw.user_information(more=more)))
    items = {type(one).__name__: one for one in answer.user_information.user_data}
    window = items["AsynchronousOperationsWindowSubItem"]
    assert (window.maximum_number_operations_invoked, window.maximum_number_operations_performed) == (1, 1)
    role = items["SCP_SCU_RoleSelectionSubItem"]
    assert (str(role.sop_class_uid), role.scu, role.scp) == (SECONDARY_CAPTURE, 1, 1)
    assert not {"UserIdentitySubItemAC", "SOPClassExtendedNegotiationSubItem"} & set(items)
    assert peer.store() == 0


def test_a_context_on_which_the_peer_would_be_the_scp_carries_no_store(
    peer: RawPeer, recorder: Recorder
) -> None:
    uid = SECONDARY_CAPTURE.encode()
    role = raw.item(0x54, struct.pack(">H", len(uid)) + uid + b"\0\1")
    peer.associate(information=raw.user_information(more=role))
    assert peer.store() == 0x0122
    assert recorder.opened == []


SOUND = raw.request()


@pytest.mark.parametrize(
    "request_bytes",
    [
        raw.pdu(1, SOUND[6:-10]),
        raw.pdu(1, SOUND[6:] + b"\xee\0\0"),
        raw.pdu(1, SOUND[6:74] + b"\x10\0\0\x05"),
        raw.request({2: (VERIFICATION, (IMPLICIT,))}),
        raw.request({1: ("", (IMPLICIT,))}),
        raw.request({1: (VERIFICATION, ())}),
        raw.request(information=raw.user_information(maximum=7)),
        raw.pdu(1, bytes(10)),
        raw.pdu(1, b"", announced=2**31),
        raw.pdu(4, pdv(1, 3, b"x")),
        raw.RELEASE,
        b"GET / HTTP/1.1\r\n\r\n",
    ],
    ids=lambda data: f"{len(data)}-{data[:1].hex()}",
)
def test_what_is_no_request_is_aborted_as_the_table_says(
    open_door: OpenDoor, recorder: Recorder, refused: list[str], request_bytes: bytes
) -> None:
    """AA-1 of PS3.8 Table 9-10: A-ABORT with the source service-user."""
    with RawPeer.connect(open_door(idle_timeout=1.0).port) as peer:
        peer.send(request_bytes)
        peer.connection.shutdown(socket.SHUT_WR)
        kind, body = peer.receive()
        if kind:  # a request that is cut ends without a word
            assert (kind, body[2]) == (7, USER)
            assert peer.receive() == (0, b"")
    eventually(lambda: len(refused) == 1)
    named = request_bytes[:1] == b"\1" and len(request_bytes) >= 74  # it says who asks
    assert refused[0].startswith(
        "association aborted: an A-ASSOCIATE-RQ " if named else "not DICOM: no association was requested"
    )
    assert recorder.opened == []


def test_the_same_context_twice_is_no_request(peer: RawPeer) -> None:
    one = raw.item(0x20, struct.pack(">Bxxx", 1) + raw.item(0x30, b"1.2.3") + raw.item(0x40, b"1.2.4"))
    body = SOUND[6:74] + raw.item(0x10, raw.DICOM.encode()) + one + one + raw.user_information()
    peer.send(raw.pdu(1, body))
    assert peer.aborted() == (USER, 0)


# --- messages ----------------------------------------------------------------------------------------------


def test_several_contexts_in_one_association(either: DicomDoor, recorder: Recorder) -> None:
    with RawPeer.connect(either.port) as peer:
        peer.associate()
        assert [peer.store(b"one", 1), peer.echo(), peer.store(b"two!", 3), peer.store(b"three", 1)] == [
            0,
            0,
            0,
            0,
        ]
        peer.release()
    assert [(command.transfer_syntax, data) for command, data in recorder.requests] == [
        (EXPLICIT, b"one"), (IMPLICIT, b"two!"), (EXPLICIT, b"three"),
    ]  # fmt: skip
    eventually(lambda: recorder.closed == 1)


DATA = bytes(range(256)) * 300
COMMAND = store_command()


def split(value: bytes, *sizes: int) -> list[bytes]:
    parts, at = [], 0
    while at < len(value):
        size = sizes[len(parts) % len(sizes)]
        parts.append(value[at : at + size])
        at += size
    return parts


def fragments(value: bytes, kind: int, *sizes: int) -> list[bytes]:
    parts = split(value, *sizes)
    return [pdv(1, kind | (2 if n == len(parts) - 1 else 0), part) for n, part in enumerate(parts)]


@pytest.mark.parametrize(
    "pdus",
    [
        [p_data(one) for one in [*fragments(COMMAND, 1, 1), *fragments(DATA, 0, 977)]],
        [p_data(*fragments(COMMAND, 1, 7, 1, 30), *fragments(DATA, 0, 1, 20_000, 3))],
        [p_data(*fragments(COMMAND, 1, 50), pdv(1, 0, DATA[:1])), p_data(pdv(1, 2, DATA[1:]))],
        [p_data(pdv(1, 1, b"")), p_data(pdv(1, 3, COMMAND)), p_data(pdv(1, 0, b""), pdv(1, 0, DATA)),
         p_data(pdv(1, 2, b""))],
        [p_data(pdv(1, 3, COMMAND)), p_data(pdv(1, 2, DATA))],
        [p_data(pdv(1, 0xFF, COMMAND)), p_data(pdv(1, 0xFE, DATA))],
    ],
    ids=["small", "many-in-one-pdu", "mixed", "empty-ones", "whole", "reserved-bits"],
)  # fmt: skip
@pytest.mark.parametrize("drip", [0, 1, 1000])
def test_fragments_in_any_split(peer: RawPeer, recorder: Recorder, pdus: list[bytes], drip: int) -> None:
    peer.associate()
    whole = b"".join(pdus)
    if drip == 1:  # the first bytes one by one, so that every header is cut everywhere
        peer.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(300):
            peer.send(whole[at : at + 1])
        whole = whole[300:]
    for part in split(whole, drip if drip > 1 else len(whole)):
        peer.send(part)
    assert number(peer.answer(), 0x900) == 0
    peer.release()
    assert [data for _, data in recorder.requests] == [DATA]


def test_pieces_come_early_and_are_bounded(peer: RawPeer, recorder: Recorder) -> None:
    data = bytes(range(251)) * 20_000  # 5 MB
    peer.associate()
    pdus = list(message(1, COMMAND, data, 100_000))
    peer.send(*pdus[:3])
    eventually(lambda: bool(recorder.arrivals) and bool(recorder.arrivals[0].pieces))
    peer.send(*pdus[3:])
    assert number(peer.answer(), 0x900) == 0
    pieces = [len(piece) for piece in recorder.arrivals[0].pieces]
    assert pieces[0] <= 200_000
    assert 96 * 1024 < max(pieces) <= 1024 * 1024
    assert len(pieces) <= len(pdus)
    assert recorder.requests[0][1] == data


def test_memory_does_not_grow_with_the_instance(open_door: OpenDoor) -> None:
    class Counter:
        total = 0

        def begin(self, _command: object) -> Counter:
            return self

        def more(self, piece: memoryview) -> None:
            self.total += len(piece)

        def complete(self) -> Outcome:
            return Outcome.STORED

        def abandon(self) -> None:
            raise AssertionError

        def close(self) -> None:
            """Nothing is open."""

    counter = Counter()
    door = open_door(open_sink=lambda _peer: counter, max_instance_bytes=200_000_000)
    piece = p_data(pdv(1, 0, bytes(131_000)))
    with RawPeer.connect(door.port) as peer:
        peer.associate()
        tracemalloc.start()
        try:
            peer.send(p_data(pdv(1, 3, COMMAND)))
            for _ in range(1000):
                peer.connection.sendall(piece)
            peer.send(p_data(pdv(1, 2, b"")))
            assert number(peer.answer(), 0x900) == 0
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert counter.total == 131_000_000
    assert peak < 3_000_000


def test_answers_are_cut_to_what_the_peer_takes(peer: RawPeer, recorder: Recorder) -> None:
    recorder.failure = StoreRefused(Outcome.NOT_UNDERSTOOD, "x" * 64)
    peer.associate(information=raw.user_information(maximum=128))
    peer.send(raw.store())
    kind, body = peer.receive()
    assert (kind, len(body)) == (4, 128)
    kind, rest = peer.receive()
    command = raw.elements(body[6:] + rest[6:])
    assert (number(command, 0x900), command[0x902]) == (0xC000, b"x" * 64)
    assert (body[5], rest[5]) == (1, 3)


def test_a_refusal_before_the_data_skips_them(peer: RawPeer, recorder: Recorder) -> None:
    peer.associate()
    recorder.refusal_at_begin = StoreRefused(Outcome.OUT_OF_RESOURCES, "no room")
    peer.send(*message(1, COMMAND, bytes(3_000_000)))
    command = peer.answer()
    assert (number(command, 0x900), command[0x902]) == (0xA700, b"no room ")
    recorder.refusal_at_begin = None
    assert peer.store() == 0
    assert [data for _, data in recorder.requests] == [b"data"]


@pytest.mark.parametrize(
    ("failure", "status", "comment"),
    [
        (
            StoreRefused(Outcome.UID_MISSING, "StudyInstanceUID is missing"),
            0xC001,
            b"StudyInstanceUID is missing",
        ),
        (OSError(28, "No space"), 0xA700, b"the appliance cannot store now: try again"),
        (ValueError("PAT^ONE"), 0x0110, b"processing failure"),
    ],
)
def test_a_refusal_in_the_middle_skips_the_rest(
    peer: RawPeer, recorder: Recorder, failure: Exception, status: int, comment: bytes,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    peer.associate()
    begin = recorder.begin

    def failing(command: Any) -> Any:
        arrival = begin(command)

        def more(_piece: memoryview) -> None:
            raise failure

        arrival.more = more  # type: ignore[method-assign]
        return arrival

    monkeypatch.setattr(recorder, "begin", failing)
    peer.send(*message(1, COMMAND, bytes(3_000_000)))
    answer = peer.answer()
    assert (number(answer, 0x900), answer[0x902].rstrip()) == (status, comment)
    assert [one.ending for one in recorder.arrivals] == ["abandoned"]
    monkeypatch.undo()
    assert peer.store() == 0
    assert "PAT^ONE" not in caplog.text


def test_what_a_store_must_name(either: DicomDoor, recorder: Recorder, refused: list[str]) -> None:
    nameless = raw.with_length(
        raw.ui(2, SECONDARY_CAPTURE) + raw.us(0x100, 1) + raw.us(0x110, 9) + raw.us(0x800, 0x0101)
    )
    with RawPeer.connect(either.port) as peer:
        peer.associate()
        peer.send(*message(1, nameless, None))
        answer = peer.answer()
        assert (number(answer, 0x900), number(answer, 0x120)) == (0xC001, 9)
        assert answer[0x902].rstrip() == b"AffectedSOPInstanceUID, data set missing"
    eventually(lambda: "C-STORE without AffectedSOPInstanceUID, data set" in refused)
    assert recorder.opened == []


def operation(field: int, *more: bytes, data: bool = False) -> bytes:
    body = raw.us(0x100, field) + raw.us(0x110, 5) + raw.us(0x800, 1 if data else 0x0101) + b"".join(more)
    return raw.with_length(body)


@pytest.mark.parametrize(
    ("context", "command", "data", "status"),
    [
        (1, operation(0x0020, data=True), b"query", 0x0211),
        (1, operation(0x0130), None, 0x0211),
        (5, operation(0x0010), None, 0x0211),
        (5, operation(0x1234), None, 0x0211),
        (5, store_command(), b"data", 0x0122),
        (1, raw.echo_command(), None, 0),
    ],
)
def test_other_operations_get_a_status(
    peer: RawPeer, recorder: Recorder, context: int, command: bytes, data: bytes | None, status: int
) -> None:
    peer.associate()
    peer.send(*message(context, command, data))
    answer = peer.answer()
    field = number(raw.elements(command), 0x100)
    assert (number(answer, 0x900), number(answer, 0x100)) == (status, field | 0x8000)
    assert peer.store() == 0
    assert len(recorder.requests) == 1


def test_a_store_on_the_context_of_verification_in_the_reference(
    open_door: OpenDoor, recorder: Recorder
) -> None:
    with RawPeer.connect(open_door(engine="reference").port) as peer:
        peer.associate()
        assert peer.store(context=5) == 0x0122
        assert peer.store() == 0
    assert len(recorder.requests) == 1


def test_a_cancel_is_ignored(either: DicomDoor) -> None:
    cancel = raw.with_length(raw.us(0x100, 0x0FFF) + raw.us(0x120, 1) + raw.us(0x800, 0x0101))
    with RawPeer.connect(either.port) as peer:
        peer.associate()
        peer.send(*message(1, cancel, None))
        assert peer.store() == 0
        peer.send(*message(1, cancel, None))
        peer.release()


# --- what ends an association ------------------------------------------------------------------------------

BREACHES: dict[str, tuple[bytes, tuple[int, int], str]] = {
    "a context that was not accepted": (
        p_data(pdv(9, 3, COMMAND)), (PROVIDER, INVALID), "a presentation context that was not accepted"),
    "a data set without a command": (
        p_data(pdv(1, 2, b"x")), (PROVIDER, UNEXPECTED_PARAMETER), "a data set without a command"),
    "a command within a data set": (
        p_data(pdv(1, 3, COMMAND), pdv(1, 0, b"x"), pdv(1, 3, COMMAND)), (PROVIDER, UNEXPECTED_PARAMETER),
        "a command within a data set"),
    "two contexts in a message": (
        p_data(pdv(1, 3, COMMAND), pdv(3, 2, b"x")), (PROVIDER, UNEXPECTED_PARAMETER),
        "a fragment of another presentation context within a message"),
    "two messages in a PDU": (
        p_data(pdv(1, 3, COMMAND), pdv(1, 2, b"x"), pdv(1, 3, COMMAND)), (USER, 0),
        "a message before the answer to the last"),
    "two messages at once": (
        raw.store() + raw.store(), (USER, 0), "a message before the answer to the last"),
    "an empty P-DATA-TF": (p_data(), (PROVIDER, INVALID), "P-DATA-TF of 0 bytes announced"),
    "a cut PDV": (
        p_data(pdv(1, 1, COMMAND), b"\0\0\0"), (PROVIDER, INVALID), "a PDV that is cut"),
    "a PDV longer than its PDU": (
        p_data(pdv(1, 3, COMMAND, announced=5000)), (PROVIDER, INVALID),
        "a PDV of a length that its PDU does not have"),
    "a PDV of no length": (
        p_data(pdv(1, 3, COMMAND, announced=1)), (PROVIDER, INVALID),
        "a PDV of a length that its PDU does not have"),
    "a long P-DATA-TF": (
        raw.pdu(4, b"", announced=131_073), (PROVIDER, INVALID), "P-DATA-TF of 131073 bytes announced"),
    "empty fragments": (
        p_data(*[pdv(1, 1, b"")] * 65), (PROVIDER, INVALID), "empty fragments without end"),
    "an endless command": (
        b"".join(p_data(pdv(1, 1, bytes(60_000))) for _ in range(2)), (USER, 0), "a command longer than allowed"),
    "no command set": (
        p_data(pdv(1, 3, b"rubbish!")), (USER, 0),
        "a command that cannot be read: a command element of another group, or longer than its command set"),
    "a response to nothing": (
        p_data(pdv(1, 3, raw.with_length(raw.us(0x100, 0x8030) + raw.us(0x120, 1) + raw.us(0x800, 0x0101)))),
        (USER, 0), "a response to nothing"),
    "another request": (raw.request(), (PROVIDER, UNEXPECTED), "an unexpected A-ASSOCIATE-RQ"),
    "an acceptance": (raw.pdu(2, bytes(80)), (PROVIDER, UNEXPECTED), "an unexpected A-ASSOCIATE-AC"),
    "a release that nobody asked for": (raw.RELEASED, (PROVIDER, UNEXPECTED), "an unexpected A-RELEASE-RP"),
    "a long release": (raw.pdu(5, bytes(5)), (PROVIDER, INVALID), "A-RELEASE-RQ of 5 bytes announced"),
    "no PDU": (b"\x2a\0\0\0\0\0", (PROVIDER, UNRECOGNIZED), "a PDU of no known type: 42"),
}  # fmt: skip


@pytest.mark.parametrize(("sent", "abort", "reason"), BREACHES.values(), ids=BREACHES)
@pytest.mark.parametrize("after_a_store", [False, True])
def test_breaches_are_aborted_with_source_and_reason(
    peer: RawPeer, recorder: Recorder, refused: list[str],
    sent: bytes, abort: tuple[int, int], reason: str, after_a_store: bool,
) -> None:  # fmt: skip
    peer.associate()
    if after_a_store:
        assert peer.store() == 0
    before = len(recorder.arrivals)
    peer.send(sent)
    assert peer.aborted() == abort
    peer.connection.close()
    eventually(lambda: refused == [f"association aborted: {reason}"])
    assert recorder.closed == len(recorder.opened)
    assert all(one.ending for one in recorder.arrivals[before:])


def test_a_data_set_over_the_limit(open_door: OpenDoor, recorder: Recorder, refused: list[str]) -> None:
    door = open_door(max_instance_bytes=100_000)
    with RawPeer.connect(door.port) as peer:
        peer.associate()
        assert peer.store(bytes(100_000)) == 0
        peer.send(*message(1, COMMAND, bytes(100_001)))
        assert peer.aborted() == (USER, 0)
    eventually(lambda: refused == ["association aborted: a message longer than allowed"])
    eventually(lambda: recorder.closed == 1)
    assert [one.ending for one in recorder.arrivals] == ["complete", "abandoned"]


@pytest.mark.parametrize("how", ["abort", "close", "reset", "release"])
def test_the_peer_goes_within_an_instance(
    peer: RawPeer, recorder: Recorder, refused: list[str], how: str
) -> None:
    peer.associate()
    peer.send(*list(message(1, COMMAND, bytes(100_000)))[:3])
    eventually(lambda: bool(recorder.arrivals))
    if how in ("abort", "release"):
        peer.send(raw.abort() if how == "abort" else raw.RELEASE)
        assert how == "abort" or peer.receive()[0] == 6
    elif how == "reset":
        peer.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.connection.close()
    eventually(lambda: recorder.closed == 1)
    assert [one.ending for one in recorder.arrivals] == ["abandoned"]
    eventually(lambda: refused == ["the connection ended within a message"])


def test_a_peer_that_is_gone_when_its_answer_is_ready(
    peer: RawPeer, recorder: Recorder, refused: list[str]
) -> None:
    recorder.pause = threading.Event()
    peer.associate()
    peer.send(raw.store())
    eventually(lambda: bool(recorder.arrivals))
    peer.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.connection.close()
    recorder.pause.set()
    eventually(lambda: recorder.closed == 1)
    assert len(recorder.requests) == 1
    assert refused == []


# --- time --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("silence", ["idle", "within a PDU", "between PDUs", "dripping"])
def test_silence_is_bounded(
    open_door: OpenDoor, recorder: Recorder, refused: list[str], silence: str
) -> None:
    door = open_door(idle_timeout=0.6)
    first, *_ = message(1, COMMAND, bytes(100))
    began = {
        "idle": b"",
        "within a PDU": first + p_data(pdv(1, 2, bytes(100)))[:50],
        "between PDUs": first,
        "dripping": first + p_data(pdv(1, 2, bytes(100)))[:50],
    }[silence]
    with RawPeer.connect(door.port) as peer:
        peer.associate()
        started = time.monotonic()
        peer.send(began)
        if silence == "dripping":
            for _ in range(30):
                time.sleep(0.05)
                try:
                    peer.send(b"\0")
                except OSError:
                    break
        assert peer.aborted() == (USER, 0)
        assert 0.4 < time.monotonic() - started < 3
    eventually(lambda: recorder.closed == len(recorder.opened))
    eventually(lambda: refused == ([] if silence == "idle" else ["the connection ended within a message"]))
    assert [one.ending for one in recorder.arrivals] == ([] if silence == "idle" else ["abandoned"])


def test_a_peer_that_does_not_close_is_closed(open_door: OpenDoor) -> None:
    door = open_door(max_associations=1)
    with RawPeer.connect(door.port) as peer:
        peer.associate()
        peer.release()
        with RawPeer.connect(door.port) as other:  # the place is free at once
            other.associate()
        started = time.monotonic()
        peer.send(bytes(100_000))  # whatever comes after the end is not looked at
        assert peer.receive() == (0, b"")
        assert time.monotonic() - started < 4


def test_two_hundred_silent_peers_cost_nobody_a_place(open_door: OpenDoor) -> None:
    door = open_door(max_associations=4, idle_timeout=20.0)
    silent = []
    try:
        for _ in range(200):
            silent.append(socket.create_connection(("127.0.0.1", door.port), timeout=10))
        with RawPeer.connect(door.port, "127.0.0.2") as other:
            other.associate()
            assert other.store() == 0
        eventually(lambda: gets_in(door))  # from the same address: once the silent ones are no longer young
        held = [RawPeer.connect(door.port, "127.0.0.2") for _ in range(4)]
        for one in held:
            one.associate()
            assert one.echo() == 0
            one.connection.close()
        assert sum(thread.name.startswith("Thread-") for thread in threading.enumerate()) < 120
    finally:
        for one in silent:
            one.close()


def gets_in(door: DicomDoor) -> bool:
    with RawPeer.connect(door.port) as peer:
        try:
            peer.send(raw.request())
        except OSError:
            return False
        return peer.receive()[0] == 2


def test_one_byte_a_second_holds_no_place(open_door: OpenDoor) -> None:
    door = open_door(max_associations=1, idle_timeout=1.0)
    with RawPeer.connect(door.port) as slow:
        slow.send(SOUND[:100])
        started = time.monotonic()
        while time.monotonic() - started < 3:
            with RawPeer.connect(door.port, "127.0.0.2") as peer:
                peer.associate()
                peer.release()
            try:
                slow.send(b"\0")
            except OSError:
                break
            time.sleep(0.1)
        assert time.monotonic() - started < 3, "an A-ASSOCIATE-RQ has one deadline, however it drips"


def test_stop_aborts_what_is_within_an_instance(open_door: OpenDoor, recorder: Recorder) -> None:
    door = open_door()
    with RawPeer.connect(door.port) as peer, RawPeer.connect(door.port) as silent:
        peer.associate()
        peer.send(*list(message(1, COMMAND, bytes(100_000)))[:3])
        eventually(lambda: bool(recorder.arrivals))
        started = time.monotonic()
        door.stop(grace=0.1)
        assert time.monotonic() - started < 2
        assert peer.aborted() == (USER, 0)
        assert silent.receive() == (0, b"")
    assert [one.ending for one in recorder.arrivals] == ["abandoned"]
    assert recorder.closed == 1


# --- what is said ------------------------------------------------------------------------------------------


def test_what_is_logged(peer: RawPeer, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "dicom_store"):
        peer.associate()
        peer.store(b"PAT^ONE")
        peer.release()
        peer.connection.close()
        eventually(lambda: "Association released" in caplog.text)
    said = [record for record in caplog.records if record.name == "dicom_store.association"]
    assert [record.getMessage() for record in said] == [
        "Association request accepted: calling AE PACS at 127.0.0.1",
        "Association released: calling AE PACS at 127.0.0.1",
    ]
    assert {record.levelno for record in said} == {logging.DEBUG}, (
        "this machine looks at its own health quietly"
    )
    assert "PAT^ONE" not in caplog.text


def test_titles_of_strangers_are_made_printable(peer: RawPeer, refused: list[str]) -> None:
    peer.send(raw.request(calling="A\nB\x1b[31m", called="DRIMBOX"))
    assert peer.receive()[0] == 3
    eventually(lambda: len(refused) == 1)


def test_contexts_by_default_are_all_accepted(peer: RawPeer) -> None:
    answer = accepted(peer.associate())
    assert {one.context_id: one.result for one in answer.presentation_context} == dict.fromkeys(
        DEFAULT_CONTEXTS, 0
    )
