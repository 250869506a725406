"""Questions of many requests answered together, each by an answer that was begun after the question was put.

While one call runs, all who come meanwhile are answered by one next call: fresh for everybody, however many they are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Executor, Future
from typing import Generic, TypeVar

from drimbox.domain.errors import Unavailable

K = TypeVar("K")
V = TypeVar("V")
MOST_KEYS = 500  # in one call


class Coalesced(Generic[K, V]):
    """Asks `ask(keys)` in `pool`, one call at a time; a key without an answer gives None. For one event loop.

    `patience` in seconds: a call that takes longer is given up (its thread is not), and so is everybody who comes
    until it ends: `Unavailable`, at once. `idle` is called when nobody waits any more.
    """

    def __init__(
        self,
        ask: Callable[[Collection[K]], Mapping[K, V]],
        pool: Executor,
        patience: float,
        idle: Callable[[], object] = lambda: None,
    ) -> None:
        self._ask, self._pool, self._patience, self._idle = ask, pool, patience, idle
        self._waiting: dict[K, list[asyncio.Future[V | None]]] = {}
        self._running = False
        self._stuck = False

    async def of(self, key: K) -> V | None:
        """The answer for a key. Raises `Unavailable`, and what `ask` raises."""
        if self._stuck:
            raise Unavailable("a call before this one gives no answer")
        waiter: asyncio.Future[V | None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, []).append(waiter)
        if not self._running:
            self._begin()
        return await waiter

    def _begin(self) -> None:
        """Ask for those who wait now."""
        loop, keys = asyncio.get_running_loop(), list(self._waiting)[:MOST_KEYS]
        batch = {key: self._waiting.pop(key) for key in keys}
        timer = loop.call_later(self._patience, self._give_up, batch)

        def done(call: Future[Mapping[K, V]]) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._end, batch, timer, call)

        self._running = True
        try:
            self._pool.submit(self._ask, keys).add_done_callback(done)
        except RuntimeError:  # the pool was closed: the process is stopping
            self._running = False
            timer.cancel()
            self._fail([*batch.values()], "the process is stopping")

    def _end(
        self,
        batch: Mapping[K, list[asyncio.Future[V | None]]],
        timer: asyncio.TimerHandle,
        call: Future[Mapping[K, V]],
    ) -> None:
        timer.cancel()
        self._running = self._stuck = False
        error = call.exception()
        answers = {} if error else call.result()
        for key, waiters in batch.items():
            _answer(waiters, answers.get(key), error)
        if self._waiting:
            self._begin()
        else:
            self._idle()

    def _give_up(self, batch: Mapping[K, list[asyncio.Future[V | None]]]) -> None:
        self._stuck = True
        late, self._waiting = [*batch.values(), *self._waiting.values()], {}
        self._fail(late, "no answer in time")

    def _fail(self, every: list[list[asyncio.Future[V | None]]], why: str) -> None:
        for waiters in every:
            _answer(waiters, None, Unavailable(why))


def _answer(waiters: list[asyncio.Future[V | None]], answer: V | None, error: BaseException | None) -> None:
    for waiter in waiters:
        if waiter.done():
            continue
        if error is None:
            waiter.set_result(answer)
        else:
            waiter.set_exception(error)
