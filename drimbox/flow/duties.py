"""Chores that one worker does for all nodes: who has each of them, until when, and who writes meanwhile.

A row per duty says who holds it and until when. Its holder renews it long before; whoever finds it free takes it: by
compare-and-set, in a short transaction. A worker that dies is replaced within `LEASE` and `LOOK` seconds, one that
is stopped at the next look. Instants are those of the database: the nodes' clocks need not agree. The holder itself
measures, from before it asked, by a clock that nobody sets: it stops believing before anybody else may begin.

What it has begun by then may still go on. Where two that do the same would hurt, its writing transactions are
`guarded`: they keep the row of the duty from changing hands while they last, and end in `DutyLost` once it has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from drimbox.domain.errors import DutyLost
from drimbox.flow.ports import Transaction, Transactions

LEASE = 45.0  # seconds
LOOK = 5.0  # seconds between two calls of `keep`: with the lease, under a minute
_RENEW = LEASE * 2 / 3  # what is left of a lease when it is renewed


@dataclass(frozen=True, slots=True)
class Standing:
    """Who holds a duty. `left`: seconds, of the database's clock; 0 or less = it is free."""

    name: str
    holder: str
    left: float


class Duties:
    """The duties of one worker. Safe for threads.

    `holder`: its node; `names`: what it takes part in; `awake`: seconds of a clock that goes on while the machine
    sleeps.
    """

    def __init__(
        self,
        transactions: Transactions,
        holder: str,
        names: Iterable[str],
        awake: Callable[[], float],
        log: Callable[..., Any],
        lease: float = LEASE,
    ) -> None:
        self._transactions, self._holder, self._names = transactions, holder, sorted(names)
        self._awake, self._log, self._lease = awake, log, lease
        self._until: dict[str, float] = {}

    def keep(self) -> int:
        """Renew what is ours, take what is free; how many became ours. Raises `errors.Unavailable`."""
        begun = self._awake()
        wanted = self._wanted()
        taken: dict[str, bool] = {}
        if wanted:
            with self._transactions.writing() as transaction:
                for name in wanted:  # in one order for all: nobody waits for each other
                    taken[name] = transaction.duties.take(name, self._holder, timedelta(seconds=self._lease))
                transaction.commit()
        return sum(self._note(name, ours, begun) for name, ours in taken.items())

    def holds(self, name: str) -> bool:
        """Whether that duty is ours now."""
        return self._awake() < self._until.get(name, float("-inf"))

    def alone(self, name: str, job: Callable[[], int]) -> Callable[[], int]:
        """The job, done while the duty is ours; else 0, without a look."""
        return lambda: job() if self.holds(name) else 0

    def guarded(self, name: str) -> Guarded:
        """Transactions that write only while the duty is ours."""
        return Guarded(self._transactions, name, self._holder)

    def release(self) -> int:
        """Give up all: others take them at their next look. Raises `errors.Unavailable`."""
        self._names, self._until = [], {}
        with self._transactions.writing() as transaction:
            transaction.duties.release(self._holder)
            transaction.commit()
        return 0

    def _wanted(self) -> list[str]:
        """What is free, and what of ours is to be renewed. A look that writes nothing."""
        with self._transactions.reading() as transaction:
            rows = {row.name: row for row in standings(transaction)}
        return [name for name in self._names if self._is_wanted(name, rows.get(name))]

    def _is_wanted(self, name: str, row: Standing | None) -> bool:
        # beyond twice as long as ours: given before the clock was set back
        if row is None or row.left <= 0 or row.left > 2 * self._lease:
            return True
        if row.holder != self._holder:
            self._lose(name)
            return False
        # held by us, and not known: by a worker of this node that is dead, as there is only one
        return row.left < self._lease * _RENEW / LEASE or not self.holds(name)

    def _note(self, name: str, ours: bool, begun: float) -> bool:
        if not ours:
            self._lose(name)
            return False
        new, self._until[name] = not self.holds(name), begun + self._lease
        if new:
            self._log("duty_taken", outcome=name)
        return new

    def _lose(self, name: str) -> None:
        if self._until.pop(name, None) is not None:
            self._log("duty_lost", outcome=name)


@dataclass(frozen=True, slots=True)
class Guarded:
    """Transactions of the holder of a duty; writing ones raise `DutyLost` once another has it."""

    transactions: Transactions
    name: str
    holder: str

    @contextmanager
    def writing(self) -> Iterator[Transaction]:
        """As those of everybody; nobody takes the duty before it ends."""
        with self.transactions.writing() as transaction:
            if not transaction.duties.hold(self.name, self.holder):
                raise DutyLost(f"the duty {self.name} is another worker's now")
            yield transaction

    @contextmanager
    def reading(self) -> Iterator[Transaction]:
        """As those of everybody."""
        with self.transactions.reading() as transaction:
            yield transaction


def standings(transaction: Transaction) -> list[Standing]:
    """Who holds what, by name."""
    now = transaction.duties.now()
    return [
        Standing(row.name, row.holder, (row.until - now).total_seconds()) for row in transaction.duties.all()
    ]


def who_is_on_duty(transactions: Transactions) -> list[Standing]:
    """For `drimbox status`: the duties by name, free ones included once somebody held them."""
    with transactions.reading() as transaction:
        return standings(transaction)
