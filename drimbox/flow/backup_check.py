"""Is a backup whole? Every file of its manifest, the database in it, and every image that the database names.

The check itself and a restore, before it writes anything, ask here. Every fault is told, not the first.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol

from drimbox.flow.backup_plan import DATABASES, SEGMENTS, BackupRefused, Facts, KeptFile, Manifest


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong, and with which file. `was_lost`: it was not in the appliance either when the run was made."""

    name: str
    reason: str
    was_lost: bool = False


class Contents(Protocol):
    """What a database in a backup holds. `ends`: what its rows need of each segment, in bytes."""

    @property
    def facts(self) -> Facts: ...
    @property
    def ends(self) -> Mapping[str, int]: ...


class Pool(Protocol):
    """The files of a directory of backups; see `adapters/backup_pool.py`.

    `fault`: what is wrong with a file, or None; `hashed`: its bytes are read.
    """

    def fault(self, kept: KeptFile, *, hashed: bool, spent: Callable[[int], None]) -> str | None: ...


class Reader(Protocol):
    """Opens a database of a backup, and proves it. Raises `BackupRefused` when it is damaged."""

    def contents(self, kept: KeptFile, engine: str, *, thorough: bool) -> Contents: ...


@dataclass(frozen=True, slots=True)
class Checking:
    """The parts that a check needs. `revisions`: schemas that this program knows; `begin`, `done`: hear of bytes."""

    pool: Pool
    reader: Reader
    revisions: Collection[str]
    begin: Callable[[int], None] = lambda _bytes: None
    done: Callable[[int], None] = lambda _bytes: None

    def faults(self, manifest: Manifest, *, hashed: bool) -> list[Fault]:
        """Every fault of a run. `hashed`: every byte is read, else names and sizes are looked at. Raises OSError."""
        found = [
            Fault(name, "the appliance had lost it when the backup was made", True) for name in manifest.lost
        ]
        found += self._files(manifest, hashed)
        revision = manifest.facts.revision
        if revision not in self.revisions:
            words = (
                f"its schema {revision} is of a newer program (drimbox {manifest.program}): install that one"
            )
            found.append(Fault(DATABASES.get(manifest.facts.engine, "database"), words))
        broken = {fault.name for fault in found}
        return [*found, *self._database(manifest, broken, hashed)]

    def _files(self, manifest: Manifest, hashed: bool) -> Iterator[Fault]:
        self.begin(manifest.size if hashed else 0)
        for kept in manifest.files:
            reason = self.pool.fault(kept, hashed=hashed, spent=self.done)
            if reason is not None:
                yield Fault(kept.name, f"{reason} (file {kept.sha256})")

    def _database(self, manifest: Manifest, broken: Collection[str], thorough: bool) -> Iterator[Fault]:
        """What is in the database, unless its file is known to be broken."""
        name = DATABASES.get(manifest.facts.engine, "")
        kept = next((one for one in manifest.files if one.name == name), None)
        if kept is None:
            yield Fault(name or "database", "the run holds no database")
        elif name not in broken:
            try:
                contents = self.reader.contents(kept, manifest.facts.engine, thorough=thorough)
            except BackupRefused as error:
                yield Fault(name, f"{error} (file {kept.sha256})")
                return
            if contents.facts != manifest.facts:
                yield Fault(name, f"it is not the database that was backed up (file {kept.sha256})")
            yield from uncovered(manifest, contents.ends)


def uncovered(manifest: Manifest, ends: Mapping[str, int]) -> Iterator[Fault]:
    """Segments that rows point to, and that the run does not hold as far as they do."""
    sizes = {one.name: one.size for one in manifest.files} | dict.fromkeys(manifest.lost, -1)
    for segment, end in sorted(ends.items()):
        size = sizes.get(SEGMENTS + segment)
        if size is None:
            yield Fault(SEGMENTS + segment, "the database names images in it, and the run does not hold it")
        elif 0 <= size < end:
            words = f"the database names images up to byte {end}, the run holds {size}"
            yield Fault(SEGMENTS + segment, words)


def made_at(run: str) -> datetime:
    """When a run was made, from its name (`backup_plan.run_name`). Raises ValueError."""
    return datetime.strptime(f"{run[:15]}.{run[15:18]}", "%Y%m%dT%H%M%S.%f").replace(tzinfo=UTC)


def age_fault(run: str, now: datetime, most: timedelta | None) -> Fault | None:
    """A run that is older than `most`, or that this machine's clock does not reach yet."""
    age = now - made_at(run)
    if age < timedelta():
        return Fault(run, "it was made after the time of this machine's clock: set the clock")
    if most is not None and age > most:
        return Fault(
            run, f"it is {age / timedelta(hours=1):.1f} hours old, {most / timedelta(hours=1):g} are allowed"
        )
    return None
