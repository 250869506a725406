"""The MLLP door: frames 0x0B ... 0x1C 0x0D on TCP, one thread per connection (hl7-mss 1.10).

The door knows framing, limits and time; what a message means and its answer are the handler's. Nothing that
was not framed whole is handled. Logs carry addresses and reasons, never content.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
import traceback
from collections.abc import Callable

START = b"\x0b"
END = b"\x1c\r"
_RECEIVE_BYTES = 65_536
_STOP_PATIENCE = 10.0  # seconds for the answers under way when the door closes
_BACKLOG = 128
_ACCEPT_PAUSE = 0.2  # seconds, when the system has no descriptor to give

_log = logging.getLogger(__name__)

Handler = Callable[[bytes, str], bytes | None]
OnFault = Callable[[str, str], None]


class FramingError(ValueError):
    """Not MLLP, or a message over the limit: the connection is of no more use."""


class Deframer:
    """Bytes in any pieces to whole messages; holds at most `max_message_bytes` and one piece more."""

    def __init__(self, max_message_bytes: int) -> None:
        self._limit = max_message_bytes
        self._buffer = bytearray()
        self._inside = False

    @property
    def inside(self) -> bool:
        """True while a message has begun and not ended."""
        return self._inside

    def feed(self, piece: bytes | bytearray | memoryview) -> list[bytes]:
        """The messages that `piece` completes, in order, without their frames.

        Raises `FramingError` for anything but line ends between frames, and for a message over the limit; the
        messages completed before the fault are in its `args[1]`.
        """
        searched = max(0, len(self._buffer) - 1)  # the first byte of END may already be there
        self._buffer += piece
        messages: list[bytes] = []
        try:
            while self._next(messages, searched):
                searched = 0
        except FramingError as error:
            raise FramingError(str(error), messages) from None
        return messages

    def _next(self, messages: list[bytes], searched: int) -> bool:
        """Consume one start or one end block; False when more bytes are needed."""
        return self._end(messages, searched) if self._inside else self._start()

    def _start(self) -> bool:
        start = self._buffer.find(START)
        before = self._buffer if start < 0 else self._buffer[:start]
        if before.strip(b"\r\n"):
            raise FramingError("bytes before the start block")
        del self._buffer[: len(self._buffer) if start < 0 else start + 1]
        self._inside = start >= 0
        return self._inside

    def _end(self, messages: list[bytes], searched: int) -> bool:
        end = self._buffer.find(END, searched)
        if (end if end >= 0 else len(self._buffer)) > self._limit:
            raise FramingError(f"a message of over {self._limit} bytes")
        if end < 0:
            return False
        with memoryview(self._buffer) as view:
            messages.append(bytes(view[:end]))
        del self._buffer[: end + len(END)]
        self._inside = False
        return True


class MllpDoor:
    """A blocking, threaded MLLP server.

    `handle(message, peer address)` returns the answer without its frame, or None for none. It is called in
    the order of arrival on each connection, from many threads at once. When it raises, the connection is
    closed without an answer, so that the sender keeps its message. Times are seconds: `idle_timeout` of
    silence; `message_timeout` from the first to the last byte of a message, or of an answer. `on_fault(peer
    address, reason)` is told of every connection that was refused or closed for what it sent.
    """

    def __init__(
        self,
        host: str,
        port: int,
        handle: Handler,
        *,
        max_message_bytes: int = 64 * 1024 * 1024,
        max_connections: int = 50,
        idle_timeout: float = 300.0,
        message_timeout: float = 120.0,
        on_fault: OnFault = lambda _peer, _reason: None,
    ) -> None:
        self._address = (host, port)
        self._handle = handle
        self._max_message_bytes = max_message_bytes
        self._max_connections = max_connections
        self._idle_timeout = idle_timeout
        self._message_timeout = message_timeout
        self._on_fault = on_fault
        self._listener: socket.socket | None = None
        self._acceptor: threading.Thread | None = None
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._open: dict[socket.socket, threading.Thread] = {}

    @property
    def port(self) -> int:
        """The port that is listened on; the one asked for before `start`."""
        return int(self._listener.getsockname()[1]) if self._listener else self._address[1]

    def start(self) -> None:
        """Listen. Raises OSError when the address cannot be bound."""
        family = socket.AF_INET6 if ":" in self._address[0] else socket.AF_INET
        self._listener = socket.create_server(self._address, family=family, backlog=_BACKLOG)
        self._acceptor = threading.Thread(
            target=self._accept, args=(self._listener,), name="mllp-accept", daemon=True
        )
        self._acceptor.start()

    def stop(self) -> None:
        """Stop listening, let the messages being handled be answered, close every connection."""
        if self._listener is None or self._acceptor is None:
            return
        self._stopping.set()
        _shut(self._listener, socket.SHUT_RDWR)  # wakes accept()
        self._acceptor.join(_STOP_PATIENCE)
        self._listener.close()
        with self._lock:
            remaining = dict(self._open)
        for connection in remaining:
            _shut(connection, socket.SHUT_RD)  # ends the reading; an answer still goes out
        deadline = time.monotonic() + _STOP_PATIENCE
        for connection, thread in remaining.items():
            thread.join(max(0.0, deadline - time.monotonic()))
            _shut(connection, socket.SHUT_RDWR)

    def _accept(self, listener: socket.socket) -> None:
        while not self._stopping.is_set():
            try:
                connection, address = listener.accept()
            except OSError as error:
                if not self._stopping.wait(_ACCEPT_PAUSE):
                    _note(logging.ERROR, "mllp_accept", "-", error.strerror or "accept failed")
                continue
            self._welcome(connection, str(address[0]))

    def _welcome(self, connection: socket.socket, peer: str) -> None:
        thread = threading.Thread(target=self._serve, args=(connection, peer), daemon=True)
        with self._lock:
            full = len(self._open) >= self._max_connections
            if not full:
                self._open[connection] = thread
        if full:
            connection.close()
            _note(logging.WARNING, "mllp_refused", peer, "too many connections")
            self._on_fault(peer, "too many connections")
            return
        try:
            thread.start()
        except RuntimeError:  # no thread to be had: this connection is lost, the door is not
            self._forget(connection, peer, logging.ERROR, "no thread")

    def _serve(self, connection: socket.socket, peer: str) -> None:
        level, reason = logging.INFO, "ended"
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            self._converse(connection, peer)
        except FramingError as error:
            level, reason = logging.WARNING, str(error.args[0])
            self._on_fault(peer, reason)
        except TimeoutError:
            level, reason = logging.WARNING, "too slow"
            self._on_fault(peer, reason)
        except OSError as error:
            level, reason = logging.WARNING, error.strerror or type(error).__name__
        except Exception as error:  # noqa: BLE001 the door of a process: logged, the connection is closed
            level, reason = logging.ERROR, f"handler failed: {_origin(error)}"
        finally:
            self._forget(connection, peer, level, reason)

    def _forget(self, connection: socket.socket, peer: str, level: int, reason: str) -> None:
        with self._lock:
            del self._open[connection]
        connection.close()
        _note(level, "mllp_closed", peer, reason)

    def _converse(self, connection: socket.socket, peer: str) -> None:
        deframer = Deframer(self._max_message_bytes)
        window = bytearray(_RECEIVE_BYTES)
        view = memoryview(window)
        begun = 0.0
        while True:
            connection.settimeout(self._patience(deframer, begun))
            received = connection.recv_into(view)
            if not received:
                if deframer.inside:
                    raise FramingError("the sender vanished within a message")
                return
            was_inside = deframer.inside
            messages = self._feed(deframer, view[:received], connection, peer)
            for message in messages:
                self._answer(connection, message, peer)
            if deframer.inside and (messages or not was_inside):
                begun = time.monotonic()

    def _feed(
        self, deframer: Deframer, piece: memoryview, connection: socket.socket, peer: str
    ) -> list[bytes]:
        """Whole messages that stand before a fault are handled before the fault is raised."""
        try:
            return deframer.feed(piece)
        except FramingError as error:
            for message in error.args[1]:
                self._answer(connection, message, peer)
            raise

    def _patience(self, deframer: Deframer, begun: float) -> float:
        """Seconds to wait for more bytes. Raises TimeoutError when the message under way has had its time."""
        if not deframer.inside:
            return self._idle_timeout
        left = begun + self._message_timeout - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return min(self._idle_timeout, left)

    def _answer(self, connection: socket.socket, message: bytes, peer: str) -> None:
        answer = self._handle(message, peer)
        if answer is not None:
            connection.settimeout(self._message_timeout)
            connection.sendall(START + answer + END)


def _shut(connection: socket.socket, how: int) -> None:
    try:
        connection.shutdown(how)
    except OSError as error:
        _log.debug("mllp: already closed: %s", error.strerror)


def _note(level: int, action: str, peer: str, reason: str) -> None:
    extra = {"action": action, "peer": peer, "reason": reason}
    _log.log(level, "%s %s: %s", action, peer, reason, extra=extra)


def _origin(error: BaseException) -> str:
    """Type and place of an exception, without its text, which may quote a message."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} at {frame.filename.rpartition('/')[2]}:{frame.lineno}"
