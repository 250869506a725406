"""A directory of backups: every file once, named by its hash, and a manifest for each run.

    DIR/files/<h1>/<SHA-256>    h1: the first two digits
    DIR/runs/<run>.jsonl        whole or not at all; what has none is no backup
    DIR/runs/<run>.partial      what an interrupted run had copied

Files are 0600 and synced before anything names them. One process at a time; symbolic links are not followed.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Mapping, Sequence
from io import BufferedReader
from pathlib import Path

from drimbox.flow.backup_plan import (
    BackupRefused,
    KeptFile,
    Manifest,
    is_run,
    read_entries,
    read_manifest,
    write_entry,
)

CHUNK_BYTES = 1024 * 1024
LOCK = "drimbox-backup.lock"  # also says what the directory is
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
Spent = Callable[[int], None]  # told of bytes read: may wait


class ShortFile(OSError):
    """A file ended before it should."""


class BackupPool:
    """A context manager; the lock ends with the process. `is_new`: to write to; it is made when it is not there.

    Raises `BackupRefused` when another process is at it, or when it is something else.
    """

    def __init__(self, directory: Path, *, is_new: bool = False) -> None:
        self._directory = directory
        self._files, self._runs, self.work = (directory / name for name in ("files", "runs", "work"))
        self._is_new = is_new
        self._lock = self._partial = -1
        self._touched: set[Path] = set()
        self._proven: set[str] = set()  # read by `fault`: several names may share a file

    def __enter__(self) -> BackupPool:
        lock = self._directory / LOCK
        if self._is_new:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not lock.exists() and {path.name for path in self._directory.iterdir()} - {"lost+found"}:
                raise BackupRefused(f"{self._directory} is not empty, and holds no backups: give another one")
        elif not lock.exists():
            raise BackupRefused(f"{self._directory} holds no backup")
        # to restore, it may be on a medium that cannot be written
        writing, how = (
            (os.O_RDWR | os.O_CREAT, fcntl.LOCK_EX) if self._is_new else (os.O_RDONLY, fcntl.LOCK_SH)
        )
        self._lock = os.open(lock, writing | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(self._lock, how | fcntl.LOCK_NB)
            self._prepare()
        except BlockingIOError as error:
            os.close(self._lock)
            raise BackupRefused(f"another process is at {self._directory}") from error
        except BaseException:
            os.close(self._lock)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._partial >= 0:
            os.close(self._partial)
        os.close(self._lock)

    def runs(self) -> Sequence[str]:
        """The runs that came to their end, oldest first."""
        return sorted(path.stem for path in self._runs.glob("*.jsonl") if is_run(path.stem))

    def manifest(self, run: str) -> Manifest:
        """Raises `BackupRefused` when there is no such run, or its manifest is damaged; OSError."""
        path = self._runs / f"{run}.jsonl"
        if not is_run(run) or not path.is_file():
            raise BackupRefused(
                f"{self._directory} holds no run {run[:64]!r}: {', '.join(self.runs()) or 'none'}"
            )
        try:
            with _opened(path) as file:
                return read_manifest(file.read())
        except BackupRefused as error:
            raise BackupRefused(f"{path}: {error}") from error

    def known(self) -> Mapping[tuple[str, int], str]:
        """What the newest run, and interrupted ones, say of files: (name, size) to SHA-256."""
        found: dict[tuple[str, int], str] = {}
        for partial in sorted(self._runs.glob("*.partial")):
            with _opened(partial) as file:
                found |= {(one.name, one.size): one.sha256 for one in read_entries(file.read())}
        for run in self.runs()[-1:]:
            found |= {(one.name, one.size): one.sha256 for one in self.manifest(run).files}
        return found

    def holds(self, sha256: str, size: int) -> bool:
        """Whether a file of that name and size is there; its bytes are read by whoever restores it."""
        try:
            return self.path(sha256).lstat().st_size == size
        except FileNotFoundError:
            return False

    def fault(self, kept: KeptFile, *, hashed: bool, spent: Spent) -> str | None:
        """What is wrong with a file, or None. `hashed`: its bytes are read, and told to `spent`. Raises OSError."""
        try:
            status = self.path(kept.sha256).lstat()
        except FileNotFoundError:
            return "it is not whole in the backup: it is not there"
        if not stat.S_ISREG(status.st_mode) or status.st_size != kept.size:
            return f"it is not whole in the backup: {status.st_size} bytes instead of {kept.size}"
        if hashed and kept.sha256 not in self._proven:
            with self.opened(kept.sha256) as file:
                if _digest(file, spent) != kept.sha256:
                    return "it is damaged in the backup"
            self._proven.add(kept.sha256)
        elif hashed:
            spent(kept.size)
        return None

    def check_space(self, size: int) -> None:
        """Raises `BackupRefused` when that many bytes do not fit."""
        free = shutil.disk_usage(self._directory).free
        if size > free:
            raise BackupRefused(f"{self._directory}: {size} bytes are to be copied, {free} are free")

    def take(self, source: int, size: int, spent: Spent) -> tuple[str, bool]:
        """Copy the first `size` bytes of a descriptor, durably; their SHA-256, and whether they are new.

        Raises `ShortFile`, OSError.
        """
        aside = self.work / secrets.token_hex(16)
        try:
            target = os.open(aside, _NEW, 0o600)
            with os.fdopen(target, "wb", buffering=0) as file:
                digest = copy_bytes(source, file.fileno(), size, spent)
                is_new = self._keep(aside, digest, size, file.fileno())
        finally:
            aside.unlink(missing_ok=True)
        return digest, is_new

    def adopt(self, path: Path) -> str:
        """Take over a file of `work`; its SHA-256. Raises OSError."""
        with _opened(path) as file:
            size = os.fstat(file.fileno()).st_size
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            self._keep(path, digest, size, file.fileno())
        path.unlink(missing_ok=True)  # the pool held it
        return digest

    def note(self, kept: KeptFile) -> None:
        """Write down that it is here, for the run after one that is cut short."""
        if self._partial < 0:
            name = self._runs / f"{secrets.token_hex(8)}.partial"
            self._partial = os.open(name, _NEW | os.O_APPEND, 0o600)
        os.write(self._partial, write_entry(kept))

    def finish(self, run: str, manifest: bytes) -> None:
        """The run is a backup from now on. Raises OSError."""
        for directory in (*self._touched, self._files, self._directory):
            _sync(directory)
        aside = self.work / f"{run}.jsonl"
        with os.fdopen(os.open(aside, _NEW, 0o600), "wb") as file:
            file.write(manifest)
            file.flush()
            os.fsync(file.fileno())
        aside.rename(self._runs / aside.name)
        _sync(self._runs)
        for partial in self._runs.glob("*.partial"):
            partial.unlink()

    def remove(self, runs: Sequence[str]) -> int:
        """Remove these runs, and every file that no other run needs; bytes freed.

        Raises `BackupRefused`, with nothing removed, when the manifest of a run that stays is damaged; OSError.
        """
        staying = [run for run in self.runs() if run not in runs]
        needed = {one.sha256 for run in staying for one in self.manifest(run).files}
        for run in runs:
            (self._runs / f"{run}.jsonl").unlink()
        _sync(self._runs)
        freed = 0
        for path in self._files.glob("[0-9a-f][0-9a-f]/*"):
            if path.name not in needed:
                freed += path.lstat().st_size
                path.unlink()
        return freed

    def opened(self, sha256: str) -> BufferedReader:
        """A file of the pool. Raises OSError when it is not there."""
        return _opened(self.path(sha256))

    def path(self, sha256: str) -> Path:
        """Where a file is, or would be."""
        return self._files / sha256[:2] / sha256

    def _keep(self, aside: Path, digest: str, size: int, descriptor: int) -> bool:
        if self.holds(digest, size):
            return False
        path = self.path(digest)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        os.fsync(descriptor)
        aside.replace(path)
        self._touched.add(path.parent)
        return True

    def _prepare(self) -> None:
        for place in (self._files, self._runs, self.work):
            if place.is_symlink():
                raise BackupRefused(f"{place} is a symbolic link")
            if self._is_new:
                place.mkdir(mode=0o700, exist_ok=True)
        if self._is_new:
            for path in self.work.iterdir():  # left by a run that was cut short
                path.unlink()


def copy_bytes(source: int, target: int, size: int, spent: Spent) -> str:
    """Copy `size` bytes from the beginning of one descriptor to another; their SHA-256. Raises `ShortFile`, OSError."""
    digest, offset = hashlib.sha256(), 0
    while offset < size:
        data = os.pread(source, min(CHUNK_BYTES, size - offset), offset)
        if not data:
            raise ShortFile(f"{size} bytes were promised, {offset} are there")
        digest.update(data)
        written = 0
        while written < len(data):
            written += os.write(target, data[written:])
        offset += len(data)
        spent(len(data))
    return digest.hexdigest()


def _digest(file: BufferedReader, spent: Spent) -> str:
    digest = hashlib.sha256()
    while data := file.read(CHUNK_BYTES):
        digest.update(data)
        spent(len(data))
    return digest.hexdigest()


def _opened(path: Path) -> BufferedReader:
    return os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW), "rb")


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
