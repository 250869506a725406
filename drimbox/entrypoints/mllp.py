"""The MLLP doors: frames 0x0B ... 0x1C 0x0D on TCP or on mutual TLS, one thread per connection (hl7-mss 1.10).

A door knows who may come in, framing, limits and time; what a message means and its answer are the handler's.
Nothing that was not framed whole is handled. Logs carry addresses and reasons, never content.
"""

from __future__ import annotations

import logging
import socket
import ssl
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass

from drimbox.adapters.held import words
from drimbox.domain.senders import SenderProfile
from drimbox.entrypoints.mllp_admission import Peer, PeerLeft, PeerRefused, Places, check_address, let_in
from drimbox.entrypoints.mllp_framing import END, START, Deframer, FramingError
from drimbox.entrypoints.mllp_look import LOOKS, await_leaving, is_of_this_machine, take_place_to_look
from drimbox.entrypoints.mllp_refusals import Refusals
from drimbox.entrypoints.mllp_tls import shake_hands, speaks, take_leave

_RECEIVE_BYTES = 65_536
_STOP_PATIENCE = 10.0  # seconds for the answers under way when the door closes
_BACKLOG = 128
_ACCEPT_PAUSE = 0.2  # seconds, when the system has no descriptor to give

_log = logging.getLogger(__name__)

