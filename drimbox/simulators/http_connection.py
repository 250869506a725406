"""One HTTP/1.1 connection of the simulators: bytes to WSGI and back, by h11."""

from __future__ import annotations

import io
import logging
import socket
import ssl
import struct
import sys
from collections.abc import Iterable
from itertools import chain
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes, urlsplit

import h11

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

log = logging.getLogger(__name__)
READ = 256 * 1024
HANDSHAKE_TIMEOUT = 10.0
RESET_AT_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER of no time
BODILESS = ("204", "304")


class CutConnection(Exception):
    """Raised by an application: close the connection, give the client no answer."""


class BodyTooLargeError(Exception):
    """The request's body is over the limit."""


class HttpConnection:
    """A client's socket with its HTTP state. `idle`: between two requests."""

    def __init__(self, client: socket.socket, address: Any, idle_timeout: float, max_body_bytes: int) -> None:
        self._socket, self._address = client, address
        self._idle_timeout, self._max_body_bytes = idle_timeout, max_body_bytes
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=64 * 1024)
        self._peer_certificate: bytes | None = None
        self._scheme = "http"
        self.idle = False

    def secure(self, context: ssl.SSLContext | None) -> None:
        """Do the TLS handshake, if there is TLS. Raises OSError (ssl.SSLError, TimeoutError)."""
        self._socket.settimeout(HANDSHAKE_TIMEOUT)
        if context is not None:
            secured = context.wrap_socket(self._socket, server_side=True, do_handshake_on_connect=False)
            self._socket = secured
            secured.do_handshake()
            self._peer_certificate = secured.getpeercert(binary_form=True)
            self._scheme = "https"
        self._socket.settimeout(self._idle_timeout)

    def serve(self, app: WSGIApplication, base: dict[str, Any]) -> None:
        """Answer requests until either side closes. Raises OSError and `CutConnection` when it ends badly."""
        while True:
            try:
                request = self._next_request()
                body = self._read_body() if request else b""
            except h11.RemoteProtocolError as error:
                self._refuse(f"{error.error_status_hint} Bad Request")
                return
            except BodyTooLargeError:
                self._refuse("413 Content Too Large")
                return
            if request is None or not self._answered(app, base, request, body):
                return

    def _answered(
        self, app: WSGIApplication, base: dict[str, Any], request: h11.Request, body: bytes
    ) -> bool:
        """Answer one request; False = this was the connection's last one."""
        self._run(app, base | self._environ(request, body), head=request.method == b"HEAD")
        if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            return False
        self._http.start_next_cycle()
        return True

    def reset(self) -> None:
        """Answer the first byte, or a second of silence, by RST.

        Not before: a client that finds its connection gone before its handshake may report something else.
        """
        self._socket.settimeout(1)
        try:
            self._socket.recv(1, socket.MSG_PEEK)
        except TimeoutError:
            log.debug("a silent client is refused")
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_CLOSE)

    def cut(self) -> None:
        """Shut the socket down from another thread; the connection's own thread then closes it."""
        try:
            # the plain method: SSLSocket.shutdown would drop the TLS state under the reading thread
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
        except OSError as error:
            log.debug("already closed: %s", error.strerror)

    def close(self) -> None:
        """Close the socket; may be called twice."""
        self._socket.close()

    def _next_request(self) -> h11.Request | None:
        self.idle = True
        event = self._next_event()
        self.idle = False
        return event if isinstance(event, h11.Request) else None

    def _next_event(self) -> Any:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            if self._http.they_are_waiting_for_100_continue:
                go_on = h11.InformationalResponse(status_code=100, headers=[])
                self._socket.sendall(self._http.send(go_on) or b"")
            received = self._socket.recv(READ)
            if received:
                self.idle = False
            self._http.receive_data(received)
        return event

    def _read_body(self) -> bytes:
        parts: list[bytes] = []
        size = 0
        while isinstance(event := self._next_event(), h11.Data):
            parts.append(bytes(event.data))
            size += len(event.data)
            if size > self._max_body_bytes:
                raise BodyTooLargeError
        if not isinstance(event, h11.EndOfMessage):
            raise ConnectionResetError
        return b"".join(parts)

    def _environ(self, request: h11.Request, body: bytes) -> dict[str, Any]:
        target = urlsplit(request.target.decode("latin-1"))
        return {
            "REQUEST_METHOD": request.method.decode("ascii"),
            "SCRIPT_NAME": "",
            "PATH_INFO": unquote_to_bytes(target.path).decode("latin-1"),
            "QUERY_STRING": target.query,
            "SERVER_PROTOCOL": "HTTP/" + request.http_version.decode("ascii"),
            "REMOTE_ADDR": str(self._address[0]),
            "CONTENT_LENGTH": str(len(body)),
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": self._scheme,
            "wsgi.input": io.BytesIO(body),
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": True,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
            "drimbox.peer_certificate": self._peer_certificate,
            **_header_variables(request),
        }

    def _run(self, app: WSGIApplication, environ: dict[str, Any], *, head: bool) -> None:
        started: list[tuple[str, list[tuple[str, str]]]] = []
        written: list[bytes] = []

        def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            started[:] = [(status, headers)]
            return written.append

        result: Iterable[bytes] = ()
        try:
            result = app(environ, start_response)
            blocks = iter(result)
            written.append(next(blocks, b""))  # a generator may call start_response only now (PEP 3333)
        except CutConnection:
            raise
        except Exception:
            log.exception("application failed")
            started[:], blocks = [("500 Internal Server Error", [])], iter(())
        try:
            self._answer(*started[0], chain(written, blocks), head=head)
        finally:
            _close(result)

    def _refuse(self, status: str) -> None:
        if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self._answer(status, [("Connection", "close")], [], head=False)

    def _answer(
        self, status: str, headers: list[tuple[str, str]], blocks: Iterable[bytes], *, head: bool
    ) -> None:
        code, _, reason = status.partition(" ")
        declared = {name.lower() for name, _ in headers} & {"content-length", "transfer-encoding"}
        if not declared and code not in BODILESS:
            body = b"".join(blocks)
            headers, blocks = [*headers, ("Content-Length", str(len(body)))], [body]
        encoded = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        answer = h11.Response(status_code=int(code), headers=encoded, reason=reason.encode("latin-1"))
        pending = bytearray(self._http.send(answer) or b"")
        for block in blocks:
            if block and not head:
                pending += self._http.send(h11.Data(data=block)) or b""
            if len(pending) >= READ:  # small answers leave in one packet
                self._socket.sendall(pending)
                pending.clear()
        pending += self._http.send(h11.EndOfMessage()) or b""
        self._socket.sendall(pending)


def _header_variables(request: h11.Request) -> dict[str, str]:
    """CGI variables of the headers; a repeated header is joined by a comma."""
    variables: dict[str, str] = {}
    for name, value in request.headers:
        key = name.decode("latin-1").upper().replace("-", "_")
        key = key if key == "CONTENT_TYPE" else f"HTTP_{key}"
        text = value.decode("latin-1")
        variables[key] = f"{variables[key]},{text}" if key in variables else text
    return variables


def _close(result: Iterable[bytes]) -> None:
    close = getattr(result, "close", None)
    if close is not None:
        close()
