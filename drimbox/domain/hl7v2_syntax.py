"""HL7v2 encoding rules: delimiters of MSH-1/2, segments, fields, escapes (hl7-mss 1.10). Bytes in, text out.

Segments stay bytes until a field is asked for: a report is one field of megabytes that is base64, not text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_SEGMENTS = 5_000  # the largest real message has some forty
MAX_FIELDS = 80
MAX_REPETITIONS = 100
MAX_COMPONENTS = 40
_BOM = b"\xef\xbb\xbf"


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
        """Field `number` decoded, delimiters and escapes as written."""
        return self.raw(number).decode(self.encoding, "replace").strip()

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
        """Component `number` (from 1), blanks trimmed, escapes resolved; empty when absent."""
        parts = self.content.split(self.delimiters.component, MAX_COMPONENTS)
        return self.delimiters.reveal(parts[number - 1]).strip() if number <= len(parts) else ""

    def authority(self, number: int) -> tuple[str, str]:
        """An HD component as (namespace, OID); a bare OID in its first part is the OID (hl7-mss 1.4)."""
        parts = self.content.split(self.delimiters.component, MAX_COMPONENTS)
        names = parts[number - 1].split(self.delimiters.subcomponent) if number <= len(parts) else []
        namespace, oid = (*(n.strip() for n in names), "", "")[:2]
        if not oid and namespace[:1].isdigit() and "." in namespace:
            return "", namespace
        return namespace, oid


def read_delimiters(data: bytes) -> Delimiters:
    """MSH-1 and MSH-2 of a message. Raises `Unreadable`."""
    if data[:3] != b"MSH":
        raise Unreadable("the message does not start with MSH")
    marks = data[3:8].decode("ascii", "replace")
    if len(set(marks)) != 5 or any(c.isalnum() or not c.isprintable() or c in " \ufffd" for c in marks):
        raise Unreadable("the delimiters of MSH-1 and MSH-2 are not readable")
    return Delimiters(*marks)


def split_message(data: bytes) -> tuple[Segment, ...]:
    """Segments of a message ended by CR; LF and CRLF are tolerated, and so are line ends inside a field.

    A line that does not begin like a segment continues the one before it: base64 that was wrapped.
    Raises `Unreadable`.
    """
    data = data.lstrip(b"\r\n\t ").removeprefix(_BOM)
    delimiters = read_delimiters(data)
    separator = delimiters.field.encode("ascii")
    boundary = rb"[\r\n](?=[A-Z][A-Z0-9]{2}" + re.escape(separator) + rb")"
    # One character and no repetition: a wall of line ends must not make the search quadratic.
    lines = re.split(boundary, data, maxsplit=MAX_SEGMENTS)
    if len(lines) > MAX_SEGMENTS:
        raise Unreadable(f"over {MAX_SEGMENTS} segments")
    counts: dict[str, int] = {}
    segments = []
    for line in lines:
        name = line[:3].decode("ascii")
        counts[name] = counts.get(name, 0) + 1
        fields = tuple(line.rstrip(b"\r\n").split(separator, MAX_FIELDS))
        segments.append(Segment(name, counts[name], fields, delimiters))
    return tuple(segments)
