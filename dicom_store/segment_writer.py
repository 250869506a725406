"""One segment being written: records appended and synced, a failed one taken back.

A record is written at once (`append`, `complete`), or its payload piece by piece (`stream`) and its header last: what
is not complete has no header. Short records are followed by a reserve of zeros, written with them: where the file
need not grow, fdatasync has no size or extent to commit and takes half as long. (Preallocated but unwritten extents,
with or without the size, gain nothing: each write still has to mark them as written.)
"""

from __future__ import annotations

import errno
import hashlib
import logging
import mmap
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dicom_store.free_space import FreeSpace, StorageFull
from dicom_store.journal import Journal, sync_directory
from dicom_store.paths import study_of_segment
from dicom_store.scanner import Buffer
from dicom_store.segment_file import create
from dicom_store.segment_record import HEADER, MAGIC, VERSION, Kind
from dicom_store.writeback import begin_writeback

log = logging.getLogger(__name__)

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_WRITEV_MAX = 512  # buffers given to one call; the kernel takes 1024
RESERVE_BYTES = 512 * 1024  # of zeros behind a short record that makes the file grow, at most
_LEAST_RESERVE = 64 * 1024  # and at least; between them for this many more records like it
_RESERVED_RECORDS = 4
SHORT_RECORD = 192 * 1024  # up to which a reserve pays
_ZEROS = memoryview(bytes(RESERVE_BYTES))


@dataclass(frozen=True, slots=True)
class Stored:
    """Where a payload is. `segment`: path under root/segments; the rest: of the payload, in bytes.

    `metadata_length`: of the DICOM JSON kept at `metadata_offset(offset, length)`; None = there is none.
    """

    segment: str
    offset: int
    length: int
    sha256: str
    metadata_length: int | None = None


def metadata_offset(offset: int, length: int) -> int:
    """Where the DICOM JSON of the instance lies whose file is `length` bytes at `offset`."""
    return offset + length + HEADER.size


