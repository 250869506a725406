"""How the row of a message in the inbox is filled."""

from __future__ import annotations

from collections.abc import Iterable

from drimbox.domain.acknowledge import MessageHeader
from drimbox.domain.violations import Violation
from drimbox.flow.records import Message

_CONTROL_ID_MAX = 200  # characters of MSH-10 that are kept; the answer repeats it whole


def describe(row: Message, header: MessageHeader) -> None:
    """What its header says."""
    row.control_id = header.control_id[:_CONTROL_ID_MAX]
    if header.message_code:
        row.kind = "^".join(part for part in (header.message_code[:7], header.trigger_event[:7]) if part)


def note_violations(row: Message, violations: Iterable[Violation]) -> None:
    """What it broke, beside what is noted already."""
    row.violations = [
        *row.violations,
        *(
            {
                "rule": v.rule,
                "severity": v.severity.value,
                "message": v.message,
                "where": v.where,
                "clause": v.clause,
            }
            for v in violations
        ),
    ]
