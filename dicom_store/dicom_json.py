"""A data set as received in the DICOM JSON Model (PS3.18 annex F): prepared once, when an instance arrives. Pure.

Read by one walk over the bytes in every encoding, native, encapsulated or inflated, without touching pixel data.
It forgives what `header.read_header` forgives (elements out of order, unknown VRs, implicit VR in explicit) and
never raises for what that accepts; `strict`, for what arrives, refuses an attribute of the header that is there again
with another value, or whose patient comes behind all that is read for it: other readers would see another instance.

- an element whose value cannot be understood is left out, with its sequence when it is in one; where its end
  cannot be known either, all that follows it is left out as well. Nothing marks it: JSON members that are no
  attributes would break readers, and the file itself remains.
- of any other attribute that is there twice the first counts.
- bulk data that is cut off, by the end of the data set, is what there is of it.
- beyond `COST_BYTES` of elements, fragments and JSON nothing more is read.

Bulk data is addressed by its place in the DICOM file, `bulkdata/<offset>-<length>`: from the preamble on, the bytes
are those of the file. What cannot be had like that has a `vr` and no value: bulk values of deflated data sets, and
numbers and words of big endian ones (bulk data is little endian, PS3.18 8.7.3).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

from dicom_store.header import DEFLATED, ENCODINGS, WANTED, HeaderRefused, python_encodings
from dicom_store.json_values import ROWS, ValueRepresentation
from dicom_store.scanner import (
    ITEM,
    ITEM_END,
    LAST_TAG,
    PREFIX_BYTES,
    SEQUENCE_END,
    UNDEFINED_LENGTH,
    Buffer,
    Encoding,
    Scanner,
    UnknownVR,
    Unreadable,
    scan,
)
from dicom_store.status import Outcome
from dicom_store.vr_dictionary import vr_of

COST_BYTES = 64 * 1024 * 1024  # inline values as JSON, and `ELEMENT_COST` for each element or fragment
ELEMENT_COST = 32
_STEPS, _MAX_DEPTH = 128, 64  # between two rests; of sequences in sequences
CHARACTER_SET, PIXEL_REPRESENTATION = 0x00080005, 0x00280103
_IDENTITY = frozenset({0x00080050, 0x00100020, 0x00100030})  # AccessionNumber, PatientID, PatientBirthDate
_LEFT_OUT = frozenset({0x0000, 0x0002, 0xFFFE})  # groups: command, file meta, items; and every group length
_PIXELS = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})  # always bulk data
_FRAGMENTS = frozenset({b"OB", b"OW", b"OD", b"OF", b"OL", b"OV"})  # may be encapsulated (PS3.5 A.4)
UNICODE = '"vr":"CS","Value":["ISO_IR 192"]'  # JSON is UTF-8 (F.2, RFC 8259)
_BY_NAME = {row.name: row for row in ROWS.values()}
_SHORT = 64  # bytes of a value whose text is remembered
_PLAIN = {vr: row for vr, row in ROWS.items() if vr != b"UN"}  # says by itself what its value is
_LONGEST_UN = 0xFFFE  # a longer value is UN because its VR could not say its length (PS3.5 6.2.2)


def instance_json(
    data_set: Buffer,
    transfer_syntax: str,
    file_offset: int,
    relax: Callable[[], None] | None = None,
    *,
    strict: bool = False,
) -> bytes:
    """One JSON object in UTF-8, compact, members in the order of their tags.

    `data_set` as received (no preamble, no file meta), accepted by `header.read_header`; `file_offset`: where it
    begins in the file, in bytes. `relax`: called now and then, so that a mapping lets go of its pages.
    """
    encoding = ENCODINGS.get(transfer_syntax, Encoding())
    if transfer_syntax in DEFLATED:
        inflated = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data_set, PREFIX_BYTES)
        members = Walk(inflated, encoding, None, strict).members()
    else:
        make = Walk if relax is None else partial(RestingWalk, relax)
        members = make(data_set, encoding, file_offset, strict).members()
    members[CHARACTER_SET] = UNICODE
    return _object(members).encode("utf-8", "replace")


def _object(members: dict[int, str]) -> str:
    return "{" + ",".join([member_key(tag) + members[tag] + "}" for tag in sorted(members)]) + "}"


@lru_cache(8192)
def member_key(tag: int) -> str:
    return f'"{tag:08X}":{{'


def _written(vr: str, raw: bytes, encodings: tuple[str, ...], order: str) -> str:
    """`"vr"` and value of an element. Raises ValueError for a length that its VR cannot have."""
    return f'"vr":"{vr}"{_BY_NAME[vr].write(raw, encodings, order)}'


_remembered = lru_cache(4096)(_written)  # instances of a series have most of their short values in common


@dataclass(slots=True)
class Scope:
    """What holds for the elements of a data set or of an item, and is inherited by the items in it (PS3.5 7.5.3)."""

    encodings: tuple[str, ...]
    implicit_vr: bool
    depth: int = 0
    signed: bool | None = None  # by PixelRepresentation; None = not met so far

    def inner(self, implicit_vr: bool) -> Scope:
        if self.depth >= _MAX_DEPTH:
            raise Unreadable("sequences nested too deeply")
        return Scope(self.encodings, implicit_vr, self.depth + 1, self.signed)


class Walk:
    """One walk over one data set. `file_offset` None: its bytes are not those of the file. `left`: of `COST_BYTES`."""

    def __init__(self, data_set: Buffer, encoding: Encoding, file_offset: int | None, strict: bool) -> None:
        self._strict = strict
        self._scanner = Scanner(data_set, encoding)
        self._encoding = encoding
        self._order = ">" if encoding.big_endian else "<"
        self._file_offset = file_offset
        self.left = COST_BYTES
        self._late = False  # the header was not read as far as this
        self._whole_signed: bool | None = None

    def members(self) -> dict[int, str]:
        """What follows the tag of every element, without its braces, by tag."""
        found: dict[int, str] = {}
        scope = Scope(tuple(python_encodings(b"")), self._encoding.implicit_vr)
        with suppress(Unreadable):  # as far as it can be understood, see above
            self.elements(0, self._scanner.end, scope, found)
        return found

    def elements(self, position: int, end: int, scope: Scope, found: dict[int, str]) -> int:
        """Members of the elements from `position` to `end`, or to the end of the item; the position after it."""
        while position < end:
            self.spend(ELEMENT_COST)
            try:
                tag, vr, length, start = self._scanner.element(position, scope.implicit_vr)
            except UnknownVR:
                tag, vr, length, start = self._scanner.foreign_element(position)
            if tag == ITEM_END:
                return start
            row, position = _PLAIN.get(vr), start + length
            if row is None or length > row.inline or position > end or tag in _PIXELS:
                text, position = self.member(tag, vr, length, start, end, scope)
            else:
                text = self._inline(tag, row, start, position, scope)
            if text and tag & 0xFFFF and tag >> 16 not in _LEFT_OUT:
                if self._strict and scope.depth == 0:
                    self._identify(tag, text, found)
                found.setdefault(tag, text)
        return position

    def _identify(self, tag: int, text: str, found: dict[int, str]) -> None:
        """Other readers would take another value than the header, which is read up to the last tag that it wants."""
        if tag not in WANTED:
            self._late = self._late or tag > LAST_TAG
        elif found.get(tag, "" if self._late and tag in _IDENTITY else text) != text:
            raise HeaderRefused(
                Outcome.NOT_UNDERSTOOD, "the data set says what it is once more, and differently"
            )

    def spend(self, cost: int) -> None:
        self.left -= cost
        if self.left < 0:
            raise Unreadable("more than is prepared")

    def member(self, tag: int, vr: bytes, length: int, start: int, end: int, scope: Scope) -> tuple[str, int]:
        """(`"vr"` and value of an element, or "" where it is left out; the position after it)."""
        implicit_vr = scope.implicit_vr
        if vr == b"UN":  # holds what implicit VR little endian would (PS3.5 6.2.2)
            implicit_vr = not self._encoding.big_endian
        if not vr or (vr == b"UN" and length <= _LONGEST_UN):
            vr = vr_of(tag, length, lambda: self._signed(scope))
        if length == UNDEFINED_LENGTH:
            return self._of_undefined_length(tag, vr, start, end, scope.inner(implicit_vr))
        after = start + length
        if vr == b"SQ":
            return self._sequence(start, after, end, scope.inner(implicit_vr)), after
        row = ROWS[vr]
        bulk = length > row.inline or (tag in _PIXELS and length > 0)
        if bulk and after > end == self._scanner.end:
            return self._bulk(row, start, end), end  # as much as there is
        if after > end:
            raise Unreadable("the data set ends inside an element")
        return (self._bulk(row, start, after) if bulk else self._inline(tag, row, start, after, scope)), after

    def _inline(self, tag: int, row: ValueRepresentation, start: int, after: int, scope: Scope) -> str:
        length = after - start
        raw = self._scanner.view[start:after].tobytes()
        if tag == CHARACTER_SET:
            scope.encodings = tuple(python_encodings(raw))
            return UNICODE
        if tag == PIXEL_REPRESENTATION:
            scope.signed = b"\1" in raw
        write = _remembered if length <= _SHORT else _written
        try:
            text = write(row.name, raw, scope.encodings, self._order)
        except ValueError:
            return ""  # of a length that its VR cannot have
        self.left -= len(text)  # up to six times the value: a control character is \u0001
        return text

    def _bulk(self, row: ValueRepresentation, start: int, after: int) -> str:
        if self._file_offset is None or (self._encoding.big_endian and row.word > 1):
            return f'"vr":"{row.name}"'
        return f'"vr":"{row.name}","BulkDataURI":"bulkdata/{self._file_offset + start}-{after - start}"'

    def _signed(self, scope: Scope) -> bool:
        """Whether pixel values are signed: as this item, one around it, or the whole data set says."""
        if scope.signed is None:
            if self._whole_signed is None:
                wanted = frozenset({PIXEL_REPRESENTATION})
                try:
                    found = scan(self._scanner.view, self._encoding, wanted, PIXEL_REPRESENTATION)
                except Unreadable:
                    found = {}
                self._whole_signed = b"\1" in found.get(PIXEL_REPRESENTATION, b"")
            return self._whole_signed
        return scope.signed

    def _of_undefined_length(
        self, tag: int, vr: bytes, start: int, end: int, inner: Scope
    ) -> tuple[str, int]:
        if tag in _PIXELS or vr in _FRAGMENTS:
            after = self._after_fragments(start, end)
            return self._bulk(ROWS[b"OB" if tag in _PIXELS else vr], start, after), after
        if vr not in (b"SQ", b"UN"):
            raise Unreadable("undefined length where the VR has none")
        items: list[str] = []
        after = self._items(start, end, inner, items)
        return _sequence_of(items), after

    def _sequence(self, start: int, after: int, end: int, inner: Scope) -> str:
        """A sequence of defined length; "" when it cannot be understood."""
        if after > end:
            raise Unreadable("the data set ends inside an element")
        items: list[str] = []
        try:
            self._items(start, after, inner, items)
        except Unreadable:
            return ""
        return _sequence_of(items)

    def _items(self, position: int, end: int, outer: Scope, items: list[str]) -> int:
        """The items up to `end` or to the sequence delimiter; the position after it."""
        while position < end:
            self.spend(ELEMENT_COST)
            tag, _, length, start = self._scanner.element(position, True)
            if tag == SEQUENCE_END:
                return start
            after = end if length == UNDEFINED_LENGTH else start + length
            if tag != ITEM or after > end:
                raise Unreadable("something else than an item in a sequence")
            scope = Scope(outer.encodings, outer.implicit_vr, outer.depth, outer.signed)
            found: dict[int, str] = {}
            position = self.elements(start, after, scope, found)
            position = position if length == UNDEFINED_LENGTH else after
            items.append(_object(found))
        return position

    def _after_fragments(self, position: int, end: int) -> int:
        """Position after the sequence delimiter of encapsulated data; the end of the data where it is torn."""
        while position + 8 <= end:
            self.spend(ELEMENT_COST)
            tag, _, length, start = self._scanner.element(position, True)
            if tag == SEQUENCE_END:
                return start
            if tag != ITEM or length == UNDEFINED_LENGTH:
                return end
            position = start + length
        return end


class RestingWalk(Walk):
    """Calls `relax` once in `_STEPS` elements or fragments: each may bring 64 KiB of a mapping into memory."""

    def __init__(self, relax: Callable[[], None], *walk: Any) -> None:
        super().__init__(*walk)
        self._relax = relax
        self._steps = 0

    def spend(self, cost: int) -> None:
        super().spend(cost)
        self._steps += 1
        if self._steps % _STEPS == 0:
            self._relax()


def _sequence_of(items: list[str]) -> str:
    return f'"vr":"SQ","Value":[{",".join(items)}]' if items else '"vr":"SQ"'
