"""The department's RIS: sends one HL7v2 message by MLLP and reads the acknowledgement."""

from __future__ import annotations

import socket
import time

START, END = b"\x0b", b"\x1c\x0d"
LONGEST_ACKNOWLEDGEMENT = 1024 * 1024


class NoAcknowledgementError(Exception):
    """The connection ended, or the time was over, before a whole acknowledgement came."""


def send_hl7(message: bytes, host: str, port: int, timeout: float = 30) -> bytes:
    """Send `message` (segments ended by CR, no frame) and return the acknowledgement without its frame.

    `timeout`: seconds for everything. Raises `NoAcknowledgementError`, OSError when nobody listens.
    """
    deadline = time.monotonic() + timeout
    with socket.create_connection((host, port), timeout=timeout) as connection:
        connection.sendall(START + message + END)
        return _read_frame(connection, deadline)


def _read_frame(connection: socket.socket, deadline: float) -> bytes:
    received = bytearray()
    while (end := received.find(END)) < 0:
        connection.settimeout(max(deadline - time.monotonic(), 0.001))
        try:
            block = connection.recv(65536)
        except TimeoutError as error:
            raise NoAcknowledgementError("no acknowledgement in time") from error
        if not block or len(received) > LONGEST_ACKNOWLEDGEMENT:
            raise NoAcknowledgementError("the connection ended before an acknowledgement")
        received += block
    if not received.startswith(START):
        raise NoAcknowledgementError("the answer is not an MLLP frame")
    return bytes(received[1:end])
