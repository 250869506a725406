"""A segment as a file under the root: named by the layout, never through a link, made locked."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dicom_store.segment_record import SegmentAbsent, SegmentDamaged, is_segment_name

_ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})  # ELOOP: a symbolic link is not a segment


def path_of(base: Path, segment: str) -> Path:
    """The file of a segment. Raises `SegmentDamaged` for a name that is not of the layout."""
    path = base / segment
    if not is_segment_name(segment) or not path.parent.resolve().is_relative_to(base.resolve()):
        raise SegmentDamaged("not the name of a segment under the storage root")
    return path


@contextmanager
def opened(base: Path, segment: str, flags: int = os.O_RDONLY) -> Iterator[int]:
    """A descriptor of a segment. Raises `SegmentAbsent`, as `path_of`, OSError."""
    try:
        descriptor = os.open(path_of(base, segment), flags | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno in _ABSENT:
            raise SegmentAbsent("the segment is missing") from error
        raise
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def held(base: Path, segment: str) -> Iterator[int]:
    """A descriptor of a segment, locked. Raises BlockingIOError when somebody else holds it, and as `opened`."""
    with opened(base, segment, os.O_RDWR) as descriptor:  # what NFS wants for such a lock (flock(2))
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield descriptor


def create(path: Path) -> int:
    """A descriptor of a new file, locked. Raises OSError.

    Between the two steps it looks like one that nobody writes: somebody may be looking at it, which does not last,
    or have deleted it; then it is made anew.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    while True:
        descriptor = os.open(path, flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            is_there = os.fstat(descriptor).st_nlink > 0
        except OSError:
            os.close(descriptor)
            raise
        if is_there:
            return descriptor
        os.close(descriptor)
