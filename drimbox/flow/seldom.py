"""A log that repeats itself at most once a second: what fails for every request is said once, not for each."""

from __future__ import annotations

import time
from collections.abc import Callable

PERIOD = 1.0  # seconds


class Seldom:
    """Passes an event on unless the same one was a moment ago. `monotonic`: seconds."""

    def __init__(self, log: Callable[..., object], monotonic: Callable[[], float] = time.monotonic) -> None:
        self._log, self._monotonic = log, monotonic
        self._said: dict[str, float] = {}

    def __call__(self, event: str, **fields: object) -> None:
        """Log, or not."""
        now = self._monotonic()
        if now - self._said.get(event, float("-inf")) >= PERIOD:
            self._said[event] = now
            self._log(event, **fields)
