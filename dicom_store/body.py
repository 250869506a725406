"""A body as pieces: literal bytes, extents of files, and pieces that are still being made. Pure: nothing is read.

One shape for every answer: a single instance is one extent, a multipart is heads and extents in turn, a range is a
part of either, a transcoded part is made while the ones before it are sent.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol


class Source(Protocol):
    """A file that extents point into."""

    def open(self) -> int:
        """A descriptor of it, which the reader closes."""

    def check(self, descriptor: int, extent: Extent) -> None:
        """Raise unless what the extent promises is there."""

    def close(self) -> None:
        """Let go of what was kept for this reader; also called when it was never opened."""


class Extent(NamedTuple):
    """`length` bytes at `offset` of a source; `start`, `whole`: what the source checks of it (see `part`)."""

    source: Source
    offset: int
    length: int
    start: int = -1
    whole: int = -1

    def part(self, first: int, length: int) -> Extent:
        """A part of it; the source still checks the whole."""
        start = self.offset if self.start < 0 else self.start
        whole = self.length if self.whole < 0 else self.whole
        return Extent(self.source, self.offset + first, length, start, whole)


@dataclass(frozen=True, slots=True)
class Later:
    """Pieces that are made when their turn comes near: `make` starts the work, its result are the pieces."""

    make: Callable[[], Awaitable[Sequence[bytes | Extent]]]


Piece = bytes | Extent | Later


@dataclass(frozen=True, slots=True)
class Body:
    """`pieces`: called once; `length` in bytes, None while it is not known."""

    pieces: Callable[[], Iterable[Piece]]
    length: int | None


def body_of(*pieces: bytes | Extent) -> Body:
    """A body of pieces that are all there."""
    return Body(lambda: pieces, sum(map(length_of, pieces)))


def length_of(piece: bytes | Extent) -> int:
    """Bytes of a piece."""
    return piece.length if isinstance(piece, Extent) else len(piece)