Handler = Callable[[bytes, Peer], bytes | None]


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one connection, in bytes and seconds.

    `idle_timeout`: of silence; `message_timeout`: from the first to the last byte of a message, or of an answer;
    `handshake_timeout`: from the connection to the end of the TLS handshake.
    """

    max_message_bytes: int = 64 * 1024 * 1024
    idle_timeout: float = 300.0
    message_timeout: float = 120.0
    handshake_timeout: float = 10.0


@dataclass(eq=False, slots=True)
class _Line:
    """One connection. `socket` becomes the TLS one when there is TLS; `refusal`: why it is refused if it speaks."""

    socket: socket.socket
    address: str
    refusal: PeerRefused | None = None


class MllpDoor:
    """A blocking, threaded MLLP server; with `tls`, MLLP over mutual TLS.

    `handle(message, peer)` returns the answer without its frame, or None for none. It is called in the order of
    arrival on each connection, from many threads at once. When it raises, the connection is closed without an
    answer, so that the sender keeps its message. `senders`: who may come in; an address that none of them names
    is closed before anything is read. `places` and `refusals` may be shared by several doors; every connection
    that was refused, or closed for what it sent, is noted in `refusals`. `tls` makes the context of one connection.
    A connection of this very machine that leaves without a word is a look (`mllp_look.py`): neither noted nor told.
    """

    def __init__(
        self,
        host: str,
        port: int,
        handle: Handler,
        senders: tuple[SenderProfile, ...],
        *,
        places: Places,
        refusals: Refusals,
        limits: Limits = Limits(),
        tls: Callable[[], ssl.SSLContext] | None = None,
    ) -> None:
        self._address = (host, port)
        self._handle = handle
        self._senders = senders
        self._places, self._refusals, self._limits, self._tls = places, refusals, limits, tls
        self._listener: socket.socket | None = None
        self._acceptor: threading.Thread | None = None
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._open: dict[_Line, threading.Thread] = {}
        self._looks = Places(LOOKS)

    @property
    def name(self) -> str:
        """How logs and trace name this door."""
        return "mllps" if self._tls else "mllp"

    @property
    def port(self) -> int:
        """The port that is listened on; the one asked for before `start`."""
        return int(self._listener.getsockname()[1]) if self._listener else self._address[1]

    def start(self) -> None:
        """Listen. Raises OSError when the address cannot be bound or the TLS files cannot be used."""
        if self._tls is not None:
            self._tls()
        family = socket.AF_INET6 if ":" in self._address[0] else socket.AF_INET
        self._listener = socket.create_server(self._address, family=family, backlog=_BACKLOG)
        self._acceptor = threading.Thread(
            target=self._accept, args=(self._listener,), name=f"{self.name}-accept", daemon=True
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
        self._listener = None
        with self._lock:
            remaining = dict(self._open)
        for line in remaining:
            _shut(line.socket, socket.SHUT_RD)  # ends the reading; an answer still goes out
        deadline = time.monotonic() + _STOP_PATIENCE
        for line, thread in remaining.items():
            thread.join(max(0.0, deadline - time.monotonic()))
            _shut(line.socket, socket.SHUT_RDWR)

    def _accept(self, listener: socket.socket) -> None:
        while not self._stopping.is_set():
            try:
                connection, address = listener.accept()
            except OSError as error:
                if not self._stopping.wait(_ACCEPT_PAUSE):
                    self._say(logging.ERROR, "mllp_accept", "-", error.strerror or "accept failed")
                continue
            self._welcome(_Line(connection, str(address[0])))

    def _welcome(self, line: _Line) -> None:
        """Judge the address, then leave the connection to a thread of its own."""
        try:
            self._admit(line)
        except PeerRefused as refusal:
            self._refusals.note(self.name, line.address, str(refusal))
            line.socket.close()
            return
        thread = threading.Thread(target=self._serve, args=(line,), daemon=True)
        with self._lock:
            self._open[line] = thread
        try:
            thread.start()
        except RuntimeError:  # no thread to be had: this connection is lost, the door is not
            self._forget(line, logging.ERROR, "no thread")

    def _admit(self, line: _Line) -> None:
        """Take a place. Who is refused and is of this machine may show, in a place for looks, that it only looks."""
        try:
            check_address(self._senders, line.address)
            if self._tls is None:
                let_in(self._senders, line.address)
            self._places.take(line.address)
        except PeerRefused as refusal:
            if not is_of_this_machine(line.socket):
                raise
            take_place_to_look(self._looks, line.address, refusal)
            line.refusal = refusal

    def _serve(self, line: _Line) -> None:
        level, reason = logging.INFO, "ended"
        try:
            line.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            line.socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            peer = self._identify(line)
            if peer is None or not self._converse(line.socket, peer):
                level = logging.DEBUG if is_of_this_machine(line.socket) else level
        except (PeerRefused, FramingError, TimeoutError) as error:
            reason = self._refuse(line, error)
        except OSError as error:
            level, reason = logging.WARNING, error.strerror or type(error).__name__
        except Exception as error:  # noqa: BLE001 the door of a process: logged, the connection is closed
            level, reason = logging.ERROR, f"handler failed: {origin(error)}"
        finally:
            self._forget(line, level, reason)

    def _refuse(self, line: _Line, error: Exception) -> str:
        """Note it, unless it is we who are leaving."""
        if isinstance(error, PeerLeft) and self._stopping.is_set():
            return "the door closed"
        reason = "too slow" if isinstance(error, TimeoutError) else str(error.args[0])
        self._refusals.note(self.name, line.address, reason)
        return "refused"

    def _forget(self, line: _Line, level: int, reason: str) -> None:
        if isinstance(line.socket, ssl.SSLSocket):
            take_leave(line.socket)
        line.socket.close()
        with self._lock:
            del self._open[line]
        (self._looks if line.refusal else self._places).leave(line.address)
        self._say(logging.DEBUG if reason == "refused" else level, "mllp_closed", line.address, reason)

    def _identify(self, line: _Line) -> Peer | None:
        """Who is there; None when it left without a word. Raises `PeerRefused`."""
        if line.refusal is not None:
            await_leaving(line.socket, line.refusal)
            return None
        if self._tls is None:
            return let_in(self._senders, line.address)
        deadline = time.monotonic() + self._limits.handshake_timeout
        if not speaks(line.socket, self._limits.handshake_timeout):
            return None
        secured = self._context(self._tls).wrap_socket(
            line.socket, server_side=True, do_handshake_on_connect=False
        )
        line.socket = secured
        if self._stopping.is_set():  # `stop` may have shut the socket that this one replaces
            return None
        digest = shake_hands(secured, max(deadline - time.monotonic(), 0.001))
        return let_in(self._senders, line.address, digest)

    def _context(self, make: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
        try:
            return make()
        except OSError as error:
            raise PeerRefused(f"our TLS files cannot be used: {words(error)}") from error

    def _converse(self, connection: socket.socket, peer: Peer) -> bool:
        """Until it leaves; whether it said anything."""
        spoke = False
        deframer = Deframer(self._limits.max_message_bytes)
        window = bytearray(_RECEIVE_BYTES)
        view = memoryview(window)
        begun = 0.0
        while True:
            connection.settimeout(self._patience(deframer, begun))
            received = connection.recv_into(view)
            if not received:
                if deframer.inside:
                    raise PeerLeft("the sender vanished within a message")
                return spoke
            spoke, was_inside = True, deframer.inside
            messages = self._feed(deframer, view[:received], connection, peer)
            for message in messages:
                self._answer(connection, message, peer)
            if deframer.inside and (messages or not was_inside):
                begun = time.monotonic()

    def _feed(
        self, deframer: Deframer, piece: memoryview, connection: socket.socket, peer: Peer
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
            return self._limits.idle_timeout
        left = begun + self._limits.message_timeout - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return min(self._limits.idle_timeout, left)

    def _answer(self, connection: socket.socket, message: bytes, peer: Peer) -> None:
        answer = self._handle(message, peer)
        if answer is not None:
            connection.settimeout(self._limits.message_timeout)
            connection.sendall(START + answer + END)

    def _say(self, level: int, action: str, address: str, reason: str) -> None:
        extra = {"action": action, "door": self.name, "peer": address, "reason": reason}
        _log.log(level, "%s %s: %s", action, address, reason, extra=extra)


def _shut(connection: socket.socket, how: int) -> None:
    """Of the TCP connection, also below TLS: `SSLSocket.shutdown` would let the answer go out in clear."""
    try:
        socket.socket.shutdown(connection, how)
    except OSError as error:
        _log.debug("mllp: already closed: %s", error.strerror)


def origin(error: BaseException) -> str:
    """Type and place of an exception, without its text, which may quote a message."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} at {frame.filename.rpartition('/')[2]}:{frame.lineno}"
