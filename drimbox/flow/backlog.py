"""How long what is due has been waiting, for the health check.

Due is what somebody should be doing now: neither an exam whose images still come, nor a retry of later, nor what is
parked for an operator.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from drimbox.flow.ports import Transactions
from drimbox.flow.settle import QUEUE


@dataclass(frozen=True, slots=True)
class Backlog:
    """Since when the oldest exam waits to be judged, and the oldest submission for an exchange; None = none is due.

    `stopped`: why the queue to the DMP stands still, None while it is open.
    """

    exam_since: datetime | None
    submission_since: datetime | None
    stopped: str | None


def backlog(transactions: Transactions, now: datetime) -> Backlog:
    """The backlog at `now`. Raises `errors.Unavailable`."""
    with transactions.reading() as transaction:
        queries = transaction.health
        exam, submission = queries.oldest_due_exam(now), queries.oldest_due_submission(now)
        gate = queries.gate(QUEUE)
    return Backlog(exam, submission, gate.reason if gate else None)
