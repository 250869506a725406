"""`multipart/related` in, as it arrives (RFC 2046 5.1, RFC 2387; PS3.18 8.6.1)."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import takewhile
from typing import TypeVar

MAX_HEADER_BYTES = 16 * 1024  # of a part; also of what stands before the first one
# RFC 2046 5.1.1 allows 70 characters; Orthanc sends 73.
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,\-./:=? ]{0,254}[0-9A-Za-z'()+_,\-./:=?]")
# No way back (++, *+): a header of spaces would hold up the event loop for a minute.
_PARAMETER = re.compile(
    r';\s*+([\w!#$&^.+-]++)\s*+=\s*+(?:"((?:\\.|[^"\\])*+)"|([^;"\s]*+))\s*+(?=;|$)', re.ASCII
)
_ESCAPED = re.compile(r"\\(.)")


class MultipartError(ValueError):
    """The body is not what its boundary promises: cut short, headers too long, not a multipart."""


@dataclass(frozen=True, slots=True)
class PartStart:
    """A part begins. `headers`: names in lower case."""

    headers: Mapping[str, str]


class PartEnd:
    """The part is complete."""


Event = PartStart | bytes | PartEnd  # bytes: the next of the body
_Result = TypeVar("_Result")
_Reading = Generator[Event | None, None, _Result]  # None: more bytes are needed


@dataclass(frozen=True, slots=True)
class ReceivedPart:
    """One part received. `headers`: names in lower case; `body`: to be read before the next part."""

    headers: Mapping[str, str]
    body: Iterator[bytes]


def media_type_of(content_type: str) -> tuple[str, Mapping[str, str]]:
    """Media type and parameters of a Content-Type: names in lower case, values without quotes (RFC 9110 8.3.1)."""
    media_type, _, rest = content_type.partition(";")
    found = [
        (name.lower(), _ESCAPED.sub(r"\1", quoted) or plain)
        for name, quoted, plain in _PARAMETER.findall(f";{rest}")
    ]
    return media_type.strip().lower(), dict(reversed(found))


def boundary_of(content_type: str) -> str:
    """The boundary parameter of a Content-Type. Raises `MultipartError` when there is none that is legal."""
    media_type, parameters = media_type_of(content_type)
    boundary = parameters.get("boundary", "")
    if not media_type.startswith("multipart/") or not _BOUNDARY.fullmatch(boundary):
        raise MultipartError("no legal boundary in Content-Type")
    return boundary


def read_parts(chunks: Iterable[bytes], boundary: str) -> Iterator[ReceivedPart]:
    """The parts of a body that arrives in chunks of any size; memory stays at one chunk and one delimiter.

    A body that is not read to its end is skipped when the next part is asked. Raises `MultipartError`.
    """
    events = _events(chunks, MultipartReader(boundary))
    for event in events:
        if isinstance(event, PartStart):
            body = (piece for piece in takewhile(_is_not_end, events) if isinstance(piece, bytes))
            yield ReceivedPart(event.headers, body)
            for _ in body:
                continue


def _events(chunks: Iterable[bytes], reader: MultipartReader) -> Iterator[Event]:
    for chunk in chunks:
        yield from reader.feed(chunk)
    reader.finish()


def _is_not_end(event: Event) -> bool:
    return not isinstance(event, PartEnd)


class MultipartReader:
    """Takes a message in chunks of any size, gives what they tell; holds a chunk and a delimiter at most."""

    def __init__(self, boundary: str) -> None:
        self._delimiter = b"\r\n--" + boundary.encode("ascii")
        self._buffer = bytearray(b"\r\n")  # the first delimiter may open the message
        self._reading = self._message()
        self.closed = False  # the closing delimiter has come; what follows it means nothing

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """The events that a chunk completes, to be taken before the next one. Raises `MultipartError`."""
        if not self.closed:
            self._buffer += chunk
            for event in self._reading:
                if event is None:
                    return
                yield event

    def finish(self) -> None:
        """No more chunks. Raises `MultipartError` when the message has no closing delimiter."""
        if not self.closed:
            raise MultipartError("the message ends before its closing delimiter")

    def _message(self) -> _Reading[None]:
        yield from self._preamble()
        while not (yield from self._at_end()):
            yield PartStart((yield from self._headers()))
            yield from self._until_delimiter()
            yield PartEnd()
        self._buffer.clear()
        self.closed = True

    def _preamble(self) -> _Reading[None]:
        """It means nothing (RFC 2046 5.1.1)."""
        room = MAX_HEADER_BYTES
        for event in self._until_delimiter():
            if isinstance(event, bytes):
                room -= len(event)
            if room < 0:
                raise MultipartError("no delimiter at the beginning of the message")
            if event is None:
                yield None

    def _until_delimiter(self) -> _Reading[None]:
        """Pieces up to the next delimiter, which is consumed."""
        while (found := self._buffer.find(self._delimiter)) < 0:
            surplus = len(self._buffer) - len(self._delimiter) + 1
            if surplus > 0:
                yield self._take(surplus)
            yield None
        if found:
            yield self._take(found)
        self._take(len(self._delimiter))

    def _at_end(self) -> _Reading[bool]:
        """After a delimiter: whether it was the closing one; consumes the end of its line otherwise."""
        while len(self._buffer) < 2:
            yield None
        if self._buffer.startswith(b"--"):
            return True
        line = yield from self._line(MAX_HEADER_BYTES)
        if line.strip(b" \t"):
            raise MultipartError("text after a delimiter")
        return False

    def _headers(self) -> _Reading[dict[str, str]]:
        """The header lines of a part, up to the empty line."""
        headers: dict[str, str] = {}
        room = MAX_HEADER_BYTES
        while line := (yield from self._line(room)):
            room -= len(line) + 2
            name, colon, value = line.decode("latin-1").partition(":")
            if not colon:
                raise MultipartError("a header line without a colon")
            headers[name.strip().lower()] = value.strip()
        return headers

    def _line(self, limit: int) -> _Reading[bytes]:
        while (end := self._buffer.find(b"\r\n")) < 0:
            if len(self._buffer) > limit:
                raise MultipartError("headers too long")
            yield None
        if end > limit:
            raise MultipartError("headers too long")
        line = self._take(end)
        self._take(2)
        return line

    def _take(self, count: int) -> bytes:
        with memoryview(self._buffer) as view:
            taken = bytes(view[:count])
        del self._buffer[:count]
        return taken
