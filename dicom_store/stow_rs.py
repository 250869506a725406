"""STOW-RS (PS3.18 10.5): the instances of one request, one after the other, into an `Intake`.

The body is read no faster than it is stored: one instance is stored in a thread while the next one arrives. What was
stored stays stored when the rest of a request is broken; sending all of it again is harmless.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import AsyncGenerator, Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

from dicom_store.asgi import HttpRequest, Receive
from dicom_store.file_meta import META_BYTES, FileMeta, read_file_meta
from dicom_store.header import read_header
from dicom_store.instance import InstanceHeader
from dicom_store.multipart import (
    Event,
    MultipartError,
    MultipartReader,
    PartEnd,
    PartStart,
    boundary_of,
    media_type_of,
)
from dicom_store.received_file import ReceivedFile, Spool
from dicom_store.request_body import BodyBroken, broken, chunks
from dicom_store.resources import Resource
from dicom_store.scanner import Buffer
from dicom_store.status import HttpRefusal, Outcome, StoreRefused
from dicom_store.store_response import InstanceResult, require_acceptable, store_response
from dicom_store.transmit import Transfer

log = logging.getLogger(__name__)

MAX_PARTS = 20_000  # instances of one request
STORE_THREADS = 4  # requests that store at once; each waits for the disk most of the time
_DICOM = "application/dicom"
_IDENTITY = {"", "binary", "8bit", "7bit"}  # Content-Transfer-Encoding of a part (RFC 2045 6.2)

_Result = TypeVar("_Result")


class Intake(Protocol):
    """Where the instances of one request go; called by one thread at a time."""

    def keep(self, header: InstanceHeader, data_set: Buffer) -> Outcome:
        """Keep one instance; durable and committed when it returns. Raises `StoreRefused`, which it has traced."""

    def refused(self, refusal: StoreRefused, sop: str) -> None:
        """What was sent is no instance that can be kept; `sop`: its UID, "" when it is not known."""

    def broken(self, reason: str) -> None:
        """The request ended before it was whole."""

    def close(self) -> None:
        """The request has ended, by whatever way."""


class StowRs:
    """Makes the answers. `max_instance_bytes`: of one data set; `stall` in seconds, see `request_body.chunks`."""

    def __init__(self, spool: Spool, *, max_instance_bytes: int, stall: float) -> None:
        self._spool = spool
        self._max_bytes = max_instance_bytes + META_BYTES
        self._stall = stall
        self._threads = ThreadPoolExecutor(STORE_THREADS, "store")

    async def answer(
        self, request: HttpRequest, resource: Resource, receive: Receive, intake: Intake, base_url: str
    ) -> Transfer:
        """Store the instances of a request to `studies` or to one study. Raises `HttpRefusal`."""
        line = _Line(self._threads, intake)
        try:
            content_type = require_acceptable(request.accept)
            events = self._events(request, receive)
            async with aclosing(events):
                await self._take_in(events, line, partial(_store, intake, resource.study))
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

    async def _take_in(
        self, events: AsyncGenerator[Event, None], line: _Line, store: Callable[[_Part], InstanceResult]
    ) -> None:
        part: _Part | None = None
        count = 0
        try:
            async for event in events:
                if isinstance(event, PartStart):
                    count += 1
                    part = _Part(ReceivedFile(self._spool), _part_fault(event.headers))
                elif part is None:
                    continue
                elif isinstance(event, PartEnd):
                    await line.put(partial(store, part))
                    part = None
                else:
                    await self._add(part, event)
                if count > MAX_PARTS:
                    detail = f"A request holds {MAX_PARTS} instances at most."
                    raise broken(413, "too-many-instances", detail)
        finally:
            if part is not None:
                part.file.close()

    async def _add(self, part: _Part, data: bytes) -> None:
        """Bytes of a part that failed already are read and forgotten."""
        part.length += len(data)
        if part.length > self._max_bytes:
            raise broken(413, "instance-too-large", "An instance is larger than is accepted here.")
        if part.refusal is not None:
            return
        part.file.add(data)
        if part.file.is_due:
            loop = asyncio.get_running_loop()
            part.refusal = await asyncio.shield(loop.run_in_executor(self._threads, _flush, part.file))


@dataclass(slots=True)
class _Part:
    """`refusal`: why it cannot be kept, known before it is complete."""

    file: ReceivedFile
    refusal: StoreRefused | None
    length: int = 0


class _Line:
    """Calls of one intake in threads: one at a time, in order; one may run while the next part arrives."""

    def __init__(self, threads: ThreadPoolExecutor, intake: Intake) -> None:
        self._threads = threads
        self._intake = intake
        self._running: Future[InstanceResult] | None = None
        self.results: list[InstanceResult] = []

    async def put(self, store: Callable[[], InstanceResult]) -> None:
        """Begin a call, when the one before has ended."""
        await self.settle()
        self._running = self._threads.submit(store)

    async def settle(self) -> None:
        """Wait for the call that runs, if any."""
        if self._running is not None:
            result = await asyncio.shield(asyncio.wrap_future(self._running))
            self._running = None
            self.results.append(result)

    async def run(self, call: Callable[[], _Result]) -> _Result:
        """Another call, when none runs."""
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._threads, call))

    def close(self) -> None:
        """Close the intake after the last call, without waiting for it."""
        if self._running is None:
            self._threads.submit(self._intake.close)
        else:
            self._running.add_done_callback(lambda _: self._intake.close())


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


def _flush(file: ReceivedFile) -> StoreRefused | None:
    try:
        file.flush()
    except StoreRefused as refusal:
        file.close()
        return refusal
    return None


def _store(intake: Intake, study: str | None, part: _Part) -> InstanceResult:
    """In a thread. Whatever happens, there is a result."""
    meta: FileMeta | None = None
    try:
        try:
            if part.refusal is not None:
                raise part.refusal
            file = part.file.buffer()
            meta = read_file_meta(file)
            header, data_set = _read(file, meta, study)
        except StoreRefused as refusal:
            intake.refused(refusal, meta.sop_instance_uid if meta else "")
            return _result(refusal.outcome, meta)
        return _result(intake.keep(header, data_set), meta, header)
    except StoreRefused as refusal:
        return _result(refusal.outcome, meta)
    except Exception as error:  # noqa: BLE001 - the door: an answer for this instance and a log, never silence
        # no message: it may quote the data set
        where = "".join(traceback.format_tb(error.__traceback__))
        log.error("STOW-RS failed: %s\n%s", type(error).__name__, where)  # noqa: TRY400
        return _result(Outcome.FAILED, meta)
    finally:
        part.file.close()


def _read(file: Buffer, meta: FileMeta, study: str | None) -> tuple[InstanceHeader, memoryview]:
    data_set = memoryview(file)[meta.length :]
    header = read_header(data_set, meta.transfer_syntax, meta.sop_class_uid, meta.sop_instance_uid)
    if study not in (None, header.StudyInstanceUID):
        raise StoreRefused(Outcome.UID_MISMATCH, "StudyInstanceUID is not that of the request")
    return header, data_set


def _result(outcome: Outcome, meta: FileMeta | None, header: InstanceHeader | None = None) -> InstanceResult:
    return InstanceResult(
        outcome,
        meta.sop_class_uid if meta else "",
        meta.sop_instance_uid if meta else "",
        header.StudyInstanceUID if header else "",
        header.SeriesInstanceUID if header else "",
    )


def _with_count(error: BodyBroken, results: list[InstanceResult]) -> HttpRefusal:
    """The refusal of a whole request, with what was stored all the same."""
    stored = sum(one.is_stored for one in results)
    detail = f"{error.detail} Instances stored before: {stored}. Send the request again."
    return HttpRefusal(error.status, error.slug, error.title, detail, error.headers)
