"""A strict audit record repository: syslog over mutual TLS (RFC 5425), every message read, checked and kept.

The parser of frames is its own. Whoever sends close_notify gets it back once everything before it is kept, as
RFC 5425 4.4 demands; that is all the confirmation there is.
"""

from __future__ import annotations

import logging
import re
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from drimbox.simulators.faults import Faults
from drimbox.simulators.syslog_checks import Checked, check

log = logging.getLogger(__name__)

PLACE = "syslog"
SLOW_SECONDS = 3.0
_LENGTH = re.compile(rb"([1-9][0-9]{0,8}) ")
_LONGEST_FRAME = 64 * 1024


class BadFrame(Exception):
    """The octets are no frames of RFC 5425: what follows cannot be told apart."""


class SyslogReceiver:
    """Listens between `start()` and `stop()` (or as a context manager) at `host`:`port` (0 = a free one).

    `context` asks for client certificates. `faults` armed at `syslog`, one per connection: refuse_connection (RST at
    once), reset (everything is read and lost, then RST instead of close_notify), unconfirmed (the same, but kept), slow
    (nothing is read for `SLOW_SECONDS`). Raises OSError from the constructor when the port is taken.
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        faults: Faults,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        timeout: float = 10,
    ) -> None:
        self._context, self._faults, self._timeout = context, faults, timeout
        self._listener = socket.create_server((host, port), backlog=32)
        self.host, self.port = host, int(self._listener.getsockname()[1])
        self._news = threading.Condition()
        self._received: list[Checked] = []
        self._open: dict[socket.socket, threading.Thread] = {}
        self._stopping = threading.Event()
        self._acceptor = threading.Thread(target=self._accept, name="syslog-accept", daemon=True)

    def start(self) -> None:
        """Accept connections, in a thread of its own."""
        self._acceptor.start()

    def stop(self) -> None:
        """Stop accepting, cut every connection, wait for its thread."""
        self._stopping.set()
        with suppress(OSError):  # already woken
            self._listener.shutdown(socket.SHUT_RDWR)
        if self._acceptor.ident is not None:
            self._acceptor.join(self._timeout)
        self._listener.close()
        with self._news:
            left = dict(self._open)
        for connection, thread in left.items():
            with suppress(OSError):  # the peer went first
                connection.shutdown(socket.SHUT_RDWR)
            thread.join(self._timeout)

    def __enter__(self) -> SyslogReceiver:
        self.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self.stop()

    @property
    def received(self) -> tuple[Checked, ...]:
        """Everything that was kept, in order."""
        with self._news:
            return tuple(self._received)

    def wait(self, count: int, seconds: float = 10) -> tuple[Checked, ...]:
        """What was kept, as soon as there are `count`. Raises TimeoutError."""
        with self._news:
            if not self._news.wait_for(lambda: len(self._received) >= count, seconds):
                raise TimeoutError(f"{len(self._received)} of {count} messages in {seconds} s")
            return tuple(self._received)

    def messages(self) -> list[dict[str, Any]]:
        """The same as plain values, for the control port."""
        return [
            {
                "message_id": one.message_id,
                "event": one.event,
                "types": list(one.types),
                "action": one.action,
                "outcome": one.outcome,
                "participants": [dict(who) for who in one.participants],
                "objects": [dict(what) for what in one.objects],
                "details": dict(one.details),
                "instances": one.instances,
                "faults": list(one.faults),
            }
            for one in self.received
        ]

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                if not self._stopping.is_set():
                    log.exception("the audit repository cannot accept")
                return
            thread = threading.Thread(target=self._serve, args=(connection,), name="syslog", daemon=True)
            with self._news:
                self._open[connection] = thread
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        fault = self._faults.take(PLACE, "refuse_connection") or self._faults.take(PLACE) or ""
        try:
            connection.settimeout(self._timeout)
            if fault == "refuse_connection":
                _reset_at_close(connection)
                return
            if fault == "slow":
                self._stopping.wait(SLOW_SECONDS)
            self._converse(connection, fault)
        except (OSError, BadFrame) as error:
            log.info("the connection of a sender ended: %s", type(error).__name__)
        finally:
            connection.close()
            with self._news:
                del self._open[connection]

    def _converse(self, connection: socket.socket, fault: str) -> None:
        # a duplicate, so that `stop` can still cut what `wrap_socket` takes over
        with self._context.wrap_socket(
            connection.dup(), server_side=True, suppress_ragged_eofs=False
        ) as secured:
            secured.settimeout(self._timeout)
            kept = [check(frame) for frame in _frames(secured)]
            if fault != "reset":
                with self._news:
                    self._received += kept
                    self._news.notify_all()
            if fault in ("reset", "unconfirmed"):
                _reset_at_close(secured)
            else:
                secured.unwrap()


def _frames(connection: ssl.SSLSocket) -> Iterator[bytes]:
    """MSG-LEN SP SYSLOG-MSG until close_notify; a connection that ends otherwise raises, its rest is not kept."""
    buffer = bytearray()
    while received := connection.recv(64 * 1024):
        buffer += received
        while (length := _LENGTH.match(buffer)) is not None:
            size, start = int(length[1]), length.end()
            if size > _LONGEST_FRAME:
                raise BadFrame("too long")
            if len(buffer) < start + size:
                break
            yield bytes(buffer[start : start + size])
            del buffer[: start + size]
        if length is None and buffer and not re.fullmatch(rb"[1-9][0-9]{0,8}", buffer):
            raise BadFrame("no MSG-LEN")
    if buffer:
        raise BadFrame("cut")


def _reset_at_close(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
