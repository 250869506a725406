"""The whitelist as a process that does not retrieve it sees it: cheap, thread-safe, never unverified."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from whitelist import trust
from whitelist.cache import Cache, Examine, Loaded
from whitelist.chain import Anchors
from whitelist.decision import Alert, State
from whitelist.document import TrustedList
from whitelist.progress import alert_of
from whitelist.schedule import as_of

RECHECK = 1.0  # seconds between two looks at `state.json`
RELOAD_DAMAGED = 60.0  # seconds between two readings of a directory without a usable list in force


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The whitelist at one instant. `since`: when the state was entered; `warnings`: what is damaged on disk."""

    state: State
    trusted: TrustedList | None
    last_success: datetime | None
    since: datetime | None
    warnings: tuple[str, ...] = ()
    alert: Alert = Alert.ERROR


def _now() -> datetime:
    return datetime.now(UTC)


class View:
    """Reads what a keeper of another process wrote under `directory`.

    The list is verified again when `state.json` changed; in between a call costs a `stat` a second. One caller
    looks, the others go on with what is known. A list once seen serves on while the disk yields none (W8).
    """

    def __init__(
        self,
        directory: Path,
        anchors: Anchors,
        *,
        examine: Examine = trust.examine,
        clock: Callable[[], datetime] = _now,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cache, self._anchors = Cache(directory, examine=examine), anchors
        self._clock, self._monotonic = clock, monotonic
        self._lock = threading.Lock()
        self._loaded: Loaded | None = None
        self._stamp: tuple[int, ...] | None = None
        self._looked: float | None = None
        self._read = 0.0

    def current(self) -> Snapshot:
        """State and list now; NEVER when the directory is missing, unreadable or empty."""
        loaded = self.loaded()
        if loaded is None:
            return Snapshot(State.NEVER, None, None, None)
        kept = loaded.kept
        now = self._clock()
        state = as_of(kept.state, kept.last_success, now)
        told = (kept.last_success, kept.since, loaded.warnings, alert_of(kept, now))
        return Snapshot(state, loaded.trusted, *told)

    def loaded(self) -> Loaded | None:
        """Everything that `current` is made of."""
        if self._lock.acquire(blocking=self._looked is None):
            try:
                instant = self._monotonic()
                if self._looked is None or instant - self._looked >= RECHECK:
                    self._look(instant)
            finally:
                self._lock.release()
        return self._loaded

    def _look(self, instant: float) -> None:
        stamp = self._cache.stamp()  # before reading: a change in between is seen at the next look
        damaged = self._loaded is None or not self._loaded.intact
        again = damaged and instant - self._read >= RELOAD_DAMAGED
        if self._looked is None or stamp != self._stamp or again:
            self._loaded = _without_loss(self._cache.load(self._anchors), self._loaded)
            self._stamp, self._read = stamp, instant
        self._looked = instant


def _without_loss(found: Loaded | None, known: Loaded | None) -> Loaded | None:
    """What was found; the list in memory, which was verified, when a disk that cannot be read yields none."""
    usable = found is not None and (found.trusted is not None or found.kept.state is State.ABSENT)
    if usable or known is None or known.trusted is None:
        return found
    lost = (*(found.warnings if found else ()), "the disk yields no list: the one in memory is used")
    state = State.STALE if known.kept.state is State.CURRENT else known.kept.state
    return replace(known, kept=replace(known.kept, state=state), intact=False, warnings=lost)
