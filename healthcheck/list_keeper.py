"""Keeps the list of the probes' addresses fresh: download, rules, disk, swap, tell (trust-and-identity 6.4, 6.5).

Whatever the publisher, the network, the disk or the clock do, the last good list stays; what changes is its age.
The thread is the caller's: it calls `run_due` now and then.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal, NamedTuple

from healthcheck.ip_list import AddressList, ListRefused, check_change, parse_list
from healthcheck.list_file import Damaged, KeptList, read_list, seed_list, write_list

FILE_NAME = "betterstack.json"
BACK_OFF = (
    60.0,
    120.0,
    300.0,
    600.0,
    1800.0,
    3600.0,
)  # seconds after a failure, never more than between refreshes
ASKED_EVERY = 600.0  # seconds between two refreshes that somebody asked for
AHEAD = timedelta(
    minutes=5
)  # a retrieval may seem to lie that far in the future: clocks are set now and then

Source = Literal["seed", "disk", "download"]
Event = tuple[str, Mapping[str, object]]


class Current(NamedTuple):
    """The list in force. `age`: seconds since it was retrieved, None when nobody knows (then it counts as stale)."""

    addresses: AddressList
    age: float | None
    source: Source


@dataclass(frozen=True, slots=True)
class _Held:
    """A list, the monotonic instant of its retrieval (None = unknown), its source."""

    addresses: AddressList
    since: float | None
    source: Source


class ListKeeper:
    """Keeps in `directory` what is published at `urls`: tried in order, the first usable one wins.

    `fetch(url)`: the body, by https and within limits; it raises one of `unreachable`. `refresh`, `stale`: seconds.
    `clock`: aware now, for the disk; `monotonic`: seconds, for everything else. `on_event(name, fields)`:
    HEALTH_LIST_REFRESHED {count, added, removed, url, sha256}, HEALTH_LIST_REFUSED {code, reason, url},
    HEALTH_LIST_STALE and HEALTH_LIST_FRESH {age, source, count}, HEALTH_LIST_DAMAGED {reason},
    HEALTH_LIST_UNSAVED {reason}; called without a lock, once the matter is settled.
    """

    def __init__(
        self,
        directory: Path,
        urls: Sequence[str],
        fetch: Callable[[str], bytes],
        *,
        unreachable: tuple[type[Exception], ...],
        clock: Callable[[], datetime],
        monotonic: Callable[[], float],
        on_event: Callable[[str, Mapping[str, object]], None],
        refresh: float = 6 * 3600,
        stale: float = 48 * 3600,
    ) -> None:
        self._path, self._urls = directory / FILE_NAME, tuple(urls)
        self._fetch, self._unreachable = fetch, unreachable
        self._clock, self._monotonic, self._on_event = clock, monotonic, on_event
        self._refresh, self._stale = refresh, stale
        self._lock, self._refreshing = threading.Lock(), threading.Lock()
        self._held = _Held(seed_list(), None, "seed")  # swapped whole: readers need no lock
        self._next = monotonic()
        self._asked: float | None = None
        self._failures = 0
        self._shrunk: str | None = None  # SHA-256 of the list that was last refused as shrunk
        self._told_stale = False

    @property
    def current(self) -> Current:
        """The list in force now."""
        held = self._held
        age = None if held.since is None else self._monotonic() - held.since
        return Current(held.addresses, age, held.source)

    @property
    def next_attempt(self) -> float:
        """The monotonic second of the next download."""
        return self._next

    def due(self, now: float | None = None) -> bool:
        """Whether it is time to download (`now`: monotonic seconds): at the start, every `refresh`, when asked."""
        return (self._monotonic() if now is None else now) >= self._next

    def load(self) -> None:
        """Take the last good list from the disk; without one, that of the package stays.

        A time of retrieval in the future says that a clock was or is wrong: the age is unknown then.
        """
        try:
            kept = read_list(self._path)
        except FileNotFoundError:
            return
        except (OSError, Damaged) as error:
            self._on_event("HEALTH_LIST_DAMAGED", {"reason": _words(error)})
            return
        age = self._clock() - kept.fetched_at
        known = self._monotonic() - max(age.total_seconds(), 0.0) if age >= -AHEAD else None
        self._held = _Held(kept.addresses, known, "disk")

    def run_due(self) -> bool:
        """Download if it is time, tell if the list has become stale or fresh. True = it was time."""
        due = self.due()
        if due:
            self.refresh()
        self._tell_age()
        return due

    def refresh(self) -> bool:
        """Download now. True = a usable list came and is in force; False: none did, or somebody else is at it."""
        if not self._refreshing.acquire(blocking=False):
            return False
        told: list[Event] = []
        done = False
        try:
            done = self._download(told)
        finally:
            self._schedule(done)
            self._refreshing.release()
        for name, fields in told:
            self._on_event(name, fields)
        return done

    def ask_for_refresh(self) -> bool:
        """Unknown probes were seen: download at the next `run_due`, at most once in ten minutes. False = too soon."""
        now = self._monotonic()
        with self._lock:
            if self._asked is not None and now - self._asked < ASKED_EVERY:
                return False
            self._asked, self._next = now, min(self._next, now)
            return True

    def _download(self, told: list[Event]) -> bool:
        shrunk = self._shrunk  # of an earlier download: two forms of the same one are not two
        for url in self._urls:
            try:
                addresses = self._judged(self._fetch(url), shrunk)
            except ListRefused as error:
                told.append(("HEALTH_LIST_REFUSED", {"code": error.code, "reason": error.reason, "url": url}))
            except self._unreachable as error:
                told.append(("HEALTH_LIST_REFUSED", _unreached(error) | {"url": url}))
            else:
                self._take(addresses, url, told)
                return True
        return False

    def _judged(self, body: bytes, shrunk: str | None) -> AddressList:
        """The list, if it may follow the one held. The package's is no measure: it may be years old."""
        addresses = parse_list(body)
        held = self._held
        try:
            check_change(None if held.source == "seed" else held.addresses, addresses, shrunk)
        except ListRefused:
            self._shrunk = addresses.sha256
            raise
        return addresses

    def _take(self, addresses: AddressList, url: str, told: list[Event]) -> None:
        before, self._shrunk = self._held, None
        try:
            write_list(self._path, KeptList(addresses, self._clock(), url))
        except OSError as error:  # it counts all the same, until the next start
            told.append(("HEALTH_LIST_UNSAVED", {"reason": _words(error)}))
        self._held = _Held(addresses, self._monotonic(), "download")
        old, new = set(before.addresses.entries), set(addresses.entries)
        if old != new or self._failures or before.source == "seed":
            change = {"count": addresses.count, "added": len(new - old), "removed": len(old - new)}
            told.append(("HEALTH_LIST_REFRESHED", {**change, "url": url, "sha256": addresses.sha256}))

    def _schedule(self, done: bool) -> None:
        with self._lock:
            self._failures = 0 if done else self._failures + 1
            step = min(self._failures, len(BACK_OFF)) - 1
            wait = self._refresh if done else min(BACK_OFF[step], self._refresh)
            self._next = self._monotonic() + wait

    def _tell_age(self) -> None:
        addresses, age, source = self.current
        stale = age is None or age > self._stale
        with self._lock:
            changed, self._told_stale = stale != self._told_stale, stale
        if changed:
            name = "HEALTH_LIST_STALE" if stale else "HEALTH_LIST_FRESH"
            seconds = None if age is None else int(age)
            self._on_event(name, {"age": seconds, "source": source, "count": addresses.count})


def _unreached(error: Exception) -> dict[str, object]:
    """The slug and sentence of an error that has them, as `whitelist.fetch.Unreachable` does."""
    code, reason = getattr(error, "code", None), getattr(error, "reason", None)
    if isinstance(code, str) and isinstance(reason, str):
        return {"code": code, "reason": reason}
    return {"code": "unreachable", "reason": _words(error)}


def _words(error: Exception) -> str:
    if isinstance(error, Damaged):
        return str(error)
    return (error.strerror if isinstance(error, OSError) else None) or type(error).__name__
