"""A data set in any native encoding → Explicit VR Little Endian, element by element, values never interpreted.

Implicit VR gets its VRs from the dictionary (PS3.6); big endian is swapped by the width of the VR (PS3.5 7.3);
a deflated one is inflated, up to a bound.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from functools import lru_cache

from pydicom.datadict import dictionary_VR

from dicom_store.conversions import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
)
from dicom_store.transcode_elements import (
    ITEM,
    ITEM_END,
    LONG_VR,
    SEQUENCE_END,
    UNDEFINED_LENGTH,
    Unreadable,
    Walker,
    head,
)

_MAX_DEPTH = 64
_MAX_ELEMENTS = 5_000_000
_PIXEL_REPRESENTATION, _PIXEL_DATA, _BITS_ALLOCATED = 0x00280103, 0x7FE00010, 0x00280100
# VR: bytes per number, for swapping.
_WIDTHS: Mapping[bytes, int] = {
    **dict.fromkeys((b"AT", b"OW", b"SS", b"US"), 2),
    **dict.fromkeys((b"FL", b"OF", b"OL", b"SL", b"UL"), 4),
    **dict.fromkeys((b"FD", b"OD", b"OV", b"SV", b"UV"), 8),
}
# PS3.6 leaves the VR open; implicit VR: PS3.5 A.1.
_OPEN: Mapping[str, tuple[bytes, bytes]] = {  # unsigned, signed PixelRepresentation
    "US or SS": (b"US", b"SS"),
    "US or SS or OW": (b"OW", b"OW"),
    "US or OW": (b"OW", b"OW"),
    "OB or OW": (b"OW", b"OW"),
}
_SEQUENCE_CLOSE = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
_ITEM_OPEN = struct.pack("<HHI", 0xFFFE, 0xE000, UNDEFINED_LENGTH)
_ITEM_CLOSE = struct.pack("<HHI", 0xFFFE, 0xE00D, 0)


def to_explicit(data_set: memoryview, transfer_syntax: str, limit: int) -> memoryview:
    """The data set in Explicit VR Little Endian; `limit`: bytes that a deflated one may have inflated.

    Raises `Unreadable`; zlib.error for a damaged deflated one.
    """
    if transfer_syntax == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
        return memoryview(_inflated(data_set, limit))
    if transfer_syntax == IMPLICIT_VR_LITTLE_ENDIAN:
        return memoryview(_FromImplicit(data_set).whole())
    if transfer_syntax == EXPLICIT_VR_BIG_ENDIAN:
        return memoryview(_FromBigEndian(data_set).whole())
    return data_set


def _inflated(data_set: memoryview, limit: int) -> bytes:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated = inflater.decompress(data_set, limit + 1)
    if len(inflated) > limit:
        raise Unreadable("larger than allowed when inflated")
    if not inflater.eof:
        raise Unreadable("the deflated data set is cut short")
    return inflated


@lru_cache(maxsize=8192)
def implicit_vr(tag: int, signed: bool) -> bytes:
    """VR of a tag in implicit VR. `signed`: PixelRepresentation; UN for what nobody knows (PS3.5 6.2.2)."""
    group, number = tag >> 16, tag & 0xFFFF
    if group % 2:
        return b"LO" if 0x10 <= number <= 0xFF else b"UN"
    try:
        vr: str = dictionary_VR(tag)
    except KeyError:
        return b"UN"
    return _OPEN[vr][signed] if vr in _OPEN else vr.encode("ascii")


class _Rewriter:
    """Reads one encoding, appends the same elements in Explicit VR Little Endian to `out`."""

    unknown_is_sequence = False  # whether an element of undefined length and unknown VR is rewritten as SQ

    def __init__(self, data: memoryview) -> None:
        self.data = data
        self.end = len(data)
        self.out: list[bytes | memoryview] = []
        self._count = 0

    def whole(self) -> bytes:
        """The data set rewritten."""
        if self.data_set(0, self.end, signed=False, depth=0) != self.end:
            raise Unreadable("a delimiter outside of a sequence")
        return b"".join(self.out)

    def element(self, position: int, signed: bool) -> tuple[int, bytes, int, int]:
        """Tag, VR, length, start of value. Of items and delimiters: VR empty."""
        raise Unreadable("no encoding")

    def value(self, tag: int, vr: bytes, raw: memoryview) -> bytes | memoryview:
        """The value in little endian."""
        return raw

    def number(self, raw: memoryview) -> int:
        """A US value."""
        return int.from_bytes(raw[:2], "little")

    def data_set(self, position: int, end: int, *, signed: bool, depth: int) -> int:
        """Rewrite elements up to `end`, or to the delimiter of their item; the position behind them."""
        while position < end:
            tag, vr, length, start = self._next(position, signed)
            if tag == ITEM_END:
                return start
            if not vr:
                raise Unreadable("a delimiter where an element must be")
            if length == UNDEFINED_LENGTH or vr == b"SQ":
                position = self._sequence(tag, vr, length, start, signed=signed, depth=depth)
                continue
            position = start + length
            if position > end:
                raise Unreadable("a value is longer than its data set")
            raw = self.data[start:position]
            if tag == _PIXEL_REPRESENTATION:
                signed = self.number(raw) == 1
            self._write(tag, vr, raw)
        return position

    def _next(self, position: int, signed: bool) -> tuple[int, bytes, int, int]:
        self._count += 1
        if position + 8 > self.end or self._count > _MAX_ELEMENTS:
            raise Unreadable("the data set ends inside an element, or never ends")
        return self.element(position, signed)

    def _write(self, tag: int, vr: bytes, raw: memoryview) -> None:
        if tag & 0xFFFF == 0:
            return  # group lengths are retired, and would be wrong
        if vr not in LONG_VR and len(raw) > 0xFFFF:
            vr = b"UN"  # PS3.5 6.2.2 note: too long for the VR it has
        value = self.value(tag, vr, raw)
        self.out += (head(tag, vr, len(value)), value)

    def _sequence(self, tag: int, vr: bytes, length: int, start: int, *, signed: bool, depth: int) -> int:
        if depth > _MAX_DEPTH:
            raise Unreadable("sequences nested too deep")
        if tag == _PIXEL_DATA:
            raise Unreadable("encapsulated pixel data in a native transfer syntax")
        if vr == b"UN" and not self.unknown_is_sequence:
            return self._unknown_sequence(tag, start)
        self.out.append(head(tag, b"SQ", UNDEFINED_LENGTH))
        end = self.end if length == UNDEFINED_LENGTH else start + length
        if end > self.end:
            raise Unreadable("a sequence is longer than the data set")
        position = self._items(start, end, signed=signed, depth=depth)
        self.out.append(_SEQUENCE_CLOSE)
        return position

    def _items(self, position: int, end: int, *, signed: bool, depth: int) -> int:
        while position < end:
            tag, _, length, start = self._next(position, signed)
            if tag == SEQUENCE_END:
                return start
            if tag != ITEM:
                raise Unreadable("neither an item nor the end of the sequence")
            item_end = end if length == UNDEFINED_LENGTH else start + length
            if item_end > end:
                raise Unreadable("an item is longer than its sequence")
            self.out.append(_ITEM_OPEN)
            position = self.data_set(start, item_end, signed=signed, depth=depth + 1)
            self.out.append(_ITEM_CLOSE)
        return position

    def _unknown_sequence(self, tag: int, start: int) -> int:
        """UN of undefined length is implicit VR little endian in every syntax (PS3.5 6.2.2): kept as it is."""
        after = Walker(self.data).after(start, UNDEFINED_LENGTH, implicit=True)
        self.out += (head(tag, b"UN", UNDEFINED_LENGTH), self.data[start:after])
        return after


class _FromImplicit(_Rewriter):
    unknown_is_sequence = True

    def element(self, position: int, signed: bool) -> tuple[int, bytes, int, int]:
        group, number, length = struct.unpack_from("<HHI", self.data, position)
        tag = group << 16 | number
        return tag, b"" if group == 0xFFFE else implicit_vr(tag, signed), length, position + 8


class _FromBigEndian(_Rewriter):
    def element(self, position: int, signed: bool) -> tuple[int, bytes, int, int]:
        group, number, length = struct.unpack_from(">HHI", self.data, position)
        tag = group << 16 | number
        if group == 0xFFFE:
            return tag, b"", length, position + 8
        vr, short = struct.unpack_from(">2sH", self.data, position + 4)
        if not (vr.isalpha() and vr.isupper()):
            raise Unreadable("no VR where there must be one")
        if vr not in LONG_VR:
            return tag, vr, short, position + 8
        return tag, vr, struct.unpack_from(">I", self.data, position + 8)[0], position + 12

    def number(self, raw: memoryview) -> int:
        return int.from_bytes(raw[:2], "big")

    def value(self, tag: int, vr: bytes, raw: memoryview) -> bytes | memoryview:
        if tag == _BITS_ALLOCATED and self.number(raw) > 16:
            # 16-bit words swapped (PS3.5 7.3), or whole pixel cells: writers differ, nobody can tell
            raise Unreadable("pixel cells of more than 16 bits in big endian")
        width = _WIDTHS.get(vr, 1)
        if width == 1:
            return raw
        if len(raw) % width:
            raise Unreadable("a number is cut")
        swapped, numbers = bytearray(len(raw)), bytes(raw)
        for place in range(width):
            swapped[place::width] = numbers[width - 1 - place :: width]
        return bytes(swapped)
