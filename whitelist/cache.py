"""The accepted lists on disk, and what is remembered of the retrievals (trust-and-identity 3.5 steps 12 and 14).

`lists/<acceptance time>-<sha256 prefix>.xml` with its `.report.json`, and `state.json` that names the one in force;
written in that order, each atomically, so that a crash at any instant leaves the previous list in force. Nothing is
believed because it is here: a list is verified again at its acceptance time each time it is read.
"""

from __future__ import annotations

import hashlib
import json
import re
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

from whitelist import trust
from whitelist.chain import Anchors, Crls
from whitelist.decision import State
from whitelist.document import TrustedList
from whitelist.durable import Oversized, exclusively, make_directory, read_bounded, sweep, write_durably
from whitelist.fetch import MAX_LIST_BYTES
from whitelist.record import Kept, from_json, to_json

MAX_STATE_BYTES = 64 * 1024
MAX_REPORT_BYTES = 1024 * 1024
TRIED = 20  # archived lists that are verified in search of one to fall back on: each costs time
ALWAYS_KEPT = 5  # lists, however old: a clock that jumps ahead must not empty the archive
_NAME = re.compile(r"(\d{8}T\d{6}\.\d{6}Z)-([0-9a-f]{16})\.xml")
_TIME = "%Y%m%dT%H%M%S.%fZ"


class Examine(Protocol):
    """`trust.examine`."""

    def __call__(
        self,
        candidate: bytes,
        anchors: Anchors,
        crls: Crls,
        *,
        at: datetime,
        previous: trust.Previous | None = None,
        transport: str | None = None,
        reload: bool = False,
    ) -> trust.Report: ...


@dataclass(frozen=True, slots=True)
class Loaded:
    """What the directory says now.

    `report`, `candidate`: of the archived list in force, verified a moment ago; None when no list verifies.
    `intact`: it is the list that `state.json` names. `warnings`: what was damaged. `recorded`: the state as written,
    when `kept` is another one because of damage: what cannot be read now may be readable later.
    """

    kept: Kept
    report: trust.Report | None = None
    candidate: bytes | None = None
    intact: bool = False
    warnings: tuple[str, ...] = ()
    recorded: Kept | None = None

    @property
    def trusted(self) -> TrustedList | None:
        """The list in force, None when no list verifies."""
        return self.report.trusted if self.report else None


@dataclass(frozen=True, slots=True)
class _Archived:
    """One list of the archive that verifies."""

    name: str
    at: datetime
    sha256: str
    named: bool
    report: trust.Report
    candidate: bytes


