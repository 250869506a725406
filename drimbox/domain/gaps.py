"""Ids that were skipped when rows were read in the order of their ids: ranges that are still looked for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple


class Gap(NamedTuple):
    """Ids from `first` to `last`, both included, that no row had when they were `seen` first."""

    first: int
    last: int
    seen: datetime


def skipped(after: int, ids: Sequence[int], now: datetime) -> list[Gap]:
    """The gaps between `after` and the highest of `ids` (ascending, all above it)."""
    pairs = zip((after, *ids), ids, strict=False)
    return [Gap(low + 1, high - 1, now) for low, high in pairs if high - low > 1]


def without(gaps: Iterable[Gap], ids: Iterable[int]) -> list[Gap]:
    """What is left of the gaps once rows of these ids have appeared."""
    found = sorted(set(ids))
    left: list[Gap] = []
    for gap in gaps:
        inside = [one for one in found if gap.first <= one <= gap.last]
        left += skipped(gap.first - 1, [*inside, gap.last + 1], gap.seen)
    return left
