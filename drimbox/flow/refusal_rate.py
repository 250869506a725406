"""Which refusals of strangers get a row of their own, and which are counted: nobody fills the disk by being refused.

In each period the first refusals are rows, up to a number per (address, slug) and a number in all; the others are
counted per (address, slug), told in one row each at the end of the period, and when too many addresses come, together.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from datetime import datetime

OTHERS = "(others)"


@dataclass(slots=True)
class Repeated:
    """Refusals that have no row of their own: how many, and when the last of them was."""

    address: str
    slug: str
    status: int
    count: int
    last: datetime


@dataclass
class RefusalRate:
    """`own`: rows per (address, slug), `rows`: rows in all, `pairs`: counts told apart; each in `period` seconds.

    At most rows + pairs + one per slug are written in a period: about 250 a minute as it stands.
    """

    period: float = 60.0
    own: int = 20
    rows: int = 120
    pairs: int = 128
    _end: float = field(default=float("-inf"), init=False)
    _written: int = field(default=0, init=False)
    _own: dict[tuple[str, str], int] = field(default_factory=dict, init=False)
    _counted: dict[tuple[str, str], Repeated] = field(default_factory=dict, init=False)
    _told: list[Repeated] = field(default_factory=list, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def has_own_row(self, address: str, slug: str, status: int, at: datetime, instant: float) -> bool:
        """Whether this refusal is a row; else it is counted. `instant`: monotonic seconds."""
        key = (address, slug)
        with self._lock:
            self._turn(instant)
            mine = self._own.get(key, 0)
            if mine < self.own and self._written < self.rows:
                self._own[key] = mine + 1
                self._written += 1
                return True
            self._count(key, status, at)
            return False

    def due(self, instant: float) -> list[Repeated]:
        """The counts of periods that are over, each told once."""
        with self._lock:
            self._turn(instant)
            told, self._told = self._told, []
            return told

    def _turn(self, instant: float) -> None:
        if instant < self._end:
            return
        self._told += self._counted.values()
        self._own, self._counted, self._written = {}, {}, 0
        self._end = instant + self.period

    def _count(self, key: tuple[str, str], status: int, at: datetime) -> None:
        if key not in self._counted and len(self._counted) >= self.pairs:
            key = (OTHERS, key[1])
        counted = self._counted.setdefault(key, Repeated(*key, status, 0, at))
        counted.count, counted.last = counted.count + 1, at
