"""The images of an exam that is not public are forgotten, by an operator or by retention; the rest of it stays."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from drimbox.domain.lifecycle import MANIFEST_STATUS, MAY_BE_AT_DMP, SubmissionState
from drimbox.flow import trace
from drimbox.flow.exams import UnknownExam
from drimbox.flow.ports import Transaction, Transactions

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


MayGo = Callable[[Transaction, Collection[str]], None]


def forget_images(
    transactions: Transactions,
    study: str,
    *,
    now: datetime,
    actor: str,
    reason: str,
    rule: str | None = None,
    may_go: MayGo | None = None,
) -> ForgottenExam:
    """Delete the images of an exam: its rows in one commit with the trace, then its files, one by one.

    What a crash leaves of the files goes with what the worker drops next; so does what is being written just now. What
    notes reject in it stays known. `rule`: of retention, for the trace; `may_go`: asked with the SOP Instance UIDs
    when everything is locked, raises to keep them. Raises what that raises, `UnknownExam`, `StillPublic`,
    `NothingToForget`, `errors.Unavailable`.
    """
    detail: dict[str, Any] = {"rule": rule} if rule else {}
    with transactions.writing() as transaction:
        uids = [one.sop_instance_uid for one in transaction.storage.records_of(study)] if may_go else []
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
        if may_go is not None:
            may_go(transaction, uids)
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
            **detail,
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
