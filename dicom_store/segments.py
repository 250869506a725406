"""Append-only segment files: where they are, how they are read, what a crash leaves (written: `segment_writer`).

A segment holds instances of one study, written by one association. Record = header (magic, version, kind, payload
length, SHA-256 of the payload) + payload: a DICOM file, or directly behind it the DICOM JSON of that instance. An
index row points to each. The row may be lost with the power where the record was synced: after a crash,
`Segments.recover` offers what is whole behind the last row to be indexed again, and cuts off the rest. While a
segment is written, zeros may follow its last record: its writer's reserve.

    root/segments/<2 hex>/<2 hex>/<StudyInstanceUID>/<random>.seg
    root/journal/<random>.journal      segments that a process created; locked while the process lives
"""

from __future__ import annotations

import mmap
import os
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from dicom_store.free_space import FreeSpace
from dicom_store.journal import INTAKE, Journal, abandoned_journals, sync_directory
from dicom_store.paths import study_directory
from dicom_store.segment_file import held, opened, path_of
from dicom_store.segment_record import (
    LOST,
    Kind,
    SegmentAbsent,
    SegmentDamaged,
    WholeRecord,
    check_record,
    holds_data,
    prove_instance,
    whole_records,
)
from dicom_store.segment_source import SegmentSource
from dicom_store.segment_writer import SegmentWriter

Readmit = Callable[[str, WholeRecord], bool]

CHUNK_BYTES = 256 * 1024
SOURCES = 4096  # names of segments whose files were looked up


@dataclass(frozen=True, slots=True)
class Recovered:
    """A segment of a dead process. `dropped_records`, `readmitted`: whole DICOM files; `damaged`: why rows are not
    served, or "".

    `dropped_bytes`: 0 when only the writer's reserve was cut off; `is_left`: to the next start.
    """

    segment: str
    kept_bytes: int
    dropped_bytes: int = 0
    dropped_records: int = 0
    readmitted: int = 0
    damaged: str = ""
    is_left: bool = False


