"""HL7v2 encoding rules: delimiters of MSH-1/2, segments, fields, escapes (hl7-mss 1.10). Bytes in, text out.

Segments stay bytes until a field is asked for: a report is one field of megabytes that is base64, not text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, pairwise

MAX_SEGMENTS = 5_000  # the largest real message has some forty
MAX_FIELDS = 80
HEAD_BYTES = 65_536  # a real MSH has some two hundred
MAX_REPETITIONS = 100
MAX_COMPONENTS = 40
MAX_CHARACTERS = 65_536  # of a component that is text: no identifier, name or code comes near
_BOM = b"\xef\xbb\xbf"
_LINE_ENDS = (b"\r", b"\n")


class Unreadable(ValueError):
    """The bytes are no HL7v2 message: no MSH, delimiters that cannot be, or too many segments."""


@dataclass(frozen=True, slots=True)
class Delimiters:
    """MSH-1 and the first four characters of MSH-2, all ASCII, all different, none alphanumeric."""

    field: str = "|"
    component: str = "^"
    repetition: str = "~"
    escape: str = "\\"
    subcomponent: str = "&"

    @property
    def encoding_characters(self) -> str:
        """MSH-2."""
        return self.component + self.repetition + self.escape + self.subcomponent

    def protect(self, text: str) -> str:
        """Text that may hold delimiters or line ends, as one component."""
        table = {
            self.escape: "E",
            self.field: "F",
            self.component: "S",
            self.repetition: "R",
            self.subcomponent: "T",
        }
        plain = "".join(c if c.isprintable() else " " for c in text)
        return "".join(f"{self.escape}{table[c]}{self.escape}" if c in table else c for c in plain)

    def reveal(self, text: str) -> str:
        r"""The text behind `\F\ \S\ \T\ \R\ \E\ \.br\ \Xhh\`; an unknown escape stays as written."""
        if self.escape not in text:
            return text
        mark = re.escape(self.escape)
        return re.sub(rf"{mark}(F|S|T|R|E|\.br|X(?:[0-9A-Fa-f]{{2}})+){mark}", self._meaning, text)

    def _meaning(self, match: re.Match[str]) -> str:
        name = match[1]
        if name.startswith("X"):
            return bytes.fromhex(name[1:]).decode("utf-8", "replace")
        single = {
            "F": self.field,
            "S": self.component,
            "T": self.subcomponent,
            "R": self.repetition,
            "E": self.escape,
        }
        return single.get(name, "\n")


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment; `fields[0]` is its name. `occurrence` counts from 1 among segments of that name."""

    name: str
    occurrence: int
    fields: tuple[bytes, ...]
    delimiters: Delimiters
    encoding: str = "utf-8"

    def raw(self, number: int) -> bytes:
        """Field `number` as received; empty when absent. MSH-1 is the separator: MSH counts from it."""
        if self.name == "MSH":
            number -= 1
        return self.fields[number] if 0 < number < len(self.fields) else b""

    def text(self, number: int) -> str:
        """Field `number` decoded, delimiters and escapes as written; NUL, which pads fields, is a blank."""
        return self.raw(number).decode(self.encoding, "replace").replace("\0", " ").strip()

    def repetitions(self, number: int) -> tuple[Field, ...]:
        """The repetitions of a field that are not empty."""
        parts = self.text(number).split(self.delimiters.repetition, MAX_REPETITIONS)
        return tuple(Field(part, self.delimiters) for part in parts if part.strip())

    def component(self, number: int, component: int = 1) -> str:
        """A component of the first repetition, escapes resolved; empty when absent."""
        found = self.repetitions(number)
        return found[0].component(component) if found else ""

    def place(self, number: int) -> str:
        """ERR-2 of a field: `SEG^occurrence^field` (hl7-mss 1.8)."""
        return f"{self.name}^{self.occurrence}^{number}"

    def label(self, number: int) -> str:
        """The same for people: `PID-3`, or `OBX(2)-5` for another occurrence than the first."""
        name = self.name if self.occurrence == 1 else f"{self.name}({self.occurrence})"
        return f"{name}-{number}"


@dataclass(frozen=True, slots=True)
class Field:
    """One repetition of a field."""

    content: str
    delimiters: Delimiters

    def component(self, number: int) -> str:
        """Component `number` (from 1), blanks trimmed, escapes resolved; empty when absent.

        Of a longer one, the first `MAX_CHARACTERS`.
        """
        parts = self.content.split(self.delimiters.component, MAX_COMPONENTS)
        if number > len(parts):
            return ""
        return self.delimiters.reveal(parts[number - 1][:MAX_CHARACTERS]).replace("\0", " ").strip()

    def authority(self, number: int) -> tuple[str, str]:
        """An HD component as (namespace, OID); a bare OID in its first part is the OID (hl7-mss 1.4)."""
        namespace, oid = self.written_authority(number)
        if not oid and namespace[:1].isdigit() and "." in namespace:
            return "", namespace
        return namespace, oid

    def written_authority(self, number: int) -> tuple[str, str]:
        """The first two parts of an HD component where they were written, blanks around them trimmed."""
        parts = self.content.split(self.delimiters.component, MAX_COMPONENTS)
        names = parts[number - 1].split(self.delimiters.subcomponent, 2) if number <= len(parts) else []
        namespace, oid = (*(n.strip() for n in names), "", "")[:2]
        return namespace, oid


@dataclass(frozen=True, slots=True)
class Layout:
    """A message cut into segments, and how it was written.

    `ended_by_cr`: one CR and nothing else after each segment; `begins_at_msh`: no blank or byte order mark before.
    """

    segments: tuple[Segment, ...]
    ended_by_cr: bool
    begins_at_msh: bool


def read_delimiters(data: bytes) -> Delimiters:
    """MSH-1 and MSH-2 of a message. Raises `Unreadable`."""
    if data[:3] != b"MSH":
        raise Unreadable("the message does not start with MSH")
    marks = data[3:8].decode("ascii", "replace")
    if len(set(marks)) != 5 or any(c.isalnum() or not c.isprintable() or c in " \ufffd" for c in marks):
        raise Unreadable("the delimiters of MSH-1 and MSH-2 are not readable")
    return Delimiters(*marks)


def split_message(data: bytes) -> Layout:
    """Segments of a message ended by CR; LF and CRLF are tolerated, and so are line ends inside a field.

    A line that does not begin like a segment continues the one before it: base64 that was wrapped.
    Raises `Unreadable`.
    """
    content = _content(data)
    delimiters = read_delimiters(content)
    ends = _boundaries(content, delimiters.field.encode("ascii"))
    segments = tuple(_segments(content, ends, delimiters))
    plain = not content.endswith((b"\n", b"\r\r")) and all(_is_plain(content, end) for end in ends)
    return Layout(segments, plain, len(content) == len(data))


def first_segment(data: bytes) -> Segment:
    """MSH alone, from the first `HEAD_BYTES` of a message. Raises `Unreadable`."""
    content = _content(data[:HEAD_BYTES])
    delimiters = read_delimiters(content)
    separator = delimiters.field.encode("ascii")
    found = (re.search(boundary, content) for boundary in _before_a_segment(separator))
    end = min((match.start() for match in found if match), default=len(content))
    return Segment("MSH", 1, _fields(content, 0, end, separator), delimiters)


def _content(data: bytes) -> bytes:
    return data.lstrip(b"\r\n\t ").removeprefix(_BOM)


def _before_a_segment(separator: bytes) -> list[bytes]:
    # A literal first, no repetition: the search runs over megabytes of base64, or a wall of line ends, at once.
    return [end + rb"(?=[A-Z][A-Z0-9]{2}" + re.escape(separator) + rb")" for end in _LINE_ENDS]


def _boundaries(data: bytes, separator: bytes) -> list[int]:
    """Where the line ends stand that come right before a segment."""
    found: list[int] = []
    for end, boundary in zip(_LINE_ENDS, _before_a_segment(separator), strict=True):
        if end in data:
            found += (match.start() for match in islice(re.finditer(boundary, data), MAX_SEGMENTS))
    if len(found) >= MAX_SEGMENTS:
        raise Unreadable(f"over {MAX_SEGMENTS} segments")
    return sorted(found)


def _segments(data: bytes, ends: list[int], delimiters: Delimiters) -> Iterator[Segment]:
    separator = delimiters.field.encode("ascii")
    counts: dict[str, int] = {}
    for before, end in pairwise((-1, *ends, len(data))):
        fields = _fields(data, before + 1, end, separator)
        name = fields[0][:3].decode("ascii")
        counts[name] = counts.get(name, 0) + 1
        yield Segment(name, counts[name], fields, delimiters)


def _fields(data: bytes, start: int, end: int, separator: bytes) -> tuple[bytes, ...]:
    """The fields of one line, each copied once: one of them may be megabytes long."""
    fields: list[bytes] = []
    while len(fields) < MAX_FIELDS and (cut := data.find(separator, start, end)) >= 0:
        fields.append(data[start:cut])
        start = cut + 1
    fields.append(data[start:end].rstrip(b"\r\n"))
    return tuple(fields)


def _is_plain(data: bytes, end: int) -> bool:
    return data[end : end + 1] == b"\r" and data[end - 1 : end] not in _LINE_ENDS
