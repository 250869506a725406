"""The wish that a process ends: SIGTERM, SIGINT, or a thread that says so; and SIGHUP, which ends nothing.

No `threading.Event`: a handler that sets one may meet the main thread inside the lock of that very event, or just
before it goes to sleep, and it then sleeps for ever. The C part of a signal writes into a pipe whatever the main thread
does (`signal.set_wakeup_fd`).
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

NUMBERS = (signal.SIGTERM, signal.SIGINT)
_BY_THREAD = 0  # no signal has this number
_ENDING = frozenset({_BY_THREAD, *NUMBERS})


def _told_by_pipe(_number: int, _frame: FrameType | None) -> None:
    """The byte in the pipe says it."""


class StopSignal:
    """One per process, of its main thread; `tell` from any thread. `on_hangup`: called by `wait` after a SIGHUP."""

    def __init__(self, on_hangup: Callable[[], None] = lambda: None) -> None:
        self._on_hangup = on_hangup
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._is_told = False

    def catch(self) -> None:
        """From now on the signals are told here, and do nothing else."""
        for number in (*NUMBERS, signal.SIGHUP):
            signal.signal(number, _told_by_pipe)
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)

    def forget(self) -> None:
        """In a child that was forked: the signals are as at the start of a program."""
        signal.set_wakeup_fd(-1)
        for number in (*NUMBERS, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        os.close(self._reader)
        os.close(self._writer)

    def tell(self) -> None:
        """End the process."""
        with suppress(BlockingIOError):  # told thousands of times already
            os.write(self._writer, bytes([_BY_THREAD]))

    def wait(self, seconds: float | None = None) -> bool:
        """Whether it was told, within `seconds` (None: however long it takes)."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while not self._is_told:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not select.select([self._reader], [], [], left)[0]:
                return False
            told = os.read(self._reader, 4096)
            self._is_told = not _ENDING.isdisjoint(told)
            if signal.SIGHUP in told and not self._is_told:
                self._on_hangup()
        return True
