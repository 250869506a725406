"""The threads of a worker: they go on while there is work, wake each other, outlive a defect, and stop."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from drimbox.domain.errors import Unavailable
from drimbox.entrypoints.worker import Crew, worker_jobs

DEADLINE = 10.0


@contextmanager
def at_work(jobs: dict[str, Callable[[], int]]) -> Iterator[Crew]:
    crew = Crew(jobs)
    crew.start()
    try:
        yield crew
    finally:
        crew.stop()


def test_a_job_goes_on_while_it_finds_work_and_then_rests() -> None:
    left, calls, rested = [3, 2, 1], [], threading.Event()

    def job() -> int:
        calls.append(1)
        if left:
            return left.pop()
        rested.set()
        return 0

    with at_work({"job": job}):
        assert rested.wait(DEADLINE)
    assert len(calls) <= 5  # three with work, one without, at most one more at the end
    assert not left


def test_work_done_wakes_those_who_rest() -> None:
    prepared, sent, published_nothing = threading.Event(), threading.Event(), threading.Event()

    def reconcile() -> int:
        if published_nothing.is_set() and not prepared.is_set():
            prepared.set()
            return 1
        return 0

    def publish() -> int:
        if prepared.is_set():
            sent.set()
        published_nothing.set()
        return 0

    with at_work(worker_jobs(reconcile, publish, 2)) as crew:
        assert published_nothing.wait(DEADLINE)
        crew.wake()
        assert sent.wait(DEADLINE)


def test_a_call_to_wake_during_the_work_is_not_lost() -> None:
    begun, go_on, again = threading.Event(), threading.Event(), threading.Event()

    def job() -> int:
        if begun.is_set():
            again.set()
            return 0
        begun.set()
        assert go_on.wait(DEADLINE)
        return 0

    with at_work({"job": job}) as crew:
        assert begun.wait(DEADLINE)
        crew.wake()
        go_on.set()
        assert again.wait(DEADLINE)


def test_a_defect_is_survived_and_does_not_make_it_spin() -> None:
    failures: list[Exception] = [RuntimeError("a defect"), Unavailable("the disk is full")]
    calls, failed, worked = [], threading.Event(), threading.Event()

    def job() -> int:
        calls.append(1)
        if failures:
            failed.set()
            raise failures.pop()
        worked.set()
        return 0

    with at_work({"job": job}) as crew:
        for _ in range(2):
            assert failed.wait(DEADLINE)
            failed.clear()
            crew.wake()
        assert worked.wait(DEADLINE)
    assert len(calls) <= 4


def test_stop_waits_for_the_work_at_hand() -> None:
    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def job() -> int:
        begun.set()
        assert go_on.wait(DEADLINE)
        ended.set()
        return 1

    crew = Crew({"job": job})
    crew.start()
    assert begun.wait(DEADLINE)
    stopper = threading.Thread(target=crew.stop)
    stopper.start()
    assert stopper.is_alive()
    go_on.set()
    stopper.join(DEADLINE)
    assert ended.is_set()
    assert not stopper.is_alive()
