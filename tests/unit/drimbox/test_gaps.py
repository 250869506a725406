"""Skipped ids: what is between, what is left when some appear."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from drimbox.domain.gaps import Gap, skipped, without

NOW = datetime(2026, 10, 1, 12, 0, tzinfo=UTC)


def ids(gaps: list[Gap]) -> set[int]:
    return {one for gap in gaps for one in range(gap.first, gap.last + 1)}


def test_nothing_is_skipped_between_neighbours() -> None:
    assert skipped(3, [4, 5, 6], NOW) == []
    assert skipped(3, [], NOW) == []


def test_what_is_between() -> None:
    assert skipped(3, [5, 9], NOW) == [Gap(4, 4, NOW), Gap(6, 8, NOW)]


def test_a_gap_keeps_the_instant_when_it_was_seen() -> None:
    assert without([Gap(1, 9, NOW)], [5]) == [Gap(1, 4, NOW), Gap(6, 9, NOW)]


@given(st.sets(st.integers(1, 60), min_size=1), st.sets(st.integers(1, 60)))
def test_no_id_is_lost_and_none_is_looked_for_twice(there: set[int], late: set[int]) -> None:
    gaps = skipped(0, sorted(there), NOW)
    assert ids(gaps) == set(range(1, max(there))) - there
    left = without(gaps, late)
    assert ids(left) == ids(gaps) - late
    assert sum(gap.last - gap.first + 1 for gap in left) == len(ids(left))
    assert all(gap.first <= gap.last for gap in left)
