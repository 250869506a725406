"""Claim a submission, speak with the DMP, settle: the only place where a lot leaves.

The claim is committed before the first byte is sent and the answer after the last was read: whatever dies in
between leaves SENDING with a lease, which becomes a doubt, which the registry (TD3.1b) ends. A retry sends the
same frozen lot under a fresh VIHF and MessageID.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

from drimbox.domain.errors import Damaged
from drimbox.domain.identifiers import Ins
from drimbox.domain.lifecycle import Event, SubmissionState, standing
from drimbox.domain.retry import Action, RetryPolicy, ending_of
from drimbox.domain.vihf import VihfIdentity
from drimbox.domain.xds.outcome import (
    Answer,
    Exchange,
    Found,
    Lookup,
    NoAnswer,
    NotFound,
    NotSent,
    Refused,
    Registered,
)
from drimbox.domain.xds.publication import FrozenLot
from drimbox.domain.xds.response import ErrorKind
from drimbox.flow import trace
from drimbox.flow.ports import Clock, Documents, Transaction, Transactions
from drimbox.flow.records import Submission

BATCH = 50
# What an attempt that did not succeed does to its submission (`domain/retry.py` decides which).
_EVENTS: Mapping[Action, Event] = {
    Action.RETRY: Event.NOT_SENT,
    Action.STOP_QUEUE: Event.NOT_SENT,
    Action.LOOK_UP: Event.NO_ANSWER,
    Action.PARK: Event.REFUSED,
}


class DmpDoor(Protocol):
    """The DMP, one call per transaction; never raises for what the DMP or the network does."""

    def publish(self, lot: FrozenLot) -> Answer: ...
    def find(self, unique_id: str, identity: VihfIdentity) -> Lookup: ...


@dataclass(frozen=True, slots=True)
class Publishing:
    """The parts that publishing needs. `lease` in seconds; `chance` gives jitter in [0, 1)."""

    transactions: Transactions
    documents: Documents
    dmp: DmpDoor
    retry: RetryPolicy
    clock: Clock
    node: str
    lease: float
    chance: Callable[[], float]
    log: Callable[..., Any]

    def run_due(self) -> int:
        """Work until nothing is due; returns how many exchanges there were."""
        self._expire(_has_run_out)
        count = 0
        while count < BATCH and (submission := self._claim()) is not None:
            count += 1
            if submission.state == SubmissionState.SENDING:
                self._settle_answer(submission, self._send(submission))
            else:
                found = self.dmp.find(submission.kos_uid, VihfIdentity.from_json(submission.vihf))
                self._settle_lookup(submission, found)
        return count

    def expire_leases_of_this_node(self) -> int:
        """At the start of the node's only worker: whatever it was sending before is in doubt."""
        return self._expire(lambda submission, _now: submission.lease_owner == self.node)

    def _expire(self, is_lost: Callable[[Submission, datetime], bool]) -> int:
        now = self.clock()
        with self.transactions.reading() as transaction:
            if not any(is_lost(submission, now) for submission in transaction.ledger.leased()):
                return 0
        with self.transactions.writing() as transaction:
            lost = [submission for submission in transaction.ledger.leased() if is_lost(submission, now)]
            for submission in lost:
                owner = submission.lease_owner
                self._move(transaction, submission, Event.LEASE_EXPIRED, now, due=now, lease=owner)
            transaction.commit()
        return len(lost)

    def _claim(self) -> Submission | None:
        now = self.clock()
        with self.transactions.reading() as transaction:
            if transaction.ledger.claimable(now) is None:
                return None
        with self.transactions.writing() as transaction:
            submission = transaction.ledger.claimable(now)
            if submission is None:
                return None
            if submission.state == SubmissionState.PREPARED:
                submission.attempts += 1
                trace.move_submission(
                    transaction,
                    submission,
                    Event.CLAIMED,
                    at=now,
                    actor=self._actor,
                    attempt=submission.attempts,
                )
            submission.lease_owner = self.node
            submission.lease_until = now + timedelta(seconds=self.lease)
            transaction.commit()
        return submission

    def _send(self, submission: Submission) -> Answer:
        try:
            lot = self._lot(submission)
        except Damaged as error:  # said to the operator like any other trouble, and tried again once restored
            return NotSent(Exchange(""), str(error))
        return self.dmp.publish(lot)

    def _lot(self, submission: Submission) -> FrozenLot:
        return FrozenLot(
            submission_set_uid=submission.submission_set_uid,
            kos_uid=submission.kos_uid,
            signature_uid=submission.signature_uid,
            kos=self.documents.get(submission.kos),
            signature=self.documents.get(submission.signature),
            submit_objects_request=self.documents.get(submission.request),
            patient=Ins(submission.patient_ins, submission.patient_oid),
            vihf=VihfIdentity.from_json(submission.vihf),
        )

    def _settle_answer(self, claimed: Submission, answer: Answer) -> None:
        now = self.clock()
        with self.transactions.writing() as transaction:
            submission = transaction.ledger.submission(claimed.id)
            if submission is None or not self._is_ours(submission, claimed):
                return  # the lease ran out: somebody else settles it by asking the registry
            self._answered(transaction, submission, answer, now)
            transaction.commit()
        self.log(
            "dmp_answered", submission=submission.id, state=submission.state, attempts=submission.attempts
        )

    def _settle_lookup(self, claimed: Submission, lookup: Lookup) -> None:
        now = self.clock()
        with self.transactions.writing() as transaction:
            submission = transaction.ledger.submission(claimed.id)
            if submission is None or not self._is_ours(submission, claimed):
                return
            self._looked_up(transaction, submission, lookup, now)
            transaction.commit()
        self.log("dmp_looked_up", submission=submission.id, state=submission.state)

    def _answered(
        self, transaction: Transaction, submission: Submission, answer: Answer, now: datetime
    ) -> None:
        evidence = self._evidence(answer)
        if isinstance(answer, Registered):
            submission.last_error = None
            self._move(transaction, submission, Event.REGISTERED, now, due=now, **evidence)
            self._deprecate_predecessor(transaction, submission, now)
            return
        submission.last_error = answer.reason
        ending = ending_of(answer)
        submission.endings = submission.endings + 1 if submission.ending == ending else 1
        submission.ending = ending
        decision = self.retry.decide(submission.endings, ending, self.chance())
        delay = self.retry.cap if decision.action is Action.STOP_QUEUE else decision.delay
        due = now + timedelta(seconds=delay)
        event = _EVENTS[decision.action]
        if event is Event.REFUSED and ending is ErrorKind.DUPLICATE:
            # the DMP holds something under our identifiers: never a lot that may be dropped
            self._move(transaction, submission, Event.NO_ANSWER, now, due=None, **evidence)
            self._move(transaction, submission, Event.ATTEMPTS_SPENT, now, due=None)
            return
        self._move(
            transaction, submission, event, now, due=None if event is Event.REFUSED else due, **evidence
        )

    def _looked_up(
        self, transaction: Transaction, submission: Submission, lookup: Lookup, now: datetime
    ) -> None:
        evidence = self._evidence(lookup)
        later = now + timedelta(seconds=self.retry.delay(submission.endings, self.chance()))
        doubtful = submission.state == SubmissionState.DOUBTFUL
        if isinstance(lookup, Found):
            submission.entry_uuid, submission.last_error = lookup.head.id, None
            if doubtful:
                self._move(transaction, submission, Event.FOUND, now, due=None, **evidence)
                self._deprecate_predecessor(transaction, submission, now)
            else:
                self._stay(transaction, submission, "IDENTIFIED", now, due=None, **evidence)
        elif isinstance(lookup, NotFound) and doubtful:
            self._move(transaction, submission, Event.NOT_FOUND, now, due=later, **evidence)
        else:
            reason = "the registry does not hold it" if isinstance(lookup, NotFound) else lookup.reason
            event = (
                "LOOKUP_FAILED" if submission.last_error != reason else None
            )  # said once, not at each pass
            submission.last_error = reason
            self._stay(transaction, submission, event, now, due=later, **evidence)

    def _move(
        self,
        transaction: Transaction,
        submission: Submission,
        event: Event,
        now: datetime,
        *,
        due: datetime | None,
        **detail: Any,
    ) -> None:
        trace.move_submission(transaction, submission, event, at=now, actor=self._actor, **detail)
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
                transaction, event, at=now, actor=self._actor, study=study, submission=submission.id, **detail
            )
        self._let_go(transaction, submission, now, due)

    def _let_go(
        self, transaction: Transaction, submission: Submission, now: datetime, due: datetime | None
    ) -> None:
        submission.due_at, submission.lease_owner, submission.lease_until = due, None, None
        exam = transaction.ledger.exam_for_update(submission.study_instance_uid, now)
        exam.reconcile_at = now  # what it wants next may have changed
        if submission.state != SubmissionState.DEPRECATED:
            exam.rule, exam.reason = standing(submission.state, submission.last_error)

    def _deprecate_predecessor(self, transaction: Transaction, submission: Submission, now: datetime) -> None:
        """RPLC is atomic at the registry: the replaced entry became Deprecated with our registration."""
        if submission.replaces_id is None:
            return
        replaced = transaction.ledger.submission(submission.replaces_id)
        if replaced is not None and replaced.state == SubmissionState.REGISTERED:
            self._move(transaction, replaced, Event.REPLACED, now, due=None, by=submission.kos_uid)

    def _is_ours(self, submission: Submission, claimed: Submission) -> bool:
        """Nobody settled it, or declared its lease lost, since we claimed it."""
        return (submission.state, submission.lease_owner, submission.lease_until) == (
            claimed.state,
            claimed.lease_owner,
            claimed.lease_until,
        )

    def _evidence(self, outcome: Answer | Lookup) -> dict[str, Any]:
        """What the trace keeps of an exchange: its message, the DMP's words, the answer's bytes in the store."""
        exchange = outcome.exchange
        evidence: dict[str, Any] = {"message": exchange.message_id, "http": exchange.http_status}
        if isinstance(outcome, Found):
            evidence["entry"] = outcome.head.id
        if isinstance(outcome, Refused | NotSent | NoAnswer):
            evidence["reason"] = outcome.reason
        if exchange.answer:
            evidence["answer"] = self.documents.put(exchange.answer)
        return evidence

    @property
    def _actor(self) -> str:
        return f"worker:{self.node}"


def _has_run_out(submission: Submission, now: datetime) -> bool:
    return submission.lease_until is None or submission.lease_until <= now
