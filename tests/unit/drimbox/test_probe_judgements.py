"""What probes say of what they saw, without the world: the worker's beats, the whitelist, the crew's diary."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from drimbox.adapters.probes import STUCK, judge_worker, whitelist_state
from drimbox.adapters.probes_net import own_address
from drimbox.entrypoints.worker import Crew
from drimbox.flow.heartbeats import STOPPED, WORKING
from healthcheck.probe import Status
from whitelist.decision import Alert, State
from whitelist.view import Snapshot

NOW = datetime(2026, 10, 1, 12, 0, tzinfo=UTC)
RESTING = {"last": 0.5, "busy": None, "alive": True}
DEADLINE = 10.0


def beat(job: Mapping[str, Any] = RESTING, state: str = WORKING) -> dict[str, Any]:
    return {"state": state, "jobs": {"reconciled": dict(RESTING), "published_0": dict(job)}}


@pytest.mark.parametrize(
    ("age", "detail", "status", "words"),
    [
        (3, beat(), Status.PASS, ""),
        (30, beat(), Status.PASS, ""),
        (31, beat(), Status.FAIL, "silent since 2026-10-01 11:59:29 UTC"),
        (-31, beat(), Status.FAIL, "silent"),  # the clock went back
        (3, beat(state=STOPPED), Status.FAIL, "was stopped at 2026-10-01 11:59:57"),
        (9999, beat(state=STOPPED), Status.FAIL, "was stopped"),
        (3, beat({**RESTING, "busy": STUCK - 4}), Status.PASS, ""),
        (
            3,
            beat({**RESTING, "busy": STUCK - 2}),
            Status.WARN,
            "published_0 is stuck: at one pass for 10 min",
        ),
        (3, beat({**RESTING, "last": None, "busy": 3 * STUCK}), Status.WARN, "for 30 min"),
        (3, beat({**RESTING, "alive": False}), Status.WARN, "published_0 has ended"),
        (3, {}, Status.PASS, ""),
    ],
)
def test_a_beat_of_the_worker(age: float, detail: dict[str, Any], status: Status, words: str) -> None:
    outcome = judge_worker(NOW - timedelta(seconds=age), detail, NOW, 30)
    assert (outcome.status, outcome.value, outcome.unit) == (status, age, "s")
    assert words in outcome.output
    assert bool(words) is bool(outcome.output)


class Mesh:
    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot

    def current(self) -> Snapshot:
        return self.snapshot


SOUND = Snapshot(State.CURRENT, None, NOW - timedelta(hours=2), NOW, alert=Alert.NONE)


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        ({}, Status.PASS, ""),
        ({"state": State.STALE, "alert": Alert.WARNING}, Status.WARN, "could not be renewed"),
        ({"state": State.ABSENT, "alert": Alert.CRITICAL}, Status.FAIL, "does not name us"),
        ({"state": State.NEVER, "last_success": None}, Status.FAIL, "no list was ever accepted"),
        ({"warnings": ("state.json is damaged",)}, Status.WARN, "state.json is damaged"),
        ({"state": State.ABSENT, "warnings": ("damaged",)}, Status.FAIL, "damaged"),
        ({"alert": Alert.CRITICAL}, Status.WARN, "critical"),
    ],
)
def test_the_whitelist(change: dict[str, Any], status: Status, words: str) -> None:
    snapshot = replace(SOUND, **change)
    outcome = whitelist_state(Mesh(snapshot), lambda: NOW)
    assert outcome.status is status
    assert words in outcome.output
    assert bool(words) is bool(outcome.output)
    assert outcome.value == (7200 if snapshot.last_success else None)


@pytest.mark.parametrize(
    ("host", "reached"),
    [("0.0.0.0", "127.0.0.1"), ("::", "::1"), ("10.0.0.5", "10.0.0.5"), ("drimbox.lan", "drimbox.lan")],
)
def test_a_door_that_listens_everywhere_is_reached_on_loopback(host: str, reached: str) -> None:
    assert own_address(host) == reached


def test_the_crew_keeps_a_diary() -> None:
    instant = 100.0
    begun, go_on = threading.Event(), threading.Event()

    def job() -> int:
        begun.set()
        assert go_on.wait(DEADLINE)
        return 0

    crew = Crew({"job": job}, lambda: instant)
    assert crew.diary() == {"job": {"last": None, "busy": None, "alive": False}}
    crew.start()
    assert begun.wait(DEADLINE)
    instant = 107.0
    assert crew.diary() == {"job": {"last": None, "busy": 7.0, "alive": True}}
    go_on.set()
    crew.stop()
    instant = 110.0
    assert crew.diary() == {"job": {"last": 3.0, "busy": None, "alive": False}}
