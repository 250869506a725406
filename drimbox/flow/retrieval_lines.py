"""What a log says of retrievals: a line a second for each exam, peer and outcome, however many requests there were.

A viewer asks for thousands of instances one by one: each has its record in the trace, none a line of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from drimbox.flow.retrievals import CUT, REFUSED, SERVED

PERIOD = 1.0  # seconds
_ACTIONS = {SERVED: "retrieval_served", CUT: "retrieval_cut", REFUSED: "retrieval_refused"}
_Key = tuple[str, str | None, str | None, str, str | None, int | None]


@dataclass(slots=True)
class RetrievalLines:
    """Of one process; called by one thread."""

    _sums: dict[_Key, list[int]] = field(default_factory=dict)
    _said: float = float("-inf")

    def add(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Requests that ended."""
        for record in records:
            action = _ACTIONS.get(record["event"])
            if action is not None:
                key = (
                    *(action, record.get("study"), record.get("kos"), record["actor"]),
                    *(record.get("code"), record.get("status")),
                )
                sums = self._sums.setdefault(key, [0, 0])
                sums[0] += record.get("repeated", 1)
                sums[1] += record.get("bytes", 0)

    def say(self, log: Callable[..., object], instant: float, *, everything: bool = False) -> None:
        """Log what there was, once a second; `instant`: monotonic seconds."""
        if not self._sums or (instant - self._said < PERIOD and not everything):
            return
        sums, self._sums, self._said = self._sums, {}, instant
        for (action, study, kos, actor, slug, status), (count, size) in sums.items():
            log(action, study=study, kos=kos, peer=actor, slug=slug, status=status, count=count, bytes=size)
