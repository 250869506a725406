"""Retrieve, verify, archive, decide, tell (trust-and-identity 3.1 and 3.6).

Unavailability never interrupts, however long; only an accepted list that does not name us does. One process
retrieves at a time; the others read what it wrote (`view.View`). Nothing is retrieved while the lock is elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from whitelist import trust
from whitelist.attempt import Attempt, Refreshed, refusal
from whitelist.cache import Cache, Examine, Loaded
from whitelist.chain import Anchors, Crls
from whitelist.crl_store import CrlRefresh
from whitelist.decision import OwnName, State, naming
from whitelist.durable import Locked, Oversized, Unwritable, read_bounded
from whitelist.fetch import MAX_LIST_BYTES, Fetched, Unreachable
from whitelist.progress import configured, due_at, remembering
from whitelist.record import Failure, Kept
from whitelist.settle import Settling
from whitelist.status import describe


class ListSource(Protocol):
    """`fetch.Fetcher`."""

    def get(self, url: str, etag: str | None = None, modified: str | None = None) -> Fetched:
        """Raises `Unreachable`."""


class CrlSource(Protocol):
    """`crl_store.CrlStore`."""

    def refresh(self, force: bool = False) -> tuple[CrlRefresh, ...]:
        """Never raises for what the outside did."""

    def current(self) -> Crls:
        """The CRLs kept."""


@dataclass(kw_only=True)
class Keeper:
    """Keeps the list published at `url` in `cache`.

    `clock`: aware now; `chance`: a number in [0, 1) per call; `log(event, **fields)`: outcome, state, code, reason,
    status (the alert), until; `on_change(before, after, report)`: each change of state, once it is durable, and
    again at the next retrieval if it raised (`Untold` spoils nothing else); its `report` is None when no document
    was examined.
    """

    url: str
    fetch: ListSource
    crls: CrlSource
    cache: Cache
    anchors: Anchors
    own: OwnName
    clock: Callable[[], datetime]
    chance: Callable[[], float]
    log: Callable[..., object]
    on_change: Callable[[State, State, trust.Report | None], object]
    examine: Examine = trust.examine
    _settling: Settling = field(init=False)
    _memo: tuple[tuple[int, ...] | None, Loaded] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._settling = Settling(
            cache=self.cache, own=self.own, chance=self.chance, log=self.log, on_change=self.on_change
        )

    def refresh(self, force: bool = False) -> Refreshed:
        """Retrieve if due; `force`: now and unconditionally. Never raises for what peer, bytes or disk did."""
        return self._alone(lambda: self._refresh(force))

    def import_file(self, path: Path) -> Refreshed:
        """Accept a list brought by hand, verified as a retrieved one but for its transport.

        A refused one changes nothing: neither state nor cadence.
        """
        return self._alone(lambda: self._import(path))

    def due_at(self) -> datetime:
        """When to call `refresh` next (aware); not after now = at once."""
        return self._due(self._seen())

    def status(self, now: datetime | None = None) -> dict[str, Any]:
        """What `whitelist show --json` and the health report say."""
        loaded = self._seen()
        return describe(loaded, self.own, now or self.clock(), self._due(loaded))

    def _alone(self, act: Callable[[], Refreshed]) -> Refreshed:
        try:
            with self.cache.exclusively():
                return act()
        except Locked as error:
            return self._untried(Failure(self.clock(), "busy", str(error)))
        except Unwritable as error:
            return self._settling.remember(self._load().kept, Failure(self.clock(), "directory", str(error)))

    def _refresh(self, force: bool) -> Refreshed:
        loaded = self._load()
        due = self._due(loaded)  # first: the clock moves on, and "at once" is the time of asking
        if not force and self.clock() < due:
            return self._untried(None)
        for damage in loaded.warnings:
            self.log("whitelist_damaged", reason=damage)
        return self._settling.settle(loaded, self._attempt(loaded, force))

    def _import(self, path: Path) -> Refreshed:
        loaded = self._load()
        try:
            candidate = read_bounded(path, MAX_LIST_BYTES)
        except (OSError, Oversized) as error:
            failure = Failure(self.clock(), "file", f"{path.name} cannot be read: {type(error).__name__}")
            return self._settling.settle(loaded, Attempt(failure.at, failure, retrieved=False))
        self._refresh_crls(force=False)
        return self._settling.settle(loaded, self._judged(loaded, candidate, None))

    def _untried(self, why: Failure | None) -> Refreshed:
        state = self._load().kept.state
        return Refreshed(None, state, state, error=why)

    def _load(self) -> Loaded:
        loaded = self.cache.load(self.anchors) or Loaded(Kept())
        recorded = self._ready(loaded.recorded) if loaded.recorded else None
        return replace(loaded, kept=self._ours(self._ready(loaded.kept), loaded), recorded=recorded)

    def _ours(self, kept: Kept, loaded: Loaded) -> Kept:
        """An absence was verified of the host that we were: corrected since, the list in force may name us."""
        other = kept.state is State.ABSENT and kept.own_host != self.own.host
        named = other and loaded.trusted is not None and naming(loaded.trusted, self.own).named
        return replace(kept, state=State.STALE, since=None) if named else kept

    def _ready(self, kept: Kept) -> Kept:
        return configured(remembering(kept, self._settling.unsaved), self.url, self.chance)

    def _seen(self) -> Loaded:
        """As `_load`, without verifying an intact list again while the state on disk is the same."""
        stamp = self.cache.stamp()
        if self._memo is None or stamp is None or self._memo[0] != stamp or not self._memo[1].intact:
            self._memo = (stamp, self._load())
        known = self._memo[1]
        return replace(known, kept=remembering(known.kept, self._settling.unsaved))

    def _due(self, loaded: Loaded) -> datetime:
        damaged = bool(loaded.warnings)
        return due_at(loaded.kept, self.own, self.clock(), damaged=damaged)

    def _attempt(self, loaded: Loaded, force: bool) -> Attempt:
        asked = loaded.kept if loaded.intact and not force else Kept()
        try:
            fetched = self.fetch.get(self.url, asked.etag, asked.modified)
        except Unreachable as error:
            return Attempt(at := self.clock(), Failure(at, error.code, error.reason))
        self._refresh_crls(force)
        if fetched.status == 200:
            transport = f"HTTP 200 over verified TLS, {len(fetched.body)} bytes, SHA-256 {fetched.sha256}"
            return self._judged(loaded, fetched.body, fetched, transport)
        if loaded.candidate is None or not (asked.etag or asked.modified):
            why = "not modified, though no accepted list was named"
            return Attempt(at := self.clock(), Failure(at, "unexpected-304", why))
        transport = "HTTP 304 over verified TLS: the archived list is the published one"
        return self._judged(loaded, loaded.candidate, fetched, transport)

    def _refresh_crls(self, force: bool) -> None:
        for crl in self.crls.refresh(force):
            if not crl.done:
                self.log("whitelist_crl_not_refreshed", slug=crl.which, reason=crl.why)

    def _judged(
        self, loaded: Loaded, candidate: bytes, fetched: Fetched | None, transport: str | None = None
    ) -> Attempt:
        at, kept = self.clock(), loaded.kept  # after the CRLs were fetched: theirs must not be of the future
        previous = trust.Previous(kept.signed_at, kept.generated_at)
        crls = self.crls.current()
        report = self.examine(candidate, self.anchors, crls, at=at, previous=previous, transport=transport)
        attempt = Attempt(at, None, report, candidate, fetched, retrieved=fetched is not None)
        if not report.accepted or report.trusted is None:
            return replace(attempt, failure=refusal(report, crls))
        judged = naming(report.trusted, self.own)
        return replace(attempt, named=judged.named, warnings=judged.warnings)
