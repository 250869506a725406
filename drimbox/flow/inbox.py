"""The inbox for people: every message that entered, why it was refused, and once more after a fix."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime
from typing import Any

from drimbox.domain.errors import Damaged, ReportRefused, Unavailable
from drimbox.domain.remedies import TAKEN_SINCE, remedy
from drimbox.domain.senders import SenderProfile, admitted
from drimbox.flow.exams import stamp
from drimbox.flow.keep_report import Arrival
from drimbox.flow.ports import Documents, Transaction, Transactions
from drimbox.flow.receive_report import CDA, Reception
from drimbox.flow.records import Message


class UnknownMessage(Exception):
    """No message of this id, or whose id starts so, entered here."""


class AmbiguousMessage(Exception):
    """More than one id starts so."""


class NotKept(Exception):
    """The bytes that are asked for are not here; the message says why."""


class NotReplayable(Exception):
    """The message cannot be submitted again; the message says why, and what to do instead."""


def list_messages(
    transactions: Transactions,
    *,
    refused: bool = False,
    study: str | None = None,
    document: str | None = None,
    limit: int = 100,
) -> list[dict[str, Any]]:
    """One row per message, newest first. `short`: the start of its id that no other has."""
    with transactions.reading() as transaction:
        found = transaction.inbox.messages(refused=refused, study=study, document=document, limit=limit)
        return [_row(transaction, message) for message in found]


def show_message(transactions: Transactions, documents: Documents, message_id: str) -> dict[str, Any]:
    """All that is known of a message but its content; `message_id` may be the start of an id.

    Raises `UnknownMessage`, `AmbiguousMessage`.
    """
    with transactions.reading() as transaction:
        message = _find(transaction, message_id)
        replays = transaction.inbox.replays_of(message.id)
        todo = remedy(message.verdict, message.code, message.reason, message.kind)
        if message.verdict != "AA" and any(one.verdict == "AA" for one in replays):
            todo = TAKEN_SINCE
        return {
            **_row(transaction, message),
            "control_id": message.control_id,
            "reason": message.reason,
            "todo": {"family": todo.family, "setting": todo.setting or None, "advice": todo.advice},
            "violations": message.violations,
            "acknowledgement": message.answer,
            "content": _stored(documents, message.content),
            "cda": _stored(documents, message.document) if message.document else None,
            "purged_at": stamp(message.purged_at) if message.purged_at else None,
            "report": _report(transaction, message.report_id) if message.report_id else None,
            "replays": [_row(transaction, one) for one in replays],
        }


def content_of(transactions: Transactions, documents: Documents, message_id: str, *, cda: bool) -> bytes:
    """The bytes of a message as received, or of the CDA in it: patient data.

    Raises `UnknownMessage`, `AmbiguousMessage`, `NotKept`.
    """
    with transactions.reading() as transaction:
        message = _find(transaction, message_id)
    digest = message.document if cda else message.content
    if digest is None:
        raise NotKept("no CDA was found in this message")
    try:
        return documents.get(digest)
    except Damaged as error:
        raise NotKept(_why_gone(message) or str(error)) from error


def replay_message(
    reception: Reception, message_id: str, senders: Iterable[SenderProfile], now: datetime
) -> dict[str, Any]:
    """Submit the bytes of a refused message again, as if they came now; what was made of it, as a row of `list`.

    A message that was accepted, at once or by a replay, is not submitted: an old order or consent would undo what
    came since. Raises `UnknownMessage`, `AmbiguousMessage`, `NotReplayable`, `Unavailable`, `Damaged`.
    """
    with reception.transactions.reading() as transaction:
        message = _find(transaction, message_id)
        first_at = _first_at(transaction, message)
        before = {one.id: one for one in transaction.inbox.replays_of(message.id)}
        for one in (message, *before.values()):
            if one.verdict == "AA":
                return _outcome(transaction, one, submitted=False)
    if gone := _why_gone(message):
        raise NotReplayable(f"{gone}: have it sent again")
    content = reception.documents.get(message.content)
    candidates = _candidates(message, tuple(senders))
    arrival = Arrival(content, message.door, message.peer, now, candidates, message.id, first_at)
    if message.kind == CDA:
        with suppress(ReportRefused):  # the row of the replay says why
            reception.document(arrival)
    else:
        reception.message(arrival)
    with reception.transactions.reading() as transaction:
        for one in transaction.inbox.replays_of(message.id):
            if one.id not in before:
                return _outcome(transaction, one, submitted=True)
    raise Unavailable("the message cannot be kept now: replay it later")


def _find(transaction: Transaction, message_id: str) -> Message:
    whole = transaction.inbox.message(message_id)
    if whole is not None:
        return whole
    found = transaction.inbox.starting_with(message_id, 2) if message_id else []
    if not found:
        raise UnknownMessage(message_id)
    if len(found) > 1:
        raise AmbiguousMessage(message_id)
    return found[0]


def _first_at(transaction: Transaction, message: Message) -> datetime:
    """When it first came: a replay may be replayed."""
    while message.replay_of and (earlier := transaction.inbox.message(message.replay_of)):
        message = earlier
    return message.received_at


def _candidates(message: Message, senders: tuple[SenderProfile, ...]) -> tuple[SenderProfile, ...] | None:
    """The profile that the message was taken under; where none was found, those that may speak from its address.

    Raises `NotReplayable`. The certificate of a TLS peer is not kept: a sender that has one is known by its name only.
    """
    if message.kind == CDA:
        return None
    if message.sender is not None:
        named = tuple(sender for sender in senders if sender.name == message.sender)
        if not named:
            raise NotReplayable(
                f"its sender {message.sender} is no longer in mllp.senders: put it back, or send again"
            )
        return named
    try:
        found = admitted(senders, message.peer)
    except ValueError as error:
        raise NotReplayable(f"it came from {message.peer}, which is no address: send it again") from error
    if not found:
        raise NotReplayable(
            f"no sender of mllp.senders may call from {message.peer} without a certificate: "
            "add it, or have it sent again"
        )
    return found


def _row(transaction: Transaction, message: Message) -> dict[str, Any]:
    return {
        "id": message.id,
        "short": transaction.inbox.short_id(message.id),
        "received_at": stamp(message.received_at),
        "door": message.door,
        "peer": message.peer,
        "sender": message.sender,
        "kind": message.kind,
        "verdict": message.verdict,
        "code": message.code,
        "document_id": message.document_id,
        "studies": message.studies,
        "replay_of": message.replay_of,
    }


def _outcome(transaction: Transaction, message: Message, *, submitted: bool) -> dict[str, Any]:
    row = _row(transaction, message)
    return {**row, "reason": message.reason, "acknowledgement": message.answer, "submitted": submitted}


def _stored(documents: Documents, digest: str) -> dict[str, Any]:
    try:
        size = len(documents.get(digest))
    except Damaged:
        return {"sha256": digest, "bytes": None, "kept": False}
    return {"sha256": digest, "bytes": size, "kept": True}


def _report(transaction: Transaction, report_id: str) -> dict[str, Any] | None:
    report = transaction.ledger.report(report_id)
    if report is None:
        return None
    return {
        "id": report.id,
        "document_id": report.document_id,
        "version": report.version,
        "operation": report.operation,
        "state": report.state,
        "replaced_by": report.replaced_by,
    }


def _why_gone(message: Message) -> str | None:
    if message.purged_at is None:
        return None
    return f"its bytes were deleted on {message.purged_at:%Y-%m-%d} (inbox.keep_days)"
