"""Jobs of a process come in their time, whatever the wall clock says, and end with it."""

from __future__ import annotations

import threading
import time
from itertools import pairwise

from drimbox.entrypoints.rounds import Rounds


def test_each_job_comes_again_and_none_waits_for_another() -> None:
    rounds, quick, slow, free = Rounds(), [], threading.Event(), threading.Event()
    enough = threading.Event()

    def count() -> None:
        quick.append(time.monotonic())
        if len(quick) == 5:
            enough.set()

    def hang() -> None:
        slow.set()
        free.wait(20)

    late: list[float] = []
    begun = time.monotonic()
    rounds.every(0.05, "quick", count)
    rounds.every(0.05, "slow", hang)
    rounds.every(60, "late", lambda: late.append(time.monotonic()), first=0.3)
    rounds.start()
    assert enough.wait(10)
    assert slow.wait(10)
    assert min(after - before for before, after in pairwise(quick)) > 0.04
    while not late:
        assert time.monotonic() < begun + 10
        time.sleep(0.01)
    assert late[0] - begun >= 0.3
    free.set()
    rounds.stop()
    ended = len(quick)
    time.sleep(0.2)
    assert len(quick) == ended
    assert len(late) == 1
