"""Refusals for want of room: a row of the trace a minute for each peer, with a count, never a row for each.

Who is refused sends again, for days if need be: rows would fill what must remain free.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from drimbox.domain.errors import NoRoom
from drimbox.flow import trace
from drimbox.flow.keep_report import Arrival
from drimbox.flow.ports import Documents, Transactions

PEERS = 1024  # told apart; when there are more, all are told anew


@dataclass
class NoRoomRefusals:
    """One object per process, for all its threads. `period` in seconds."""

    period: float = 60.0
    _told: dict[str, tuple[float, int]] = field(default_factory=dict, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def turn(self, peer: str, instant: float) -> int | None:
        """How many refusals of a peer had no row since its last one; None: this one has none either.

        `instant`: seconds of a clock that is always the same one.
        """
        with self._lock:
            if len(self._told) >= PEERS and peer not in self._told:
                self._told.clear()
            at, count = self._told.get(peer, (float("-inf"), 0))
            if abs(instant - at) < self.period:
                self._told[peer] = at, count + 1
                return None
            self._told[peer] = instant, 0
            return count


def keep_or_tell(
    transactions: Transactions, documents: Documents, refusals: NoRoomRefusals, arrival: Arrival
) -> str:
    """The digest of the bytes of a report, which are kept now. Raises `Unavailable`; `NoRoom` is traced."""
    try:
        return documents.put(arrival.content)
    except NoRoom as error:
        repeated = refusals.turn(arrival.actor, arrival.at.timestamp())
        if repeated is not None:
            _note(transactions, arrival, str(error), repeated)
        raise


def _note(transactions: Transactions, arrival: Arrival, reason: str, repeated: int) -> None:
    with transactions.writing() as transaction:
        trace.note(
            transaction,
            "REPORT_REFUSED",
            at=arrival.at,
            actor=arrival.actor,
            door=arrival.door,
            code="no-room",
            reason=reason,
            repeated=repeated,
        )
        transaction.commit()
