"""One segment being written: records appended and synced, a failed one taken back."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dicom_store.journal import Journal, sync_directory
from dicom_store.scanner import Buffer
from dicom_store.segment_record import HEADER, MAGIC, VERSION, Kind
from dicom_store.status import Outcome, StoreRefused

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_WRITEV_MAX = 512  # buffers given to one call; the kernel takes 1024


class StorageFull(StoreRefused):
    """No room, or less than the free space that must remain."""

    def __init__(self, reason: str = "the storage is full") -> None:
        super().__init__(Outcome.OUT_OF_RESOURCES, reason)


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

    def __init__(self, base: Path, segment: str, journal: Journal, minimum_free_bytes: int) -> None:
        self._base = base
        self._segment = segment
        self._journal = journal
        self._minimum_free_bytes = minimum_free_bytes
        self._descriptor = -1
        self._lease: Callable[[], None] | None = None
        self.end = 0  # bytes written and synced
        self.closed = False

    def append(self, parts: Sequence[Buffer], metadata: bytes | None = None) -> Stored:
        """Write one record, durable when it returns. `parts`: the payload in pieces; `metadata`: its DICOM JSON.

        Raises `StorageFull`, or `OSError`; either way nothing of the record remains.
        """
        if self.closed:
            raise ValueError("the segment is closed")
        header, length, digest = _record_header(Kind.DICOM_FILE, parts)
        record = [header, *parts]
        if metadata is not None:
            record += [_record_header(Kind.DICOM_JSON, [metadata])[0], metadata]
        try:
            self._require_room(sum(memoryview(part).nbytes for part in record))
            self._create()
            end = self._write(record)
        except OSError as error:
            self._back_out()
            if error.errno in _FULL:
                raise StorageFull from error
            raise
        offset, self.end = self.end + len(header), end
        return Stored(self._segment, offset, length, digest, None if metadata is None else len(metadata))

    def close(self) -> None:
        """Close and unlock the file; closing twice is harmless."""
        if not self.closed:
            self.closed = True
            if self._descriptor >= 0:
                os.close(self._descriptor)
            if self._lease:
                self._lease()

    def _require_room(self, wanted: int) -> None:
        volume = os.statvfs(self._base)
        if volume.f_bavail * volume.f_frsize - wanted < self._minimum_free_bytes:
            raise StorageFull("less free space than must remain")

    def _create(self) -> None:
        """Journal, directories, file, in this order: no file is unknown after a crash."""
        if self._descriptor >= 0:
            return
        self._lease = self._lease or self._journal.enter(self._segment)
        path = self._base / self._segment
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        self._descriptor = os.open(path, flags, 0o600)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for directory in (path.parent, *list(path.parent.parents)[:3]):
            sync_directory(directory)

    def _write(self, parts: Sequence[Buffer]) -> int:
        """Write at the end of the file and sync; the new end."""
        pending = [memoryview(part).cast("B") for part in parts if memoryview(part).nbytes]
        position = self.end
        while pending:
            written = os.pwritev(self._descriptor, pending[:_WRITEV_MAX], position)
            position += written
            while pending and written >= len(pending[0]):
                written -= len(pending.pop(0))
            if written:
                pending[0] = pending[0][written:]
        try:
            os.fdatasync(self._descriptor)
        except OSError:
            # the kernel may have dropped the pages it could not write: never trust this descriptor again
            self._back_out()
            self.close()
            raise
        return position

    def _back_out(self) -> None:
        """Cut the file back to its last good end; without one, or if even that fails, write no more to it."""
        if self.closed:
            return
        try:
            if self._descriptor >= 0:
                os.ftruncate(self._descriptor, self.end)
        except OSError:
            self.close()
        if self.end == 0:
            self.close()


def _record_header(kind: Kind, parts: Sequence[Buffer]) -> tuple[bytes, int, str]:
    """(header of a record, length of its payload, SHA-256 of it in hexadecimal)."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    length = sum(memoryview(part).nbytes for part in parts)
    return HEADER.pack(MAGIC, VERSION, kind, length, digest.digest()), length, digest.hexdigest()
