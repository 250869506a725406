"""Converted files on disk: found by name, proven before use, the least recently used ones dropped beyond a bound.

Safe for several processes on one directory. A file = content, then its SHA-256. Readers hold a descriptor, so
that what is dropped never vanishes under them. mtime = made, atime = last used.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import secrets
import time
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

from dicom_store.free_space import FreeSpace

_DIGEST_BYTES = 32
_CHUNK = 1 << 20
_ABANDONED = 3600.0  # seconds after which a temporary file is nobody's
_KEPT_SHARE = 0.9  # of the bound, after dropping
_RECOUNT = 200  # files added before the directory is counted again: other processes add too
_KNOWN = 4096  # files remembered as proven


class CachedFile:
    """A converted file, open. `length`: bytes of content, from offset 0. Close it; it may be gone from disk."""

    def __init__(self, descriptor: int, length: int) -> None:
        self._descriptor = descriptor
        self.length = length

    def fileno(self) -> int:
        """The descriptor: for pread and sendfile, its position is nobody's. Raises ValueError once closed."""
        if self._descriptor < 0:
            raise ValueError("the converted file is closed")
        return self._descriptor

    def read(self, offset: int = 0, length: int | None = None) -> bytes:
        """`length` bytes of content from `offset`; None = to its end."""
        end = self.length if length is None else min(self.length, offset + length)
        return os.pread(self.fileno(), max(0, end - offset), offset)

    def duplicate(self) -> CachedFile:
        """Another hold on the same file, closed on its own."""
        return CachedFile(os.dup(self.fileno()), self.length)

    def close(self) -> None:
        """Let go; closing twice is harmless."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> CachedFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


class TranscodeCache:
    """One directory of converted files. Blocking; `find` in any thread, `publish` in one at a time.

    `minimum_free_bytes`: with less free space than that nothing is kept, and what was kept goes: it is made again.
    """

    def __init__(self, directory: Path, limit: int, minimum_free_bytes: int = 0) -> None:
        self._space = FreeSpace(directory, minimum_free_bytes)
        self._directory = directory
        self._limit = limit  # bytes; 0 = nothing is kept
        self._proven: OrderedDict[str, tuple[int, ...]] = OrderedDict()
        self._size = self._added = 0
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)
        self._trim(limit)

    def temporary(self) -> Path:
        """A new path in which to prepare a file, also when somebody emptied the disk of ours."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self._directory / f".{secrets.token_hex(16)}.part"

    def find(self, name: str) -> CachedFile | None:
        """The file of that name, or None; a damaged one is dropped."""
        path = self._directory / name
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return None
        file = CachedFile(descriptor, os.fstat(descriptor).st_size - _DIGEST_BYTES)
        if not self._is_proven(name, file):
            file.close()
            path.unlink(missing_ok=True)
            return None
        status = os.fstat(descriptor)
        os.utime(descriptor, ns=(time.time_ns(), status.st_mtime_ns))
        return file

    def publish(self, prepared: Path, name: str, length: int) -> CachedFile:
        """Take a prepared file of `length` bytes of content in, under that name; give it open.

        Raises OSError when it is not there, ValueError when it is not whole.
        """
        file = CachedFile(os.open(prepared, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW), length)
        size = os.fstat(file.fileno()).st_size
        if size != length + _DIGEST_BYTES:
            file.close()
            prepared.unlink()
            raise ValueError("the prepared file is not whole")
        if self._space.now() < 0:
            prepared.unlink()
            self._trim(0)
            return file
        if size > self._limit:
            prepared.unlink()
            return file
        prepared.rename(self._directory / name)
        self._remember(name, file)
        self._size += size
        self._added += 1
        if self._size > self._limit or self._added >= _RECOUNT:
            self._trim(self._limit)
        return file

    def _is_proven(self, name: str, file: CachedFile) -> bool:
        if file.length < 0:
            return False
        if self._proven.get(name) == _identity(file):
            return True
        digest = hashlib.sha256()
        for offset in range(0, file.length, _CHUNK):
            digest.update(file.read(offset, _CHUNK))
        if os.pread(file.fileno(), _DIGEST_BYTES, file.length) != digest.digest():
            return False
        self._remember(name, file)
        return True

    def _remember(self, name: str, file: CachedFile) -> None:
        self._proven[name] = _identity(file)
        while len(self._proven) > _KNOWN:
            self._proven.popitem(last=False)

    def _trim(self, limit: int) -> None:
        """Count the directory; drop the least recently used beyond `limit`. One process at a time does it."""
        with self._alone() as alone:
            if not alone:
                return
            files = sorted(self._files())
            self._added, self._size = 0, sum(size for _, size, _ in files)
            if self._size <= limit:
                return
            for _, size, path in files:
                if self._size <= limit * _KEPT_SHARE:
                    return
                path.unlink(missing_ok=True)
                self._size -= size

    def _files(self) -> Iterator[tuple[float, int, Path]]:
        """Last use, size and path of each; what was left half prepared long ago is removed."""
        with os.scandir(self._directory) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # another process was faster
                    status = entry.stat(follow_symlinks=False)
                    path = Path(entry.path)
                    if not entry.name.startswith("."):
                        yield status.st_atime, status.st_size, path
                    elif entry.name.endswith(".part") and time.time() - status.st_mtime > _ABANDONED:
                        path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[bool]:
        descriptor = os.open(self._directory / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield True
        except BlockingIOError:
            yield False
        finally:
            os.close(descriptor)


def _identity(file: CachedFile) -> tuple[int, ...]:
    status = os.fstat(file.fileno())
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
