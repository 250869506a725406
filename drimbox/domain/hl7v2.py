"""An HL7v2 message as facts: a report (ORU^R01, MDM) or an order about an exam (OMI^O23).

What is wrong is refused with the codes of hl7-mss 1.8, in the order of that table.
"""

from __future__ import annotations

from collections.abc import Collection

from drimbox.domain.acknowledge import MessageHeader, MessageRefused
from drimbox.domain.hl7v2_fields import Sender
from drimbox.domain.hl7v2_form import read_form
from drimbox.domain.hl7v2_grammar import SUPPORTED_OPERATIONS
from drimbox.domain.hl7v2_order import ExamOrder, read_order
from drimbox.domain.hl7v2_report import ReportMessage, read_report
from drimbox.domain.hl7v2_syntax import Unreadable, split_message

__all__ = [
    "ExamOrder",
    "MessageHeader",
    "MessageRefused",
    "ReportMessage",
    "Sender",
    "peek_header",
    "read_message",
]


def read_message(
    data: bytes, *, operations: Collection[str] = SUPPORTED_OPERATIONS
) -> ReportMessage | ExamOrder:
    """Read one message (a frame's content). `operations`: those on a report that the caller can carry out.

    Raises `MessageRefused` at the first step of hl7-mss 1.8 that fails; an acknowledgement is refused with a
    header that says so, and must not be answered.
    """
    draft = read_form(data)
    return read_report(draft, operations) if draft.kind.carries_document else read_order(draft)


def peek_header(data: bytes) -> MessageHeader:
    """What can be known of MSH, for an answer that depends on nothing else; never raises."""
    try:
        return MessageHeader.of(split_message(data)[0])
    except Unreadable:
        return MessageHeader.unknown()
