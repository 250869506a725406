"""How a threaded door waits for its end, and proves that it serves until then."""

from __future__ import annotations

import errno
import signal
import socket
import threading
from collections.abc import Sequence

from drimbox.adapters.probes_net import own_address
from drimbox.entrypoints.memory import trim_now_and_then
from drimbox.entrypoints.notify import Vigil, take_notifier
from drimbox.entrypoints.supervisor import follow_supervisor

KNOCK_SECONDS = 5.0


def wait_for_stop(host: str, ports: Sequence[int]) -> None:
    """Block until SIGTERM, SIGINT or the death of the supervisor.

    The service manager hears that we are ready and alive when `ports`, on which the doors listen, answer a knock.
    """
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    follow_supervisor(stopping.set)
    trim_now_and_then(stopping)
    vigil = Vigil(take_notifier(), lambda: all(opens(host, port) for port in ports))
    while not stopping.wait(vigil.look()):
        continue
    vigil.stopping()


def opens(host: str, port: int) -> bool:
    """Whether the door there takes a connection and, as we leave without a word, ends it: accepting thread and server live.

    A door that is full closes it too, and lives. None of our doors notes such a connection of this machine.
    """
    try:
        with socket.create_connection((own_address(host), port), KNOCK_SECONDS) as knock:
            knock.shutdown(socket.SHUT_WR)
            return not knock.recv(1)
    except (ConnectionResetError, BrokenPipeError):
        return True
    except OSError as error:
        # ENOTCONN: the door had closed it before we could leave
        return error.errno == errno.ENOTCONN
