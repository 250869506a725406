"""Audit messages to an audit record repository: syslog over TLS (RFC 5425, PS3.15 A.6, IHE ITI-20).

Syslog has no acknowledgement. Ours is the end of the connection: after the last message we send close_notify and wait
for the receiver's, which it must send (RFC 5425 4.4) once it has read everything before ours. Whatever else happens,
an alert, a reset, silence, or an end without a word, nothing counts as delivered, and the caller sends it all again:
a receiver that refuses our certificate in TLS 1.3 lets us send first, and ends like one that took everything.

TLS runs over buffers of our own. The `unwrap` of a socket also takes a fatal alert for the answer to close_notify.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from drimbox.adapters.https import mutual_tls
from drimbox.domain.syslog_message import NotDelivered, framed
from drimbox.flow.ports import Clock

_PIECE = 64 * 1024


@dataclass(frozen=True, slots=True)
class SyslogEndpoint:
    """Where and as whom. `authority`: of the receiver's certificate, which must name `host`; paths are PEM files.

    `certificate`, `key`: ours, both or none. Seconds to connect (handshake included), and for everything after.
    """

    host: str
    port: int
    authority: Path
    certificate: Path | None = None
    key: Path | None = None
    connect_timeout: float = 10.0
    answer_timeout: float = 30.0
    passphrase: Path | None = None


class SyslogTls:
    """One connection per delivery; holds nothing in between."""

    def __init__(self, endpoint: SyslogEndpoint, clock: Clock) -> None:
        self._endpoint = endpoint
        self._clock = clock

    def deliver(self, messages: Sequence[bytes]) -> None:
        """Send all, in order, and wait for the receiver to have read them. Raises `NotDelivered`."""
        endpoint = self._endpoint
        try:
            context = self._context()
            address = (endpoint.host, endpoint.port)
            with socket.create_connection(address, timeout=endpoint.connect_timeout) as plain:
                line = _Line(plain, context, endpoint.host)
                line.shake_hands(time.monotonic() + endpoint.connect_timeout)
                deadline = time.monotonic() + endpoint.answer_timeout
                try:
                    line.send(messages, deadline)
                except ConnectionError:  # met while writing: the alert that explains it may have come before
                    line.hear_end(deadline)
                    raise
        except TimeoutError as error:
            raise NotDelivered("no answer in time") from error
        except (
            OSError,
            ValueError,
        ) as error:  # ssl.SSLError is an OSError; ValueError: a host that is no name
            raise NotDelivered(_words(error)) from error

    def _context(self) -> ssl.SSLContext:
        """TLS 1.2 at least, the receiver's chain and name verified."""
        endpoint = self._endpoint
        if endpoint.certificate is not None and endpoint.key is not None:
            return mutual_tls(
                endpoint.authority,
                endpoint.certificate,
                endpoint.key,
                now=self._clock(),
                passphrase=endpoint.passphrase,
                setting="audit.certificate",
            )
        context = ssl.create_default_context(cafile=endpoint.authority)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context


class _Line:
    """TLS over a connected socket; every step has a deadline (monotonic seconds)."""

    def __init__(self, plain: socket.socket, context: ssl.SSLContext, host: str) -> None:
        self._plain = plain
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)

    def shake_hands(self, deadline: float) -> None:
        """Until our side of the handshake is done."""
        while not self._step(self._tls.do_handshake):
            self._flush(deadline)
            self._receive(deadline)
        self._flush(deadline)

    def send(self, messages: Sequence[bytes], deadline: float) -> None:
        """Send the messages and close_notify; return when the receiver's close_notify has come."""
        for message in messages:
            self._tls.write(framed(message))
            if self._outgoing.pending >= _PIECE:
                self._flush(deadline)
        self._step(self._tls.unwrap)  # nothing was received yet: this only writes close_notify
        self._flush(deadline)
        self.hear_end(deadline)

    def hear_end(self, deadline: float) -> None:
        """Until close_notify. Raises `ssl.SSLError` for an alert, `ConnectionError` for a line that broke."""
        while not self._has_ended():
            self._receive(deadline)

    def _has_ended(self) -> bool:
        """Whether close_notify came. A fatal alert, or an end without it, raises SSLError; data `NotDelivered`."""
        try:
            if not self._tls.read(_PIECE):
                return True
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLZeroReturnError:
            return True
        raise NotDelivered("the receiver speaks: syslog has no answers (RFC 5425)")

    @staticmethod
    def _step(step: Callable[[], object]) -> bool:
        """Whether it is done; not yet while it wants to hear from the peer."""
        try:
            step()
        except ssl.SSLWantReadError:
            return False
        return True

    def _flush(self, deadline: float) -> None:
        rest = memoryview(self._outgoing.read())
        while rest:
            self._plain.settimeout(_left(deadline))
            rest = rest[self._plain.send(rest[:_PIECE]) :]

    def _receive(self, deadline: float) -> None:
        self._plain.settimeout(_left(deadline))
        received = self._plain.recv(_PIECE)
        if received:
            self._incoming.write(received)
        else:
            self._incoming.write_eof()


def _left(deadline: float) -> float:
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError
    return seconds


def _words(error: Exception) -> str:
    """What the system or the TLS library says; never what was sent."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate of the receiver is not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLEOFError):
        return "the receiver ended the connection without confirming (close_notify, RFC 5425 4.4)"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {getattr(error, 'reason', None) or error.strerror}"
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return type(error).__name__
