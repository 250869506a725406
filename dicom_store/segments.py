"""Append-only segment files: where they are, how they are read, what a crash leaves (written: `segment_writer`).

A segment holds instances of one study, written by one association. Record = header (magic, version, kind, payload
length, SHA-256 of the payload) + payload: a DICOM file, or directly behind it the DICOM JSON of that instance. A
record counts once a committed index row points to it: after a crash, `Segments.recover` cuts whatever lies after
the last one. While a segment is written, zeros may follow its last record: its writer's reserve.

    root/segments/<2 hex>/<2 hex>/<StudyInstanceUID>/<random>.seg
    root/journal/<random>.journal      segments that a process created; locked while the process lives
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dicom_store.journal import Journal, abandoned_journals, sync_directory
from dicom_store.paths import study_directory
from dicom_store.segment_record import (
    Kind,
    SegmentAbsent,
    SegmentDamaged,
    check_record,
    count_records,
    holds_data,
    is_segment_name,
)
from dicom_store.segment_source import SegmentSource
from dicom_store.segment_writer import SegmentWriter

CHUNK_BYTES = 256 * 1024
SOURCES = 4096  # names of segments whose files were looked up
_ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})  # ELOOP: a symbolic link is not a segment


@dataclass(frozen=True, slots=True)
class Recovered:
    """A segment of a dead process. `dropped_records`: whole DICOM files; `damaged`: why rows are not served, or "".

    `dropped_bytes`: 0 when only the writer's reserve was cut off.
    """

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
        self._sources: dict[str, SegmentSource] = {}

    def writer(self, study_instance_uid: str) -> SegmentWriter:
        """A new segment for a study; its file is created by the first append. Raises `paths.InvalidUID`."""
        name = str(study_directory(study_instance_uid) / f"{secrets.token_hex(16)}.seg")
        return SegmentWriter(self._base, name, self._journal, self._minimum_free_bytes)

    def read(
        self,
        segment: str,
        offset: int,
        length: int,
        chunk: int = CHUNK_BYTES,
        kind: Kind = Kind.DICOM_FILE,
    ) -> Iterator[bytes]:
        """The payload at `offset`, `chunk` bytes at a time. Raises `SegmentDamaged` when it is not there."""
        with _opened(self._path(segment), os.O_RDONLY) as descriptor:
            check_record(descriptor, offset, length, kind)
            end = offset + length
            while offset < end:
                data = os.pread(descriptor, min(chunk, end - offset), offset)
                if not data:
                    raise SegmentDamaged("the segment ends inside a record")
                offset += len(data)
                yield data

    def view(self, segment: str, offset: int, length: int) -> memoryview:
        """The payload of a DICOM file without reading it: pages come when they are looked at (mmap).

        Raises `SegmentDamaged` when it is not there.
        """
        with _opened(self._path(segment), os.O_RDONLY) as descriptor:
            check_record(descriptor, offset, length)
            if os.fstat(descriptor).st_size < offset + length:
                raise SegmentDamaged("the segment ends inside a record")
            begin = offset - offset % mmap.ALLOCATIONGRANULARITY
            mapped = mmap.mmap(descriptor, offset + length - begin, prot=mmap.PROT_READ, offset=begin)
        return memoryview(mapped)[offset - begin :]  # unmapped with its last view

    def source(self, segment: str) -> SegmentSource:
        """The file of a segment as the source of a body's extents. Raises `SegmentDamaged` as `read`."""
        known = self._sources.get(segment)
        if known is None:
            if len(self._sources) >= SOURCES:
                self._sources.clear()
            known = self._sources[segment] = SegmentSource(self._path(segment))
        return known

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
                dropped = size - kept if holds_data(descriptor, kept, size) else 0
                _truncate(descriptor, path, kept)
                return Recovered(segment, kept, dropped, records)
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
