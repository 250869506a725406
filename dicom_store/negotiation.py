"""Accept header → ranked media ranges → the transfer syntax to send (PS3.18 8.7; drim-m-data 3.3).

The three forms in use are read: one comma list with a trailing comma, repeated lines, and elements without a
media type. Parameters may follow `q`; `boundary` is a hint that no server heeds. Sending another transfer
syntax than the stored one only needs `Acceptable.ranges`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from dicom_store.paths import InvalidUID, check_uid

DEFAULT_TRANSFER_SYNTAX = (
    "1.2.840.10008.1.2.1"  # PS3.18 8.7.3.5.2: Explicit VR Little Endian when none is named
)
AS_STORED = "*"

_QUALITY = re.compile(r"0?\.\d+|0\.?|1(?:\.0*)?")
_DICOM = "application/dicom"


class Form(Enum):
    """How instances are put in an answer."""

    MULTIPART = 'multipart/related; type="application/dicom"'
    SINGLE = "application/dicom"


@dataclass(frozen=True, slots=True)
class MediaRange:
    """One representation. `transfer_syntax`: a UID, or `AS_STORED`; `quality`: 0..1, 0 = refused."""

    form: Form
    transfer_syntax: str
    quality: float

    def covers(self, form: Form, transfer_syntax: str) -> bool:
        """Whether this range speaks of that representation."""
        return self.form is form and self.transfer_syntax in (transfer_syntax, AS_STORED)


@dataclass(frozen=True, slots=True)
class Acceptable:
    """What a client accepts: `ranges` by falling quality, then in the order written; quality 0 comes last."""

    ranges: tuple[MediaRange, ...]

    def choose(self, stored_transfer_syntax: str, form: Form = Form.MULTIPART) -> str | None:
        """Transfer syntax in which to send an instance: the stored one, or None = not acceptable so."""
        quality = self.quality(stored_transfer_syntax, form)
        return stored_transfer_syntax if quality > 0 else None

    def choose_form(self, stored_transfer_syntax: str) -> Form | None:
        """For one instance alone: the form preferred, None = not acceptable in any."""
        for media_range in self.ranges:
            covered = media_range.covers(media_range.form, stored_transfer_syntax)
            if covered and self.quality(stored_transfer_syntax, media_range.form) > 0:
                return media_range.form
        return None

    def quality(self, transfer_syntax: str, form: Form) -> float:
        """Quality of a representation, 0 = refused; a range that names the transfer syntax outranks `*`."""
        covering = [r for r in self.ranges if r.covers(form, transfer_syntax)]
        named = [r for r in covering if r.transfer_syntax != AS_STORED]
        return max((r.quality for r in named or covering), default=0.0)


def parse_accept(lines: Sequence[str]) -> Acceptable:
    """Read the Accept header lines of a request. No line, or only empty ones, is read as `*/*`.

    Elements that are malformed or of other media types are left out: nothing left = nothing acceptable.
    """
    elements = [element for line in lines for element in _split(line, ",") if element]
    ranges = [media_range for element in elements or ["*/*"] for media_range in _ranges(element)]
    return Acceptable(tuple(sorted(ranges, key=lambda r: -r.quality)))


def _ranges(element: str) -> Iterator[MediaRange]:
    media_type, *rest = _split(element, ";")
    if "=" in media_type:  # form C: only parameters, as the ANS validator accepts
        media_type, rest = "multipart/related", [media_type, *rest]
    parameters = dict(_parameter(text) for text in rest if text)
    quality = parameters.get("q", "1")
    if not _QUALITY.fullmatch(quality):
        return
    for form, default in _forms(media_type.lower(), parameters.get("type", "").lower()):
        syntax = parameters.get("transfer-syntax", default)
        if syntax == AS_STORED or _is_uid(syntax):
            yield MediaRange(form, syntax, float(quality))


def _forms(media_type: str, root_type: str) -> Sequence[tuple[Form, str]]:
    """Forms that a media range speaks of, each with the transfer syntax meant when none is named."""
    if media_type == "multipart/related" and root_type in ("", "*/*", "application/*", _DICOM):
        return [(Form.MULTIPART, DEFAULT_TRANSFER_SYNTAX)]
    if media_type == _DICOM:
        return [(Form.SINGLE, DEFAULT_TRANSFER_SYNTAX)]
    if media_type == "application/*":
        return [(Form.SINGLE, AS_STORED), (Form.MULTIPART, AS_STORED)]
    if media_type in ("*/*", "*", "multipart/*"):
        return [(Form.MULTIPART, AS_STORED)]
    return []


def _parameter(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    value = value.strip()
    if len(value) >= 2 and value[0] == value[-1] == '"':
        value = re.sub(r"\\(.)", r"\1", value[1:-1])
    return name.strip().lower(), value.strip()


def _split(text: str, separator: str) -> list[str]:
    """Split outside quoted strings, in one pass; pieces are stripped, empty ones kept."""
    pieces, quoted = [""], False
    for run in re.findall(rf'[^"{separator}]+|.', text, re.DOTALL):
        quoted ^= run == '"'
        if run == separator and not quoted:
            pieces.append("")
        else:
            pieces[-1] += run
    return [piece.strip() for piece in pieces]


def _is_uid(text: str) -> bool:
    try:
        return bool(check_uid(text))
    except InvalidUID:
        return False
