"""HTTP/1.1 of both listeners: uvicorn's httptools protocol, with what a door at the edge needs of limits.

A connection that brings no whole request head (or TLS handshake) in time, too long a head, or more requests than it
waits for, is ended; a peer whose kernel no longer takes bytes is given up by ours. The client's certificate is put in
the ASGI state.
"""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import uvloop
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from dicom_store.asgi import Receive, Scope, Send, busy, send_problem

HEAD_SECONDS = 20.0  # from the first byte (or the connection) to the end of a request head, or of a handshake
HEAD_BYTES = 64 * 1024  # request line and headers
MOST_PIPELINED = 8  # requests that wait behind the one being answered: each costs memory
UNACKNOWLEDGED_SECONDS = 60  # bytes that the peer's kernel does not take

_HEAD = b"HTTP/1.1 "
_REFUSALS = {
    400: ("bad-request", "This is not an HTTP/1.1 request."),
    408: ("request-timeout", "The request head did not come in time."),
    431: ("head-too-large", "The request head is too long."),
}


class BoundedLoop(uvloop.Loop):
    """Gives a TLS handshake no longer than a request head: who is silent has not come to the protocol yet."""

    async def create_server(self, *args: Any, **kwargs: Any) -> Any:
        """As of the event loop."""
        if kwargs.get("ssl") is not None:
            kwargs["ssl_handshake_timeout"] = HEAD_SECONDS
        return await super().create_server(*args, **kwargs)


async def _full(scope: Scope, receive: Receive, send: Send) -> None:
    """The application while there are too many connections."""
    refusal = busy("Too many connections at once; try again.")
    refusal.headers = {**refusal.headers, "Connection": "close"}
    await send_problem(send, refusal, scope["method"] == "HEAD")


class Together:
    """A transport on which the head of an answer waits for the first bytes of its body.

    One call to the kernel, and the client wakes once: a seventh of the time of a small answer. What does not come in
    the same turn of the event loop is not waited for.
    """

    def __init__(self, transport: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._held = b""

    def write(self, data: bytes) -> None:
        """As of a transport, in the same order."""
        held, self._held = self._held, b""
        if held:
            self._transport.writelines((held, data))
        elif data[: len(_HEAD)] == _HEAD:
            self._held = data
            self._loop.call_soon(self.flush)
        else:
            self._transport.write(data)

    def flush(self) -> None:
        """Write what is held."""
        held, self._held = self._held, b""
        if held and not self._transport.is_closing():
            self._transport.write(held)

    def close(self) -> None:
        """As of a transport: what was written goes out before."""
        self.flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class BoundedProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._most = self.limit_concurrency
        self.limit_concurrency = None  # uvicorn's own answer would be no problem document
        self._deadline: asyncio.TimerHandle | None = None
        self._head = 0  # of the request head that is coming: characters understood
        self._fed = 0  # and bytes received, understood or not
        self._beyond = 0  # bytes since the last one of a head or a body: of trailers, of chunk extensions
        self._in_head = self._spoilt = False
        self._status = 400
        self._answering: Any = None  # the request that is being answered; `cycle` is the one that came last

    def connection_made(self, transport: Any) -> None:
        """A new connection: its certificate (DER, None without one), its deadline."""
        super().connection_made(transport)
        self.transport: Any = Together(transport, self.loop)
        session = transport.get_extra_info("ssl_object")
        certificate = session.getpeercert(binary_form=True) if session is not None else None
        self.app_state = {**self.app_state, "peer_certificate": certificate, "abort": transport.abort}
        plain = transport.get_extra_info("socket")
        if plain is not None and plain.family in (socket.AF_INET, socket.AF_INET6):
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_SECONDS * 1000)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        """Bytes of a head, or of a body (whose pace the application watches)."""
        if self._deadline is None and (self.cycle is None or self.cycle.response_complete):
            self._await_head()
        if self._spoilt:
            return
        self._beyond += len(data)
        super().data_received(data)
        if self._in_head:
            self._fed += len(data)
        # a header or a trailer is told when it is whole, and may never be
        if max(self._fed, self._beyond) > HEAD_BYTES and not self.transport.is_closing():
            self._status = 431
            self.send_400_response("")

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        self._head = self._fed = self._beyond = 0
        self._in_head = True
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """A piece of the request target. Raises, which answers 431, beyond the limit."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header. Raises, which answers 431, beyond the limit.

        A trailer is none, and left out: no proxy strips what only it may say there.
        """
        self._count(len(name) + len(value))
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is whole. Raises, which ends the connection, when too many requests wait already."""
        self._forget_deadline()
        self._in_head, self._fed = False, 0
        if len(self.pipeline) >= MOST_PIPELINED:
            raise ValueError("too many requests at once")
        full = self._most is not None and max(len(self.connections), len(self.tasks)) >= self._most
        self.app = _full if full else self.config.loaded_app
        super().on_headers_complete()

    def on_chunk_header(self) -> None:
        """A chunk begins; the last one is followed by trailers."""
        self._beyond = 0

    def on_body(self, body: bytes) -> None:
        """A piece of a body."""
        self._beyond = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The end of a request."""
        self._beyond = 0
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """The end, told to the request that is being answered, also when others wait behind it."""
        self._forget_deadline()
        if self._answering is not None and not self._answering.response_complete:
            self._answering.disconnected = True
            self._answering.message_event.set()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """A refusal before there is a request, as a problem (RFC 9457); never into the answer to another one."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False  # what was understood is answered, then the connection ends
            self._spoilt = True
            return
        slug, detail = _REFUSALS[self._status]
        title = slug.replace("-", " ")
        body = json.dumps({"type": slug, "title": title, "status": self._status, "detail": detail}).encode()
        head = b"content-type: application/problem+json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
        self.transport.write(STATUS_LINE[self._status] + head % len(body) + body)
        self.transport.close()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def _count(self, more: int) -> None:
        self._head += more + 4
        if self._head > HEAD_BYTES:
            self._status = 431
            raise ValueError("head too long")

    def _await_head(self) -> None:
        self._deadline = self.loop.call_later(HEAD_SECONDS, self._too_late)

    def _forget_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_late(self) -> None:
        self._deadline = None
        if self.transport.is_closing():
            return
        if self._head:
            self._status = 408
            self.send_400_response("")
        else:
            self.transport.abort()
