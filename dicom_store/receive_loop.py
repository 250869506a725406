"""The bytes of one connection: read as they come, PDU by PDU, each timed; sent at once.

Blocking calls with the kernel's own time limits: one system call for each read, no polling. Short reads of small
pieces go through a small buffer that reads ahead; long values straight to where they belong.
"""

from __future__ import annotations

import select
import socket
import ssl
import struct
import time

from dicom_store.upper_layer import PDU_HEADER, PDV_HEADER

READ_AHEAD_BYTES = 16 * 1024
DIRECT_BYTES = 4096  # a longer rest of a value is read without the buffer
_QUICKACK = getattr(socket, "TCP_QUICKACK", None)  # Linux
_TIME = struct.Struct("@ll")  # struct timeval


class ConnectionEnded(Exception):
    """The peer closed or reset the connection (Evt17 of PS3.8 9.2)."""


class TooSlow(Exception):
    """The time for a PDU, or for silence, is over."""


class Wire:
    """One connection. `timeout`: seconds for each PDU however it drips, for silence, and for each send."""

    def __init__(self, connection: socket.socket, timeout: float) -> None:
        self._connection = connection
        self._timeout = timeout
        self._slack = min(1.0, timeout / 8)  # the kernel's limit may be later than the deadline by this
        self._limit = 0.0  # the kernel's, in seconds
        self._deadline = time.monotonic() + timeout
        self._buffer = bytearray(READ_AHEAD_BYTES)
        self._view = memoryview(self._buffer)
        self._at = self._end = 0  # what was read ahead
        self._fresh = True  # the deadline is a new one
        self._drained = False  # the last read left nothing in the kernel
        self._silence = False  # between messages: the answer carries the acknowledgement
        self._secure = isinstance(connection, ssl.SSLSocket)
        self._tcp = connection.family != socket.AF_UNIX
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)
        self.total = 0  # bytes read so far
        if self._tcp:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._bound_by(timeout)

    def header(self, silence: bool = False, seconds: float | None = None) -> tuple[int, int]:
        """Type and length of the next PDU. `seconds`: for it, instead of the usual.

        `silence`: no message has begun, so nobody waits for our acknowledgement. Raises `TooSlow`, `ConnectionEnded`.
        """
        limit = self._timeout if seconds is None else seconds
        self._until(limit)
        if self._at == self._end and seconds is None:
            self._silence = silence
            self._require(1)
            self._silence = False
            self._until(limit)
        self._require(PDU_HEADER.size)
        kind, length = PDU_HEADER.unpack_from(self._buffer, self._at)
        self._at += PDU_HEADER.size
        return kind, length

    def pdv_header(self) -> tuple[int, int, int]:
        """Length, context and control of the next PDV of a P-DATA-TF."""
        self._require(PDV_HEADER.size)
        length, context_id, control = PDV_HEADER.unpack_from(self._buffer, self._at)
        self._at += PDV_HEADER.size
        return length, context_id, control

    def take(self, size: int) -> bytearray:
        """The next `size` bytes; memory only for what has come."""
        taken = bytearray()
        while len(taken) < size:
            self._require(1)
            count = min(size - len(taken), self._end - self._at)
            taken += self._view[self._at : self._at + count]
            self._at += count
        return taken

    def into(self, target: memoryview) -> None:
        """Fill `target` with the next bytes."""
        size = len(target)
        filled = min(size, self._end - self._at)
        target[:filled] = self._view[self._at : self._at + filled]
        self._at += filled
        while filled < size:
            if size - filled >= DIRECT_BYTES:
                filled += self._receive(target[filled:])
            else:
                self._require(size - filled)
                target[filled:] = self._view[self._at : self._at + size - filled]
                self._at += size - filled
                filled = size

    def skip(self, size: int) -> None:
        """Read `size` bytes and forget them."""
        while size:
            self._require(1)
            count = min(size, self._end - self._at)
            self._at += count
            size -= count

    def again(self) -> None:
        """The time until now was ours (a slow disk): the rest of the PDU has its whole time from here."""
        self._until(self._timeout)

    def ahead(self) -> int | None:
        """Type of the PDU that has begun to come already; None while there is silence, or the end."""
        if self._at == self._end:
            if self._secure or not self._poll.poll(0):
                return None
            try:
                self._require(1)
            except ConnectionEnded:
                return None  # the next read or send says so again
        return self._buffer[self._at]

    def wait(self, wake: int) -> bool:
        """Wait for bytes of the peer or on the file descriptor `wake`; whether it is `wake`. Raises `TooSlow`."""
        if self._at < self._end or (
            isinstance(self._connection, ssl.SSLSocket) and self._connection.pending()
        ):
            return False
        both = select.poll()
        both.register(self._connection, select.POLLIN)
        both.register(wake, select.POLLIN)
        ready = both.poll(self._timeout * 1000)
        if not ready:
            raise TooSlow
        return any(descriptor == wake for descriptor, _ in ready)

    def send(self, data: bytes) -> None:
        """Send all of `data` in one call. Raises `TooSlow`, `ConnectionEnded`."""
        try:
            self._connection.sendall(data)
        except (BlockingIOError, TimeoutError) as error:
            raise TooSlow from error
        except OSError as error:
            raise ConnectionEnded from error

    def drain(self, seconds: float) -> None:
        """Read and forget until the peer closes, for `seconds` at most: closing first might destroy our last PDU."""
        self._at = self._end = 0
        self._until(seconds)
        try:
            while True:
                self._fresh = True  # the deadline counts however fast it comes
                self._receive(self._view)
        except (ConnectionEnded, TooSlow):
            return  # both are the end that was waited for

    def _require(self, count: int) -> None:
        """Have `count` bytes read ahead."""
        if self._at == self._end:
            self._at = self._end = 0
        elif self._at + count > READ_AHEAD_BYTES:
            rest = self._buffer[self._at : self._end]
            self._buffer[: len(rest)] = rest
            self._at, self._end = 0, len(rest)
        while self._end - self._at < count:
            self._end += self._receive(self._view[self._end :])

    def _receive(self, target: memoryview) -> int:
        if self._drained or self._fresh:
            self._before_waiting()
        try:
            count = self._connection.recv_into(target)
        except (BlockingIOError, TimeoutError) as error:
            raise TooSlow from error
        except OSError as error:
            raise ConnectionEnded from error
        if count == 0:
            raise ConnectionEnded
        self._drained = count < len(target)
        self.total += count
        return count

    def _before_waiting(self) -> None:
        """Keep the deadline, and acknowledge what came.

        Peers that leave Nagle on wait for this ACK, 40 ms each time (facts/performance.md 3.1).
        """
        remaining = self._deadline - time.monotonic()
        if remaining <= 0:
            raise TooSlow
        if not remaining <= self._limit <= remaining + 2 * self._slack:
            self._bound_by(remaining + self._slack)
        self._fresh = False
        if self._drained and self._tcp and not self._silence and _QUICKACK is not None:
            self._connection.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)

    def _until(self, seconds: float) -> None:
        self._deadline = time.monotonic() + seconds
        self._fresh = True

    def _bound_by(self, seconds: float) -> None:
        self._limit = seconds = max(seconds, 0.001)  # none at all would be for ever
        if self._secure:
            self._connection.settimeout(seconds)
            return
        self._connection.settimeout(None)
        timeval = _TIME.pack(int(seconds), int(seconds % 1 * 1_000_000))
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            self._connection.setsockopt(socket.SOL_SOCKET, option, timeval)
