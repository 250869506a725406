"""A look at a TLS door of our own: it has to show the certificate that is configured and prove its key, then we leave.

A client certificate that such a door accepts is not ours to have, so nothing can be asked of it. In TLS 1.3 the proof
of the server comes before anything that identifies the client (RFC 8446, 2): leaving then is no refused peer.
"""

from __future__ import annotations

import errno
import socket
import ssl
import time
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from drimbox.adapters.probes_net import own_address
from healthcheck.probe import Outcome, Status

_PIECE = 65536


def tls_begins(host: str, port: int, certificate: Path, seconds: float, command: str) -> Outcome:
    """The first half of a TLS handshake with our own door. `certificate`: PEM, what it must show. Milliseconds.

    `command`: what starts that door.
    """
    begun = time.monotonic()
    try:
        context = _trusting(certificate)
    except (OSError, ValueError):  # the words of the latter would tell of its content
        return Outcome(
            Status.FAIL, f"{certificate.name} cannot be read as a certificate: drimbox config check"
        )
    try:
        with socket.create_connection((own_address(host), port), timeout=seconds) as connection:
            _greet(connection, context, begun + seconds)
    except TimeoutError:
        return Outcome(Status.FAIL, f"the door on port {port} does not answer: restart it ({command})")
    except ssl.SSLCertVerificationError as error:
        words = f"the door on port {port} does not show {certificate.name}, or it has ended: {error.verify_message}"
        return Outcome(Status.FAIL, words)
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


def _greet(connection: socket.socket, context: ssl.SSLContext, deadline: float) -> None:
    """Speak until the server has proved that it has the key of its certificate. Raises OSError."""
    said, heard = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = context.wrap_bio(heard, said)
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


def _trusting(certificate: Path) -> ssl.SSLContext:
    """Believes the first certificate of that file alone, whoever issued it, and tells nothing of us.

    Its name is not compared: the door is called by its own address. Raises OSError, ValueError.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    leaf = x509.load_pem_x509_certificate(certificate.read_bytes())
    context.load_verify_locations(cadata=leaf.public_bytes(Encoding.DER))
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context
