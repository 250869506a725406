"""What is known of an exam, as `exams list/show/trace` print it (design: contract); and `exams release`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from drimbox.domain.cda import read_cda
from drimbox.domain.exam import VISIBILITY_CODES
from drimbox.domain.lifecycle import MANIFEST_STATUS, OPEN, Event, ReportState, SubmissionState
from drimbox.domain.report import Patient
from drimbox.flow import trace
from drimbox.flow.ports import Documents, Transaction, Transactions
from drimbox.flow.records import Exam, ReceivedReport, Submission, TraceEntry
from drimbox.flow.settle import QUEUE
from drimbox.flow.steps import GONE, live_of, unfinished_of

_TROUBLE = (
    SubmissionState.DOUBTFUL,
    SubmissionState.RESENDING,
    SubmissionState.REFUSED,
    SubmissionState.PARKED,
)
_RELEASABLE = (SubmissionState.PARKED, SubmissionState.REFUSED)


class UnknownExam(Exception):
    """No image and no report of this study was ever received."""


class NothingToRelease(Exception):
    """Nothing of this exam is parked, refused or waiting to be sent again."""


def show_exam(transactions: Transactions, documents: Documents, study: str, time_zone: str) -> dict[str, Any]:
    """The `exams show --json` object of the contract. Raises `UnknownExam`."""
    with transactions.reading() as transaction:
        exam = _exam(transaction, study)
        images = transaction.images.snapshot(study)
        reports = transaction.ledger.reports_of(study)
        submissions = transaction.ledger.submissions_of(study)
        return {
            "study_instance_uid": study,
            "state": exam.state,
            **_why(exam),
            "patient": _patient(documents, reports, time_zone),
            "instances": len(images.instances) if images else 0,
            "series": len(images.series) if images else 0,
            "reports": [_report(report) for report in reports],
            "manifest": _manifest(submissions),
            "history": [_step(submission) for submission in _publications(submissions)],
        }


def trace_exam(transactions: Transactions, study: str) -> list[dict[str, Any]]:
    """Every event of a study, oldest first. Raises `UnknownExam`."""
    with transactions.reading() as transaction:
        _exam(transaction, study)
        return [_event(entry) for entry in transaction.ledger.trace_of(study)]


def release_exam(transactions: Transactions, study: str, *, now: datetime, actor: str) -> list[str]:
    """Let what was parked or refused, or waits to be sent again, go on now; returns the submissions released.

    A parked lot may be at the DMP: it becomes doubtful and is looked up first. Also the operator's word for a
    thinner manifest, and one try of a queue that stands still. Raises `UnknownExam`, `NothingToRelease`.
    """
    with transactions.writing() as transaction:
        exam = _exam(transaction, study, lock=True)
        lots = transaction.ledger.open_submissions(study)
        released = [s for s in lots if s.state in _RELEASABLE]
        # a doubt keeps its time: a look-up that comes too soon would not find what the DMP still works on
        to_send = [s for s in lots if s.state == SubmissionState.PREPARED]
        waiting = [s for s in to_send if s.due_at is not None and s.due_at > now]
        if not released and not waiting and not _let_go(transaction, exam, now, actor):
            raise NothingToRelease(study)
        for submission in released:
            trace.move_submission(transaction, submission, Event.RELEASED, at=now, actor=actor)
            submission.ending, submission.endings, submission.due_at = None, 0, now
        for submission in waiting:
            submission.due_at = now
            trace.note(transaction, "HURRIED", at=now, actor=actor, study=study, submission=submission.id)
        if waiting and (gate := transaction.ledger.gate(QUEUE)) is not None:
            gate.until = min(gate.until, now)
        exam.judged = None
        exam.reconcile_at = now
        transaction.commit()
        return [submission.id for submission in (*released, *waiting)]


def withdraw_exam(transactions: Transactions, study: str, *, now: datetime, actor: str, reason: str) -> None:
    """Nothing of the exam may be public any more; the doors stop serving with this commit. Raises `UnknownExam`."""
    with transactions.writing() as transaction:
        exam = _exam(transaction, study, lock=True)  # its revision grows, whoever else changes it
        exam.withdrawn_by = "operator"
        exam.revision += 1
        exam.reconcile_at = now
        trace.move_study(transaction, exam, Event.WITHDRAWAL_ASKED, at=now, actor=actor, reason=reason)
        transaction.commit()


def restore_exam(transactions: Transactions, study: str, *, now: datetime, actor: str, reason: str) -> None:
    """An exam that was withdrawn may be public again. Raises `UnknownExam`, `NothingToRelease`."""
    with transactions.writing() as transaction:
        exam = _exam(transaction, study, lock=True)
        if exam.withdrawn_by is None:
            raise NothingToRelease(study)
        exam.withdrawn_by = None
        exam.revision += 1
        exam.reconcile_at = now
        trace.restore_study(transaction, exam, at=now, actor=actor, reason=reason)
        transaction.commit()


def _let_go(transaction: Transaction, exam: Exam, now: datetime, actor: str) -> bool:
    """An operator's word for what no submission waits for: a thinner manifest, one that is gone at the DMP."""
    live = live_of(transaction.ledger.submissions_of(exam.study_instance_uid))
    if exam.rule == "thinner" and exam.held_key is not None:
        exam.approved_key = exam.held_key
        trace.note(transaction, "THINNER_APPROVED", at=now, actor=actor, study=exam.study_instance_uid)
    elif live is not None and live.ending == GONE:
        trace.move_submission(transaction, live, Event.WITHDRAWN, at=now, actor=actor, why="gone at the DMP")
    else:
        return False
    exam.reconcile_at = now
    return True


