"""How many rows of refusals strangers can cause: the first ones, then counts, never more than a bound."""

from __future__ import annotations

from datetime import UTC, datetime

from drimbox.flow.refusal_rate import OTHERS, RefusalRate

AT = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


def refuse(rate: RefusalRate, times: int, address: str = "192.0.2.1", instant: float = 0.0) -> int:
    """How many of them had a row of their own."""
    return sum(rate.has_own_row(address, "token-missing", 401, AT, instant) for _ in range(times))


def test_the_first_refusals_are_rows_and_the_others_are_counted_once() -> None:
    rate = RefusalRate(own=3)
    assert refuse(rate, 10) == 3
    assert rate.due(59.9) == []
    (repeated,) = rate.due(60.0)
    assert (repeated.address, repeated.slug, repeated.status, repeated.count) == (
        *("192.0.2.1", "token-missing", 401),
        7,
    )
    assert rate.due(61.0) == []


def test_a_new_period_begins_with_rows_again() -> None:
    rate = RefusalRate(own=3)
    refuse(rate, 10)
    assert refuse(rate, 10, instant=60.0) == 3
    assert [one.count for one in rate.due(60.0)] == [7]
    assert [one.count for one in rate.due(120.0)] == [7]


def test_all_addresses_together_are_bounded() -> None:
    rate = RefusalRate(own=2, rows=10, pairs=5)
    own = sum(refuse(rate, 5, f"2001:db8::{number:x}") for number in range(1000))
    counts = rate.due(float("inf"))
    assert own == 10
    assert len(counts) == 6
    assert sum(one.count for one in counts) == 5000 - 10
    assert max(counts, key=lambda one: one.count).address == OTHERS


def test_nothing_refused_is_nothing_told() -> None:
    assert RefusalRate().due(float("inf")) == []
