"""The TCP side of the DICOM door: bounded connections, bounded and timed PDUs, an end to each association.

pynetdicom reads a PDU of any announced length with no limit in time; here a PDU has both.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from socketserver import BaseServer
from typing import Any, Protocol

from pynetdicom import evt
from pynetdicom.transport import RequestHandler, ThreadedAssociationServer

log = logging.getLogger(__name__)

MAXIMUM_PDU = 131072  # advertised: larger gains nothing (facts/performance.md 3.3)
PDU_BYTES = 1024 * 1024  # accepted: an A-ASSOCIATE-RQ may be longer than the P-DATA maximum
SPARE_CONNECTIONS = 16  # beyond the associations allowed, so that the next ones are rejected with a reason

_QUICKACK = getattr(socket, "TCP_QUICKACK", None)  # Linux


class Ending(Protocol):
    """What lives as long as one connection."""

    def close(self, bytes_read: int) -> None:
        """The association has ended and no handler of it runs; `bytes_read`: received on its connection."""


class PduReader:
    """Reads whole pieces of PDUs from a socket. `timeout`: seconds for each, however slowly it drips."""

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


class AssociationHandler(RequestHandler):  # type: ignore[misc]  # pynetdicom is untyped
    """One connection: runs its association to the end, then closes what belonged to it."""

    def handle(self) -> None:
        """Called by the server in a thread of its own."""
        with self.server.counted():
            association = self._create_association()
            # pynetdicom offers no hook for how a PDU is read
            reader = PduReader(self.request, self.server.idle_timeout)
            association.dul.socket.recv = reader.read
            conversation = self.server.converse(association)
            evt.trigger(association, evt.EVT_CONN_OPEN, {"address": self.client_address})
            try:
                association.start()
                association.join()
            finally:
                conversation.close(reader.total)
                self.server.shutdown_request(self.request)


class DicomServer(ThreadedAssociationServer):  # type: ignore[misc]  # pynetdicom is untyped
    """Accepts connections; `converse` and `idle_timeout` are set before `serve`."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    idle_timeout: float
    converse: Callable[[Any], Ending]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._open = 0
        self._changed = threading.Condition()
        super().__init__(*args, **kwargs)

    def serve(self) -> None:
        """Accept until `stop_accepting`; returns at once."""
        threading.Thread(
            target=self.serve_forever, args=(0.2,), name=f"dicom-door-{self.server_address[1]}", daemon=True
        ).start()

    def stop_accepting(self) -> None:
        """Close the listening socket; associations go on."""
        BaseServer.shutdown(self)  # not pynetdicom's: it looks for the server in its AE's list
        self.server_close()

    @contextmanager
    def counted(self) -> Iterator[None]:
        """One connection more, while the context lasts."""
        self._change(+1)
        try:
            yield
        finally:
            self._change(-1)

    def _change(self, by: int) -> None:
        with self._changed:
            self._open += by
            self._changed.notify_all()

    def wait_until_idle(self, timeout: float) -> bool:
        """Whether every connection ended within `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self._open == 0, timeout)

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Close at once what exceeds even the spare connections."""
        return self._open < int(self.ae.maximum_associations) + SPARE_CONNECTIONS

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection could not be served; the others go on."""
        log.error("dicom connection from %s failed", client_address[0], exc_info=True)
