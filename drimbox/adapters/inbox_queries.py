"""Queries over what entered by the report doors: messages, visits and their consent, business acknowledgements."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Text, and_, cast, func, or_, select, update
from sqlalchemy.orm import Session

from drimbox.adapters.tables import (
    message_table,
    receipt_table,
    report_study_table,
    report_table,
)
from drimbox.flow.records import Message, Receipt, Visit

_SHORTEST = 8  # characters of an id that people are shown
_MESSAGE, _RECEIPT = message_table.c, receipt_table.c


class InboxQueries:
    """The queries of the inbox, under the caller's session."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def message(self, message_id: str) -> Message | None:
        """One message by our own id."""
        return self._session.get(Message, message_id)

    def messages(
        self,
        *,
        refused: bool = False,
        study: str | None = None,
        document: str | None = None,
        limit: int = 100,
    ) -> Sequence[Message]:
        """The newest messages first; `refused`: only those; `study`, `document`: only those of it (a CDA id)."""
        query = select(Message).order_by(_MESSAGE.received_at.desc(), _MESSAGE.id).limit(limit)
        if refused:
            query = query.where(_MESSAGE.verdict != "AA")
        if study is not None:  # the column is a JSON list of texts, on every engine
            query = query.where(cast(_MESSAGE.studies, Text).contains(f'"{study}"', autoescape=True))
        if document is not None:
            query = query.where(_MESSAGE.document_id == document)
        return self._session.scalars(query).all()

    def starting_with(self, prefix: str, limit: int) -> Sequence[Message]:
        """Messages whose id starts so."""
        query = select(Message).where(_MESSAGE.id.startswith(prefix, autoescape=True))
        return self._session.scalars(query.order_by(_MESSAGE.id).limit(limit)).all()

    def short_id(self, message_id: str) -> str:
        """The shortest start of an id, of at least 8 characters, that no other id has: its neighbours tell."""
        below = self._session.scalar(select(func.max(_MESSAGE.id)).where(_MESSAGE.id < message_id))
        above = self._session.scalar(select(func.min(_MESSAGE.id)).where(_MESSAGE.id > message_id))
        common = max(_in_common(message_id, other or "") for other in (below, above))
        return message_id[: max(_SHORTEST, common + 1)]

    def replays_of(self, message_id: str) -> Sequence[Message]:
        """What was made of a message that an operator submitted again, newest first."""
        query = select(Message).where(_MESSAGE.replay_of == message_id)
        return self._session.scalars(query.order_by(_MESSAGE.received_at.desc(), _MESSAGE.id)).all()

    def received_before(
        self, instant: datetime, limit: int, after: Message | None = None
    ) -> Sequence[Message]:
        """Messages older than that whose bytes are still kept, oldest first; `after`: those that follow it."""
        query = select(Message).where(_MESSAGE.received_at <= instant, _MESSAGE.purged_at.is_(None))
        if after is not None:
            same = and_(_MESSAGE.received_at == after.received_at, _MESSAGE.id > after.id)
            query = query.where(or_(_MESSAGE.received_at > after.received_at, same))
        return self._session.scalars(query.order_by(_MESSAGE.received_at, _MESSAGE.id).limit(limit)).all()

    def named_since(self, instant: datetime) -> set[str]:
        """Digests of what entered since then."""
        query = select(_MESSAGE.content, _MESSAGE.document).where(
            _MESSAGE.received_at >= instant, _MESSAGE.purged_at.is_(None)
        )
        return {digest for row in self._session.execute(query) for digest in row if digest}

    def mark_purged(self, message_ids: Sequence[str], at: datetime) -> None:
        """The bytes of these messages are gone since `at`."""
        self._session.execute(
            update(Message).where(_MESSAGE.id.in_(message_ids)).values(purged_at=at),
            execution_options={"synchronize_session": False},
        )

    def visit(self, visit: str, *, lock: bool = False) -> Visit | None:
        """What was said of a visit; `lock`: until the transaction ends."""
        return self._session.get(Visit, visit, with_for_update=lock)

    def studies_of_visit(self, visit: str) -> list[str]:
        """The studies that the reports of a visit document."""
        query = (
            select(report_study_table.c.study_instance_uid)
            .join(report_table, report_table.c.id == report_study_table.c.report_id)
            .where(report_table.c.visit == visit)
            .distinct()
            .order_by(report_study_table.c.study_instance_uid)
        )
        return list(self._session.scalars(query))

    def receipt(self, receipt_id: str) -> Receipt | None:
        """One business acknowledgement, locked until the transaction ends."""
        return self._session.get(Receipt, receipt_id, with_for_update=True)

    def due_receipts(self, now: datetime, limit: int) -> Sequence[Receipt]:
        """Business acknowledgements to look at, oldest first; those delivered or given up are due no more."""
        query = select(Receipt).where(_RECEIPT.due_at <= now).order_by(_RECEIPT.due_at).limit(limit)
        return self._session.scalars(query).all()


def _in_common(one: str, other: str) -> int:
    """How many characters two texts begin with alike."""
    pairs = zip(one, other, strict=False)
    return next((number for number, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
