"""The association under abuse: any PDUs in any order, any byte changed, cut at every byte. It ends, and leaks nothing.

The association under test is the real one over a socket pair; the sink records. `soak` makes more than 100,000 cases.
"""

from __future__ import annotations

import os
import random
import socket
import struct
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from dicom_store.admission import Terms
from dicom_store.association import Association
from dicom_store.connections import Connections
from dicom_store.sink import ServiceAnswer
from dicom_store.status import Outcome, StoreRefused
from fixtures import raw_association as raw
from fixtures.raw_association import (
    COMMITMENT,
    EXPLICIT,
    IMPLICIT,
    SECONDARY_CAPTURE,
    VERIFICATION,
    RawPeer,
    pdv,
)
from fixtures.sinks import Recorder

MAXIMUM = 50_000
EVERY_ANSWER = {2, 3, 4, 6, 7}  # A-ASSOCIATE-AC and -RJ, P-DATA-TF, A-RELEASE-RP, A-ABORT
CONTEXTS = {
    1: (SECONDARY_CAPTURE, (EXPLICIT,)),
    3: (SECONDARY_CAPTURE, (IMPLICIT,)),
    5: (VERIFICATION, (IMPLICIT,)),
    7: (COMMITMENT, (IMPLICIT,)),
}
ACTION = raw.with_length(
    raw.ui(3, COMMITMENT) + raw.us(0x100, raw.N_ACTION) + raw.us(0x110, 8) + raw.us(0x800, 1) + raw.ui(0x1001, "1.2")
    + raw.us(0x1008, 1)
)  # fmt: skip


class Commitment:
    """Answers success."""

    def handle(self, *_: Any) -> ServiceAnswer:
        return ServiceAnswer(0, {})


class Room:
    """An association that is served, and what can be said of it when it is over."""

    def __init__(self, seconds: float = 5.0) -> None:
        self.recorder = Recorder()
        self.refused: list[str] = []
        self.connections = Connections(4)
        self.terms = Terms(
            "DRIMBOX", frozenset({"PACS"}), seconds, seconds, MAXIMUM, self.recorder.open,
            lambda _peer, reason: self.refused.append(reason), {COMMITMENT: Commitment()}, pause=0.0, closing=seconds,
        )  # fmt: skip
        self.ours, theirs = socket.socketpair()
        self.peer = RawPeer(theirs, seconds)
        assert self.connections.enter(self.ours, "192.0.2.1")
        self.place = self.connections.place(self.ours)

    def run(self) -> None:
        """To its end."""
        with self.ours:
            Association(self.ours, self.place, self.connections, self.terms).run()

    def broken(self) -> list[str]:
        """After its end, whatever happened: the promises that were not kept."""
        recorder = self.recorder
        endings = [one.ending for one in recorder.arrivals]
        self.connections.leave(self.ours)
        return unkept(
            {
                "it is associated no longer": not self.place.associated,
                "the sink was closed, once": recorder.closed == len(recorder.opened) <= 1,
                "every arrival came to an end": set(endings) <= {"complete", "abandoned"},
                "nothing was stored above the limit": all(
                    len(data) <= MAXIMUM for _, data in recorder.requests
                ),
                "only what was complete was stored": len(recorder.requests) <= endings.count("complete"),
                "no connection is left": self.connections.wait_until_none(0),
            }
        )

    def said(self) -> list[int]:
        """Types of the PDUs that it sent, all whole."""
        kinds: list[int] = []
        while kind := self.peer.receive()[0]:
            kinds.append(kind)
        return kinds


def unkept(promises: dict[str, bool]) -> list[str]:
    return [promise for promise, kept in promises.items() if not kept]


def misspoken(kinds: list[int]) -> list[str]:
    """What no acceptor may say (PS3.8 9.2)."""
    return unkept(
        {
            "nothing is said after a last PDU": not {3, 6, 7}.intersection(kinds[:-1]),
            "only an acceptor's PDUs": set(kinds) <= {2, 3, 4, 6, 7},
            "accepted at first or never": 2 not in kinds[1:],
        }
    )


