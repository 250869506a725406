"""The MLLP door on real sockets: good senders, and every bad one; the door serves on."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from ipaddress import ip_network

import pytest

from drimbox.domain.senders import SenderProfile
from drimbox.entrypoints.mllp import Limits, MllpDoor
from drimbox.entrypoints.mllp_admission import Peer, Places
from drimbox.entrypoints.mllp_refusals import Refusal, Refusals
from fixtures.reports import END, START, frame

PATIENCE = 10.0
LIMITS = Limits(max_message_bytes=100_000, idle_timeout=5.0, message_timeout=5.0)
LOCAL = (SenderProfile("RIS", (ip_network("127.0.0.1"), ip_network("::1"))),)


class Recorder:
    """A handler that keeps what it was given; `answer` may be replaced."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.peers: set[Peer] = set()
        self.refused: list[Refusal] = []
        self.answer: Callable[[bytes], bytes | None] = lambda message: b"ACK:" + message

    def __call__(self, message: bytes, peer: Peer) -> bytes | None:
        self.messages.append(message)
        self.peers.add(peer)
        return self.answer(message)


@contextmanager
def opened(
    recorder: Recorder,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    senders: tuple[SenderProfile, ...] = LOCAL,
    max_connections: int = 5,
    **limits: float,
) -> Iterator[MllpDoor]:
    refusals = Refusals(recorder.refused.append)
    door = MllpDoor(
        host,
        port,
        recorder,
        senders,
        places=Places(max_connections),
        refusals=refusals,
        limits=replace(LIMITS, **limits),  # type: ignore[arg-type]
    )
    refusals.start()
    try:
        door.start()
        yield door
    finally:
        door.stop()
        refusals.stop()


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@contextmanager
def sender(door: MllpDoor) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", door.port), timeout=PATIENCE) as connection:
        yield connection


def receive(connection: socket.socket, count: int = 1) -> bytes:
    """Bytes up to and with `count` end blocks; what came when the door closed before."""
    data = b""
    while data.count(END) < count:
        piece = connection.recv(65_536)
        if not piece:
            return data
        data += piece
    return data


