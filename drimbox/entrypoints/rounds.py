"""What a process does from time to time: a thread per job, by the clock that nobody can set."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

STOP_SECONDS = 10.0  # for the jobs under way, all together


class Rounds:
    """Jobs that come again and again until `stop`. None waits for another, none overlaps itself.

    A job must not raise. Time is monotonic: a wall clock that is set back delays nothing.
    """

    def __init__(self) -> None:
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []

    def every(
        self, seconds: float, name: str, job: Callable[[], object], *, first: float = 0.0, jitter: float = 0.0
    ) -> None:
        """Run `job` after `first` seconds, then `seconds` after each start of it, or late; give or take `jitter`."""
        thread = threading.Thread(
            target=self._repeat, args=(seconds, job, first, jitter), name=name, daemon=True
        )
        self._threads.append(thread)

    def start(self) -> None:
        """Every job begins to wait for its turn."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Begin no more, and wait for what is under way."""
        self._stopping.set()
        deadline = time.monotonic() + STOP_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _repeat(self, seconds: float, job: Callable[[], object], first: float, jitter: float) -> None:
        due = time.monotonic() + first
        while not self._stopping.wait(max(0.0, due - time.monotonic())):
            begun = time.monotonic()
            job()
            due = begun + max(0.0, seconds + random.uniform(-jitter, jitter))  # noqa: S311 no secret: spreads load
