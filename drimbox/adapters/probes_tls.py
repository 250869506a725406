"""A look at a TLS door of our own: it has to begin a handshake and prove its key, then we leave.

A client certificate that such a door accepts is not ours to have, so nothing can be asked of it. In TLS 1.3 the proof
of the server comes before anything that identifies the client (RFC 8446, 2): leaving then is no refused peer.
"""

from __future__ import annotations

import errno
import socket
import ssl
import time

from drimbox.adapters.probes_net import own_address
from healthcheck.probe import Outcome, Status

_PIECE = 65536


def tls_begins(host: str, port: int, seconds: float, command: str) -> Outcome:
    """The first half of a TLS handshake with our own door. `command`: what starts that door. Milliseconds."""
    begun = time.monotonic()
    try:
        with socket.create_connection((own_address(host), port), timeout=seconds) as connection:
            _greet(connection, begun + seconds)
    except TimeoutError:
        return Outcome(Status.FAIL, f"the door on port {port} does not answer: restart it ({command})")
    except ssl.SSLError as error:
        words = (
            f"no TLS at port {port}: {error.reason or type(error).__name__}; look at the log of `{command}`"
        )
        return Outcome(Status.FAIL, words)
    except ConnectionResetError:
        words = f"the door on port {port} hangs up: look at its TLS files and at the log of `{command}`"
        return Outcome(Status.FAIL, words)
    except OSError as error:
        words = f"nobody is at port {port}: {error.strerror or type(error).__name__}; start `{command}`"
        return Outcome(Status.FAIL, words)
    return Outcome(value=round((time.monotonic() - begun) * 1000, 1), unit="ms")


def _greet(connection: socket.socket, deadline: float) -> None:
    """Speak until the server has proved that it has the key of its certificate. Raises OSError."""
    said, heard = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = _anonymous().wrap_bio(heard, said)
    while True:
        try:
            return session.do_handshake()  # what it would have us say then is never sent
        except ssl.SSLWantReadError:
            connection.sendall(said.read())
        connection.settimeout(max(deadline - time.monotonic(), 0.001))
        piece = connection.recv(_PIECE)
        if not piece:
            raise ConnectionResetError(errno.ECONNRESET, "it hangs up in the handshake")
        heard.write(piece)


def _anonymous() -> ssl.SSLContext:
    """Trusts nobody and tells nothing: the certificate itself is looked at by a probe of its own."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context
