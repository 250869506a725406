"""Ask a configured eSignSanté to validate a list and to prove it (trust-and-identity 4.1, 4.4).

Only `xadesbaselinebwithproof`: the DRIM-M list is XAdES-BASELINE-B. Everything about the exchange is bounded, and
what comes back is only ever an addition to our own verification (`verdict.combine`).
"""

from __future__ import annotations

import hashlib
import http.client
import re
import socket
import ssl
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from whitelist.verdict import NoVerdict, Verdict, VerdictError, combine, read_verdict, verdict_step

__all__ = ["ESignSante", "NoVerdict", "Verdict", "VerdictError", "combine", "verdict_step"]

OPERATION = "/esignsante/v1/validation/signatures/xadesbaselinebwithproof"
MAX_ANSWER_BYTES = 64 * 1024 * 1024  # a proof embeds every authority and CRL of the service
_CHUNK = 64 * 1024
_IDENTIFIER = re.compile(r"[a-zA-Z_0-9\-]*")
_MAX_INT64 = 2**63 - 1
# 4.1: status -> (slug, sentence)
STATUSES: Mapping[int, tuple[str, str]] = {
    400: ("bad-request", "eSignSanté calls the request malformed"),
    401: ("unauthorised", "eSignSanté, or a proxy before it, wants an authentication"),
    404: ("unknown-configuration", "no such configuration, or no eSignSanté at this address"),
    500: ("internal-error", "eSignSanté failed"),
    501: ("not-supported", "eSignSanté does not support the document or the Accept header"),
    503: ("not-ready", "eSignSanté has not loaded its authorities or CRLs"),
}


@dataclass(frozen=True, slots=True)
class ESignSante:
    """One service. `base_url`: https address before `/esignsante/v1`.

    `authority`: PEM of the only authorities believed (None = those of the system); `client`: certificate and key
    (PEM) towards it; `timeout`: seconds for the whole exchange; `max_bytes`: of the answer's body.
    Raises ValueError for an address that is not https.
    """

    base_url: str
    authority: Path | None = None
    client: tuple[Path, Path] | None = None
    timeout: float = 30
    max_bytes: int = MAX_ANSWER_BYTES

    def __post_init__(self) -> None:
        place = urlsplit(self.base_url)
        plain = place.username is None and not place.query and not place.fragment
        if place.scheme != "https" or not place.hostname or not plain:
            raise ValueError("the address of eSignSanté must be https://host[:port][/prefix]")
        _ = place.port  # raises ValueError when it is none

    def validate(
        self,
        document: bytes,
        *,
        configuration_id: int,
        request_id: str,
        proof_tag: str,
        applicant_id: str,
        proof_configuration_id: int,
    ) -> Verdict:
        """The verdict on `document`. Raises `NoVerdict` when there is none, ValueError for identifiers that the
        service would refuse (4.1); nothing is sent then.
        """
        numbers = {"idVerifSignConf": configuration_id, "idProofConf": proof_configuration_id}
        texts = {"requestId": request_id, "proofTag": proof_tag, "applicantId": applicant_id}
        _require(numbers, texts)
        boundary, body = multipart({**{n: str(v) for n, v in numbers.items()}, **texts}, document)
        status, content_type, answer = self._post(boundary, body)
        if status != 200:
            raise NoVerdict(*STATUSES.get(status, ("unexpected-status", f"HTTP {status}")))
        if content_type.partition(";")[0].strip().lower() != "application/json":
            raise NoVerdict("malformed-answer", "the answer is no application/json")
        return read_verdict(answer, document=document, request_id=request_id)

    def _post(self, boundary: str, body: bytes) -> tuple[int, str, bytes]:
        place = urlsplit(self.base_url)
        connection = _Connection(place, self._context(), self.timeout)
        headers = {
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "Connection": "close",
            "Content-Type": f"multipart/form-data; boundary={boundary}",
            "User-Agent": "drimbox-whitelist",
        }
        try:
            connection.request("POST", place.path.rstrip("/") + OPERATION, body, headers)
            with connection.getresponse() as response:
                answer = _body(response, self.max_bytes)
                connection.require_time()
                return response.status, response.headers.get("Content-Type", ""), answer
        except (OSError, http.client.HTTPException, UnicodeError, ValueError) as error:
            raise _translated(error, connection.late) from error
        finally:
            connection.hang_up()

    def _context(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=self.authority)
            if self.client is not None:
                # an encrypted key fails here instead of asking the terminal for its password
                context.load_cert_chain(*self.client, password="")
        except OSError as error:
            raise NoVerdict(
                "credentials", "the authority or our client certificate cannot be used"
            ) from error
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context


