"""A look at the MLLP doors from this very machine: seen as alive, and neither refused, traced nor told."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from ipaddress import ip_network

import pytest

from drimbox.adapters.probes_net import mllp_connect
from drimbox.domain.senders import SenderProfile
from drimbox.entrypoints import mllp_look
from drimbox.entrypoints.mllp import Limits, MllpDoor
from drimbox.entrypoints.mllp_admission import Peer, Places
from drimbox.entrypoints.mllp_look import LOOKS
from drimbox.entrypoints.mllp_refusals import Refusal, Refusals
from drimbox.entrypoints.mllp_tls import server_context
from drimbox.simulators.pki import Pki
from fixtures.kept_pki import kept_pki
from fixtures.reports import END, frame
from healthcheck.probe import Outcome, Status

PATIENCE = 10.0
ELSEWHERE = SenderProfile("RIS", (ip_network("10.0.0.5"),))
HERE = SenderProfile("RIS", (ip_network("127.0.0.1"),))
BY_TLS = SenderProfile("RIS", (ip_network("127.0.0.1"),), certificate_sha256="0" * 64)


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return kept_pki(tmp_path_factory.mktemp("look") / "pki")


class Room:
    """A door and what it turned away."""

    def __init__(self, sender: SenderProfile, pki: Pki | None, places: int) -> None:
        self.refused: list[Refusal] = []
        self.refusals = Refusals(self.refused.append)
        tls = None
        if pki is not None:
            files = pki.path("appliance_server"), pki.key("appliance_server"), pki.authority
            tls = partial(server_context, *files)
        self.door = MllpDoor(
            "127.0.0.1", 0, self.answer, (sender,), places=Places(places), refusals=self.refusals,
            limits=Limits(100_000, 5.0, 5.0, 5.0), tls=tls,
        )  # fmt: skip

    def answer(self, message: bytes, _peer: Peer) -> bytes:
        return b"ACK:" + message

    def look(self) -> Outcome:
        return mllp_connect("127.0.0.1", self.door.port, 5.0)

    def connect(self, source: str = "127.0.0.1") -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.door.port), PATIENCE, (source, 0))

    def reasons(self, count: int) -> list[str]:
        deadline = time.monotonic() + PATIENCE
        while len(self.refused) < count and time.monotonic() < deadline:
            time.sleep(0.005)
        return [refusal.reason for refusal in self.refused]


@contextmanager
def opened(sender: SenderProfile, pki: Pki | None = None, places: int = 5) -> Iterator[Room]:
    room = Room(sender, pki, places)
    room.refusals.start()
    try:
        room.door.start()
        yield room
    finally:
        room.door.stop()
        room.refusals.stop()


def settled(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + PATIENCE
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    return condition()


@pytest.mark.parametrize("sender", [ELSEWHERE, HERE, BY_TLS], ids=["elsewhere", "here", "by-tls"])
@pytest.mark.parametrize("secure", [False, True], ids=["clear", "tls"])
def test_a_look_finds_life_and_leaves_nothing(
    sender: SenderProfile, secure: bool, pki: Pki, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    before = threading.active_count()
    with opened(sender, pki if secure else None) as room:
        for _ in range(LOOKS * 3):  # one after the other: each gives its place back
            outcome = room.look()
            assert (outcome.status, outcome.output, outcome.unit) == (Status.PASS, "", "ms")
        assert settled(lambda: threading.active_count() == before + 2)  # acceptor, refusals
    assert room.refused == []
    assert [record.getMessage() for record in caplog.records] == []


def test_one_of_this_machine_that_speaks_is_refused_unread() -> None:
    with opened(ELSEWHERE) as room, room.connect() as stranger:
        stranger.sendall(frame(b"hello"))
        with suppress(ConnectionResetError):
            assert stranger.recv(1) == b""
        assert room.reasons(1) == ["unknown address"]


def test_one_of_this_machine_that_stays_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mllp_look, "LOOK_SECONDS", 0.1)
    with opened(ELSEWHERE) as room, room.connect() as stranger:
        assert stranger.recv(1) == b""
        assert room.reasons(1) == ["unknown address"]


def test_another_machine_is_refused_at_once() -> None:
    with opened(ELSEWHERE) as room, room.connect("127.0.0.2") as stranger:
        assert stranger.recv(1) == b""
        assert room.reasons(1) == ["unknown address"]


def test_many_silent_ones_do_not_pile_up() -> None:
    with opened(ELSEWHERE) as room, ExitStack() as silent:
        for _ in range(LOOKS):
            silent.enter_context(room.connect())
        assert settled(lambda: len(room.door._open) == LOOKS)
        with room.connect() as one_more:
            assert one_more.recv(1) == b""
        assert room.reasons(1) == ["unknown address"]
        assert len(room.door._open) <= LOOKS


def test_a_look_needs_no_place_and_takes_none() -> None:
    with opened(HERE, places=1) as room, room.connect() as sender:
        sender.sendall(frame(b"one"))
        assert sender.recv(100).endswith(END)
        assert room.look().status is Status.PASS
        assert room.refused == []
        with room.connect() as too_many:
            too_many.sendall(frame(b"two"))
            assert room.reasons(1) == ["too many connections"]
        sender.sendall(frame(b"three"))
        assert sender.recv(100) == frame(b"ACK:three")


def test_a_door_that_closes_ends_the_looks() -> None:
    with opened(ELSEWHERE) as room:
        silent = room.connect()
        assert settled(lambda: len(room.door._open) == 1)
        begun = time.monotonic()
        room.door.stop()
        assert time.monotonic() - begun < 1.5
        silent.close()
    assert room.refused == []


def test_a_connection_that_only_the_system_accepted_is_dead() -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        outcome = mllp_connect("127.0.0.1", nobody.getsockname()[1], 0.2)
        assert (outcome.status, "takes no connection" in outcome.output) == (Status.FAIL, True)
        port = nobody.getsockname()[1]
    outcome = mllp_connect("127.0.0.1", port, 0.2)
    assert (outcome.status, "nobody is at port" in outcome.output) == (Status.FAIL, True)


def test_another_program_at_the_port_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet() -> None:
            with server.accept()[0] as connection:
                connection.sendall(b"220 mail")

        thread = threading.Thread(target=greet)
        thread.start()
        outcome = mllp_connect("127.0.0.1", server.getsockname()[1], 5.0)
        thread.join()
    assert (outcome.status, "it speaks first" in outcome.output) == (Status.FAIL, True)
