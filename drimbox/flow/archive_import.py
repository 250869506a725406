"""A lot of an archive becomes ours: bytes stored, then exam, submission and trace in one commit.

An imported lot is REGISTERED without entryUUID: the publisher finds it by TD3.1b, as it does for its own. From then on
it is replaced and unpublished like any other. What the archive itself says was replaced or unpublished is taken so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from drimbox.domain.lifecycle import MAY_BE_AT_DMP, Event, SubmissionState, standing
from drimbox.domain.violations import Severity, Violation
from drimbox.domain.xds import vocabulary as v
from drimbox.domain.xds.rules import LotRefused
from drimbox.domain.xds.xdm_reader import ImportedLot, LotFiles, read_archived
from drimbox.flow import trace
from drimbox.flow.ports import Clock, Documents, Transaction, Transactions
from drimbox.flow.records import Exam, Submission

Verdict = Literal["imported", "already-there", "refused"]
# What the status of the archive adds to the import of a lot (dmp-kos-xds 2.4, 2.5); none for a published one.
_FATES: Mapping[str, Event] = {v.DEPRECATED: Event.REPLACED, v.DELETED: Event.WITHDRAWN}
_PUBLISHED = ("", v.APPROVED)
_IN_FLIGHT = MAY_BE_AT_DMP - {SubmissionState.REGISTERED}


@dataclass(frozen=True, slots=True)
class LotOutcome:
    """What became of one lot. `reasons`: why it was refused, or what was tolerated (warnings)."""

    place: str
    verdict: Verdict
    study_instance_uid: str | None
    kos_uid: str | None
    reasons: tuple[Violation, ...]


@dataclass(frozen=True, slots=True)
class Importing:
    """The parts that importing needs.

    `time_zone`: of times without offset; `structure_id`: ours; `sector`: of the VIHF when the metadata name none.
    """

    transactions: Transactions
    documents: Documents
    clock: Clock
    new_id: Callable[[], str]
    time_zone: str
    structure_id: str
    sector: str
    actor: str

    def take(self, found: LotFiles, *, dry_run: bool = False) -> LotOutcome:
        """Take one lot, or say why not; a dry run writes nothing. Raises `errors.Unavailable`."""
        study = kos = None
        try:
            lot = self._read(found)
            study, kos = lot.study_instance_uid, lot.kos_uid
            with self.transactions.reading() as transaction:
                verdict = self._verdict(transaction, lot)
            if verdict == "imported" and not dry_run:
                verdict = self._keep(lot)
        except LotRefused as refusal:
            return LotOutcome(found.place, "refused", study, kos, refusal.violations)
        return LotOutcome(found.place, verdict, study, kos, lot.warnings)

    def _read(self, found: LotFiles) -> ImportedLot:
        lot = read_archived(found, time_zone=self.time_zone, sector=self.sector)
        if lot.vihf.structure_id == self.structure_id:
            return lot
        words = "published by another structure: only that one may replace or unpublish it"
        warning = Violation("structure", words, "lot.METADATA", "dmp-kos-xds 2.8", Severity.WARNING)
        return replace(lot, warnings=(*lot.warnings, warning))

    def _verdict(self, transaction: Transaction, lot: ImportedLot) -> Verdict:
        """Whether the lot is new. Raises `LotRefused` with every reason against it."""
        known = transaction.ledger.submission_by_kos(lot.kos_uid)
        if known is not None:
            if _is_same(known, lot):
                return "already-there"
            raise LotRefused(
                [_refusal("known-differently", "this manifest is known here with other documents")]
            )
        reasons = []
        if transaction.lots.by_submission_set(lot.submission_set_uid) is not None:
            reasons.append(
                _refusal("submission-set", "this submission set is known here with another manifest")
            )
        known_here = transaction.ledger.submissions_of(lot.study_instance_uid)
        live = [one for one in known_here if one.state in MAY_BE_AT_DMP and one.kind != "unpublish"]
        if any(one.state in _IN_FLIGHT for one in known_here):
            words = "a lot of this exam is with the DMP and its fate is not known: import again later"
            reasons.append(_refusal("in-flight", words))
        others = {(one.patient_ins, one.patient_oid) for one in live} - {(lot.ins.value, lot.ins.oid)}
        if others and lot.status in _PUBLISHED:
            reasons.append(
                _refusal("other-patient", "the published manifest of this exam names another patient")
            )
        if reasons:
            raise LotRefused(reasons)
        return "imported"

    def _keep(self, lot: ImportedLot) -> Verdict:
        row = self._row(lot)
        reference = self.documents.put(lot.reference) if lot.reference else None
        now = self.clock()
        with self.transactions.writing() as transaction:
            exam = self._exam(transaction, lot, now)
            verdict = self._verdict(transaction, lot)  # again, now that nobody else writes this exam
            if verdict != "imported":
                return verdict
            report = transaction.ledger.report_by_document(str(lot.report_id))
            before = _predecessor(transaction, lot)
            row.report_id, row.revision = report.id if report else None, exam.revision
            row.replaces_id, row.kind = (before.id, "replace") if before else (None, row.kind)
            transaction.ledger.add(row)
            self._move(transaction, lot, row, before, now, reference)
            if row.state == SubmissionState.REGISTERED:
                row.due_at = now
                exam.rule, exam.reason = standing(row.state, None)
            transaction.commit()
        return verdict

    def _row(self, lot: ImportedLot) -> Submission:
        """The row of a lot whose bytes are stored. METADATA.XML is kept as it was found."""
        kos = self.documents.put(lot.kos)
        return Submission(
            id=self.new_id(),
            study_instance_uid=lot.study_instance_uid,
            kind="publish",
            content_key=hashlib.sha256(f"imported {kos}".encode()).hexdigest(),  # of no manifest made here
            submission_set_uid=lot.submission_set_uid,
            request=self.documents.put(lot.metadata),
            vihf=lot.vihf.to_json(),
            patient_ins=lot.ins.value,
            patient_oid=lot.ins.oid,
            revision=0,
            created_at=lot.created,
            since=lot.created,
            kos_uid=lot.kos_uid,
            signature_uid=lot.signature_uid,
            kos=kos,
            signature=self.documents.put(lot.signature) if lot.signature is not None else None,
            target_entry=lot.replaces,
            origin="imported",
            entry_uuid=None if lot.status in _PUBLISHED else lot.entry_uuid,
        )

    def _exam(self, transaction: Transaction, lot: ImportedLot, now: datetime) -> Exam:
        """The exam, locked; a new one is settled: nothing is arriving."""
        is_new = transaction.ledger.exam(lot.study_instance_uid) is None
        exam = transaction.ledger.exam_for_update(lot.study_instance_uid, now)
        if is_new:
            trace.move_study(transaction, exam, Event.STUDY_QUIET, at=now, actor=self.actor)
        exam.revision += 1  # what is prepared was judged without this lot
        exam.reconcile_at, exam.judged = now, None
        return exam

    def _move(
        self,
        transaction: Transaction,
        lot: ImportedLot,
        row: Submission,
        before: Submission | None,
        now: datetime,
        reference: str | None,
    ) -> None:
        trace.move_submission(
            transaction,
            row,
            Event.IMPORTED,
            at=now,
            actor=self.actor,
            kos=lot.kos_uid,
            instances=lot.instances,
            reference=reference,
            document=str(lot.report_id) if lot.report_id else None,
            warnings=[warning.rule for warning in lot.warnings],
        )
        if before is not None and before.state == SubmissionState.REGISTERED:
            trace.move_submission(
                transaction, before, Event.REPLACED, at=now, actor=self.actor, by=lot.kos_uid
            )
            before.due_at = None
        if lot.status in _FATES:
            trace.move_submission(
                transaction, row, _FATES[lot.status], at=now, actor=self.actor, by="the archive"
            )


def _predecessor(transaction: Transaction, lot: ImportedLot) -> Submission | None:
    """The lot that this one replaced (RPLC), when it is known here by its entryUUID."""
    if lot.replaces is None:
        return None
    known = transaction.ledger.submissions_of(lot.study_instance_uid)
    return next((one for one in known if one.entry_uuid == lot.replaces), None)


def _is_same(known: Submission, lot: ImportedLot) -> bool:
    """Same manifest, same submission set; a signature that one side lacks is no difference."""
    signature = hashlib.sha256(lot.signature).hexdigest() if lot.signature is not None else known.signature
    return (known.study_instance_uid, known.submission_set_uid, known.kos, known.signature or signature) == (
        lot.study_instance_uid,
        lot.submission_set_uid,
        hashlib.sha256(lot.kos).hexdigest(),
        signature,
    )


def _refusal(rule: str, message: str) -> Violation:
    return Violation(rule, message, "ledger", "architecture, section 4")
