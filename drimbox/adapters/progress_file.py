"""How far a long run came, in a file: one run at a time, taken up after whatever stopped the last one."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

SAVE_SECONDS = 5.0


class AlreadyRunning(Exception):
    """Another process is at this very work."""


class ProgressFile:
    """A context manager; the lock on the file beside it ends with the process."""

    def __init__(self, path: Path, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._monotonic = monotonic
        self._saved_at = monotonic()
        self._lock = -1

    def __enter__(self) -> ProgressFile:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self._path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._lock)
            raise AlreadyRunning(f"another process is at it ({self._path.with_suffix('.lock')})") from error
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._lock)

    def load(self) -> dict[str, Any] | None:
        """What the last run left; None when it came to its end, or its file cannot be read: begin anew."""
        try:
            found = json.loads(self._path.read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def save(self, progress: Mapping[str, Any]) -> None:
        """Keep it, at most every `SAVE_SECONDS`: what is done twice does no harm."""
        if self._monotonic() - self._saved_at >= SAVE_SECONDS:
            self.write(progress)

    def write(self, progress: Mapping[str, Any]) -> None:
        """Keep it now. Raises OSError."""
        aside = self._path.with_suffix(".new")
        with aside.open("w", encoding="utf-8") as file:
            json.dump(progress, file)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(self._path)
        self._saved_at = self._monotonic()

    def clear(self) -> None:
        """The run came to its end."""
        self._path.unlink(missing_ok=True)
