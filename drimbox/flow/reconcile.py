"""The facts of one study, the manifest that should be public, the one that is: one step towards the first.

Reconciling twice is harmless. The lot is frozen (documents stored, request bytes stored) before it is PREPARED;
nothing is built again on a retry. A decision made on facts that changed meanwhile is dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from drimbox.domain.cda import read_cda
from drimbox.domain.errors import Damaged, Refused, Unavailable
from drimbox.domain.exam import ExamFacts, Policy, ReportFacts, Undecided, Wanted, desired
from drimbox.domain.lifecycle import OPEN, REPLACEABLE, Event, StudyState, SubmissionState, standing
from drimbox.flow import trace
from drimbox.flow.manifest import ManifestMaker
from drimbox.flow.ports import Clock, Documents, Transaction, Transactions
from drimbox.flow.records import Exam, ReceivedReport, Submission

ACTOR = "reconciler"
BATCH = 20
JUDGE_AGAIN = timedelta(minutes=5)  # after a look at an exam failed


@dataclass(frozen=True, slots=True)
class _Seen:
    """What one look at a study gave: its facts, the newest lot that counts, and how fresh they are."""

    facts: ExamFacts
    head: Submission | None
    revision: int


@dataclass(frozen=True, slots=True)
class Reconciling:
    """The parts that reconciling needs. `new_id` names rows."""

    transactions: Transactions
    documents: Documents
    maker: ManifestMaker
    policy: Policy
    time_zone: str
    clock: Clock
    new_id: Callable[[], str]
    log: Callable[..., Any]

    def run_due(self) -> int:
        """Reconcile every study that is due; returns how many were looked at."""
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
        if isinstance(wanted, Undecided):
            self._hold(seen, wanted, now)
        elif (obstacle := _obstacle(seen.head, wanted)) is not None:
            self._leave(seen, obstacle, now)
        elif seen.head is not None and seen.head.content_key == wanted.content_key:
            self._confirm(seen, seen.head, now)
        else:
            self._prepare(seen, wanted, now)

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
        head = _head(transaction.ledger.submissions_of(study))
        facts = ExamFacts(
            study_instance_uid=study,
            images=transaction.images.snapshot(study),
            last_instance_at=exam.last_instance_at,
            reports=tuple(self._report_facts(row) for row in transaction.ledger.reports_of(study)),
        )
        return _Seen(facts, head, exam.revision)

    def _report_facts(self, row: ReceivedReport) -> ReportFacts:
        reading = read_cda(self.documents.get(row.cda), time_zone=self.time_zone)
        assert reading.report is not None  # it was accepted, and its bytes never change
        return ReportFacts(
            reading.report,
            row.id,
            row.cda,
            tuple(row.flags),
            row.destined_to_dmp,
            row.patient_class,
            row.sender,
        )

    def _prepare(self, seen: _Seen, wanted: Wanted, now: datetime) -> None:
        target = (
            seen.head if seen.head is not None and seen.head.state == SubmissionState.REGISTERED else None
        )
        try:
            lot = self.maker.make(wanted, target.entry_uuid if target else None, now)
        except Refused as refusal:
            self._hold(seen, Undecided(refusal.code, refusal.reason), now)
            return
        submission = Submission(
            id=self.new_id(),
            study_instance_uid=wanted.images.StudyInstanceUID,
            kind="replace" if target else "publish",
            content_key=wanted.content_key,
            kos_uid=lot.kos_uid,
            submission_set_uid=lot.submission_set_uid,
            signature_uid=lot.signature_uid,
            kos=self.documents.put(lot.kos),
            signature=self.documents.put(lot.signature),
            request=self.documents.put(lot.submit_objects_request),
            vihf=lot.vihf.to_json(),
            report_id=wanted.source.report_key,
            patient_ins=lot.patient.value,
            patient_oid=lot.patient.oid,
            revision=seen.revision,
            created_at=now,
            since=now,
            due_at=now,
            replaces_id=target.id if target else None,
        )
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
                kos=submission.kos_uid,
                instances=len(wanted.images.instances),
            )
            _note_reason(transaction, exam, _standing(submission), now)
            transaction.commit()

    def _hold(self, seen: _Seen, why: Undecided, now: datetime) -> None:
        """Nothing may leave now: what is prepared and not sent is dropped, the reason is kept."""
        with self.transactions.writing() as transaction:
            exam = self._still(transaction, seen, now)
            if exam is None:
                return
            _drop_unsent(transaction, exam, now)
            _note_reason(transaction, exam, why, now)
            transaction.commit()

    def _confirm(self, seen: _Seen, head: Submission, now: datetime) -> None:
        """The newest lot is the wanted one, whatever arrived since it was made."""
        with self.transactions.writing() as transaction:
            exam = self._still(transaction, seen, now)
            lot = transaction.ledger.submission(head.id)
            if exam is None or lot is None:
                return
            lot.revision = exam.revision
            _note_reason(transaction, exam, _standing(lot), now)
            transaction.commit()

    def _leave(self, seen: _Seen, standing: Undecided, now: datetime) -> None:
        """The lot before the wanted one must be settled first: only the reason is kept."""
        with self.transactions.writing() as transaction:
            exam = self._still(transaction, seen, now)
            if exam is None:
                return
            _note_reason(transaction, exam, standing, now)
            transaction.commit()

    def _still(self, transaction: Transaction, seen: _Seen, now: datetime) -> Exam | None:
        """The exam, if nothing arrived and no lot moved since the look; else None: it is still due.

        Exam and open lots stay locked, so that nobody claims a lot that is about to be dropped.
        """
        study = seen.facts.study_instance_uid
        exam = transaction.ledger.exam(study, lock=True)
        assert exam is not None
        transaction.ledger.open_submissions(study)
        head = _head(transaction.ledger.submissions_of(study))
        if exam.revision != seen.revision or _mark(head) != _mark(seen.head):
            return None
        quiet_after = timedelta(seconds=self.policy.settle_after)
        last = exam.last_instance_at
        if exam.state == StudyState.RECEIVING and last is not None and now >= last + quiet_after:
            trace.move_study(transaction, exam, Event.STUDY_QUIET, at=now, actor=ACTOR)
        return exam


def _drop_unsent(transaction: Transaction, exam: Exam, now: datetime) -> None:
    for stale in transaction.ledger.open_submissions(exam.study_instance_uid):
        if stale.state in REPLACEABLE:
            trace.move_submission(transaction, stale, Event.SUPERSEDED, at=now, actor=ACTOR)


def _head(submissions: Sequence[Submission]) -> Submission | None:
    """The newest lot that the DMP holds, may hold or is about to hold."""
    counting = OPEN | {SubmissionState.REGISTERED}
    alive = [submission for submission in submissions if submission.state in counting]
    return alive[-1] if alive else None


def _mark(head: Submission | None) -> tuple[str, str] | None:
    return None if head is None else (head.id, head.state)


def _obstacle(head: Submission | None, wanted: Wanted) -> Undecided | None:
    """Why another lot may not be prepared beside the newest one."""
    if head is None or head.content_key == wanted.content_key or head.state in REPLACEABLE:
        return None
    if head.state != SubmissionState.REGISTERED:
        return Undecided("in-flight", "the manifest before it is with the DMP: its fate must be known first")
    patient = wanted.source.report.patient.ins
    if patient is None or (patient.value, patient.oid) != (head.patient_ins, head.patient_oid):
        return Undecided(
            "patient-changed", "the published manifest is in another patient's DMP: an operator decides"
        )
    if head.entry_uuid is None:
        return Undecided("entry-unknown", "the entryUUID of the published manifest is being looked up")
    return None


def _standing(head: Submission) -> Undecided:
    """Where the wanted lot stands with the DMP; an empty rule means that there is nothing to say."""
    rule, reason = standing(head.state, head.last_error)
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
