"""Queries over the trace in the order of its ids, and what its rows are about: for those who pass it on."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from drimbox.adapters.tables import report_study_table, report_table, submission_table, trace_table
from drimbox.domain.gaps import Gap
from drimbox.flow.records import AuditCursor, Submission, TraceEntry

_TRACE, _LOT, _REPORT, _LINK = trace_table.c, submission_table.c, report_table.c, report_study_table.c
_NAMED, _RANGES = 500, 100  # values of one IN list, ranges of one query: engines bound them


class TraceQueries:
    """The queries of audit forwarding, under the caller's session."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def cursor(self, name: str, *, lock: bool = False) -> AuditCursor | None:
        """How far a follower of the trace has come; `lock`: until the transaction ends."""
        return self._session.get(AuditCursor, name, with_for_update=lock)

    def newest(self) -> int:
        """The highest id of the trace, 0 while it is empty."""
        return self._session.scalar(select(func.max(_TRACE.id))) or 0

    def first_since(self, instant: datetime) -> int | None:
        """The lowest id of what happened at or after that instant."""
        first: int | None = self._session.scalar(select(func.min(_TRACE.id)).where(_TRACE.at >= instant))
        return first

    def after(self, last_id: int, limit: int) -> Sequence[TraceEntry]:
        """The rows that follow, in the order of their ids."""
        query = select(TraceEntry).where(_TRACE.id > last_id).order_by(_TRACE.id).limit(limit)
        return self._session.scalars(query).all()

    def among(self, gaps: Sequence[Gap], limit: int) -> Sequence[TraceEntry]:
        """The rows that have appeared in these ranges of ids, in the order of their ids."""
        rows: list[TraceEntry] = []
        for start in range(0, len(gaps), _RANGES):
            inside = or_(*(_TRACE.id.between(gap.first, gap.last) for gap in gaps[start : start + _RANGES]))
            rows += self._session.scalars(select(TraceEntry).where(inside).order_by(_TRACE.id).limit(limit))
        return sorted(rows, key=lambda row: row.id or 0)[:limit]

    def of_event(self, event: str, since: datetime) -> Iterator[TraceEntry]:
        """The rows of an event at or after an instant, in the order of their ids."""
        query = select(TraceEntry).where(_TRACE.at >= since, _TRACE.event == event).order_by(_TRACE.id)
        yield from self._session.scalars(query.execution_options(yield_per=_NAMED))

    def counted_since(self, events: Collection[str], since: datetime) -> Mapping[str, int]:
        """How often each of these events happened at or after an instant."""
        query = select(_TRACE.event, func.count()).where(_TRACE.at >= since, _TRACE.event.in_(sorted(events)))
        rows = self._session.execute(query.group_by(_TRACE.event))
        return {row[0]: row[1] for row in rows}

    def last_of(self, events: Collection[str], since: datetime, limit: int) -> Sequence[TraceEntry]:
        """The last of these events at or after an instant, newest first."""
        query = select(TraceEntry).where(_TRACE.at >= since, _TRACE.event.in_(sorted(events)))
        return self._session.scalars(query.order_by(_TRACE.at.desc(), _TRACE.id.desc()).limit(limit)).all()

    def submissions(self, ids: Collection[str]) -> Mapping[str, Submission]:
        """These submissions by their ids, not locked."""
        found: dict[str, Submission] = {}
        for some in _batches(ids):
            query = select(Submission).where(_LOT.id.in_(some))
            found |= {row.id: row for row in self._session.scalars(query)}
        return found

    def patients(self, studies: Collection[str]) -> Mapping[str, tuple[str, str]]:
        """(INS, OID of its authority) of each study, by the last report that documents it and says them."""
        found: dict[str, tuple[str, str]] = {}
        for some in _batches(studies):
            query = (
                select(_LINK.study_instance_uid, _REPORT.patient_ins, _REPORT.patient_oid)
                .join(report_table, _REPORT.id == _LINK.report_id)
                .where(_LINK.study_instance_uid.in_(some))
                .where(_REPORT.patient_ins.is_not(None), _REPORT.patient_oid.is_not(None))
                .order_by(_REPORT.received_at, _REPORT.id)
            )
            found |= {study: (ins, oid) for study, ins, oid in self._session.execute(query)}
        return found


def _batches(ids: Collection[str]) -> Iterator[list[str]]:
    ordered = sorted(ids)
    for start in range(0, len(ordered), _NAMED):
        yield ordered[start : start + _NAMED]
