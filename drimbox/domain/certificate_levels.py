"""How near a certificate is to its end: one table for the inventory, the alarms, the health check and the metrics."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum

NOTICE_DAYS, WARNING_DAYS, CRITICAL_DAYS = 60, 30, 7  # trust-and-identity 5.7: renewals take weeks


class Level(StrEnum):
    """From good to bad; `UNSEEN`: its file was not given to the process that looks."""

    OK = "ok"
    UNSEEN = "unseen"
    NOTICE = "notice"
    WARNING = "warning"
    CRITICAL = "critical"
    EXPIRED = "expired"
    UNUSABLE = "unusable"


#: how loud the log is about a level; nothing is said of the others
LOUDNESS: Mapping[Level, str] = {
    Level.NOTICE: "info",
    Level.WARNING: "warning",
    Level.CRITICAL: "error",
    Level.EXPIRED: "error",
    Level.UNUSABLE: "error",
}
ENDED = frozenset({Level.EXPIRED, Level.UNUSABLE})


def level_of(not_after: datetime, now: datetime, warning_days: int = WARNING_DAYS) -> Level:
    """The level of a certificate that ends at `not_after`; `warning_days`: health.certificate_warn_days."""
    left = not_after - now
    rows = (
        (Level.EXPIRED, timedelta(0)),
        (Level.CRITICAL, timedelta(days=min(CRITICAL_DAYS, warning_days))),
        (Level.WARNING, timedelta(days=warning_days)),
        (Level.NOTICE, timedelta(days=NOTICE_DAYS)),
    )
    return next((level for level, limit in rows if left < limit), Level.OK)


def days_left(not_after: datetime, now: datetime) -> int:
    """Whole days until the end; negative once it has passed."""
    return (not_after - now) // timedelta(days=1)
