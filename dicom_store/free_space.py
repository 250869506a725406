"""The free space that must remain on a volume: looked at before every write, for all threads of a process.

What begins must leave `minimum` bytes free; what has begun may end in the slack below it, so that neither an instance
is cut for the last of its bytes, nor the door changes its mind with every instance. What is being written by other
threads counts as gone; what other processes write is seen by the next look.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dicom_store.status import Outcome, StoreRefused

SLACK_SHARE, MOST_SLACK = 8, 64 * 1024 * 1024  # an eighth of what must remain, at most so many bytes


class StorageFull(StoreRefused):
    """No room, or less than the free space that must remain."""

    def __init__(self, reason: str = "the storage is full: try again when there is room") -> None:
        super().__init__(Outcome.STORAGE_FULL, reason)


class FreeSpace:
    """That of the volume of the directory `place`. `minimum`: bytes that must remain; 0 = none."""

    def __init__(self, place: Path, minimum: int) -> None:
        self._place = place
        self.minimum = minimum
        self._held = 0  # bytes being written now
        self._lock = threading.Lock()

    def now(self) -> int:
        """Bytes that are free beyond what must remain, without those being written; below zero: too few.

        Raises OSError.
        """
        volume = os.statvfs(self._place)
        return volume.f_bavail * volume.f_frsize - self._held - self.minimum

    @contextmanager
    def held(self, size: int, *, begins: bool = True) -> Iterator[int]:
        """Write `size` bytes inside; gives what is then left beyond the minimum. Nothing is looked at for 0 bytes.

        `begins`: False = the rest of what has begun. Raises `StorageFull`, OSError.
        """
        if size <= 0:
            yield 0
            return
        slack = 0 if begins else min(self.minimum // SLACK_SHARE, MOST_SLACK)
        with self._lock:
            left = self.now() - size
            if left + slack < 0:
                raise StorageFull("less free space than must remain: try again when there is room")
            self._held += size
        try:
            yield left
        finally:
            with self._lock:
                self._held -= size
