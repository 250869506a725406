"""A report, or an order about an exam, arrives: durable bytes, then facts and trace in one commit, then the answer.

Images before the report, report before the images: both only record facts; the reconciler does the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from drimbox.domain.acknowledge import MessageHeader, MessageRefused, acknowledge
from drimbox.domain.cda import read_cda
from drimbox.domain.errors import ReportRefused, Unavailable
from drimbox.domain.hl7v2 import ReportMessage, peek_header, read_message
from drimbox.domain.hl7v2_order import ExamOrder
from drimbox.domain.report import Report
from drimbox.domain.report_states import StatePolicy
from drimbox.domain.violations import errors
from drimbox.flow import trace
from drimbox.flow.keep_report import Accepted, Arrival, Context, ReadDocument, keep_report
from drimbox.flow.ports import Documents, Transactions
from drimbox.flow.receive_order import receive_order
from drimbox.flow.records import Message


@dataclass(frozen=True, slots=True)
class Reception:
    """The parts that receiving needs. `new_id` names rows, `new_control_id` gives MSH-10 (at most 20 characters)."""

    transactions: Transactions
    documents: Documents
    time_zone: str
    new_id: Callable[[], str]
    new_control_id: Callable[[], str]
    states: StatePolicy = field(default_factory=StatePolicy)
    application: str = ""
    facility: str = ""

    def message(self, arrival: Arrival) -> bytes | None:
        """Take an HL7v2 message and return its acknowledgement (None: never acknowledge an acknowledgement).

        AA only after the commit; AE with the exact code for what is wrong, AR when we cannot keep it now.
        """
        try:
            content = self.documents.put(arrival.content)
            try:
                header = self._take(arrival, content)
            except MessageRefused as refusal:
                self._note_refusal(arrival, content, refusal)
                return None if refusal.header.is_acknowledgement else self._answer(arrival, refusal)
        except Unavailable:
            header = peek_header(arrival.content)
            not_now = MessageRefused.unavailable(header)
            return None if header.is_acknowledgement else self._answer(arrival, not_now)
        return acknowledge(
            header,
            code="AA",
            now=arrival.at,
            control_id=self.new_control_id(),
            application=self.application,
            facility=self.facility,
        )

    def document(self, arrival: Arrival) -> Accepted:
        """Take a bare CDA: new, or the replacement of the one that it names. Raises `ReportRefused`, `Unavailable`."""
        content = self.documents.put(arrival.content)
        try:
            document = self._read(arrival.content)
            context = Context(operation="RO" if document.report.replaces else "NW")
            check_identity(document.report, context)
            return self._keep(arrival, content, document, context)
        except ReportRefused as refusal:
            header = MessageHeader.unknown()
            self._note_refusal(
                arrival, content, MessageRefused.of_report(header, refusal.code, refusal.reason)
            )
            raise

    def _take(self, arrival: Arrival, content: str) -> MessageHeader:
        message = read_message(arrival.content)
        try:
            if isinstance(message, ExamOrder):
                self._order(arrival, content, message)
            else:
                self._report(arrival, content, message)
        except ReportRefused as refusal:
            raise MessageRefused.of_report(message.header, refusal.code, refusal.reason) from refusal
        return message.header

    def _report(self, arrival: Arrival, content: str, message: ReportMessage) -> None:
        context = Context(
            message.operation,
            message.flags,
            message.patient_class,
            message.sender.as_mapping() if message.sender else {},
            message.header.control_id,
            content,
            message.parent_id,
        )
        document = self._read(message.cda)
        check_agreement(message, document.report)
        check_identity(document.report, context)
        self._keep(arrival, content, document, context)

    def _order(self, arrival: Arrival, content: str, order: ExamOrder) -> None:
        with self.transactions.writing() as transaction:
            receive_order(transaction, order, arrival)
            transaction.ledger.add(self._accepted(arrival, content, order.header.control_id, None))
            transaction.commit()

    def _read(self, cda: bytes) -> ReadDocument:
        digest = self.documents.put(cda)
        reading = read_cda(cda, time_zone=self.time_zone)
        wrong = errors(reading.violations)
        if reading.report is None or wrong:
            raise ReportRefused(
                wrong[0].rule, "; ".join(f"{v.message} [{v.where or v.clause}]" for v in wrong)
            )
        return ReadDocument(reading.report, digest, tuple(v for v in reading.violations if v not in wrong))

    def _keep(self, arrival: Arrival, content: str, document: ReadDocument, context: Context) -> Accepted:
        with self.transactions.writing() as transaction:
            accepted = keep_report(transaction, arrival, document, context, self.states, self.new_id)
            transaction.ledger.add(self._accepted(arrival, content, context.control_id, accepted.report_id))
            transaction.commit()
        return accepted

    def _accepted(self, arrival: Arrival, content: str, control_id: str, report_id: str | None) -> Message:
        return Message(
            self.new_id(),
            arrival.at,
            arrival.door,
            arrival.peer,
            control_id,
            content,
            "AA",
            report_id=report_id,
        )

    def _note_refusal(self, arrival: Arrival, content: str, refusal: MessageRefused) -> None:
        error = "/".join(str(part) for part in (refusal.error, refusal.application_error) if part is not None)
        message = Message(
            self.new_id(),
            arrival.at,
            arrival.door,
            arrival.peer,
            refusal.header.control_id,
            content,
            refusal.ack,
            f"{error} {refusal.code}",
            refusal.reason,
        )
        with self.transactions.writing() as transaction:
            transaction.ledger.add(message)
            trace.note(
                transaction,
                "REPORT_REFUSED",
                at=arrival.at,
                actor=arrival.actor,
                door=arrival.door,
                message=message.id,
                code=message.code,
                reason=refusal.reason,
            )
            transaction.commit()

    def _answer(self, arrival: Arrival, refusal: MessageRefused) -> bytes:
        return refusal.answer(
            now=arrival.at,
            control_id=self.new_control_id(),
            application=self.application,
            facility=self.facility,
        )


def check_agreement(message: ReportMessage, report: Report) -> None:
    """PID and CDA name the same patient, TXA-12 and TXA-13 the same documents (hl7-mss 1.6, 1.8).

    Raises `ReportRefused`.
    """
    ins, announced = report.patient.ins, message.ins
    if (
        announced is not None
        and ins is not None
        and (announced.extension, announced.root) != (ins.value, ins.oid)
    ):
        raise ReportRefused("904", "the INS of PID-3 is not the INS of the CDA")
    if message.document_id and message.document_id != str(report.id):
        raise ReportRefused("document-id-mismatch", "TXA-12 is not the id of the CDA")
    parents = {str(parent) for parent in report.replaces}
    if message.operation == "RO" and message.parent_id and parents and message.parent_id not in parents:
        raise ReportRefused("900", "TXA-13 is not the document that the CDA replaces")


def check_identity(report: Report, context: Context) -> None:
    """A document destined to the DMP carries an INS with its traits (hl7-mss 1.6). Raises `ReportRefused`."""
    if not context.destined_to_dmp or context.operation == "CA":
        return
    patient = report.patient
    if patient.ins is None:
        raise ReportRefused("903", "no INS in the document, which is destined to the DMP")
    traits = ("birth_family", "birth_given", "sex", "birth_date", "birth_place")
    missing = [trait for trait in traits if not getattr(patient, trait)]
    if missing:
        raise ReportRefused("905", f"the INS lacks its traits: {', '.join(missing)}")
