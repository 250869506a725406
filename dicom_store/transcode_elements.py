"""A data set in Explicit VR Little Endian as spans of bytes: cut at its elements, some replaced, the rest untouched.

What is not replaced leaves exactly as it came: private elements, UN, values that break their VR.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

UNDEFINED_LENGTH = 0xFFFFFFFF
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
LONG_VR = frozenset(
    (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
)
_MAX_DEPTH = 64
_MAX_ELEMENTS = 5_000_000  # walked in one data set, nested ones included
_HEAD = struct.Struct("<HHI")
_EXPLICIT = struct.Struct("<HH2sH")


Piece = bytes | memoryview


class Unreadable(ValueError):
    """The bytes are not a data set in the encoding announced."""


@dataclass(frozen=True, slots=True)
class Element:
    """One element. `raw`: all its bytes; `value`: those behind the header, with the delimiter if `undefined`."""

    tag: int
    vr: bytes
    raw: memoryview
    value: memoryview
    undefined: bool


Edits = dict[int, list[Piece]]  # tag: the whole element that takes its place, [] = none


class Walker:
    """Finds where elements end, in explicit or implicit VR little endian. Raises `Unreadable`."""

    def __init__(self, data: memoryview) -> None:
        self.data = data
        self.end = len(data)
        self._count = 0

    def tag_and_length(self, position: int) -> tuple[int, int]:
        """Tag and 32-bit length at `position`: an item, a delimiter, or an element of implicit VR."""
        if position + 8 > self.end:
            raise Unreadable("the data set ends inside an element")
        self._count += 1
        if self._count > _MAX_ELEMENTS:
            raise Unreadable("more elements than an image has")
        group, element, length = _HEAD.unpack_from(self.data, position)
        return group << 16 | element, length

    def explicit(self, position: int) -> tuple[int, bytes, int, int]:
        """Tag, VR, length and start of the value of the element at `position`."""
        tag, length = self.tag_and_length(position)
        if tag >> 16 == 0xFFFE:
            return tag, b"", length, position + 8
        _, _, vr, short = _EXPLICIT.unpack_from(self.data, position)
        if not (vr.isalpha() and vr.isupper()):
            raise Unreadable("no VR where there must be one")
        if vr not in LONG_VR:
            return tag, vr, short, position + 8
        if position + 12 > self.end:
            raise Unreadable("the data set ends inside an element")
        return tag, vr, int(struct.unpack_from("<I", self.data, position + 8)[0]), position + 12

    def after(self, start: int, length: int, *, implicit: bool, depth: int = 0) -> int:
        """Position behind a value that starts at `start`; of undefined length: behind its delimiter."""
        if length != UNDEFINED_LENGTH:
            if start + length > self.end:
                raise Unreadable("a value is longer than the data set")
            return start + length
        if depth > _MAX_DEPTH:
            raise Unreadable("sequences nested too deep")
        position = start
        while True:
            tag, size = self.tag_and_length(position)
            position += 8
            if tag == SEQUENCE_END:
                return position
            if tag != ITEM:
                raise Unreadable("neither an item nor the end of the sequence")
            if size == UNDEFINED_LENGTH:
                position = self.after_item(position, implicit=implicit, depth=depth + 1)
            else:
                position = self.after(position, size, implicit=implicit)

    def after_item(self, position: int, *, implicit: bool, depth: int) -> int:
        """Position behind the delimiter of an item of undefined length whose first element is at `position`."""
        while True:
            if implicit:
                (tag, length), start, inner = self.tag_and_length(position), position + 8, True
            else:
                tag, vr, length, start = self.explicit(position)
                inner = vr == b"UN"  # PS3.5 6.2.2: UN of undefined length holds implicit VR
            if tag == ITEM_END:
                return start
            position = self.after(start, length, implicit=inner, depth=depth + 1)


def split(data: memoryview) -> Iterator[Element]:
    """The elements of a data set, top level. Raises `Unreadable`."""
    walker, position = Walker(data), 0
    while position < walker.end:
        tag, vr, length, start = walker.explicit(position)
        if not vr:
            raise Unreadable("a delimiter outside of a sequence")
        after = walker.after(start, length, implicit=vr == b"UN")
        undefined = length == UNDEFINED_LENGTH
        yield Element(tag, vr, data[position:after], data[start:after], undefined)
        position = after


def items(sequence: Element) -> Iterator[memoryview]:
    """The content of each item of a sequence. Raises `Unreadable`."""
    walker, position = Walker(sequence.value), 0
    while position < walker.end:
        tag, length = walker.tag_and_length(position)
        start = position + 8
        if tag == SEQUENCE_END:
            return
        if tag != ITEM:
            raise Unreadable("neither an item nor the end of the sequence")
        if length == UNDEFINED_LENGTH:
            position = walker.after_item(start, implicit=False, depth=0)
            yield sequence.value[start : position - 8]
        else:
            position = walker.after(start, length, implicit=False)
            yield sequence.value[start:position]


def head(tag: int, vr: bytes, length: int) -> bytes:
    """Header of an element in Explicit VR Little Endian."""
    if vr in LONG_VR:
        return struct.pack("<HH2sHI", tag >> 16, tag & 0xFFFF, vr, 0, length)
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr, length)


def element(tag: int, vr: bytes, value: bytes) -> bytes:
    """One whole element; an odd value is padded (PS3.5 6.2)."""
    if len(value) % 2:
        value += b"\0" if vr in (b"UI", b"OB") else b" "
    return head(tag, vr, len(value)) + value


def spliced(elements: list[Element], edits: Edits) -> Iterator[Piece]:
    """The data set with the elements of `edits` put in place, in the order of tags; an empty list removes one.

    Group lengths (retired, PS3.5 7.2) are left out: they would be wrong.
    """
    waiting = sorted(edits)
    for old in elements:
        while waiting and waiting[0] <= old.tag:
            yield from edits[waiting.pop(0)]
        if old.tag not in edits and old.tag & 0xFFFF:
            yield old.raw
    for tag in waiting:
        yield from edits[tag]
