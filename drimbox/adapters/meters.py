"""The numbers of one process, in its own memory: an increment takes well under a microsecond and touches no file.

A thread of the process writes them to a file now and then (`meter_files.py`), which the web door merges.

Measured against prometheus_client's multiprocess mode (one mmap per kind and pid, written at each increment): the three
numbers of an instance cost 3.6 microseconds there and 0.7 here, and it leaves a file for every process that ever died
and must be configured by an environment variable before its first import.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable
from typing import Any

from drimbox.domain import measures
from drimbox.domain.measures import Measure

Sample = list[Any]  # name, values of the labels, value: a number, or [counts by bucket, sum] of a histogram


class Tally:
    """A number that only grows."""

    __slots__ = ("_lock", "value")

    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock
        self.value: float = 0

    def add(self, amount: float = 1) -> None:
        """So much more."""
        with self._lock:
            self.value += amount


class Timing:
    """How often what took how long. `counts`: by bucket, the last one for what is longer than every bound."""

    __slots__ = ("_bounds", "_lock", "counts", "total")

    def __init__(self, bounds: tuple[float, ...], lock: threading.Lock) -> None:
        self._bounds, self._lock = bounds, lock
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, seconds: float) -> None:
        """It took so long, once."""
        with self._lock:
            self.counts[bisect_left(self._bounds, seconds)] += 1
            self.total += seconds


class Meters:
    """Safe for threads; a process that forks makes new ones in each child.

    `process`: whose they are, once it serves.
    """

    def __init__(self) -> None:
        self.process = ""
        self._lock = threading.Lock()
        self._tallies: dict[tuple[Measure, tuple[str, ...]], Tally] = {}
        self._timings: dict[tuple[Measure, tuple[str, ...]], Timing] = {}
        self._reads: dict[tuple[Measure, tuple[str, ...]], Callable[[], float]] = {}

    def tally(self, measure: Measure, *labels: str) -> Tally:
        """The counter of these values of its labels, in their order."""
        with self._lock:
            return self._tallies.setdefault(_key(measure, labels), Tally(self._lock))

    def timing(self, measure: Measure, *labels: str) -> Timing:
        """The histogram of these values of its labels."""
        with self._lock:
            return self._timings.setdefault(_key(measure, labels), Timing(measure.bounds, self._lock))

    def watch(self, measure: Measure, read: Callable[[], float], *labels: str) -> None:
        """`read` gives the number whenever it is asked for, from any thread."""
        with self._lock:
            self._reads[_key(measure, labels)] = read

    def samples(self) -> list[Sample]:
        """Every number now, as JSON."""
        with self._lock:
            found: list[Sample] = [[m.name, [*at], one.value] for (m, at), one in self._tallies.items()]
            found += [[m.name, [*at], [[*one.counts], one.total]] for (m, at), one in self._timings.items()]
            reads = list(self._reads.items())
        return found + [[m.name, [*at], read()] for (m, at), read in reads]


def _key(measure: Measure, labels: tuple[str, ...]) -> tuple[Measure, tuple[str, ...]]:
    if len(labels) != len(measure.labels):
        raise ValueError(f"{measure.name} has the labels {measure.labels}")
    return measure, labels


def exchange_counter(meters: Meters) -> Callable[[str, str, float], None]:
    """Counts and times exchanges with the DMP: called with transaction, outcome, seconds."""

    def told(transaction: str, outcome: str, seconds: float) -> None:
        meters.tally(measures.ATTEMPTS, transaction, outcome).add()
        meters.timing(measures.ATTEMPT_SECONDS, transaction).add(seconds)

    return told
