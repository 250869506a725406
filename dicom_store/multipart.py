"""`multipart/related` out and in, as iterators of bytes (RFC 2046 5.1, RFC 2387; PS3.18 8.6.1)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

MAX_HEADER_BYTES = 16 * 1024
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,\-./:=? ]{0,69}[0-9A-Za-z'()+_,\-./:=?]")
_PARAMETER = re.compile(r';\s*boundary\s*=\s*(?:"([^"]*)"|([^;\s]*))', re.IGNORECASE)


class MultipartError(ValueError):
    """The body is not what its boundary promises: cut short, headers too long, not a multipart."""


@dataclass(frozen=True, slots=True)
class Part:
    """One part to send. `body`: called once, gives exactly `length` bytes."""

    content_type: str
    length: int
    body: Callable[[], Iterator[bytes]]


@dataclass(frozen=True, slots=True)
class ReceivedPart:
    """One part received. `headers`: names in lower case; `body`: to be read before the next part."""

    headers: Mapping[str, str]
    body: Iterator[bytes]


def content_length(parts: Sequence[Part], boundary: str) -> int:
    """Bytes that `write_parts` gives."""
    heads = sum(len(_head(part, boundary)) + part.length + 2 for part in parts)
    return heads + len(_tail(boundary))


def write_parts(parts: Iterable[Part], boundary: str) -> Iterator[bytes]:
    """The body of the message. `boundary`: unguessable, so that no image holds it."""
    for part in parts:
        yield _head(part, boundary)
        yield from part.body()
        yield b"\r\n"
    yield _tail(boundary)


def _head(part: Part, boundary: str) -> bytes:
    return (
        f"--{boundary}\r\nContent-Type: {part.content_type}\r\nContent-Length: {part.length}\r\n\r\n"
    ).encode("ascii")


def _tail(boundary: str) -> bytes:
    return f"--{boundary}--\r\n".encode("ascii")


def boundary_of(content_type: str) -> str:
    """The boundary parameter of a Content-Type. Raises `MultipartError` when there is none that is legal."""
    found = _PARAMETER.search(content_type)
    boundary = (found.group(1) or found.group(2) or "") if found else ""
    if not content_type.lower().startswith("multipart/") or not _BOUNDARY.fullmatch(boundary):
        raise MultipartError("no legal boundary in Content-Type")
    return boundary


def read_parts(chunks: Iterable[bytes], boundary: str) -> Iterator[ReceivedPart]:
    """The parts of a body that arrives in chunks of any size; memory stays at one chunk and one delimiter.

    A body that is not read to its end is skipped when the next part is asked. Raises `MultipartError`.
    """
    reader = _Reader(chunks, b"\r\n--" + boundary.encode("ascii"))
    for _ in reader.until_delimiter():  # the preamble means nothing
        continue
    while not reader.at_end():
        body = reader.until_delimiter()
        yield ReceivedPart(reader.headers(), body)
        for _ in body:
            continue


class _Reader:
    """A buffer over the chunks, always a little longer than what it may give away."""

    def __init__(self, chunks: Iterable[bytes], delimiter: bytes) -> None:
        self._chunks = iter(chunks)
        self._delimiter = delimiter
        self._buffer = bytearray(b"\r\n")  # the first delimiter may open the message

    def _fill(self) -> None:
        chunk = next(self._chunks, None)
        if chunk is None:
            raise MultipartError("the message ends before its closing delimiter")
        self._buffer += chunk

    def _take(self, count: int) -> bytes:
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken

    def until_delimiter(self) -> Iterator[bytes]:
        """Pieces up to the next delimiter, which is consumed."""
        while (found := self._buffer.find(self._delimiter)) < 0:
            surplus = len(self._buffer) - len(self._delimiter) + 1
            if surplus > 0:
                yield self._take(surplus)
            self._fill()
        if found:
            yield self._take(found)
        self._take(len(self._delimiter))

    def at_end(self) -> bool:
        """After a delimiter: whether it was the closing one; consumes the end of its line otherwise."""
        while len(self._buffer) < 2:
            self._fill()
        if self._buffer.startswith(b"--"):
            return True
        if self._line(MAX_HEADER_BYTES).strip(b" \t"):
            raise MultipartError("text after a delimiter")
        return False

    def headers(self) -> dict[str, str]:
        """The header lines of a part, up to the empty line."""
        headers: dict[str, str] = {}
        room = MAX_HEADER_BYTES
        while line := self._line(room):
            room -= len(line) + 2
            name, colon, value = line.decode("latin-1").partition(":")
            if not colon:
                raise MultipartError("a header line without a colon")
            headers[name.strip().lower()] = value.strip()
        return headers

    def _line(self, limit: int) -> bytes:
        while (end := self._buffer.find(b"\r\n")) < 0:
            if len(self._buffer) > limit:
                raise MultipartError("headers too long")
            self._fill()
        if end > limit:
            raise MultipartError("headers too long")
        line = self._take(end)
        self._take(2)
        return line
