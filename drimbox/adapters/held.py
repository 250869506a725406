"""What is made of credential files, and held while they change: a TLS context, a signer.

New files are judged before they replace what is in use. When they are no good, or only half of them is there yet, the
old ones serve on, and the log says why.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Generic, TypeVar

import structlog

from drimbox.adapters.key_files import UnusableCredential

log = structlog.get_logger(__name__)

Made = TypeVar("Made")
Judge = Callable[[datetime], Sequence[str]]
_Identity = tuple[tuple[int, ...] | None, ...]
RETRY_SECONDS = 60.0  # before files that were no good are judged again: one was perhaps not valid yet


class Held(Generic[Made]):
    """One of our credentials. Safe for threads.

    `setting`: its name, as logs say it; `files`: all that `make` reads; `judge`: every fault of new files at a time,
    asked before they replace others.
    """

    def __init__(
        self,
        setting: str,
        files: Sequence[Path],
        make: Callable[[], Made],
        judge: Judge = lambda _now: (),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.setting = setting
        self.fault: str | None = None  # why files newer than those in use are not used
        self.judge = judge
        self._files, self._make = tuple(files), make
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._taken: tuple[_Identity, Made] | None = None
        self._refused: tuple[_Identity, float] = ((), 0.0)

    def current(self) -> Made:
        """What is in use; made at the first call. Raises OSError (`UnusableCredential` is one) then."""
        with self._lock:
            return self._current()

    def renew(self, now: datetime) -> bool:
        """Use the files as they are now; whether they are others than those in use.

        Raises OSError (`UnusableCredential` is one) when they are no good: what was in use still is. What was never
        used stays unread.
        """
        with self._lock:
            return self._taken is not None and self._renew(_identity(self._files), now)

    def follow(self, now: datetime) -> Made:
        """What is in use, renewed whenever the files are others than before. Raises OSError at the first call only."""
        with self._lock:
            made = self._current()
            seen = _identity(self._files)
            if self._is_refused(seen):
                return made
            try:
                if self._renew(seen, now):
                    log.info("credentials_renewed", setting=self.setting, count=1)
            except OSError:
                log.error("credential_not_renewed", setting=self.setting, reason=self.fault)  # noqa: TRY400 expected
            return self._current()

    def _current(self) -> Made:
        if self._taken is None:
            self._taken = (_identity(self._files), self._make())
        return self._taken[1]

    def _is_refused(self, seen: _Identity) -> bool:
        refused, at = self._refused
        return seen == refused and self._monotonic() < at + RETRY_SECONDS

    def _renew(self, seen: _Identity, now: datetime) -> bool:
        assert self._taken is not None  # the callers have looked
        if seen == self._taken[0]:
            self.fault = None
            return False
        try:
            if faults := list(self.judge(now)):
                raise UnusableCredential(faults)
            self._taken = (seen, self._make())
        except OSError as error:
            self.fault = f"{self.setting}: {words(error)}; the old one stays in use"
            self._refused = (seen, self._monotonic())
            raise
        self.fault, self._refused = None, ((), 0.0)
        return True


def words(error: OSError) -> str:
    """Why files cannot be used, without what is in them."""
    return str(getattr(error, "reason", None) or error.strerror or error)


def _identity(files: Sequence[Path]) -> _Identity:
    """Another one as soon as a file is another, or has other content, or is gone."""
    return tuple(map(_one_identity, files))


def _one_identity(path: Path) -> tuple[int, ...] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size)
