"""An empty storage root that a backup is restored into: staged beside its place, then moved.

<storage.root>/.restoring/state.json    which run, how far
<storage.root>/.restoring/files/…       what is proven already
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from drimbox.adapters.backup_pool import BackupPool, ShortFile, copy_bytes
from drimbox.adapters.database_snapshot import engine_of, present_facts, restore_database, sqlite_file
from drimbox.flow.backup_plan import DATABASES, BackupRefused, Facts, KeptFile
from drimbox.flow.restore import Phase

STAGING = ".restoring"


class RestoredRoot:
    """`root` as a restore sees it; `url`: of the database, whose file may be in it. `spent`: told of bytes."""

    def __init__(self, root: Path, url: str, pool: BackupPool, spent: Callable[[int], None]) -> None:
        self._root = root
        self._pool = pool
        self._spent = spent
        self._staging = root / STAGING
        self.files = self._staging / "files"
        self._ignored = _database_files(url)

    def phase(self, run: str) -> Phase | None:
        """How far the restore of this run had come. Raises `BackupRefused` when another one was begun here."""
        try:
            found = json.loads((self._staging / "state.json").read_bytes())
        except FileNotFoundError:
            return None
        if found["run"] != run:
            raise BackupRefused(
                f"a restore of {found['run']} was begun here: --at {found['run']}, or empty {self._root}"
            )
        return Phase(found["phase"])

    def check_empty(self) -> None:
        """Raises `BackupRefused` when the root holds any file."""
        for place, _, names in os.walk(self._root):
            for name in names:
                if (path := Path(place, name)) not in self._ignored and STAGING not in path.parts:
                    raise BackupRefused(
                        f"the storage root is not empty ({path}): give a new one, or move it away"
                    )

    def reach(self, run: str, phase: Phase) -> None:
        """That much is done, durably."""
        self.files.mkdir(mode=0o700, parents=True, exist_ok=True)
        if phase is not Phase.BEGUN:
            os.sync()  # thousands of new directories, in one call
        aside = self._staging / "state.new"
        with aside.open("w", encoding="ascii") as file:
            json.dump({"run": run, "phase": phase}, file)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(self._staging / "state.json")

    def holds(self, kept: KeptFile) -> bool:
        """Whether it is staged: what is there under its name was proven."""
        path = self.files / kept.name
        return path.is_file() and path.lstat().st_size == kept.size

    def check_space(self, size: int) -> None:
        """Raises `BackupRefused` when that many bytes do not fit."""
        free = shutil.disk_usage(self._root).free
        if size > free:
            raise BackupRefused(f"{self._root}: {size} bytes are to be restored, {free} are free")

    def put(self, kept: KeptFile) -> None:
        """Stage a file. Raises `BackupRefused` when its bytes are not those that were backed up; OSError."""
        path = self.files / kept.name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        aside = self._staging / "aside"
        aside.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            with (
                self._pool.opened(kept.sha256) as source,
                os.fdopen(os.open(aside, flags, 0o600), "wb") as file,
            ):
                found = copy_bytes(source.fileno(), file.fileno(), kept.size, self._spent)
                os.fsync(file.fileno())
        except (FileNotFoundError, ShortFile) as error:
            raise BackupRefused(f"{kept.name} is not whole in the backup (file {kept.sha256})") from error
        if found != kept.sha256:
            raise BackupRefused(f"{kept.name} is damaged in the backup (file {kept.sha256})")
        aside.rename(path)

    def place(self) -> None:
        """Move what is staged into its places. Raises `BackupRefused` when something is there by now."""
        for staged in sorted(self.files.iterdir()):
            if staged.name in DATABASES.values():
                continue
            target = self._root / staged.name
            try:
                _remove_empty(target)
                staged.rename(target)
            except OSError as error:
                words = (
                    "was the appliance started? Stop it, empty its storage root and its database, begin again"
                )
                raise BackupRefused(f"{target} is not empty: {words}") from error

    def end(self) -> None:
        """Nothing is left to do."""
        shutil.rmtree(self._staging)


class RestoredDatabase:
    """The database to fill, from what is staged in `files`."""

    def __init__(self, url: str, files: Path) -> None:
        self._url = url
        self._files = files
        self.engine = engine_of(url)

    def facts(self) -> Facts | None:
        """What it holds; None = nothing. Raises `Unavailable`, `BackupRefused`."""
        return present_facts(self._url)

    def fill(self, name: str) -> None:
        """At once or not at all. Raises `BackupRefused`, OSError."""
        restore_database(self._url, self._files / name)


def _remove_empty(directory: Path) -> None:
    """Remove a directory that holds nothing but empty ones. Raises OSError."""
    for place, _, _ in os.walk(directory, topdown=False):
        Path(place).rmdir()


def _database_files(url: str) -> set[Path]:
    if engine_of(url) != "sqlite":
        return set()
    path = Path(sqlite_file(url))
    return {path.with_name(path.name + suffix) for suffix in ("", "-wal", "-shm")}
