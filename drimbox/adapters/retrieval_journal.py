"""The journal of retrievals: what is being served, on disk until the trace has it. Survives the process.

    directory/<random>.journal      one per process (a new one when it is full), locked while the process lives

A file of a fixed size, its room taken from the disk when it is made, written through memory: an append costs no call
to the kernel and cannot fail half way. Lines of JSON, then zeros: `["b", n, record]` begun, `["b", n, record, end]`
begun and ended at once, `["e", n, end]` ended, `["d", [n…]]` the trace has these. A file of which nothing is open is
begun anew.
"""

from __future__ import annotations

import errno
import fcntl
import json
import mmap
import os
import secrets
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from drimbox.domain.errors import Unavailable

FILE_BYTES = 1024 * 1024
_RESERVED = 1024  # bytes for the end of a record, and its number when it is settled
Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Entry:
    """One record of the journal of this process."""

    file: _File
    number: int

    @property
    def id(self) -> str:
        """Unique among all processes, for ever."""
        return f"{self.file.name}-{self.number}"


class RetrievalJournal:
    """The journal of this process, and those of dead ones. Nothing is created before the first record.

    Safe for threads; to be made, or first used, after the process was forked.
    """

    def __init__(self, directory: Path, file_bytes: int = FILE_BYTES) -> None:
        self._directory = directory
        self._file_bytes = file_bytes
        self._current: _File | None = None
        self._retired: list[_File] = []
        self._count = 0
        self._lock = threading.Lock()

    def begin(self, record: Mapping[str, Any], end: Mapping[str, Any] | None = None) -> Entry:
        """Write down that something is begun; with `end`, that it has ended as well. Raises `Unavailable`."""
        with self._lock, _told():
            self._count += 1
            line = _line(["b", self._count, record] if end is None else ["b", self._count, record, end])
            file = self._file(len(line))
            file.append(line)
            file.open += 1
            return Entry(file, self._count)

    def end(self, entry: Entry, record: Mapping[str, Any]) -> None:
        """Write down how it ended. Raises `Unavailable`: its file is full."""
        with self._lock, _told():
            entry.file.append(_line(["e", entry.number, record]))

    def settle(self, entries: Iterable[Entry]) -> None:
        """The trace has these. Raises `Unavailable`; a record that is settled in part is found in the trace again."""
        numbers: dict[_File, list[int]] = {}
        for entry in entries:
            numbers.setdefault(entry.file, []).append(entry.number)
        with self._lock, _told():
            for file, settled in numbers.items():
                self._settle(file, settled)

    def abandoned(self) -> Iterator[AbandonedJournal]:
        """The journals whose process is dead, each locked by us until it is released."""
        with self._lock:
            ours = {file.name for file in (self._current, *self._retired) if file is not None}
        for path in sorted(self._directory.glob("*.journal")):
            found = None if path.stem in ours else _seize(path)
            if found is not None:
                yield found

    def close(self) -> None:
        """Let go: what is still open is found by others."""
        with self._lock:
            for file in (self._current, *self._retired):
                if file is not None:
                    file.leave()
            self._current, self._retired = None, []

    def _file(self, length: int) -> _File:
        """Where a line is begun, with room for its end."""
        current = self._current
        if current is not None and current.has_room(length):
            return current
        self._current = _File.create(self._directory, self._file_bytes)
        if current is not None:
            self._retired.append(current)
        return self._current

    def _settle(self, file: _File, numbers: list[int]) -> None:
        file.open -= len(numbers)
        if file.open:
            file.append(_line(["d", numbers]))
        elif file is self._current:
            file.clear()
        elif file in self._retired:
            self._retired.remove(file)
            file.leave()


class _File:
    """One file of this process, open and locked. `open`: records that the trace does not have."""

    def __init__(self, path: Path, descriptor: int, room: mmap.mmap) -> None:
        self._path, self._descriptor, self._room = path, descriptor, room
        self.name = path.stem
        self.open = 0
        self._size = 0

    @classmethod
    def create(cls, directory: Path, size: int) -> _File:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = directory / f"{secrets.token_hex(8)}.new"
        descriptor = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.posix_fallocate(descriptor, 0, size)  # a full disk is met here, never in the memory below
            room = mmap.mmap(descriptor, size)
            # it gets its name once locked: found unlocked, it would be taken for a dead process's
            return cls(draft.rename(draft.with_suffix(".journal")), descriptor, room)
        except OSError:
            draft.unlink(missing_ok=True)
            os.close(descriptor)
            raise

    def has_room(self, length: int) -> bool:
        """Whether a line may begin here: every line that has begun keeps room for its end and its settling."""
        return self._size + length + (self.open + 1) * _RESERVED <= len(self._room)

    def append(self, line: bytes) -> None:
        end = self._size + len(line)
        if end > len(self._room):
            raise OSError(errno.ENOSPC, "the file is full")
        self._room[self._size : end] = line
        self._size = end

    def clear(self) -> None:
        self._room[: self._size] = bytes(self._size)
        self._size = 0

    def leave(self) -> None:
        """Close it; delete it when nothing is open."""
        if not self.open:
            self._path.unlink(missing_ok=True)
        self._room.close()
        os.close(self._descriptor)


class AbandonedJournal:
    """The journal of a dead process. `records`: those that the trace may not have, begun and end, by id."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path, self._descriptor = path, descriptor
        self.records: dict[str, tuple[Record, Record | None]] = {}
        for line in path.read_bytes().partition(b"\0")[0].split(b"\n"):
            self._take(line)

    def remove(self) -> None:
        """The trace has every record."""
        self._path.unlink(missing_ok=True)

    def release(self) -> None:
        """Let others have it, unless it was removed."""
        os.close(self._descriptor)

    def _take(self, line: bytes) -> None:
        try:
            match json.loads(line or b"null"):
                case ["b", int(number), dict(record), *end]:
                    self.records[self._id(number)] = (record, end[0] if end else None)
                case ["e", int(number), dict(end)] if self._id(number) in self.records:
                    self.records[self._id(number)] = (self.records[self._id(number)][0], end)
                case ["d", list(numbers)]:
                    for number in numbers:
                        self.records.pop(self._id(number), None)
        except ValueError:  # the last line of a process that died while it wrote
            return

    def _id(self, number: int) -> str:
        return f"{self._path.stem}-{number}"


def _seize(path: Path) -> AbandonedJournal | None:
    """The journal locked by us; None while its process lives, or when somebody else settled it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        left = AbandonedJournal(path, descriptor) if os.fstat(descriptor).st_nlink else None
    except OSError as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError | FileNotFoundError):
            return None
        raise
    if left is None:
        os.close(descriptor)
    return left


def _line(content: list[Any]) -> bytes:
    try:
        return orjson.dumps(content, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:  # half a character of UTF-16, which JSON can say and UTF-8 cannot
        return json.dumps(content).encode("ascii") + b"\n"


class _told:  # noqa: N801 a context manager without the cost of a generator
    """Faults of the disk as `Unavailable`."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            raise Unavailable(f"the audit journal cannot be written: {error.strerror}") from error
