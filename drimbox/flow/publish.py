"""Claim a submission, speak with the DMP, settle: the only place where a lot leaves.

The claim is committed before the first byte is sent and the answer after the last was read: whatever dies in
between leaves SENDING with a lease, which becomes a doubt, which the registry (TD3.1b) ends. A retry sends the
same frozen lot under a fresh VIHF and MessageID.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from time import perf_counter
from typing import Any, Protocol

from drimbox.domain.errors import Damaged
from drimbox.domain.identifiers import Ins
from drimbox.domain.lifecycle import Event, SubmissionState
from drimbox.domain.vihf import VihfIdentity
from drimbox.domain.xds.outcome import (
    Answer,
    Exchange,
    Lookup,
    NotSent,
    outcome_word,
)
from drimbox.domain.xds.publication import FrozenLot
from drimbox.domain.xds.withdrawal import FrozenWithdrawal
from drimbox.flow import trace
from drimbox.flow.ports import Clock, Documents, Transaction, Transactions
from drimbox.flow.records import Submission
from drimbox.flow.settle import QUEUE, Settling

BATCH = 10  # exchanges between two looks at the leases; a worker that is told to stop ends one batch


class DmpDoor(Protocol):
    """The DMP, one call per transaction; never raises for what the DMP or the network does."""

    def publish(self, lot: FrozenLot) -> Answer: ...
    def withdraw(self, withdrawal: FrozenWithdrawal) -> Answer: ...
    def find(self, unique_id: str, identity: VihfIdentity) -> Lookup: ...


@dataclass(frozen=True, slots=True)
class _Claim:
    """A submission that is ours for the length of its lease; `looked_up`: the document that tells its fate."""

    submission: Submission
    looked_up: str


def _nobody(_transaction: str, _outcome: str, _seconds: float) -> None:
    """Nobody counts."""


# The transactions of the DMP, by kind of lot.
TRANSACTIONS = {"publish": "TD2.1a", "replace": "TD2.1b", "unpublish": "TD3.3c"}
LOOKUP = "TD3.1b"


@dataclass(frozen=True, slots=True)
class Publishing:
    """The parts that publishing needs. `lease` in seconds.

    `may_publish`: False while the whitelist interrupts us; manifests then wait, withdrawals and look-ups go on.
    `told(transaction, outcome, seconds)`: of each exchange.
    """

    transactions: Transactions
    documents: Documents
    dmp: DmpDoor
    settling: Settling
    clock: Clock
    node: str
    lease: float
    log: Callable[..., Any]
    may_publish: Callable[[], bool]
    told: Callable[[str, str, float], object] = _nobody

    def run_due(self) -> int:
        """Work until nothing is due; returns how many exchanges there were."""
        self._expire(_has_run_out)
        count = 0
        claim = self._claim() if self._is_claimable() else None
        while claim is not None:
            count += 1
            claim = self._exchange(claim) or (self._claim() if count < BATCH else None)
        return count

    def _exchange(self, claim: _Claim) -> _Claim | None:
        """Speak with the DMP and settle; what was published just now is ours to identify next."""
        submission, started = claim.submission, perf_counter()
        if submission.state == SubmissionState.SENDING:
            self._say("lot_sending", submission, code=TRANSACTIONS[submission.kind])
            answer = self._send(submission)
            self.told(TRANSACTIONS[submission.kind], outcome_word(answer), perf_counter() - started)
            return self._settle_answer(claim, answer)
        lookup = self.dmp.find(claim.looked_up, VihfIdentity.from_json(submission.vihf))
        self.told(LOOKUP, outcome_word(lookup), perf_counter() - started)
        self._settle_lookup(claim, lookup)
        return None

    def expire_leases_of_this_node(self) -> int:
        """At the start of the node's only worker: whatever it was sending before is in doubt."""
        return self._expire(lambda submission, _now: submission.lease_owner == self.node)

    def _expire(self, is_lost: Callable[[Submission, datetime], bool]) -> int:
        now = self.clock()
        with self.transactions.reading() as transaction:
            lost = [submission for submission in transaction.ledger.leased() if is_lost(submission, now)]
        return sum(self._doubt(submission, now) for submission in lost)

    def _doubt(self, lost: Submission, now: datetime) -> bool:
        """Declare a lease lost, unless it was settled or declared so since that look."""
        with self.transactions.writing() as transaction:
            submission = _locked(transaction, lost, now)
            if submission is None or not _is_ours(submission, lost):
                return False
            owner = submission.lease_owner
            self.settling.move(transaction, submission, Event.LEASE_EXPIRED, now, due=now, lease=owner)
            transaction.commit()
        return True

    def _is_claimable(self) -> bool:
        """A look that takes no lock: idle publishers hold up no door."""
        publications = self.may_publish()  # before: it may read the list, and no transaction waits for a disk
        with self.transactions.reading() as transaction:
            return transaction.ledger.claimable(self.clock(), publications=publications) is not None

    def _claim(self) -> _Claim | None:
        now, publications = self.clock(), self.may_publish()
        with self.transactions.writing() as transaction:
            submission = transaction.ledger.claimable(now, publications=publications)
            if submission is None or not self._may_pass(transaction, now):
                return None
            if submission.state == SubmissionState.PREPARED:
                submission.attempts += 1
                trace.move_submission(
                    transaction,
                    submission,
                    Event.CLAIMED,
                    at=now,
                    actor=self.settling.actor,
                    attempt=submission.attempts,
                )
            claim = self._lease(transaction, submission, now)
            transaction.commit()
        return claim

    def _lease(self, transaction: Transaction, submission: Submission, now: datetime) -> _Claim:
        submission.lease_owner = self.node
        submission.lease_until = now + timedelta(seconds=self.lease)
        return _Claim(submission, _looked_up_uid(transaction, submission))

    def _may_pass(self, transaction: Transaction, now: datetime) -> bool:
        """False while the queue stands still; when its time is over, one message tries."""
        gate = transaction.ledger.gate(QUEUE)
        if gate is None:
            return True
        if now < gate.until:
            return False
        gate.until = now + timedelta(seconds=self.settling.retry.cap)
        return True

    def _send(self, submission: Submission) -> Answer:
        try:
            if submission.kind == "unpublish":
                return self.dmp.withdraw(self._withdrawal(submission))
            return self.dmp.publish(self._lot(submission))
        except Damaged as error:  # said to the operator like any other trouble, and tried again once restored
            return NotSent(Exchange(""), str(error))

    def _withdrawal(self, submission: Submission) -> FrozenWithdrawal:
        return FrozenWithdrawal(
            submission_set_uid=submission.submission_set_uid,
            entry_uuid=submission.target_entry or "",
            submit_objects_request=self.documents.get(submission.request),
            patient=Ins(submission.patient_ins, submission.patient_oid),
            vihf=VihfIdentity.from_json(submission.vihf),
        )

    def _lot(self, submission: Submission) -> FrozenLot:
        return FrozenLot(
            submission_set_uid=submission.submission_set_uid,
            kos_uid=submission.kos_uid or "",
            signature_uid=submission.signature_uid or "",
            kos=self.documents.get(submission.kos or ""),
            signature=self.documents.get(submission.signature or ""),
            submit_objects_request=self.documents.get(submission.request),
            patient=Ins(submission.patient_ins, submission.patient_oid),
            vihf=VihfIdentity.from_json(submission.vihf),
        )

    def _settle_answer(self, claim: _Claim, answer: Answer) -> _Claim | None:
        """Commit the answer; the same commit claims the look-up of the entryUUID when that is the next thing."""
        evidence, now = self.settling.evidence(answer), self.clock()
        with self.transactions.writing() as transaction:
            submission = _locked(transaction, claim.submission, now)
            if submission is None or not _is_ours(submission, claim.submission):
                return None  # the lease ran out: somebody else settles it by asking the registry
            self.settling.answered(transaction, submission, answer, now, evidence)
            next_claim = self._lease(transaction, submission, now) if _is_nameless(submission) else None
            transaction.commit()
        code, outcome = TRANSACTIONS[submission.kind], outcome_word(answer)
        self._say("dmp_answered", submission, code=code, outcome=outcome, state=submission.state)
        return next_claim

    def _settle_lookup(self, claim: _Claim, lookup: Lookup) -> None:
        evidence, now = self.settling.evidence(lookup), self.clock()
        with self.transactions.writing() as transaction:
            submission = _locked(transaction, claim.submission, now)
            if submission is None or not _is_ours(submission, claim.submission):
                return
            self.settling.looked_up(transaction, submission, lookup, now, evidence)
            transaction.commit()
        self._say("dmp_looked_up", submission, outcome=outcome_word(lookup), state=submission.state)

    def _say(self, action: str, submission: Submission, **fields: str) -> None:
        study, kos = submission.study_instance_uid, submission.kos_uid
        self.log(
            action, study=study, submission=submission.id, kos=kos, attempts=submission.attempts, **fields
        )


