"""`drimbox serve`: the doors and the worker as child processes, started again when they die.

They are forked from this one, which has loaded what they all use, serves nothing, and has one thread and no connection:
a child is there in milliseconds, and they share the memory of the code. A child watches a pipe whose other end only the
supervisor holds: when the supervisor dies, even by SIGKILL, the pipe closes and the children stop, so that ports and
locks are free for the next start.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import structlog
from setproctitle import setproctitle

from drimbox.entrypoints.notify import VARIABLES
from drimbox.entrypoints.stop_signal import NUMBERS, StopSignal

log = structlog.get_logger(__name__)

DOORS = ("dicom", "mllp", "web", "worker")
SIGNALS = (*NUMBERS, signal.SIGHUP)
LIFELINE = "DRIMBOX_LIFELINE"  # file descriptor of the pipe, in the child's environment
STOP_SECONDS = 20.0  # what a child gets to stop cleanly
_STOP_LOOK = 0.02
_BACKOFF = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)  # seconds before a new start, by consecutive early deaths
_EARLY = 30.0  # a child that lived shorter than this died early

# `enter(door, config)`: is that door until it ends; the exit status.
Enter = Callable[[str, Path], int]


@dataclass
class _Child:
    door: str
    pid: int = 0  # 0: it does not run
    started: float = 0.0
    deaths: int = 0
    start_at: float = field(default=0.0)


class Supervisor:
    """Keeps one process per door alive until told to stop. Of the main thread, which is the only one."""

    def __init__(self, config: Path, enter: Enter, doors: Sequence[str] = DOORS) -> None:
        self._config, self._enter = config, enter
        self._children = [_Child(door) for door in doors]
        self._stop_signal = StopSignal(self._pass_hangup_on)
        self._lifeline_read, self._lifeline_write = os.pipe()

    def run(self) -> int:
        """Supervise until SIGTERM or SIGINT; returns the exit status. SIGHUP is passed on to the children."""
        self._stop_signal.catch()
        gc.collect()
        gc.freeze()  # what is here now is never looked at again: its pages stay shared
        while not self._stop_signal.wait(0.1):
            for child in self._children:
                self._watch(child)
        self._stop()
        return 0

    def _watch(self, child: _Child) -> None:
        now = time.monotonic()
        if not child.pid:
            if now >= child.start_at:
                self._start(child, now)
            return
        pid, status = os.waitpid(child.pid, os.WNOHANG)
        if not pid:
            return
        child.deaths = child.deaths + 1 if now - child.started < _EARLY else 1
        pause = _BACKOFF[min(child.deaths, len(_BACKOFF)) - 1]
        ended = os.waitstatus_to_exitcode(status)
        log.error("child_died", door=child.door, exit_status=ended, seconds=pause)
        child.pid, child.start_at = 0, now + pause

    def _start(self, child: _Child, now: float) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        # a signal that comes before the child has its own ways would be told to us
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            child.pid = os.fork() or self._become(child.door)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        child.started = now
        log.info("child_started", door=child.door)

    def _become(self, door: str) -> NoReturn:
        """The child: as a process that was started for that door alone."""
        status = 1
        try:
            self._stop_signal.forget()
            signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until it renews its credentials
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            os.close(self._lifeline_write)
            for name in VARIABLES:
                os.environ.pop(name, None)
            os.environ[LIFELINE] = str(self._lifeline_read)
            setproctitle(f"drimbox {door} --config {self._config}")
            status = self._enter(door, self._config)
        except BaseException:  # the child must never go on in the parent's code
            log.exception("child_failed", door=door)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def _pass_hangup_on(self) -> None:
        for child in self._alive():
            os.kill(child.pid, signal.SIGHUP)

    def _alive(self) -> list[_Child]:
        return [child for child in self._children if child.pid]

    def _stop(self) -> None:
        for child in self._alive():
            os.kill(child.pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        while self._alive() and time.monotonic() < deadline:
            for child in self._alive():
                if os.waitpid(child.pid, os.WNOHANG)[0]:
                    child.pid = 0
            time.sleep(_STOP_LOOK)
        for child in self._alive():
            log.error("child_killed", door=child.door)
            os.kill(child.pid, signal.SIGKILL)
            os.waitpid(child.pid, 0)
        os.close(self._lifeline_write)
        os.close(self._lifeline_read)


def lifeline() -> int | None:
    """In a child: the descriptor that ends when the supervisor is gone; None when started without one."""
    descriptor = os.environ.pop(LIFELINE, None)
    return None if descriptor is None else int(descriptor)


def follow_supervisor(stop: Callable[[], None]) -> None:
    """In a child: call `stop` when the supervisor is gone. Does nothing when started without one."""
    descriptor = lifeline()
    if descriptor is not None:
        follow(descriptor, stop)


def follow(descriptor: int, stop: Callable[[], None]) -> None:
    """Call `stop` from a thread when the other end of a pipe is closed, by whatever end of its process."""

    def watch() -> None:
        os.read(descriptor, 1)  # returns only at end of file: nobody ever writes
        log.warning("supervisor_gone")
        stop()

    threading.Thread(target=watch, name="lifeline", daemon=True).start()
