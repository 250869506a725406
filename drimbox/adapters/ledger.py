"""The ledger: exams, reports, messages, submissions and their trace; rows are `flow.records`, tables `tables.py`.

Queries flush, never commit. Work is claimed with `FOR UPDATE SKIP LOCKED` where the engine has it. What a query locks
it locks in a writing transaction only: readers look at one instant, and hold up nobody.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, String, and_, bindparam, cast, exists, func, insert, or_, select, update
from sqlalchemy.engine import CursorResult, Result
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from dicom_store.prepared import Prepared
from drimbox.adapters.database import READING
from drimbox.adapters.tables import (
    exam_table,
    report_parent_table,
    report_study_table,
    report_table,
    submission_table,
    trace_table,
)
from drimbox.domain.lifecycle import OPEN, ReportState, SubmissionState
from drimbox.flow.records import (
    Exam,
    Gate,
    Note,
    ReceivedReport,
    Record,
    Submission,
    TraceEntry,
)

_EXAM, _REPORT, _LOT, _TRACE = exam_table.c, report_table.c, submission_table.c, trace_table.c
_NOTED = Prepared(insert(trace_table).inline(), columns=Note._fields)
_THIS_EXAM = update(exam_table).where(_EXAM.study_instance_uid == bindparam("study"))
_IMAGE_RECEIVED = Prepared(
    _THIS_EXAM.values(
        revision=_EXAM.revision + 1,
        last_instance_at=bindparam("now"),
        reconcile_at=bindparam("due"),
        changed_at=bindparam("now"),
    ).returning(_EXAM.state)
)
_STATE_CHANGED = _THIS_EXAM.values(state=bindparam("new"))


class SqlLedger:
    """The queries that `flow` needs, under the caller's session."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._locks = not session.info.get(READING, False)

    def add(self, record: Record) -> None:
        """Insert a row at the next flush."""
        self._session.add(record)

    def add_note(self, note: Note) -> None:
        """Insert a row of the trace, before what is pending."""
        _NOTED.rows(self._session, note._asdict())

    def flush(self) -> None:
        """Send what is pending, so that a broken constraint shows now."""
        self._session.flush()

    def take_turns(self, names: Iterable[str]) -> None:
        """Wait for those who hold one of these names, and hold them until the transaction ends.

        For what has no row to lock yet. SQLite has one writer at a time: nothing to wait for.
        """
        if self._session.get_bind().dialect.name != "postgresql":
            return
        digests = {hashlib.sha256(name.encode("utf-8")).digest()[:8] for name in names}
        for digest in sorted(digests):  # one order for all: nobody waits for each other
            key = int.from_bytes(digest, signed=True)
            self._session.execute(select(func.pg_advisory_xact_lock(key)))

    def exam(self, study: str, *, lock: bool = False) -> Exam | None:
        """One exam; `lock` keeps others from changing it until the transaction ends."""
        query = select(Exam).where(_EXAM.study_instance_uid == study)
        return self._session.scalar(query.with_for_update() if lock else query)

    def exam_for_update(self, study: str, now: datetime) -> Exam:
        """The exam, made if it is new, locked until the transaction ends."""
        exam = self.exam(study, lock=True)
        if exam is not None:
            return exam
        try:
            with self._session.begin_nested():
                self._session.add(Exam(study, changed_at=now))
        except IntegrityError:  # another process made it between the two statements
            self._session.expire_all()
        exam = self.exam(study, lock=True)
        assert exam is not None
        return exam

    def image_received(self, study: str, at: datetime, due: datetime) -> str | None:
        """An exam has one more image: its revision grows, it is judged at `due`. Its state; None: no such exam.

        The exam is locked until the transaction ends. What was loaded of it before is out of date.
        """
        found = _IMAGE_RECEIVED.rows(self._session, {"study": study, "now": at, "due": due})
        return found[0][0] if found else None

    def change_exam_state(self, study: str, state: str) -> None:
        """For `flow/trace.py` alone, on an exam that is locked."""
        self._session.execute(_STATE_CHANGED, {"study": study, "new": state})

    def exams(self, state: str | None = None) -> Sequence[Exam]:
        """Every exam, newest change first."""
        query = select(Exam).order_by(_EXAM.changed_at.desc())
        return self._session.scalars(query.where(_EXAM.state == state) if state else query).all()

    def exam_keys(
        self, *, state: str | None, since: datetime | None, without_report: bool, limit: int | None
    ) -> Sequence[str]:
        """The studies of exams, newest change first. `state`: of the study; `since`: changed then or later.

        `without_report`: no current report names them.
        """
        query = select(_EXAM.study_instance_uid).order_by(_EXAM.changed_at.desc(), _EXAM.study_instance_uid)
        if state is not None:
            query = query.where(_EXAM.state == state)
        if since is not None:
            query = query.where(_EXAM.changed_at >= since)
        if without_report:
            query = query.where(~_documented())
        return self._session.scalars(query.limit(limit)).all()

    def exams_named(self, studies: Sequence[str]) -> Sequence[Exam]:
        """These exams (a page of them), in the order of the studies."""
        query = select(Exam).where(_EXAM.study_instance_uid.in_(studies))
        found = {row.study_instance_uid: row for row in self._session.scalars(query)}
        return [found[study] for study in studies if study in found]

    def due_exams(self, now: datetime, limit: int) -> Sequence[Exam]:
        """Exams to reconcile at `now`, oldest first."""
        query = select(Exam).where(_EXAM.reconcile_at <= now).order_by(_EXAM.reconcile_at).limit(limit)
        return self._session.scalars(query).all()

    def dismiss_judged(self, now: datetime, policy: str) -> int:
        """Take out of the queue the due exams that were judged with these facts and this policy; how many."""
        mark = cast(_EXAM.revision, String) + f" {policy}"
        unchanged = update(exam_table).where(_EXAM.reconcile_at <= now, _EXAM.judged == mark)
        return _count(self._session.execute(unchanged.values(reconcile_at=None)))

    def judge_all_again(self, now: datetime) -> int:
        """Put every exam in the queue; how many."""
        return _count(self._session.execute(update(exam_table).values(reconcile_at=now)))

    def reports_of(self, study: str) -> Sequence[ReceivedReport]:
        """The current reports that document a study, oldest first; a new version stands where its first one stood."""
        query = (
            select(ReceivedReport)
            .join(report_study_table, report_study_table.c.report_id == _REPORT.id)
            .where(report_study_table.c.study_instance_uid == study)
            .order_by(_REPORT.received_at, _REPORT.id)
        )
        rows = {row.document_id: row for row in self._session.scalars(query)}
        places: dict[str, ReceivedReport] = {}
        for row in rows.values():
            last = row
            while last.replaced_by in rows:
                last = rows[last.replaced_by]
            places.setdefault(last.document_id, last)
        return [row for row in places.values() if row.state == ReportState.CURRENT]

    def had_reports(self, study: str) -> bool:
        """Whether any report, current or not, ever documented a study."""
        links = report_study_table.c.study_instance_uid == study
        return self._session.scalar(select(exists().where(links))) or False

    def successor_of(self, document_id: str) -> ReceivedReport | None:
        """A report that says that it replaces this document."""
        parents = report_parent_table.c
        query = select(ReceivedReport).join(report_parent_table, parents.report_id == _REPORT.id)
        return self._session.scalars(query.where(parents.document_id == document_id)).first()

    def studies_of(self, report_id: str) -> Sequence[str]:
        """The studies that a report documents."""
        links = report_study_table.c
        return self._session.scalars(
            select(links.study_instance_uid)
            .where(links.report_id == report_id)
            .order_by(links.study_instance_uid)
        ).all()

    def gate(self, name: str) -> Gate | None:
        """The stopped queue of that name, locked, or None: it is open."""
        return self._session.get(Gate, name, with_for_update=self._locks)

    def remove(self, record: Gate) -> None:
        """Delete a row at the next flush."""
        self._session.delete(record)

    def report(self, report_id: str) -> ReceivedReport | None:
        """One received report by our own id."""
        return self._session.get(ReceivedReport, report_id)

    def report_by_document(self, document_id: str) -> ReceivedReport | None:
        """The received report of a CDA id (`root` or `root^extension`)."""
        return self._session.scalar(select(ReceivedReport).where(_REPORT.document_id == document_id))

    def submissions_of(self, study: str) -> Sequence[Submission]:
        """Every submission of a study, oldest first."""
        query = select(Submission).where(_LOT.study_instance_uid == study).order_by(_LOT.created_at, _LOT.id)
        return self._session.scalars(query).all()

    def submission(self, submission_id: str) -> Submission | None:
        """One submission by our own id, locked until the transaction ends."""
        return self._session.get(Submission, submission_id, with_for_update=self._locks)

    def submission_by_kos(self, kos_uid: str) -> Submission | None:
        """The submission whose manifest has this SOP Instance UID."""
        return self._session.scalar(select(Submission).where(_LOT.kos_uid == kos_uid))

    def open_submissions(self, study: str) -> Sequence[Submission]:
        """Submissions of a study that are not finished (`lifecycle.OPEN`)."""
        query = select(Submission).where(_LOT.study_instance_uid == study, _LOT.state.in_(sorted(OPEN)))
        return self._session.scalars(query.with_for_update()).all()

    def claimable(self, now: datetime, *, publications: bool = True) -> Submission | None:
        """One submission that waits to be sent, looked up or identified; locked, others skip it.

        `publications`: also lots that publish or replace; without them withdrawals are still sent.
        """
        query = select(Submission).where(due_lots(now, publications=publications))
        query = query.order_by(_LOT.due_at).limit(1)
        return self._session.scalar(query.with_for_update(skip_locked=True) if self._locks else query)

    def leased(self) -> Sequence[Submission]:
        """Submissions that somebody is sending."""
        states = [SubmissionState.SENDING, SubmissionState.RESENDING]
        query = select(Submission).where(_LOT.state.in_(states))
        return self._session.scalars(query.with_for_update(skip_locked=True) if self._locks else query).all()

    def counts(self) -> dict[str, Sequence[tuple[str, str, int, datetime | None]]]:
        """Rows by state: exams (state, rule) and submissions (kind, state), each with the oldest change."""
        exams = select(_EXAM.state, _EXAM.rule, func.count(), func.min(_EXAM.changed_at))
        lots = select(_LOT.kind, _LOT.state, func.count(), func.min(_LOT.since))
        return {
            "exams": [tuple(row) for row in self._session.execute(exams.group_by(_EXAM.state, _EXAM.rule))],
            "submissions": [
                tuple(row) for row in self._session.execute(lots.group_by(_LOT.kind, _LOT.state))
            ],
        }

    def due_counts(self, now: datetime) -> tuple[int, int]:
        """(exams that wait to be judged, submissions that wait for an exchange), at `now`."""
        exams = select(func.count()).where(_EXAM.reconcile_at <= now)
        lots = select(func.count()).where(_LOT.due_at <= now, _LOT.state.in_(sorted(OPEN)))
        return self._session.scalar(exams) or 0, self._session.scalar(lots) or 0

    def trace_of(self, study: str) -> Sequence[TraceEntry]:
        """All that happened to a study, oldest first."""
        query = select(TraceEntry).where(_TRACE.study_instance_uid == study).order_by(_TRACE.id)
        return self._session.scalars(query).all()

    def published(self) -> Sequence[Submission]:
        """Every submission that the DMP holds or held, oldest first, for the archive."""
        states = [SubmissionState.REGISTERED, SubmissionState.DEPRECATED, SubmissionState.WITHDRAWN]
        query = select(Submission).where(_LOT.state.in_(states)).order_by(_LOT.created_at, _LOT.id)
        return self._session.scalars(query).all()


