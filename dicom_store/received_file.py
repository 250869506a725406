"""One file that is being received over HTTP: in memory while it is small, then in a file without a name."""

from __future__ import annotations

import logging
import mmap
import os
import tempfile
from pathlib import Path
from typing import IO

from dicom_store.scanner import Buffer
from dicom_store.segment_writer import StorageFull

log = logging.getLogger(__name__)

MEMORY_BYTES = 1024 * 1024  # of one file; more goes to disk


class Spool:
    """Where files grow that are too long for memory. They have no name: a crash leaves nothing."""

    def __init__(self, directory: Path, minimum_free_bytes: int) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory = directory
        self._minimum_free_bytes = minimum_free_bytes

    def open(self) -> IO[bytes]:
        """A new file. Raises `OSError`."""
        return tempfile.TemporaryFile(dir=self._directory, buffering=0)

    def require_room(self, wanted: int) -> None:
        """Raises `StorageFull` when less than the free space that must remain would be left."""
        volume = os.statvfs(self._directory)
        if volume.f_bavail * volume.f_frsize - wanted < self._minimum_free_bytes:
            raise StorageFull("less free space than must remain")


class ReceivedFile:
    """The bytes so far. `add` in the event loop; `flush` and `buffer` in a thread."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._memory = bytearray()
        self._file: IO[bytes] | None = None
        self.length = 0

    @property
    def is_due(self) -> bool:
        """Whether `flush` must come before more bytes."""
        return len(self._memory) > MEMORY_BYTES

    def add(self, data: bytes) -> None:
        """The next bytes."""
        self._memory += data
        self.length += len(data)

    def flush(self) -> None:
        """Write what is in memory to the file. Raises `StorageFull`, also for another reason why it cannot be."""
        try:
            self._write()
        except OSError as error:
            log.error("an instance that arrives cannot be kept: %s", type(error).__name__)  # noqa: TRY400 no data
            raise StorageFull("the appliance cannot store now") from error

    def _write(self) -> None:
        self._spool.require_room(len(self._memory))
        if self._file is None:
            self._file = self._spool.open()
        rest = memoryview(self._memory)
        while rest:
            rest = rest[self._file.write(rest) :]
        self._memory = bytearray()

    def buffer(self) -> Buffer:
        """All of it, once; the file is gone when the last view of it is. Raises `StorageFull`."""
        if self._file is None:
            return self._memory
        self.flush()
        with self._file as file:
            return memoryview(mmap.mmap(file.fileno(), self.length, access=mmap.ACCESS_READ))

    def close(self) -> None:
        """Give the file up; also after `buffer`, and twice."""
        self._memory = bytearray()
        if self._file is not None:
            self._file.close()