@dataclass(frozen=True)
class Played:
    """A session that is over. `broken`: the promises that were not kept."""

    room: Room
    kinds: list[int]
    broken: list[str]

    @property
    def stored(self) -> list[bytes]:
        return [data for _, data in self.room.recorder.requests]


def play(data: bytes) -> Played:
    """All of it at once, then the end: in this thread."""
    room = Room()
    room.peer.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    room.peer.connection.setblocking(False)
    sent = room.peer.connection.send(data)
    assert sent == len(data)
    room.peer.connection.settimeout(5)
    room.peer.connection.shutdown(socket.SHUT_WR)
    room.run()
    kinds = room.said()
    room.peer.connection.close()
    return Played(room, kinds, [*misspoken(kinds), *room.broken()])


def held() -> tuple[int, int]:
    """File descriptors and threads of this process."""
    return len([*Path("/proc/self/fd").iterdir()]), threading.active_count()


# --- recorded sessions, mutated -----------------------------------------------------------------------------

DATA = struct.pack("<HH2sH", 8, 0x18, b"UI", 6) + b"1.2.3\0" + bytes(range(256)) * 4
REQUEST = raw.request(CONTEXTS)
STORE = b"".join(raw.message(1, raw.store_command(), DATA, 300))
SESSIONS = (
    REQUEST + STORE + raw.RELEASE,
    REQUEST + b"".join(raw.message(5, raw.echo_command(), None)) + raw.RELEASE,
    REQUEST + b"".join(raw.message(7, ACTION, b"information")) + raw.RELEASE,
    REQUEST + b"".join(raw.message(3, raw.store_command(), DATA, 7)) + raw.abort(),
    raw.request(CONTEXTS, information=raw.user_information(more=raw.item(0x53, b"\0\1\0\1"))) + raw.RELEASE,
)


def test_the_sessions_are_sound() -> None:
    played = [play(session) for session in SESSIONS]
    assert [one.kinds for one in played] == [[2, 4, 6], [2, 4, 6], [2, 4, 6], [2, 4], [2, 6]]
    assert [one.broken for one in played] == [[]] * len(SESSIONS)
    assert played[0].stored == [DATA]


def mutant(dice: random.Random) -> bytes:
    """A session with bytes changed, cut out, doubled or put in; headers are hit more often."""
    session = bytearray(dice.choice(SESSIONS))
    for _ in range(dice.choice((1, 1, 1, 2, 3, 8))):
        at = dice.randrange(len(session)) if dice.random() < 0.5 else dice.choice(starts(session))
        at = min(at + dice.randrange(14), len(session) - 1)
        kind = dice.randrange(6)
        if kind == 0:
            session[at] ^= 1 << dice.randrange(8)
        elif kind == 1:
            session[at] = dice.choice((0, 1, 2, 3, 4, 5, 6, 7, 0x7F, 0x80, 0xFE, 0xFF))
        elif kind == 2:
            del session[at : at + dice.randrange(1, 40)]
        elif kind == 3:
            session[at:at] = session[at : at + dice.randrange(1, 200)]
        elif kind == 4:
            session[at:at] = dice.randbytes(dice.randrange(1, 20))
        else:
            del session[at:]
        if not session:
            break
    return bytes(session)


def starts(session: bytes | bytearray) -> list[int]:
    """Where PDUs begin, as far as the lengths lead."""
    found, at = [0], 0
    while at + 6 <= len(session):
        at += 6 + int(struct.unpack_from(">L", session, at + 2)[0])
        if at < len(session):
            found.append(at)
    return found


def fuzz(cases: int, seed: int) -> tuple[set[int], list[str]]:
    """Types of the PDUs that were said to mutants, and each case that broke a promise."""
    dice, kinds, broken = random.Random(seed), set[int](), list[str]()
    for number in range(cases):
        data = mutant(dice)
        case = f"case {number} of seed {seed}: {data.hex()}"
        try:
            played = play(data)
        except BaseException as error:
            error.add_note(case)
            raise
        kinds.update(played.kinds)
        broken += [f"{promise}: {case}" for promise in played.broken]
    return kinds, broken


