"""Retention of images: an operator forgets those of an exam that is not public; reports, states and trace stay."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from drimbox.domain.lifecycle import MANIFEST_STATUS, MAY_BE_AT_DMP, SubmissionState
from drimbox.flow import trace
from drimbox.flow.exams import UnknownExam
from drimbox.flow.ports import Transactions

FORGOTTEN = "IMAGES_FORGOTTEN"


class StillPublic(Exception):
    """A manifest of the exam is at the DMP, or may be: unpublish it first (exams withdraw)."""


class NothingToForget(Exception):
    """No image of the exam is here."""


@dataclass(frozen=True, slots=True)
class ForgottenExam:
    """What is gone: `instances` of `bytes`, in `segments` of which the files freed `freed` bytes so far."""

    instances: int
    bytes: int
    segments: int
    freed: int


def forget_images(
    transactions: Transactions, study: str, *, now: datetime, actor: str, reason: str
) -> ForgottenExam:
    """Delete the images of an exam: its rows in one commit with the trace, then its files, one by one.

    What a crash leaves of the files goes with what the worker drops next; so does what is being written just now. What
    notes reject in it stays known. Raises `UnknownExam`, `StillPublic`, `NothingToForget`, `errors.Unavailable`.
    """
    with transactions.writing() as transaction:
        # the images first, then the exam: in the order in which instances lock them when they arrive
        forgotten = transaction.storage.forget(study)
        exam = transaction.ledger.exam(study, lock=True)
        if exam is None:
            raise UnknownExam(study)
        transaction.ledger.open_submissions(study)  # locked: none is claimed beside us
        for lot in transaction.ledger.submissions_of(study):
            if lot.state in MAY_BE_AT_DMP:
                raise StillPublic(MANIFEST_STATUS[SubmissionState(lot.state)])
        if not forgotten.instances:
            raise NothingToForget(study)
        exam.revision += 1
        exam.reconcile_at = now
        trace.note(
            transaction,
            FORGOTTEN,
            at=now,
            actor=actor,
            study=study,
            reason=reason,
            instances=forgotten.instances,
            bytes=forgotten.bytes,
        )
        transaction.commit()
    freed = sum(_drop(transactions, segment) for segment in forgotten.segments)
    return ForgottenExam(forgotten.instances, forgotten.bytes, len(forgotten.segments), freed)


def _drop(transactions: Transactions, segment: str) -> int:
    """In a transaction of its own: an exam may have thousands, and the doors write in between."""
    with transactions.writing() as transaction:
        freed = transaction.storage.drop([segment])
        transaction.commit()
    return freed
