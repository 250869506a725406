"""How a threaded door waits for its end, and proves that it serves until then."""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Sequence

from drimbox.adapters.probes_net import own_address
from drimbox.entrypoints.memory import trim_now_and_then
from drimbox.entrypoints.notify import Vigil, take_notifier
from drimbox.entrypoints.stop_signal import StopSignal
from drimbox.entrypoints.supervisor import follow_supervisor

KNOCK_SECONDS = 5.0


def wait_for_stop(stop: StopSignal, host: str, ports: Sequence[int]) -> None:
    """Block until SIGTERM, SIGINT or the death of the supervisor. `stop`: which catches the signals already.

    The service manager hears that we are ready, then alive, while all `ports`, where doors listen, answer a knock.
    """
    follow_supervisor(stop.tell)
    trimming = threading.Event()
    trim_now_and_then(trimming)
    vigil = Vigil(take_notifier(), lambda: all(opens(host, port) for port in ports))
    while not stop.wait(vigil.look()):
        continue
    trimming.set()
    vigil.stopping()


def opens(host: str, port: int) -> bool:
    """Whether the door there takes a connection and ends it when we leave without a word: its threads live.

    So it does when it is full. Our doors take no note of such a connection of this machine.
    """
    try:
        with socket.create_connection((own_address(host), port), KNOCK_SECONDS) as knock:
            knock.shutdown(socket.SHUT_WR)
            return not knock.recv(1)
    except (ConnectionResetError, BrokenPipeError):
        return True
    except OSError as error:
        return error.errno == errno.ENOTCONN  # it was closed before we could leave
