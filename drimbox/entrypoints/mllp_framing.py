"""MLLP v1 framing: 0x0B message 0x1C 0x0D, from bytes that come in any pieces (hl7-mss 1.10)."""

from __future__ import annotations

START = b"\x0b"
END = b"\x1c\r"


class FramingError(ValueError):
    """Not MLLP, or a message over the limit: the connection is of no more use."""


class Deframer:
    """Bytes in any pieces to whole messages; holds at most `max_message_bytes` and one piece more."""

    def __init__(self, max_message_bytes: int) -> None:
        self._limit = max_message_bytes
        self._buffer = bytearray()
        self._inside = False

    @property
    def inside(self) -> bool:
        """True while a message has begun and not ended."""
        return self._inside

    def feed(self, piece: bytes | bytearray | memoryview) -> list[bytes]:
        """The messages that `piece` completes, in order, without their frames.

        Raises `FramingError` for anything but line ends between frames, and for a message over the limit; the
        messages completed before the fault are in its `args[1]`.
        """
        searched = max(0, len(self._buffer) - 1)  # the first byte of END may already be there
        self._buffer += piece
        messages: list[bytes] = []
        try:
            while self._next(messages, searched):
                searched = 0
        except FramingError as error:
            raise FramingError(str(error), messages) from None
        return messages

    def _next(self, messages: list[bytes], searched: int) -> bool:
        """Consume one start or one end block; False when more bytes are needed."""
        return self._end(messages, searched) if self._inside else self._start()

    def _start(self) -> bool:
        start = self._buffer.find(START)
        before = self._buffer if start < 0 else self._buffer[:start]
        if before.strip(b"\r\n"):
            raise FramingError("bytes before the start block")
        del self._buffer[: len(self._buffer) if start < 0 else start + 1]
        self._inside = start >= 0
        return self._inside

    def _end(self, messages: list[bytes], searched: int) -> bool:
        end = self._buffer.find(END, searched)
        if (end if end >= 0 else len(self._buffer)) > self._limit:
            raise FramingError(f"a message of over {self._limit} bytes")
        if end < 0:
            return False
        with memoryview(self._buffer) as view:
            messages.append(bytes(view[:end]))
        del self._buffer[: end + len(END)]
        self._inside = False
        return True
