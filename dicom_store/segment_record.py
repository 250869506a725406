"""The name of a segment file, and one record of it (header, payload) as bytes behind an open descriptor."""

from __future__ import annotations

import errno
import hashlib
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import PurePosixPath

from dicom_store.paths import InvalidUID, study_directory

HEADER = struct.Struct(">4sHHQ32s")  # magic, version, kind, payload length, SHA-256 of the payload
MAGIC, VERSION = b"DSEG", 1
CHUNK_BYTES = 1024 * 1024  # read at once, at most
LOST = frozenset({errno.EIO, errno.EBADMSG, errno.EUCLEAN})  # said of bytes that a disk cannot give back
_DIGEST = slice(HEADER.size - 32, HEADER.size)
Spent = Callable[[int], None]  # told of bytes read: may wait


class Kind(IntEnum):
    """What the payload of a record is."""

    DICOM_FILE = 0
    DICOM_JSON = 1  # of the instance whose file is the record before


@dataclass(frozen=True, slots=True)
class WholeRecord:
    """A DICOM file of `length` bytes at `offset`, and the length of the DICOM JSON behind it, if it has one."""

    offset: int
    length: int
    sha256: str
    metadata_length: int | None

    @property
    def end(self) -> int:
        """Behind its last byte, the JSON included."""
        behind = 0 if self.metadata_length is None else HEADER.size + self.metadata_length
        return self.offset + self.length + behind


class SegmentDamaged(Exception):
    """Bytes that the index promises are not in their segment."""


class SegmentAbsent(SegmentDamaged):
    """There is no such segment."""


def check_record(descriptor: int, offset: int, length: int, kind: Kind = Kind.DICOM_FILE) -> None:
    """Raises `SegmentDamaged` unless a record with a payload of `length` bytes at `offset` is there."""
    start = offset - HEADER.size
    header = os.pread(descriptor, HEADER.size, start) if start >= 0 else b""
    if len(header) != HEADER.size or HEADER.unpack(header)[:4] != (MAGIC, VERSION, kind, length):
        raise SegmentDamaged("no record of that length at that place")


def prove(
    descriptor: int, offset: int, length: int, sha256: str | None, kind: Kind, spent: Spent = lambda _n: None
) -> None:
    """Compute the hash of a record again: its header, and `sha256` of the index, must say the same.

    Raises `SegmentDamaged` with what differs.
    """
    check_record(descriptor, offset, length, kind)
    promised = os.pread(descriptor, HEADER.size, offset - HEADER.size)[_DIGEST].hex()
    digest = hashlib.sha256()
    end = offset + length
    for start in range(offset, end, CHUNK_BYTES):
        digest.update(data := read_fully(descriptor, start, min(CHUNK_BYTES, end - start)))
        spent(len(data))
    found = digest.hexdigest()
    if found != promised:
        raise SegmentDamaged("the bytes are not those of the header's SHA-256")
    if sha256 is not None and found != sha256:
        raise SegmentDamaged("the bytes are not those of the index's SHA-256")


def read_fully(descriptor: int, offset: int, length: int) -> bytes:
    """`length` bytes at `offset`. Raises `SegmentDamaged` when the file ends before."""
    data = os.pread(descriptor, length, offset)
    while len(data) < length:
        more = os.pread(descriptor, length - len(data), offset + len(data))
        if not more:
            raise SegmentDamaged("the segment ends inside a record")
        data += more
    return data


def prove_instance(
    descriptor: int, offset: int, length: int, sha256: str | None, metadata_length: int | None
) -> None:
    """`prove` the DICOM file of an instance, and the DICOM JSON behind it if it has one. Raises as `prove`."""
    prove(descriptor, offset, length, sha256, Kind.DICOM_FILE)
    if metadata_length is not None:
        prove(descriptor, offset + length + HEADER.size, metadata_length, None, Kind.DICOM_JSON)


def whole_records(descriptor: int, position: int, size: int) -> Iterator[WholeRecord]:
    """The DICOM files from `position` on whose bytes are those that were written; ends at the first that is torn."""
    while (file := _whole(descriptor, position, size, Kind.DICOM_FILE)) is not None:
        length, sha256 = file
        offset = position + HEADER.size
        json = _whole(descriptor, offset + length, size, Kind.DICOM_JSON)
        record = WholeRecord(offset, length, sha256, None if json is None else json[0])
        yield record
        position = record.end


def _whole(descriptor: int, position: int, size: int, kind: Kind) -> tuple[int, str] | None:
    """(length, SHA-256) of the payload of a record of that kind; None when none is whole there."""
    if position + HEADER.size > size:
        return None
    magic, version, found, length, digest = HEADER.unpack(read_fully(descriptor, position, HEADER.size))
    offset = position + HEADER.size
    if (magic, version, found) != (MAGIC, VERSION, kind) or offset + length > size:
        return None
    try:
        prove(descriptor, offset, length, digest.hex(), kind)
    except SegmentDamaged:
        return None
    return length, digest.hex()


def holds_data(descriptor: int, position: int, size: int) -> bool:
    """Whether there is anything but zeros between two positions."""
    while position < size:
        data = os.pread(descriptor, min(CHUNK_BYTES, size - position), position)
        if not data or data.count(0) != len(data):
            return True
        position += len(data)
    return False


def is_segment_name(segment: str) -> bool:
    """Whether it is of the layout `<2 hex>/<2 hex>/<StudyInstanceUID>/<name>.seg`."""
    parts = PurePosixPath(segment).parts
    try:
        return len(parts) == 4 and parts[3].endswith(".seg") and study_directory(parts[2]).parts == parts[:3]
    except InvalidUID:
        return False
