"""How much of what, how old, and whether the queue stands still: for `drimbox status` and `/metrics`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from drimbox.domain.lifecycle import OPEN
from drimbox.flow.ports import Transactions
from drimbox.flow.settle import QUEUE


@dataclass(frozen=True, slots=True)
class Count:
    """Rows that share two labels; `oldest`: age in seconds of the one that changed first."""

    first: str
    second: str
    rows: int
    oldest: float


@dataclass(frozen=True, slots=True)
class Counters:
    """`exams`: by state and rule; `submissions`: by kind and state; `stopped`: why the queue stands still, or None."""

    exams: tuple[Count, ...]
    submissions: tuple[Count, ...]
    exams_due: int
    submissions_due: int
    stopped: str | None

    @property
    def unfinished(self) -> tuple[Count, ...]:
        """The submissions that are not finished."""
        return tuple(count for count in self.submissions if count.second in OPEN)

    def to_json(self) -> dict[str, Any]:
        """The same as plain values."""
        return asdict(self)


def count(transactions: Transactions, now: datetime) -> Counters:
    """The counters at `now`."""
    with transactions.reading() as transaction:
        counts = transaction.ledger.counts()
        exams_due, submissions_due = transaction.ledger.due_counts(now)
        gate = transaction.ledger.gate(QUEUE)
    rows = {
        name: tuple(
            Count(first, second or "", number, (now - oldest).total_seconds() if oldest else 0.0)
            for first, second, number, oldest in found
        )
        for name, found in counts.items()
    }
    reason = gate.reason if gate else None
    return Counters(rows["exams"], rows["submissions"], exams_due, submissions_due, reason)
