"""A `Body` onto the wire: constant memory whatever its size, slow readers bounded, nothing cut that looks whole.

Bytes in the page cache are read in the event loop (RWF_NOWAIT never waits for a disk); the others in a thread, so
that a cold disk holds up one reader only.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from time import perf_counter
from types import TracebackType
from typing import TypeVar

from dicom_store.asgi import Receive, Send, send_start
from dicom_store.body import Body, Extent, Later, Source

CHUNK_BYTES = 512 * 1024  # a message to the server: half as much costs a tenth of the rate
SMALL_BYTES = 64 * 1024  # the least: to a slow reader more at once only keeps the others waiting
GLANCE_SECONDS = 0.005  # what a message should take its reader
_MEMORY = 0.9  # weight of the messages before: a slow reader takes much at once, now and then
AHEAD = 2  # pieces whose making has begun while one is awaited

T = TypeVar("T")
_Made = asyncio.Task[Sequence[bytes | Extent]]


class Stalled(Exception):
    """The reader took nothing for too long."""


class Gone(Exception):
    """The reader closed the connection."""


@dataclass(slots=True)
class Transfer:
    """How far an answer came, also when it failed. `sent`: bytes of the body handed to the connection.

    `begun_at`: `perf_counter` when the first ones were."""

    status: int
    headers: Mapping[str, str]
    body: Body
    started: bool = False
    sent: int = 0
    whole: bool = False
    begun_at: float | None = None


async def transmit(
    transfer: Transfer, receive: Receive, send: Send, *, stall: float, disk: Executor, head_only: bool = False
) -> None:
    """Send an answer. `stall`: seconds in which a reader must take `CHUNK_BYTES`.

    The first chunk is read before anything is sent. Raises `Stalled`, `Gone`, and what reading raises (OSError,
    `segments.SegmentDamaged`, EOFError, what makes a piece): when `started`, the answer is short and the caller
    returns, so that the server cuts the connection.
    """
    if head_only:
        try:
            async with asyncio.timeout(stall):
                await _start(transfer, send)
                await send({"type": "http.response.body", "body": b""})
        except TimeoutError as error:
            raise Stalled from error
        transfer.whole = True
        return
    with _Reader(transfer.body) as reader:
        chunk = await reader.next_chunk(disk)
        watch: asyncio.Future[None] | None = None
        pace, now = Pace(stall), asyncio.get_running_loop().time
        try:
            async with asyncio.timeout(stall) as limit:
                began = now()
                await _start(transfer, send)  # it may wait behind an answer that is not read
                while not await _send_chunk(transfer, chunk, send):
                    limit.reschedule(None)  # what is ours to make has limits of its own
                    pace.took(now() - began, len(chunk))
                    watch = watch or asyncio.ensure_future(_disconnected(receive))
                    # a lost connection takes everything without waiting: only now can it be told that it is lost
                    await asyncio.sleep(0)
                    if watch.done():
                        raise Gone
                    chunk = await reader.next_chunk(disk, pace.size)
                    began = now()
                    limit.reschedule(began + pace.patience)
        except TimeoutError as error:
            raise Stalled from error
        finally:
            if watch is not None:
                watch.cancel()


class Pace:
    """How fast a reader takes what it is sent. `size`: of the next message; `patience`: seconds it has left for it."""

    def __init__(self, stall: float) -> None:
        self._stall = self.patience = stall
        self.size = CHUNK_BYTES
        self._before = self._taken = 0
        self._bytes = self._seconds = 0.0

    def took(self, seconds: float, count: int) -> None:
        """`count` bytes were handed over, for which those of the message before had to be taken first."""
        self._bytes = self._bytes * _MEMORY + self._before
        self._seconds = self._seconds * _MEMORY + seconds
        if self._before and self._seconds > 0:
            fitting = int(self._bytes / self._seconds * GLANCE_SECONDS)
            self.size = max(SMALL_BYTES, min(CHUNK_BYTES, fitting))
        self._before = count
        self._taken += count
        self.patience -= seconds
        if self._taken >= CHUNK_BYTES:
            self._taken, self.patience = 0, self._stall


async def _start(transfer: Transfer, send: Send) -> None:
    await send_start(send, transfer.status, transfer.headers)
    transfer.started = True


async def _send_chunk(transfer: Transfer, chunk: bytearray, send: Send) -> bool:
    """Whether it was the last one."""
    length = transfer.body.length
    if not chunk and length is not None and transfer.sent < length:
        raise EOFError("fewer bytes than promised")
    last = not chunk or transfer.sent + len(chunk) == length
    await send({"type": "http.response.body", "body": chunk, "more_body": not last})
    if transfer.begun_at is None:
        transfer.begun_at = perf_counter()
    transfer.sent += len(chunk)
    transfer.whole = last
    return last


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue


class _Reader:
    """Chunks of a body, with the one descriptor that is open at a time."""

    def __init__(self, body: Body) -> None:
        self._pieces = iter(body.pieces())
        self._left = body.length
        self._ready: deque[bytes | Extent] = deque()
        self._queue: deque[bytes | Extent | _Made] = deque()
        self._rest: memoryview | Extent | None = None
        self._source: Source | None = None
        self._descriptor = -1

    def __enter__(self) -> _Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()
        for piece in self._queue:
            if not isinstance(piece, asyncio.Task):
                _let_go(piece)
            elif not piece.cancel() and not piece.cancelled() and piece.exception() is None:
                self._ready.extend(piece.result())
        for piece in self._ready:
            _let_go(piece)

    async def next_chunk(self, disk: Executor, most: int = CHUNK_BYTES) -> bytearray:
        """The next bytes, at most `most`; empty at the end."""
        size = most if self._left is None else min(most, self._left)
        chunk = bytearray(size)
        room = memoryview(chunk)
        filled = 0
        while filled < size:
            rest = self._rest or await self._next_piece(disk)
            if rest is None:
                break
            wanted = room[filled:]
            if isinstance(rest, Extent):
                count = await self._read(rest, wanted, disk)
                left = rest.length - count
                self._rest = rest.part(count, left) if left else None
            else:
                count = min(len(rest), len(wanted))
                wanted[:count] = rest[:count]
                self._rest = rest[count:] or None
            filled += count
        if self._left is not None:
            self._left -= filled
        return chunk if filled == size else chunk[:filled]

    async def _next_piece(self, disk: Executor) -> memoryview | Extent | None:
        """What comes next; empty pieces are left out."""
        while True:
            piece = self._ready.popleft() if self._ready else self._pull()
            if isinstance(piece, asyncio.Task):
                while len(self._queue) < AHEAD and (following := self._take()) is not None:
                    self._queue.append(following)
                self._ready.extend(await piece)
            elif piece is None:
                return None
            elif isinstance(piece, Extent):
                await self._open(piece, disk)
                if piece.length:
                    return piece
            elif piece:
                return memoryview(piece)

    def _pull(self) -> bytes | Extent | _Made | None:
        return self._queue.popleft() if self._queue else self._take()

    def _take(self) -> bytes | Extent | _Made | None:
        piece = next(self._pieces, None)
        return asyncio.ensure_future(piece.make()) if isinstance(piece, Later) else piece

    async def _open(self, extent: Extent, disk: Executor) -> None:
        """Open the file of an extent unless it is the one that is open, and check what is promised of it."""
        if extent.source != self._source:
            self._close()
            self._descriptor = extent.source.open()
            self._source = extent.source
        start = extent.offset if extent.start < 0 else extent.start
        if _read_cached(self._descriptor, memoryview(bytearray(1)), max(start - 1, 0)) < 0:
            await _waiting(disk, extent.source.check, self._descriptor, extent)
        else:
            extent.source.check(self._descriptor, extent)

    def _close(self) -> None:
        if self._source is not None:
            os.close(self._descriptor)
            self._source.close()
            self._source = None

    async def _read(self, extent: Extent, room: memoryview, disk: Executor) -> int:
        wanted = room[: extent.length]
        count = _read_cached(self._descriptor, wanted, extent.offset)
        if count < 0:
            count = await _waiting(disk, os.preadv, self._descriptor, [wanted], extent.offset)
        if count == 0:
            raise EOFError("the file ends inside an extent")
        return count


async def _waiting(disk: Executor, call: Callable[..., T], *values: object) -> T:
    """What a thread does that may wait for the disk. Descriptor and buffer outlive it, also when the reader gave up."""
    done = asyncio.get_running_loop().run_in_executor(disk, call, *values)
    try:
        return await asyncio.shield(done)
    except asyncio.CancelledError:
        await asyncio.wait([done])
        raise


def _read_cached(descriptor: int, room: memoryview, offset: int) -> int:
    """Bytes read without waiting for a disk; -1 when they would have to be waited for."""
    try:
        return os.preadv(descriptor, [room], offset, os.RWF_NOWAIT)
    except BlockingIOError:
        return -1
    except OSError:  # a file system that knows no RWF_NOWAIT, or a fault that the waiting read will tell
        return -1


def _let_go(piece: bytes | Extent) -> None:
    if isinstance(piece, Extent):
        piece.source.close()
