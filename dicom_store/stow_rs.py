"""STOW-RS (PS3.18 10.5): the instances of one request, one after the other, into an `Intake`.

The body is read no faster than it is stored: one piece is stored in a thread while the next one arrives, so that
memory is the same for every length. What was stored stays stored when the rest of a request is broken; sending all of
it again is harmless.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import aclosing
from functools import partial
from typing import TypeVar

from dicom_store.asgi import HttpRequest, Receive
from dicom_store.file_meta import META_BYTES
from dicom_store.multipart import (
    Event,
    MultipartError,
    MultipartReader,
    PartEnd,
    PartStart,
    boundary_of,
    media_type_of,
)
from dicom_store.request_body import BodyBroken, broken, chunks
from dicom_store.status import HttpRefusal, Outcome, StoreRefused
from dicom_store.store_response import InstanceResult, require_acceptable, store_response
from dicom_store.stow_part import Intake, Part
from dicom_store.transmit import Transfer

MAX_PARTS = 20_000  # instances of one request
PIECE_BYTES = 1024 * 1024  # of an instance that arrives, stored at once
STORE_THREADS = 4  # requests that store at once; each waits for the disk most of the time
_DICOM = "application/dicom"
_IDENTITY = {"", "binary", "8bit", "7bit"}  # Content-Transfer-Encoding of a part (RFC 2045 6.2)

_Result = TypeVar("_Result")


class StowRs:
    """Makes the answers. `max_instance_bytes`: of one data set; `stall` in seconds, see `request_body.chunks`."""

    def __init__(self, *, max_instance_bytes: int, stall: float) -> None:
        self._max_bytes = max_instance_bytes + META_BYTES
        self._stall = stall
        self._threads = ThreadPoolExecutor(STORE_THREADS, "store")

    async def answer(self, request: HttpRequest, receive: Receive, intake: Intake, base_url: str) -> Transfer:
        """Store the instances of a request: those that the intake takes. Raises `HttpRefusal`."""
        line = _Line(self._threads, intake)
        try:
            content_type = require_acceptable(request.accept)
            events = self._events(request, receive)
            async with aclosing(events):
                await self._take_in(events, line)
            await line.settle()
        except BodyBroken as error:
            await line.settle()
            await line.run(partial(intake.broken, error.slug))
            raise _with_count(error, line.results) from error
        finally:
            line.close()
        if not line.results:
            raise HttpRefusal(400, "no-instances", "Bad request", "The request holds no instance.")
        return await line.run(partial(store_response, line.results, base_url, content_type))

    def close(self) -> None:
        """Wait for what is being stored; nothing is stored afterwards."""
        self._threads.shutdown()

    def _events(self, request: HttpRequest, receive: Receive) -> AsyncGenerator[Event, None]:
        """What the body tells. Raises `HttpRefusal` 400, 415 before anything is read."""
        content_type = request.headers.get("content-type", "")
        media_type, parameters = media_type_of(content_type)
        kind = parameters.get("type", _DICOM) if media_type == "multipart/related" else media_type
        encoding = request.headers.get("content-encoding", "identity")
        if kind.lower() != _DICOM or encoding.lower() != "identity":
            detail = f'Send multipart/related; type="{_DICOM}", or {_DICOM}, without Content-Encoding.'
            raise HttpRefusal(415, "unsupported-media-type", "Unsupported media type", detail)
        body = chunks(receive, self._stall)
        if media_type == _DICOM:
            return _single(body)
        try:
            return _multipart(body, MultipartReader(boundary_of(content_type)))
        except MultipartError as error:
            raise HttpRefusal(400, "not-multipart", "Bad request", f"{error}.") from error

    async def _take_in(self, events: AsyncGenerator[Event, None], line: _Line) -> None:
        part: Part | None = None
        count = 0
        async for event in events:
            if isinstance(event, PartStart):
                count += 1
                part = Part(line.intake, _part_fault(event.headers))
            elif part is None:
                continue
            elif isinstance(event, PartEnd):
                await line.put(partial(part.finish, part.take()))
                part = None
            else:
                await self._add(part, event, line)
            if count > MAX_PARTS:
                detail = f"A request holds {MAX_PARTS} instances at most."
                raise broken(413, "too-many-instances", detail)

    async def _add(self, part: Part, data: bytes, line: _Line) -> None:
        """Pieces are stored one after the other; one is, while the next arrives."""
        part.length += len(data)
        if part.length > self._max_bytes:
            raise broken(413, "instance-too-large", "An instance is larger than is accepted here.")
        part.waiting += data
        if len(part.waiting) > PIECE_BYTES:
            await line.put(partial(part.feed, part.take()))


class _Line:
    """Calls of one intake in threads: one at a time, in order; one may run while the next part arrives."""

    def __init__(self, threads: ThreadPoolExecutor, intake: Intake) -> None:
        self._threads = threads
        self.intake = intake
        self._running: Future[InstanceResult | None] | None = None
        self.results: list[InstanceResult] = []

    async def put(self, store: Callable[[], InstanceResult | None]) -> None:
        """Begin a call, when the one before has ended."""
        await self.settle()
        self._running = self._threads.submit(store)

    async def settle(self) -> None:
        """Wait for the call that runs, if any."""
        if self._running is not None:
            result = await asyncio.shield(asyncio.wrap_future(self._running))
            self._running = None
            if result is not None:
                self.results.append(result)

    async def run(self, call: Callable[[], _Result]) -> _Result:
        """Another call, when none runs."""
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._threads, call))

    def close(self) -> None:
        """Close the intake after the last call, without waiting for it."""
        if self._running is None:
            self._threads.submit(self.intake.close)
        else:
            self._running.add_done_callback(lambda _: self.intake.close())


async def _single(body: AsyncGenerator[bytes, None]) -> AsyncGenerator[Event, None]:
    """A request that is one instance."""
    yield PartStart({})
    async for chunk in body:
        yield chunk
    yield PartEnd()


async def _multipart(
    body: AsyncGenerator[bytes, None], reader: MultipartReader
) -> AsyncGenerator[Event, None]:
    """Raises `BodyBroken` for a message that is not what its boundary promises."""
    try:
        async for chunk in body:
            for event in reader.feed(chunk):
                yield event
            if reader.closed:
                return
        reader.finish()
    except MultipartError as error:
        raise broken(400, "not-multipart", f"The multipart cannot be read: {error}.") from error


def _part_fault(headers: Mapping[str, str]) -> StoreRefused | None:
    """A part is a DICOM file in binary, whatever more its headers say."""
    media_type, _ = media_type_of(headers.get("content-type", _DICOM))
    encoding = headers.get("content-transfer-encoding", "").lower()
    if media_type != _DICOM or encoding not in _IDENTITY:
        return StoreRefused(Outcome.NOT_UNDERSTOOD, f"a part is not {_DICOM} in binary")
    return None


def _with_count(error: BodyBroken, results: list[InstanceResult]) -> HttpRefusal:
    """The refusal of a whole request, with what was stored all the same."""
    stored = sum(one.is_stored for one in results)
    detail = f"{error.detail} Instances stored before: {stored}. Send the request again."
    return HttpRefusal(error.status, error.slug, error.title, detail, error.headers)
