"""`multipart/related` of pieces: parts whose bytes are literal or lie in files (RFC 2387, PS3.18 8.6.1.2)."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence

from dicom_store.body import Body, Extent, body_of, length_of
from dicom_store.transmit import Transfer


class Related:
    """One message. `media_type`: of its parts."""

    def __init__(self, media_type: str) -> None:
        self._boundary = secrets.token_hex(20)  # unguessable, so that no image holds it
        self.headers = {"Content-Type": f'multipart/related; type="{media_type}"; boundary={self._boundary}'}

    def part(self, content_type: str, location: str, *content: bytes | Extent) -> Sequence[bytes | Extent]:
        """One part. `location`: its absolute address."""
        about = {
            "Content-Type": content_type,
            "Content-Location": location,
            "Content-Length": str(sum(map(length_of, content))),
        }
        lines = "".join(f"{name}: {value}\r\n" for name, value in about.items())
        return f"--{self._boundary}\r\n{lines}\r\n".encode("ascii"), *content, b"\r\n"

    @property
    def closing(self) -> bytes:
        """What follows the last part."""
        return f"--{self._boundary}--\r\n".encode("ascii")

    def whole(self, parts: Iterable[Sequence[bytes | Extent]]) -> Transfer:
        """The answer of parts that are all there: its length is known."""
        body: Body = body_of(*(piece for part in parts for piece in part), self.closing)
        return Transfer(200, {**self.headers, "Content-Length": str(body.length)}, body)
