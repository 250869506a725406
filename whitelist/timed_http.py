"""One GET on a connection of its own, whose connect, handshake and answer end at one deadline.

Timeouts of sockets are per call: a peer that drips one octet a second never meets them. Here every read gets what
is left of the whole time.
"""

from __future__ import annotations

import http.client
import io
import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult

_CHUNK = 64 * 1024


class TooLarge(Exception):
    """The body is longer than allowed; reading stopped there."""


class Truncated(Exception):
    """The connection ended before the body did."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, header fields and body of an answer that came whole."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Bounds:
    """`connect`: seconds for TCP and TLS; `total`: seconds for everything; `max_bytes`: of the body."""

    connect: float
    total: float
    max_bytes: int


def get(
    place: SplitResult, headers: Mapping[str, str], context: ssl.SSLContext | None, bounds: Bounds
) -> Answer:
    """GET `place` (`context` None = in clear). No proxy, no redirect, no cookie, no environment variable.

    Raises OSError (ssl.SSLError and TimeoutError among them), http.client.HTTPException, `TooLarge`, `Truncated`.
    """
    deadline = time.monotonic() + bounds.total
    connection = _Connection(place, context, bounds.connect, deadline)
    target = f"{place.path or '/'}?{place.query}" if place.query else place.path or "/"
    try:
        connection.request("GET", target, headers={**headers, "Connection": "close"})
        with connection.getresponse() as response:
            body = _body(response, bounds.max_bytes)
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, body)
    finally:
        connection.hang_up()


def _body(response: http.client.HTTPResponse, max_bytes: int) -> bytes:
    received = bytearray()
    while chunk := response.read(_CHUNK):
        received += chunk
        if len(received) > max_bytes:
            raise TooLarge(f"the body is longer than {max_bytes} bytes")
    if response.length:  # by chunks, http.client takes the end of the connection for the end of the body
        raise Truncated(f"{response.length} bytes of the body are missing")
    return bytes(received)


def _left(deadline: float) -> float:
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError("the time for the whole exchange is over")
    return seconds


class _Reader(io.RawIOBase):
    """Reads of a socket that end together."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        super().__init__()
        self._socket, self._deadline = sock, deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._socket.settimeout(_left(self._deadline))
        return self._socket.recv_into(buffer)


class _TimedSocket:
    """What `http.client` uses of a socket."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._socket, self._deadline = sock, deadline

    def sendall(self, data: bytes) -> None:
        self._socket.settimeout(_left(self._deadline))
        self._socket.sendall(data)

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Reader(self._socket, self._deadline), _CHUNK)

    def close(self) -> None:
        """Nothing: `http.client` closes when the answer begins; `_Connection.hang_up` does."""


class _Connection(http.client.HTTPConnection):
    def __init__(
        self, place: SplitResult, context: ssl.SSLContext | None, patience: float, deadline: float
    ) -> None:
        self._default = 443 if context else 80
        super().__init__(str(place.hostname), place.port or self._default)
        self.default_port = self._default  # so that Host carries no usual port
        self._context, self._patience, self._deadline = context, patience, deadline
        self._real: socket.socket | None = None

    def connect(self) -> None:
        until = min(time.monotonic() + self._patience, self._deadline)
        self._real = _opened(self.host, self.port, until)
        self._real.settimeout(_left(until))
        if self._context is not None:
            # a close without close_notify is an attack or a cut, never the end of a body
            self._real = self._context.wrap_socket(
                self._real, server_hostname=self.host, suppress_ragged_eofs=False
            )
        self.sock = _TimedSocket(self._real, self._deadline)

    def hang_up(self) -> None:
        self.close()
        if self._real is not None:
            self._real.close()


def _opened(host: str, port: int, until: float) -> socket.socket:
    """A TCP connection to the first address that answers, within one deadline for all of them."""
    refused: OSError = OSError("no address")
    for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(_left(until))
            sock.connect(address)
        except OSError as error:
            sock.close()
            refused = error
        else:
            return sock
    raise refused
