"""Raw values of chosen tags of a data set: a struct scanner; pydicom for what the scanner refuses.

The scanner reads explicit VR (little and big endian) and implicit VR little endian, native or encapsulated,
up to (0040,0245), without copying the data set. It refuses what the standard does not allow (tags out of
order, unknown VRs); pydicom then reads the beginning of the data set. Both give the same raw bytes. An attribute
that is there twice, with two values, is refused: of two readers one shows the first, another the second.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Set
from dataclasses import dataclass
from io import BytesIO

from pydicom.dataelem import RawDataElement
from pydicom.filereader import data_element_generator

Buffer = bytes | bytearray | memoryview

PREFIX_BYTES = 16 * 1024 * 1024  # what is inflated or given to pydicom at most
VALUE_BYTES = 4096  # longer values are cut: nothing of ours compares beyond

UNDEFINED_LENGTH = 0xFFFFFFFF
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
FIRST_TAG, LAST_TAG, _PIXELS = 0x00080001, 0x00400245, 0x7FE00000
_NEEDED_TAG = 0x00280100  # the last one that an image must have
_MAX_DEPTH = 256
_LONG_VR = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_UNPACK = {  # by byte order: header in implicit VR, in explicit VR, length of the long form of that (PS3.5 7.1)
    big_endian: tuple(struct.Struct(order + code).unpack_from for code in ("HHI", "HH2sH", "I"))
    for big_endian, order in ((False, "<"), (True, ">"))
}
_SHORT_VR = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())


class Unreadable(ValueError):
    """The bytes are not a data set in the encoding announced."""


class CutShort(Unreadable):
    """The bytes end inside the data set: more of them may make it readable. `found`: wanted values so far, by tag."""

    def __init__(self, reason: str, found: Mapping[int, bytes] | None = None) -> None:
        super().__init__(reason)
        self.found: Mapping[int, bytes] = found or {}


class OutOfOrder(Unreadable):
    """Tags do not ascend (PS3.5 7.1): what is wanted may come anywhere."""


class UnknownVR(Unreadable):
    """An element whose VR is none of PS3.5 6.2."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """How the elements of a data set are written (PS3.5 7.1)."""

    implicit_vr: bool = False
    big_endian: bool = False


def scan(
    data_set: Buffer, encoding: Encoding, wanted: Set[int], last_tag: int = LAST_TAG, *, whole: bool = True
) -> dict[int, bytes]:
    """Raw values of the wanted tags up to `last_tag`, by tag.

    Raises `OutOfOrder`, and `Unreadable` for anything irregular up to (0028,0100). What else is irregular after it
    ends the scan: no instance is refused for what comes there. Not `whole`: `data_set` is a beginning; raises
    `CutShort` when what follows it could change the result.
    """
    scanner = Scanner(data_set, encoding)
    found: dict[int, bytes] = {}
    position = previous = 0
    passed = False
    try:
        while position < scanner.end:
            tag, vr, length, start = scanner.element(position, encoding.implicit_vr)
            if tag > last_tag:
                return found
            passed = tag > _NEEDED_TAG
            if tag <= previous or tag < FIRST_TAG:
                raise OutOfOrder("tags out of order")
            previous = tag
            if length == UNDEFINED_LENGTH:
                position = scanner.after_sequence(start, vr, encoding.implicit_vr)
                continue
            position = scanner.after_value(start, length)
            if tag in wanted:
                found[tag] = bytes(scanner.view[start : start + min(length, VALUE_BYTES)])
    except CutShort as error:
        if not whole:
            raise CutShort(str(error), found) from error
        if not passed:
            raise
    except OutOfOrder:
        raise
    except Unreadable:
        if not passed:
            raise
        return found
    if not whole:
        raise CutShort("the beginning ends before the last tag", found)
    return found


def parse(data_set: Buffer, encoding: Encoding, wanted: Set[int], *, whole: bool = True) -> dict[int, bytes]:
    """The same by pydicom, any order of tags, from the first `PREFIX_BYTES`. Raises `Unreadable`.

    Not `whole`: raises `CutShort` for every beginning that does not reach the pixel data.
    """
    if whole:
        return _parse(data_set, encoding, wanted)[0]
    try:
        found, reached_pixels = _parse(data_set, encoding, wanted)
    except Unreadable as error:
        raise CutShort(str(error)) from error
    if not reached_pixels:
        raise CutShort("the beginning ends before the pixel data", found)
    return found


def _parse(data_set: Buffer, encoding: Encoding, wanted: Set[int]) -> tuple[dict[int, bytes], bool]:
    """(values, whether pixel data were reached)."""
    stopped: list[int] = []

    def is_pixels(tag: int, _vr: str | None, _length: int) -> bool:
        if tag >= _PIXELS:
            stopped.append(tag)
        return bool(stopped)

    elements = data_element_generator(
        BytesIO(memoryview(data_set)[:PREFIX_BYTES]),
        encoding.implicit_vr,
        not encoding.big_endian,
        stop_when=is_pixels,
    )
    found: dict[int, bytes] = {}
    try:
        for element in elements:
            if element.tag in wanted and isinstance(element, RawDataElement):
                _add(found, int(element.tag), _checked_value(element, encoding))
    except (ArithmeticError, AttributeError, LookupError, NotImplementedError, OSError) as error:
        raise Unreadable(type(error).__name__) from error
    except (EOFError, RecursionError, TypeError, ValueError, Warning, struct.error) as error:
        raise Unreadable(type(error).__name__) from error
    if not found:
        raise Unreadable("no attribute of a composite instance")
    return found, bool(stopped)


def _add(found: dict[int, bytes], tag: int, value: bytes) -> None:
    if found.setdefault(tag, value) != value:
        raise Unreadable("an attribute is there twice, with two values")


def _checked_value(element: RawDataElement, encoding: Encoding) -> bytes:
    value = element.value or b""
    if element.length != UNDEFINED_LENGTH and len(value) != element.length:
        raise Unreadable("the data set ends inside an element")
    if element.VR is None and not encoding.implicit_vr:
        # pydicom forgives this; a file that announces another encoding than it has would mislead every reader
        raise Unreadable("implicit VR in an explicit VR transfer syntax")
    return bytes(value[:VALUE_BYTES])


class Scanner:
    """Element headers at positions of one buffer; never reads beyond it."""

    def __init__(self, data_set: Buffer, encoding: Encoding) -> None:
        self.view = memoryview(data_set).cast("B")
        self.end = len(self.view)
        self._implicit, self._explicit, self._long = _UNPACK[encoding.big_endian]
        self._big_endian = encoding.big_endian

    def element(self, position: int, implicit_vr: bool) -> tuple[int, bytes, int, int]:
        """(tag, VR or b"", length, start of the value) of the element at `position`."""
        try:
            if implicit_vr:
                group, number, length = self._implicit(self.view, position)
                return group << 16 | number, b"", length, position + 8
            group, number, vr, length = self._explicit(self.view, position)
            if vr in _LONG_VR:
                return group << 16 | number, vr, self._long(self.view, position + 8)[0], position + 12
        except struct.error as error:
            raise CutShort("the data set ends inside an element header") from error
        if vr not in _SHORT_VR:
            raise UnknownVR("unknown VR")
        return group << 16 | number, vr, length, position + 8

    def foreign_element(self, position: int) -> tuple[int, bytes, int, int]:
        """The same where `element` meets an unknown VR, read as pydicom does.

        What could be a VR of the future has a short length and is `UN`; anything else is implicit VR.
        """
        group, number, vr, length = self._explicit(self.view, position)
        if b"AA" <= vr <= b"ZZ":
            return group << 16 | number, b"UN", length, position + 8
        return self.element(position, True)

    def after_value(self, start: int, length: int) -> int:
        """Position after a value of defined length."""
        if start + length > self.end:
            raise CutShort("the data set ends inside an element")
        return start + length

    def after_sequence(self, start: int, vr: bytes, implicit_vr: bool) -> int:
        """Position after the sequence of undefined length whose first item would begin at `start`."""
        open_levels = [(ITEM, self._inner(vr, implicit_vr))]  # (what may come: items, or elements of an item)
        position = start
        while open_levels:
            if len(open_levels) > _MAX_DEPTH:
                raise Unreadable("sequences nested too deeply")
            awaited, implicit_vr = open_levels[-1]
            tag, _, length, value = self.element(position, True)
            if tag == (SEQUENCE_END if awaited == ITEM else ITEM_END):
                open_levels.pop()
                position = value
            elif awaited == ITEM:
                position = self._enter_item(tag, length, value, open_levels)
            else:
                position = self._enter_element(position, open_levels)
        return position

    def _enter_item(self, tag: int, length: int, value: int, levels: list[tuple[int, bool]]) -> int:
        if tag != ITEM:
            raise Unreadable("something else than an item in a sequence")
        if length != UNDEFINED_LENGTH:
            return self.after_value(value, length)
        levels.append((ITEM_END, levels[-1][1]))
        return value

    def _enter_element(self, position: int, levels: list[tuple[int, bool]]) -> int:
        _, vr, length, value = self.element(position, levels[-1][1])
        if length != UNDEFINED_LENGTH:
            return self.after_value(value, length)
        levels.append((ITEM, self._inner(vr, levels[-1][1])))
        return value

    def _inner(self, vr: bytes, implicit_vr: bool) -> bool:
        """Whether the items of this sequence are in implicit VR (PS3.5 6.2.2: UN of undefined length is)."""
        if vr == b"UN" and not self._big_endian:
            return True
        if vr not in (b"SQ", b"", b"OB", b"OW"):
            raise Unreadable("undefined length where the VR has none")
        return implicit_vr