def _exam(transaction: Transaction, study: str, *, lock: bool = False) -> Exam:
    exam = transaction.ledger.exam(study, lock=lock)
    if exam is None:
        raise UnknownExam(study)
    return exam


def row(exam: Exam, submissions: Sequence[Submission]) -> dict[str, Any]:
    """One line of `exams list`; `submissions`: those of the exam, oldest first."""
    return {
        "study_instance_uid": exam.study_instance_uid,
        "state": exam.state,
        "manifest": _manifest(submissions)["status"],
        **_why(exam),
        "changed_at": stamp(exam.changed_at),
    }


def _why(exam: Exam) -> dict[str, str | None]:
    """Why its manifest is not the one that should be public; something that arrived a moment ago is a reason too."""
    if exam.rule is None and exam.reconcile_at is not None:
        reason = f"what arrived last will be judged at {exam.reconcile_at:%H:%M:%S}Z"
        return {"rule": "not-judged-yet", "reason": reason}
    return {"rule": exam.rule, "reason": exam.reason}


def _patient(
    documents: Documents, reports: Sequence[ReceivedReport], time_zone: str
) -> dict[str, Any] | None:
    if not reports:
        return None
    reading = read_cda(documents.get(reports[0].cda), time_zone=time_zone, for_publication=False)
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
        "current": report.state == ReportState.CURRENT,
    }


def _publications(submissions: Sequence[Submission]) -> list[Submission]:
    """The manifests that were made, oldest first, without those that never left."""
    return [s for s in submissions if s.kind != "unpublish" and s.state != SubmissionState.DROPPED]


def _manifest(submissions: Sequence[Submission]) -> dict[str, Any]:
    """The newest manifest; trouble of its unpublication is trouble of the manifest."""
    publications = _publications(submissions)
    if not publications:
        return {"status": "none", "sop_instance_uid": None, "entry_uuid": None, "since": None}
    newest, unfinished = _newest(publications), unfinished_of(submissions)
    known = {**_step(newest), "entry_uuid": newest.entry_uuid, "error": newest.last_error}
    if unfinished is not None and unfinished.kind == "unpublish" and unfinished.state in _TROUBLE:
        trouble = _step(unfinished)
        known |= {"status": trouble["status"], "since": trouble["since"], "error": unfinished.last_error}
    return known


def _newest(publications: Sequence[Submission]) -> Submission:
    """The last one made: told by their states, for their dates are wrong after a clock was set back."""
    not_replaced = [s for s in publications if s.state != SubmissionState.DEPRECATED]
    registered = [s for s in not_replaced if s.state == SubmissionState.REGISTERED]
    unfinished = [s for s in not_replaced if s.state in OPEN]
    return (unfinished or registered or not_replaced or publications)[-1]


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
