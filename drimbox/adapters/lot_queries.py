"""Queries over all lots at once, for the archive: what was purged, what may be, what else names a document."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime

from sqlalchemy import exists, select
from sqlalchemy.orm import Session

from drimbox.adapters.tables import message_table, report_table, submission_table, trace_table
from drimbox.domain.lifecycle import SubmissionState
from drimbox.flow.archive_purge import PURGED
from drimbox.flow.records import Submission
from drimbox.flow.retrievals import EVENTS as RETRIEVALS

_LOT, _REPORT, _MESSAGE, _TRACE = submission_table.c, report_table.c, message_table.c, trace_table.c
_ENDED = (SubmissionState.DEPRECATED, SubmissionState.WITHDRAWN, SubmissionState.DROPPED)
_ROWS = 1000


class LotQueries:
    """The queries of the archive, under the caller's session."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def by_study(self, studies: Collection[str]) -> Mapping[str, Sequence[Submission]]:
        """Every submission of these studies (of a page of them), oldest first."""
        query = select(Submission).where(_LOT.study_instance_uid.in_(sorted(studies)))
        found: dict[str, list[Submission]] = {}
        for row in self._session.scalars(query.order_by(_LOT.created_at, _LOT.id)):
            found.setdefault(row.study_instance_uid, []).append(row)
        return found

    def by_submission_set(self, uid: str) -> Submission | None:
        """The submission of a SubmissionSet.uniqueId."""
        return self._session.scalar(select(Submission).where(_LOT.submission_set_uid == uid))

    def purged(self, study: str | None = None) -> set[str]:
        """The ids of the lots (of one study) whose documents were deleted."""
        query = select(_TRACE.submission_id).where(_TRACE.event == PURGED)
        rows = self._session.scalars(query.where(_TRACE.study_instance_uid == study) if study else query)
        return {one for one in rows if one is not None}

    def ended_before(self, instant: datetime) -> Sequence[Submission]:
        """Lots replaced, withdrawn or dropped since before `instant` that were not purged; oldest first."""
        # by study, which the trace is indexed on
        was_purged = exists().where(
            _TRACE.study_instance_uid == _LOT.study_instance_uid,
            _TRACE.submission_id == _LOT.id,
            _TRACE.event == PURGED,
        )
        query = select(Submission).where(_LOT.state.in_(_ENDED), _LOT.since <= instant, ~was_purged)
        return self._session.scalars(query.order_by(_LOT.since, _LOT.id)).all()

    def named_elsewhere(self, digests: Collection[str], lots: Collection[str]) -> set[str]:
        """Those of `digests` that a row names (lot, report, message, trace) which is none of these lots, nor purged."""
        gone = self.purged() | set(lots)
        named: set[str] = set()
        for query in (
            select(_LOT.id, _LOT.kos, _LOT.signature, _LOT.request),
            select(_REPORT.id, _REPORT.cda),
            select(_MESSAGE.id, _MESSAGE.content, _MESSAGE.document).where(_MESSAGE.purged_at.is_(None)),
            select(_TRACE.submission_id, _TRACE.detail).where(_TRACE.event.not_in(RETRIEVALS)),
        ):
            for owner, *values in self._session.execute(query.execution_options(yield_per=_ROWS)):
                if owner not in gone:
                    named |= {text for text in _texts(values) if text in digests}
        return named


def _texts(values: Iterable[object]) -> Iterable[str]:
    for value in values:
        if isinstance(value, dict):
            yield from _texts(value.values())
        elif isinstance(value, str):
            yield value
