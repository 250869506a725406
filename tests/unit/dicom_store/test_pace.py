"""How large a message a reader gets, and how long it has for it."""

from __future__ import annotations

import pytest

from dicom_store.transmit import CHUNK_BYTES, SMALL_BYTES, Pace


def steady(pace: Pace, rate: float, messages: int) -> None:
    """A reader that takes `rate` bytes a second: a message is handed over when the one before it is taken."""
    before = 0
    for _ in range(messages):
        count = pace.size
        pace.took(before / rate, count)
        before = count


@pytest.mark.parametrize(
    ("rate", "size"),
    [(2e6, SMALL_BYTES), (30e6, 150_000), (1e9, CHUNK_BYTES)],
    ids=["slow", "between", "fast"],
)
def test_a_message_takes_its_reader_a_glance(rate: float, size: int) -> None:
    pace = Pace(60)
    assert pace.size == CHUNK_BYTES
    steady(pace, rate, 20)
    assert pace.size == pytest.approx(size, rel=0.01)


def test_a_reader_that_becomes_fast_gets_large_messages_again() -> None:
    pace = Pace(60)
    steady(pace, 1e6, 10)
    steady(pace, 1e9, 80)
    assert pace.size == CHUNK_BYTES


def test_a_slow_reader_that_takes_much_at_once_stays_slow() -> None:
    pace = Pace(60)
    steady(pace, 2e6, 20)
    for _ in range(16):
        pace.took(20e-6, SMALL_BYTES)
    assert pace.size <= 2 * SMALL_BYTES


def test_the_time_is_for_a_whole_chunk_however_small_the_messages() -> None:
    pace = Pace(60)
    pace.took(0, CHUNK_BYTES)
    assert pace.patience == 60
    for number in range(1, 8):
        pace.took(8, SMALL_BYTES)
        assert pace.patience == 60 - 8 * number
    pace.took(1, SMALL_BYTES)
    assert pace.patience == 60
