"""The form of an HL7v2 message, the same for every type: header, characters, segments, required fields.

The steps of hl7-mss 1.8 up to the meaning of the message, in the order of that table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from drimbox.domain.acknowledge import MessageHeader, MessageRefused
from drimbox.domain.hl7v2_document import document_segments
from drimbox.domain.hl7v2_grammar import (
    CHARACTER_SETS,
    MESSAGE_TYPES,
    PROCESSING_IDS,
    PROFILE_VERSION,
    TOLERANCES,
    MessageType,
)
from drimbox.domain.hl7v2_routes import route
from drimbox.domain.hl7v2_syntax import Segment, Unreadable, first_segment, split_message
from drimbox.domain.violations import Severity, Violation

_PLACES_MAX = 20  # places of one defect that its warning names


@dataclass(slots=True)
class Draft:
    """A message while its checks run, each step finding what the ones before it have left. `adt`: read ADT."""

    data: bytes
    adt: bool = False
    header: MessageHeader = field(default_factory=MessageHeader.unknown)
    segments: tuple[Segment, ...] = ()
    tolerated: dict[str, list[tuple[str, str]]] = field(default_factory=dict)

    def first(self, name: str) -> Segment | None:
        """The first segment of that name."""
        return next((s for s in self.segments if s.name == name), None)

    def all(self, name: str) -> list[Segment]:
        """The segments of that name, in order."""
        return [s for s in self.segments if s.name == name]

    def value(self, name: str, number: int) -> str:
        """The first component of a field of the first segment of that name; empty when absent."""
        segment = self.first(name)
        return segment.component(number) if segment else ""

    @property
    def kind(self) -> MessageType:
        """The row of the grammar; the header step has found it."""
        key = (self.header.message_code, self.header.trigger_event)
        return next(t for t in MESSAGE_TYPES if (t.code, t.event) == key)

    def refuse(
        self, error: int, location: str, reason: str, application: int | None = None
    ) -> MessageRefused:
        """The refusal AE with this code of table 0357, to be raised."""
        return MessageRefused(
            "AE",
            error,
            location,
            reason,
            self.header,
            application_error=application,
            violations=self.warnings,
        )

    def warn(self, rule: str, message: str, where: str) -> None:
        """Note what is tolerated; `rule` is a slug of `TOLERANCES`."""
        self.tolerated.setdefault(rule, []).append((message, where))

    @property
    def warnings(self) -> tuple[Violation, ...]:
        """One violation per defect, at its first place; the other places are in its message."""
        return tuple(_warning(rule, findings) for rule, findings in self.tolerated.items())


def _warning(rule: str, findings: list[tuple[str, str]]) -> Violation:
    message, where = findings[0]
    others = [place for place in dict.fromkeys(place for _, place in findings) if place != where]
    also = f" (also {', '.join(others[:_PLACES_MAX])})" if others else ""
    return Violation(rule, message + also, where, TOLERANCES[rule], Severity.WARNING)


def read_form(data: bytes, *, adt: bool = False) -> Draft:
    """A message whose form is right. Raises `MessageRefused` at the first step that fails."""
    draft = Draft(data, adt)
    for _, step in STEPS:
        step(draft)
    return draft


def peek_header(data: bytes) -> MessageHeader:
    """What can be known of MSH, for an answer that depends on nothing else; never raises."""
    try:
        return MessageHeader.of(first_segment(data))
    except Unreadable:
        return MessageHeader.unknown()


def _open(draft: Draft) -> None:
    try:
        layout = split_message(draft.data)
    except Unreadable as error:
        draft.header = peek_header(draft.data)
        raise draft.refuse(100, "", str(error)) from error
    draft.segments = layout.segments
    draft.header = MessageHeader.of(draft.segments[0])
    if not layout.ended_by_cr:
        draft.warn("terminator", "segments are ended by CR alone, not by LF, CRLF or empty lines", "")
    if not layout.begins_at_msh:
        draft.warn("before-msh", "blanks or a byte order mark stand before MSH", "")


@dataclass(frozen=True, slots=True)
class _HeaderRule:
    """A row of 1.8 on MSH: where, the code of table 0357, whether the header breaks it, what to say."""

    location: str
    error: int
    broken: Callable[[MessageHeader], bool]
    reason: str


def _version_unknown(header: MessageHeader) -> bool:
    return (header.message_code, header.version) not in {(t.code, t.version) for t in MESSAGE_TYPES}


_HEADER_RULES = (
    _HeaderRule("MSH^1^11", 202, lambda h: h.processing_id not in PROCESSING_IDS, "MSH-11 is P, T or D"),
    _HeaderRule(
        "MSH^1^12", 203, _version_unknown, "the version is 2.5 for ORU and ADT, 2.6 for MDM, 2.5.1 for OMI"
    ),
)


def _check_header(draft: Draft) -> None:
    header = draft.header
    route(header, adt=draft.adt)
    for rule in _HEADER_RULES:
        if rule.broken(header):
            raise draft.refuse(rule.error, rule.location, rule.reason)
    kind = draft.kind
    if header.structure != kind.structure:
        draft.warn("structure", f"MSH-9.3 is not {kind.structure}", "MSH^1^9")
    if kind.profile not in header.profile:
        draft.warn("profile", f"MSH-21 does not name {kind.profile}", "MSH^1^21")
    elif (
        kind.profile
        and f"{kind.profile_version}{header.delimiters.component}{kind.profile}" not in header.profile
    ):
        expected = f"{kind.profile} in its version {kind.profile_version}"
        draft.warn("profile-version", f"MSH-21 names another version than {expected}", "MSH^1^21")


def _check_characters(draft: Draft) -> None:
    """UTF-8 first, then what MSH-18 declares (hl7-mss 1.10)."""
    declared = CHARACTER_SETS.get(draft.header.character_set.upper())
    if declared is None:
        raise draft.refuse(103, "MSH^1^18", "the character set is not one of UNICODE UTF-8, 8859/1, 8859/15")
    odd = [f for s in draft.segments for f in s.fields if not f.isascii()]
    encoding = "utf-8" if all(map(_is_utf8, odd)) else declared
    if not all(_decodes(f, encoding) for f in odd):
        raise draft.refuse(102, "MSH^1^18", "the bytes are not text of the declared character set")
    if odd and encoding != declared:
        draft.warn("character-set", "the text is UTF-8, MSH-18 says otherwise", "MSH^1^18")
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


def _check_segments(draft: Draft) -> None:
    kind = draft.kind
    names = [s.name for s in draft.segments if s.name in kind.known]
    missing = [name for name in kind.present if name not in names]
    if missing:
        hint = "" if "profile-version" not in draft.tolerated else f"; send profile {PROFILE_VERSION}"
        raise draft.refuse(100, missing[0], f"segments missing: {', '.join(missing)}{hint}")
    if not kind.segments.fullmatch("".join(f"{name} " for name in names)):
        raise draft.refuse(100, "", f"the segments are not in the order of {kind.structure}")


def _check_fields(draft: Draft) -> None:
    kind = draft.kind
    missing: list[tuple[Segment, int]] = []
    for name, number in kind.required:
        segment = draft.first(name)
        if segment and not segment.component(number):
            missing.append((segment, number))
    for name, number in kind.required_in_each:
        missing += [(segment, number) for segment in draft.all(name) if not segment.component(number)]
    if kind.carries_document:
        documents = document_segments(draft.segments)
        missing += [(s, number) for s in documents for number in (3, 5, 11) if not s.raw(number).strip()]
        if not documents and not missing:
            raise draft.refuse(101, "OBX^1^5", "no document: no OBX of type ED")
    if missing:
        names = ", ".join(segment.label(number) for segment, number in missing)
        raise draft.refuse(101, missing[0][0].place(missing[0][1]), f"required fields missing: {names}")


# The first rows of `hl7v2_grammar.DECISIONS`, in their order
STEPS: tuple[tuple[str, Callable[[Draft], None]], ...] = (
    ("readable", _open),
    ("header", _check_header),
    ("characters", _check_characters),
    ("segments", _check_segments),
    ("fields", _check_fields),
)
