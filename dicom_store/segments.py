"""Append-only segment files: the only file that opens image files.

A segment holds instances of one study, written by one association. Record = header (magic, version, payload
length, SHA-256 of the payload) + payload (a DICOM file). A record counts once a committed index row points to
it: after a crash, `Segments.recover` cuts whatever lies after the last one.

    root/segments/<2 hex>/<2 hex>/<StudyInstanceUID>/<random>.seg
    root/journal/<random>.journal      segments that a process created; locked while the process lives
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dicom_store.journal import Journal, abandoned_journals, sync_directory
from dicom_store.paths import study_directory
from dicom_store.scanner import Buffer
from dicom_store.segment_record import (
    HEADER,
    MAGIC,
    VERSION,
    SegmentAbsent,
    SegmentDamaged,
    check_record,
    count_records,
    is_segment_name,
)
from dicom_store.status import Outcome, StoreRefused

CHUNK_BYTES = 256 * 1024
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})  # ELOOP: a symbolic link is not a segment
_WRITEV_MAX = 512  # buffers given to one call; the kernel takes 1024


class StorageFull(StoreRefused):
    """No room, or less than the free space that must remain."""

    def __init__(self, reason: str = "the storage is full") -> None:
        super().__init__(Outcome.OUT_OF_RESOURCES, reason)


@dataclass(frozen=True, slots=True)
class Stored:
    """Where a payload is. `segment`: path under root/segments; the rest: of the payload, in bytes."""

    segment: str
    offset: int
    length: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Recovered:
    """A segment of a dead process. `dropped_records`: whole ones; `damaged`: why rows cannot be served, or ""."""

    segment: str
    kept_bytes: int
    dropped_bytes: int = 0
    dropped_records: int = 0
    damaged: str = ""


class Segments:
    """The segment files under one root. One object per process; safe for several processes on one root."""

    def __init__(self, root: Path, minimum_free_bytes: int) -> None:
        self._base = root / "segments"
        self._journals = root / "journal"
        self._minimum_free_bytes = minimum_free_bytes
        for directory in (self._base, self._journals):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for directory in (root, root.parent):
            sync_directory(directory)
        self._journal = Journal(self._journals)

    def writer(self, study_instance_uid: str) -> SegmentWriter:
        """A new segment for a study; its file is created by the first append. Raises `paths.InvalidUID`."""
        name = str(study_directory(study_instance_uid) / f"{secrets.token_hex(16)}.seg")
        return SegmentWriter(self._base, name, self._journal, self._minimum_free_bytes)

    def read(self, segment: str, offset: int, length: int, chunk: int = CHUNK_BYTES) -> Iterator[bytes]:
        """The payload at `offset`, `chunk` bytes at a time. Raises `SegmentDamaged` when it is not there."""
        with _opened(self._path(segment), os.O_RDONLY) as descriptor:
            check_record(descriptor, offset, length)
            end = offset + length
            while offset < end:
                data = os.pread(descriptor, min(chunk, end - offset), offset)
                if not data:
                    raise SegmentDamaged("the segment ends inside a record")
                offset += len(data)
                yield data

    def holds(self, segment: str, offset: int, length: int) -> bool:
        """Whether a record of that length is there whole."""
        try:
            with _opened(self._path(segment), os.O_RDONLY) as descriptor:
                check_record(descriptor, offset, length)
                return os.fstat(descriptor).st_size >= offset + length
        except SegmentDamaged:
            return False

    def recover(self, known_end: Callable[[str], int]) -> list[Recovered]:
        """Settle the segments of dead processes. `known_end(segment)`: end of the last row, 0 = none.

        Gives those in which something was dropped or is damaged. Journals of living processes are left alone.
        """
        recovered: list[Recovered] = []
        for journal in abandoned_journals(self._journals):
            with journal:
                recovered += [self._settle(segment, known_end) for segment in journal.segments]
                journal.remove()
        return [found for found in recovered if found.dropped_bytes or found.damaged]

    def names(self) -> Iterator[str]:
        """Every segment on disk, those being written included."""
        for path in self._base.glob("*/*/*/*.seg"):
            yield path.relative_to(self._base).as_posix()

    def drop(self, segment: str, known_end: Callable[[str], int]) -> int:
        """Delete a segment without rows; its size in bytes. 0, and nothing done, while it is written or has rows.

        `known_end` is asked under the segment's lock, and must see every row committed by then.
        """
        try:
            path = self._path(segment)
            with _opened(path, os.O_RDWR) as descriptor:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if known_end(segment):
                    return 0
                size = os.fstat(descriptor).st_size
                path.unlink()
                sync_directory(path.parent)
                return size
        except (BlockingIOError, SegmentAbsent):  # its association is open; or another process was faster
            return 0

    def close(self) -> None:
        """Let go of the journal; the next `recover` settles its segments."""
        self._journal.close()

    def _settle(self, segment: str, known_end: Callable[[str], int]) -> Recovered:
        kept = 0
        try:
            path = self._path(segment)
            kept = known_end(segment)
            with _opened(path, os.O_RDWR) as descriptor:
                size = os.fstat(descriptor).st_size
                if size < kept:
                    return Recovered(segment, size, damaged=f"rows up to byte {kept}, file of {size}")
                records = count_records(descriptor, kept, size)
                _truncate(descriptor, path, kept)
                return Recovered(segment, kept, size - kept, records)
        except SegmentAbsent as error:
            # journalled before it was created: without rows, its absence is the crash itself
            return Recovered(segment, 0, damaged=str(error) if kept else "")
        except SegmentDamaged as error:
            return Recovered(segment, 0, damaged=str(error))

    def _path(self, segment: str) -> Path:
        """The file of a segment. Raises `SegmentDamaged` for a name that is not of the layout."""
        path = self._base / segment
        if not is_segment_name(segment) or not path.parent.resolve().is_relative_to(self._base.resolve()):
            raise SegmentDamaged("not the name of a segment under the storage root")
        return path


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

    def append(self, parts: Sequence[Buffer]) -> Stored:
        """Write one record, durable when it returns. `parts`: the payload in pieces.

        Raises `StorageFull`, or `OSError`; either way nothing of the record remains.
        """
        if self.closed:
            raise ValueError("the segment is closed")
        digest = hashlib.sha256()
        for part in parts:
            digest.update(part)
        length = sum(memoryview(part).nbytes for part in parts)
        header = HEADER.pack(MAGIC, VERSION, 0, length, digest.digest())
        try:
            self._require_room(len(header) + length)
            self._create()
            self._write([header, *parts])
        except OSError as error:
            self._back_out()
            if error.errno in _FULL:
                raise StorageFull from error
            raise
        stored = Stored(self._segment, self.end + len(header), length, digest.hexdigest())
        self.end = stored.offset + length
        return stored

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

    def _write(self, parts: Sequence[Buffer]) -> None:
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


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    try:
        descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno in _ABSENT:
            raise SegmentAbsent("the segment is missing") from error
        raise
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _truncate(descriptor: int, path: Path, kept: int) -> None:
    """Keep the first `kept` bytes, durably; no file at all for 0."""
    os.ftruncate(descriptor, kept)
    os.fsync(descriptor)
    if kept == 0:
        path.unlink()
        sync_directory(path.parent)
