"""One request over mutual TLS with a limit on everything: time to connect, time for the whole answer, its size.

Each call opens its own connection: no answer can be read by another caller, and no stale connection turns a
request that was never read into a doubt.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter

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


def mutual_tls(authority: Path, certificate: Path, key: Path) -> ssl.SSLContext:
    """Our certificate towards peers of `authority`, TLS 1.2 at least. Raises OSError when a file cannot be used."""
    context = ssl.create_default_context(cafile=authority)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # an encrypted key fails here instead of asking the terminal for its password
    context.load_cert_chain(certificate, key, password="")
    return context


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

    `context` carries authorities and client certificate; `certifi` is never consulted. Raises `NothingSent`
    or `NothingHeard`.
    """
    watchdog = _Watchdog(limits)
    with requests.Session() as session, watchdog:
        session.trust_env = False
        session.mount("https://", _Adapter(context, watchdog))
        try:
            answer = _exchange(session, method, url, body, headers, limits)
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            raise _translated(error, watchdog, limits) from error
    if watchdog.expired:  # a connection cut by us looks like the end of a body without a length
        raise NothingHeard(f"no complete answer within {limits.answer_timeout:g} s")
    return answer


def _exchange(
    session: requests.Session,
    method: str,
    url: str,
    body: bytes | None,
    headers: Mapping[str, str],
    limits: Limits,
) -> HttpAnswer:
    timeout = (limits.connect_timeout, limits.answer_timeout)
    sent = {**headers, "Accept-Encoding": "identity", "User-Agent": "drimbox", "Connection": "close"}
    with session.request(
        method, url, data=body, headers=sent, timeout=timeout, stream=True, allow_redirects=False
    ) as response:
        received = bytearray()
        for chunk in response.iter_content(CHUNK):
            received += chunk
            if len(received) > limits.max_answer_bytes:
                raise NothingHeard(f"the answer is longer than {limits.max_answer_bytes} bytes")
        return HttpAnswer(response.status_code, response.headers.get("Content-Type", ""), bytes(received))


def _translated(error: Exception, watchdog: _Watchdog, limits: Limits) -> Exception:
    cause = _root_cause(error)
    if isinstance(cause, ssl.SSLError) and cause.reason in HANDSHAKE_ALERTS:
        return NothingSent(f"the peer refused our certificate: {cause.reason}")
    if not watchdog.connected:
        late = f"no connection within {limits.connect_timeout:g} s"
        return NothingSent(late if watchdog.expired else _words(cause))
    if watchdog.expired or isinstance(cause, TimeoutError | urllib3.exceptions.TimeoutError):
        return NothingHeard(f"no complete answer within {limits.answer_timeout:g} s")
    return NothingHeard(_words(cause))


def _root_cause(error: BaseException) -> BaseException:
    """The system's, TLS or HTTP error inside the wrappers of requests and urllib3, else the innermost one."""
    for _ in range(10):
        if isinstance(error, http.client.HTTPException) or _is_of_the_system(error):
            break
        nested = [*error.args, getattr(error, "reason", None), error.__cause__]
        error = next((cause for cause in nested if isinstance(cause, BaseException)), error)
    return error


def _is_of_the_system(error: BaseException) -> bool:
    return isinstance(error, OSError) and not isinstance(error, requests.RequestException)


def _words(cause: BaseException) -> str:
    """What the system or the TLS library says; of other causes the kind only: they may quote the peer."""
    if _is_of_the_system(cause):
        return f"{type(cause).__name__}: {getattr(cause, 'strerror', None) or cause}"[:200]
    if isinstance(cause, http.client.HTTPException | urllib3.exceptions.HTTPError):
        return f"not HTTP, or cut: {type(cause).__name__}"
    return type(cause).__name__


class _Watchdog:
    """Cuts the TCP connection when its time is over: the timeouts of sockets are per read."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._socket: socket.socket | None = None
        self._timer: threading.Timer | None = None
        self.connected = False
        self.expired = False

    def __enter__(self) -> _Watchdog:
        return self

    def __exit__(self, *_: object) -> None:
        self._disarm()
        if self._socket is not None:
            self._socket.close()

    def opened(self, sock: socket.socket) -> None:
        """A TCP connection is open: the TLS handshake has `connect_timeout`."""
        self._socket = sock.dup()  # the original changes hands when TLS wraps it
        self._arm(self._limits.connect_timeout)

    def secured(self) -> None:
        """The handshake is done: request and answer have `answer_timeout` together."""
        self._disarm()
        self.connected = True
        self._arm(self._limits.answer_timeout)

    def _arm(self, seconds: float) -> None:
        self._timer = threading.Timer(seconds, self._cut)
        self._timer.daemon = True
        self._timer.start()

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _cut(self) -> None:
        self.expired = True
        if self._socket is not None:
            with contextlib.suppress(OSError):  # the peer closed it in the meantime
                self._socket.shutdown(socket.SHUT_RDWR)


class _Connection(urllib3.connection.HTTPSConnection):
    """Tells the watchdog what happens to its connection."""

    def __init__(self, *args: Any, watchdog: _Watchdog, **options: Any) -> None:
        super().__init__(*args, **options)
        self._watchdog = watchdog

    def _new_conn(self) -> socket.socket:
        sock = super()._new_conn()
        self._watchdog.opened(sock)
        return sock

    def connect(self) -> None:
        super().connect()
        self._watchdog.secured()


class _Adapter(HTTPAdapter):
    """Gives each request its own pool of one connection, with our context and our watchdog."""

    def __init__(self, context: ssl.SSLContext, watchdog: _Watchdog) -> None:
        super().__init__(max_retries=0)
        self._context = context
        self._watchdog = watchdog

    def get_connection_with_tls_context(
        self, request: requests.PreparedRequest, verify: Any, proxies: Any = None, cert: Any = None
    ) -> urllib3.HTTPSConnectionPool:
        """A fresh pool; `verify`, `proxies` and `cert` are those of an untouched session: nothing."""
        place = urlsplit(str(request.url))
        pool = urllib3.HTTPSConnectionPool(
            str(place.hostname), place.port or 443, maxsize=1, ssl_context=self._context
        )
        pool.ConnectionCls = partial(_Connection, watchdog=self._watchdog)  # type: ignore[assignment]
        return pool

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        """The context already carries the authorities; requests would add the public ones of certifi."""
        conn.cert_reqs = "CERT_REQUIRED"
