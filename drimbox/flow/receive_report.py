"""A report arrives, by HL7v2 or as a bare CDA: durable bytes, then facts and trace in one commit, then the answer.

Images before the report, report before the images: both only record facts; the reconciler does the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from drimbox.domain.acknowledge import MessageHeader, MessageRefused, acknowledge
from drimbox.domain.cda import read_cda
from drimbox.domain.errors import ReportRefused, Unavailable
from drimbox.domain.hl7v2 import ReportMessage, peek_header, read_message
from drimbox.domain.report import Report
from drimbox.domain.violations import Violation, errors
from drimbox.flow import trace
from drimbox.flow.ports import Documents, Transaction, Transactions
from drimbox.flow.records import Message, ReceivedReport, ReportStudy


@dataclass(frozen=True, slots=True)
class Arrival:
    """What entered by a report door. `content`: the bytes as received."""

    content: bytes
    door: str
    peer: str
    at: datetime

    @property
    def actor(self) -> str:
        """Who the trace names."""
        return f"ris:{self.peer}"


@dataclass(frozen=True, slots=True)
class Context:
    """What a message says around its CDA; for a bare CDA, the defaults. `message`: digest of the message."""

    operation: str = "NW"
    flags: Mapping[str, bool] = field(default_factory=dict)
    patient_class: str = ""
    sender: Mapping[str, str] = field(default_factory=dict)
    control_id: str = ""
    message: str | None = None

    @property
    def destined_to_dmp(self) -> bool:
        """DESTDMP, yes when it is not said (hl7-mss 1.5)."""
        return self.flags.get("DESTDMP", True)


@dataclass(frozen=True, slots=True)
class Accepted:
    """A report that is now ours. `replay`: these very bytes were accepted before."""

    report_id: str
    document_id: str
    studies: tuple[str, ...]
    replay: bool
    warnings: tuple[Violation, ...]


@dataclass(frozen=True, slots=True)
class _Document:
    """A CDA that was read without error: its facts, its digest in the store, and the warnings."""

    report: Report
    digest: str
    warnings: tuple[Violation, ...]


@dataclass(frozen=True, slots=True)
class Reception:
    """The parts that receiving needs. `new_id` names rows, `new_control_id` gives MSH-10 (at most 20 characters)."""

    transactions: Transactions
    documents: Documents
    time_zone: str
    new_id: Callable[[], str]
    new_control_id: Callable[[], str]
    application: str = ""
    facility: str = ""

    def message(self, arrival: Arrival) -> bytes | None:
        """Take an HL7v2 message and return its acknowledgement (None: never acknowledge an acknowledgement).

        AA only after the commit; AE with the exact code for what is wrong, AR when we cannot keep it now.
        """
        try:
            content = self.documents.put(arrival.content)
            try:
                message = self._take(arrival, content)
            except MessageRefused as refusal:
                self._note_refusal(arrival, content, refusal)
                return None if refusal.header.is_acknowledgement else self._answer(arrival, refusal)
        except Unavailable:
            header = peek_header(arrival.content)
            return (
                None
                if header.is_acknowledgement
                else self._answer(arrival, MessageRefused.unavailable(header))
            )
        return acknowledge(
            message.header,
            code="AA",
            now=arrival.at,
            control_id=self.new_control_id(),
            application=self.application,
            facility=self.facility,
        )

    def document(self, arrival: Arrival) -> Accepted:
        """Take a bare CDA. Raises `ReportRefused` (traced) and `Unavailable`."""
        content = self.documents.put(arrival.content)
        try:
            document = self._read(arrival.content)
            check_identity(document.report, Context())
            return self._keep(arrival, content, document, Context())
        except ReportRefused as refusal:
            header = MessageHeader.unknown()
            self._note_refusal(
                arrival, content, MessageRefused.of_report(header, refusal.code, refusal.reason)
            )
            raise

    def _take(self, arrival: Arrival, content: str) -> ReportMessage:
        message = read_message(arrival.content)
        context = Context(
            message.operation,
            message.flags,
            message.patient_class,
            message.sender.as_mapping() if message.sender else {},
            message.header.control_id,
            content,
        )
        try:
            document = self._read(message.cda)
            check_agreement(message, document.report)
            check_identity(document.report, context)
            self._keep(arrival, content, document, context)
        except ReportRefused as refusal:
            raise MessageRefused.of_report(message.header, refusal.code, refusal.reason) from refusal
        return message

    def _read(self, cda: bytes) -> _Document:
        digest = self.documents.put(cda)
        reading = read_cda(cda, time_zone=self.time_zone)
        wrong = errors(reading.violations)
        if reading.report is None or wrong:
            raise ReportRefused(
                wrong[0].rule, "; ".join(f"{v.message} [{v.where or v.clause}]" for v in wrong)
            )
        return _Document(reading.report, digest, tuple(v for v in reading.violations if v not in wrong))

    def _keep(self, arrival: Arrival, content: str, document: _Document, context: Context) -> Accepted:
        report = document.report
        with self.transactions.writing() as transaction:
            known = transaction.ledger.report_by_document(str(report.id))
            if known is not None and known.cda != document.digest:
                raise ReportRefused("906", "this document id was received before with another content")
            row = known or self._new_row(arrival, document, context)
            if known is None:
                transaction.ledger.add(row)
                transaction.ledger.flush()
            transaction.ledger.add(
                Message(
                    self.new_id(),
                    arrival.at,
                    arrival.door,
                    arrival.peer,
                    context.control_id,
                    content,
                    "AA",
                    report_id=row.id,
                )
            )
            studies = tuple(act.StudyInstanceUID for act in report.studies)
            for study in studies:
                _exam_received_report(transaction, arrival, row, study, document.warnings, known is not None)
            transaction.commit()
        return Accepted(row.id, row.document_id, studies, known is not None, document.warnings)

    def _new_row(self, arrival: Arrival, document: _Document, context: Context) -> ReceivedReport:
        report = document.report
        return ReceivedReport(
            id=self.new_id(),
            document_id=str(report.id),
            set_id=report.set_id,
            version=report.version,
            operation=context.operation,
            cda=document.digest,
            received_at=arrival.at,
            door=arrival.door,
            flags=sorted(flag for flag, on in context.flags.items() if on),
            destined_to_dmp=context.destined_to_dmp,
            patient_class=context.patient_class,
            sender=dict(context.sender),
            message=context.message,
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
    """PID and CDA name the same patient, TXA-12 is the id of the CDA (hl7-mss 1.6, 1.8). Raises `ReportRefused`."""
    ins, announced = report.patient.ins, message.ins
    if (
        announced is not None
        and ins is not None
        and (announced.extension, announced.root) != (ins.value, ins.oid)
    ):
        raise ReportRefused("904", "the INS of PID-3 is not the INS of the CDA")
    if message.document_id and message.document_id != str(report.id):
        raise ReportRefused("document-id-mismatch", "TXA-12 is not the id of the CDA")


def check_identity(report: Report, context: Context) -> None:
    """A document destined to the DMP carries an INS with its traits (hl7-mss 1.6). Raises `ReportRefused`."""
    if not context.destined_to_dmp:
        return
    patient = report.patient
    if patient.ins is None:
        raise ReportRefused("903", "no INS in the document, which is destined to the DMP")
    traits = ("birth_family", "birth_given", "sex", "birth_date", "birth_place")
    missing = [trait for trait in traits if not getattr(patient, trait)]
    if missing:
        raise ReportRefused("905", f"the INS lacks its traits: {', '.join(missing)}")


def _exam_received_report(
    transaction: Transaction,
    arrival: Arrival,
    row: ReceivedReport,
    study: str,
    warnings: tuple[Violation, ...],
    replay: bool,
) -> None:
    if not replay:
        exam = transaction.ledger.exam_for_update(study, arrival.at)
        exam.revision += 1
        exam.reconcile_at = exam.changed_at = arrival.at
        transaction.ledger.add(ReportStudy(row.id, study))
    trace.note(
        transaction,
        "REPORT_REPEATED" if replay else "REPORT_RECEIVED",
        at=arrival.at,
        actor=arrival.actor,
        study=study,
        document=row.document_id,
        operation=row.operation,
        door=arrival.door,
        warnings=[violation.rule for violation in warnings],
    )
