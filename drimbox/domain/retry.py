"""What to do after an attempt that did not succeed: one table, apart from doing it (dmp-kos-xds 2.7)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from drimbox.domain.xds.outcome import NoAnswer, NotSent, Refused
from drimbox.domain.xds.response import ErrorKind


class Action(StrEnum):
    """What the worker does next."""

    RETRY = "retry"  # the same lot again, after the delay
    LOOK_UP = "look_up"  # ask the registry (TD3.1b) before anything else, after the delay
    PARK = "park"  # an operator decides
    STOP_QUEUE = "stop_queue"  # every message would fail: nothing more is sent until the fault is mended


class Unanswered(StrEnum):
    """The endings that are no refusal."""

    NOT_SENT = "not_sent"
    NO_ANSWER = "no_answer"


Ending = ErrorKind | Unanswered


@dataclass(frozen=True, slots=True)
class Decision:
    """`delay`: seconds to wait before `action`; 0 for PARK and STOP_QUEUE."""

    action: Action
    delay: float


@dataclass(frozen=True, slots=True)
class Course:
    """One row: `action` while attempts last (`limit`, None = for ever), then `after`; `fixed`: own delay."""

    action: Action
    limit: int | None = None
    after: Action = Action.PARK
    fixed: float | None = None


_DAY = 86_400.0
COURSES: Mapping[Ending, Course] = {
    Unanswered.NOT_SENT: Course(Action.RETRY),
    Unanswered.NO_ANSWER: Course(Action.LOOK_UP),
    ErrorKind.TRANSIENT: Course(Action.RETRY),
    ErrorKind.TRANSIENT_ONCE: Course(Action.RETRY, limit=2),  # three tries in all
    ErrorKind.DUPLICATE: Course(Action.LOOK_UP, limit=1, fixed=0.0),  # a second one is a bug: never loop
    ErrorKind.STALE_REFERENCE: Course(Action.LOOK_UP, limit=1, fixed=0.0),  # read the head, rebuild once
    ErrorKind.PERMANENT_DATA: Course(Action.PARK),
    ErrorKind.PERMANENT_PATIENT: Course(Action.RETRY, limit=7, fixed=_DAY),  # patients open DMPs later
    ErrorKind.SECURITY: Course(Action.STOP_QUEUE),
}


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Back-off: `base` seconds, doubled each time, at most `cap`; up to half of it is jitter."""

    base: float
    cap: float

    def delay(self, attempts: int, jitter: float) -> float:
        """Seconds before attempt `attempts` + 1; `jitter` in [0, 1) spreads it over [half, whole]."""
        # the exponent is bounded: 2**attempts would overflow a float after days of attempts
        whole = min(self.cap, self.base * 2.0 ** min(max(attempts, 1) - 1, 60))
        return whole * (0.5 + jitter / 2)

    def decide(self, attempts: int, ending: Ending, jitter: float) -> Decision:
        """What to do after the `attempts`-th attempt in a row (1 = the first) with this ending."""
        course = COURSES[ending]
        spent = course.limit is not None and attempts > course.limit
        action = course.after if spent else course.action
        if action in (Action.PARK, Action.STOP_QUEUE):
            return Decision(action, 0.0)
        return Decision(action, self.delay(attempts, jitter) if course.fixed is None else course.fixed)


def ending_of(outcome: Refused | NotSent | NoAnswer) -> Ending:
    """The row of the table that an outcome belongs to."""
    if isinstance(outcome, Refused):
        return outcome.kind
    return Unanswered.NOT_SENT if isinstance(outcome, NotSent) else Unanswered.NO_ANSWER
