"""What is known of an exam, as `exams list/show/trace` print it (design: contract); and `exams release`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from drimbox.domain.cda import read_cda
from drimbox.domain.exam import VISIBILITY_CODES
from drimbox.domain.lifecycle import MANIFEST_STATUS, Event, SubmissionState
from drimbox.domain.report import Patient
from drimbox.flow import trace
from drimbox.flow.ports import Documents, Transaction, Transactions
from drimbox.flow.records import Exam, ReceivedReport, Submission, TraceEntry

_RELEASABLE = (SubmissionState.PARKED, SubmissionState.REFUSED)


class UnknownExam(Exception):
    """No image and no report of this study was ever received."""


class NothingToRelease(Exception):
    """No submission of this exam is parked or refused."""


def list_exams(transactions: Transactions, state: str | None) -> list[dict[str, Any]]:
    """One row per exam, newest change first; `state` filters by study state."""
    with transactions.reading() as transaction:
        return [_row(transaction, exam) for exam in transaction.ledger.exams(state)]


def show_exam(transactions: Transactions, documents: Documents, study: str, time_zone: str) -> dict[str, Any]:
    """The `exams show --json` object of the contract. Raises `UnknownExam`."""
    with transactions.reading() as transaction:
        exam = _exam(transaction, study)
        images = transaction.images.snapshot(study)
        reports = transaction.ledger.reports_of(study)
        history = [s for s in transaction.ledger.submissions_of(study) if s.state != SubmissionState.DROPPED]
        return {
            "study_instance_uid": study,
            "state": exam.state,
            "reason": exam.reason,
            "rule": exam.rule,
            "patient": _patient(documents, reports, time_zone),
            "instances": len(images.instances) if images else 0,
            "series": len(images.series) if images else 0,
            "reports": [_report(report) for report in reports],
            "manifest": _manifest(history[-1] if history else None),
            "history": [_step(submission) for submission in history],
        }


def trace_exam(transactions: Transactions, study: str) -> list[dict[str, Any]]:
    """Every event of a study, oldest first. Raises `UnknownExam`."""
    with transactions.reading() as transaction:
        _exam(transaction, study)
        return [_event(entry) for entry in transaction.ledger.trace_of(study)]


def release_exam(transactions: Transactions, study: str, *, now: datetime, actor: str) -> list[str]:
    """Let what was parked or refused try again; returns the submissions released.

    A parked lot may be at the DMP: it becomes doubtful and is looked up first. Raises `UnknownExam`,
    `NothingToRelease`.
    """
    with transactions.writing() as transaction:
        exam = _exam(transaction, study)
        released = [s for s in transaction.ledger.open_submissions(study) if s.state in _RELEASABLE]
        if not released:
            raise NothingToRelease(study)
        for submission in released:
            trace.move_submission(transaction, submission, Event.RELEASED, at=now, actor=actor)
            submission.ending, submission.endings, submission.due_at = None, 0, now
        exam.reconcile_at = now
        transaction.commit()
        return [submission.id for submission in released]


def _exam(transaction: Transaction, study: str) -> Exam:
    exam = transaction.ledger.exam(study)
    if exam is None:
        raise UnknownExam(study)
    return exam


def _row(transaction: Transaction, exam: Exam) -> dict[str, Any]:
    lots = [s for s in transaction.ledger.submissions_of(exam.study_instance_uid) if s.state != "DROPPED"]
    return {
        "study_instance_uid": exam.study_instance_uid,
        "state": exam.state,
        "manifest": _manifest(lots[-1] if lots else None)["status"],
        "reason": exam.reason,
        "changed_at": stamp(exam.changed_at),
    }


def _patient(
    documents: Documents, reports: Sequence[ReceivedReport], time_zone: str
) -> dict[str, Any] | None:
    if not reports:
        return None
    reading = read_cda(documents.get(reports[0].cda), time_zone=time_zone)
    assert reading.report is not None  # it was accepted
    patient: Patient = reading.report.patient
    return {
        "ins": patient.ins.value if patient.ins else None,
        "oid": patient.ins.oid if patient.ins else None,
        "name": f"{patient.birth_family} {patient.birth_given}".strip(),
    }


def _report(report: ReceivedReport) -> dict[str, Any]:
    flags = [code for flag, code in VISIBILITY_CODES.items() if flag in report.flags]
    return {
        "id": report.document_id,
        "version": report.version,
        "operation": report.operation,
        "confidentiality": ["N", *flags],
        "current": report.current,
    }


def _manifest(submission: Submission | None) -> dict[str, Any]:
    if submission is None:
        return {"status": "none", "sop_instance_uid": None, "entry_uuid": None, "since": None}
    return {**_step(submission), "entry_uuid": submission.entry_uuid, "error": submission.last_error}


def _step(submission: Submission) -> dict[str, Any]:
    return {
        "sop_instance_uid": submission.kos_uid,
        "status": MANIFEST_STATUS[SubmissionState(submission.state)],
        "since": stamp(submission.since),
    }


def _event(entry: TraceEntry) -> dict[str, Any]:
    return {
        "at": stamp(entry.at),
        "event": entry.event,
        "from": entry.before,
        "to": entry.after,
        "actor": entry.actor,
        "detail": entry.detail | ({"submission": entry.submission_id} if entry.submission_id else {}),
    }


def stamp(at: datetime) -> str:
    """ISO 8601 in UTC with a final Z, to the millisecond."""
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
