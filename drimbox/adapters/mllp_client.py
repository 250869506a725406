"""Business acknowledgements to the senders' own MLLP doors: one message, one answer, one connection (hl7-mss 1.10).

Plain TCP: the department's own network. There is no TLS here, hence nothing that names a patient may be sent through
this door (`domain/zam.py` sends none). Limits on everything: time to connect, time for the whole exchange, size.
"""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass

from drimbox.domain.zam import NotAcknowledged

START, END = b"\x0b", b"\x1c\r"
_RECEIVE_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class MllpClient:
    """Seconds to connect (per address of the host), seconds from then to the last byte, bytes of the answer."""

    connect_timeout: float = 10.0
    answer_timeout: float = 30.0
    max_answer_bytes: int = 1024 * 1024

    def exchange(self, address: tuple[str, int], message: bytes) -> bytes:
        """Send `message`, return the answer, both without frame.

        Raises `NotAcknowledged` for whatever keeps a whole answer from coming; ValueError for a message that holds a
        frame character.
        """
        if START in message or END[:1] in message:
            raise ValueError("a message may not hold a frame character")
        try:
            with socket.create_connection(address, timeout=self.connect_timeout) as connection:
                return self._converse(connection, message)
        except TimeoutError as error:
            raise NotAcknowledged("no answer in time") from error
        except OSError as error:
            raise NotAcknowledged(error.strerror or type(error).__name__) from error

    def _converse(self, connection: socket.socket, message: bytes) -> bytes:
        deadline = time.monotonic() + self.answer_timeout
        connection.settimeout(self.answer_timeout)  # for all of it, not for each piece
        connection.sendall(START + message + END)
        received = bytearray()
        while (end := received.find(END)) < 0:
            if len(received) > self.max_answer_bytes:
                raise NotAcknowledged(f"an answer of over {self.max_answer_bytes} bytes")
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            connection.settimeout(left)
            piece = connection.recv(_RECEIVE_BYTES)
            if not piece:
                raise NotAcknowledged("the connection ended before a whole answer")
            received += piece
        return _unframed(bytes(received[:end]))


def _unframed(answer: bytes) -> bytes:
    """Line ends before the start block are tolerated, as at our own door."""
    content = answer.lstrip(b"\r\n")
    if not content.startswith(START):
        raise NotAcknowledged("the answer is not framed")
    return content[len(START) :]
