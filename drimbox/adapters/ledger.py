"""The ledger: exams, reports, messages, submissions and their trace, as tables; rows are `flow.records`.

Queries flush, never commit. Work is claimed with `FOR UPDATE SKIP LOCKED` where the engine has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import JSON, Boolean, Column, Integer, String, Table, Text, exists, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, registry

from drimbox.adapters.database import UtcDateTime
from drimbox.domain.lifecycle import OPEN, SubmissionState
from drimbox.flow.records import Exam, Message, ReceivedReport, ReportStudy, Submission, TraceEntry

mapper = registry()
metadata = mapper.metadata

exam_table = Table(
    "exam",
    metadata,
    Column("study_instance_uid", String(64), primary_key=True),
    Column("state", String(16), nullable=False, index=True),
    Column("rule", String(64)),
    Column("reason", Text),
    Column("revision", Integer, nullable=False),
    Column("changed_at", UtcDateTime, nullable=False),
    Column("last_instance_at", UtcDateTime),
    Column("reconcile_at", UtcDateTime, index=True),
)

report_table = Table(
    "report",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("document_id", String(200), nullable=False, unique=True),
    Column("set_id", String(200), nullable=False),
    Column("version", Integer, nullable=False),
    Column("operation", String(2), nullable=False),
    Column("cda", String(64), nullable=False),
    Column("message", String(64)),
    Column("received_at", UtcDateTime, nullable=False),
    Column("door", String(16), nullable=False),
    Column("flags", JSON, nullable=False),
    Column("destined_to_dmp", Boolean, nullable=False),
    Column("patient_class", String(16), nullable=False),
    Column("sender", JSON, nullable=False),
    Column("current", Boolean, nullable=False),
)

report_study_table = Table(
    "report_study",
    metadata,
    Column("report_id", String(36), primary_key=True),
    Column("study_instance_uid", String(64), primary_key=True, index=True),
)

message_table = Table(
    "message",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("received_at", UtcDateTime, nullable=False, index=True),
    Column("door", String(16), nullable=False),
    Column("peer", String(64), nullable=False),
    Column("control_id", String(200), nullable=False),
    Column("content", String(64), nullable=False),
    Column("verdict", String(8), nullable=False),
    Column("code", String(64)),
    Column("reason", Text),
    Column("report_id", String(36)),
)

submission_table = Table(
    "submission",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("study_instance_uid", String(64), nullable=False, index=True),
    Column("kind", String(16), nullable=False),
    Column("state", String(16), nullable=False, index=True),
    Column("content_key", String(64), nullable=False),
    Column("kos_uid", String(64), nullable=False, unique=True),
    Column("submission_set_uid", String(64), nullable=False, unique=True),
    Column("signature_uid", String(64), nullable=False),
    Column("kos", String(64), nullable=False),
    Column("signature", String(64), nullable=False),
    Column("request", String(64), nullable=False),
    Column("vihf", Text, nullable=False),
    Column("report_id", String(36), nullable=False),
    Column("patient_ins", String(15), nullable=False),
    Column("patient_oid", String(64), nullable=False),
    Column("revision", Integer, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("since", UtcDateTime, nullable=False),
    Column("replaces_id", String(36)),
    Column("entry_uuid", String(64)),
    Column("attempts", Integer, nullable=False),
    Column("ending", String(32)),
    Column("endings", Integer, nullable=False),
    Column("due_at", UtcDateTime, index=True),
    Column("lease_owner", String(128)),
    Column("lease_until", UtcDateTime),
    Column("last_error", Text),
)

trace_table = Table(
    "trace",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("at", UtcDateTime, nullable=False, index=True),
    Column("event", String(64), nullable=False),
    Column("actor", String(128), nullable=False),
    Column("study_instance_uid", String(64), index=True),
    Column("submission_id", String(36)),
    Column("before", String(16)),
    Column("after", String(16)),
    Column("detail", JSON, nullable=False),
)

mapper.map_imperatively(Exam, exam_table)
mapper.map_imperatively(ReceivedReport, report_table)
mapper.map_imperatively(ReportStudy, report_study_table)
mapper.map_imperatively(Message, message_table)
mapper.map_imperatively(Submission, submission_table)
mapper.map_imperatively(TraceEntry, trace_table)

Record = Exam | ReceivedReport | ReportStudy | Message | Submission | TraceEntry
_EXAM, _REPORT, _LOT, _TRACE = exam_table.c, report_table.c, submission_table.c, trace_table.c


class SqlLedger:
    """The queries that `flow` needs, under the caller's session."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def add(self, record: Record) -> None:
        """Insert a row at the next flush."""
        self._session.add(record)

    def flush(self) -> None:
        """Send what is pending, so that a broken constraint shows now."""
        self._session.flush()

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

    def exams(self, state: str | None = None) -> Sequence[Exam]:
        """Every exam, newest change first."""
        query = select(Exam).order_by(_EXAM.changed_at.desc())
        return self._session.scalars(query.where(_EXAM.state == state) if state else query).all()

    def due_exams(self, now: datetime, limit: int) -> Sequence[Exam]:
        """Exams to reconcile at `now`, oldest first."""
        query = select(Exam).where(_EXAM.reconcile_at <= now).order_by(_EXAM.reconcile_at).limit(limit)
        return self._session.scalars(query).all()

    def reports_of(self, study: str) -> Sequence[ReceivedReport]:
        """The current reports that document a study, oldest first."""
        query = (
            select(ReceivedReport)
            .join(report_study_table, report_study_table.c.report_id == _REPORT.id)
            .where(report_study_table.c.study_instance_uid == study, _REPORT.current)
            .order_by(_REPORT.received_at, _REPORT.id)
        )
        return self._session.scalars(query).all()

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
        return self._session.get(Submission, submission_id, with_for_update=True)

    def submission_by_kos(self, kos_uid: str) -> Submission | None:
        """The submission whose manifest has this SOP Instance UID."""
        return self._session.scalar(select(Submission).where(_LOT.kos_uid == kos_uid))

    def open_submissions(self, study: str) -> Sequence[Submission]:
        """Submissions of a study that are not finished (`lifecycle.OPEN`)."""
        query = select(Submission).where(_LOT.study_instance_uid == study, _LOT.state.in_(sorted(OPEN)))
        return self._session.scalars(query.with_for_update()).all()

    def claimable(self, now: datetime) -> Submission | None:
        """One submission that waits to be sent, looked up or identified; locked, others skip it.

        A lot is not sent while something arrived that it was not judged with: it may speak against it.
        """
        judged = exists().where(
            _EXAM.study_instance_uid == _LOT.study_instance_uid, _EXAM.revision == _LOT.revision
        )
        sendable = (_LOT.state == SubmissionState.PREPARED) & judged
        waits = or_(sendable, _LOT.state == SubmissionState.DOUBTFUL)
        nameless = (_LOT.state == SubmissionState.REGISTERED) & _LOT.entry_uuid.is_(None)
        query = (
            select(Submission)
            .where(or_(waits, nameless), _LOT.due_at <= now)
            .where(or_(_LOT.lease_until.is_(None), _LOT.lease_until <= now))
            .order_by(_LOT.due_at)
            .limit(1)
        )
        return self._session.scalar(query.with_for_update(skip_locked=True))

    def leased(self) -> Sequence[Submission]:
        """Submissions that somebody is sending."""
        states = [SubmissionState.SENDING, SubmissionState.RESENDING]
        query = select(Submission).where(_LOT.state.in_(states))
        return self._session.scalars(query.with_for_update(skip_locked=True)).all()

    def trace_of(self, study: str) -> Sequence[TraceEntry]:
        """All that happened to a study, oldest first."""
        query = select(TraceEntry).where(_TRACE.study_instance_uid == study).order_by(_TRACE.id)
        return self._session.scalars(query).all()

    def published(self) -> Sequence[Submission]:
        """Every submission that the DMP holds or held, oldest first, for the archive."""
        states = [SubmissionState.REGISTERED, SubmissionState.DEPRECATED, SubmissionState.WITHDRAWN]
        query = select(Submission).where(_LOT.state.in_(states)).order_by(_LOT.created_at, _LOT.id)
        return self._session.scalars(query).all()
