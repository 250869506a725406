"""What a message says around its CDA agrees with the CDA (hl7-mss 1.6, 1.8)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from drimbox.domain.acknowledge import MessageHeader, MessageRefused
from drimbox.domain.errors import ReportRefused
from drimbox.domain.hl7v2 import ReportMessage
from drimbox.domain.report import Report
from drimbox.domain.senders import speaking
from drimbox.domain.violations import Severity, Violation
from drimbox.flow.keep_report import Arrival, Context
from drimbox.flow.originals import author_structure
from drimbox.flow.receive_consent import VISIT_MAX


def check_agreement(message: ReportMessage, report: Report) -> None:
    """TXA-12 and TXA-13 name the documents of the CDA, PID its patient, in the order of hl7-mss 1.8.

    Raises `ReportRefused`.
    """
    if message.document_id and message.document_id != str(report.id):
        raise ReportRefused("document-id-mismatch", "TXA-12 is not the id of the CDA")
    parents = {str(parent) for parent in report.replaces}
    if message.operation == "RO" and message.parent_id and parents and message.parent_id not in parents:
        raise ReportRefused("900", "TXA-13 is not the document that the CDA replaces")
    ins, announced = report.patient.ins, message.ins
    if (
        announced is not None
        and ins is not None
        and (announced.extension, announced.root) != (ins.value, ins.oid)
    ):
        raise ReportRefused("904", "the INS of PID-3 is not the INS of the CDA")


def disagreements(message: ReportMessage, report: Report) -> list[Violation]:
    """What PID and the CDA say differently without consequence: noted (hl7-mss 1.3, "log the rest")."""
    found = []
    patient = report.patient
    known = {one.root: one.extension for one in patient.local_ids if one.root}
    if any(known.get(one.root, one.extension) != one.extension for one in message.local_ids):
        found.append(_noted("local-id-differs", "a local identifier of PID-3 is not that of the CDA"))
    if message.ins is None and patient.ins is not None:
        found.append(_noted("ins-not-announced", "PID-3 carries no INS, the CDA does"))
    return found


def _noted(rule: str, message: str) -> Violation:
    return Violation(rule, message, "PID^1^3", "hl7-mss 1.3", Severity.WARNING)


_LIMITS = {
    "the id of the CDA": 200,
    "its setId": 200,
    "a document that it replaces": 200,
    "PV1-19": VISIT_MAX,
    "the id of the author's structure": 64,
}


def check_lengths(report: Report, context: Context) -> None:
    """Identifiers are keys: one that is too long to be kept whole is refused, never cut. Raises `ReportRefused`."""
    values = {
        "the id of the CDA": [str(report.id)],
        "its setId": [report.set_id],
        "a document that it replaces": [*map(str, report.replaces), context.parent_id],
        "PV1-19": [context.visit or ""],
        "the id of the author's structure": [author_structure(report) or ""],
    }
    for name, limit in _LIMITS.items():
        if any(len(value) > limit for value in values[name]):
            raise ReportRefused("identifier-too-long", f"{name} has over {limit} characters")


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


def check_tolerances(
    violations: Iterable[Mapping[str, str]], not_tolerated: Iterable[str], header: MessageHeader
) -> None:
    """A defect that this sender is not forgiven (hl7-mss 7.1). Raises `MessageRefused`."""
    for violation in violations:
        if violation["rule"] in not_tolerated:
            where = violation["where"] if violation["where"].count("^") == 2 else ""
            reason = f"not tolerated from this sender: {violation['message']} ({violation['clause']})"
            raise MessageRefused("AE", 199, where, reason, header, code=violation["rule"])


def signed_by(arrival: Arrival, header: MessageHeader) -> str | None:
    """The sender of a message that was refused before its choices were asked for: a replay needs it."""
    if not arrival.senders or not header.message_code:
        return None
    sender = speaking(arrival.senders, header.sending_application_name, header.sending_facility_name)
    return sender.name if sender else None