def closed(connection: socket.socket) -> bool:
    """True when the door closed without sending anything more."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "too late"
        time.sleep(0.005)


def still_serves(door: MllpDoor) -> None:
    with sender(door) as connection:
        connection.sendall(frame(b"still"))
        assert receive(connection) == frame(b"ACK:still")


def test_many_messages_on_one_connection(recorder: Recorder) -> None:
    with opened(recorder) as door, sender(door) as connection:
        for number in range(50):
            connection.sendall(frame(b"m%d" % number))
            assert receive(connection) == frame(b"ACK:m%d" % number)
    assert len(recorder.messages) == 50
    assert recorder.peers == {Peer("127.0.0.1", None, LOCAL)}


def test_two_messages_in_one_segment(recorder: Recorder) -> None:
    with opened(recorder) as door, sender(door) as connection:
        connection.sendall(frame(b"one") + frame(b"two"))
        assert receive(connection, 2) == frame(b"ACK:one") + frame(b"ACK:two")


def test_one_byte_at_a_time(recorder: Recorder) -> None:
    with opened(recorder) as door, sender(door) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in frame(b"slowly"):
            connection.send(bytes([byte]))
        assert receive(connection) == frame(b"ACK:slowly")


def test_a_large_message(recorder: Recorder) -> None:
    content = b"x" * 8_000_000
    with opened(recorder, max_message_bytes=len(content)) as door, sender(door) as connection:
        connection.sendall(frame(content))
        assert len(receive(connection)) == len(frame(b"ACK:" + content))
    assert recorder.messages == [content]


def test_many_connections_at_once(recorder: Recorder) -> None:
    with opened(recorder) as door:

        def talk(name: int) -> None:
            with sender(door) as connection:
                for _ in range(20):
                    connection.sendall(frame(b"%d" % name))
                    assert receive(connection) == frame(b"ACK:%d" % name)

        threads = [threading.Thread(target=talk, args=(n,)) for n in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
    assert sorted(recorder.messages) == sorted(b"%d" % n for n in range(5) for _ in range(20))


def test_no_answer_when_the_handler_gives_none(recorder: Recorder) -> None:
    recorder.answer = lambda message: None if message == b"ack" else b"yes"
    with opened(recorder) as door, sender(door) as connection:
        connection.sendall(frame(b"ack") + frame(b"report"))
        assert receive(connection) == frame(b"yes")


@pytest.mark.parametrize("garbage", [b"MSH|^~\\&|", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00", END])
def test_garbage_before_the_start(recorder: Recorder, garbage: bytes) -> None:
    with opened(recorder) as door:
        with sender(door) as connection:
            connection.sendall(garbage)
            assert closed(connection)
        still_serves(door)
    assert recorder.messages == [b"still"]


def test_garbage_after_a_message_is_closed_once_it_is_answered(recorder: Recorder) -> None:
    with opened(recorder) as door, sender(door) as connection:
        connection.sendall(frame(b"good") + b"garbage")
        assert receive(connection) == frame(b"ACK:good")
        assert closed(connection)


def test_a_sender_that_vanishes_within_a_message(
    recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with opened(recorder) as door:
        with sender(door) as connection:
            connection.sendall(START + b"MSH|half of SECRET")
        wait_for(lambda: "vanished" in caplog.text)
        still_serves(door)
    assert recorder.messages == [b"still"]
    assert "SECRET" not in caplog.text


def test_a_message_over_the_limit(recorder: Recorder, caplog: pytest.LogCaptureFixture) -> None:
    with opened(recorder) as door:
        with sender(door) as connection:
            with suppress(ConnectionError):
                connection.sendall(START + b"SECRET" * 100_000 + END)
            assert closed(connection)
        still_serves(door)
    assert recorder.messages == [b"still"]
    assert "over 100000 bytes" in caplog.text
    assert recorder.refused == [Refusal("mllp", "127.0.0.1", "a message of over 100000 bytes")]
    assert "SECRET" not in caplog.text


def test_an_endless_message_is_not_kept(recorder: Recorder) -> None:
    """The door closes soon after its limit: a sender cannot push much more than that."""
    pushed = 0
    with opened(recorder) as door, sender(door) as connection:
        connection.sendall(START)
        with pytest.raises(ConnectionError):
            while pushed < 200_000_000:
                pushed += connection.send(b"x" * 65_536)
    assert pushed < 50_000_000


def test_a_silent_sender(recorder: Recorder, caplog: pytest.LogCaptureFixture) -> None:
    with opened(recorder, idle_timeout=0.2) as door:
        with sender(door) as connection:
            assert closed(connection)
        wait_for(lambda: "too slow" in caplog.text)
        still_serves(door)


def test_a_sender_that_drips(recorder: Recorder, caplog: pytest.LogCaptureFixture) -> None:
    """Never silent for long, never done: the time of one message is bounded too."""
    with opened(recorder, idle_timeout=5.0, message_timeout=0.4) as door:
        with sender(door) as connection:
            connection.sendall(START)
            begun = time.monotonic()
            with pytest.raises(ConnectionError):
                while time.monotonic() - begun < PATIENCE:
                    connection.sendall(b"x")
                    time.sleep(0.02)
        still_serves(door)
    assert "too slow" in caplog.text
    assert recorder.messages == [b"still"]


def test_the_time_of_a_message_starts_with_the_message(recorder: Recorder) -> None:
    with opened(recorder, message_timeout=0.5) as door, sender(door) as connection:
        for _ in range(4):
            connection.sendall(frame(b"a") + START)
            assert receive(connection) == frame(b"ACK:a")
            time.sleep(0.2)
            connection.sendall(b"b" + END)
            assert receive(connection) == frame(b"ACK:b")


def test_a_handler_that_fails_is_no_acknowledgement(
    recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(message: bytes) -> bytes:
        if message == b"bad SECRET":
            raise ValueError("cannot read SECRET")
        return b"fine"

    recorder.answer = fail
    with opened(recorder) as door:
        with sender(door) as connection:
            connection.sendall(frame(b"bad SECRET"))
            assert closed(connection)
        with sender(door) as connection:
            connection.sendall(frame(b"good"))
            assert receive(connection) == frame(b"fine")
        wait_for(lambda: "ValueError at test_mllp_door.py" in caplog.text)
    assert "SECRET" not in caplog.text


def test_connections_over_the_maximum_are_closed_at_once(recorder: Recorder) -> None:
    with opened(recorder, max_connections=2) as door:
        with sender(door) as first, sender(door) as second:
            for connection in (first, second):
                connection.sendall(frame(b"in"))
                assert receive(connection) == frame(b"ACK:in")
            with sender(door) as third:
                assert closed(third)
            first.sendall(frame(b"again"))
            assert receive(first) == frame(b"ACK:again")
        wait_for(lambda: not door._open)
        still_serves(door)


def test_stop_lets_the_answer_go_out(recorder: Recorder) -> None:
    entered, leave = threading.Event(), threading.Event()

    def wait(message: bytes) -> bytes:
        entered.set()
        assert leave.wait(PATIENCE)
        return b"done"

    recorder.answer = wait
    with opened(recorder) as door, sender(door) as connection:
        connection.sendall(frame(b"last"))
        assert entered.wait(PATIENCE)
        port = door.port
        stopper = threading.Thread(target=door.stop)
        stopper.start()
        leave.set()
        assert receive(connection) == frame(b"done")
        stopper.join(PATIENCE)
        assert closed(connection)
        with pytest.raises(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()


def test_stop_closes_idle_connections_and_frees_the_port(
    recorder: Recorder, free_port: Callable[[], int]
) -> None:
    port = free_port()
    with opened(recorder, port=port) as door, sender(door) as connection:
        door.stop()
        assert closed(connection)
    with opened(recorder, port=port) as again:
        still_serves(again)
        again.stop()
    assert recorder.refused == []


def test_stop_within_a_message_blames_nobody(recorder: Recorder) -> None:
    with opened(recorder) as door, sender(door) as connection:
        connection.sendall(frame(b"whole") + START + b"half")
        assert receive(connection) == frame(b"ACK:whole")
        door.stop()
        assert closed(connection)
    assert recorder.refused == []


def test_ipv6(recorder: Recorder) -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    try:
        with opened(recorder, host="::1") as door:
            with socket.create_connection(("::1", door.port), timeout=PATIENCE) as connection:
                connection.sendall(frame(b"six"))
                assert receive(connection) == frame(b"ACK:six")
    except OSError as error:
        pytest.skip(f"no IPv6 loopback: {error}")


# --- who may come in ---


def from_address(door: MllpDoor, address: str) -> socket.socket:
    return socket.create_connection(("127.0.0.1", door.port), PATIENCE, source_address=(address, 0))


def test_an_unknown_address_is_closed_at_once_and_nothing_is_read(recorder: Recorder) -> None:
    with opened(recorder) as door:
        begun = time.monotonic()
        with from_address(door, "127.0.0.9") as stranger:
            assert closed(stranger)  # though it said nothing
        with from_address(door, "127.0.0.9") as stranger:
            with suppress(ConnectionError):
                stranger.sendall(frame(b"let me in"))
            assert closed(stranger)
        assert time.monotonic() - begun < LIMITS.idle_timeout
        still_serves(door)
    assert recorder.messages == [b"still"]
    assert recorder.refused == [Refusal("mllp", "127.0.0.9", "unknown address")]


def test_a_sender_with_a_pin_never_speaks_in_clear(recorder: Recorder) -> None:
    pinned = replace(LOCAL[0], certificate_sha256="a" * 64)
    with opened(recorder, senders=(pinned,)) as door, sender(door) as connection:
        with suppress(ConnectionError):
            connection.sendall(frame(b"in clear"))
        assert closed(connection)
    assert recorder.messages == []
    assert [refusal.reason for refusal in recorder.refused] == ["the senders of this address speak TLS only"]


def test_a_scan_leaves_one_line_in_the_log(recorder: Recorder, caplog: pytest.LogCaptureFixture) -> None:
    with opened(recorder) as door:
        for _ in range(200):
            with from_address(door, "127.0.0.9") as stranger:
                assert closed(stranger)
    assert caplog.text.count("127.0.0.9") == 1
    assert len(recorder.refused) == 1


def test_one_address_leaves_a_place_to_others(recorder: Recorder) -> None:
    other = SenderProfile("other", (ip_network("127.0.0.2"),))
    with opened(recorder, senders=(*LOCAL, other), max_connections=8) as door, ExitStack() as held:
        for _ in range(7):
            connection = held.enter_context(sender(door))
            connection.sendall(frame(b"in"))
            assert receive(connection) == frame(b"ACK:in")
        assert closed(held.enter_context(sender(door)))
        second = held.enter_context(from_address(door, "127.0.0.2"))
        second.sendall(frame(b"me too"))
        assert receive(second) == frame(b"ACK:me too")
    assert recorder.refused == [Refusal("mllp", "127.0.0.1", "too many connections")]


def test_a_trace_that_hangs_does_not_hold_the_door_up(recorder: Recorder) -> None:
    """The database may be locked for half a minute: the door goes on."""
    release = threading.Event()
    refusals = Refusals(
        lambda _refusal: recorder.refused.append(_refusal) if release.wait(PATIENCE) else None
    )
    door = MllpDoor("127.0.0.1", 0, recorder, LOCAL, places=Places(5), refusals=refusals, limits=LIMITS)
    refusals.start()
    door.start()
    with from_address(door, "127.0.0.9") as stranger:
        assert closed(stranger)
    still_serves(door)
    assert recorder.refused == []
    release.set()
    door.stop()
    refusals.stop()
    assert [refusal.address for refusal in recorder.refused] == ["127.0.0.9"]


# --- the size of messages ---

MIB_64 = 64 * 1024 * 1024


def test_the_largest_message(recorder: Recorder) -> None:
    recorder.answer = lambda message: b"%d" % len(message)
    content = bytes(MIB_64 - 1)
    with opened(recorder, max_message_bytes=MIB_64, message_timeout=60.0) as door, sender(door) as connection:
        connection.settimeout(60)
        connection.sendall(frame(content))
        assert receive(connection) == frame(b"%d" % (MIB_64 - 1))
        connection.sendall(frame(b"next"))
        assert receive(connection) == frame(b"4")
    assert recorder.refused == []


def test_one_byte_more_than_the_largest_message(recorder: Recorder) -> None:
    content = bytes(MIB_64 + 1)
    with opened(recorder, max_message_bytes=MIB_64, message_timeout=60.0) as door:
        with sender(door) as connection:
            connection.settimeout(60)
            with suppress(ConnectionError):
                connection.sendall(frame(content))
            assert closed(connection)
        still_serves(door)
    assert recorder.messages == [b"still"]
    assert [refusal.reason for refusal in recorder.refused] == [f"a message of over {MIB_64} bytes"]
