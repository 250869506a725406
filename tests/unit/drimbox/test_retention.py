"""Which images may be forgotten: a row for each state of the life cycle; what no row names is kept."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import product

import pytest

from drimbox.domain.exam import RULES
from drimbox.domain.lifecycle import MAY_BE_AT_DMP, OPEN, StudyState, SubmissionState
from drimbox.domain.retention import (
    CAUSES,
    LOTS_ENDED,
    OBSTACLES,
    Forget,
    HeldExam,
    HeldLot,
    Keep,
    RetentionPolicy,
    retention,
)

NOW = datetime(2026, 10, 1, tzinfo=UTC)
LONG_AGO = NOW - timedelta(days=31)
POLICY = RetentionPolicy(30)
PUBLICATION = HeldLot("publish", SubmissionState.WITHDRAWN, LONG_AGO)
UNPUBLISHED = HeldExam(
    "1.2.3", StudyState.WITHDRAWN, "withdrawn", False, LONG_AGO,
    (PUBLICATION, HeldLot("unpublish", SubmissionState.REGISTERED, LONG_AGO)), False, 3, 300,
)  # fmt: skip


def kept(exam: HeldExam, policy: RetentionPolicy = POLICY, now: datetime = NOW) -> str | None:
    verdict = retention(exam, policy, now)
    return verdict.rule if isinstance(verdict, Keep) else None


def test_what_was_unpublished_long_ago_may_go() -> None:
    verdict = retention(UNPUBLISHED, POLICY, NOW)
    assert verdict == Forget("withdrawn", "the exam was withdrawn, nothing changed for 31 days")


def test_a_cause_is_what_somebody_said_on_purpose() -> None:
    assert set(CAUSES) == {rule.slug for rule in RULES if rule.withdraws}
    assert [kept(replace(UNPUBLISHED, rule=rule)) for rule in CAUSES] == [None] * len(CAUSES)


@pytest.mark.parametrize(
    "rule", [None, *(r.slug for r in RULES if not r.withdraws), "thinner", "gone-at-dmp", "not-judged", "new"]
)
def test_what_is_awaited_stays(rule: str | None) -> None:
    assert kept(replace(UNPUBLISHED, rule=rule)) == "awaited"


@pytest.mark.parametrize("state", [None, "NEW", *StudyState])
def test_every_state_of_a_study(state: str | None) -> None:
    at_rest = state in (StudyState.SETTLED, StudyState.WITHDRAWN)
    assert kept(replace(UNPUBLISHED, state=state)) == (None if at_rest else "arriving")


@pytest.mark.parametrize(
    ("kind", "state"),
    [*product(("publish", "replace", "unpublish", "new"), SubmissionState), ("publish", "NEW")],
)
def test_every_state_of_every_kind_of_lot(kind: str, state: str) -> None:
    exam = replace(UNPUBLISHED, lots=(HeldLot(kind, state, LONG_AGO), PUBLICATION))
    assert kept(exam) == (None if (kind, state) in LOTS_ENDED else "at-dmp")


def test_a_lot_that_ended_is_neither_open_nor_at_the_dmp() -> None:
    """Beside the withdrawal that the DMP has registered: that one is the end of another."""
    ended = {SubmissionState(state) for kind, state in LOTS_ENDED if kind != "unpublish"}
    assert ended.isdisjoint(OPEN | MAY_BE_AT_DMP)
    assert {SubmissionState(state) for kind, state in LOTS_ENDED if kind == "unpublish"}.isdisjoint(OPEN)


def test_what_still_serves_in_its_grace_stays() -> None:
    replaced = replace(
        UNPUBLISHED, lots=(HeldLot("publish", SubmissionState.DEPRECATED, LONG_AGO), PUBLICATION)
    )
    assert kept(replaced) is None
    assert kept(replaced, RetentionPolicy(30, timedelta(days=32))) == "in-grace"


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"is_due": True}, "not-judged"),
        ({"awaits_commitment": True}, "commitment"),
        ({"changed_at": NOW - timedelta(days=30) + timedelta(seconds=1)}, "recent"),
        ({"changed_at": NOW + timedelta(days=400)}, "recent"),  # the clock was set back
        ({"changed_at": NOW - timedelta(days=30)}, None),
    ],
)
def test_one_thing_is_enough(change: dict[str, object], rule: str | None) -> None:
    assert kept(replace(UNPUBLISHED, **change)) == rule  # type: ignore[arg-type]


def test_zero_days_are_for_ever() -> None:
    assert kept(UNPUBLISHED, RetentionPolicy(0), NOW + timedelta(days=36_500)) == "for-ever"
    assert len({obstacle.slug for obstacle in OBSTACLES}) == len(OBSTACLES)
