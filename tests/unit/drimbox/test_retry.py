"""The table of what to do next."""

from __future__ import annotations

import pytest

from drimbox.domain.retry import COURSES, Action, Decision, Ending, RetryPolicy, Unanswered, ending_of
from drimbox.domain.xds.outcome import Exchange, NoAnswer, NotSent, Refused
from drimbox.domain.xds.response import ErrorKind

POLICY = RetryPolicy(base=30, cap=600)


@pytest.mark.parametrize(
    ("attempts", "ending", "action"),
    [
        (1, Unanswered.NOT_SENT, Action.RETRY),
        (10_000, Unanswered.NOT_SENT, Action.RETRY),
        (1, Unanswered.NO_ANSWER, Action.LOOK_UP),
        (10_000, Unanswered.NO_ANSWER, Action.LOOK_UP),
        (10_000, ErrorKind.TRANSIENT, Action.RETRY),
        (2, ErrorKind.TRANSIENT_ONCE, Action.RETRY),
        (3, ErrorKind.TRANSIENT_ONCE, Action.PARK),
        (1, ErrorKind.DUPLICATE, Action.LOOK_UP),
        (2, ErrorKind.DUPLICATE, Action.PARK),
        (1, ErrorKind.STALE_REFERENCE, Action.LOOK_UP),
        (2, ErrorKind.STALE_REFERENCE, Action.PARK),
        (1, ErrorKind.PERMANENT_DATA, Action.PARK),
        (7, ErrorKind.PERMANENT_PATIENT, Action.RETRY),
        (8, ErrorKind.PERMANENT_PATIENT, Action.PARK),
        (1, ErrorKind.SECURITY, Action.STOP_QUEUE),
    ],
)
def test_table(attempts: int, ending: Ending, action: Action) -> None:
    assert POLICY.decide(attempts, ending, 0.5).action is action


def test_every_ending_has_a_row() -> None:
    assert set(COURSES) == {*ErrorKind, *Unanswered}


def test_delay_doubles_up_to_the_cap_and_jitter_spreads_it() -> None:
    delays = [POLICY.decide(n, Unanswered.NOT_SENT, 0.999999).delay for n in (1, 2, 3, 4, 5, 6, 500)]
    assert [round(delay) for delay in delays] == [30, 60, 120, 240, 480, 600, 600]
    assert POLICY.decide(3, Unanswered.NOT_SENT, 0.0).delay == 60


def test_fixed_delays() -> None:
    assert POLICY.decide(1, ErrorKind.PERMANENT_PATIENT, 0.9) == Decision(Action.RETRY, 86_400)
    assert POLICY.decide(1, ErrorKind.DUPLICATE, 0.9) == Decision(Action.LOOK_UP, 0)
    assert POLICY.decide(1, ErrorKind.SECURITY, 0.9) == Decision(Action.STOP_QUEUE, 0)


def test_outcomes_find_their_row() -> None:
    exchange = Exchange("m")
    assert ending_of(NotSent(exchange, "x")) is Unanswered.NOT_SENT
    assert ending_of(NoAnswer(exchange, "x")) is Unanswered.NO_ANSWER
    assert ending_of(Refused(exchange, (), ErrorKind.DUPLICATE)) is ErrorKind.DUPLICATE
