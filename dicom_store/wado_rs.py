"""WADO-RS (PS3.18 10.4, RAD-107): studies, series, instances, as a bare ASGI callable that streams.

It knows HTTP and representations; who may have what is decided by the injected `retrieve`, which raises
`HttpRefusal`. Both injected callables block, and run in threads of their own.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import secrets
import traceback
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar
from urllib.parse import parse_qs

from dicom_store.archive import StoredInstance
from dicom_store.multipart import Part, content_length, write_parts
from dicom_store.negotiation import Acceptable, Form, parse_accept
from dicom_store.paths import InvalidUID, check_uid
from dicom_store.representation import check_frames, choose_form, dicom_type
from dicom_store.status import HttpRefusal

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
T = TypeVar("T")

log = logging.getLogger(__name__)

CHUNK_BYTES = 256 * 1024
STALL_SECONDS = 60.0  # a reader that takes nothing for so long loses its place
RETRY_AFTER = "5"
_ABSOLUTE_FORM = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://[^/]*")
_RESOURCE = re.compile(
    r"/studies/(?P<study>[^/]+)"
    r"(?:/series/(?P<series>[^/]+)(?:/instances/(?P<sop>[^/]+)(?:/frames/(?P<frames>[^/]+))?)?)?"
)
_FRAMES = re.compile(r"[1-9][0-9]{0,8}(?:,[1-9][0-9]{0,8})*")
_END = object()


@dataclass(frozen=True, slots=True)
class WadoRequest:
    """What is asked, and by whom. UIDs are valid; repeated headers are joined by ", " (so no UID, no token).

    `frames`: list as written, None = whole instances; `peer_certificate`: DER, put in the ASGI state by the
    listener; `client`: address.
    """

    method: str
    study: str
    series: str | None
    sop: str | None
    frames: str | None
    authorization: str | None
    kos: str | None
    peer_certificate: bytes | None
    client: str


@dataclass(frozen=True, slots=True)
class _Answer:
    headers: Mapping[str, str]
    chunks: Callable[[], Iterator[bytes]]


class WadoRs:
    """The ASGI application. `max_streams` requests at once, more are answered 503."""

    def __init__(
        self,
        base_path: str,
        retrieve: Callable[[WadoRequest], Iterable[StoredInstance]],
        read: Callable[[StoredInstance], Iterator[bytes]],
        max_streams: int,
        stall_timeout: float = STALL_SECONDS,
    ) -> None:
        self._base = base_path.rstrip("/")
        self._retrieve = retrieve
        self._read = read
        self._max_streams = max_streams
        self._stall_timeout = stall_timeout
        self._streams = 0
        # apart, so that a slow authorisation never holds up what is being streamed
        self._authorisers = ThreadPoolExecutor(min(max_streams, 32), "wado-authorise")
        self._readers = ThreadPoolExecutor(min(max_streams, 8), "wado-read")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI 3, `http` scopes)."""
        if scope["type"] != "http":
            raise ValueError(f"not an HTTP request: {scope['type']}")
        head_only = scope["method"] == "HEAD"
        try:
            await self._answer(scope, receive, send, head_only)
        except HttpRefusal as refusal:
            await _send_problem(send, refusal, head_only)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, head_only: bool) -> None:
        request = self._understand(scope)
        if self._streams >= self._max_streams:
            headers = {"Retry-After": RETRY_AFTER}
            raise HttpRefusal(503, "busy", "Busy", "Too many retrievals at once; try again.", headers)
        self._streams += 1
        try:
            answer = await self._prepare(request, parse_accept(_accept_lines(scope)))
            await self._stream(answer, receive, send, head_only)
        finally:
            self._streams -= 1

    def _understand(self, scope: Scope) -> WadoRequest:
        """Raises `HttpRefusal` 404, 405 or 400, in this order."""
        path = _ABSOLUTE_FORM.sub("", scope["path"], count=1) if scope["path"][:1] != "/" else scope["path"]
        resource = _RESOURCE.fullmatch(path.removeprefix(self._base)) if path.startswith(self._base) else None
        if resource is None:
            raise HttpRefusal(404, "not-found", "Not found", "There is no such resource.")
        if scope["method"] not in ("GET", "HEAD"):
            detail = "Images are only retrieved here."
            raise HttpRefusal(405, "method-not-allowed", "Method not allowed", detail, {"Allow": "GET, HEAD"})
        for level in ("study", "series", "sop"):
            _check_uid(level, resource[level])
        if resource["frames"] is not None and not _FRAMES.fullmatch(resource["frames"]):
            raise HttpRefusal(400, "frames-invalid", "Bad request", "A frame list is numbers from 1 on.")
        headers = _headers(scope)
        return WadoRequest(
            method=scope["method"],
            **resource.groupdict(),
            authorization=headers.get("authorization"),
            kos=headers.get("kos-sopinstanceuid"),
            peer_certificate=scope.get("state", {}).get("peer_certificate"),
            client=scope["client"][0] if scope.get("client") else "",
        )

    async def _prepare(self, request: WadoRequest, acceptable: Acceptable) -> _Answer:
        """Authorise, then negotiate: all is decided before the first byte. Raises `HttpRefusal`."""
        instances = await _in_thread(self._authorisers, lambda: self._retrieved(request))
        if not instances:
            raise HttpRefusal(404, "not-found", "Not found", "There is no such instance here.")
        if request.frames is not None:
            check_frames(request.frames, instances[0].ref)
        form = choose_form(acceptable, [i.ref for i in instances], alone=request.sop is not None)
        return self._single(instances[0]) if form is Form.SINGLE else self._multipart(instances)

    def _retrieved(self, request: WadoRequest) -> Sequence[StoredInstance]:
        try:
            return list(self._retrieve(request))
        except HttpRefusal:
            raise
        except Exception as error:
            _log_failure("retrieval failed", error)
            raise HttpRefusal(500, "internal-error", "Internal error", "The retrieval failed.") from error

    def _single(self, instance: StoredInstance) -> _Answer:
        headers = {"Content-Type": dicom_type(instance.ref), "Content-Length": str(instance.length)}
        return _Answer(headers, lambda: self._read(instance))

    def _multipart(self, instances: Sequence[StoredInstance]) -> _Answer:
        boundary = secrets.token_hex(20)
        parts = [Part(dicom_type(i.ref), i.length, partial(self._read, i)) for i in instances]
        syntaxes = {i.ref.TransferSyntaxUID for i in instances}
        content_type = f'multipart/related; type="application/dicom"; boundary={boundary}'
        if len(syntaxes) == 1:
            content_type += f"; transfer-syntax={syntaxes.pop()}"
        headers = {"Content-Type": content_type, "Content-Length": str(content_length(parts, boundary))}
        return _Answer(headers, lambda: write_parts(parts, boundary))

    async def _stream(self, answer: _Answer, receive: Receive, send: Send, head_only: bool) -> None:
        """Send the answer; a failure after the first byte leaves it short: the server cuts the connection."""
        if head_only:
            await _send_start(send, 200, answer.headers)
            await send({"type": "http.response.body", "body": b""})
            return
        gone = asyncio.ensure_future(_wait_for_disconnect(receive))
        started = False
        try:
            async with aclosing(self._chunks(answer)) as chunks:
                async for chunk in chunks:
                    if not started:
                        await _send_start(send, 200, answer.headers)
                        started = True
                    if gone.done():
                        return
                    message = {"type": "http.response.body", "body": chunk, "more_body": True}
                    await asyncio.wait_for(send(message), self._stall_timeout)
            await send({"type": "http.response.body", "body": b""})
        except TimeoutError:
            log.warning("retrieval given up: the reader takes nothing")
        except Exception as error:
            _log_failure("an image cannot be read", error)
            if not started:
                detail = "An image cannot be read."
                raise HttpRefusal(500, "internal-error", "Internal error", detail) from error
        finally:
            gone.cancel()

    async def _chunks(self, answer: _Answer) -> Any:
        """Pieces of about `CHUNK_BYTES`, each made in a thread."""
        pieces = _joined(answer.chunks())
        while (piece := await _in_thread(self._readers, lambda: next(pieces, _END))) is not _END:
            yield piece


