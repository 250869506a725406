"""The only writer of states and events: a state never changes without its row in the trace, in one commit."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from drimbox.domain.lifecycle import Event, StudyState, advance_report, advance_study, advance_submission
from drimbox.flow.ports import Transaction
from drimbox.flow.records import Exam, Note, ReceivedReport, Submission, TraceEntry


def note(
    transaction: Transaction,
    event: str,
    *,
    at: datetime,
    actor: str,
    study: str | None = None,
    submission: str | None = None,
    **detail: Any,
) -> None:
    """Write an event that changes no state: an arrival, a refusal, a retrieval."""
    transaction.ledger.add(TraceEntry(at, event, actor, study, submission, detail=detail))


def note_all(transaction: Transaction, notes: Sequence[Note]) -> None:
    """Write events that change no state, many at once: retrievals."""
    transaction.serving.add_notes(notes)


def move_study(
    transaction: Transaction, exam: Exam, event: Event, *, at: datetime, actor: str, **detail: Any
) -> None:
    """Advance a study by the table and trace it. Raises `NoSuchTransition`."""
    before, exam.state = exam.state, advance_study(exam.state, event)
    exam.changed_at = at
    transaction.ledger.add(
        TraceEntry(at, event, actor, exam.study_instance_uid, None, before, exam.state, detail)
    )


def instance_stored(
    transaction: Transaction, study: str, before: str, *, at: datetime, actor: str, sop: str
) -> None:
    """Advance a study that has one more image, and trace it; `before`: the state of its exam, which is locked."""
    event = Event.INSTANCE_STORED
    after = advance_study(before, event)
    if after != before:
        transaction.ledger.change_exam_state(study, after)
    transaction.ledger.add_note(Note(at, event, actor, study, {"sop": sop}, before, after))


def restore_study(transaction: Transaction, exam: Exam, *, at: datetime, actor: str, **detail: Any) -> None:
    """A study that was withdrawn may be public again; images that came meanwhile have moved its state already."""
    if exam.state == StudyState.WITHDRAWN:
        move_study(transaction, exam, Event.RESTORATION_ASKED, at=at, actor=actor, **detail)
    else:
        study = exam.study_instance_uid
        note(transaction, Event.RESTORATION_ASKED, at=at, actor=actor, study=study, **detail)


def move_report(
    transaction: Transaction,
    report: ReceivedReport,
    event: Event,
    *,
    at: datetime,
    actor: str,
    study: str,
    **detail: Any,
) -> None:
    """Advance a report by the table and trace it under one of its studies. Raises `NoSuchTransition`."""
    before, report.state = report.state, advance_report(report.state, event)
    name = f"REPORT_{event}"
    detail["document"] = report.document_id
    transaction.ledger.add(TraceEntry(at, name, actor, study, None, before, report.state, detail))


def move_submission(
    transaction: Transaction, submission: Submission, event: Event, *, at: datetime, actor: str, **detail: Any
) -> None:
    """Advance a submission by the table and trace it. Raises `NoSuchTransition`."""
    before, submission.state = submission.state, advance_submission(submission.state, event)
    submission.since = at
    transaction.ledger.add(
        TraceEntry(
            at, event, actor, submission.study_instance_uid, submission.id, before, submission.state, detail
        )
    )