def _documented() -> ColumnElement[bool]:
    """A current report names the exam."""
    links = report_study_table.c
    named = (links.study_instance_uid == _EXAM.study_instance_uid) & (links.report_id == _REPORT.id)
    return exists().where(named, _REPORT.state == ReportState.CURRENT)


def due_lots(now: datetime, *, publications: bool = True) -> ColumnElement[bool]:
    """Submissions that somebody may take up at `now`; `publications` as in `SqlLedger.claimable`.

    A lot is not sent while something arrived that it was not judged with: it may speak against it.
    """
    judged = exists().where(
        _EXAM.study_instance_uid == _LOT.study_instance_uid, _EXAM.revision == _LOT.revision
    )
    state = _LOT.state.concat("")  # no index serves this: few are due, nearly all are registered
    sendable = (state == SubmissionState.PREPARED) & judged
    if not publications:
        sendable &= _LOT.kind == "unpublish"
    waits = or_(sendable, state == SubmissionState.DOUBTFUL)
    nameless = (state == SubmissionState.REGISTERED) & _LOT.entry_uuid.is_(None)
    free = or_(_LOT.lease_until.is_(None), _LOT.lease_until <= now)
    return and_(or_(waits, nameless), _LOT.due_at <= now, free)


def _count(result: Result[Any]) -> int:
    assert isinstance(result, CursorResult)  # of an UPDATE
    return result.rowcount