class Segments:
    """The segment files under one root. One object per process; safe for several processes on one root."""

    def __init__(self, root: Path, minimum_free_bytes: int) -> None:
        self._base = root / "segments"
        self._journals = root / "journal"
        self.space = FreeSpace(self._base, minimum_free_bytes)
        for directory in (self._base, self._journals):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for directory in (root, root.parent):
            sync_directory(directory)
        self._journal = Journal(self._journals, INTAKE)
        self._sources: dict[str, SegmentSource] = {}
        self._entered: set[object] = set()

    def enter(self) -> Callable[[], None]:
        """Somebody takes instances in, until what this gives is called (once, or more often)."""
        token = object()
        self._entered.add(token)
        return lambda: self._entered.discard(token)

    @property
    def entered(self) -> int:
        """How many take instances in."""
        return len(self._entered)

    def writer(self, study_instance_uid: str) -> SegmentWriter:
        """A new segment for a study; its file is created by the first append. Raises `paths.InvalidUID`."""
        name = str(study_directory(study_instance_uid) / f"{secrets.token_hex(16)}.seg")
        return SegmentWriter(self._base, name, self._journal, self.space)

    def read(
        self,
        segment: str,
        offset: int,
        length: int,
        chunk: int = CHUNK_BYTES,
        kind: Kind = Kind.DICOM_FILE,
    ) -> Iterator[bytes]:
        """The payload at `offset`, `chunk` bytes at a time. Raises `SegmentDamaged` when it is not there."""
        with opened(self._base, segment) as descriptor:
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
        with opened(self._base, segment) as descriptor:
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
            known = self._sources[segment] = SegmentSource(path_of(self._base, segment))
        return known

    def holds(
        self,
        segment: str,
        offset: int,
        length: int,
        sha256: str | None = None,
        metadata_length: int | None = None,
    ) -> bool:
        """Whether an instance is there as it was written: its bytes are read and hashed again.

        `sha256`: of the index. What the disk cannot read is not there. Raises OSError.
        """
        try:
            with opened(self._base, segment) as descriptor:
                prove_instance(descriptor, offset, length, sha256, metadata_length)
        except SegmentDamaged:
            return False
        except OSError as error:
            if error.errno not in LOST:
                raise
            return False
        return True

    def recover(
        self,
        known_end: Callable[[str], int],
        readmit: Readmit = lambda _segment, _record: False,
        before_forgetting: Callable[[], object] = lambda: None,
    ) -> list[Recovered]:
        """Settle the segments of dead processes. `known_end(segment)`: end of the last row, 0 = none.

        Gives those in which something was dropped, readmitted, or is damaged. Journals of living processes are left
        alone. `known_end` is asked under the segment's lock, and must see every row committed by then; `readmit` is
        offered every whole record behind it in a segment of arrivals, in their order: whether a row points to it now.
        `before_forgetting` makes durable what the rows say, before a journal goes.
        """
        recovered: list[Recovered] = []
        for journal in abandoned_journals(self._journals):
            with journal:
                offered = readmit if journal.is_intake else None
                settled = [self._settle(segment, known_end, offered) for segment in journal.segments]
                if not any(one.is_left for one in settled):
                    before_forgetting()
                    journal.remove()
                recovered += settled
        return [found for found in recovered if found.dropped_bytes or found.readmitted or found.damaged]

    def written_at(self, segment: str) -> datetime:
        """When something was written to a segment last. Raises `SegmentDamaged`, OSError."""
        return datetime.fromtimestamp(path_of(self._base, segment).stat().st_mtime, UTC)

    def names(self) -> Iterator[str]:
        """Every segment on disk, those being written included."""
        for path in self._base.glob("*/*/*/*.seg"):
            yield path.relative_to(self._base).as_posix()

    def drop(self, segment: str, known_end: Callable[[str], int]) -> int:
        """Delete a segment without rows; its size in bytes. 0, and nothing done, while it is written or has rows.

        `known_end` is asked under the segment's lock, and must see every row committed by then.
        """
        try:
            path = path_of(self._base, segment)
            with held(self._base, segment) as descriptor:
                if known_end(segment):
                    return 0
                size = os.fstat(descriptor).st_size
                _delete(path)
                return size
        except (BlockingIOError, SegmentAbsent):  # its association is open; or another process was faster
            return 0

    def close(self) -> None:
        """Let go of the journal; the next `recover` settles its segments."""
        self._journal.close()

    def _settle(self, segment: str, known_end: Callable[[str], int], readmit: Readmit | None) -> Recovered:
        """Under the lock of the segment: nobody moves its rows elsewhere, or deletes it, meanwhile."""
        try:
            with held(self._base, segment) as descriptor:
                return self._cut(descriptor, segment, known_end(segment), readmit)
        except SegmentAbsent as error:
            # journalled before it was created: without rows, its absence is the crash itself
            return Recovered(segment, 0, damaged=str(error) if known_end(segment) else "")
        except SegmentDamaged as error:
            return Recovered(segment, 0, damaged=str(error))
        except BlockingIOError:
            return Recovered(segment, 0, is_left=True)  # compacted, verified or dropped just now
        except OSError as error:
            # one file that cannot be read or cut is no reason to take nothing in
            return Recovered(segment, 0, damaged=f"not settled: {error.strerror}", is_left=True)

    def _cut(self, descriptor: int, segment: str, kept: int, readmit: Readmit | None) -> Recovered:
        """Keep the first `kept` bytes and what is readmitted behind them, durably; no file at all for 0."""
        size = os.fstat(descriptor).st_size
        if size < kept:
            return Recovered(segment, size, damaged=f"rows up to byte {kept}, file of {size}")
        readmitted = dropped_records = 0
        for record in whole_records(descriptor, kept, size):
            if readmit is not None and readmit(segment, record):
                kept, readmitted = record.end, readmitted + 1
            else:
                dropped_records += 1
        dropped = size - kept if holds_data(descriptor, kept, size) else 0
        os.ftruncate(descriptor, kept)
        os.fsync(descriptor)
        if kept == 0:
            _delete(self._base / segment)
        return Recovered(segment, kept, dropped, dropped_records, readmitted)


def _delete(path: Path) -> None:
    path.unlink(missing_ok=True)
    sync_directory(path.parent)