def multipart(fields: Mapping[str, str], document: bytes) -> tuple[str, bytes]:
    """Boundary and body of the form; the boundary (RFC 2046: 70 characters at most) is made of a digest of the
    document, which cannot hold it.
    """
    boundary = f"drimbox-{hashlib.sha256(document).hexdigest()[:40]}"
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{text}\r\n'.encode("ascii")
        for name, text in fields.items()
    ]
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="liste.xml"\r\n'
        "Content-Type: text/xml\r\n\r\n"
    )
    return boundary, b"".join(parts) + head.encode("ascii") + document + f"\r\n--{boundary}--\r\n".encode(
        "ascii"
    )


def _require(numbers: Mapping[str, int], texts: Mapping[str, str]) -> None:
    wrong = [name for name, number in numbers.items() if not 0 <= number <= _MAX_INT64]
    wrong += [name for name, text in texts.items() if not _IDENTIFIER.fullmatch(text)]
    if wrong:
        raise ValueError(f"not acceptable to eSignSanté: {', '.join(wrong)}")


def _body(response: http.client.HTTPResponse, max_bytes: int) -> bytes:
    received = bytearray()
    while chunk := response.read(_CHUNK):
        received += chunk
        if len(received) > max_bytes:
            raise NoVerdict("too-large", f"the answer is longer than {max_bytes} bytes")
    if response.length:  # by chunks, http.client takes the end of the connection for the end of the body
        raise http.client.IncompleteRead(b"", response.length)
    return bytes(received)


def _translated(error: Exception, late: bool) -> NoVerdict:
    """The kind of trouble, without what the peer wrote."""
    if late or isinstance(error, TimeoutError):
        return NoVerdict("timeout", "no complete answer in time")
    if isinstance(error, ssl.SSLCertVerificationError):
        return NoVerdict("tls", f"the certificate of eSignSanté does not verify: {error.verify_message}")
    if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError):
        return NoVerdict("tls", f"TLS failed: {error.reason or type(error).__name__}")
    if isinstance(error, OSError) and not isinstance(error, ssl.SSLError):
        return NoVerdict("unreachable", f"{type(error).__name__}: {error.strerror or 'no connection'}")
    return NoVerdict("broken-answer", f"not HTTP, or cut: {type(error).__name__}")


class _Connection(http.client.HTTPConnection):
    """A connection that is cut at its deadline: the timeouts of sockets are per call, a drip never meets them."""

    def __init__(self, place: SplitResult, context: ssl.SSLContext, seconds: float) -> None:
        super().__init__(str(place.hostname), place.port or 443, timeout=seconds)
        self.default_port = 443  # so that Host carries no usual port
        self._context = context
        self._live: socket.socket | None = None
        self._timer = threading.Timer(seconds, self._cut)
        self._timer.daemon = True
        self.late = False

    def connect(self) -> None:
        """TCP, then TLS, both within the deadline."""
        self._timer.start()
        super().connect()
        # a close without close_notify is an attack or a cut, never the end of a body
        self._live = self.sock = self._context.wrap_socket(
            self.sock, server_hostname=self.host, do_handshake_on_connect=False, suppress_ragged_eofs=False
        )
        self.require_time()
        self.sock.do_handshake()

    def require_time(self) -> None:
        """Raise TimeoutError once the deadline is over."""
        if self.late:
            raise TimeoutError

    def hang_up(self) -> None:
        """Close everything, the timer too."""
        self._timer.cancel()
        self.close()
        if self._live is not None:
            self._live.close()

    def _cut(self) -> None:
        self.late = True
        live = self._live
        if live is not None:
            with suppress(OSError):  # already gone
                # of the TCP connection below: SSLSocket.shutdown would disturb the reader's TLS state
                socket.socket.shutdown(live, socket.SHUT_RDWR)
