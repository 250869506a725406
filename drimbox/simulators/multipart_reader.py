"""A partner's own reader of `multipart/related` (RFC 2046, PS3.18 8.6.1.2), block by block."""

from __future__ import annotations

import email.policy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from email.message import EmailMessage
from email.parser import BytesHeaderParser

HEADERS_END = b"\r\n\r\n"
LONGEST_HEADERS = 16 * 1024


class BrokenMultipartError(Exception):
    """The body is not a whole multipart of that boundary."""


@dataclass(frozen=True)
class Part:
    """One part: headers by lower-case name, and its bytes."""

    headers: dict[str, str]
    content: bytes


def boundary_of(content_type: str) -> str:
    """The boundary of a multipart Content-Type, quoted or not. Raises `BrokenMultipartError` without one."""
    message = EmailMessage()
    message["Content-Type"] = content_type
    boundary = message["Content-Type"].params.get("boundary")
    if message.get_content_maintype() != "multipart" or not boundary:
        raise BrokenMultipartError("the answer is not a multipart with a boundary")
    return str(boundary)


def read_parts(blocks: Iterable[bytes], boundary: str) -> Iterator[Part]:
    """Parts in order; memory holds one part. Raises `BrokenMultipartError`, also when the end is missing."""
    delimiter = b"\r\n--" + boundary.encode("ascii")
    source = _Source(blocks)
    source.until(delimiter)  # the preamble
    while True:
        mark = source.take(2)
        if mark == b"--":
            return
        if mark != b"\r\n":
            raise BrokenMultipartError("a delimiter is followed by neither CRLF nor --")
        head = source.until(HEADERS_END, LONGEST_HEADERS)
        yield Part(_headers(head), source.until(delimiter))


class _Source:
    """The body as a buffer that fills itself; a leading CRLF makes the first delimiter like the others."""

    def __init__(self, blocks: Iterable[bytes]) -> None:
        self._blocks = iter(blocks)
        self._buffer = bytearray(b"\r\n")

    def take(self, count: int) -> bytes:
        while len(self._buffer) < count:
            self._fill()
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken

    def until(self, mark: bytes, limit: int | None = None) -> bytes:
        """The bytes before `mark`; both are consumed."""
        seen = 0
        while (at := self._buffer.find(mark, seen)) < 0:
            if limit is not None and len(self._buffer) > limit:
                raise BrokenMultipartError("the headers of a part have no end")
            seen = max(len(self._buffer) - len(mark) + 1, 0)
            self._fill()
        taken = bytes(self._buffer[:at])
        del self._buffer[: at + len(mark)]
        return taken

    def _fill(self) -> None:
        block = next(self._blocks, None)
        if block is None:
            raise BrokenMultipartError("the body ends before its last delimiter")
        self._buffer += block


def _headers(head: bytes) -> dict[str, str]:
    parsed = BytesHeaderParser(policy=email.policy.compat32).parsebytes(head + HEADERS_END)
    return {name.lower(): str(value) for name, value in parsed.items()}
