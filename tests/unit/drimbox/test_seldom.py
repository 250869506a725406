"""What is said of a failure that every request meets."""

from __future__ import annotations

from drimbox.flow.seldom import PERIOD, Seldom


def test_each_event_once_in_a_period() -> None:
    said: list[tuple[str, object]] = []
    instant = [0.0]
    log = Seldom(lambda event, **fields: said.append((event, fields["n"])), lambda: instant[0])
    for number, at in enumerate((0.0, 0.5, PERIOD - 0.01, PERIOD)):
        instant[0] = at
        log("a", n=number)
        log("b", n=number)
    assert said == [("a", 0), ("b", 0), ("a", 3), ("b", 3)]
