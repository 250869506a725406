"""Probes in threads, deadlines, and the board that forked processes share."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import pairwise

import pytest

from healthcheck.board import Board
from healthcheck.probe import Outcome, Probe, ProbeResult, Status
from healthcheck.runner import Runner

PASS, WARN, FAIL = Status


class Running:
    """A runner and what it said."""

    def __init__(self, *probes: Probe) -> None:
        self.published: tuple[ProbeResult, ...] = ()
        self.changes: list[tuple[str, Status | None, Status]] = []
        self.runner = Runner(probes, self._publish, self._changed, lambda: datetime.now(UTC), time.monotonic)

    def _publish(self, results: tuple[ProbeResult, ...]) -> None:
        self.published = results

    def _changed(self, before: ProbeResult | None, now: ProbeResult) -> None:
        self.changes.append((now.name, before and before.outcome.status, now.outcome.status))

    def result(self, name: str) -> ProbeResult | None:
        return next((one for one in self.published if one.name == name), None)


def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)


@pytest.fixture
def start() -> Iterator[Callable[..., Running]]:
    running: list[Running] = []

    def go(*probes: Probe) -> Running:
        running.append(Running(*probes))
        running[-1].runner.start()
        return running[-1]

    yield go
    for one in running:
        one.runner.stop()


def test_each_probe_is_looked_at_in_its_period(start: Callable[..., Running]) -> None:
    looks: list[float] = []

    def look() -> Outcome:
        looks.append(time.monotonic())
        return Outcome(value=len(looks))

    running = start(Probe("a:b", look, 0.1, 0.05))
    until(lambda: len(looks) >= 4)
    gaps = [after - before for before, after in pairwise(looks)]
    assert min(gaps) >= 0.09
    result = running.result("a:b")
    assert result is not None and result.outcome.value in (len(looks), len(looks) - 1)
    assert running.changes == [("a:b", None, PASS)]


def test_what_raises_fails_and_comes_back(start: Callable[..., Running]) -> None:
    broken = threading.Event()
    broken.set()

    def look() -> Outcome:
        if broken.is_set():
            raise ZeroDivisionError("patient DUPONT")
        return Outcome()

    running = start(Probe("a:b", look, 0.05, 0.04))
    until(lambda: running.result("a:b"))
    result = running.result("a:b")
    assert result is not None
    assert (result.outcome.status, result.outcome.output) == (FAIL, "the look failed: ZeroDivisionError")
    broken.clear()
    until(lambda: len(running.changes) == 2)
    assert running.changes == [("a:b", None, FAIL), ("a:b", FAIL, PASS)]


def test_a_look_that_hangs_fails_in_time_and_holds_up_no_other(start: Callable[..., Running]) -> None:
    free = threading.Event()

    def hang() -> Outcome:
        free.wait(30)
        return Outcome()

    begun = time.monotonic()
    running = start(Probe("hung:up", hang, 0.5, 0.2), Probe("a:b", Outcome, 0.05, 0.04))
    until(lambda: running.result("hung:up"))
    assert time.monotonic() - begun < 2.0
    first = running.result("hung:up")
    assert first is not None and first.outcome.status is FAIL
    assert first.outcome.output.startswith("no answer within the deadline")
    until(lambda: running.result("hung:up") is not first)  # told again: it is failing, not stale
    other = running.result("a:b")
    assert other is not None and other.outcome.status is PASS
    free.set()
    until(lambda: ("hung:up", FAIL, PASS) in running.changes)


def test_stopped_it_leaves_no_thread(start: Callable[..., Running]) -> None:
    running = start(Probe("a:b", Outcome, 60, 1), Probe("c:d", Outcome, 60, 1))
    until(lambda: len(running.published) == 2)
    running.runner.stop()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("probe ")]


def test_forked_processes_read_what_one_of_them_wrote() -> None:
    board = Board(1000)
    assert board.read() == (0, b"")
    for number, notice in enumerate((b"first", b"", b"x" * 1000, b"last"), 1):
        pid = os.fork()
        if not pid:
            board.write(notice)
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        assert board.read() == (2 * number, notice)
    with pytest.raises(ValueError, match="1001 bytes"):
        board.write(b"x" * 1001)
    assert board.read()[1] == b"last"


def test_a_reader_never_sees_half_a_notice_whenever_the_writer_dies() -> None:
    board = Board(100_000)
    for _ in range(20):
        pid = os.fork()
        if not pid:
            while True:
                for letter in b"abc":
                    board.write(bytes([letter]) * (1000 * (letter - 90)))
        seen = set()
        for _ in range(300):
            notice = board.read()[1]
            assert len(set(notice)) <= 1
            seen.add(len(notice))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        assert len(set(board.read()[1])) <= 1
    board.write(b"after all")
    assert board.read()[1] == b"after all"