def _has_run_out(submission: Submission, now: datetime) -> bool:
    return submission.lease_until is None or submission.lease_until <= now


def _locked(transaction: Transaction, submission: Submission, now: datetime) -> Submission | None:
    """The lot, locked after its exam: in the order of the reconciler, or the two would wait for each other."""
    transaction.ledger.exam_for_update(submission.study_instance_uid, now)
    return transaction.ledger.submission(submission.id)


def _is_nameless(submission: Submission) -> bool:
    """Published, and its entryUUID is to be asked for now."""
    return (
        submission.state == SubmissionState.REGISTERED
        and submission.entry_uuid is None
        and submission.kind != "unpublish"
    )


def _looked_up_uid(transaction: Transaction, submission: Submission) -> str:
    """The unique id that the registry is asked about: its own manifest, or the one that it withdraws."""
    if submission.kind != "unpublish":
        return submission.kos_uid or ""
    target = transaction.ledger.submission(submission.replaces_id or "")
    return (target.kos_uid if target else None) or ""


def _is_ours(submission: Submission, claimed: Submission) -> bool:
    """Nobody settled it, or declared its lease lost, since we claimed it."""
    return (submission.state, submission.lease_owner, submission.lease_until) == (
        claimed.state,
        claimed.lease_owner,
        claimed.lease_until,
    )
