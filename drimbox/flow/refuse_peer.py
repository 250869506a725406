"""A peer is refused before it says anything that could be kept, or breaks off: who, at which door, why."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from drimbox.domain.errors import Unavailable
from drimbox.flow import trace
from drimbox.flow.ports import Transactions

EVENTS = {
    "dicom": "ASSOCIATION_REFUSED",
    "mllp": "CONNECTION_REFUSED",
    "mllps": "CONNECTION_REFUSED",
    "stow": "REQUEST_REFUSED",
}


def trace_refused_peer(
    transactions: Transactions,
    door: str,
    peer: str,
    reason: str,
    *,
    now: datetime,
    log: Callable[..., Any],
    repeated: int = 0,
) -> None:
    """Trace it; when even that cannot be written, say so in the log (the peer is refused all the same).

    `repeated`: how many more of the same, untraced, came since the last row.
    """
    detail: dict[str, Any] = {"repeated": repeated} if repeated else {}
    try:
        with transactions.writing() as transaction:
            trace.note(transaction, EVENTS[door], at=now, actor=f"{door}:{peer}", reason=reason, **detail)
            transaction.commit()
    except Unavailable as error:
        log("refusal_not_traced", door=door, peer=peer, reason=str(error))
