"""An instance arrives: bytes first, then its row and its trace in one commit, then the answer."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from dicom_store.instance import InstanceHeader
from dicom_store.rejection import RejectionNote
from dicom_store.status import Outcome, StoreRefused
from drimbox.domain.errors import CommitInDoubt
from drimbox.flow import trace
from drimbox.flow.forget_images import FORGOTTEN
from drimbox.flow.group_commit import GroupCommit
from drimbox.flow.ports import ArrivingTransactions, IncomingImage, Transaction, Transactions

RECOVERY = "recovery"  # the actor
LISTED = 100  # instances that a row of the trace names one by one


def receive_instance(
    commits: GroupCommit,
    incoming: IncomingImage,
    *,
    now: datetime,
    actor: str,
    settle_after: float,
    look_first: bool = True,
) -> Outcome:
    """Keep one instance; returns STORED, or DUPLICATE for the same bytes again.

    `settle_after` in seconds; `look_first`: ask the index before anything is written (without it, an instance that
    is known already is written and taken back). When this returns, the instance is durable and committed (PS3.4
    B.2.3: success means stored). Raises `StoreRefused` (traced by `refuse_instance`), OSError and
    `errors.Unavailable` when it cannot be kept now; whatever is raised, nothing of it remains that no row may need.
    """
    try:
        outcome = _receive(commits, incoming, look_first, partial(_arrived, now, actor, settle_after))
    except CommitInDoubt:
        incoming.leave()
        raise
    except Exception:
        incoming.take_back()
        raise
    except BaseException:
        incoming.leave()  # interrupted: perhaps in the commit
        raise
    if outcome is Outcome.STORED:
        incoming.leave()
    else:
        incoming.take_back()
    return outcome


def refuse_instance(
    transactions: Transactions,
    refusal: StoreRefused,
    *,
    study: str | None,
    sop: str,
    now: datetime,
    actor: str,
    repeated: int = 0,
) -> None:
    """Trace a refused instance. Raises `errors.Unavailable` when even that cannot be written.

    `repeated`: how many more of the same, untraced, came since the last row.
    """
    detail: dict[str, Any] = {"repeated": repeated} if repeated else {}
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
            **detail,
        )
        transaction.commit()


_Trace = Callable[[Transaction, InstanceHeader, Any, Outcome], None]


def _receive(commits: GroupCommit, incoming: IncomingImage, look_first: bool, arrived: _Trace) -> Outcome:
    note, known = incoming.note(), None
    if look_first:
        with commits.transactions.reading() as transaction:
            known = transaction.images.recognise(incoming)
    stored = None if known else incoming.keep()
    sync = _begin_to_sync(incoming) if stored else _nothing

    def write(transaction: Transaction) -> tuple[Outcome, bool]:
        outcome, is_new = known, False
        if outcome is None:
            outcome, is_new = transaction.images.index(incoming.header, stored, note)
        arrived(transaction, incoming.header, note, outcome)
        return outcome, is_new and note is None

    outcome, is_given_again = commits.run(incoming.header.StudyInstanceUID, write, sync)
    if not is_given_again:
        _harden(commits.transactions)
    return outcome


def _nothing() -> None:
    """Nothing was written that must be durable before the commit."""


def _begin_to_sync(incoming: IncomingImage) -> Callable[[], None]:
    """What makes the bytes durable before the commit. A lone sender's rows are written while the disk is at it.

    Where others write, who waits for the disk would hold them up: then it is done when this returns.
    """
    if incoming.is_lone:
        incoming.hasten()
        return incoming.sync
    incoming.sync()
    return _nothing


def _harden(transactions: ArrivingTransactions) -> None:
    """What no segment would give again after a power cut: notes, repetitions, a row that was pointed elsewhere."""
    try:
        transactions.harden()
    except OSError as error:
        raise CommitInDoubt("committed, and perhaps not durable") from error


def readmit_instance(
    transactions: Transactions,
    header: InstanceHeader,
    stored: Any,
    *,
    written: datetime,
    now: datetime,
    settle_after: float,
) -> bool:
    """An instance that is whole in its segment and has no row, after a power cut or a death: it gets its row.

    Perhaps it was acknowledged. False, and nothing is done, when the instance is known, or its study was forgotten
    after its segment was `written` to last: it is a copy that nobody missed. Raises `errors.Unavailable`.
    """
    with transactions.writing() as transaction:
        forgotten = transaction.traces.of_event(FORGOTTEN, written)
        if transaction.images.knows(header.SOPInstanceUID) or any(
            one.study_instance_uid == header.StudyInstanceUID for one in forgotten
        ):
            return False
        transaction.images.index(header, stored, None)
        _arrived(now, RECOVERY, settle_after, transaction, header, None, Outcome.STORED)
        transaction.commit()
    return True


def _arrived(
    now: datetime,
    actor: str,
    settle_after: float,
    transaction: Transaction,
    header: InstanceHeader,
    note: Any,
    outcome: Outcome,
) -> None:
    """What follows for the exam, and its row in the trace."""
    study, sop = header.StudyInstanceUID, header.SOPInstanceUID
    if outcome is not Outcome.STORED:
        trace.note(transaction, "INSTANCE_REPEATED", at=now, actor=actor, study=study, sop=sop)
    elif isinstance(note, RejectionNote):
        _exam_received_rejection(transaction, note, now, actor)
    else:
        state = _exam_received_image(transaction, study, now, settle_after)
        trace.instance_stored(transaction, study, state, at=now, actor=actor, sop=sop)


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


def _exam_received_image(transaction: Transaction, study: str, now: datetime, settle_after: float) -> str:
    """The state of the exam, which is made when this is its first image."""
    due = now + timedelta(seconds=settle_after)
    state = transaction.ledger.image_received(study, now, due)
    if state is None:
        transaction.ledger.exam_for_update(study, now)
        state = transaction.ledger.image_received(study, now, due)
    assert state is not None
    return state
