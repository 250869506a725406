"""An instance whose SOP Instance UID is known already: the same again, something else, or one that comes back.

The hash of the file says at once that it is the same. Where it differs the data sets themselves are compared, length
first: the file meta around them may have been written by another version of this software.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from dicom_store.index_queries import IndexedInstance, Place
from dicom_store.instance import InstanceHeader
from dicom_store.part10 import data_set_offset
from dicom_store.rejection import REASONS
from dicom_store.segment_record import SegmentDamaged
from dicom_store.segments import Segments
from dicom_store.status import Outcome, StoreRefused

_HEAD_BYTES = 1024  # `part10.file_start` makes no more


@dataclass(frozen=True, slots=True)
class Copy:
    """Another copy of an instance. `sha256`: of its DICOM file; `length`: of its data set, which `pieces` gives."""

    header: InstanceHeader
    sha256: str
    length: int
    pieces: Callable[[], Iterator[bytes]]


def stored_copy(segments: Segments, header: InstanceHeader, place: Place) -> Copy:
    """The copy that was just written. Raises `SegmentDamaged`."""
    begin = _data_set_begin(segments, place)
    return Copy(
        header,
        place.sha256,
        place.length - begin,
        lambda: _after(begin, segments.read(place.segment, place.offset, place.length)),
    )


def judge(segments: Segments, known: IndexedInstance, copy: Copy) -> Outcome | None:
    """DUPLICATE: these very bytes are kept, as they are read now. None: the copy takes their place.

    None for bytes that are lost or spoilt, and for what was rejected and comes back by being stored again
    (`rejection.REASONS`). Raises `StoreRefused` (DIFFERENT_BYTES) when the UID is known for something else.
    """
    differences = {
        "StudyInstanceUID": known.StudyInstanceUID != copy.header.StudyInstanceUID,
        "SeriesInstanceUID": known.SeriesInstanceUID != copy.header.SeriesInstanceUID,
        "transfer syntax": known.ref.TransferSyntaxUID != copy.header.TransferSyntaxUID,
        "data set": not _is_same(segments, known.place, copy),
    }
    different = [name for name, differs in differences.items() if differs]
    if different:
        raise StoreRefused(
            Outcome.DIFFERENT_BYTES, f"SOPInstanceUID known with another {', '.join(different)}"
        )
    if returns(known) or not _is_kept(segments, known.place):
        return None
    return Outcome.DUPLICATE


def returns(known: IndexedInstance) -> bool:
    """Whether storing it again ends its rejection."""
    return known.rejected is not None and REASONS[known.rejected].returns_when_stored_again


def _is_kept(segments: Segments, place: Place) -> bool:
    """Read, not believed: who hears that it is kept may delete its own."""
    return segments.holds(place.segment, place.offset, place.length, place.sha256, place.metadata_length)


def _is_same(segments: Segments, place: Place, copy: Copy) -> bool:
    if place.sha256 == copy.sha256:
        return True
    try:
        begin = _data_set_begin(segments, place)
        if place.length - begin != copy.length:
            return False
        kept = segments.read(place.segment, place.offset, place.length)
        return _are_equal(_after(begin, kept), copy.pieces())
    except (SegmentDamaged, ValueError):  # the bytes are lost: only a hash can tell
        return place.data_set_sha256 is not None and place.data_set_sha256 == _digest(copy.pieces())


def _data_set_begin(segments: Segments, place: Place) -> int:
    """Raises `SegmentDamaged`; ValueError when no DICOM file of ours is there."""
    return data_set_offset(next(segments.read(place.segment, place.offset, place.length, _HEAD_BYTES), b""))


def _after(begin: int, pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The bytes from `begin` on, which is in the first piece."""
    yield next(pieces, b"")[begin:]
    yield from pieces


def _are_equal(left: Iterator[bytes], right: Iterator[bytes]) -> bool:
    """Whether pieces of any size make up the same bytes."""
    one, other = b"", b""
    while True:
        one, other = one or next(left, b""), other or next(right, b"")
        common = min(len(one), len(other))
        if one[:common] != other[:common]:
            return False
        if not common:
            return not one and not other
        one, other = one[common:], other[common:]


def _digest(pieces: Iterator[bytes]) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()
