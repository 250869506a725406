"""The facts of one study, the manifest that should be public, the one that is: one step towards the first.

Reconciling twice is harmless. The lot is frozen (documents stored, request bytes stored) before it is PREPARED;
nothing is built again on a retry. A decision made on facts that changed meanwhile is dropped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from drimbox.domain.errors import Damaged, Refused, Unavailable
from drimbox.domain.exam import (
    RULES_VERSION,
    ExamFacts,
    Policy,
    Undecided,
    Unwanted,
    Wanted,
    desired,
    thinner,
)
from drimbox.domain.kos import read_manifest
from drimbox.domain.lifecycle import REPLACEABLE, Event, StudyState, standing
from drimbox.flow import trace
from drimbox.flow.facts import facts_of
from drimbox.flow.ports import Clock, Documents, Transaction, Transactions
from drimbox.flow.prepare import Preparing
from drimbox.flow.records import Exam, Submission
from drimbox.flow.steps import Step, live_of, matches, next_step, unfinished_of

ACTOR = "reconciler"
BATCH = 20
JUDGE_AGAIN = timedelta(minutes=5)  # after a look at an exam failed


@dataclass(frozen=True, slots=True)
class _Seen:
    """What one look at a study gave: its facts, the manifest at the DMP, the unfinished lot, and how fresh it is."""

    facts: ExamFacts
    live: Submission | None
    unfinished: Submission | None
    revision: int
    approved_key: str | None

    @property
    def mark(self) -> tuple[object, ...]:
        """What must not have changed when a decision made on this look is written."""
        return (self.revision, self.approved_key, *_mark(self.live), *_mark(self.unfinished))


def _silent(_action: str, **_fields: object) -> None:
    """Nobody listens."""


@dataclass(frozen=True, slots=True)
class Reconciling:
    """The parts that reconciling needs. `log`: of what fails; `say`: of what was judged and prepared."""

    transactions: Transactions
    documents: Documents
    preparing: Preparing
    policy: Policy
    time_zone: str
    clock: Clock
    log: Callable[..., Any]
    say: Callable[..., Any] = _silent

    def run_due(self) -> int:
        """Reconcile every study that is due; returns how many were looked at.

        Exams that were judged with the same facts and the same policy are not looked at again.
        """
        if dismissed := self._dismiss():
            return dismissed
        with self.transactions.reading() as transaction:
            due = [exam.study_instance_uid for exam in transaction.ledger.due_exams(self.clock(), BATCH)]
        for study in due:
            try:
                self.run(study)
            except Unavailable:
                raise
            except Exception as error:  # noqa: BLE001 one exam that cannot be judged must not hold up the others
                self._give_up(study, error)
        return len(due)

    def run(self, study: str) -> None:
        """Take one step for one study."""
        now = self.clock()
        with self.transactions.reading() as transaction:
            seen = self._look(transaction, study)
        wanted = desired(seen.facts, self.policy, now)
        step = next_step(wanted, seen.live)
        self.say("exam_judged", study=study, outcome=type(wanted).__name__.lower(), rule=_rule_of(wanted))
        if isinstance(step, Step) and step.kind == "replace" and isinstance(wanted, Wanted):
            step = self._guarded(seen, step, wanted)
        if isinstance(step, Undecided):
            self._hold(seen, step, now, wanted.content_key if isinstance(wanted, Wanted) else None)
        elif seen.unfinished is not None and seen.unfinished.state not in REPLACEABLE:
            self._leave(seen, step, now)
        elif step is not None and seen.unfinished is not None and matches(seen.unfinished, step):
            self._confirm(seen, seen.unfinished, now)
        elif step is None:
            self._hold(seen, Undecided("", ""), now, judged=f"{seen.revision} {self._policy_mark}")
        else:
            self._prepare(seen, step, wanted, now)

    def _guarded(self, seen: _Seen, step: Step, wanted: Wanted) -> Step | Undecided:
        """The replacement, unless it would make the manifest thinner without a cause or an operator's word."""
        if wanted.content_key == seen.approved_key or seen.live is None or seen.live.kos is None:
            return step
        manifest = read_manifest(self.documents.get(seen.live.kos))
        published = frozenset(ref.sop_instance_uid for series in manifest.series for ref in series.instances)
        return thinner(wanted, published, self.policy) or step

    def _give_up(self, study: str, error: Exception) -> None:
        """Say that this exam cannot be judged, and look again later."""
        self.log("exam_not_judged", study=study, error=type(error).__name__, exc_info=error)
        now = self.clock()
        reason = (
            str(error) if isinstance(error, Damaged) else f"a defect of the appliance: {type(error).__name__}"
        )
        with self.transactions.writing() as transaction:
            exam = transaction.ledger.exam_for_update(study, now)
            _note_reason(transaction, exam, Undecided("not-judged", reason, now + JUDGE_AGAIN), now)
            transaction.commit()

    def _look(self, transaction: Transaction, study: str) -> _Seen:
        exam = transaction.ledger.exam(study)
        assert exam is not None  # exams are never deleted
        submissions = transaction.ledger.submissions_of(study)
        facts = facts_of(transaction, self.documents, exam, self.time_zone)
        return _Seen(
            facts, live_of(submissions), unfinished_of(submissions), exam.revision, exam.approved_key
        )

    def _prepare(self, seen: _Seen, step: Step, wanted: Wanted | Unwanted | Undecided, now: datetime) -> None:
        try:
            submission = self.preparing.submission(
                step, wanted, seen.facts.study_instance_uid, seen.revision, now
            )
        except Refused as refusal:
            self._hold(seen, Undecided(refusal.code, refusal.reason), now)
            return
        with self.transactions.writing() as transaction:
            exam = self._still(transaction, seen, now)
            if exam is None:
                return
            _drop_unsent(transaction, exam, now)
            transaction.ledger.add(submission)
            trace.note(
                transaction,
                "PREPARED",
                at=now,
                actor=ACTOR,
                study=exam.study_instance_uid,
                submission=submission.id,
                kind=submission.kind,
                cause=submission.cause,
                kos=submission.kos_uid,
                instances=len(wanted.images.instances) if isinstance(wanted, Wanted) else None,
            )
            _note_reason(transaction, exam, _standing(submission), now)
            transaction.commit()
        study, kos = submission.study_instance_uid, submission.kos_uid
        self.say("lot_prepared", study=study, submission=submission.id, kos=kos, outcome=submission.kind)

    def _dismiss(self) -> int:
        now = self.clock()
        with self.transactions.reading() as transaction:
            if not transaction.ledger.due_exams(now, 1):
                return 0
        with self.transactions.writing() as transaction:
            dismissed = transaction.ledger.dismiss_judged(now, self._policy_mark)
            transaction.commit()
        return dismissed

    @property
    def _policy_mark(self) -> str:
        """Changes when the rules or what is built by them change."""
        seen = [repr(self.policy), self.time_zone, self.preparing.maker.mark, str(RULES_VERSION)]
        return hashlib.sha256("\n".join(seen).encode()).hexdigest()

    def _hold(
        self,
        seen: _Seen,
        why: Undecided,
        now: datetime,
        held_key: str | None = None,
        *,
        judged: str | None = None,
    ) -> None:
        """Nothing may leave now: what is prepared and not sent is dropped, the reason is kept.

        `held_key`: the content that an operator's word would let go; `judged`: mark of a judgement that need not be
        made again.
        """
        with self.transactions.writing() as transaction:
            exam = self._still(transaction, seen, now)
            if exam is None:
                return
            _drop_unsent(transaction, exam, now)
            exam.held_key, exam.judged = held_key, judged
            _note_reason(transaction, exam, why, now)
            transaction.commit()

    def _confirm(self, seen: _Seen, unfinished: Submission, now: datetime) -> None:
        """The unfinished lot is the wanted one, whatever arrived since it was made."""
        with self.transactions.writing() as transaction:
            exam = self._still(transaction, seen, now)
            lot = transaction.ledger.submission(unfinished.id)
            if exam is None or lot is None:
                return
            lot.revision = exam.revision
            _note_reason(transaction, exam, _standing(lot), now)
            transaction.commit()

    def _leave(self, seen: _Seen, step: Step | None, now: datetime) -> None:
        """A lot is with the DMP: its fate must be known before the next step; only the reason is kept."""
        assert seen.unfinished is not None
        reason = _standing(seen.unfinished)
        if step is None or not matches(seen.unfinished, step):
            words = "the submission before it is with the DMP: its fate must be known first"
            reason = Undecided("in-flight", f"{words} ({reason.reason})")
        with self.transactions.writing() as transaction:
            exam = self._still(transaction, seen, now)
            if exam is None:
                return
            _note_reason(transaction, exam, reason, now)
            transaction.commit()

    def _still(self, transaction: Transaction, seen: _Seen, now: datetime) -> Exam | None:
        """The exam, if nothing arrived and no lot moved since the look; else None: it is still due.

        Exam and open lots stay locked, so that nobody claims a lot that is about to be dropped.
        """
        study = seen.facts.study_instance_uid
        exam = transaction.ledger.exam(study, lock=True)
        assert exam is not None
        transaction.ledger.open_submissions(study)
        submissions = transaction.ledger.submissions_of(study)
        fresh = _Seen(
            seen.facts, live_of(submissions), unfinished_of(submissions), exam.revision, exam.approved_key
        )
        if fresh.mark != seen.mark:
            return None
        quiet_after = timedelta(seconds=self.policy.settle_after)
        last = exam.last_instance_at
        if exam.state == StudyState.RECEIVING and last is not None and now >= last + quiet_after:
            trace.move_study(transaction, exam, Event.STUDY_QUIET, at=now, actor=ACTOR)
        return exam


