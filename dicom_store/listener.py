"""The TCP side of the DICOM door: bounded connections, TLS, one thread for each, an end to each.

pynetdicom reads a PDU of any announced length with no limit in time; here a PDU has both.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import socket
import ssl
import threading
import time
import uuid
from collections.abc import Callable
from socketserver import BaseRequestHandler, BaseServer, ThreadingTCPServer
from typing import Any

from pynetdicom import evt
from pynetdicom.transport import RequestHandler, ThreadedAssociationServer

from dicom_store.admission import Terms
from dicom_store.association import LOOPBACK, Association
from dicom_store.connections import Connections, Place
from dicom_store.conversation import Conversation
from dicom_store.sink import Peer
from dicom_store.upper_layer import PDU_BYTES

log = logging.getLogger(__name__)

_QUICKACK = getattr(socket, "TCP_QUICKACK", None)  # Linux

_PAUSE = 0.2  # seconds before the next try, when no connection can be taken
_LEFT = (ssl.SSLEOFError, ssl.SSLZeroReturnError)
_NO_DESCRIPTOR = frozenset({errno.EMFILE, errno.ENFILE})

TlsContext = Callable[[], ssl.SSLContext]


class TlsUnusable(OSError):
    """Our own certificate, its key or the authorities cannot be used: no fault of the peer."""


class PduReader:
    """Reads whole pieces of PDUs from a socket for pynetdicom. `timeout`: seconds for each, however it drips."""

    def __init__(self, connection: socket.socket, timeout: float) -> None:
        self._connection = connection
        self._timeout = timeout
        self.total = 0  # bytes read so far
        connection.settimeout(timeout)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def read(self, size: int) -> bytearray:
        """`size` bytes, fewer if the peer closed. Raises `OSError` when too long, too slow or reset."""
        if size > PDU_BYTES:
            raise OSError(f"a PDU of {size} bytes announced")
        buffer = bytearray(size)
        view, received = memoryview(buffer), 0
        deadline = time.monotonic() + self._timeout
        while received < size:
            count = self._connection.recv_into(view[received:])
            if count == 0:
                break
            received += count
            self.total += count
            if received < size:
                self._acknowledge_now()
                if time.monotonic() > deadline:
                    raise TimeoutError("a PDU took too long")
        return bytearray(view[:received])

    def _acknowledge_now(self) -> None:
        """Peers that leave Nagle on wait for this ACK, 40 ms each time (facts/performance.md 3.1)."""
        if _QUICKACK is not None:
            self._connection.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)


class BoundedServer:
    """What both servers have in common; `connections`, `terms` and `tls` are set before `serve`."""

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 128
    connections: Connections
    terms: Terms
    tls: TlsContext | None = None

    def serve(self: Any) -> None:
        """Accept until `stop_accepting`; returns at once."""
        threading.Thread(
            target=self.serve_forever, args=(0.2,), name=f"dicom-door-{self.server_address[1]}", daemon=True
        ).start()

    def stop_accepting(self: Any) -> None:
        """Close the listening socket; associations go on."""
        BaseServer.shutdown(self)  # not pynetdicom's: it looks for the server in its AE's list
        self.server_close()

    def get_request(self: Any) -> tuple[Any, Any]:
        """The next connection. Without a file descriptor for it, a pause: it would be tried again at once, for ever."""
        try:
            return super().get_request()  # type: ignore[misc,no-any-return]  # of socketserver
        except OSError as error:
            if error.errno in _NO_DESCRIPTOR:
                log.error("no connection can be taken: %s", error.strerror)  # noqa: TRY400 nothing else to show
                time.sleep(_PAUSE)
            raise

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Close at once what exceeds even the spare connections."""
        return self.connections.enter(request, str(client_address[0]))

    def process_request(self, request: Any, client_address: Any) -> None:
        """Begin its thread; without one, its place is free again."""
        try:
            super().process_request(request, client_address)  # type: ignore[misc]  # of socketserver
        except RuntimeError:
            self.connections.leave(request)
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """One connection, from here to its end."""
        try:
            super().process_request_thread(request, client_address)  # type: ignore[misc]
        finally:
            self.connections.leave(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection could not be served; the others go on."""
        log.error("dicom connection from %s failed", client_address[0], exc_info=True)

    def secured(self, request: socket.socket, place: Place) -> tuple[socket.socket, str | None]:
        """The connection, within TLS when the door speaks it, and the SHA-256 of its client certificate.

        Raises `OSError` when the handshake fails, or takes longer than an A-ASSOCIATE-RQ may; `TlsUnusable`.
        """
        if self.tls is None:
            return request, None
        try:
            context = self.tls()
        except OSError as error:
            raise TlsUnusable(type(error).__name__) from error
        request.settimeout(self.terms.artim)
        connection = context.wrap_socket(request, server_side=True, do_handshake_on_connect=False)
        place.connection = connection
        try:
            connection.do_handshake()
        except OSError:
            connection.close()
            raise
        certificate = connection.getpeercert(binary_form=True)
        return connection, hashlib.sha256(certificate).hexdigest() if certificate else None

    def handshake_failed(self: Any, address: str, error: OSError) -> None:
        """TLS was not agreed: said of who tried to speak.

        A connection that leaves before it has spoken is none of those: this machine looks at its own health that way.
        """
        if isinstance(error, TlsUnusable):
            return log.error("our TLS files cannot be used, %s was sent away: %s", address, error.args[0])
        quiet = address in (*LOOPBACK, self.server_address[0])
        log.log(
            logging.DEBUG if quiet else logging.INFO,
            "TLS not agreed with %s: %s",
            address,
            type(error).__name__,
        )
        if isinstance(error, ssl.SSLError) and not isinstance(error, _LEFT):
            reason = (error.reason or "handshake failed").replace("_", " ").lower()
            self.terms.on_refused(Peer("", address, uuid.uuid4().hex), f"TLS refused: {reason}")
        return None


class OwnServer(BoundedServer, ThreadingTCPServer):
    """Connections served by our own engine."""

    def __init__(self, address: tuple[str, int]) -> None:
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, OwnHandler)


class OwnHandler(BaseRequestHandler):
    """One connection."""

    server: OwnServer

    def handle(self) -> None:
        """Called in a thread of its own."""
        server = self.server
        place = server.connections.place(self.request)
        try:
            connection, certificate = server.secured(self.request, place)
        except OSError as error:
            return server.handshake_failed(place.address, error)
        with connection:
            return Association(connection, place, server.connections, server.terms, certificate).run()


class ReferenceServer(BoundedServer, ThreadedAssociationServer):  # type: ignore[misc]  # pynetdicom is untyped
    """Connections served by pynetdicom."""


class ReferenceHandler(RequestHandler):  # type: ignore[misc]  # pynetdicom is untyped
    """One connection: runs its association to the end, then closes what belonged to it."""

    server: ReferenceServer
    request: Any  # a socket

    def handle(self) -> None:
        """Called in a thread of its own."""
        server = self.server
        place = server.connections.place(self.request)
        request: socket.socket = self.request
        try:
            request, certificate = server.secured(request, place)
        except OSError as error:
            server.shutdown_request(request)
            return server.handshake_failed(place.address, error)
        self.request = request  # pynetdicom takes it from here
        association = self._create_association()
        # pynetdicom offers no hook for how a PDU is read
        reader = PduReader(request, server.terms.idle_timeout)
        association.dul.socket.recv = reader.read
        conversation = Conversation(association, server.terms, place, server.connections, certificate)
        evt.trigger(association, evt.EVT_CONN_OPEN, {"address": self.client_address})
        try:
            association.start()
            association.join()
        finally:
            conversation.close(reader.total)
            server.shutdown_request(request)
        return None
