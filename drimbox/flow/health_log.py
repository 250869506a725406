"""What changed in our health, in the log at once and in the trace as soon as it can be written.

The database may be what failed: rows wait for it, in their order, and the oldest are given up when too many do.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

from drimbox.domain.errors import Unavailable
from drimbox.flow import trace
from drimbox.flow.ports import Clock, Transactions
from drimbox.flow.retrievals import FORBIDDEN

MOST_WAITING = 1000  # rows
TRY_AGAIN = 5.0  # seconds after a row could not be written
STOP_SECONDS = 5.0
ROWS_PER_HOUR = 12  # of what changes again and again; the others are counted
MOST_AGENTS = 10  # user-agents that are told of one address on one day: it may say another each time


@dataclass
class HealthLog:
    """Writes rows in a thread of its own. `actor`: as the trace names this node; `log(event, **fields)`."""

    transactions: Transactions
    clock: Clock
    actor: str
    log: Callable[..., object]
    pause: float = TRY_AGAIN
    monotonic: Callable[[], float] = time.monotonic
    _told: dict[str, tuple[int, int, int]] = field(default_factory=dict, init=False)
    _rows: deque[tuple[datetime, str, dict[str, Any]]] = field(default_factory=deque, init=False)
    _bell: threading.Condition = field(default_factory=threading.Condition, init=False)
    _stopping: bool = field(default=False, init=False)
    _thread: threading.Thread | None = field(default=None, init=False)

    def start(self) -> None:
        """Begin to write."""
        self._thread = threading.Thread(target=self._run, name="health-log", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Write what waits, if that is possible now."""
        with self._bell:
            self._stopping = True
            self._bell.notify()
        if self._thread is not None:
            self._thread.join(STOP_SECONDS)

    def tell_change(self, event: str, what: str, **detail: Any) -> None:
        """As `tell`, at most `ROWS_PER_HOUR` times of one `what`; the next row says how many had none."""
        window = int(self.monotonic() // 3600)
        begun, rows, left_out = self._told.get(what, (window, 0, 0))
        if begun == window and rows >= ROWS_PER_HOUR:
            self._told[what] = (begun, rows, left_out + 1)
            return
        self._told[what] = (window, rows + 1 if begun == window else 1, 0)
        self.tell(event, **detail, **({"repeated": left_out} if left_out else {}))

    def tell(self, event: str, **detail: Any) -> None:
        """Keep a row; waits for nothing."""
        with self._bell:
            if len(self._rows) >= MOST_WAITING:
                lost = self._rows.popleft()
                self.log("health_row_lost", code=lost[1])
            self._rows.append((self.clock(), event, detail))
            self._bell.notify()

    def _run(self) -> None:
        while True:
            with self._bell:
                self._bell.wait_for(lambda: self._rows or self._stopping)
                if not self._rows:
                    return
                row = self._rows[0]
            written = self._write(*row)
            with self._bell:
                if written and self._rows and self._rows[0] is row:
                    self._rows.popleft()
                elif not written and self._stopping:
                    return
                elif not written:
                    self._bell.wait_for(lambda: self._stopping, timeout=self.pause)

    def _write(self, at: datetime, event: str, detail: dict[str, Any]) -> bool:
        try:
            with self.transactions.writing() as transaction:
                trace.note(transaction, event, at=at, actor=self.actor, **detail)
                transaction.commit()
        except Unavailable as error:
            self.log("health_row_waits", code=event, reason=str(error))
            return False
        except Exception as error:  # noqa: BLE001 the door of a thread: a row that can never be written is told and left
            self.log("health_row_lost", code=event, error=type(error).__name__)
        return True


@dataclass(frozen=True, slots=True)
class Refused:
    """An address that was not answered on one day (UTC). `count`: requests; `first`, `last`: instants.

    `user_agents`: the first `MOST_AGENTS` of them.
    """

    day: date
    address: str
    count: int
    first: datetime
    last: datetime
    user_agents: tuple[str, ...]


def refused_by_day(transactions: Transactions, since: datetime) -> list[Refused]:
    """Whom the address filter refused, per day and address: the evidence of trust-and-identity 6.1 H4.

    Raises `Unavailable`.
    """
    counts: Counter[tuple[date, str]] = Counter()
    times: dict[tuple[date, str], tuple[datetime, datetime]] = {}
    agents: dict[tuple[date, str], set[str]] = {}
    with transactions.reading() as transaction:
        for row in transaction.traces.of_event(FORBIDDEN, since):
            key = (row.at.date(), row.actor.partition(":")[2])
            counts[key] += int(row.detail.get("repeated", 1))
            first, last = times.get(key, (row.at, row.at))
            times[key] = (min(first, row.at), max(last, row.at))
            words, known = row.detail.get("user_agent"), agents.setdefault(key, set())
            if words and len(known) < MOST_AGENTS:
                known.add(words)
    return [Refused(*key, counts[key], *times[key], tuple(sorted(agents[key]))) for key in sorted(counts)]
