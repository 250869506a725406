"""How a data set is laid out before its pixels: its elements, each sequence as one, and the runs of a template. Pure.

Regular is what `scanner.scan` reads without forgiving anything: ascending tags, known value representations (PS3.5
7.1), little endian. `header` and `dicom_json` then walk over the very same elements.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import NamedTuple

from dicom_store.dicom_json import (
    CHARACTER_SET,
    ELEMENT_COST,
    PIXEL_REPRESENTATION,
    UNICODE,
    Scope,
    Walk,
    member_key,
)
from dicom_store.header import python_encodings
from dicom_store.scanner import FIRST_TAG, UNDEFINED_LENGTH, Buffer, Encoding, OutOfOrder, Scanner, Unreadable

REGION_BYTES = 64 * 1024  # before the pixels, at most
ELEMENTS = 1024  # there, at most
FIRST_PIXELS = 0x7FE00008  # FloatPixelData, the first of the three
_LONGEST_HEADER = 12  # bytes, explicit VR with a length of 32 bits
_NEVER_VARIABLE = frozenset({CHARACTER_SET, PIXEL_REPRESENTATION})
_BULK, _SEQUENCE = '"BulkDataURI":"bulkdata/', '"vr":"SQ"'  # a quotation mark of a value is escaped


class Element(NamedTuple):
    """Positions are of its first byte, of its value, and after it."""

    tag: int
    vr: bytes  # b"": implicit VR
    begin: int
    start: int
    length: int  # as it says, perhaps UNDEFINED_LENGTH
    after: int


def beginning_of(data_set: Buffer) -> bytes:
    """As much of a data set as its layout can need."""
    return memoryview(data_set).cast("B")[: REGION_BYTES + _LONGEST_HEADER].tobytes()


def layout(beginning: bytes, encoding: Encoding) -> list[Element]:
    """The elements before the pixels; the last one is where they begin, without its value (`after` = `start`).

    Raises `Unreadable` where they are not regular, too many or too long, or where the pixels do not come.
    """
    scanner = Scanner(beginning, encoding)
    found: list[Element] = []
    position, previous = 0, FIRST_TAG - 1
    while position <= REGION_BYTES and len(found) < ELEMENTS:
        tag, vr, length, start = scanner.element(position, encoding.implicit_vr)
        if tag <= previous:
            raise OutOfOrder("tags out of order")
        if tag >= FIRST_PIXELS:
            return [*found, Element(tag, vr, position, start, length, start)]
        if length == UNDEFINED_LENGTH:
            after = scanner.after_sequence(start, vr, encoding.implicit_vr)
        else:
            after = scanner.after_value(start, length)
        found.append(Element(tag, vr, position, start, length, after))
        position, previous = after, tag
    raise Unreadable("more than a template holds before the pixels")


def shape(elements: Sequence[Element]) -> list[tuple[int, bytes]]:
    """(tag, VR) of each: what the instances of one template have in common."""
    return [element[:2] for element in elements]


def differing(one: bytes, ones: Sequence[Element], other: bytes, others: Sequence[Element]) -> frozenset[int]:
    """Tags before the pixels whose elements differ between two beginnings of the same shape, by a byte or more."""
    pairs = zip(ones[:-1], others[:-1], strict=True)
    return frozenset(a.tag for a, b in pairs if one[a.begin : a.after] != other[b.begin : b.after])


class Step(NamedTuple):
    """A run, and the variable element behind it; the last step is that of the pixels."""

    pattern: bytes  # the run, then the header of the element as far as its length
    text: bytes  # members of the run
    width: int  # bytes of the length
    tag: int
    vr: bytes
    key: bytes  # begins its member; b"": it leaves none
    scope: Scope


class Draft:
    """A template in the making, from one data set and the tags that vary."""

    def __init__(self, data_set: Buffer, encoding: Encoding, varying: Set[int]) -> None:
        self._view = memoryview(data_set).cast("B")
        self._encoding = encoding
        self._varying = varying
        self._walk = Walk(self._view, encoding, 0, True)
        self._scope = Scope(tuple(python_encodings(b"")), encoding.implicit_vr)
        self._begin = 0  # of the run
        self._run: list[bytes] = []  # its members
        self._character_set = False  # is one of them: JSON has it always
        self.steps: list[Step] = []
        self.cost = self.work = 0  # what a walk spends on the runs, and on all

    def add(self, element: Element) -> None:
        """The next element before the pixels. Raises `Unreadable` for what no template may hold."""
        scope, left = copy_of(self._scope), self._walk.left
        text = self._constant(element)
        cost = ELEMENT_COST + left - self._walk.left
        self.work += cost
        if text is None:
            if element.tag in _NEVER_VARIABLE:
                raise Unreadable("what says how others are read is variable")
            self.close(element, scope)
            return
        self.cost += cost
        if element.tag >= CHARACTER_SET:
            self._unicode()
        if text and element.tag & 0xFFFF and element.tag != CHARACTER_SET:  # a group length leaves no member
            self._run.append(member_of(element.tag, text))

    def close(self, element: Element, scope: Scope | None = None) -> None:
        """The run ends before a variable element, or before the pixels."""
        if element.tag > CHARACTER_SET:
            self._unicode()
        width = 2 if element.vr and element.start - element.begin == 8 else 4
        pattern = self._view[self._begin : element.start - width].tobytes()
        key = member_key(element.tag).encode() if element.tag & 0xFFFF else b""
        text, scope = b",".join(self._run), scope or copy_of(self._scope)
        self.steps.append(Step(pattern, text, width, element.tag, element.vr, key, scope))
        self._begin, self._run = element.after, []

    def _unicode(self) -> None:
        if not self._character_set:
            self._run.append(member_of(CHARACTER_SET, UNICODE))
            self._character_set = True

    def _constant(self, element: Element) -> str | None:
        """Its JSON; None where it varies, or where something else than its own bytes says it."""
        before = copy_of(self._scope)
        text = self._text(self._walk, element, len(self._view), self._scope)
        if element.tag in self._varying or _BULK in text:
            return None
        if text and element.length != UNDEFINED_LENGTH and not text.startswith(_SEQUENCE):
            return text
        alone = Walk(self._view[: element.after], self._encoding, 0, True)
        return text if text and self._text(alone, element, element.after, before) == text else None

    @staticmethod
    def _text(walk: Walk, element: Element, end: int, scope: Scope) -> str:
        tag, vr, _, start, length, _ = element
        text, after = walk.member(tag, vr, length, start, end, scope)
        if after != element.after:
            raise Unreadable("an element ends elsewhere")
        return text


def member_of(tag: int, text: str) -> bytes:
    """A member of the JSON of a data set, as `dicom_json.instance_json` writes it."""
    return (member_key(tag) + text + "}").encode("utf-8", "replace")


def copy_of(scope: Scope) -> Scope:
    """One of its own: a walk changes the scope that it is given."""
    return Scope(scope.encodings, scope.implicit_vr, 0, scope.signed)
