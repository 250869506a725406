"""The files of a running appliance, for those who copy them: never through a symbolic link."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from dicom_store.segment_file import opened as opened_segment
from dicom_store.segment_record import SegmentDamaged
from drimbox.adapters.backup_pool import BackupPool, ShortFile
from drimbox.adapters.database import Database
from drimbox.adapters.database_snapshot import DatabaseSnapshot, database_size, take_snapshot
from drimbox.flow.backup import Gone
from drimbox.flow.backup_plan import SEGMENTS, Wanted, document_name, is_temporary


class BackupSource:
    """The storage root and the database, copied into a pool. `spent`: told of bytes read, may wait."""

    def __init__(
        self, root: Path, database: Database, url: str, pool: BackupPool, spent: Callable[[int], None]
    ) -> None:
        self._root = root
        self._database = database
        self._url = url
        self._pool = pool
        self._spent = spent

    def snapshot(self) -> DatabaseSnapshot:
        """The database as it is now. Raises `Unavailable`, `BackupRefused`, OSError."""
        self._pool.check_space(database_size(self._database))
        path = self._pool.work / "database"
        path.unlink(missing_ok=True)
        return take_snapshot(self._database, self._url, path)

    def copy_snapshot(self, snapshot: DatabaseSnapshot) -> str:
        """Into the pool; its SHA-256."""
        return self._pool.adopt(snapshot.path)

    def tree(self, name: str) -> Iterator[Wanted]:
        """Every file under a directory of the root that is not temporary."""
        for path in _files(self._root / name):
            yield from self._wanted(path, None)

    def documents(self) -> Iterator[Wanted]:
        """Every document: its name is the SHA-256 of its bytes."""
        for path in _files(self._root / "documents"):
            if path.relative_to(self._root).as_posix() == document_name(path.name):
                yield from self._wanted(path, path.name)

    def copy(self, wanted: Wanted) -> tuple[str, bool]:
        """Into the pool; its SHA-256, and whether the pool did not hold it.

        Raises `Gone` when it is not there, or not what its name promises; OSError.
        """
        try:
            if wanted.name.startswith(SEGMENTS):
                base = self._root / SEGMENTS.rstrip("/")
                with opened_segment(base, wanted.name.removeprefix(SEGMENTS)) as descriptor:
                    return self._pool.take(descriptor, wanted.size, self._spent)
            return self._copy_whole(wanted)
        except (SegmentDamaged, ShortFile, FileNotFoundError) as error:
            raise Gone(wanted.name) from error

    def _copy_whole(self, wanted: Wanted) -> tuple[str, bool]:
        descriptor = os.open(self._root / wanted.name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            if os.fstat(descriptor).st_size != wanted.size:
                raise ShortFile("it was replaced")
            digest, is_new = self._pool.take(descriptor, wanted.size, self._spent)
        finally:
            os.close(descriptor)
        if wanted.sha256 not in (None, digest):
            raise Gone(wanted.name)
        return digest, is_new

    def _wanted(self, path: Path, sha256: str | None) -> Iterator[Wanted]:
        try:
            found = path.lstat()
        except FileNotFoundError:
            return
        if stat.S_ISREG(found.st_mode):
            yield Wanted(path.relative_to(self._root).as_posix(), found.st_size, sha256)


def _files(directory: Path) -> Iterator[Path]:
    """Every file below that is not temporary; neither links, nor what is behind them."""
    if directory.is_symlink():
        return
    for place, directories, names in os.walk(directory, followlinks=False):
        directories.sort()
        yield from (Path(place, name) for name in sorted(names) if not is_temporary(name))
