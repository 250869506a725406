"""What the probes ask of the ledger: signs of life, and what is due for how long. Cheap: by index, one row each."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from drimbox.adapters.ledger import due_lots
from drimbox.adapters.tables import exam_table, submission_table
from drimbox.flow.records import Gate, Heartbeat

_EXAM, _LOT = exam_table.c, submission_table.c


class HealthQueries:
    """Queries under the caller's session; none of them takes a lock."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def heartbeat(self, node: str, process: str) -> Heartbeat | None:
        """The last sign of life of a process."""
        return self._session.get(Heartbeat, (node, process))

    def oldest_due_exam(self, now: datetime) -> datetime | None:
        """When the exam that waits longest to be judged became due."""
        query = select(_EXAM.reconcile_at).where(_EXAM.reconcile_at <= now)
        return self._session.scalar(query.order_by(_EXAM.reconcile_at).limit(1))

    def oldest_due_submission(self, now: datetime) -> datetime | None:
        """When the submission that waits longest for an exchange with the DMP became due (`ledger.due_lots`)."""
        query = select(_LOT.due_at).where(due_lots(now))
        return self._session.scalar(query.order_by(_LOT.due_at).limit(1))

    def gate(self, name: str) -> Gate | None:
        """The stopped queue of that name, or None: it is open."""
        return self._session.get(Gate, name)