@pytest.mark.filterwarnings("ignore")  # pydicom warns of the UIDs of hostile requests
def test_mutants_of_sessions() -> None:
    before = held()
    assert fuzz(1400, 20260101) == (EVERY_ANSWER, [])
    assert held() == before


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(10))
def test_many_mutants_of_sessions(seed: int) -> None:
    before = held()
    assert fuzz(11_000, seed) == (EVERY_ANSWER, [])
    assert held() == before


def test_cut_at_every_byte() -> None:
    """An association that dies at every byte of an instance: it is stored whole or not at all."""
    session, before = REQUEST + STORE, held()
    for length in range(len(session)):
        played = play(session[:length])
        arrivals = played.room.recorder.arrivals
        assert (played.broken, played.stored) == ([], [])
        assert [one.ending for one in arrivals] in ([], ["abandoned"])
        within = length >= len(REQUEST) + 12  # the headers of the first PDU and of its PDV
        assert bool(played.room.refused) == (within or 0 < length < len(REQUEST))
    whole = play(session)
    assert (whole.broken, whole.stored) == ([], [DATA])
    assert held() == before


# --- time ---------------------------------------------------------------------------------------------------


def test_a_request_has_a_time_of_its_own() -> None:
    room = Room(seconds=30.0)
    room.terms = replace(room.terms, artim=0.3)
    started = time.monotonic()
    room.run()
    assert time.monotonic() - started < 3
    assert room.peer.receive() == (0, b"")
    room.peer.connection.close()
    assert room.broken() == []


def test_a_slow_pdu_does_not_shorten_the_silence_that_follows() -> None:
    """The rest of one deadline is not the next one."""
    before = held()
    room = Room(seconds=1.0)
    served = threading.Thread(target=room.run)
    served.start()
    room.peer.associate(CONTEXTS)
    first = next(iter(raw.message(5, raw.echo_command(), None)))
    for part in (first[:10], first[10:20], first[20:]):
        time.sleep(0.28)
        room.peer.send(part)
    assert raw.number(room.peer.answer(), 0x900) == 0
    time.sleep(0.8)
    assert room.peer.echo() == 0
    room.peer.release()
    room.peer.connection.close()
    served.join(5)
    assert held() == before
    assert room.broken() == []


# --- the state machine --------------------------------------------------------------------------------------

SIZES = st.integers(0, 3000)
CONTEXT = st.sampled_from([1, 3])


