"""A notice in memory that forked processes share: one writes, the others read the last whole one without waiting."""

from __future__ import annotations

import mmap
import struct
import zlib

_HEAD = struct.Struct("=QQI")  # number of the notice (odd: being written), length, CRC-32
_TRIES = 8  # readings of a notice that is being written; then the one before it counts


class Board:
    """Up to `size` bytes. Made before the fork; only one process writes at a time."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._memory = mmap.mmap(-1, _HEAD.size + size)
        self._seen: tuple[int, bytes] = (0, b"")

    def write(self, notice: bytes) -> None:
        """Replace the notice. Raises ValueError for one that does not fit."""
        if len(notice) > self._size:
            raise ValueError(f"a notice of {len(notice)} bytes on a board of {self._size}")
        number = self._head()[0] | 1  # a writer that died in the middle left it odd
        _HEAD.pack_into(self._memory, 0, number, 0, 0)
        self._memory[_HEAD.size : _HEAD.size + len(notice)] = notice
        _HEAD.pack_into(self._memory, 0, number + 1, len(notice), zlib.crc32(notice))

    def read(self) -> tuple[int, bytes]:
        """(number of the notice, the notice): the last whole one that this process could see; (0, b"") before any."""
        for _ in range(_TRIES):
            number, length, checksum = self._head()
            if number == self._seen[0] or not number:
                break
            notice = self._memory[_HEAD.size : _HEAD.size + length]
            if not number & 1 and zlib.crc32(notice) == checksum and self._head()[0] == number:
                self._seen = (number, notice)
                break
        return self._seen

    def _head(self) -> tuple[int, int, int]:
        return _HEAD.unpack_from(self._memory)
