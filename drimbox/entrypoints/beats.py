"""The beats of forked processes, in memory that their parent sees: each proves that its event loop turns."""

from __future__ import annotations

import mmap
import time

_DOUBLE = 8  # bytes; aligned, so that it is written whole


class Beats:
    """Of `count` processes. Made before the fork."""

    def __init__(self, count: int) -> None:
        self._room = mmap.mmap(-1, _DOUBLE * count)
        self._instants = memoryview(self._room).cast("d")

    def beat(self, number: int) -> None:
        """Process `number` lives."""
        self._instants[number] = time.monotonic()

    def all_within(self, seconds: float) -> bool:
        """Whether every process has said so within the last `seconds`."""
        since = time.monotonic() - seconds
        return all(instant > 0 and instant > since for instant in self._instants)
