"""Whose turn it is: one line per client, served in rotation, so that a client with a whole study delays nobody."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Generic, TypeVar

from dicom_store.conversions import Busy

T = TypeVar("T")


class FairQueue(Generic[T]):
    """Jobs waiting. `per_client`: jobs of one client under way at once; `waiting`: in all, `line`: of one client."""

    def __init__(self, *, per_client: int, waiting: int, line: int) -> None:
        self._per_client = per_client
        self._limit, self._line = waiting, line
        self._lines: OrderedDict[str, deque[T]] = OrderedDict()
        self._running: dict[str, int] = {}
        self._waiting = 0

    def __len__(self) -> int:
        return self._waiting

    def put(self, client: str, job: T) -> None:
        """Wait in the line of a client. Raises `Busy`."""
        if self._waiting >= self._limit or len(self._lines.get(client, ())) >= self._line:
            raise Busy("too many conversions are waiting")
        self._lines.setdefault(client, deque()).append(job)
        self._waiting += 1

    def take(self) -> tuple[str, T] | None:
        """The next job to start, with its client; None when nobody may start one. Its end must be `done`."""
        for client, line in self._lines.items():
            if self._running.get(client, 0) >= self._per_client:
                continue
            job = line.popleft()
            self._waiting -= 1
            self._running[client] = self._running.get(client, 0) + 1
            self._lines.move_to_end(client)
            self._forget(client)
            return client, job
        return None

    def done(self, client: str) -> None:
        """A job of that client ended."""
        self._running[client] -= 1
        if not self._running[client]:
            del self._running[client]

    def remove(self, client: str, job: T) -> bool:
        """Nobody wants a waiting job any more; False when it was started."""
        line = self._lines.get(client)
        if line is None or job not in line:
            return False
        line.remove(job)
        self._waiting -= 1
        self._forget(client)
        return True

    def _forget(self, client: str) -> None:
        if not self._lines[client]:
            del self._lines[client]