async def _in_thread(pool: ThreadPoolExecutor, call: Callable[[], T]) -> T:
    return await asyncio.get_running_loop().run_in_executor(pool, call)


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue


def _joined(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Small pieces (part headers, small instances) joined to at least `CHUNK_BYTES`."""
    waiting: list[bytes] = []
    size = 0
    for chunk in chunks:
        waiting.append(chunk)
        size += len(chunk)
        if size >= CHUNK_BYTES:
            yield b"".join(waiting)
            waiting, size = [], 0
    if waiting:
        yield b"".join(waiting)


def _check_uid(level: str, value: str | None) -> None:
    try:
        if value is not None:
            check_uid(value)
    except InvalidUID as error:
        raise HttpRefusal(400, "uid-invalid", "Bad request", f"The {level} is not a UID.") from error


def _headers(scope: Scope) -> dict[str, str]:
    headers: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1").strip()
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def _accept_lines(scope: Scope) -> list[str]:
    """The `accept` query parameter stands for the header (PS3.18 8.3.3.1)."""
    asked = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("accept", [])
    return asked or [value.decode("latin-1") for name, value in scope["headers"] if name.lower() == b"accept"]


def _log_failure(what: str, error: Exception) -> None:
    # no message: it may quote data
    log.error("%s: %s\n%s", what, type(error).__name__, "".join(traceback.format_tb(error.__traceback__)))


async def _send_start(send: Send, status: int, headers: Mapping[str, str]) -> None:
    raw = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    raw.append((b"cache-control", b"private, no-store"))
    await send({"type": "http.response.start", "status": status, "headers": raw})


async def _send_problem(send: Send, refusal: HttpRefusal, head_only: bool) -> None:
    problem = {
        "type": refusal.slug,
        "title": refusal.title,
        "status": refusal.status,
        "detail": refusal.detail,
    }
    body = json.dumps(problem).encode("utf-8")
    headers = {
        "Content-Type": "application/problem+json",
        "Content-Length": str(len(body)),
        **refusal.headers,
    }
    await _send_start(send, refusal.status, headers)
    await send({"type": "http.response.body", "body": b"" if head_only else body})
