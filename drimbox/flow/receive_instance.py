"""An instance arrives: bytes first, then its row and its trace in one commit, then the answer."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from dicom_store.instance import InstanceHeader
from dicom_store.rejection import RejectionNote
from dicom_store.status import Outcome, StoreRefused
from dicom_store.study import KeyImageNote
from drimbox.domain.lifecycle import Event
from drimbox.flow import trace
from drimbox.flow.ports import ImageWriter, Transaction, Transactions

LISTED = 100  # instances that a row of the trace names one by one


def receive_instance(
    transactions: Transactions,
    writer: ImageWriter,
    header: InstanceHeader,
    data_set: Any,
    *,
    note: RejectionNote | KeyImageNote | None,
    digest: str,
    now: datetime,
    actor: str,
    settle_after: float,
) -> Outcome:
    """Keep one instance; returns STORED, or DUPLICATE for the same bytes again.

    `note`: what it says of others when it is a Key Object Selection. `digest`: SHA-256 of the data set;
    `settle_after` in seconds. When this returns, the instance is durable and committed (PS3.4 B.2.3: success means
    stored). Raises `StoreRefused` (traced by `refuse_instance`), OSError and `errors.Unavailable` when it cannot be
    kept now.
    """
    with transactions.reading() as transaction:
        known = transaction.images.recognise(header, digest)
    stored = None if known else writer.append(header, data_set, digest)
    with transactions.writing() as transaction:
        outcome = known or transaction.images.index(header, stored, note)
        if outcome is Outcome.STORED and isinstance(note, RejectionNote):
            _exam_received_rejection(transaction, note, now, actor)
        elif outcome is Outcome.STORED:
            _exam_received_image(transaction, header, now, actor, settle_after)
        else:
            trace.note(
                transaction,
                "INSTANCE_REPEATED",
                at=now,
                actor=actor,
                study=header.StudyInstanceUID,
                sop=header.SOPInstanceUID,
            )
        transaction.commit()
    return outcome


def refuse_instance(
    transactions: Transactions,
    refusal: StoreRefused,
    *,
    study: str | None,
    sop: str,
    now: datetime,
    actor: str,
) -> None:
    """Trace a refused instance. Raises `errors.Unavailable` when even that cannot be written."""
    with transactions.writing() as transaction:
        trace.note(
            transaction,
            "INSTANCE_REFUSED",
            at=now,
            actor=actor,
            study=study,
            sop=sop,
            code=str(refusal.outcome),
            reason=refusal.reason,
        )
        transaction.commit()


def _exam_received_rejection(
    transaction: Transaction, note: RejectionNote, now: datetime, actor: str
) -> None:
    """Instances are hidden with this commit; the manifest follows without waiting for the study to be quiet again."""
    rejected = transaction.images.reject(note, now)
    exam = transaction.ledger.exam_for_update(note.StudyInstanceUID, now)
    exam.revision += 1
    exam.reconcile_at = now
    trace.note(
        transaction,
        "INSTANCES_REJECTED",
        at=now,
        actor=actor,
        study=note.StudyInstanceUID,
        code=note.code,
        note=note.SOPInstanceUID,
        hidden=list(rejected.hidden[:LISTED]),
        count=len(rejected.hidden),
        remembered=len(rejected.remembered),
    )


def _exam_received_image(
    transaction: Transaction, header: InstanceHeader, now: datetime, actor: str, settle_after: float
) -> None:
    exam = transaction.ledger.exam_for_update(header.StudyInstanceUID, now)
    exam.revision += 1
    exam.last_instance_at = now
    exam.reconcile_at = now + timedelta(seconds=settle_after)
    trace.move_study(transaction, exam, Event.INSTANCE_STORED, at=now, actor=actor, sop=header.SOPInstanceUID)
