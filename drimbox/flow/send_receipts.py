"""Business acknowledgements (ZAM^Z01) for the senders that asked for one: judge, send, settle (hl7-mss 1.8).

At least once: the receipt is claimed by moving its due time ahead in a commit of its own before the first byte leaves,
and settled after the answer. What dies in between is sent again when that time has come, with the same MSH-10 and the
same verdict, so that the receiver recognises the repeat. A verdict is given once: what an operator mends after an N
is not announced again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

from drimbox.domain.errors import Unavailable
from drimbox.domain.retry import RetryPolicy
from drimbox.domain.senders import SenderProfile
from drimbox.domain.zam import (
    NotAcknowledged,
    Parties,
    Reply,
    Verdict,
    build_zam,
    control_id_of,
    read_acknowledgement,
)
from drimbox.flow import trace
from drimbox.flow.ports import Clock, Transaction, Transactions
from drimbox.flow.receipt_verdict import judge
from drimbox.flow.records import Receipt, ReceivedReport

BATCH = 20
FIRST_WAIT, LONGEST_WAIT = timedelta(seconds=30), timedelta(minutes=10)
PATIENCE = timedelta(days=7)  # for a verdict; a verdict that was found is offered as long again
LEASE = timedelta(minutes=2)  # longer than an exchange may last


class ReceiptDoor(Protocol):
    """The receivers' own MLLP doors."""

    def exchange(self, address: tuple[str, int], message: bytes) -> bytes:
        """Send one message, return its answer, both without frame. Raises `NotAcknowledged`."""
        ...


@dataclass(frozen=True, slots=True)
class _Letter:
    """A receipt that is ours to send until `until`."""

    receipt_id: str
    address: tuple[str, int]
    message: bytes
    until: datetime


