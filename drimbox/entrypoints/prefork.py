"""Several processes behind the same listening sockets: forked from one that imported everything, so memory is shared.

The parent serves nothing: it starts a child again when it dies, and stops them all when told, or when its own
supervisor is gone. A child stops when the parent is gone, even by SIGKILL: a pipe tells it.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from drimbox.entrypoints.notify import Notifier, Vigil
from drimbox.entrypoints.supervisor import follow, lifeline

log = structlog.get_logger(__name__)

STOP_SECONDS = 15.0  # what a child gets to stop cleanly
PAUSE_SECONDS = 1.0  # before a child that died is started again
_LOOK_SECONDS = 0.2

# `child(number, follow_parent)`: serves until SIGTERM, takes SIGHUP if it likes; calls `follow_parent(stop)` once
# it can be stopped.
Child = Callable[[int, Callable[[Callable[[], None]], None]], None]


@dataclass
class _Process:
    number: int
    pid: int = 0
    start_at: float = 0.0


class Prefork:
    """Keeps `count` children alive. The caller is single-threaded and holds no connection that a fork would share.

    `vigil`: what tells the service manager how the children are.
    """

    def __init__(self, count: int, child: Child, vigil: Vigil | None = None) -> None:
        self._child = child
        self._vigil = vigil or Vigil(Notifier(), lambda: True)
        self._processes = [_Process(number) for number in range(count)]
        self._alive_read, self._alive_write = os.pipe()
        self._stopping = self._renewing = False

    def run(self) -> None:
        """Serve until SIGTERM, SIGINT, or the end of the supervisor; SIGHUP is passed on to the children."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._told_to_stop)
        signal.signal(signal.SIGHUP, self._told_to_renew)
        supervisor = lifeline()
        gc.collect()
        gc.freeze()  # what is here now is never looked at again: its pages stay shared
        while not self._stopping:
            for process in self._processes:
                self._watch(process)
            self._pass_hangup_on()
            self._vigil.look_when_due()
            watched = [] if supervisor is None else [supervisor]
            if select.select(watched, [], [], _LOOK_SECONDS)[0]:
                log.warning("supervisor_gone")
                self._stopping = True
        self._vigil.stopping()
        self._stop()

    def _told_to_stop(self, *_: object) -> None:
        self._stopping = True

    def _told_to_renew(self, *_: object) -> None:
        self._renewing = True

    def _pass_hangup_on(self) -> None:
        """Here, not in the handler: it might meet a fork half-way."""
        if self._renewing:
            self._renewing = False
            for process in self._processes:
                if process.pid:
                    os.kill(process.pid, signal.SIGHUP)

    def _watch(self, process: _Process) -> None:
        if process.pid:
            pid, status = os.waitpid(process.pid, os.WNOHANG)
            if pid:
                log.error("web_process_died", exit_status=os.waitstatus_to_exitcode(status))
                process.pid, process.start_at = 0, time.monotonic() + PAUSE_SECONDS
        elif time.monotonic() >= process.start_at:
            process.pid = self._fork(process.number)

    def _fork(self, number: int) -> int:
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid:
            return pid
        status = 1
        try:
            for signal_number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(signal_number, signal.SIG_DFL)
            # until the child takes it, before it reads what it would renew
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            os.close(self._alive_write)
            self._child(number, lambda stop: follow(self._alive_read, stop))
            status = 0
        except BaseException:  # the child must never go on in the parent's code
            log.exception("web_process_failed")
        finally:
            os._exit(status)

    def _stop(self) -> None:
        alive = [process.pid for process in self._processes if process.pid]
        for pid in alive:
            os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        while alive and time.monotonic() < deadline:
            alive = [pid for pid in alive if os.waitpid(pid, os.WNOHANG)[0] == 0]
            time.sleep(0.05)
        for pid in alive:
            log.error("web_process_killed")
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
