"""What is looked at, what was seen, and what it says of the whole (draft-inadarei-api-health-check-06 3, 4).

trust-and-identity 6.2, 6.3: probes run on a timer; a report older than three periods fails.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum

STALE_PERIODS = 3
LONGEST_OUTPUT = 300  # characters of what a probe says


class Status(IntEnum):
    """In the order of badness."""

    PASS = 0
    WARN = 1
    FAIL = 2

    @property
    def word(self) -> str:
        """As the report writes it."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one look found. `output`: for an operator, never a secret or patient data; empty when all is well.

    `value`, `unit`: what was measured (draft-06 4.3, 4.4).
    """

    status: Status = Status.PASS
    output: str = ""
    value: float | int | str | None = None
    unit: str = ""


Look = Callable[[], Outcome]  # what it raises is a failure too


@dataclass(frozen=True, slots=True)
class Probe:
    """Something to look at. `name`: component:measurement; `period`, `deadline`: seconds.

    `kind`: componentType (draft-06 4.2): component, datastore or system.
    """

    name: str
    look: Look
    period: float
    deadline: float
    kind: str = "component"


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """The end of one look. `at`: when, aware; `instant`: the same as monotonic seconds; `seconds`: how long it took."""

    name: str
    kind: str
    period: float
    outcome: Outcome
    at: datetime
    instant: float
    seconds: float

    def status_at(self, instant: float) -> Status:
        """What it is worth now: nothing after three periods."""
        return Status.FAIL if self.is_stale(instant) else self.outcome.status

    def is_stale(self, instant: float) -> bool:
        """Whether it is older than three periods."""
        return instant - self.instant > STALE_PERIODS * self.period


def summarise(results: Iterable[ProbeResult], instant: float, vital: Container[str]) -> Status:
    """The state of the whole at `instant`, worst of all; without any result, FAIL.

    A probe that fails counts as WARN unless its name is in `vital`: what images can be served without (6.3). One
    that is stale always counts as FAIL: nobody looks any more.
    """
    worst, seen = Status.PASS, False
    for result in results:
        seen = True
        status = result.status_at(instant)
        if status is Status.FAIL and not result.is_stale(instant) and result.name not in vital:
            status = Status.WARN
        worst = max(worst, status)
    return worst if seen else Status.FAIL
