"""One request over mutual TLS with a limit on everything: time to connect, time for the whole answer, its size.

Each call opens its own connection: no answer can be read by another caller, and no stale connection turns a
request that was never read into a doubt.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import io
import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cryptography import x509

from drimbox.adapters.credential_check import credential_faults
from drimbox.adapters.held import Held
from drimbox.adapters.key_files import present
from drimbox.domain.certificate_roles import Role

CHUNK = 64 * 1024
# Alerts by which a peer refuses our certificate. In TLS 1.3 they arrive after our handshake is done, but the
# peer has read no application data then (RFC 8446, 4.4.2.4 and 6.2): nothing of the request reached it.
HANDSHAKE_ALERTS = frozenset(
    {
        "SSLV3_ALERT_BAD_CERTIFICATE",
        "SSLV3_ALERT_CERTIFICATE_EXPIRED",
        "SSLV3_ALERT_CERTIFICATE_REVOKED",
        "SSLV3_ALERT_CERTIFICATE_UNKNOWN",
        "SSLV3_ALERT_HANDSHAKE_FAILURE",
        "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE",
        "TLSV1_ALERT_ACCESS_DENIED",
        "TLSV1_ALERT_UNKNOWN_CA",
        "TLSV13_ALERT_CERTIFICATE_REQUIRED",
    }
)


class NothingSent(Exception):
    """Nothing of the request reached the peer."""


class NothingHeard(Exception):
    """The request left, wholly or in part, and no usable answer came."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds to connect (TLS handshake included), seconds for the whole answer, bytes of its body."""

    connect_timeout: float
    answer_timeout: float
    max_answer_bytes: int


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """What came back, whatever its status."""

    status: int
    content_type: str
    body: bytes


def mutual_tls(
    authority: Path,
    certificate: Path,
    key: Path,
    *,
    now: datetime,
    passphrase: Path | None = None,
    setting: str = "",
) -> ssl.SSLContext:
    """Our certificate towards peers of `authority`, TLS 1.2 at least.

    Files that are others than before are used at once, as `Held.follow` says. `passphrase`: the file of it;
    `setting`: as logs name the credential. Raises OSError when the first files cannot be used, and when the
    certificate has ended: peers often hang up on it without a word.
    """
    context, end = client_credential(authority, certificate, key, passphrase, setting).follow(now)
    if now > end:
        raise OSError(f"our client certificate {certificate.name} ended on {end:%Y-%m-%d at %H:%M} UTC")
    return context


@functools.lru_cache(maxsize=8)
def client_credential(
    authority: Path, certificate: Path, key: Path, passphrase: Path | None = None, setting: str = ""
) -> Held[tuple[ssl.SSLContext, datetime]]:
    """A client certificate as this process holds it: its context, and when it ends."""

    def make() -> tuple[ssl.SSLContext, datetime]:
        context = ssl.create_default_context(cafile=authority)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        present(context, certificate, key, passphrase)
        return context, x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc

    def judge(now: datetime) -> list[str]:
        return credential_faults(certificate, key, Role.AUDIT_CLIENT, now, passphrase=passphrase)

    files = (authority, certificate, key, *filter(None, [passphrase]))
    return Held(setting or certificate.name, files, make, judge)


def request(
    method: str,
    url: str,
    body: bytes | None,
    headers: Mapping[str, str],
    *,
    context: ssl.SSLContext,
    limits: Limits,
) -> HttpAnswer:
    """One request; follows no redirect, uses no proxy, believes no environment variable.

    `context` carries authorities and client certificate. Raises `NothingSent` or `NothingHeard`.
    """
    place = urlsplit(url)
    target = f"{place.path or '/'}?{place.query}" if place.query else place.path or "/"
    connection = _Connection(str(place.hostname), place.port or 443, context, limits)
    try:
        return _exchange(connection, method, target, body, headers)
    except (OSError, http.client.HTTPException, UnicodeError) as error:
        raise _translated(error, connection.connected, limits) from error
    finally:
        connection.hang_up()


