"""The department's RIS: sends one HL7v2 message by MLLP, also over mutual TLS, and reads the acknowledgement."""

from __future__ import annotations

import socket
import ssl
import time
from dataclasses import dataclass
from pathlib import Path

START, END = b"\x0b", b"\x1c\x0d"
LONGEST_ACKNOWLEDGEMENT = 1024 * 1024


class NoAcknowledgementError(Exception):
    """The connection ended, or the time was over, before a whole acknowledgement came."""


@dataclass(frozen=True)
class ClientTls:
    """PEM files of the sender: whom it trusts; its certificate and key, None to show none."""

    authority: Path
    certificate: Path | None = None
    key: Path | None = None

    def context(self) -> ssl.SSLContext:
        """TLS 1.2 at least; the server's name is checked. Raises OSError when a file cannot be used."""
        context = ssl.create_default_context(cafile=self.authority)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.certificate is not None:
            context.load_cert_chain(self.certificate, self.key)
        return context


def send_hl7(
    message: bytes, host: str, port: int, timeout: float = 30, *, tls: ClientTls | None = None
) -> bytes:
    """Send `message` (segments ended by CR, no frame) and return the acknowledgement without its frame.

    `timeout`: seconds for everything; `tls`: over TLS with these files. Raises `NoAcknowledgementError`, OSError
    when nobody listens or the other side refuses us.
    """
    deadline = time.monotonic() + timeout
    with socket.create_connection((host, port), timeout=timeout) as plain:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is None:
            return _exchange(plain, message, deadline)
        with tls.context().wrap_socket(plain, server_hostname=host) as secured:
            return _exchange(secured, message, deadline)


def _exchange(connection: socket.socket, message: bytes, deadline: float) -> bytes:
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
