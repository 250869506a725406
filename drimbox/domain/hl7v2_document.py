"""The CDA inside a message: which OBX, and its base64 (hl7-mss 1.2, 1.10; drim-m-data 7.3)."""

from __future__ import annotations

import binascii
from collections.abc import Sequence
from dataclasses import dataclass

from drimbox.domain.acknowledge import MessageHeader, MessageRefused
from drimbox.domain.cda_document import DocumentKind, NotADocument, identify
from drimbox.domain.hl7v2_grammar import FLAG_SYSTEM, NOT_FLAGS
from drimbox.domain.hl7v2_syntax import Delimiters, Segment
from drimbox.domain.imaging_codes import IMAGING_REPORT, LOINC

_DOCUMENT_FIELD = 5
_BLANKS = b" \t\r\n"
_LINE_ENDS = ("X0D0A", "X0D", "X0A", ".br")  # escapes that stand for a line end


@dataclass(frozen=True, slots=True)
class Document:
    """The document of a message. `more`: other CDA follow that are left aside."""

    content: bytes
    location: str
    more: bool


def document_segments(segments: Sequence[Segment]) -> list[Segment]:
    """The OBX of type ED that are not mail bodies, in order."""
    return [s for s in segments if s.name == "OBX" and s.component(2).upper() == "ED" and not _is_mail(s)]


def _is_mail(segment: Segment) -> bool:
    return segment.component(3) in NOT_FLAGS or segment.component(3, 3) == FLAG_SYSTEM


def pick_document(segments: Sequence[Segment], header: MessageHeader) -> Document:
    """The first CDA that is an imaging report, else the first CDA (whose reader will say what it is).

    Raises `MessageRefused` AE 102 with the fault of the first candidate when none is a CDA.
    """
    faults: list[MessageRefused] = []
    found: list[tuple[DocumentKind, bytes, str]] = []
    for segment in document_segments(segments):
        place = segment.place(_DOCUMENT_FIELD)
        try:
            content = payload(segment)
            kind = identify(content)
        except (NotBase64, NotADocument) as fault:
            faults.append(MessageRefused("AE", 102, place, f"OBX-5: {fault}", header, code=fault.rule))
            continue
        if kind.is_cda:
            found.append((kind, content, place))
        else:
            reason = "OBX-5: the root element is not ClinicalDocument"
            faults.append(MessageRefused("AE", 102, place, reason, header, code="cda-root"))
    if not found:
        raise faults[0]
    imaging = [f for f in found if (f[0].code, f[0].code_system) == (IMAGING_REPORT, LOINC)]
    _, content, place = (imaging or found)[0]
    return Document(content, place, more=len(imaging) > 1)


class NotBase64(ValueError):
    """OBX-5 is not base64 even when read with tolerance."""

    rule = "obx-5-not-base64"


def payload(segment: Segment) -> bytes:
    """OBX-5.5 decoded: white space, escaped line ends and missing padding tolerated, nothing else.

    Raises `NotBase64`.
    """
    marks = segment.delimiters
    parts = segment.raw(_DOCUMENT_FIELD).split(marks.component.encode("ascii"), 5)
    if len(parts) < 5:
        raise NotBase64("no data in its fifth component")
    if parts[3].strip().upper() not in {b"BASE64", b""}:
        raise NotBase64("its encoding is not Base64")
    text = _compact(parts[4], marks)
    try:
        return binascii.a2b_base64(text if len(text) % 4 == 0 else _padded(text), strict_mode=True)
    except binascii.Error:
        raise NotBase64("not base64") from None


def _padded(text: bytes) -> bytes:
    return text + b"=" * (-len(text) % 4)


def _compact(text: bytes, marks: Delimiters) -> bytes:
    escape = marks.escape.encode("ascii")
    if escape in text:
        for name in _LINE_ENDS:
            text = text.replace(escape + name.encode("ascii") + escape, b"")
    return text.translate(None, _BLANKS)
