"""A threaded WSGI server on h11: HTTP/1.1 keep-alive, mutual TLS, faults of the connection, a clean stop.

The TLS handshake runs in the connection's own thread: a slow or silent client never holds up the others.
Applications find in their environ, besides PEP 3333: `drimbox.peer_certificate` (DER bytes or None) and
`drimbox.stopping` (a `threading.Event`, set when the server stops). An application that raises
`CutConnection` leaves the client without an answer.
"""

from __future__ import annotations

import logging
import selectors
import socket
import ssl
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from drimbox.simulators.http_connection import CutConnection, HttpConnection

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

__all__ = ["CutConnection", "WsgiServer", "serve_wsgi", "tls_context"]

log = logging.getLogger(__name__)


def tls_context(certificate: Path, key: Path, client_authority: Path | None = None) -> ssl.SSLContext:
    """A server context, TLS 1.2 at least. With `client_authority`, a client certificate is asked for, not
    required: an application that wants one says so in its own protocol. One of another authority fails the
    handshake.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, key)
    if client_authority is not None:
        context.load_verify_locations(client_authority)
        context.verify_mode = ssl.CERT_OPTIONAL
    return context


class WsgiServer:
    """Serve `app` at `host`:`port` (0 = a free one) between `start()` and `stop()`.

    `refuse` is asked once per accepted connection; True = the client's first bytes (its TLS hello) are
    answered by RST, nothing of a request is read.
    Raises OSError from the constructor when the port is taken.
    """

    def __init__(
        self,
        app: WSGIApplication,
        host: str,
        port: int,
        ssl_context: ssl.SSLContext | None = None,
        *,
        refuse: Callable[[], bool] = lambda: False,
        idle_timeout: float = 60,
        max_body_bytes: int = 256 * 1024 * 1024,
    ) -> None:
        self._app, self._tls, self._refuse = app, ssl_context, refuse
        self._idle_timeout, self._max_body_bytes = idle_timeout, max_body_bytes
        self._listener = socket.create_server((host, port), backlog=128)
        self._waker, self._wake = socket.socketpair()
        self._lock = threading.Lock()
        self._open: dict[HttpConnection, threading.Thread] = {}
        self._acceptor = threading.Thread(target=self._accept, name=f"accept-{port}", daemon=True)
        self.stopping = threading.Event()
        self.host = host
        self.port = int(self._listener.getsockname()[1])

    @property
    def url(self) -> str:
        """`https://host:port`, without a final slash."""
        return f"http{'s' if self._tls else ''}://{self.host}:{self.port}"

    def start(self) -> None:
        """Accept connections, in a thread of its own."""
        self._acceptor.start()

    def stop(self, patience: float = 5) -> None:
        """Stop accepting, cut every connection, wait at most `patience` seconds for each thread."""
        self.stopping.set()
        self._waker.send(b"x")
        if self._acceptor.ident is not None:
            self._acceptor.join(patience)
        with self._lock:
            left = dict(self._open)
        for connection, thread in left.items():
            connection.cut()
            thread.join(patience)
        for end in (self._listener, self._waker, self._wake):
            end.close()

    def drop_idle(self) -> None:
        """Close the connections that wait for a next request, as a restarting server would."""
        with self._lock:
            idle = [connection for connection in self._open if connection.idle]
        for connection in idle:
            connection.cut()

    def _accept(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._wake, selectors.EVENT_READ)
            while not self.stopping.is_set():
                selector.select()
                if not self.stopping.is_set():
                    self._accept_one()

    def _accept_one(self) -> None:
        try:
            client, address = self._listener.accept()
        except OSError as error:  # the client went away between select and accept
            log.info("accept failed: %s", error.strerror)
            return
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = HttpConnection(client, address, self._idle_timeout, self._max_body_bytes)
        target = connection.reset if self._refuse() else partial(self._serve, connection)
        thread = threading.Thread(target=self._run, args=(connection, target), name="http", daemon=True)
        with self._lock:
            self._open[connection] = thread
        thread.start()

    def _serve(self, connection: HttpConnection) -> None:
        environ = {"SERVER_NAME": self.host, "SERVER_PORT": str(self.port), "drimbox.stopping": self.stopping}
        connection.secure(self._tls)
        connection.serve(self._app, environ)

    def _run(self, connection: HttpConnection, target: Callable[[], None]) -> None:
        try:
            target()
        except (OSError, CutConnection) as error:  # includes ssl.SSLError and time-outs: the peer's affair
            log.info("connection ended: %s", type(error).__name__)
        except Exception:  # the door of a connection's thread: log, the server goes on
            log.exception("connection failed")
        finally:
            connection.close()
            with self._lock:
                self._open.pop(connection, None)


def serve_wsgi(
    app: WSGIApplication,
    host: str,
    port: int,
    ssl_context: ssl.SSLContext | None = None,
    *,
    refuse: Callable[[], bool] = lambda: False,
) -> WsgiServer:
    """A started `WsgiServer`; the caller stops it."""
    server = WsgiServer(app, host, port, ssl_context, refuse=refuse)
    server.start()
    return server
