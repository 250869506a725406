"""Unknown probes and counts, seen across the processes of a door."""

from __future__ import annotations

import os

import pytest

from healthcheck.sightings import PLACES, Sightings, Totals


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_different_addresses_are_counted_once_each(clock: Clock) -> None:
    sightings = Sightings(2, clock)
    for slot, address in (
        (0, "192.31.196.1"),
        (0, "192.31.196.1"),
        (1, "::ffff:192.31.196.1"),
        (1, "2620:4f::1"),
    ):
        sightings.take_slot(slot)
        sightings.note(address)
    assert sightings.distinct(60) == 2


def test_what_is_no_address_is_not_noted(clock: Clock) -> None:
    sightings = Sightings(1, clock)
    for nonsense in ("", "nonsense", "::", "1.2.3"):
        sightings.note(nonsense)
    assert sightings.distinct(60) == 0


def test_only_what_was_seen_lately_counts(clock: Clock) -> None:
    sightings = Sightings(1, clock)
    sightings.note("192.31.196.1")
    clock.now += 50
    sightings.note("192.31.196.2")
    clock.now += 20
    assert (sightings.distinct(60), sightings.distinct(100)) == (1, 2)
    sightings.note("192.31.196.1")
    assert sightings.distinct(60) == 2, "seen again"


def test_clear_forgets_what_every_process_saw(clock: Clock) -> None:
    sightings = Sightings(2, clock)
    for slot in (0, 1):
        sightings.take_slot(slot)
        sightings.note(f"192.31.196.{slot + 1}")
    sightings.clear()
    assert sightings.distinct(1e6) == 0
    clock.now += 1
    sightings.note("192.31.196.1")
    assert sightings.distinct(1e6) == 1


def test_a_clock_that_begins_at_nothing_counts_too() -> None:
    sightings = Sightings(1, lambda: 0.0)
    sightings.note("192.31.196.1")
    assert sightings.distinct(60) == 1


def test_the_oldest_makes_room(clock: Clock) -> None:
    sightings = Sightings(1, clock)
    for number in range(PLACES + 5):
        clock.now += 1
        sightings.note(f"192.31.196.{number}")
    assert sightings.distinct(1e6) == PLACES
    assert sightings.distinct(PLACES) == PLACES, "the newest are those that stayed"


def test_counts_are_summed_and_survive_a_new_process(clock: Clock) -> None:
    sightings = Sightings(3, clock)
    for slot, allowed in ((0, True), (1, False), (2, True), (2, False), (2, True)):
        sightings.take_slot(slot)
        sightings.count(allowed)
    sightings.take_slot(2)
    assert sightings.totals() == Totals(refused=2, allowed=3)


def test_processes_share_what_they_saw() -> None:
    sightings = Sightings(4)
    children = []
    for number in range(4):
        child = os.fork()
        if child == 0:
            sightings.take_slot(number)
            for _ in range(500):
                sightings.count(allowed=number % 2 == 0)
                sightings.note(f"192.31.196.{number}")
            os._exit(0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    assert sightings.totals() == Totals(refused=1000, allowed=1000)
    assert sightings.distinct(60) == 4