def _exchange(
    connection: _Connection, method: str, target: str, body: bytes | None, headers: Mapping[str, str]
) -> HttpAnswer:
    sent = {**headers, "Accept-Encoding": "identity", "User-Agent": "drimbox", "Connection": "close"}
    connection.connect()
    # a peer that stops reading may have said why: if it has not, reading fails as well
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        connection.request(method, target, body=body, headers=sent)
    with connection.getresponse() as response:
        received = bytearray()
        while chunk := response.read(CHUNK):
            received += chunk
            if len(received) > connection.limits.max_answer_bytes:
                raise NothingHeard(f"the answer is longer than {connection.limits.max_answer_bytes} bytes")
        _require_complete(response)
        return HttpAnswer(response.status, response.headers.get("Content-Type", ""), bytes(received))


def _require_complete(response: http.client.HTTPResponse) -> None:
    """Reading by chunks, `http.client` takes the end of the connection for the end of the body."""
    if response.length:
        raise http.client.IncompleteRead(b"", response.length)


def _translated(error: Exception, connected: bool, limits: Limits) -> Exception:
    if isinstance(error, ssl.SSLError) and error.reason in HANDSHAKE_ALERTS:
        return NothingSent(f"the peer refused our certificate: {error.reason}")
    late = isinstance(error, TimeoutError)
    if not connected:
        return NothingSent(f"no connection within {limits.connect_timeout:g} s" if late else _words(error))
    return NothingHeard(f"no complete answer within {limits.answer_timeout:g} s" if late else _words(error))


def _words(error: Exception) -> str:
    """What the system or the TLS library says; of other causes the kind only: they may quote the peer."""
    if isinstance(error, http.client.HTTPException):
        return f"not HTTP, or cut: {type(error).__name__}"
    if isinstance(error, OSError):
        return f"{type(error).__name__}: {error.strerror or error}"[:200]
    return type(error).__name__


class _TimedReader(io.RawIOBase):
    """Reads of a TLS socket that end together: the timeouts of sockets are per call."""

    def __init__(self, sock: ssl.SSLSocket, deadline: float) -> None:
        super().__init__()
        self._socket, self._deadline = sock, deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._socket.settimeout(_remaining(self._deadline))
        return self._socket.recv_into(buffer)


class _TimedSocket:
    """What `http.client` uses of a socket; reads and writes end together."""

    def __init__(self, sock: ssl.SSLSocket, deadline: float) -> None:
        self._socket, self._deadline = sock, deadline

    def sendall(self, data: bytes) -> None:
        """Send all of it. Raises TimeoutError at the deadline."""
        rest = memoryview(data)
        while rest:
            self._socket.settimeout(_remaining(self._deadline))
            rest = rest[self._socket.send(rest[:CHUNK]) :]

    def makefile(self, _mode: str) -> io.BufferedReader:
        """What an `HTTPResponse` reads from."""
        return io.BufferedReader(_TimedReader(self._socket, self._deadline), CHUNK)

    def close(self) -> None:
        """Nothing: `http.client` closes as soon as the answer begins; `_Connection.hang_up` does."""


def _remaining(deadline: float) -> float:
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError
    return seconds


class _Connection(http.client.HTTPConnection):
    """A connection of its own for one request."""

    def __init__(self, host: str, port: int, context: ssl.SSLContext, limits: Limits) -> None:
        super().__init__(host, port)
        self._context = context
        self.limits = limits
        self._secured: ssl.SSLSocket | None = None

    @property
    def connected(self) -> bool:
        """Whether the handshake is done."""
        return self._secured is not None

    def connect(self) -> None:
        """TCP and TLS handshake, within `connect_timeout`; request and answer have `answer_timeout` together."""
        deadline = time.monotonic() + self.limits.connect_timeout
        plain = socket.create_connection((self.host, self.port), _remaining(deadline))
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            plain.settimeout(_remaining(deadline))
            secured = self._context.wrap_socket(plain, server_hostname=self.host)
        except BaseException:
            plain.close()
            raise
        self._secured = secured
        self.sock = _TimedSocket(secured, time.monotonic() + self.limits.answer_timeout)

    def hang_up(self) -> None:
        """Close the connection, if there is one."""
        self.close()
        if self._secured is not None:
            self._secured.close()
