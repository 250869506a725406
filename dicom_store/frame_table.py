"""Where each frame of an image lies in its file (PS3.5 8, A.4; PS3.3 C.7.6.3). Reads by a function that is given.

Native frames are computed. Of encapsulated ones the items are walked once: an offset table can be wrong, the items
cannot. A Basic Offset Table says only which fragments make one frame where there are more fragments than frames;
without one, a fragment that begins a codestream begins a frame. With an Extended Offset Table each frame is one
fragment (PS3.3 C.7.6.3.1.8).
"""

from __future__ import annotations

import re
import struct
from array import array
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dicom_store.status import HttpRefusal
from dicom_store.transfer_syntax import Kind, syntax_of

Read = Callable[[int, int], bytes]  # (offset in the file, length) → the bytes, fewer at its end
Place = tuple[int, int]  # (offset in the file, length), in bytes

MAX_FRAGMENTS = 500_000
_MAX_TABLE = 4 * MAX_FRAGMENTS  # bytes of a Basic Offset Table
_ITEM, _SEQUENCE_END = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
_ITEM_HEAD = struct.Struct("<4sI")
_STARTS = (b"\xff\xd8", b"\xff\x4f")  # SOI of JPEG and JPEG-LS, SOC of JPEG 2000
_PIXELS = ("7FE00010", "7FE00008", "7FE00009")  # PixelData, FloatPixelData, DoubleFloatPixelData
_ADDRESS = re.compile(r"bulkdata/([0-9]+)-([0-9]+)", re.ASCII)


@dataclass(frozen=True, slots=True)
class NativeFrames:
    """`count` frames of `bits` each from `start` on."""

    start: int
    bits: int
    count: int

    @property
    def weight(self) -> int:
        """What keeping it costs, in fragments."""
        return 1

    def places(self, number: int) -> Sequence[Place]:
        """Where frame `number` (from 1) is. Raises `HttpRefusal` 406 when it begins inside a byte."""
        begin = (number - 1) * self.bits
        if begin % 8:
            raise _refusal("The frames are packed in bits, and this one begins inside a byte.")
        return [(self.start + begin // 8, (self.bits + 7) // 8)]


@dataclass(frozen=True, slots=True)
class EncapsulatedFrames:
    """Frames of fragments. `firsts`: index of the first fragment of each frame, then the number of fragments."""

    offsets: array[int]
    lengths: array[int]
    firsts: Sequence[int]

    @property
    def count(self) -> int:
        """Of frames."""
        return len(self.firsts) - 1

    @property
    def weight(self) -> int:
        """What keeping it costs, in fragments."""
        return len(self.offsets)

    def places(self, number: int) -> Sequence[Place]:
        """Where the fragments of frame `number` (from 1) are."""
        fragments = range(self.firsts[number - 1], self.firsts[number])
        return [(self.offsets[n], self.lengths[n]) for n in fragments]


FrameTable = NativeFrames | EncapsulatedFrames


def read_frame_table(document: Mapping[str, Any], transfer_syntax: str, read: Read) -> FrameTable:
    """The frames of an instance. `document`: its DICOM JSON as prepared at ingest, `read`: of its file.

    Raises `HttpRefusal`: 404 when it has no pixel data, 406 when its frames cannot be told apart.
    """
    found: Mapping[str, Any] = next((document[tag] for tag in _PIXELS if tag in document), {})
    address = _ADDRESS.fullmatch(found.get("BulkDataURI", ""))
    if address is None:
        raise HttpRefusal(404, "not-found", "Not found", "The instance has no frames.")
    offset, length = map(int, address.groups())
    count = max(_number(document, "00280008", 1), 1)
    kind = syntax_of(transfer_syntax).kind
    if kind is Kind.VIDEO:
        raise _refusal(
            "A video is one stream, its frames are not to be had one by one; ask for the instance."
        )
    if kind is Kind.NATIVE:
        return _native(document, offset, length, count)
    table, offsets, lengths = _fragments(read, offset, offset + length)
    return EncapsulatedFrames(offsets, lengths, _firsts(count, table, offsets, lengths, read))


def _native(document: Mapping[str, Any], offset: int, length: int, count: int) -> NativeFrames:
    rows, columns, bits = (_number(document, tag, 0) for tag in ("00280010", "00280011", "00280100"))
    samples = _number(document, "00280002", 1)
    frame = rows * columns * samples * bits
    if document.get("00280004", {}).get("Value") == ["YBR_FULL_422"]:
        frame = frame // 3 * 2  # PS3.3 C.7.6.3.1.2: two of three samples are shared by two pixels
    if frame <= 0 or (frame * count + 7) // 8 > length:
        raise _refusal("The pixel data is not as long as its rows, columns and frames say.")
    return NativeFrames(offset, frame, count)


def _fragments(read: Read, position: int, end: int) -> tuple[bytes, array[int], array[int]]:
    """(Basic Offset Table, offsets of the fragments, their lengths)."""
    offsets, lengths = array("Q"), array("Q")
    table: bytes | None = None
    while position + _ITEM_HEAD.size <= end and len(offsets) <= MAX_FRAGMENTS:
        head = read(position, _ITEM_HEAD.size)
        tag, length = _ITEM_HEAD.unpack(head) if len(head) == _ITEM_HEAD.size else (b"", 0)
        position += _ITEM_HEAD.size
        if tag != _ITEM or position + length > end:
            break
        if table is None:
            table = read(position, min(length, _MAX_TABLE))
        else:
            offsets.append(position)
            lengths.append(length)
        position += length
    if len(offsets) > MAX_FRAGMENTS:
        raise _refusal(f"The pixel data has more than {MAX_FRAGMENTS} fragments.")
    return table or b"", offsets, lengths


def _firsts(count: int, table: bytes, offsets: array[int], lengths: array[int], read: Read) -> Sequence[int]:
    """PS3.5 A.4: one fragment each, or as the offset table says, or by the beginnings of codestreams."""
    total = len(offsets)
    if total == count:
        return range(count + 1)
    if count == 1 and total:
        return (0, total)
    if total > count:
        for firsts in (_by_table(count, table, offsets), _by_codestream(offsets, lengths, read)):
            if len(firsts) == count and firsts[0] == 0:
                return array("Q", [*firsts, total])
    raise _refusal(f"The pixel data has {total} fragments, which cannot be told apart as {count} frame(s).")


def _by_table(count: int, table: bytes, offsets: array[int]) -> Sequence[int]:
    if len(table) < 4 * count or not offsets:
        return []
    base = offsets[0] - _ITEM_HEAD.size
    firsts = []
    for relative in struct.unpack_from(f"<{count}I", table):
        index = bisect_left(offsets, base + relative + _ITEM_HEAD.size)
        if index == len(offsets) or offsets[index] != base + relative + _ITEM_HEAD.size:
            return []
        firsts.append(index)
    return firsts if firsts == sorted(set(firsts)) else []


def _by_codestream(offsets: array[int], lengths: array[int], read: Read) -> Sequence[int]:
    places = zip(offsets, lengths, strict=True)
    return [n for n, (at, length) in enumerate(places) if length >= 2 and read(at, 2) in _STARTS]


def _number(document: Mapping[str, Any], tag: str, default: int) -> int:
    values = document.get(tag, {}).get("Value") or [default]
    return values[0] if isinstance(values[0], int) else default


def _refusal(detail: str) -> HttpRefusal:
    return HttpRefusal(406, "not-acceptable", "Not acceptable", detail)
