"""Segment files as those see them who look after them: which there are, which are sealed, copied record by record.

A segment is sealed once its writer has closed it: writers hold a lock (flock) as long as they may append, and
nothing opens a segment to append a second time.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

from dicom_store.free_space import FreeSpace, StorageFull
from dicom_store.journal import Journal, sync_directory
from dicom_store.paths import InvalidUID, study_directory
from dicom_store.segment_file import create, held, opened
from dicom_store.segment_record import CHUNK_BYTES, SegmentAbsent, SegmentDamaged

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class SegmentBusy(Exception):
    """Somebody holds the lock of the segment: it is being written, or looked after elsewhere."""


class SegmentCare:
    """The segments under one root. One object per process; safe for several processes on one root."""

    def __init__(self, root: Path, minimum_free_bytes: int) -> None:
        self._base = root / "segments"
        self._journals = root / "journal"
        self._space = FreeSpace(self._base, minimum_free_bytes)
        self._journal = Journal(self._journals)

    def names_of(self, study: str) -> list[str]:
        """The segments on disk of a study, by name. Raises `paths.InvalidUID`."""
        directory = study_directory(study)
        return sorted(f"{directory}/{path.name}" for path in (self._base / directory).glob("*.seg"))

    def studies(self) -> Iterator[str]:
        """Every study that has a directory, in the order of the directories."""
        for first in _directories(self._base):
            for second in _directories(first):
                for study in _directories(second):
                    if _is_study(study.name, study.relative_to(self._base)):
                        yield study.name

    def size(self, segment: str) -> int:
        """Bytes of its file. Raises `SegmentAbsent`, `SegmentDamaged` for a name that is not of the layout."""
        with self.opened(segment) as descriptor:
            return os.fstat(descriptor).st_size

    def exists(self, segment: str) -> bool:
        """Whether there is such a file."""
        try:
            return self.size(segment) >= 0
        except SegmentAbsent:
            return False

    def is_sealed(self, segment: str) -> bool:
        """Whether nobody may append to it any more. Raises as `size`."""
        try:
            with self.opened(segment) as descriptor:
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    @contextmanager
    def sealed(self, segment: str) -> Iterator[int]:
        """A descriptor of a sealed segment, locked while the context lasts. Raises `SegmentBusy`, and as `size`."""
        with ExitStack() as locked:
            try:
                descriptor = locked.enter_context(held(self._base, segment))
            except BlockingIOError as error:
                raise SegmentBusy(segment) from error
            yield descriptor

    def opened(self, segment: str) -> AbstractContextManager[int]:
        """A descriptor of a segment. Raises as `size`."""
        return opened(self._base, segment)

    def begin_copy(self, study: str, size: int) -> SegmentCopy:
        """A new segment for `size` bytes of records of a study. Raises `StorageFull`, OSError."""
        if self._space.now() < size:
            raise StorageFull("less free space than must remain")
        name = str(study_directory(study) / f"{secrets.token_hex(16)}.seg")
        # journalled before it is created: whatever happens now, `Segments.recover` finds it
        return SegmentCopy(self._base / name, name, self._journal.enter(name))

    def close(self) -> None:
        """This process makes no more copies."""
        self._journal.close()


class SegmentCopy:
    """A new segment that takes over records of a sealed one, byte for byte. Locked while open, like any writer's."""

    def __init__(self, path: Path, segment: str, lease: Callable[[], None]) -> None:
        self.segment = segment
        self.end = 0  # bytes written
        self._path = path
        self._lease = lease
        self._descriptor = -1

    def take(self, source: int, start: int, end: int) -> int:
        """Append what `source` holds from `start` up to `end`; where it begins here. Raises `StorageFull`, OSError."""
        self._create()
        begin = self.end
        try:
            while start < end:
                copied = os.sendfile(self._descriptor, source, start, min(CHUNK_BYTES, end - start))
                if not copied:
                    raise SegmentDamaged("the segment ends inside a record")
                start, self.end = start + copied, self.end + copied
        except OSError as error:
            if error.errno in _FULL:
                raise StorageFull from error
            raise
        return begin

    def finish(self) -> int:
        """Everything taken is durable; a descriptor to read it. Raises OSError."""
        self._create()
        os.fsync(self._descriptor)
        for directory in (self._path.parent, *list(self._path.parent.parents)[:3]):
            sync_directory(directory)
        return self._descriptor

    def close(self) -> None:
        """Unlock it: it is sealed now. Closing twice is harmless."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        lease, self._lease = self._lease, _nothing
        lease()

    def discard(self) -> None:
        """It is not wanted: nothing of it remains."""
        if self._descriptor >= 0:
            self._path.unlink(missing_ok=True)
        self.close()

    def _create(self) -> None:
        if self._descriptor < 0:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._descriptor = create(self._path)


def _nothing() -> None:
    """A lease that was given back."""


def _directories(place: Path) -> list[Path]:
    return sorted(path for path in place.iterdir() if path.is_dir() and not path.is_symlink())


def _is_study(name: str, relative: Path) -> bool:
    try:
        return Path(study_directory(name)) == relative
    except InvalidUID:
        return False