class Hostile(RuleBasedStateMachine):
    """A peer that does what is right and then what is wrong, beside a model of what must come of it."""

    ends: list[list[str]]  # of each association: the promises that were not kept

    @initialize()
    def associate(self) -> None:
        self.room = Room()
        self.thread = threading.Thread(target=self.room.run, daemon=True)
        self.thread.start()
        self.kept: list[bytes] = []
        self.room.peer.associate(CONTEXTS)
        self.alive = True

    @precondition(lambda self: not self.alive)
    @rule()
    def associate_again(self) -> None:
        self.finish()
        self.associate()

    @precondition(lambda self: self.alive)
    @rule(context=CONTEXT, size=SIZES, cut=st.integers(1, 400), packed=st.booleans())
    def store(self, context: int, size: int, cut: int, packed: bool) -> None:
        data = os.urandom(size)
        if packed:
            parts = [data[at : at + cut] for at in range(0, max(size, 1), cut)]
            pdvs = [pdv(context, 3, raw.store_command())]
            pdvs += [pdv(context, 2 if n == len(parts) - 1 else 0, part) for n, part in enumerate(parts)]
            self.room.peer.send(raw.p_data(*pdvs))
        else:
            self.room.peer.send(*raw.message(context, raw.store_command(), data, cut))
        assert raw.number(self.room.peer.answer(), 0x900) == 0
        self.kept.append(data)

    @precondition(lambda self: self.alive)
    @rule(outcome=st.sampled_from([one for one in Outcome if one not in (Outcome.STORED, Outcome.DUPLICATE)]))
    def refused_store(self, outcome: Outcome) -> None:
        self.room.recorder.failure = StoreRefused(outcome, "no")
        assert self.room.peer.store(b"refused") not in (0, 0x0122)
        self.room.recorder.failure = None

    @precondition(lambda self: self.alive)
    @rule()
    def echo(self) -> None:
        assert self.room.peer.echo() == 0

    @precondition(lambda self: self.alive)
    @rule()
    def action(self) -> None:
        self.room.peer.send(*raw.message(7, ACTION, b"information"))
        assert raw.number(self.room.peer.answer(), 0x900) == 0

    @precondition(lambda self: self.alive)
    @rule(field=st.sampled_from([0x10, 0x20, 0x21, 0x100, 0x110, 0x120, 0x140, 0x150, 0x7FFF]))
    def unknown_operation(self, field: int) -> None:
        command = raw.with_length(raw.us(0x100, field) + raw.us(0x110, 3) + raw.us(0x800, 0x0101))
        self.room.peer.send(*raw.message(1, command, None))
        assert raw.number(self.room.peer.answer(), 0x900) == 0x0211

    @precondition(lambda self: self.alive)
    @rule()
    def release(self) -> None:
        self.room.peer.send(raw.RELEASE)
        self.ended(6)

    @precondition(lambda self: self.alive)
    @rule(size=st.integers(0, 2000))
    def cut_off(self, size: int) -> None:
        self.room.peer.send((raw.store(1, bytes(1500)))[:size])
        self.room.peer.connection.shutdown(socket.SHUT_WR)
        if size >= len(raw.store(1, bytes(1500))):
            self.kept.append(bytes(1500))
            assert raw.number(self.room.peer.answer(), 0x900) == 0
        self.ended(0)

    @precondition(lambda self: self.alive)
    @rule(
        breach=st.sampled_from(
            [
                raw.p_data(pdv(1, 2, b"data without command")),
                raw.p_data(pdv(9, 3, raw.store_command())),
                raw.p_data(pdv(1, 3, raw.store_command()), pdv(3, 2, b"x")),
                raw.p_data(pdv(1, 3, raw.store_command()), pdv(1, 3, raw.store_command())),
                raw.p_data(pdv(1, 3, raw.store_command()), pdv(1, 0, b"x", announced=999)),
                raw.p_data(pdv(1, 3, b"not a command")),
                raw.p_data(),
                raw.pdu(4, b"", announced=2**32 - 1),
                raw.p_data(*[pdv(1, 0, b"")] * 200),
                raw.pdu(0, b""),
                raw.pdu(2, bytes(8)),
                raw.pdu(3, bytes(4)),
                raw.RELEASED,
                REQUEST,
                b"".join(raw.message(1, raw.store_command(), bytes(MAXIMUM + 1))),
            ]
        )
    )
    def breach(self, breach: bytes) -> None:
        self.room.peer.send(breach)
        self.ended(7)

    @precondition(lambda self: self.alive)
    @rule()
    def peer_aborts(self) -> None:
        self.room.peer.send(raw.abort())
        self.ended(0)

    @precondition(lambda self: self.alive)
    @rule()
    def stopped(self) -> None:
        assert self.room.place.stop is not None
        self.room.place.stop()
        self.ended(7)

    def ended(self, last: int) -> None:
        """The last PDU is `last`, 0 = none."""
        self.alive = False
        kind, _ = self.room.peer.receive()
        assert kind == last
        self.room.peer.connection.close()

    def finish(self) -> None:
        self.thread.join(10)
        assert not self.thread.is_alive(), "it hangs"
        self.ends.append(self.room.broken())
        assert self.ends[-1] == []
        assert [data for _, data in self.room.recorder.requests] == self.kept

    def teardown(self) -> None:
        if self.alive:
            self.room.peer.release()
            self.room.peer.connection.close()
        self.finish()


def run_machine(examples: int) -> list[list[str]]:
    """Of each association that ended: the promises that were not kept."""
    ends: list[list[str]] = []
    run_state_machine_as_test(
        type("Hostile", (Hostile,), {"ends": ends}),
        settings=settings(
            max_examples=examples, stateful_step_count=12, deadline=None, database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip
    return ends


def test_any_order_of_right_and_wrong() -> None:
    before, ends = held(), run_machine(150)
    assert len(ends) >= 150
    assert [end for end in ends if end] == []
    assert held() == before


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_very_many_orders_of_right_and_wrong() -> None:
    before, ends = held(), run_machine(3000)
    assert len(ends) >= 3000
    assert [end for end in ends if end] == []
    assert held() == before
