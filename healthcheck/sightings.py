"""Unknown addresses that say they are probes, and what the filter answered, seen by every process of a door.

Anonymous memory made before the fork (trust-and-identity 6.5: two such addresses = look at the list now).
"""

from __future__ import annotations

import mmap
import struct
import time
from collections.abc import Callable
from math import inf
from typing import NamedTuple

from healthcheck.client_address import parse_address

PLACES = 16  # addresses that one process remembers
_CLEARED = struct.Struct("=d")
_COUNTS = struct.Struct("=qq")
_SIGHT = struct.Struct("=16sd")  # address (IPv4 as mapped), monotonic second
_NOBODY = bytes(16)
_MAPPED = bytes(10) + b"\xff\xff"
_AREA = _COUNTS.size + PLACES * _SIGHT.size


class Totals(NamedTuple):
    """Requests of the health check since the start, over all processes."""

    refused: int
    allowed: int


class Sightings:
    """Shared by `processes`; each calls `take_slot` with its number after the fork.

    A process writes only its own part: no lock. A torn read shows an address that nobody has: the list is then
    looked at once too often. `monotonic`: seconds, the same clock in every process.
    """

    def __init__(self, processes: int = 1, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._processes, self._monotonic = processes, monotonic
        self._memory = mmap.mmap(-1, _CLEARED.size + processes * _AREA)
        self._slot = 0
        _CLEARED.pack_into(self._memory, 0, -inf)

    def take_slot(self, number: int) -> None:
        """This process is number `number`. What one before it counted stays: it is evidence."""
        self._slot = number

    def count(self, allowed: bool) -> None:
        """One more request was answered, or refused."""
        at = self._area(self._slot)
        refused, answered = _COUNTS.unpack_from(self._memory, at)
        _COUNTS.pack_into(self._memory, at, refused + (not allowed), answered + allowed)

    def totals(self) -> Totals:
        """What all processes counted."""
        counts = [_COUNTS.unpack_from(self._memory, self._area(slot)) for slot in range(self._processes)]
        return Totals(sum(refused for refused, _ in counts), sum(allowed for _, allowed in counts))

    def note(self, address: str) -> None:
        """An unknown address whose user-agent is a probe's. The one seen longest ago makes room; what is no address
        is not noted.
        """
        packed = _packed(address)
        if packed is None:
            return
        seen = self._sights(self._slot)
        known = [place for place, (found, _) in enumerate(seen) if found == packed]
        place = known[0] if known else min(range(PLACES), key=lambda n: _instant(seen[n]))
        at = self._area(self._slot) + _COUNTS.size + place * _SIGHT.size
        _SIGHT.pack_into(self._memory, at, packed, self._monotonic())

    def distinct(self, within_seconds: float) -> int:
        """How many different addresses were noted in that time and since `clear`, over all processes."""
        after = max(self._monotonic() - within_seconds, _CLEARED.unpack_from(self._memory, 0)[0])
        sights = [sight for slot in range(self._processes) for sight in self._sights(slot)]
        return len({found for found, instant in sights if found != _NOBODY and instant > after})

    def clear(self) -> None:
        """Forget every address noted so far; for the one process that looks at the list."""
        _CLEARED.pack_into(self._memory, 0, self._monotonic())

    def _area(self, slot: int) -> int:
        return _CLEARED.size + slot * _AREA

    def _sights(self, slot: int) -> list[tuple[bytes, float]]:
        start = self._area(slot) + _COUNTS.size
        return list(_SIGHT.iter_unpack(self._memory[start : start + PLACES * _SIGHT.size]))


def _packed(address: str) -> bytes | None:
    found = parse_address(address)
    if found is None:
        return None
    return _MAPPED + found.packed if found.version == 4 else found.packed


def _instant(sight: tuple[bytes, float]) -> float:
    return -inf if sight[0] == _NOBODY else sight[1]
