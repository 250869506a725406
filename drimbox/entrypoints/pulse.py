"""The signs of life of the worker: one row of its node, renewed every few seconds while it works."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from drimbox.flow.heartbeats import STOPPED, WORKER, WORKING, beat
from drimbox.flow.ports import Clock, Transactions


class Pulse:
    """`diary()`: what each job is doing, as JSON. Called from several threads."""

    def __init__(
        self, transactions: Transactions, node: str, clock: Clock, diary: Callable[[], Mapping[str, Any]]
    ) -> None:
        self._transactions, self._node, self._clock, self._diary = transactions, node, clock, diary
        self._lock = threading.Lock()
        self._stopped = False

    def beat(self) -> int:
        """Say that it works. Raises `errors.Unavailable`. 0: no work was done."""
        with self._lock:
            if not self._stopped:
                self._say(WORKING)
        return 0

    def stop(self) -> int:
        """Say that it was stopped; no beat that comes late takes that back. Raises `errors.Unavailable`."""
        with self._lock:
            self._stopped = True
            self._say(STOPPED)
        return 0

    def _say(self, state: str) -> None:
        detail = {"state": state, "jobs": dict(self._diary())}
        beat(self._transactions, self._node, WORKER, self._clock(), detail)
