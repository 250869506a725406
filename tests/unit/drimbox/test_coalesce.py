"""Questions answered together: fresh for each, one call at a time, nobody waits for ever."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Collection, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from drimbox.domain.errors import Unavailable
from drimbox.flow.coalesce import MOST_KEYS, Coalesced


class Source:
    """Answers with the value of the moment in which the call begins; can be held."""

    def __init__(self) -> None:
        self.value = 0
        self.calls: list[list[str]] = []
        self.may_go = threading.Event()
        self.may_go.set()
        self.begun = threading.Event()
        self.error: Exception | None = None

    def __call__(self, keys: Collection[str]) -> Mapping[str, int]:
        value = self.value
        self.calls.append(sorted(keys))
        self.begun.set()
        assert self.may_go.wait(10)
        if self.error is not None:
            raise self.error
        return {key: value for key in keys if key != "unknown"}


def play(
    story: Callable[[Source, Coalesced[str, int]], Coroutine[Any, Any, None]], patience: float = 10
) -> Source:
    source = Source()
    with ThreadPoolExecutor(1) as pool:
        asyncio.run(story(source, Coalesced(source, pool, patience)))
    return source


async def until(event: threading.Event) -> None:
    assert await asyncio.to_thread(event.wait, 10)


def test_a_key_without_an_answer_gives_none() -> None:
    async def story(source: Source, asked: Coalesced[str, int]) -> None:
        assert await asyncio.gather(asked.of("a"), asked.of("unknown")) == [0, None]

    play(story)


def test_those_who_come_while_a_call_runs_share_the_next_one() -> None:
    async def story(source: Source, asked: Coalesced[str, int]) -> None:
        source.may_go.clear()
        first = asyncio.ensure_future(asked.of("a"))
        await until(source.begun)
        source.value = 1  # committed before the others ask: they must see it
        others = [asyncio.ensure_future(asked.of(key)) for key in ("a", "b", "a", "b") * 100]
        await asyncio.sleep(0)
        source.may_go.set()
        assert await first == 0
        assert set(await asyncio.gather(*others)) == {1}

    assert play(story).calls == [["a"], ["a", "b"]]


def test_a_call_has_a_bounded_number_of_keys() -> None:
    async def story(source: Source, asked: Coalesced[str, int]) -> None:
        await asyncio.gather(*(asked.of(str(number)) for number in range(MOST_KEYS + 2)))

    assert [len(call) for call in play(story).calls] == [1, MOST_KEYS, 1]


def test_one_who_leaves_takes_the_answer_from_nobody() -> None:
    async def story(source: Source, asked: Coalesced[str, int]) -> None:
        source.may_go.clear()
        leaving, staying = asyncio.ensure_future(asked.of("a")), asyncio.ensure_future(asked.of("a"))
        await until(source.begun)
        leaving.cancel()
        source.may_go.set()
        assert await staying == 0
        assert leaving.cancelled()

    play(story)


def test_what_the_call_raises_reaches_all_who_asked_and_nobody_after() -> None:
    async def story(source: Source, asked: Coalesced[str, int]) -> None:
        source.error = Unavailable("gone")
        for outcome in await asyncio.gather(*(asked.of("a") for _ in range(3)), return_exceptions=True):
            assert str(outcome) == "gone"
        source.error = None
        assert await asked.of("a") == 0

    play(story)


def test_a_call_that_hangs_is_given_up_and_met_at_once_until_it_ends() -> None:
    async def story(source: Source, asked: Coalesced[str, int]) -> None:
        source.may_go.clear()
        hanging = [asyncio.ensure_future(asked.of("a"))]
        await until(source.begun)
        hanging.append(asyncio.ensure_future(asked.of("b")))
        for outcome in await asyncio.gather(*hanging, return_exceptions=True):
            assert isinstance(outcome, Unavailable)
        with pytest.raises(Unavailable):
            await asyncio.wait_for(asked.of("c"), 0.01)
        source.may_go.set()
        while True:  # until the late answer has come
            try:
                assert await asked.of("d") == 0
                return
            except Unavailable:
                await asyncio.sleep(0.001)

    play(story, patience=0.05)


def test_a_closed_pool_answers_too() -> None:
    pool = ThreadPoolExecutor(1)
    pool.shutdown()

    async def story() -> None:
        with pytest.raises(Unavailable, match="stopping"):
            await Coalesced(lambda keys: {"a": 1}, pool, 1).of("a")

    asyncio.run(story())


def test_idle_is_told_when_nobody_waits() -> None:
    told: list[bool] = []

    async def story() -> None:
        with ThreadPoolExecutor(1) as pool:
            await Coalesced(lambda keys: {"a": 1}, pool, 1, lambda: told.append(True)).of("a")
            await asyncio.sleep(0)

    asyncio.run(story())
    assert told == [True]
