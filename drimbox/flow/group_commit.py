"""Group commit: the works of several threads in one transaction, with one commit.

Who wants to write queues its work. When nobody leads, it leads at once: it takes what waits, runs each work in one
transaction (in a savepoint of its own, so that one refusal spoils nothing for the others), commits once and hands on
to the first who came meanwhile. A lone sender waits for nobody; those who come during a commit share the next one.
There is no thread of its own: nothing to start, nothing to stop.

Its transactions are `arriving` ones: durable after `transactions.harden()`.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

from drimbox.domain.errors import CommitInDoubt, TransactionLost, Unavailable
from drimbox.flow.ports import ArrivingTransactions, Transaction

MOST = 32  # works in one transaction

_Result = TypeVar("_Result")


class _Turn:
    """One work: queued, run by whoever leads, its result fetched by the thread that waits."""

    def __init__(
        self, key: str, work: Callable[[Transaction], Any], before_commit: Callable[[], object]
    ) -> None:
        self.key = key
        self.before_commit = before_commit
        self._work = work
        self._woken = threading.Lock()
        self._woken.acquire()
        self._result: Any = None
        self._error: BaseException | None = None
        self.is_settled = False

    def wait(self) -> None:
        """Until it is settled, or it is its turn to lead."""
        self._woken.acquire()

    def wake(self) -> None:
        self._woken.release()

    def run(self, transaction: Transaction) -> None:
        self._result = self._work(transaction)

    def settle(self, error: BaseException | None = None) -> None:
        """The first word counts."""
        if not self.is_settled:
            self._error, self.is_settled = error, True

    def result(self) -> Any:
        if self._error is not None:
            raise self._error
        return self._result


class GroupCommit:
    """Runs works in shared transactions; one object per process. `most`: works in one transaction."""

    def __init__(self, transactions: ArrivingTransactions, most: int = MOST) -> None:
        self.transactions = transactions
        self._most = most
        self._waiting: deque[_Turn] = deque()
        self._is_led = False
        self._lock = threading.Lock()

    def run(
        self,
        key: str,
        work: Callable[[Transaction], _Result],
        before_commit: Callable[[], object] = lambda: None,
    ) -> _Result:
        """The result of `work`, once it is committed; `work` must not commit. `before_commit` follows it.

        `key`: what the work locks first (a study). Works are run in the order of their keys, so that two processes
        never wait for each other. Raises what `work` raises (nothing of it is written then), `Unavailable`, and
        `CommitInDoubt` when the commit itself failed.
        """
        turn = _Turn(key, work, before_commit)
        with self._lock:
            self._waiting.append(turn)
            leads, self._is_led = not self._is_led, True
        if not leads:
            turn.wait()
        if not turn.is_settled:
            self._lead(turn)
        return cast(_Result, turn.result())

    def _lead(self, own: _Turn) -> None:
        """One batch, whose first is our own; then it is the next one's turn, whatever happens to us."""
        with self._lock:
            batch = [self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))]
        try:
            self._write(sorted(batch, key=lambda turn: turn.key))
        finally:
            with self._lock:
                following = self._waiting[0] if self._waiting else None
                self._is_led = following is not None
            for turn in batch:
                turn.settle(CommitInDoubt("whoever wrote for several senders was interrupted"))
            if following is not None:
                following.wake()
            for turn in batch:
                if turn is not own:
                    turn.wake()

    def _write(self, batch: Sequence[_Turn]) -> None:
        """Settles every turn of the batch. Only what is no `Exception` comes through."""
        committing = False
        try:
            with self.transactions.arriving() as transaction:
                done = _alone(batch[0], transaction) if len(batch) == 1 else _together(batch, transaction)
                for turn in done:
                    turn.before_commit()
                if done:
                    committing = True
                    transaction.commit()
                for turn in done:
                    turn.settle()
        except Exception as error:  # noqa: BLE001 - handed to the threads that asked for it
            for turn in batch:
                turn.settle(_told(error, committing, shared=len(batch) > 1))


def _alone(turn: _Turn, transaction: Transaction) -> Sequence[_Turn]:
    turn.run(transaction)
    return [turn]


def _together(batch: Sequence[_Turn], transaction: Transaction) -> Sequence[_Turn]:
    """Those that did not fail. Raises `TransactionLost`."""
    done = []
    for turn in batch:
        try:
            with transaction.savepoint():
                turn.run(transaction)
            done.append(turn)
        except TransactionLost:
            raise
        except Exception as error:  # noqa: BLE001 - handed to the thread that asked for it
            turn.settle(error)
    return done


def _told(error: Exception, committing: bool, *, shared: bool) -> Exception:
    """What one sender is told of what failed; every thread gets an exception of its own."""
    if not shared and not committing:
        return error
    kind = CommitInDoubt if committing else Unavailable
    told = kind(str(error) if isinstance(error, Unavailable) else f"not written: {type(error).__name__}")
    told.__cause__ = error
    return told
