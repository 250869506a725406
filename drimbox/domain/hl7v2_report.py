"""A message that carries an imaging report, as facts: ORU^R01 and MDM (hl7-mss 1, drim-m-data 7).

Tolerant in form (terminators, padding, aliases: hl7-mss 6), strict in meaning.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import product

from drimbox.domain.acknowledge import MessageHeader
from drimbox.domain.hl7v2_document import Document, document_segments, pick_document
from drimbox.domain.hl7v2_fields import (
    Sender,
    local_ids,
    patient_ins,
    read_entity,
    read_flags,
    read_sender,
    read_visit,
)
from drimbox.domain.hl7v2_form import Draft
from drimbox.domain.hl7v2_grammar import OPERATION_NAMES, OPERATIONS, Operation
from drimbox.domain.identifiers import Identifier
from drimbox.domain.violations import Violation


@dataclass(frozen=True, slots=True)
class ReportMessage:
    """What a message says around its CDA. `cda`: the bytes of the document, exactly as encoded by the sender.

    `document_id` and `parent_id`: TXA-12 and TXA-13 as `root[^extension]`, empty in ORU. `flags`: canonical
    MetaDMPMSS codes that the message carries. `patient_class`: PV1-2, empty without PV1.
    """

    header: MessageHeader
    operation: Operation
    ins_ids: tuple[Identifier, ...]
    local_ids: tuple[Identifier, ...]
    identity_reliability: str  # PID-32, VALI with an INS = qualified identity
    patient_class: str
    visit: Identifier  # PV1-19, its extension is empty when absent
    type_code: str  # OBR-4.1
    document_id: str
    parent_id: str
    sender: Sender | None
    flags: Mapping[str, bool]
    cda: bytes
    document_location: str  # ERR-2 of the document
    warnings: tuple[Violation, ...]

    @property
    def ins(self) -> Identifier | None:
        """The INS of PID-3; None when the message carries none."""
        return self.ins_ids[0] if self.ins_ids else None


def read_report(draft: Draft, operations: Collection[str]) -> ReportMessage:
    """The report of a message whose form is right. Raises `MessageRefused`."""
    operation = _operation(draft)
    if operation not in operations:
        name = OPERATION_NAMES[operation]
        raise draft.refuse(207, "ORC^1^1", f"{name} of a report (ORC-1 {operation}) is not supported", 906)
    document = pick_document(draft.segments, draft.header, draft.warn)
    flags = read_flags(draft.segments, draft.header, draft.warn)
    _note_meaning(draft, operation, document)
    return _message(draft, operation, document, flags)


def _note_meaning(draft: Draft, operation: Operation, document: Document) -> None:
    if read_sender(draft.segments) is None:
        draft.warn("sender", "no PRT of type SB: the author of the CDA stands for it", "PRT")
    if operation != "RO" and draft.value("TXA", 13):
        draft.warn("parent-ignored", f"TXA-13 has no meaning in a {OPERATION_NAMES[operation]}", "TXA^1^13")
    types = {"OBR^1^4": draft.value("OBR", 4), document.segment.place(3): document.segment.component(3)}
    for place, code in types.items():
        if document.code and code != document.code:
            draft.warn("document-type", "not the type code that the CDA has", place)


def _operation(draft: Draft) -> Operation:
    """ORC-1, OBX-11 of every document, and the event say the same (hl7-mss 1.6)."""
    header, found = draft.header, None
    controls = {control: None for s in draft.all("ORC") if (control := s.component(1))}
    for control, document in product(controls, document_segments(draft.segments)):
        status = document.component(11)
        found = OPERATIONS.get((header.message_code, header.trigger_event, control, status))
        if found is None:
            values = f"ORC-1 {_shown(control)}, OBX-11 {_shown(status)}, event {header.trigger_event}"
            raise draft.refuse(207, document.place(11), f"incoherent: {values}", 906)
    assert found is not None, "the form has an ORC-1 and a document"
    return found


def _message(
    draft: Draft, operation: Operation, document: Document, flags: Mapping[str, bool]
) -> ReportMessage:
    pid, txa = draft.first("PID"), draft.first("TXA")
    return ReportMessage(
        header=draft.header,
        operation=operation,
        ins_ids=patient_ins(pid),
        local_ids=local_ids(pid),
        identity_reliability=draft.value("PID", 32),
        patient_class=draft.value("PV1", 2),
        visit=read_visit(draft.first("PV1")),
        type_code=draft.value("OBR", 4),
        document_id=read_entity(txa, 12),
        parent_id=read_entity(txa, 13),
        sender=read_sender(draft.segments),
        flags=flags,
        cda=document.content,
        document_location=document.segment.place(5),
        warnings=draft.warnings,
    )


def _shown(value: str) -> str:
    return value if len(value) <= 2 and value.isalnum() else "another value"
