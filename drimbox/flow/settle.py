"""What an answer of the DMP, or the registry's word, does to a submission, to the one it replaces, to the queue."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum, auto
from typing import Any

from drimbox.domain.lifecycle import Event, SubmissionState, standing
from drimbox.domain.retry import Action, RetryPolicy, ending_of
from drimbox.domain.xds.outcome import (
    Answer,
    Found,
    Lookup,
    NoAnswer,
    NotFound,
    NotSent,
    Refused,
    Registered,
)
from drimbox.domain.xds.response import ErrorKind
from drimbox.domain.xds.vocabulary import APPROVED, DELETED
from drimbox.flow import trace
from drimbox.flow.ports import Documents, Transaction
from drimbox.flow.records import Exam, Gate, Submission
from drimbox.flow.steps import GONE

QUEUE = "dmp"
STALE = "stale"  # ending of a published manifest whose entryUUID the DMP did not know
# What an attempt that did not succeed does to its submission (`domain/retry.py` decides which).
_EVENTS: Mapping[Action, Event] = {
    Action.RETRY: Event.NOT_SENT,
    Action.STOP_QUEUE: Event.NOT_SENT,
    Action.LOOK_UP: Event.NO_ANSWER,
    Action.PARK: Event.REFUSED,
}


class Finding(Enum):
    """What a lookup says of a submission."""

    DONE = auto()
    NOT_DONE = auto()
    GONE = auto()  # published once, and not Approved any more
    UNKNOWN = auto()


@dataclass(frozen=True, slots=True)
class Settling:
    """The parts that settling needs. `actor` is named in the trace; `chance` gives jitter in [0, 1)."""

    documents: Documents
    retry: RetryPolicy
    actor: str
    chance: Callable[[], float]
    alarm: Callable[..., Any]

    def answered(
        self,
        transaction: Transaction,
        submission: Submission,
        answer: Answer,
        now: datetime,
        evidence: Mapping[str, Any],
    ) -> None:
        """What the DMP's answer does. `evidence`: what `evidence` kept of it."""
        ending = None if isinstance(answer, Registered) else ending_of(answer)
        self._set_gate(transaction, answer, ending, now)
        if isinstance(answer, Registered):
            self._done(transaction, submission, Event.REGISTERED, now, **evidence)
            return
        submission.last_error = answer.reason
        submission.endings = submission.endings + 1 if submission.ending == ending else 1
        submission.ending = ending
        decision = self.retry.decide(submission.endings, ending_of(answer), self.chance())
        delay = self.retry.cap if decision.action is Action.STOP_QUEUE else decision.delay
        due = now + timedelta(seconds=delay)
        event = _EVENTS[decision.action]
        if ending is ErrorKind.STALE_REFERENCE:
            self._identify_target_again(transaction, submission, now)
        if event is Event.REFUSED and ending is ErrorKind.DUPLICATE:
            # the DMP holds something under our identifiers: never a lot that may be dropped
            self.move(transaction, submission, Event.NO_ANSWER, now, due=None, **evidence)
            self.move(transaction, submission, Event.ATTEMPTS_SPENT, now, due=None)
            return
        self.move(
            transaction, submission, event, now, due=None if event is Event.REFUSED else due, **evidence
        )

    def _done(
        self, transaction: Transaction, submission: Submission, event: Event, now: datetime, **detail: Any
    ) -> None:
        """The DMP did what was asked: this submission is registered, its target has its new state.

        RPLC and the change of status are atomic at the registry.
        """
        submission.last_error = None
        named = submission.kind == "unpublish" or submission.entry_uuid is not None
        self.move(transaction, submission, event, now, due=None if named else now, **detail)
        if submission.replaces_id is None:
            return
        target = transaction.ledger.submission(submission.replaces_id)
        if target is not None and target.state == SubmissionState.REGISTERED:
            fate = Event.WITHDRAWN if submission.kind == "unpublish" else Event.REPLACED
            self.move(transaction, target, fate, now, due=None, by=submission.kos_uid or submission.id)

    def _identify_target_again(self, transaction: Transaction, submission: Submission, now: datetime) -> None:
        """The DMP does not know the entryUUID that we named: it is looked up, and the lot rebuilt if it changed."""
        target = transaction.ledger.submission(submission.replaces_id or "")
        if target is not None and target.state == SubmissionState.REGISTERED:
            target.entry_uuid, target.due_at, target.ending = None, now, STALE

    def _set_gate(
        self, transaction: Transaction, answer: Answer | Lookup, ending: object, now: datetime
    ) -> None:
        """A refusal for security would meet every message: the queue stands still. Any other word opens it."""
        gate = transaction.ledger.gate(QUEUE)
        if ending is ErrorKind.SECURITY and isinstance(answer, Refused):
            until = now + timedelta(seconds=self.retry.cap)
            if gate is None:
                transaction.ledger.add(Gate(QUEUE, now, until, answer.reason))
                trace.note(transaction, "QUEUE_STOPPED", at=now, actor=self.actor, reason=answer.reason)
                self.alarm("queue_stopped", reason=answer.reason)
            else:
                gate.until, gate.reason = until, answer.reason
        elif gate is not None and not isinstance(answer, NotSent | NoAnswer):
            transaction.ledger.remove(gate)
            trace.note(transaction, "QUEUE_RESUMED", at=now, actor=self.actor)

    def looked_up(
        self,
        transaction: Transaction,
        submission: Submission,
        lookup: Lookup,
        now: datetime,
        evidence: Mapping[str, Any],
    ) -> None:
        """What the registry's word does. `evidence`: what `evidence` kept of it."""
        self._set_gate(transaction, lookup, lookup.kind if isinstance(lookup, Refused) else None, now)
        later = now + timedelta(seconds=self.retry.delay(submission.endings, self.chance()))
        finding = _finding(submission, lookup)
        if finding is Finding.DONE and submission.state == SubmissionState.DOUBTFUL:
            if isinstance(lookup, Found) and submission.kind != "unpublish":
                submission.entry_uuid = lookup.head.id
            self._done(transaction, submission, Event.FOUND, now, **evidence)
        elif finding is Finding.DONE and isinstance(lookup, Found):
            submission.entry_uuid, submission.last_error = lookup.head.id, None
            self._stay(transaction, submission, "IDENTIFIED", now, due=None, **evidence)
        elif finding is Finding.GONE and submission.state == SubmissionState.REGISTERED:
            submission.ending, submission.last_error = GONE, _words(lookup)
            self._stay(transaction, submission, "GONE_AT_DMP", now, due=None, **evidence)
        elif finding is Finding.NOT_DONE:
            self.move(transaction, submission, Event.NOT_FOUND, now, due=later, **evidence)
        else:
            event = "LOOKUP_FAILED" if submission.last_error != _words(lookup) else None  # said once
            submission.last_error = _words(lookup)
            self._stay(transaction, submission, event, now, due=later, **evidence)

    def move(
        self,
        transaction: Transaction,
        submission: Submission,
        event: Event,
        now: datetime,
        *,
        due: datetime | None,
        **detail: Any,
    ) -> None:
        trace.move_submission(transaction, submission, event, at=now, actor=self.actor, **detail)
        self._let_go(transaction, submission, now, due)

    def _stay(
        self,
        transaction: Transaction,
        submission: Submission,
        event: str | None,
        now: datetime,
        *,
        due: datetime | None,
        **detail: Any,
    ) -> None:
        if event is not None:
            study = submission.study_instance_uid
            trace.note(
                transaction, event, at=now, actor=self.actor, study=study, submission=submission.id, **detail
            )
        self._let_go(transaction, submission, now, due)

    def _let_go(
        self, transaction: Transaction, submission: Submission, now: datetime, due: datetime | None
    ) -> None:
        submission.due_at, submission.lease_owner, submission.lease_until = due, None, None
        exam = transaction.ledger.exam_for_update(submission.study_instance_uid, now)
        exam.judged = None
        if not _is_as_judged(submission, exam):
            exam.reconcile_at = now  # what it wants next may have changed
        if submission.state != SubmissionState.DEPRECATED:
            exam.rule, exam.reason = standing(submission.state, submission.last_error)

    def evidence(self, outcome: Answer | Lookup) -> dict[str, Any]:
        """What the trace keeps of an exchange: its message, the DMP's words, the answer's bytes in the store.

        Called before the transaction, which must not wait for the disk of the store. Raises `errors.Unavailable`.
        """
        exchange = outcome.exchange
        evidence: dict[str, Any] = {"message": exchange.message_id, "http": exchange.http_status}
        if isinstance(outcome, Found):
            evidence["entry"] = outcome.head.id
        if isinstance(outcome, Refused | NotSent | NoAnswer):
            evidence["reason"] = outcome.reason
        if exchange.answer:
            evidence["answer"] = self.documents.put(exchange.answer)
        return evidence