class SegmentWriter:
    """One segment being written by one association, locked (flock) while open. Not for several threads.

    Close it only when the transaction that indexes its records has ended.
    """

    def __init__(self, base: Path, segment: str, journal: Journal, space: FreeSpace) -> None:
        self._base = base
        self._segment = segment
        self._journal = journal
        self._space = space
        self._descriptor = -1
        self._lease: Callable[[], None] | None = None
        self._size = 0  # of the file; what lies between `end` and it is nothing yet
        self._streamed = 0  # bytes of the payload that has no header yet
        self._synced = 0  # bytes of complete records that are durable
        self.end = 0  # and of those that are written
        self.closed = False

    def append(self, parts: Sequence[Buffer], metadata: bytes | None = None) -> Stored:
        """Write one record, durable when it returns. `parts`: the payload in pieces; `metadata`: its DICOM JSON.

        Raises `StorageFull`, or `OSError`; either way nothing of the record remains.
        """
        digest = hashlib.sha256()
        for part in parts:
            digest.update(part)
        stored = self.complete(parts, digest.digest(), metadata)
        self.sync()
        return stored

    def stream(self, parts: Sequence[Buffer]) -> None:
        """Write the next bytes of a payload, which `complete` ends. Raises as `append`, with the same effect."""
        views = _views(parts)
        self._write(views, self._payload + self._streamed)
        self._streamed += _bytes_of(views)

    def complete(self, parts: Sequence[Buffer], digest: bytes, metadata: bytes | None = None) -> Stored:
        """End a record with its last `parts`; `digest`: SHA-256 of its whole payload. Durable after `sync`.

        Raises as `append`.
        """
        views = _views(parts)
        offset, length = self._payload, self._streamed + _bytes_of(views)
        header = memoryview(HEADER.pack(MAGIC, VERSION, Kind.DICOM_FILE, length, digest))
        behind: list[memoryview] = []
        if metadata is not None:
            sha256 = hashlib.sha256(metadata).digest()
            head = HEADER.pack(MAGIC, VERSION, Kind.DICOM_JSON, len(metadata), sha256)
            behind = _views([head, metadata])
        if self._streamed:
            end = self._write([*views, *behind], offset + self._streamed)
            self._write([header], self.end)
        else:
            end = self._write([header, *views, *behind], self.end, whole=True)
        self.end, self._streamed = end, 0
        return Stored(
            self._segment, offset, length, digest.hex(), None if metadata is None else len(metadata)
        )

    def streamed(self) -> tuple[mmap.mmap, int]:
        """(mapping of the file, where in it the payload that is being streamed begins)."""
        begin = self._payload - self._payload % mmap.ALLOCATIONGRANULARITY
        length = self._payload + self._streamed - begin
        mapped = mmap.mmap(self._descriptor, length, prot=mmap.PROT_READ, offset=begin)
        return mapped, self._payload - begin

    def cut(self, end: int) -> None:
        """Take back what is being streamed, and the records from `end` on: nothing may point to them."""
        self.end = end
        self._synced = min(self._synced, end)
        self._back_out()

    def close(self) -> None:
        """Close and unlock the file, without its reserve; closing twice is harmless."""
        if self.closed:
            return
        self.closed = True
        if self._descriptor >= 0:
            self._trim()
            os.close(self._descriptor)
        if self._lease:
            self._lease()

    @property
    def _payload(self) -> int:
        """Where the payload of the next record begins."""
        return self.end + HEADER.size

    def _create(self) -> None:
        """Journal, directories, file, in this order: no file is unknown after a crash."""
        if self._descriptor >= 0:
            return
        self._lease = self._lease or self._journal.enter(self._segment)
        path = self._base / self._segment
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._descriptor = create(path)
        for directory in (path.parent, *list(path.parent.parents)[:3]):
            sync_directory(directory)

    def _write(self, views: Sequence[memoryview], position: int, *, whole: bool = False) -> int:
        """Write all of it at `position`; the position behind it. Nothing of the record remains when it fails.

        `whole`: it is a whole record, which may have a reserve behind it.
        """
        if self.closed:
            raise ValueError("the segment is closed")
        try:
            end = position + _bytes_of(views)
            with self._space.held(end - self._size, begins=not self._streamed) as left:
                self._create()
                reserve = _reserve(end - position) if whole and left >= RESERVE_BYTES else None
                self._put(views, position, reserve)
        except StorageFull:
            self._back_out()
            raise
        except OSError as error:
            self._back_out()
            if error.errno in _FULL:
                raise StorageFull from error
            raise
        return end

    def _put(self, views: Sequence[memoryview], position: int, reserve: memoryview | None) -> None:
        """The reserve is written as far as the first call takes it."""
        pending = list(views)
        while pending:
            some = pending[:_WRITEV_MAX]
            if reserve is not None and len(some) == len(pending):
                some.append(reserve)
            reserve = None
            written = os.pwritev(self._descriptor, some, position)
            position += written
            self._size = max(self._size, position)
            while pending and written >= len(pending[0]):
                written -= len(pending.pop(0))
            if pending and written:
                pending[0] = pending[0][written:]

    def hasten(self) -> None:
        """Have the kernel write now what `sync` will wait for."""
        begin_writeback(self._descriptor, self._synced, self.end - self._synced)

    def sync(self) -> None:
        """What is written is durable when it returns. Raises OSError; then nothing since the last time is there."""
        if self._synced == self.end:
            return
        try:
            os.fdatasync(self._descriptor)
        except OSError:
            # the kernel may have dropped the pages it could not write: never trust this descriptor again
            self.end = self._synced
            self._back_out()
            self.close()
            raise
        self._synced = self.end

    def _back_out(self) -> None:
        """Cut the file back to its last good end; without one, or if even that fails, write no more to it."""
        self._streamed = 0
        if self.closed:
            return
        try:
            if self._descriptor >= 0:
                os.ftruncate(self._descriptor, self.end)
                self._size = self.end
        except OSError:
            self.close()
        if self.end == 0:
            self.close()

    def _trim(self) -> None:
        """Leave no reserve, and no file without a record."""
        try:
            if self.end == 0:
                (self._base / self._segment).unlink(missing_ok=True)
            elif self._size > self.end:
                os.ftruncate(self._descriptor, self.end)
        except OSError as error:
            # harmless: no row points there, and the next start removes it (`Segments.recover`)
            said = {"action": "segment_not_trimmed", "study": study_of_segment(str(self._segment))}
            log.warning("bytes behind the last record stay: %s", type(error).__name__, extra=said)


def _reserve(record: int) -> memoryview | None:
    """Zeros behind a record of that length, if it is short."""
    size = max(_LEAST_RESERVE, _RESERVED_RECORDS * record)
    return _ZEROS[:size] if record <= SHORT_RECORD else None


def _views(parts: Sequence[Buffer]) -> list[memoryview]:
    views = (memoryview(part).cast("B") for part in parts)
    return [view for view in views if view.nbytes]


def _bytes_of(views: Sequence[memoryview]) -> int:
    return sum(map(len, views))
