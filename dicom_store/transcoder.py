"""Conversions for the web process: cached, shared by those who ask for the same, fair between clients, bounded.

The work is done in worker processes; nothing here imports a codec. One object per process and event loop.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dicom_store.conversions import (
    LOSSY_TARGETS,
    TRANSCODER_VERSION,
    Busy,
    SourceUnreadable,
    TranscodeFailed,
)
from dicom_store.render_params import RenderParams
from dicom_store.transcode_cache import CachedFile, TranscodeCache
from dicom_store.transcode_process import Passing, WorkerProcess
from dicom_store.transcode_queue import FairQueue

_REMEMBERED_FAILURES = 1024
_FAILURE_SECONDS = 300.0
_DECODED_SHARE = 4  # source, decoded, encoded and joined must fit together in the memory of a worker


@dataclass(frozen=True, slots=True)
class Extent:
    """Where a stored file lies: `length` bytes at `offset` of the file `path`."""

    path: Path
    offset: int
    length: int


@dataclass(eq=False)
class _Flight:
    """One conversion, asked by `waiters` requests. `outcome`: the file open, or why not."""

    name: str
    client: str
    job: Mapping[str, Any]
    outcome: asyncio.Future[CachedFile]
    waiters: int = 0


class Transcoder:
    """Files in other transfer syntaxes, and pictures, from stored files.

    `cache`: directory of results (0700: they are patients' images), bounded by `cache_bytes`; 0 = nothing is kept.
    `timeout`: seconds of one conversion; `memory_bytes`: address space of one worker; `per_client`: conversions of
    one client at once (None = all workers but one); `waiting`, `waiting_per_client`: beyond which `Busy`;
    `idle`: seconds after which a worker without work ends; `minimum_free_bytes`: below this free space nothing is kept.
    """

    def __init__(
        self,
        cache: Path,
        *,
        workers: int = 1,
        cache_bytes: int,
        timeout: float = 60,
        memory_bytes: int = 4 << 30,
        per_client: int | None = None,
        waiting: int = 4096,
        waiting_per_client: int = 1024,
        idle: float = 60,
        minimum_free_bytes: int = 0,
    ) -> None:
        self._cache = TranscodeCache(cache, cache_bytes, minimum_free_bytes)
        self._disk = asyncio.Lock()
        self._queue: FairQueue[_Flight] = FairQueue(
            per_client=per_client or max(1, workers - 1), waiting=waiting, line=waiting_per_client
        )
        self._free = [WorkerProcess(memory_bytes, timeout) for _ in range(max(1, workers))]
        self._max_decoded = memory_bytes // _DECODED_SHARE
        self._idle = idle
        self._timers: dict[WorkerProcess, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._endings: set[asyncio.Task[None]] = set()
        self._flights: dict[str, _Flight] = {}
        self._failed: OrderedDict[str, tuple[float, str]] = OrderedDict()
        self._closed = False

    async def file_of(
        self, key: str, source: Extent, target: str, lossy_quality: int | None = None, *, client: str = ""
    ) -> CachedFile:
        """The stored file in the transfer syntax `target`. `key`: SHA-256 (hex) of the stored file.

        `lossy_quality`: 1..100, for `LOSSY_TARGETS` only; `client`: who asks, for fairness. The caller closes what
        it gets. Raises `TranscodeFailed`, `Busy`.
        """
        if (target in LOSSY_TARGETS) != (lossy_quality is not None):
            raise ValueError("a quality is for lossy targets, and they need one")
        how = {
            "kind": "transcode",
            "target": target,
            "quality": lossy_quality or 0,
            "max_decoded": self._max_decoded,
        }
        return await self._obtain(key, source, how, client)

    async def rendered(
        self, key: str, source: Extent, frame: int | None, params: RenderParams, *, client: str = ""
    ) -> CachedFile:
        """A picture of one frame (from 1; None = the representative one). As `file_of`."""
        return await self._obtain(
            key, source, {"kind": "render", "frame": frame, "params": asdict(params)}, client
        )

    async def close(self) -> None:
        """End the workers; conversions under way fail."""
        self._closed = True
        for flight in self._flights.values():
            if not flight.outcome.done():
                flight.outcome.set_exception(Busy("the server is stopping"))
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, *self._endings, return_exceptions=True)
        for timer in self._timers.values():
            timer.cancel()
        await asyncio.gather(*(worker.stop() for worker in self._free))

    async def _obtain(self, key: str, source: Extent, how: Mapping[str, Any], client: str) -> CachedFile:
        name = _name(key, how)
        if name not in self._flights:
            cached = await asyncio.to_thread(self._cache.find, name)
            if cached is not None:
                return cached
        flight = self._flights.get(name) or self._depart(name, key, source, how, client)
        flight.waiters += 1
        try:
            return (await asyncio.shield(flight.outcome)).duplicate()
        finally:
            flight.waiters -= 1
            self._land(flight)

    def _depart(self, name: str, key: str, source: Extent, how: Mapping[str, Any], client: str) -> _Flight:
        self._refuse_again(name)
        if self._closed:
            raise Busy("the server is stopping")
        place = {"path": str(source.path), "offset": source.offset, "length": source.length, "sha256": key}
        flight = _Flight(name, client, {**how, **place}, asyncio.get_running_loop().create_future())
        self._queue.put(client, flight)
        self._flights[name] = flight
        self._start()
        return flight

    def _refuse_again(self, name: str) -> None:
        """What failed a moment ago for a reason of its own fails again, at no cost."""
        until, reason = self._failed.get(name, (0.0, ""))
        if until > asyncio.get_running_loop().time():
            raise TranscodeFailed(reason)

    def _land(self, flight: _Flight) -> None:
        """When nobody waits for a flight: take it out of the queue, or close what it brought."""
        if flight.waiters:
            return
        if self._queue.remove(flight.client, flight):
            del self._flights[flight.name]
            flight.outcome.cancel()
        elif flight.outcome.done() and not flight.outcome.cancelled() and not flight.outcome.exception():
            flight.outcome.result().close()

    def _start(self) -> None:
        """Give waiting jobs to free workers."""
        while self._free and not self._closed and (taken := self._queue.take()):
            client, flight = taken
            worker = self._free.pop()
            timer = self._timers.pop(worker, None)
            if timer:
                timer.cancel()
            task = asyncio.create_task(self._fly(worker, client, flight))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _fly(self, worker: WorkerProcess, client: str, flight: _Flight) -> None:
        outcome: CachedFile | Exception = Busy("the conversion was given up")
        try:
            outcome = await self._convert(worker, flight)
        except TranscodeFailed as failure:
            outcome = failure
            if not isinstance(failure, Passing | SourceUnreadable):
                self._remember_failure(flight.name, failure.reason)
        finally:
            _settle(flight.outcome, outcome)
            del self._flights[flight.name]
            self._land(flight)
            self._queue.done(client)
            self._free.append(worker)
            self._timers[worker] = asyncio.get_running_loop().call_later(self._idle, self._rest, worker)
            self._start()

    async def _convert(self, worker: WorkerProcess, flight: _Flight) -> CachedFile:
        prepared = self._cache.temporary()
        try:
            length = await worker.run({**flight.job, "out": str(prepared)})
            async with self._disk:
                return await asyncio.to_thread(self._cache.publish, prepared, flight.name, length)
        except (OSError, ValueError) as error:
            raise Passing(f"the result cannot be kept ({type(error).__name__})") from error
        finally:
            prepared.unlink(missing_ok=True)

    def _remember_failure(self, name: str, reason: str) -> None:
        self._failed[name] = (asyncio.get_running_loop().time() + _FAILURE_SECONDS, reason)
        while len(self._failed) > _REMEMBERED_FAILURES:
            self._failed.popitem(last=False)

    def _rest(self, worker: WorkerProcess) -> None:
        """End a worker that had nothing to do."""
        if worker not in self._free:
            return
        self._free.remove(worker)  # nobody may take it while it ends
        task = asyncio.create_task(self._end(worker))
        self._endings.add(task)
        task.add_done_callback(self._endings.discard)

    async def _end(self, worker: WorkerProcess) -> None:
        self._timers.pop(worker, None)
        await worker.stop()
        self._free.append(worker)
        self._start()


def _settle(future: asyncio.Future[CachedFile], outcome: CachedFile | Exception) -> None:
    if future.done():  # the server is stopping
        return
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


def _name(key: str, how: Mapping[str, Any]) -> str:
    """Name of the result in the cache: everything that decides of its bytes."""
    said = "|".join(f"{name}={how[name]}" for name in sorted(how))
    return hashlib.sha256(f"{TRANSCODER_VERSION}|{key}|{said}".encode()).hexdigest()
