"""What is said of refused connections: at once for the first, then once a minute with a count.

A scanner fills neither log nor trace, and a slow database never holds a door up: one thread tells.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue

OTHERS = "(others)"
_CAPACITY = 1024  # (address, reason) pairs told apart within one period
_STOP_PATIENCE = 10.0  # seconds for what waits to be told when the doors close

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Refusal:
    """One or more refused connections. `repeated`: how many more of the same came since the last one told."""

    door: str
    address: str
    reason: str
    repeated: int = 0


@dataclass(slots=True)
class _Told:
    at: float
    since: int = 0


class Refusals:
    """Logs refusals and passes them to `tell`, for each address and reason at most once per `period` seconds.

    With more than `capacity` of them within a period, the rest are told together under the address `OTHERS`.
    `clock`: monotonic seconds; `name`: of the doors, in the log; `noted(door)`: of each one, told or not. `tell` runs
    in the thread that lives between `start` and `stop`.
    """

    def __init__(
        self,
        tell: Callable[[Refusal], None] = lambda _refusal: None,
        *,
        period: float = 60.0,
        capacity: int = _CAPACITY,
        name: str = "mllp",
        clock: Callable[[], float] = time.monotonic,
        noted: Callable[[str], None] = lambda _door: None,
    ) -> None:
        self._tell, self._period, self._capacity, self._clock = tell, period, capacity, clock
        self._noted = noted
        self._lock = threading.Lock()
        self._told: dict[tuple[str, str], _Told] = {}
        self._waiting: SimpleQueue[Refusal | None] = SimpleQueue()
        self._name = name
        self._thread = threading.Thread(target=self._run, name=f"{name}-refusals", daemon=True)

    def start(self) -> None:
        """Begin to tell; what was noted before is told now."""
        self._thread.start()

    def stop(self) -> None:
        """Tell what waits, then end."""
        self._waiting.put(None)
        if self._thread.is_alive():
            self._thread.join(_STOP_PATIENCE)

    def note(self, door: str, address: str, reason: str) -> None:
        """A connection was refused or closed for what it sent. Returns at once."""
        self._noted(door)
        with self._lock:
            due = self._due(door, address, reason)
        if due is not None:
            self._waiting.put(due)

    def _due(self, door: str, address: str, reason: str) -> Refusal | None:
        """What is to be told now; None when it is counted for later."""
        now = self._clock()
        if (address, reason) not in self._told and not self._room(now):
            address = OTHERS
        last = self._told.get((address, reason))
        if last is not None and now - last.at < self._period:
            last.since += 1
            return None
        self._told[address, reason] = _Told(now)
        return Refusal(door, address, reason, last.since if last else 0)

    def _room(self, now: float) -> bool:
        """Whether one more pair can be told apart, once those whose period is over are forgotten."""
        if len(self._told) >= self._capacity:
            self._told = {
                key: told
                for key, told in self._told.items()
                if now - told.at < self._period or key[0] == OTHERS  # its count is still to be told
            }
        return len(self._told) < self._capacity

    def _run(self) -> None:
        while (refusal := self._waiting.get()) is not None:
            _say(self._name, refusal)
            try:
                self._tell(refusal)
            except Exception as error:  # noqa: BLE001 the door of a thread: logged, the next one is told
                _log.error("%s_refusal_not_told %s: %s", self._name, refusal.address, type(error).__name__)


def _say(name: str, refusal: Refusal) -> None:
    extra = {
        "action": f"{name}_refused",
        "door": refusal.door,
        "peer": refusal.address,
        "reason": refusal.reason,
        "repeated": refusal.repeated,
    }
    _log.warning("%s_refused %s: %s", name, refusal.address, refusal.reason, extra=extra)
