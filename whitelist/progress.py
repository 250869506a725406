"""How one retrieval changes what is remembered: state, cadence, alert (trust-and-identity 3.6). Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from whitelist.decision import Alert, OwnName, State, alert
from whitelist.record import Failure, Kept
from whitelist.schedule import DAY, MINUTES_OF_A_DAY, SOON, as_of, next_daily, retry_at

REMINDER = timedelta(days=1)
REVOKED = "revoked"  # code of a failure: a CRL names the list's signer


@dataclass(frozen=True, slots=True)
class Accepted:
    """What an accepted list adds. `retrieved` False: it came from a file; `etag`, `modified`: of a retrieved body."""

    at: datetime
    named: bool
    retrieved: bool
    etag: str | None = None
    modified: str | None = None


@dataclass(frozen=True, slots=True)
class ArchivedList:
    """The list in force: file name and SHA-256, when it was accepted, and the floor of step 12."""

    name: str
    accepted_at: datetime
    sha256: str
    signed_at: datetime | None
    generated_at: datetime | None


def accepted(
    kept: Kept, own: OwnName, state: State, success: Accepted, archived: ArchivedList, chance: float
) -> Kept:
    """After an accepted list: daily if it names us; soon, then hourly, while it does not, so that the end is seen.

    A file changes nothing of the cadence of the retrievals.
    """
    tries = 0 if success.named else kept.tries + 1
    following = (
        next_daily(success.at, kept.minute or 0) if success.named else retry_at(success.at, tries, chance)
    )
    return replace(
        entered(kept, state, success.at),
        own_host=own.host,
        list_file=archived.name,
        sha256=archived.sha256,
        accepted_at=archived.accepted_at,
        signed_at=archived.signed_at,
        generated_at=archived.generated_at,
        etag=success.etag,
        modified=success.modified,
        last_success=success.at,
        last_attempt=success.at if success.retrieved else kept.last_attempt,
        next_attempt=following if success.retrieved else kept.next_attempt,
        failure=None,
        failures=0,
        failing_since=None,
        tries=tries,
    )


def failed(kept: Kept, own: OwnName, state: State, failure: Failure, chance: float) -> Kept:
    """After a retrieval without an accepted list: again in 5 minutes, doubling to an hour."""
    tries = kept.tries + 1
    return replace(
        entered(kept, state, failure.at),
        own_host=own.host,
        last_attempt=failure.at,
        next_attempt=retry_at(failure.at, tries, chance),
        failure=failure,
        failures=kept.failures + 1,
        failing_since=kept.failing_since or failure.at,
        tries=tries,
    )


def entered(kept: Kept, state: State, at: datetime) -> Kept:
    """`since` is when the state began, not when it was last confirmed."""
    if state is kept.state and kept.since is not None:
        return kept
    return replace(kept, state=state, since=at)


def configured(kept: Kept, url: str, chance: Callable[[], float]) -> Kept:
    """Validators are of one address, which is tried at once; the minute of the day is drawn once, and kept with the
    first attempt.
    """
    minute = int(chance() * MINUTES_OF_A_DAY) if kept.minute is None else kept.minute
    if kept.url == url:
        return replace(kept, minute=minute)
    return replace(kept, url=url, minute=minute, etag=None, modified=None, next_attempt=None)


def remembering(kept: Kept, unsaved: Kept | None) -> Kept:
    """`kept` as read from disk, with the later attempt that the disk did not take; the state stays the disk's."""
    attempted = unsaved.last_attempt if unsaved else None
    if unsaved is None or attempted is None or (kept.last_attempt and kept.last_attempt >= attempted):
        return kept
    return replace(kept, **{name: getattr(unsaved, name) for name in _OF_AN_ATTEMPT})


_OF_AN_ATTEMPT = (
    "url", "own_host", "minute", "last_attempt", "next_attempt", "failure", "failures", "failing_since", "tries",
    "alert", "alerted_at",
)  # fmt: skip


def due_at(kept: Kept, own: OwnName, now: datetime, *, damaged: bool) -> datetime:
    """When to retrieve next; at once when nothing was tried yet, or for another host of ours.

    `damaged`: the list in force is not usable as it is: soon, unless a failed attempt set the pace since. A date that
    no success or failure can have given (the clock was wrong) is not waited for.
    """
    if kept.next_attempt is None or kept.last_attempt is None or kept.own_host != own.host:
        return now
    if kept.last_attempt > now or kept.next_attempt > now + DAY + SOON:
        return now
    soon = kept.last_attempt + SOON
    return min(kept.next_attempt, soon) if damaged and not kept.failures else kept.next_attempt


def alert_of(kept: Kept, now: datetime) -> Alert:
    """The alert of the state (3.6); critical while the published list is of a revoked signer (5.4)."""
    if kept.failure is not None and kept.failure.code == REVOKED:
        return Alert.CRITICAL
    return alert(as_of(kept.state, kept.last_success, now), kept.last_success, now)


def alarmed(kept: Kept, now: datetime) -> tuple[Kept, bool]:
    """The alert now, and whether it is to be told: once per change, then once a day (3.6)."""
    level = alert_of(kept, now)
    told = kept.alerted_at
    # told in the future: the clock was wrong
    again = level is not Alert.NONE and (told is None or told > now or now - told >= REMINDER)
    if level is kept.alert and not again:
        return kept, False
    return replace(kept, alert=level, alerted_at=now), True
