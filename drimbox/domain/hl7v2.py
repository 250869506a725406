"""An HL7v2 message as facts: a report (ORU^R01, MDM), an order about an exam (OMI^O23), the consent of a visit (ADT).

What is wrong is refused with the codes of hl7-mss 1.8, in the order of that table.
"""

from __future__ import annotations

from collections.abc import Collection

from drimbox.domain.acknowledge import MessageHeader, MessageRefused
from drimbox.domain.hl7v2_consent import VisitConsent, read_consent
from drimbox.domain.hl7v2_defects import note_defects
from drimbox.domain.hl7v2_fields import Sender
from drimbox.domain.hl7v2_form import peek_header, read_form
from drimbox.domain.hl7v2_grammar import SUPPORTED_OPERATIONS, TOLERANCES
from drimbox.domain.hl7v2_order import ExamOrder, read_order
from drimbox.domain.hl7v2_report import ReportMessage, read_report

__all__ = [
    "TOLERANCES",
    "ExamOrder",
    "MessageHeader",
    "MessageRefused",
    "ReportMessage",
    "Sender",
    "VisitConsent",
    "peek_header",
    "read_message",
]


def read_message(
    data: bytes, *, operations: Collection[str] = SUPPORTED_OPERATIONS, adt: bool = False
) -> ReportMessage | ExamOrder | VisitConsent:
    """Read one message (a frame's content). `operations`: those on a report that the caller can carry out.

    `adt`: read the consent of ADT messages (hl7-mss 1.12) instead of refusing them. The defects that were tolerated
    are in `warnings`, one violation each, by the slugs of `TOLERANCES`.
    Raises `MessageRefused` at the first step of hl7-mss 1.8 that fails; an acknowledgement is refused with a
    header that says so, and must not be answered.
    """
    draft = read_form(data, adt=adt)
    note_defects(draft)
    if draft.kind.gives == "report":
        return read_report(draft, operations)
    return read_order(draft) if draft.kind.gives == "order" else read_consent(draft)
