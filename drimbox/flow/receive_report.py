"""A message about a report, an exam or a visit arrives: durable bytes, then facts and trace in one commit, then ACK.

Images before the report, report before the images: both only record facts; the reconciler does the rest. Every
message leaves a row in the inbox: what it was, what it broke, what was answered.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from zoneinfo import ZoneInfo

from drimbox.domain.acknowledge import MessageHeader, MessageRefused, acknowledge
from drimbox.domain.cda import read_cda
from drimbox.domain.errors import ReportRefused, Unavailable
from drimbox.domain.hl7v2 import ReportMessage, VisitConsent, peek_header, read_message
from drimbox.domain.hl7v2_order import ExamOrder
from drimbox.domain.report_states import StatePolicy
from drimbox.domain.senders import speaking
from drimbox.domain.violations import errors
from drimbox.flow import trace
from drimbox.flow.agreement import (
    check_agreement,
    check_identity,
    check_lengths,
    check_tolerances,
    disagreements,
    signed_by,
)
from drimbox.flow.inbox_row import describe, note_violations
from drimbox.flow.keep_report import Accepted, Arrival, Context, ReadDocument, keep_report
from drimbox.flow.no_room import NoRoomRefusals, keep_or_tell
from drimbox.flow.ports import Documents, Transaction, Transactions
from drimbox.flow.receive_consent import receive_consent
from drimbox.flow.receive_order import receive_order
from drimbox.flow.records import Message, Receipt

CDA = "CDA"  # the kind of a bare document
_DOCUMENT_ID_MAX = 200
_CLASS_MAX = 16  # characters of PV1-2; its codes have one


def _nobody(_row: Message) -> None:
    """Nobody listens."""


@dataclass(frozen=True, slots=True)
class Reception:
    """The parts that receiving needs. `new_id` names rows, `new_control_id` gives MSH-10 (at most 20 characters).

    `consent_from_adt`: ADT messages are read; `receipts`: ACK_RECEPTION = Y is answered later by a ZAM^Z01.
    `told(row)`: of each message that was kept, taken or refused, after its commit.
    """

    transactions: Transactions
    documents: Documents
    time_zone: str
    new_id: Callable[[], str]
    new_control_id: Callable[[], str]
    states: StatePolicy = field(default_factory=StatePolicy)
    application: str = ""
    facility: str = ""
    consent_from_adt: bool = False
    receipts: bool = False
    told: Callable[[Message], object] = _nobody
    no_room: NoRoomRefusals = field(default_factory=NoRoomRefusals)

    def message(self, arrival: Arrival) -> bytes | None:
        """Take an HL7v2 message and return its acknowledgement (None: never acknowledge an acknowledgement).

        AA only after the commit; AE with the exact code for what is wrong, AR when we cannot keep it now.
        """
        try:
            row = self._row(arrival)
            try:
                return self._take(arrival, row)
            except MessageRefused as refusal:
                return self._refuse(arrival, row, refusal)
        except Unavailable:
            return self.not_now(arrival)

    def not_now(self, arrival: Arrival) -> bytes | None:
        """AR: nothing of the message was kept, its sender keeps it and sends it again."""
        header = peek_header(arrival.content)
        refusal = MessageRefused.unavailable(header)
        return None if header.is_acknowledgement else self._answer(arrival, refusal)

    def document(self, arrival: Arrival) -> Accepted:
        """Take a bare CDA: new, or the replacement of the one that it names. Raises `ReportRefused`, `Unavailable`."""
        row = self._row(arrival)
        row.kind = CDA
        try:
            document = self._read(arrival.content, row, for_publication=True)
            context = Context(operation="RO" if document.report.replaces else "NW")
            check_lengths(document.report, context)
            check_identity(document.report, context)
            return self._keep(arrival, row, document, context)
        except ReportRefused as refusal:
            self._refuse(
                arrival,
                row,
                MessageRefused.of_report(
                    MessageHeader.unknown(), refusal.code, refusal.reason, violations=refusal.violations
                ),
            )
            raise

    def _row(self, arrival: Arrival) -> Message:
        """Of bytes that are kept now. Raises `Unavailable`."""
        content = keep_or_tell(self.transactions, self.documents, self.no_room, arrival)
        return Message(
            self.new_id(),
            arrival.at,
            arrival.door,
            arrival.peer,
            "",
            content,
            "AA",
            replay_of=arrival.replay_of,
        )

    def _take(self, arrival: Arrival, row: Message) -> bytes:
        try:
            message = read_message(arrival.content, adt=self.consent_from_adt)
        except MessageRefused as refusal:
            note_violations(row, refusal.violations)
            raise
        describe(row, message.header)
        note_violations(row, message.warnings)
        states = self._states_of(arrival, row, message.header)
        row.answer = self._accept(arrival, message.header).decode("utf-8")
        try:
            if isinstance(message, ReportMessage):
                self._report(arrival, row, message, states)
            else:
                self._news(arrival, row, message)
        except ReportRefused as refusal:
            raise MessageRefused.of_report(
                message.header, refusal.code, refusal.reason, violations=refusal.violations
            ) from refusal
        return row.answer.encode("utf-8")

    def _states_of(self, arrival: Arrival, row: Message, header: MessageHeader) -> StatePolicy:
        """The choices of the sender that signs the message (MSH-3, MSH-4). Raises `MessageRefused`."""
        if arrival.senders is None:
            return self.states
        sender = speaking(arrival.senders, header.sending_application_name, header.sending_facility_name)
        if sender is None:
            reason = "MSH-3 and MSH-4 are not those of a sender that may call from this address"
            raise MessageRefused(
                "AE", 207, "MSH^1^3", reason, header, application_error=906, code="sender-unknown"
            )
        row.sender = sender.name
        check_tolerances(row.violations, sender.not_tolerated, header)
        return sender.states

    def _report(self, arrival: Arrival, row: Message, message: ReportMessage, states: StatePolicy) -> None:
        context = Context(
            message.operation,
            message.flags,
            message.patient_class[:_CLASS_MAX],
            message.sender.as_mapping() if message.sender else {},
            message.parent_id,
            str(message.visit) if message.visit.extension else None,
        )
        published = context.destined_to_dmp and context.operation != "CA"
        document = self._read(message.cda, row, for_publication=published)
        check_agreement(message, document.report)
        note_violations(row, disagreements(message, document.report))
        check_lengths(document.report, context)
        check_identity(document.report, context)
        self._keep(arrival, row, document, context, states)

    def _news(self, arrival: Arrival, row: Message, message: ExamOrder | VisitConsent) -> None:
        """An order about an exam, or what a visit says of consent."""
        with self.transactions.writing() as transaction:
            self._hold(transaction, {row.content: arrival.content})
            if isinstance(message, ExamOrder):
                row.studies = [message.study_instance_uid]
                receive_order(transaction, message, arrival)
            else:
                row.studies = receive_consent(transaction, message, arrival, row.id)
            transaction.ledger.add(row)
            transaction.commit()
        self.told(row)

    def _read(self, cda: bytes, row: Message, *, for_publication: bool) -> ReadDocument:
        row.document = self.documents.put(cda)
        reading = read_cda(cda, time_zone=self.time_zone, for_publication=for_publication)
        note_violations(row, reading.violations)
        wrong = errors(reading.violations)
        if reading.report is None or wrong:
            reason = "; ".join(f"{v.message} [{v.where or v.clause}]" for v in wrong)
            raise ReportRefused(wrong[0].rule, reason, reading.violations)
        row.document_id = str(reading.report.id)[:_DOCUMENT_ID_MAX]
        row.studies = [act.StudyInstanceUID for act in reading.report.studies]
        return ReadDocument(reading.report, cda, row.document, reading.violations)

    def _keep(
        self,
        arrival: Arrival,
        row: Message,
        document: ReadDocument,
        context: Context,
        states: StatePolicy | None = None,
    ) -> Accepted:
        with self.transactions.writing() as transaction:
            self._hold(transaction, {row.content: arrival.content, document.digest: document.content})
            accepted = keep_report(
                transaction, arrival, document, context, states or self.states, self.new_id
            )
            row.report_id = accepted.report_id
            transaction.ledger.add(row)
            self._expect_receipt(transaction, row, accepted, context)
            transaction.commit()
        self.told(row)
        return accepted

    def _hold(self, transaction: Transaction, kept: Mapping[str, bytes]) -> None:
        """Keep the bytes again now that a purge waits for our commit: it may have taken what `put` found here."""
        transaction.ledger.take_turns(kept)
        for digest, content in kept.items():
            self.documents.keep(digest, content)

    def _expect_receipt(
        self, transaction: Transaction, row: Message, accepted: Accepted, context: Context
    ) -> None:
        """ACK_RECEPTION = Y on what changes something: the worker answers it when the DMP has answered."""
        if not self.receipts or row.sender is None or not context.flags.get("ACK_RECEPTION"):
            return
        if accepted.report_id is None or accepted.replay:
            return
        receipt = Receipt(
            self.new_id(),
            accepted.report_id,
            context.operation,
            row.control_id,
            row.sender,
            row.received_at,
            row.received_at,
        )
        transaction.ledger.add(receipt)

    def _refuse(self, arrival: Arrival, row: Message, refusal: MessageRefused) -> bytes | None:
        """Keep the refusal, then answer it."""
        answer = None if refusal.header.is_acknowledgement else self._answer(arrival, refusal)
        error = "/".join(str(part) for part in (refusal.error, refusal.application_error) if part is not None)
        describe(row, refusal.header)
        row.sender = row.sender or signed_by(arrival, refusal.header)
        row.verdict, row.code, row.reason = refusal.ack, f"{error} {refusal.code}", refusal.reason
        row.answer = answer.decode("utf-8") if answer is not None and row.kind != CDA else None
        with self.transactions.writing() as transaction:
            self._hold(transaction, {row.content: arrival.content})
            transaction.ledger.add(row)
            trace.note(
                transaction,
                "REPORT_REFUSED",
                at=arrival.at,
                actor=arrival.actor,
                door=arrival.door,
                message=row.id,
                code=row.code,
                reason=refusal.reason,
            )
            transaction.commit()
        self.told(row)
        return answer

    def _local(self, instant: datetime) -> datetime:
        return instant.astimezone(ZoneInfo(self.time_zone))  # MSH-7 is written without offset

    def _accept(self, arrival: Arrival, header: MessageHeader) -> bytes:
        return acknowledge(
            header,
            code="AA",
            now=self._local(arrival.at),
            control_id=self.new_control_id(),
            application=self.application,
            facility=self.facility,
        )

    def _answer(self, arrival: Arrival, refusal: MessageRefused) -> bytes:
        return refusal.answer(
            now=self._local(arrival.at),
            control_id=self.new_control_id(),
            application=self.application,
            facility=self.facility,
        )
