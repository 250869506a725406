"""A DICOMweb door as a bare ASGI application: path → resource → answer → wire; every failure has its own answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from dicom_store.asgi import HttpRequest, Receive, Scope, Send, internal_error, read_request, send_problem
from dicom_store.failure import log_failure
from dicom_store.places import Places
from dicom_store.resources import Methods, Resource, check_method, find_resource
from dicom_store.status import HttpRefusal
from dicom_store.transmit import Gone, Stalled, Transfer, transmit

log = logging.getLogger(__name__)

STALL_SECONDS = 60.0  # a reader that takes nothing for so long loses its place
DISK_THREADS = 8  # reads that wait for a disk at once


def _not_told(_transfer: Transfer, _why: str) -> None:
    """Nobody asked how the transfer ended."""


def _not_asked(_refusal: HttpRefusal, _why: str) -> None:
    """Nobody asked why nothing was sent."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What is to be sent. One of the two is called once, when it ended.

    `finished(transfer, why)`: it was begun; `why` it was cut, or "". `refused(refusal, why)`: nothing could be sent.
    """

    transfer: Transfer
    finished: Callable[[Transfer, str], None] = _not_told
    refused: Callable[[HttpRefusal, str], None] = _not_asked


Respond = Callable[[HttpRequest, Resource, Receive], Awaitable[Answer]]
OnRefused = Callable[[HttpRequest, HttpRefusal], None]


def _not_noted(_request: HttpRequest, _refusal: HttpRefusal) -> None:
    """Nobody asked what was refused before it was understood."""


class Door:
    """The application. `respond` raises `HttpRefusal`; it decides everything before the first byte is sent.

    `on_refused` is told of requests that never reach it: no such resource, another method, no place free.
    """

    def __init__(
        self,
        base_path: str,
        served: Methods,
        respond: Respond,
        places: Places,
        stall_timeout: float = STALL_SECONDS,
        on_refused: OnRefused = _not_noted,
    ) -> None:
        self._base = base_path.rstrip("/")
        self._served = served
        self._respond = respond
        self._places = places
        self._stall = stall_timeout
        self._on_refused = on_refused
        self._disk = ThreadPoolExecutor(DISK_THREADS, "disk")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request = read_request(scope)
        try:
            resource = find_resource(self._base, request.path, self._served)
            check_method(request.method, self._served[resource.kind])
            self._places.take()
        except HttpRefusal as refusal:
            self._on_refused(request, refusal)
            await self._refuse(request, refusal, send)
            return
        try:
            await self._serve(request, resource, receive, send)
            return
        except HttpRefusal as error:
            refused = error
        finally:
            self._places.give_back()
        await self._refuse(request, refused, send)  # who does not read it holds no place

    async def _refuse(self, request: HttpRequest, refusal: HttpRefusal, send: Send) -> None:
        try:
            async with asyncio.timeout(self._stall):
                await send_problem(send, refusal, request.method == "HEAD")
        except TimeoutError:
            log.warning("refusal given up: the reader takes nothing", extra={"action": "refusal_given_up"})
            request.abort()

    async def _serve(self, request: HttpRequest, resource: Resource, receive: Receive, send: Send) -> None:
        try:
            answer = await self._respond(request, resource, receive)
        except HttpRefusal:
            raise
        except Exception as error:
            log_failure(log, "no answer", error, action="request_failed", study=resource.study)
            raise internal_error("The request failed.") from error
        why = "the server stopped"
        try:
            why = await self._transmit(request, resource.study, answer.transfer, receive, send)
        except HttpRefusal as refusal:
            answer.refused(refusal, type(refusal.__cause__).__name__ if refusal.__cause__ else "")
            raise
        except BaseException:
            answer.finished(answer.transfer, why)
            raise
        answer.finished(answer.transfer, why)

    async def _transmit(
        self, request: HttpRequest, study: str | None, transfer: Transfer, receive: Receive, send: Send
    ) -> str:
        """Why it was cut, or "". Once it has started a failure leaves it short: the server cuts the connection."""
        try:
            await transmit(
                transfer,
                receive,
                send,
                stall=self._stall,
                disk=self._disk,
                head_only=request.method == "HEAD",
            )
        except Stalled:
            said = {"action": "transfer_given_up", "study": study}
            log.warning("transfer given up: the reader takes nothing", extra=said)
            request.abort()  # what waits for it would keep the connection
            return "stalled"
        except Gone:
            return "the reader left"
        except HttpRefusal:
            if not transfer.started:
                raise
            return "a piece could not be made"
        except Exception as error:
            log_failure(log, "an image cannot be read", error, action="image_unreadable", study=study)
            if not transfer.started:
                raise internal_error("An image cannot be read.") from error
            return f"not readable: {type(error).__name__}"
        return ""
