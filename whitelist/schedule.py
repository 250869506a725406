"""When the list is to be fetched next, and how long a success stands (trust-and-identity 3.6). Pure."""

from __future__ import annotations

from datetime import datetime, timedelta

from whitelist.decision import FRESH, State

DAY = timedelta(days=1)
MINUTES_OF_A_DAY = 24 * 60
RETRIES = tuple(timedelta(minutes=m) for m in (5, 10, 20, 40, 60))  # the last one repeats
JITTER = 0.2  # of a retry's delay, at most, earlier
SOON = RETRIES[0]


def retry_at(now: datetime, tries: int, chance: float) -> datetime:
    """After the `tries`-th attempt in a row (from 1) that did not end well; `chance` in [0, 1)."""
    return now + RETRIES[min(tries, len(RETRIES)) - 1] * (1 - JITTER * chance)


def next_daily(now: datetime, minute: int) -> datetime:
    """The next instant of the drawn minute of the UTC day that is more than a minute away."""
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    today = midnight + timedelta(minutes=minute)
    return today if today > now + timedelta(minutes=1) else today + DAY


def as_of(state: State, last_success: datetime | None, now: datetime) -> State:
    """CURRENT stands for 24 h and a margin: without a later success, whatever the reason, it is STALE."""
    old = last_success is None or now - last_success > FRESH
    return State.STALE if state is State.CURRENT and old else state
