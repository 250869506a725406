"""MLLP over mutual TLS: the handshake, and in plain words why one failed (IHE ATNA ITI-19, hl7-mss 1.10).

OpenSSL judges chain, validity and purpose of the client certificate. Its revocation is not looked up.
"""

from __future__ import annotations

import hashlib
import logging
import socket
import ssl
from collections.abc import Mapping
from pathlib import Path

from drimbox.adapters.key_files import present
from drimbox.entrypoints.mllp_admission import PeerLeft, PeerRefused

_HANDSHAKE = b"\x16"  # ContentType of a TLS record (RFC 8446, 5.1)
_MLLP_START = b"\x0b"
_UNKNOWN_AUTHORITY = "client certificate of an unknown authority"
# Verification results of OpenSSL (x509_vfy.h, X509_V_ERR_...)
_CERTIFICATE_FAULTS: Mapping[int, str] = {
    2: _UNKNOWN_AUTHORITY,  # UNABLE_TO_GET_ISSUER_CERT
    7: "client certificate with a wrong signature",  # CERT_SIGNATURE_FAILURE
    9: "client certificate not valid yet",  # CERT_NOT_YET_VALID
    10: "client certificate expired",  # CERT_HAS_EXPIRED
    18: _UNKNOWN_AUTHORITY,  # DEPTH_ZERO_SELF_SIGNED_CERT
    19: _UNKNOWN_AUTHORITY,  # SELF_SIGNED_CERT_IN_CHAIN
    20: _UNKNOWN_AUTHORITY,  # UNABLE_TO_GET_ISSUER_CERT_LOCALLY
    21: _UNKNOWN_AUTHORITY,  # UNABLE_TO_VERIFY_LEAF_SIGNATURE
    26: "client certificate not made for client authentication",  # INVALID_PURPOSE
}
# Reasons of OpenSSL (sslerr.h, SSL_R_...)
_HANDSHAKE_FAULTS: Mapping[str, str] = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "no client certificate",
    "UNSUPPORTED_PROTOCOL": "TLS older than 1.2",
    "NO_SHARED_CIPHER": "no cipher suite in common",
    "TLSV1_ALERT_UNKNOWN_CA": "the sender does not know the authority of our certificate",
    "SSLV3_ALERT_BAD_CERTIFICATE": "the sender does not accept our certificate",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "the sender does not accept our certificate",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "the sender says that our certificate has expired",
}

_log = logging.getLogger(__name__)


def server_context(
    certificate: Path, key: Path, client_authority: Path, passphrase: Path | None = None
) -> ssl.SSLContext:
    """TLS 1.2 at least, a client certificate of `client_authority` required.

    `passphrase`: the file of that of the key. Raises OSError (`UnusableCredential` is one).
    """
    context = _demanding()
    context.load_verify_locations(client_authority)
    present(context, certificate, key, passphrase)
    return context


def for_one_connection(context: ssl.SSLContext) -> ssl.SSLContext:
    """A context that becomes `context`, of `server_context`, in the handshake.

    One for each connection: no session of an earlier one can be resumed, which would leave the client certificate
    unverified, and no file is read for it.
    """

    def become(connection: ssl.SSLSocket | ssl.SSLObject, _name: str | None, _shell: ssl.SSLContext) -> None:
        connection.context = context

    shell = _demanding()
    shell.sni_callback = become  # called for every handshake, with or without a name
    return shell


def _demanding() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET
    # MLLP frames say themselves whether they are whole: an end without close_notify is an end, not a fault
    context.options |= ssl.OP_IGNORE_UNEXPECTED_EOF
    context.num_tickets = 0
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def speaks(connection: socket.socket, timeout: float) -> bool:
    """Wait for the first byte, which stays unread: False when the peer leaves without a word.

    Raises `PeerRefused` when that byte does not begin a TLS handshake, or does not come in time.
    """
    connection.settimeout(timeout)
    try:
        first = connection.recv(1, socket.MSG_PEEK)
    except TimeoutError:
        raise PeerRefused("no TLS handshake in time") from None
    if first == _MLLP_START:
        raise PeerRefused("MLLP in clear on the TLS port")
    if first and first != _HANDSHAKE:
        raise PeerRefused("not TLS")
    return bool(first)


def shake_hands(connection: ssl.SSLSocket, timeout: float) -> str:
    """SHA-256 of the DER of the verified client certificate. Raises `PeerRefused`; `timeout`: seconds for all."""
    connection.settimeout(timeout)
    try:
        connection.do_handshake()
    except TimeoutError:
        raise PeerRefused("no TLS handshake in time") from None
    except (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError) as error:
        raise PeerLeft("the sender left during the TLS handshake") from error
    except ssl.SSLError as error:
        raise PeerRefused(_reason(error)) from error
    certificate = connection.getpeercert(binary_form=True)
    if certificate is None:
        raise PeerRefused("no client certificate")
    return hashlib.sha256(certificate).hexdigest()


def take_leave(connection: ssl.SSLSocket) -> None:
    """Send close_notify without waiting for that of the peer."""
    try:
        connection.settimeout(0)
        connection.unwrap()
    except (OSError, ValueError) as error:
        _log.debug("mllps: left without the peer's close_notify: %s", type(error).__name__)


def _reason(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        fault = f"client certificate not accepted: {error.verify_message}"
        return _CERTIFICATE_FAULTS.get(error.verify_code, fault)
    return _HANDSHAKE_FAULTS.get(error.reason, f"TLS handshake failed: {error.reason}")
