"""How many requests are served at once, counted over every process of a door in memory that they share."""

from __future__ import annotations

import mmap

from dicom_store.asgi import busy

_COUNT = 8  # bytes of a count


class Places:
    """`limit` places for `processes`. Made before the fork; each process calls `take_slot` with its number.

    A process writes only its own count: no lock, and what a dead process held is free once its slot is taken again.
    """

    def __init__(self, limit: int, processes: int = 1) -> None:
        self.limit = limit
        self._processes = processes
        self._counts = memoryview(mmap.mmap(-1, _COUNT * processes)).cast("q")
        self._slot = 0

    def take_slot(self, number: int) -> None:
        """This process is number `number`; it holds nothing yet."""
        self._slot = number
        self._counts[number] = 0

    @property
    def taken(self) -> int:
        """Places taken in all processes."""
        return sum(self._counts)

    def take(self) -> None:
        """Take a place, to be given back. Raises `HttpRefusal` 503 when none is free."""
        if self.taken >= self.limit:
            raise busy()
        self._counts[self._slot] += 1

    def give_back(self) -> None:
        """The place is free again."""
        self._counts[self._slot] -= 1
