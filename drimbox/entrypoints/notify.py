"""What the service manager is told: ready, alive, stopping (sd_notify(3): one datagram to $NOTIFY_SOCKET).

Without that socket nothing is told, and nothing is looked at for its sake.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping, MutableMapping

import structlog

from drimbox.settings.room import ConfigurationError

log = structlog.get_logger(__name__)

#: what the service manager sets for one process, and that no child of it may believe to be its own
VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
READY, ALIVE, STOPPING = "READY=1", "WATCHDOG=1", "STOPPING=1"
RETRY_SECONDS = 0.5  # after a look that found no life
_SIGNS = 3  # of life in the time after which the service manager takes us for dead
_SEND_SECONDS = 1.0


def socket_address(name: str) -> str:
    """The address of a $NOTIFY_SOCKET: a path, or `@name` in the abstract namespace. Raises `ConfigurationError`."""
    if name[:1] not in ("/", "@") or len(name) == 1:
        raise ConfigurationError(["NOTIFY_SOCKET: neither an absolute path nor @name"])
    return f"\0{name[1:]}" if name.startswith("@") else name


def watchdog_seconds(environment: Mapping[str, str], pid: int) -> float | None:
    """Silence after which process `pid` is taken for dead; None: its life is not watched (sd_watchdog_enabled(3))."""
    period = environment.get("WATCHDOG_USEC", "")
    if not period.isdecimal() or environment.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    return int(period) / 1e6 or None


class Notifier:
    """`name`: of $NOTIFY_SOCKET, empty = nobody listens. `watchdog`: seconds, None = life is not watched.

    Raises `ConfigurationError` for another name than systemd gives.
    """

    def __init__(self, name: str = "", watchdog: float | None = None) -> None:
        self._address = socket_address(name) if name else ""
        self.pace = watchdog / _SIGNS if watchdog and name else None

    @property
    def heard(self) -> bool:
        """Whether somebody listens."""
        return bool(self._address)

    def tell(self, words: str) -> None:
        """Send them; harmless when nobody listens. A service manager that cannot be reached stops no door."""
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
                line.settimeout(_SEND_SECONDS)
                line.connect(self._address)
                line.send(words.encode("ascii"))
        except OSError as error:
            log.error("service_manager_unreachable", reason=error.strerror or type(error).__name__)  # noqa: TRY400 expected, no traceback


def take_notifier(environment: MutableMapping[str, str] = os.environ) -> Notifier:
    """The notifier of this process, once: its children find nothing in the environment."""
    watchdog = watchdog_seconds(environment, os.getpid())
    name, *_ = [environment.pop(variable, "") for variable in VARIABLES]
    return Notifier(name, watchdog)


class Vigil:
    """Tells `ready` at the first proof of life, then that we are alive as often as asked, while there is proof."""

    def __init__(self, notifier: Notifier, proof: Callable[[], bool]) -> None:
        self._notifier, self._proof = notifier, proof
        self._ready = False
        self._due = 0.0

    def look(self) -> float | None:
        """Ask for proof and tell. Seconds until the next look; None: no more are needed."""
        if not self._notifier.heard or (self._ready and self._notifier.pace is None):
            return None
        if not self._proof():
            log.error("no_sign_of_life") if self._ready else log.debug("not_ready_yet")
            return RETRY_SECONDS
        self._notifier.tell(ALIVE if self._ready else READY)
        self._ready = True
        return self._notifier.pace

    def look_when_due(self) -> None:
        """For a loop that comes by often."""
        now = time.monotonic()
        if now >= self._due:
            pause = self.look()
            self._due = float("inf") if pause is None else now + pause

    def stopping(self) -> None:
        """Tell that the end has begun, as it was asked for."""
        self._notifier.tell(STOPPING)
