"""A report in a file, checked as the door would read it; what is known of its document here is not asked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from drimbox.domain.acknowledge import MessageHeader, MessageRefused
from drimbox.domain.cda import read_cda
from drimbox.domain.errors import ReportRefused
from drimbox.domain.hl7v2 import ReportMessage, peek_header, read_message
from drimbox.domain.hl7v2_routes import ROUTES
from drimbox.domain.report import Report
from drimbox.domain.violations import Violation
from drimbox.flow.agreement import check_agreement, check_identity
from drimbox.flow.keep_report import Context
from drimbox.flow.receive_report import CDA

_START, _END = b"\x0b", b"\x1c"
_AROUND = b"\r\n\t "
_BOM = b"\xef\xbb\xbf"
_CLAUSE = "hl7-mss 1.8"


class SeveralMessages(ValueError):
    """The file holds more than one framed message."""


@dataclass(frozen=True, slots=True)
class CheckedReport:
    """`kind`: MSH-9.1^MSH-9.2, or CDA; every violation, in the order of reading."""

    kind: str
    violations: tuple[Violation, ...]


def check_report(data: bytes, *, time_zone: str) -> CheckedReport:
    """Check a file: an HL7v2 message, framed (hl7-mss 1.10) or not, else a CDA. Raises `SeveralMessages`.

    A message without a frame is a text file: its lines may end as the file's system ends them.
    """
    content = data.lstrip(_AROUND)
    if content.startswith(_START):
        return _check_message(_only_message(content), time_zone)
    if content.removeprefix(_BOM).startswith(b"MSH"):
        lines = content.replace(b"\r\n", b"\r").replace(b"\n", b"\r")
        return _check_message(lines.rstrip(b"\r") + b"\r", time_zone)
    return CheckedReport(CDA, tuple(_check_cda(data, time_zone)))


def _only_message(frames: bytes) -> bytes:
    first, *more = [frame for frame in frames.split(_END) if frame.strip(_AROUND)]
    if more:
        raise SeveralMessages(f"{1 + len(more)} framed messages: give them one by one")
    return first.lstrip(_AROUND).removeprefix(_START)


def _check_message(content: bytes, time_zone: str) -> CheckedReport:
    try:
        message = read_message(content, adt=True)
    except MessageRefused as refusal:
        return CheckedReport(_kind(peek_header(content)), (*refusal.violations, _violation(refusal)))
    found = [*message.warnings]
    if isinstance(message, ReportMessage):
        found += _check_document(message, time_zone)
    return CheckedReport(_kind(message.header), tuple(found))


def _check_document(message: ReportMessage, time_zone: str) -> Iterator[Violation]:
    reading = read_cda(message.cda, time_zone=time_zone)
    yield from reading.violations
    if reading.report is not None:
        context = Context(message.operation, message.flags)
        yield from _disagreements(message, reading.report, context)


def _disagreements(message: ReportMessage, report: Report, context: Context) -> Iterator[Violation]:
    for check in (partial(check_agreement, message, report), partial(check_identity, report, context)):
        try:
            check()
        except ReportRefused as refusal:
            yield _violation(MessageRefused.of_report(message.header, refusal.code, refusal.reason))


def _check_cda(data: bytes, time_zone: str) -> Iterator[Violation]:
    reading = read_cda(data, time_zone=time_zone)
    yield from reading.violations
    if reading.report is None:
        return
    try:
        check_identity(reading.report, Context("RO" if reading.report.replaces else "NW"))
    except ReportRefused as refusal:
        yield Violation(refusal.code, refusal.reason, "/ClinicalDocument/recordTarget", "hl7-mss 1.6")


def _violation(refusal: MessageRefused) -> Violation:
    """A refusal of the whole message, as a violation; it says how the door would answer."""
    clause = next((row.clause for row in ROUTES if row.slug == refusal.code), _CLAUSE)
    application = "" if refusal.application_error is None else f"/{refusal.application_error}"
    answer = f"{refusal.ack} {refusal.error}{application}"
    return Violation(refusal.code, f"{refusal.reason} (answered {answer})", refusal.location, clause)


def _kind(header: MessageHeader) -> str:
    return "^".join(part for part in (header.message_code, header.trigger_event) if part) or "unreadable"