class Cache:
    """`directory` is made when first written. `keep_days`: lists older than that are pruned."""

    def __init__(self, directory: Path, *, examine: Examine = trust.examine, keep_days: int = 400) -> None:
        self._directory, self._examine = directory, examine
        self._keep = timedelta(days=keep_days)

    def exclusively(self) -> AbstractContextManager[None]:
        """The lock of the one that retrieves. Raises `durable.Locked` at once, `Unwritable`."""
        return exclusively(self._directory / "keeper.lock")

    def stamp(self) -> tuple[int, ...] | None:
        """Another value when `state.json` is another; None when it cannot be seen."""
        try:
            found = self._state_file.stat()
        except OSError:  # absent or unreadable: known to be so, `load` says which
            return None
        return (found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size)

    def load(self, anchors: Anchors) -> Loaded | None:
        """State and list in force, verified; None when nothing was ever kept here.

        A damaged or missing list is replaced by the newest other one that verifies, with a warning; the state is
        then STALE instead of CURRENT, ABSENT stays. Without any: NEVER, ABSENT stays.
        """
        kept, warnings = self._record()
        names = self._names()
        if kept is None and not warnings and not names:
            return None
        if kept is not None and kept.list_file is None and not names:
            return Loaded(kept)
        if kept is not None and kept.list_file is not None:
            found = self._verified(kept.list_file, anchors)
            if isinstance(found, _Archived) and found.sha256 == kept.sha256:
                return Loaded(kept, found.report, found.candidate, intact=True)
            why = found if isinstance(found, str) else "another list"
            warnings.append(f"the list in force, {kept.list_file}, cannot be used: {why}")
            names = [name for name in names if name != kept.list_file]
        return self._fallen_back(kept, names, anchors, warnings)

    def archive(self, candidate: bytes, report: trust.Report, *, named: bool) -> str:
        """Keep an accepted list and its report durably; returns its name. Raises OSError."""
        name = f"{report.at.astimezone(UTC).strftime(_TIME)}-{report.sha256[:16]}.xml"
        record = {"named": named, "sha256": report.sha256, "report": report.as_dict()}
        make_directory(self._lists)
        write_durably(self._lists / name, candidate)
        write_durably(self._report_of(name), json.dumps(record, indent=1, ensure_ascii=False).encode())
        return name

    def save(self, kept: Kept) -> None:
        """Make `kept` the state, durably. Raises OSError; what was there before is then there still."""
        make_directory(self._directory)
        write_durably(self._state_file, to_json(kept))

    def prune(self, kept: Kept, now: datetime) -> int:
        """Delete lists accepted more than `keep_days` ago, never the one in force nor the newest five; and what a
        crash left half written. Returns how many files went. Raises OSError.
        """
        old = [
            name
            for name in self._names()[ALWAYS_KEPT:]
            if name != kept.list_file and now - _accepted_at(name) > self._keep
        ]
        gone = [path for name in old for path in (self._lists / name, self._report_of(name))]
        for path in gone:
            path.unlink(missing_ok=True)
        return len(gone) + sweep(self._directory) + sweep(self._lists)

    @property
    def _state_file(self) -> Path:
        return self._directory / "state.json"

    @property
    def _lists(self) -> Path:
        return self._directory / "lists"

    def _report_of(self, name: str) -> Path:
        return self._lists / f"{name.removesuffix('.xml')}.report.json"

    def _record(self) -> tuple[Kept | None, list[str]]:
        try:
            return from_json(read_bounded(self._state_file, MAX_STATE_BYTES)), []
        except FileNotFoundError:
            return None, []
        except (OSError, Oversized, ValueError, RecursionError) as error:
            return None, [f"the state cannot be read: {_words(error)}"]

    def _names(self) -> list[str]:
        """Lists, newest first."""
        try:
            return sorted((p.name for p in self._lists.iterdir() if _NAME.fullmatch(p.name)), reverse=True)
        except OSError:  # absent or unreadable: there is no list to use
            return []

    def _verified(self, name: str, anchors: Anchors) -> _Archived | str:
        """The list of that name, or why it cannot be used."""
        try:
            at = _accepted_at(name)
            candidate = read_bounded(self._lists / name, MAX_LIST_BYTES)
            record = json.loads(read_bounded(self._report_of(name), MAX_REPORT_BYTES))
            sha256, named = _of_record(record)
        except (OSError, Oversized, ValueError) as error:
            return _words(error)
        if hashlib.sha256(candidate).hexdigest() != sha256:
            return "it is not the one that was accepted"
        report = self._examine(candidate, anchors, Crls(None, None), at=at, reload=True)
        if not report.accepted:
            return "; ".join(f"step {step.number}: {step.why}" for step in report.failed)
        return _Archived(name, at, sha256, named, report, candidate)

    def _fallen_back(
        self, kept: Kept | None, names: list[str], anchors: Anchors, warnings: list[str]
    ) -> Loaded:
        if names and not warnings:
            warnings.append("the state is missing, or names no list, though lists are archived")
        for name in names[:TRIED]:
            found = self._verified(name, anchors)
            if isinstance(found, _Archived):
                warnings.append(f"the archived list {name} is used")
                fallen = _on(found, kept)
                return Loaded(fallen, found.report, found.candidate, False, tuple(warnings), kept)
            warnings.append(f"the archived list {name} cannot be used: {found}")
        none = kept or Kept()
        state = none.state if none.state is State.ABSENT else State.NEVER
        # no floor for step 12: of lists that are gone, or of authorities that are no longer pinned
        bare = replace(none, state=state, signed_at=None, generated_at=None)
        return Loaded(_without_list(bare), warnings=tuple(warnings), recorded=kept)


def _on(found: _Archived, kept: Kept | None) -> Kept:
    """The state on an older list; the floor of step 12 stays that of the list in force, where it is known."""
    on = {"list_file": found.name, "sha256": found.sha256, "accepted_at": found.at}
    if kept is None or kept.state is State.NEVER:
        generated = found.report.trusted.generated_at if found.report.trusted else None
        state = State.STALE if found.named else State.ABSENT
        floor = {"signed_at": found.report.signed_at, "generated_at": generated}
        made = replace(kept or Kept(), state=state, since=found.at, last_success=found.at)
        return replace(_without_list(made), **on, **floor)  # type: ignore[arg-type]
    fallen = replace(kept, state=State.STALE, since=None) if kept.state is State.CURRENT else kept
    return replace(_without_list(fallen), **on)  # type: ignore[arg-type]


def _without_list(kept: Kept) -> Kept:
    return replace(kept, list_file=None, sha256=None, accepted_at=None, etag=None, modified=None)


def _accepted_at(name: str) -> datetime:
    """Raises ValueError."""
    found = _NAME.fullmatch(name)
    if found is None:
        raise ValueError("not the name of an archived list")
    return datetime.strptime(found[1], _TIME).replace(tzinfo=UTC)


def _of_record(record: Any) -> tuple[str, bool]:
    """SHA-256 and `named` of a `.report.json`. Raises ValueError."""
    match record:
        case {"sha256": str(sha256), "named": bool(named)}:
            return sha256, named
    raise ValueError("its report is damaged")


def _words(error: Exception) -> str:
    return error.strerror or type(error).__name__ if isinstance(error, OSError) else str(error)
