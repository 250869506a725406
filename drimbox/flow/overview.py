"""What happened lately, for `drimbox status`: how much in the last hour, and the last refusals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from drimbox.flow import retrievals
from drimbox.flow.duties import Standing, standings
from drimbox.flow.exams import stamp
from drimbox.flow.ports import Transactions

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
SHOWN = 5  # refusals

# What is counted, under its name in the JSON.
HOURLY = {
    "instances_stored": "INSTANCE_STORED",
    "instances_repeated": "INSTANCE_REPEATED",
    "instances_refused": "INSTANCE_REFUSED",
    "reports_received": "REPORT_RECEIVED",
    "reports_repeated": "REPORT_REPEATED",
    "reports_refused": "REPORT_REFUSED",
    "manifests_registered": "REGISTERED",
    "retrievals_served": retrievals.SERVED,
    "retrievals_cut": retrievals.CUT,
    "retrievals_refused": retrievals.REFUSED,
}
REFUSALS = (
    *("INSTANCE_REFUSED", "REPORT_REFUSED", retrievals.REFUSED, "ASSOCIATION_REFUSED"),
    *("CONNECTION_REFUSED", "REQUEST_REFUSED", "REFUSED"),
)


@dataclass(frozen=True, slots=True)
class Overview:
    """`hour`: counts by the names of `HOURLY`; `refusals`: the last of a day, newest first; `duties`: who has which."""

    hour: Mapping[str, int]
    refusals: tuple[Mapping[str, Any], ...]
    duties: tuple[Standing, ...]


def look_back(transactions: Transactions, now: datetime) -> Overview:
    """The overview at `now`. Raises `errors.Unavailable`."""
    with transactions.reading() as transaction:
        counts = transaction.traces.counted_since(HOURLY.values(), now - HOUR)
        last = transaction.traces.last_of(REFUSALS, now - DAY, SHOWN)
        duties = tuple(standings(transaction))
    refusals = tuple(
        {
            "at": stamp(row.at),
            "event": row.event,
            "actor": row.actor,
            "study": row.study_instance_uid,
            "code": row.detail.get("code"),
            "reason": row.detail.get("reason") or row.detail.get("why"),
        }
        for row in last
    )
    return Overview({name: counts.get(event, 0) for name, event in HOURLY.items()}, refusals, duties)
