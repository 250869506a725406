"""`drimbox serve`: the doors and the worker as child processes, started again when they die.

A child watches a pipe whose other end only the supervisor holds: when the supervisor dies, even by SIGKILL,
the pipe closes and the children stop, so that ports and locks are free for the next start.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from drimbox.entrypoints.notify import VARIABLES
from drimbox.entrypoints.stop_signal import StopSignal

log = structlog.get_logger(__name__)

DOORS = ("dicom", "mllp", "web", "worker")
LIFELINE = "DRIMBOX_LIFELINE"  # file descriptor of the pipe, in the child's environment
STOP_SECONDS = 20.0  # what a child gets to stop cleanly
_BACKOFF = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)  # seconds before a new start, by consecutive early deaths
_EARLY = 30.0  # a child that lived shorter than this died early


@dataclass
class _Child:
    door: str
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    deaths: int = 0
    start_at: float = field(default=0.0)


class Supervisor:
    """Keeps one process per door alive until told to stop."""

    def __init__(self, config: Path, doors: Sequence[str] = DOORS) -> None:
        self._config = config
        self._children = [_Child(door) for door in doors]
        self._stop_signal = StopSignal()
        self._lifeline_read, self._lifeline_write = os.pipe()

    def run(self) -> int:
        """Supervise until SIGTERM or SIGINT; returns the exit status."""
        self._stop_signal.catch()
        while not self._stop_signal.wait(0.1):
            for child in self._children:
                self._watch(child)
        self._stop()
        return 0

    def _watch(self, child: _Child) -> None:
        now = time.monotonic()
        if child.process is None:
            if now >= child.start_at:
                self._start(child, now)
            return
        status = child.process.poll()
        if status is None:
            return
        child.deaths = child.deaths + 1 if now - child.started < _EARLY else 1
        pause = _BACKOFF[min(child.deaths, len(_BACKOFF)) - 1]
        log.error("child_died", door=child.door, exit_status=status, seconds=pause)
        child.process, child.start_at = None, now + pause

    def _start(self, child: _Child, now: float) -> None:
        command = [sys.executable, "-m", "drimbox", child.door, "--config", str(self._config)]
        ours = {name: value for name, value in os.environ.items() if name not in VARIABLES}
        environment = {**ours, LIFELINE: str(self._lifeline_read)}
        child.process = subprocess.Popen(command, env=environment, pass_fds=[self._lifeline_read])  # noqa: S603 our own interpreter and names
        child.started = now
        log.info("child_started", door=child.door)

    def _stop(self) -> None:
        alive = [child.process for child in self._children if child.process is not None]
        for process in alive:
            process.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for process in alive:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                log.error("child_killed", exit_status=process.pid)  # noqa: TRY400 there is no traceback to show
                process.kill()
                process.wait()
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
