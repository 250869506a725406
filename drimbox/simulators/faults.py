"""Faults armed from outside: one knob per fault, consumed one by one, in the order they were armed.

The table is the contract's (`POST /control/faults`). A fault of the connection is taken where connections are
accepted (`server.py`), a fault of the answer where requests are answered.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Level = Literal["connection", "answer"]


@dataclass(frozen=True)
class Knob:
    """One fault of one place. `argument`: the fault is written `name:<code>`."""

    where: str
    name: str
    level: Level = "answer"
    argument: bool = False


KNOBS = (
    Knob("dmp", "busy"),
    Knob("dmp", "registry_error", argument=True),
    Knob("dmp", "soap_fault", argument=True),
    Knob("dmp", "http_500"),
    Knob("dmp", "drop_before_answer"),
    Knob("dmp", "timeout"),
    Knob("dmp", "garbage"),
    Knob("dmp", "refuse_connection", level="connection"),
    Knob("psc", "inactive"),
    Knob("psc", "expired"),
    Knob("psc", "http_503"),
    Knob("ans", "unreachable", level="connection"),
    Knob("ans", "unsigned"),
    Knob("ans", "tampered"),
    Knob("ans", "wrong_signer"),
    Knob("ans", "expired_signer"),
    Knob("ans", "revoked_signer"),
    Knob("ans", "without_us"),
    Knob("ans", "truncated"),
    Knob("betterstack", "unreachable", level="connection"),
    Knob("betterstack", "empty"),
    Knob("betterstack", "html"),
    Knob("betterstack", "http_500"),
    Knob("betterstack", "garbage"),
    Knob("betterstack", "private"),
    Knob("betterstack", "everyone"),
    Knob("betterstack", "shrunk"),
    Knob("betterstack", "invalid_lines"),
    Knob("betterstack", "too_many"),
    Knob("betterstack", "truncated_json"),
    Knob("betterstack", "slow"),
    Knob("betterstack", "redirect"),
    Knob("betterstack", "grown"),
    Knob("syslog", "refuse_connection", level="connection"),
    Knob("syslog", "reset"),
    Knob("syslog", "unconfirmed"),
    Knob("syslog", "slow"),
)

LEVELS: dict[tuple[str, str], Level] = {(knob.where, knob.name): knob.level for knob in KNOBS}
PLACES = tuple(dict.fromkeys(knob.where for knob in KNOBS))
MOST_TIMES = 100_000


def allowed_faults(where: str) -> list[str]:
    """How the faults of a place are written: `busy`, `registry_error:<code>`…"""
    return [knob.name + (":<code>" if knob.argument else "") for knob in KNOBS if knob.where == where]


class Faults:
    """The faults that are armed, per place. Safe between threads.

    A fault is the string that was armed (`registry_error:XDSRepositoryError` keeps its code).
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._armed: dict[str, deque[str]] = {where: deque() for where in PLACES}
        self._listeners: list[tuple[str, Callable[[], None]]] = []

    def arm(self, where: str, fault: str, times: int = 1) -> None:
        """Arm `fault` at `where` for the next `times` occasions. Raises ValueError with what is allowed."""
        knob = _knob(where, fault)
        if isinstance(times, bool) or not isinstance(times, int) or not 1 <= times <= MOST_TIMES:
            raise ValueError(f"times must be a whole number from 1 to {MOST_TIMES}")
        with self._lock:
            self._armed[where].extend([fault] * times)
        if knob.level == "connection":
            for place, listener in self._listeners:
                if place == where:
                    listener()

    def take(self, where: str, *kinds: str) -> str | None:
        """Consume the oldest fault armed at `where`, of one of `kinds`; without kinds, of the answer."""
        with self._lock:
            fault = self._first(where, kinds)
            if fault is not None:
                self._armed[where].remove(fault)
            return fault

    def peek(self, where: str, *kinds: str) -> str | None:
        """What `take` would give, left in place."""
        with self._lock:
            return self._first(where, kinds)

    def armed(self) -> dict[str, list[str]]:
        """Everything that is still armed, oldest first, per place."""
        with self._lock:
            return {where: list(faults) for where, faults in self._armed.items()}

    def when_refusing(self, where: str, listener: Callable[[], None]) -> None:
        """Call `listener` when a fault of the connection is armed at `where`: idle connections must go."""
        self._listeners.append((where, listener))

    def _first(self, where: str, kinds: tuple[str, ...]) -> str | None:
        return next((fault for fault in self._armed[where] if _matches(where, fault, kinds)), None)


def _matches(where: str, fault: str, kinds: tuple[str, ...]) -> bool:
    name = fault.partition(":")[0]
    return name in kinds if kinds else LEVELS[where, name] == "answer"


def _knob(where: str, fault: str) -> Knob:
    if where not in PLACES:
        raise ValueError(f"unknown place: allowed are {', '.join(PLACES)}")
    name, colon, code = fault.partition(":") if isinstance(fault, str) else ("", "", "")
    knob = next((knob for knob in KNOBS if knob.where == where and knob.name == name), None)
    if knob is None or bool(colon) != knob.argument or (knob.argument and not code.strip()):
        raise ValueError(f"unknown fault of {where}: allowed are {', '.join(allowed_faults(where))}")
    return knob
