"""Files that are there whole or not at all, whatever stops the process; and one process at a time."""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PARTIAL = ".partial-"  # begins the name of what is being written; left behind only by a crash

ABANDONED = 3600.0  # seconds: no write lasts that long


class Locked(Exception):
    """Another process or thread holds the lock."""


class Unwritable(Exception):
    """The directory or the lock file cannot be made or opened."""


class Oversized(Exception):
    """A file is longer than allowed."""


def write_durably(path: Path, octets: bytes, mode: int = 0o640) -> None:
    """Temporary file in the same directory, fsync, rename, fsync of the directory. Raises OSError, leaving `path`
    as it was.
    """
    handle, name = tempfile.mkstemp(prefix=PARTIAL, dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as out:
            os.fchmod(out.fileno(), mode)
            out.write(octets)
            out.flush()
            os.fsync(out.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    _sync(path.parent)


def make_directory(path: Path) -> None:
    """The directory and its parents, durable once it holds something. Raises OSError."""
    if not path.is_dir():
        path.mkdir(parents=True, exist_ok=True)
        _sync(path.parent)


def sweep(directory: Path) -> int:
    """Delete what crashes left half written, an hour ago at least. Returns how many. Raises OSError."""
    before = time.time() - ABANDONED
    left = [path for path in sorted(directory.glob(f"{PARTIAL}*")) if path.stat().st_mtime < before]
    for path in left:
        path.unlink(missing_ok=True)
    return len(left)


def read_bounded(path: Path, max_bytes: int) -> bytes:
    """The whole file. Raises OSError, `Oversized`."""
    with path.open("rb") as source:
        octets = source.read(max_bytes + 1)
    if len(octets) > max_bytes:
        raise Oversized(f"{path.name} is longer than {max_bytes} bytes")
    return octets


@contextmanager
def exclusively(path: Path) -> Iterator[None]:
    """Hold the lock file `path`; a crash of the holder frees it. Raises `Locked` at once, `Unwritable`."""
    try:
        make_directory(path.parent)
        handle = path.open("ab")
    except OSError as error:
        raise Unwritable(f"{path.name} cannot be opened: {error.strerror}") from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Locked(f"{path.name} is held by another process") from error
        yield


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