@dataclass(frozen=True, slots=True)
class SendingReceipts:
    """The parts that sending needs.

    `senders`: profiles by name; `application`, `facility`: our MSH-3 and MSH-4; `retry`: between attempts that were not
    answered AA or AE; `actor` is named in the trace; `chance` gives jitter in [0, 1); `alarm` tells of our own defects.
    """

    transactions: Transactions
    door: ReceiptDoor
    senders: Mapping[str, SenderProfile]
    application: str
    facility: str
    retry: RetryPolicy
    actor: str
    chance: Callable[[], float]
    clock: Clock
    log: Callable[..., Any]
    alarm: Callable[..., Any]

    def run_due(self) -> int:
        """Look at every receipt that is due, oldest first, `BATCH` at most; returns how many."""
        with self.transactions.reading() as transaction:
            due = [one.id for one in transaction.inbox.due_receipts(self.clock(), BATCH)]
        for receipt_id in due:
            try:
                self.run(receipt_id)
            except Unavailable:
                raise
            except Exception as error:  # noqa: BLE001 one receipt that cannot be made must not hold up the others
                self._set_aside(receipt_id, error)
        return len(due)

    def run(self, receipt_id: str) -> None:
        """Send one receipt if it is due, may be answered, and nobody else sends it."""
        now = self.clock()
        with self.transactions.writing() as transaction:
            receipt = transaction.inbox.receipt(receipt_id)
            if receipt is None or receipt.due_at is None or receipt.due_at > now:
                return
            letter = self._claim(transaction, receipt, now)
            transaction.commit()
        if letter is not None:
            self._settle(letter, self._speak(letter))

    def _claim(self, transaction: Transaction, receipt: Receipt, now: datetime) -> _Letter | None:
        report = transaction.ledger.report(receipt.report_id)
        assert report is not None  # reports are never deleted
        sender = self.senders.get(receipt.sender)
        if sender is None or sender.receipts is None:
            self._give_up(transaction, receipt, now, "the sender has no address for receipts (mllp.senders)")
            return None
        if receipt.status is None and not self._decide(transaction, receipt, report, now):
            return None
        receipt.attempts += 1
        receipt.due_at = now + LEASE
        return _Letter(
            receipt.id,
            sender.receipts,
            self._message(transaction, receipt, report, sender, now),
            receipt.due_at,
        )

    def _decide(
        self, transaction: Transaction, receipt: Receipt, report: ReceivedReport, now: datetime
    ) -> bool:
        """Whether there is a verdict; else when to look again: twice as long after the message each time."""
        verdict = judge(transaction, receipt, report)
        age = now - receipt.created_at
        if verdict is not None:
            receipt.status, receipt.error = verdict.status, verdict.error
        elif age >= PATIENCE:
            self._give_up(transaction, receipt, now, f"no verdict in {PATIENCE.days} days")
        else:
            receipt.due_at = now + min(max(age, FIRST_WAIT), LONGEST_WAIT)
        return verdict is not None

    def _message(
        self,
        transaction: Transaction,
        receipt: Receipt,
        report: ReceivedReport,
        sender: SenderProfile,
        now: datetime,
    ) -> bytes:
        ours = Parties(self.application, self.facility, sender.application, sender.facility)
        return build_zam(
            Verdict.kept(receipt.status or "", receipt.error),
            about=receipt.control_id,
            receipt_id=receipt.id,
            parties=ours.completed(_acknowledgement(transaction, receipt, report)),
            now=now,
        )

    def _speak(self, letter: _Letter) -> Reply:
        try:
            answer = self.door.exchange(letter.address, letter.message)
            return read_acknowledgement(answer, control_id_of(letter.receipt_id))
        except NotAcknowledged as error:
            return Reply(None, str(error))

    def _settle(self, letter: _Letter, reply: Reply) -> None:
        now = self.clock()
        with self.transactions.writing() as transaction:
            receipt = transaction.inbox.receipt(letter.receipt_id)
            if receipt is None or receipt.due_at != letter.until:
                return  # the time was over: somebody else sends it again
            studies = transaction.ledger.studies_of(receipt.report_id)
            if reply.code == "AA":
                receipt.delivered_at, receipt.due_at, receipt.last_error = now, None, None
                self._trace(transaction, "RECEIPT_SENT", receipt, now)
            elif reply.code == "AE":
                self._give_up(transaction, receipt, now, f"the receiver refuses it ({reply.reason})")
            else:
                self._try_later(transaction, receipt, now, reply.reason)
            transaction.commit()
        outcome, attempts = reply.code or "none", receipt.attempts
        for study in studies:
            self.log("receipt_answered", study=study, message=receipt.id, outcome=outcome, attempts=attempts)

    def _try_later(self, transaction: Transaction, receipt: Receipt, now: datetime, reason: str) -> None:
        if now - receipt.created_at >= 2 * PATIENCE:
            self._give_up(transaction, receipt, now, f"not delivered in {2 * PATIENCE.days} days: {reason}")
            return
        receipt.last_error = reason
        receipt.due_at = now + timedelta(seconds=self.retry.delay(receipt.attempts, self.chance()))

    def _give_up(self, transaction: Transaction, receipt: Receipt, now: datetime, reason: str) -> None:
        receipt.given_up_at, receipt.due_at, receipt.last_error = now, None, reason
        self._trace(transaction, "RECEIPT_GIVEN_UP", receipt, now)

    def _trace(self, transaction: Transaction, event: str, receipt: Receipt, now: datetime) -> None:
        for study in transaction.ledger.studies_of(receipt.report_id):
            trace.note(
                transaction,
                event,
                at=now,
                actor=self.actor,
                study=study,
                receipt=receipt.id,
                status=receipt.status,
                attempts=receipt.attempts,
                reason=receipt.last_error or receipt.error,
            )

    def _set_aside(self, receipt_id: str, error: Exception) -> None:
        """A defect of ours: said in the log, looked at again later."""
        self.alarm("receipt_failed", message=receipt_id, error=type(error).__name__, exc_info=error)
        with self.transactions.writing() as transaction:
            receipt = transaction.inbox.receipt(receipt_id)
            if receipt is not None and receipt.due_at is not None:
                receipt.due_at = self.clock() + LONGEST_WAIT
                receipt.last_error = f"a defect of the appliance: {type(error).__name__}"
            transaction.commit()


def _acknowledgement(transaction: Transaction, receipt: Receipt, report: ReceivedReport) -> str | None:
    """Our technical acknowledgement of the message that asked for the receipt."""
    asked = (receipt.control_id, receipt.created_at)
    messages = transaction.inbox.messages(document=report.document_id)
    return next((m.answer for m in messages if (m.control_id, m.received_at) == asked), None)
