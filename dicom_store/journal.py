"""Which segments a process has created: what must be looked at again after it died.

One file per process (one at a time), locked with flock while the process may still write to a segment that it
names; one synced line per segment, written before the segment is created. A file that nobody locks belongs to
a process that is dead, or has finished with it. `*.intake.journal` names segments that instances arrive in: what is
whole there was, or may have been, acknowledged. The others name copies.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

INTAKE = ".intake"  # the kind of a journal
LINES_PER_FILE = 256  # then a new file is begun, and the old one let go once its segments are closed


class Journal:
    """The journal of this process; nothing is created before the first entry. Safe for several threads."""

    def __init__(self, directory: Path, kind: str = "") -> None:
        self._directory = directory
        self._kind = kind
        self._current: _File | None = None
        self._lock = threading.Lock()

    def enter(self, segment: str) -> Callable[[], None]:
        """Write a segment down, durably. Returns what to call once it is closed. Raises `OSError`."""
        with self._lock:
            if self._current is None or self._current.lines >= LINES_PER_FILE:
                self._retire()
                self._current = _File(self._directory, self._kind)
            file = self._current
            file.add(segment)
        return lambda: self._leave(file)

    def close(self) -> None:
        """Let go of the file as soon as no segment of it is open."""
        with self._lock:
            self._retire()

    def _leave(self, file: _File) -> None:
        with self._lock:
            file.open_segments -= 1
            file.close_if_done()

    def _retire(self) -> None:
        if self._current is not None:
            self._current.retired = True
            self._current.close_if_done()
            self._current = None


class _File:
    """One journal file of this process, open and locked."""

    def __init__(self, directory: Path, kind: str) -> None:
        name = secrets.token_hex(16) + kind
        path, named = directory / f"{name}.new", directory / f"{name}.journal"
        self._descriptor = os.open(
            path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600
        )
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # it gets its name once locked: found unlocked, it would be taken for a dead process's
            path.rename(named)
            sync_directory(directory)
        except OSError:
            os.close(self._descriptor)
            for one in (path, named):
                one.unlink(missing_ok=True)
            raise
        self.lines = 0
        self.open_segments = 0
        self.retired = False

    def add(self, segment: str) -> None:
        line = segment.encode("ascii") + b"\n"
        lines, self.lines = self.lines, LINES_PER_FILE  # if this fails, the torn line stays the last one
        if os.write(self._descriptor, line) != len(line):
            raise OSError(errno.ENOSPC, "the journal took only part of a line")
        os.fsync(self._descriptor)
        self.lines = lines + 1
        self.open_segments += 1

    def close_if_done(self) -> None:
        if self.retired and self.open_segments == 0 and self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class AbandonedJournal:
    """The journal of a dead process, locked by us while it is settled (a context manager)."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor
        whole, _, _torn = path.read_bytes().rpartition(b"\n")
        # a torn last line was never synced: the segment that it would name was not created
        self.is_intake = path.stem.endswith(INTAKE)
        self.segments = [line.decode("ascii", "replace") for line in whole.split(b"\n") if line]

    def __enter__(self) -> AbandonedJournal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)

    def remove(self) -> None:
        """Every segment is settled: forget them."""
        self._path.unlink()
        sync_directory(self._path.parent)


def abandoned_journals(directory: Path) -> Iterator[AbandonedJournal]:
    """The journals whose process is dead, each locked."""
    for path in sorted(directory.glob("*.journal")):
        try:
            # to write: NFS wants that for such a lock (flock(2))
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:  # settled by another process meanwhile
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # its process is alive
            os.close(descriptor)
            continue
        if os.fstat(descriptor).st_nlink == 0:  # settled between our open and our lock
            os.close(descriptor)
            continue
        yield AbandonedJournal(path, descriptor)


def sync_directory(directory: Path) -> None:
    """Make the entries of a directory durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