def _rule_of(wanted: Wanted | Unwanted | Undecided) -> str | None:
    return None if isinstance(wanted, Wanted) else wanted.rule


def _drop_unsent(transaction: Transaction, exam: Exam, now: datetime) -> None:
    for stale in transaction.ledger.open_submissions(exam.study_instance_uid):
        if stale.state in REPLACEABLE:
            trace.move_submission(transaction, stale, Event.SUPERSEDED, at=now, actor=ACTOR)


def _mark(submission: Submission | None) -> tuple[object, ...]:
    return (None,) if submission is None else (submission.id, submission.state, submission.entry_uuid)


def _standing(submission: Submission) -> Undecided:
    """Where the wanted lot stands with the DMP; an empty rule means that there is nothing to say."""
    rule, reason = standing(submission.state, submission.last_error)
    return Undecided(rule or "", reason or "")


def _note_reason(transaction: Transaction, exam: Exam, outcome: Undecided, now: datetime) -> None:
    """Keep the reason, trace it when it changed, and say when to look again."""
    exam.reconcile_at = outcome.until
    rule, reason = outcome.rule or None, outcome.reason or None
    if (exam.rule, exam.reason) == (rule, reason):
        return
    if rule is not None and rule != exam.rule:
        trace.note(
            transaction,
            "WAITING",
            at=now,
            actor=ACTOR,
            study=exam.study_instance_uid,
            rule=rule,
            reason=reason,
        )
    exam.rule, exam.reason, exam.changed_at = rule, reason, now
