"""Whether we may exchange with a partner, at the price of a look into memory: `mesh.check_partner`, remembered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from drimbox.domain.access import refuse
from drimbox.domain.errors import AccessRefused, Unavailable
from drimbox.flow.mesh import Mesh, Snapshot, check_partner
from whitelist.decision import PeerRule, State, exchanges
from whitelist.document import TrustedList

RECHECK = 1.0  # seconds for which a look is used
OVERDUE = 5.0  # seconds after which a request waits for the next one
PATIENCE = 3.0  # seconds for a look; then what was known serves on (trust-and-identity 3.1, W8)
MOST_JUDGED = 1024  # subjects remembered


@dataclass(frozen=True, slots=True)
class _Still:
    """The whitelist as it was seen."""

    seen: Snapshot

    def current(self) -> Snapshot:
        return self.seen


class Partners:
    """Judges partners by the subject of their certificate. `log`: each doubt once, while the list is the same.

    `mesh.current()` may read and verify a list: `check` calls it, `check_soon` has it called in a thread.
    """

    def __init__(
        self,
        mesh: Mesh,
        rule: PeerRule,
        log: Callable[..., object],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._mesh, self._rule, self._log, self._monotonic = mesh, rule, log, monotonic
        self._pool = ThreadPoolExecutor(1, "whitelist-view")
        self._seen: tuple[float, Snapshot | None] = (float("-inf"), None)
        self._looking: asyncio.Future[None] | None = None
        self._judged: dict[str | None, str] = {}
        self._judged_by: tuple[State | None, TrustedList | None] = (None, None)

    def check(self, subject: str | None) -> None:
        """Raises `AccessRefused` as `mesh.check_partner`."""
        self._judge(self._mesh.current(), subject)

    async def check_soon(self, subject: str | None) -> None:
        """As `check`, from the event loop; what is known is at most `OVERDUE` seconds old. Raises `Unavailable`."""
        at, snapshot = self._seen
        age = self._monotonic() - at
        if age >= RECHECK:
            snapshot = await self._look(snapshot, age)
        if snapshot is None:
            raise Unavailable("the whitelist cannot be read")
        self._judge(snapshot, subject)

    def close(self) -> None:
        """Look no more."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _look(self, known: Snapshot | None, age: float) -> Snapshot | None:
        """One look for all; waited for when it is overdue, or when what is known lets nobody pass."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.get_running_loop().run_in_executor(self._pool, self._refresh)
        if known is not None and age < OVERDUE and exchanges(known.state):
            return known
        await asyncio.wait([self._looking], timeout=PATIENCE)
        return self._seen[1]

    def _refresh(self) -> None:
        snapshot = self._mesh.current()
        self._seen = (self._monotonic(), snapshot)

    def _judge(self, snapshot: Snapshot, subject: str | None) -> None:
        state, trusted = self._judged_by
        if snapshot.state is not state or snapshot.trusted is not trusted or len(self._judged) >= MOST_JUDGED:
            self._judged_by, self._judged = (snapshot.state, snapshot.trusted), {}
        code = self._judged.get(subject)
        if code is None:
            code = self._judged[subject] = self._judge_anew(snapshot, subject)
        if code:
            raise refuse(code)

    def _judge_anew(self, snapshot: Snapshot, subject: str | None) -> str:
        """The slug of the refusal, "" = may pass."""
        try:
            check_partner(_Still(snapshot), subject, self._rule, self._log)
        except AccessRefused as refusal:
            return refusal.code
        return ""
