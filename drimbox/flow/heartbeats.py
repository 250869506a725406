"""Signs of life: each process of a node writes its own row, the probes of the same node read it.

Rows of other nodes, forgotten ones too, are nobody's business here: each node speaks for itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from drimbox.flow.ports import Transactions
from drimbox.flow.records import Heartbeat

WORKER, WEB = "worker", "web"  # processes
BEATS = 3  # of the worker in a period of the health check: one that misses as many is silent
WORKING, STOPPED = "working", "stopped"  # `state` in the detail of the worker's beats


def beat(
    transactions: Transactions, node: str, process: str, now: datetime, detail: Mapping[str, Any]
) -> None:
    """The process lives at `now`: durable when it returns. `detail`: JSON, never patient data.

    Raises `errors.Unavailable`.
    """
    with transactions.writing() as transaction:
        row = transaction.health.heartbeat(node, process)
        if row is None:
            transaction.ledger.add(Heartbeat(node, process, now, dict(detail)))
        else:
            row.at, row.detail = now, dict(detail)
        transaction.commit()


def last_beat(transactions: Transactions, node: str, process: str) -> Heartbeat | None:
    """The last sign of life of a process, None when there never was one. Raises `errors.Unavailable`."""
    with transactions.reading() as transaction:
        return transaction.health.heartbeat(node, process)
