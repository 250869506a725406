"""The CDA inside a message: which OBX, and its base64 (hl7-mss 1.2, 1.10; drim-m-data 7.3)."""

from __future__ import annotations

import binascii
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from drimbox.domain.acknowledge import MessageHeader, MessageRefused
from drimbox.domain.cda_document import NotADocument, identify
from drimbox.domain.hl7v2_fields import Warn
from drimbox.domain.hl7v2_grammar import FLAG_SYSTEM, NOT_FLAGS
from drimbox.domain.hl7v2_syntax import Delimiters, Segment
from drimbox.domain.imaging_codes import IMAGING_REPORT, LOINC

_DOCUMENT_FIELD = 5
_BLANKS = b" \t\r\n"
_LINE_ENDS = ("X0D0A", "X0D", "X0A", ".br")  # escapes that stand for a line end


@dataclass(frozen=True, slots=True)
class Document:
    """A CDA of a message. `code`, `code_system`: its ClinicalDocument/code; `tolerated`: slugs of its base64."""

    content: bytes
    segment: Segment
    code: str
    code_system: str
    tolerated: tuple[str, ...]

    @property
    def is_report(self) -> bool:
        """True when it says that it is an imaging report."""
        return (self.code, self.code_system) == (IMAGING_REPORT, LOINC)


def document_segments(segments: Sequence[Segment]) -> list[Segment]:
    """The OBX of type ED that are not mail bodies, in order."""
    return [s for s in segments if s.name == "OBX" and s.component(2).upper() == "ED" and not _is_mail(s)]


def _is_mail(segment: Segment) -> bool:
    return segment.component(3) in NOT_FLAGS or segment.component(3, 3) == FLAG_SYSTEM


def pick_document(segments: Sequence[Segment], header: MessageHeader, warn: Warn) -> Document:
    """The first CDA that is an imaging report, else the first CDA (whose reader will say what it is).

    `warn` hears of what is left aside, and of how the base64 of the document was written. Raises `MessageRefused`
    AE 102 with the fault of the first candidate when none is a CDA.
    """
    faults: list[MessageRefused] = []
    found: list[Document] = []
    for segment in document_segments(segments):
        try:
            found.append(_open(segment))
        except (NotBase64, NotADocument) as fault:
            place, reason = segment.place(_DOCUMENT_FIELD), f"OBX-5: {fault}"
            faults.append(MessageRefused("AE", 102, place, reason, header, code=fault.rule))
    if not found:
        raise faults[0]
    picked = next((document for document in found if document.is_report), found[0])
    _note(picked, [document for document in found if document is not picked], faults, warn)
    return picked


def _note(picked: Document, aside: Iterable[Document], faults: Iterable[MessageRefused], warn: Warn) -> None:
    for slug in picked.tolerated:
        warn(slug, _TOLERATED[slug], picked.segment.place(_DOCUMENT_FIELD))
    for document in aside:
        slug, what = (
            ("more-documents", "report") if document.is_report else ("attachment-ignored", "document")
        )
        place = document.segment.place(_DOCUMENT_FIELD)
        warn(slug, f"another {what} of this message is left aside", place)
    for fault in faults:
        warn("attachment-ignored", "an attachment that is no CDA is left aside", fault.location)


def _open(segment: Segment) -> Document:
    content, tolerated = payload(segment)
    kind = identify(content)
    if not kind.is_cda:
        raise NotADocument("cda-root", "the root element is not ClinicalDocument")
    return Document(content, segment, kind.code, kind.code_system, tolerated)


class NotBase64(ValueError):
    """OBX-5 is not base64 even when read with tolerance."""

    rule = "obx-5-not-base64"


_TOLERATED = {
    "base64-encoding": "OBX-5.4 does not say Base64",
    "base64-wrapped": "blanks or line ends inside the base64",
    "base64-padding": "the base64 lacks its padding",
}


def payload(segment: Segment) -> tuple[bytes, tuple[str, ...]]:
    """OBX-5.5 decoded, and the slugs of what was tolerated: white space, escaped line ends, missing padding.

    Raises `NotBase64`.
    """
    marks = segment.delimiters
    parts = segment.raw(_DOCUMENT_FIELD).split(marks.component.encode("ascii"), 5)
    if len(parts) < 5:
        raise NotBase64("no data in its fifth component")
    encoding = parts[3].strip().upper()
    if encoding not in {b"BASE64", b""}:
        raise NotBase64("its encoding is not Base64")
    text = _compact(parts[4], marks)
    missing = -len(text) % 4
    try:
        # strict_mode: a character outside the alphabet is a fault, never skipped
        content = binascii.a2b_base64(text + b"=" * missing if missing else text, strict_mode=True)
    except binascii.Error:
        raise NotBase64("not base64") from None
    seen = (not encoding, len(text) != len(parts[4]), bool(missing))
    return content, tuple(slug for slug, found in zip(_TOLERATED, seen, strict=True) if found)


def _compact(text: bytes, marks: Delimiters) -> bytes:
    escape = marks.escape.encode("ascii")
    if escape in text:
        for name in _LINE_ENDS:
            text = text.replace(escape + name.encode("ascii") + escape, b"")
    return text.translate(None, _BLANKS) if any(blank in text for blank in _BLANKS) else text
