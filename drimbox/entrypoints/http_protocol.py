"""HTTP/1.1 of both listeners: uvicorn's httptools protocol, with what a door at the edge needs of limits.

A connection that brings no whole request head in time, or too long a head, is ended; a peer whose kernel no longer
takes bytes is given up by ours. The client's certificate is put in the ASGI state.
"""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

HEAD_SECONDS = 20.0  # from the first byte (or the connection) to the end of a request head
HEAD_BYTES = 64 * 1024  # request line and headers
UNACKNOWLEDGED_SECONDS = 60  # bytes that the peer's kernel does not take

_REFUSALS = {
    400: ("bad-request", "This is not an HTTP/1.1 request."),
    408: ("request-timeout", "The request head did not come in time."),
    431: ("head-too-large", "The request head is too long."),
}


class BoundedProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._deadline: asyncio.TimerHandle | None = None
        self._head = 0
        self._status = 400

    def connection_made(self, transport: Any) -> None:
        """A new connection: its certificate (DER, None without one), its deadline."""
        super().connection_made(transport)
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
        super().data_received(data)

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        self._head = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """A piece of the request target. Raises, which answers 431, beyond the limit."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header. Raises, which answers 431, beyond the limit."""
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self._forget_deadline()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """The end."""
        self._forget_deadline()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """A refusal before there is a request, as a problem (RFC 9457)."""
        slug, detail = _REFUSALS[self._status]
        title = slug.replace("-", " ")
        body = json.dumps({"type": slug, "title": title, "status": self._status, "detail": detail}).encode()
        head = b"content-type: application/problem+json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
        self.transport.write(STATUS_LINE[self._status] + head % len(body) + body)
        self.transport.close()

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
