"""A backup of a running appliance: a snapshot of the database, then every byte that its rows need.

The manifest comes last: what is interrupted is no backup, and the next run takes up what it had copied. Images may
move or be forgotten between the snapshot and the copy; then another snapshot is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol

from drimbox.flow import trace
from drimbox.flow.backup_plan import (
    AFTER_SNAPSHOT,
    BEFORE_SNAPSHOT,
    DATABASES,
    SEGMENTS,
    BackupRefused,
    Facts,
    KeptFile,
    Manifest,
    Plan,
    Wanted,
    plan,
    run_name,
    runs_to_remove,
    write_manifest,
)
from drimbox.flow.ports import Clock, Transactions

LOOKS = 5  # snapshots, at most


class Gone(Exception):
    """A file of the appliance is not there any more, or is not what its name promises."""


class Snapshot(Protocol):
    """The database as it was at one instant. `ends`: what its rows need of each segment, in bytes."""

    @property
    def facts(self) -> Facts: ...
    @property
    def ends(self) -> Mapping[str, int]: ...
    @property
    def size(self) -> int: ...


class Source(Protocol):
    """The appliance's files. `copy`: into the pool; its SHA-256, and whether it is new there; raises `Gone`."""

    def snapshot(self) -> Snapshot: ...
    def tree(self, name: str) -> Iterator[Wanted]: ...
    def documents(self) -> Iterator[Wanted]: ...
    def copy(self, wanted: Wanted) -> tuple[str, bool]: ...
    def copy_snapshot(self, snapshot: Any) -> str: ...


class Pool(Protocol):
    """The directory of backups; see `adapters/backup_pool.py`."""

    def runs(self) -> Sequence[str]: ...
    def known(self) -> Mapping[tuple[str, int], str]: ...
    def holds(self, sha256: str, size: int) -> bool: ...
    def note(self, kept: KeptFile) -> None: ...
    def check_space(self, size: int) -> None: ...
    def finish(self, run: str, manifest: bytes) -> None: ...
    def remove(self, runs: Sequence[str]) -> int: ...


@dataclass(frozen=True, slots=True)
class Made:
    """A run. Sizes in bytes; `copied`: what no earlier run held; `lost`: see `Manifest`; `freed`: by `removed`."""

    run: str
    files: int
    bytes: int
    copied: int
    copied_bytes: int
    lost: tuple[str, ...]
    removed: tuple[str, ...]
    freed: int


@dataclass(frozen=True, slots=True)
class BackingUp:
    """The parts that a backup needs. `begin(bytes)` and `done(bytes)` tell of what is to be copied."""

    transactions: Transactions
    source: Source
    pool: Pool
    clock: Clock
    actor: str
    program: str
    begin: Callable[[int], None]
    done: Callable[[int], None]

    def run(self, keep: int | None) -> Made:
        """Make one; then remove all but the newest `keep`. Raises `BackupRefused`, `errors.Unavailable`, OSError."""
        run = run_name(self.clock(), self.pool.runs())
        copying = _Copying(self)
        manifest = copying.manifest(run, self.program)
        self.pool.finish(run, write_manifest(manifest))
        removed = runs_to_remove(self.pool.runs(), keep) if keep is not None else []
        freed = self.pool.remove(removed) if keep is not None else 0
        made = Made(
            run, len(manifest.files), manifest.size, copying.files, copying.bytes, manifest.lost,
            tuple(removed), freed,
        )  # fmt: skip
        self._note(made)
        return made

    def _note(self, made: Made) -> None:
        with self.transactions.writing() as transaction:
            trace.note(
                transaction,
                "BACKUP_MADE",
                at=self.clock(),
                actor=self.actor,
                run=made.run,
                files=made.files,
                bytes=made.bytes,
                copied=made.copied,
                lost=len(made.lost),
                removed=list(made.removed),
            )
            transaction.commit()


class _Copying:
    """One run at work."""

    def __init__(self, parts: BackingUp) -> None:
        self._parts = parts
        self._known = dict(parts.pool.known())
        self.files = self.bytes = 0

    def manifest(self, run: str, program: str) -> Manifest:
        """Look until nothing is missing that was not missing at the look before: what stays missing is lost."""
        missing: set[str] = set()
        for _ in range(LOOKS):
            before, missing = missing, set()
            files, snapshot = self._look(missing)
            if missing <= before:
                files.append(self._database(snapshot))
                return Manifest(run, program, snapshot.facts, tuple(files), tuple(sorted(missing)))
        raise BackupRefused("files move faster than they can be copied: try again when there is less to do")

    def _look(self, missing: set[str]) -> tuple[list[KeptFile], Snapshot]:
        source = self._parts.source
        # a retrieval that the snapshot does not know must be in the journal that is copied, not the other way round
        files = list(self._take(chain.from_iterable(map(source.tree, BEFORE_SNAPSHOT)), missing))
        snapshot = source.snapshot()
        ends = sorted(snapshot.ends.items())
        segments = (Wanted(SEGMENTS + name, end, is_fixed=True) for name, end in ends)
        trees = chain.from_iterable(map(source.tree, AFTER_SNAPSHOT))
        files += self._take(chain(segments, source.documents(), trees), missing)
        return files, snapshot

    def _database(self, snapshot: Snapshot) -> KeptFile:
        digest = self._parts.source.copy_snapshot(snapshot)
        self._count(snapshot.size, is_new=True)
        return KeptFile(DATABASES[snapshot.facts.engine], snapshot.size, digest)

    def _take(self, wanted: Iterator[Wanted], missing: set[str]) -> Iterator[KeptFile]:
        """What of `wanted` is in the pool now; the names of the others go into `missing`."""
        found = self._plan(wanted)
        yield from found.held
        for one in found.to_copy:
            try:
                digest, is_new = self._parts.source.copy(one)
            except Gone:
                missing.add(one.name)
                continue
            kept = KeptFile(one.name, one.size, digest)
            self._parts.pool.note(kept)
            self._known[one.name, one.size] = kept.sha256
            self._count(one.size, is_new=is_new)
            yield kept

    def _plan(self, wanted: Iterator[Wanted]) -> Plan:
        found = plan(wanted, self._known, self._parts.pool.holds)
        size = sum(one.size for one in found.to_copy)
        self._parts.pool.check_space(size)
        self._parts.begin(size)
        return found

    def _count(self, size: int, *, is_new: bool) -> None:
        self.files += is_new
        self.bytes += size * is_new
        self._parts.done(size)
