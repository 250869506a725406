"""An HL7v2 message that carries an imaging report, as facts: ORU^R01 and MDM (hl7-mss 1, drim-m-data 7).

Tolerant in form (terminators, padding, aliases: section 6), strict in meaning. What is wrong is refused with
the codes of hl7-mss 1.8, in the order of that table.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from drimbox.domain.acknowledge import MessageHeader, MessageRefused
from drimbox.domain.hl7v2_document import Document, document_segments, pick_document
from drimbox.domain.hl7v2_fields import Sender, local_ids, patient_ins, read_entity, read_flags, read_sender
from drimbox.domain.hl7v2_grammar import (
    CHARACTER_SETS,
    FOREIGN_PROFILES,
    GRAMMAR_SEGMENTS,
    MESSAGE_TYPES,
    OPERATION_NAMES,
    OPERATIONS,
    PROCESSING_IDS,
    PROFILE,
    SUPPORTED_OPERATIONS,
    MessageType,
    Operation,
)
from drimbox.domain.hl7v2_syntax import Segment, Unreadable, split_message
from drimbox.domain.identifiers import Identifier
from drimbox.domain.violations import Severity, Violation

__all__ = ["MessageHeader", "MessageRefused", "ReportMessage", "Sender", "peek_header", "read_message"]


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


@dataclass(slots=True)
class _Draft:
    """A message while its checks run, each step finding what the ones before it have left."""

    data: bytes
    operations: Collection[str]
    header: MessageHeader = field(default_factory=MessageHeader.unknown)
    segments: tuple[Segment, ...] = ()
    operation: Operation = "NW"
    document: Document | None = None
    flags: Mapping[str, bool] = field(default_factory=dict)
    warnings: list[Violation] = field(default_factory=list)

    def first(self, name: str) -> Segment | None:
        return next((s for s in self.segments if s.name == name), None)

    @property
    def kind(self) -> MessageType:
        key = (self.header.message_code, self.header.trigger_event)
        return next(t for t in MESSAGE_TYPES if (t.code, t.event) == key)

    def refuse(
        self, error: int, location: str, reason: str, application: int | None = None
    ) -> MessageRefused:
        return MessageRefused("AE", error, location, reason, self.header, application_error=application)

    def warn(self, rule: str, message: str, where: str, clause: str) -> None:
        self.warnings.append(Violation(rule, message, where, clause, Severity.WARNING))


def read_message(data: bytes, *, operations: Collection[str] = SUPPORTED_OPERATIONS) -> ReportMessage:
    """Read one message (a frame's content). `operations`: those that the caller can carry out.

    Raises `MessageRefused` at the first step of hl7-mss 1.8 that fails; an acknowledgement is refused with a
    header that says so, and must not be answered.
    """
    draft = _Draft(data, operations)
    for step in STEPS:
        step(draft)
    assert draft.document is not None, "the document step fills it or refuses"
    return _message(draft, draft.document)


def peek_header(data: bytes) -> MessageHeader:
    """What can be known of MSH, for an answer that depends on nothing else; never raises."""
    try:
        return MessageHeader.of(split_message(data)[0])
    except Unreadable:
        return MessageHeader.unknown()


def _open(draft: _Draft) -> None:
    try:
        draft.segments = split_message(draft.data)
    except Unreadable as error:
        raise draft.refuse(100, "", str(error)) from error
    draft.header = MessageHeader.of(draft.segments[0])


@dataclass(frozen=True, slots=True)
class _HeaderRule:
    """A row of 1.8 on MSH: where, the code of table 0357, whether the header breaks it, what to say."""

    location: str
    error: int
    broken: Callable[[MessageHeader], bool]
    reason: str


def _event_unknown(header: MessageHeader) -> bool:
    return (header.message_code, header.trigger_event) not in {(t.code, t.event) for t in MESSAGE_TYPES}


def _version_unknown(header: MessageHeader) -> bool:
    return (header.message_code, header.version) not in {(t.code, t.version) for t in MESSAGE_TYPES}


_HEADER_RULES = (
    _HeaderRule("MSH^1^9", 200, lambda h: h.is_acknowledgement, "an acknowledgement, not a report"),
    _HeaderRule(
        "MSH^1^9",
        200,
        lambda h: h.message_code not in {t.code for t in MESSAGE_TYPES},
        "this message type is not supported: ORU and MDM are",
    ),
    _HeaderRule("MSH^1^9", 201, _event_unknown, "this event is not supported for this message type"),
    _HeaderRule(
        "MSH^1^21",
        200,
        lambda h: any(name in h.profile for name in FOREIGN_PROFILES),
        "a message of another profile: teleradiology or transmission to the LPS",
    ),
    _HeaderRule("MSH^1^11", 202, lambda h: h.processing_id not in PROCESSING_IDS, "MSH-11 is P, T or D"),
    _HeaderRule("MSH^1^12", 203, _version_unknown, "the version is 2.5 for ORU and 2.6 for MDM"),
)


def _check_header(draft: _Draft) -> None:
    header = draft.header
    for rule in _HEADER_RULES:
        if rule.broken(header):
            raise draft.refuse(rule.error, rule.location, rule.reason)
    if header.structure != draft.kind.structure:
        draft.warn("structure", f"MSH-9.3 is not {draft.kind.structure}", "MSH^1^9", "hl7-mss 1.3")
    if PROFILE not in header.profile:
        draft.warn("profile", f"MSH-21 does not name {PROFILE}", "MSH^1^21", "hl7-mss 1.3")


def _check_characters(draft: _Draft) -> None:
    """UTF-8 first, then what MSH-18 declares (hl7-mss 1.10)."""
    declared = CHARACTER_SETS.get(draft.header.character_set.upper())
    if declared is None:
        raise draft.refuse(103, "MSH^1^18", "the character set is not one of UNICODE UTF-8, 8859/1, 8859/15")
    odd = [f for s in draft.segments for f in s.fields if not f.isascii()]
    encoding = "utf-8" if all(map(_is_utf8, odd)) else declared
    if not all(_decodes(f, encoding) for f in odd):
        raise draft.refuse(102, "MSH^1^18", "the bytes are not text of the declared character set")
    if odd and encoding != declared:
        draft.warn("character-set", "the text is UTF-8, MSH-18 says otherwise", "MSH^1^18", "hl7-mss 1.10")
    if encoding != "utf-8":
        draft.segments = tuple(
            Segment(s.name, s.occurrence, s.fields, s.delimiters, encoding) for s in draft.segments
        )
        draft.header = MessageHeader.of(draft.segments[0])


def _is_utf8(content: bytes) -> bool:
    return _decodes(content, "utf-8")


def _decodes(content: bytes, encoding: str) -> bool:
    try:
        content.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _check_segments(draft: _Draft) -> None:
    names = [s.name for s in draft.segments if s.name in GRAMMAR_SEGMENTS]
    missing = [name for name in draft.kind.present if name not in names]
    if missing:
        raise draft.refuse(100, missing[0], f"segments missing: {', '.join(missing)}")
    if not draft.kind.segments.fullmatch("".join(f"{name} " for name in names)):
        raise draft.refuse(100, "", f"the segments are not in the order of {draft.kind.structure}")


def _check_fields(draft: _Draft) -> None:
    missing: list[tuple[Segment, int]] = []
    for name, number in draft.kind.required:
        segment = draft.first(name)
        if segment and not segment.component(number):
            missing.append((segment, number))
    documents = document_segments(draft.segments)
    missing += [(s, number) for s in documents for number in (3, 5, 11) if not s.raw(number).strip()]
    if missing:
        names = ", ".join(segment.label(number) for segment, number in missing)
        raise draft.refuse(101, missing[0][0].place(missing[0][1]), f"required fields missing: {names}")
    if not documents:
        raise draft.refuse(101, "OBX^1^5", "no document: no OBX of type ED")


def _check_operation(draft: _Draft) -> None:
    """ORC-1, OBX-11 of every document, and the event say the same (hl7-mss 1.6)."""
    header = draft.header
    control = next(s.component(1) for s in draft.segments if s.name == "ORC")
    for document in document_segments(draft.segments):
        status = document.component(11)
        found = OPERATIONS.get((header.message_code, header.trigger_event, control, status))
        if found is None:
            values = f"ORC-1 {_shown(control)}, OBX-11 {_shown(status)}, event {header.trigger_event}"
            raise draft.refuse(207, document.place(11), f"incoherent: {values}", 906)
        draft.operation = found


def _check_supported(draft: _Draft) -> None:
    if draft.operation not in draft.operations:
        name = OPERATION_NAMES[draft.operation]
        raise draft.refuse(
            207, "ORC^1^1", f"{name} of a report (ORC-1 {draft.operation}) is not supported", 906
        )


def _check_document(draft: _Draft) -> None:
    draft.document = pick_document(draft.segments, draft.header)
    if draft.document.more:
        draft.warn("more-documents", "another CDA of this message is left aside", "OBX", "hl7-mss 1.2")


def _check_flags(draft: _Draft) -> None:
    draft.flags, warnings = read_flags(draft.segments, draft.header)
    draft.warnings += warnings
    if read_sender(draft.segments) is None:
        draft.warn("sender", "no PRT of type SB: the author of the CDA stands for it", "PRT", "hl7-mss 1.4")


# hl7-mss 1.8, "check, in this order"; the frame is the door's, the agreement with the CDA is its reader's
STEPS: tuple[Callable[[_Draft], None], ...] = (
    _open,
    _check_header,
    _check_characters,
    _check_segments,
    _check_fields,
    _check_operation,
    _check_supported,
    _check_document,
    _check_flags,
)


def _message(draft: _Draft, document: Document) -> ReportMessage:
    pid, pv1, txa = draft.first("PID"), draft.first("PV1"), draft.first("TXA")
    obr = draft.first("OBR")
    return ReportMessage(
        header=draft.header,
        operation=draft.operation,
        ins_ids=patient_ins(pid),
        local_ids=local_ids(pid),
        identity_reliability=pid.component(32) if pid else "",
        patient_class=pv1.component(2) if pv1 else "",
        type_code=obr.component(4) if obr else "",
        document_id=read_entity(txa, 12),
        parent_id=read_entity(txa, 13),
        sender=read_sender(draft.segments),
        flags=draft.flags,
        cda=document.content,
        document_location=document.location,
        warnings=tuple(draft.warnings),
    )


def _shown(value: str) -> str:
    return value if len(value) <= 2 and value.isalnum() else "another value"