def _is_as_judged(submission: Submission, exam: Exam) -> bool:
    """Published as the exam was last judged to want, its entryUUID being asked for: that answer wakes the exam."""
    return (
        submission.state == SubmissionState.REGISTERED
        and submission.kind != "unpublish"
        and submission.entry_uuid is None
        and submission.due_at is not None
        and submission.revision == exam.revision
        and exam.rule != "in-flight"
    )


def _finding(submission: Submission, lookup: Lookup) -> Finding:
    if not isinstance(lookup, Found | NotFound):
        return Finding.UNKNOWN
    status = lookup.head.status if isinstance(lookup, Found) else None
    if submission.kind == "unpublish":  # its target was looked up; a registry may hide what is Deleted
        return Finding.DONE if status in (DELETED, None) else Finding.NOT_DONE
    if submission.state == SubmissionState.DOUBTFUL:
        return Finding.DONE if isinstance(lookup, Found) else Finding.NOT_DONE
    if status == APPROVED:
        return Finding.DONE
    return Finding.GONE if status is not None or submission.ending == STALE else Finding.UNKNOWN


def _words(lookup: Lookup) -> str:
    if isinstance(lookup, Found):
        return f"its status is {(lookup.head.status or 'unknown').rpartition(':')[2]}"
    return "the registry does not hold it" if isinstance(lookup, NotFound) else lookup.reason
