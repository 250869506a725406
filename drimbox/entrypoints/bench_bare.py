"""The bare disk of `drimbox bench store`: `python -m drimbox.entrypoints.bench_bare PORT DIRECTORY CALLING`.

A DICOM door that appends what comes to a file for each association, syncs it before each answer, and does nothing
else: no look at what it is, no hash, no index, no trace. What this machine gives, whatever a product does with it.
"""

from __future__ import annotations

import os
import sys
import threading
import uuid
from pathlib import Path

from dicom_store.scp import DicomDoor
from dicom_store.sink import StoreCommand
from dicom_store.status import Outcome

TITLE = "BARE"
_IDLE_SECONDS = 60.0
_MOST_BYTES = 1024**3


class Appending:
    """A `Sink` and its `Arrival`: one file for an association."""

    def __init__(self, directory: Path) -> None:
        self._descriptor = os.open(directory / uuid.uuid4().hex, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def begin(self, _command: StoreCommand) -> Appending:
        """Whatever it is."""
        return self

    def more(self, piece: memoryview) -> None:
        """Append it."""
        while piece:
            piece = piece[os.write(self._descriptor, piece) :]

    def complete(self) -> Outcome:
        """Sync what was appended."""
        os.fdatasync(self._descriptor)
        return Outcome.STORED

    def abandon(self) -> None:
        """What there is of it stays."""

    def close(self) -> None:
        """The association has ended."""
        os.close(self._descriptor)


def main(port: int, directory: Path, calling: str) -> None:
    """Serve until the process is killed."""
    door = DicomDoor(
        "127.0.0.1",
        port,
        TITLE,
        [calling],
        max_associations=16,
        idle_timeout=_IDLE_SECONDS,
        max_instance_bytes=_MOST_BYTES,
        open_sink=lambda _peer: Appending(directory),
    )
    door.start()
    threading.Event().wait()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
