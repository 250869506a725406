"""A partner DRIMBox: fetches images by WADO-RS (RAD-107) with a token, a KOS UID and a client certificate."""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from drimbox.simulators.multipart_reader import BrokenMultipartError, Part, boundary_of, read_parts

#: the ten transfer syntaxes of CI-SIS with the lossless weights of the ANS samples (drim-m-data 3.3)
LOSSLESS = (
    ("1.2.840.10008.1.2.4.70", "0.9"),
    ("1.2.840.10008.1.2.4.80", "0.8"),
    ("1.2.840.10008.1.2.4.91", "0.6"),
    ("1.2.840.10008.1.2.4.50", "0.5"),
    ("1.2.840.10008.1.2.4.51", "0.5"),
    ("1.2.840.10008.1.2.4.100", "0.5"),
    ("1.2.840.10008.1.2.4.101", "0.5"),
    ("1.2.840.10008.1.2.4.102", "0.5"),
    ("1.2.840.10008.1.2.4.103", "0.5"),
    ("1.2.840.10008.1.2.1", "0.4"),
)
#: form A of the ANS: one header, no blank after the commas, parameters after q, a trailing comma
ANS_ACCEPT = "".join(
    f'multipart/related; type="application/dicom";transfer-syntax={uid};q={q};boundary=**,'
    for uid, q in LOSSLESS
)
BLOCK = 256 * 1024


@dataclass(frozen=True)
class Fetched:
    """The answer: `parts` of a multipart 200, otherwise `body`. Header names in lower case."""

    status: int
    headers: dict[str, str]
    parts: list[bytes] = field(default_factory=list)
    part_headers: list[dict[str, str]] = field(default_factory=list)
    body: bytes = b""


def partner_fetch(
    url: str,
    token: str | None,
    kos_uid: str | None,
    ca: Path,
    certificate: tuple[Path, Path] | None,
    *,
    accept: str = ANS_ACCEPT,
    timeout: float = 30,
) -> Fetched:
    """GET `url` (https) as a partner does; None leaves the token, the KOS header or the certificate out.

    `certificate`: PEM of the chain, PEM of the key. Redirects are not followed, proxies not used. Raises
    OSError (ssl.SSLError, TimeoutError), `http.client.HTTPException`, and `BrokenMultipartError` for a body
    that is not whole.
    """
    target = urlsplit(url)
    if target.scheme != "https" or target.hostname is None:
        raise ValueError("the address must be https")
    context = _context(ca, certificate)
    connection = http.client.HTTPSConnection(
        target.hostname, target.port or 443, timeout=timeout, context=context
    )
    try:
        connection.request("GET", target.path or "/", headers=_headers(token, kos_uid, accept))
        return _fetched(connection.getresponse())
    finally:
        connection.close()


def _fetched(response: http.client.HTTPResponse) -> Fetched:
    headers = {name.lower(): value for name, value in response.getheaders()}
    media_type = headers.get("content-type", "")
    if response.status != 200 or not media_type.lower().startswith("multipart/"):
        return Fetched(response.status, headers, body=response.read())
    parts: list[Part] = list(read_parts(_blocks(response), boundary_of(media_type)))
    return Fetched(200, headers, [part.content for part in parts], [part.headers for part in parts])


def _blocks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """The body block by block. One shorter than its Content-Length raises, which `read(n)` alone does not."""
    while block := response.read(BLOCK):
        yield block
    if response.length:
        raise BrokenMultipartError(f"the body lacks {response.length} bytes")


def _context(ca: Path, certificate: tuple[Path, Path] | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(ca))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if certificate is not None:
        context.load_cert_chain(*certificate)
    return context


def _headers(token: str | None, kos_uid: str | None, accept: str) -> dict[str, str]:
    wanted = {
        "Accept": accept,
        "Authorization": None if token is None else f"Bearer {token}",
        "KOS-SOPInstanceUID": kos_uid,
    }
    return {name: value for name, value in wanted.items() if value is not None}
