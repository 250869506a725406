"""A backup becomes an appliance again: into an empty storage root and an empty database, or not at all.

Files are staged and proven by their hashes, then the database is filled at once, then the files take their places:
whatever starts or stops in between finds nothing, or everything that its rows promise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from drimbox.flow import trace
from drimbox.flow.backup_check import Checking
from drimbox.flow.backup_plan import DATABASES, BackupRefused, Facts, KeptFile, Manifest
from drimbox.flow.ports import Clock, Transactions

LISTED = 10  # faults named in a refusal


class Phase(StrEnum):
    """What is done: files are staged, the database is there, files are in their places."""

    BEGUN = "begun"
    DATABASE = "database"
    PLACED = "placed"


class Root(Protocol):
    """The storage root, and what is staged in it; see `adapters/restored_root.py`."""

    def phase(self, run: str) -> Phase | None: ...
    def check_empty(self) -> None: ...
    def reach(self, run: str, phase: Phase) -> None: ...
    def holds(self, kept: KeptFile) -> bool: ...
    def check_space(self, size: int) -> None: ...
    def put(self, kept: KeptFile) -> None: ...
    def place(self) -> None: ...


class EmptyDatabase(Protocol):
    """The database to fill. `facts`: None while it holds nothing; `fill`: from a file that is staged."""

    @property
    def engine(self) -> str: ...
    def facts(self) -> Facts | None: ...
    def fill(self, name: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Restoring:
    """The parts that a restore needs. `begin(bytes)`, `done(bytes)` tell of what is copied; `checking`: of its pool."""

    root: Root
    database: EmptyDatabase
    checking: Checking
    begin: Callable[[int], None]
    done: Callable[[int], None]

    def run(self, manifest: Manifest) -> None:
        """Restore, or go on where the same restore was stopped. Raises `BackupRefused`, OSError."""
        check_engine(manifest, self.database.engine)
        phase = self.root.phase(manifest.run)
        if phase in (None, Phase.BEGUN):
            self._check(manifest)
        if phase is None:
            self.root.check_empty()
            if self.database.facts() is not None:
                raise BackupRefused("the database is not empty: give a new one, or move this one away")
            self.root.reach(manifest.run, Phase.BEGUN)
        if phase in (None, Phase.BEGUN):
            self._stage(manifest)
            self._fill(manifest)
            self.root.reach(manifest.run, Phase.DATABASE)
        if phase != Phase.PLACED:
            self.root.place()
            self.root.reach(manifest.run, Phase.PLACED)

    def _check(self, manifest: Manifest) -> None:
        """All but the bytes, whose hashes are computed as they are staged. What was lost before cannot come back."""
        found = [one for one in self.checking.faults(manifest, hashed=False) if not one.was_lost]
        if found:
            listed = "; ".join(f"{one.name}: {one.reason}" for one in found[:LISTED])
            more = f"; and {len(found) - LISTED} more" if len(found) > LISTED else ""
            raise BackupRefused(f"the backup does not pass (drimbox backup-check): {listed}{more}")

    def _stage(self, manifest: Manifest) -> None:
        missing = [one for one in manifest.files if not self.root.holds(one)]
        size = sum(one.size for one in missing)
        self.root.check_space(size)
        self.begin(size)
        for one in missing:
            self.root.put(one)
            self.done(one.size)

    def _fill(self, manifest: Manifest) -> None:
        found = self.database.facts()
        if found is None:
            self.database.fill(DATABASES[manifest.facts.engine])
        elif found != manifest.facts:
            raise BackupRefused("the database was filled by somebody else meanwhile: give an empty one")


def check_engine(manifest: Manifest, engine: str) -> None:
    """Raises `BackupRefused` when this program is configured for another database."""
    if manifest.facts.engine != engine:
        raise BackupRefused(f"the backup is of {manifest.facts.engine}, database.url is of {engine}")


def note_restored(transactions: Transactions, manifest: Manifest, *, clock: Clock, actor: str) -> None:
    """The trace that was restored says so."""
    with transactions.writing() as transaction:
        trace.note(
            transaction,
            "BACKUP_RESTORED",
            at=clock(),
            actor=actor,
            run=manifest.run,
            files=len(manifest.files),
            bytes=manifest.size,
            lost=len(manifest.lost),
        )
        transaction.commit()
