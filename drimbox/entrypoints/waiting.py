"""How a threaded door waits for its end."""

from __future__ import annotations

import signal
import threading

from drimbox.entrypoints.memory import trim_now_and_then
from drimbox.entrypoints.supervisor import follow_supervisor


def wait_for_stop() -> None:
    """Block until SIGTERM, SIGINT or the death of the supervisor."""
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    follow_supervisor(stopping.set)
    trim_now_and_then(stopping)
    stopping.wait()
