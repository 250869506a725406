"""Facts of manifests that are right at the time of the request: one look at the standing, the rest from memory."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from drimbox.domain.access import Standing, check_standing, refuse
from drimbox.flow.coalesce import Coalesced
from drimbox.flow.shared_facts import SharedFacts, SharedReading

LOOK_SECONDS = 5.0  # for the standings of those who ask together
READ_SECONDS = 30.0  # for the facts of one manifest, which may list 50,000 instances
SEEN = 1000  # manifests whose standing is remembered
READERS = 2  # manifests read at once: they must not starve what is served


class Look(Protocol):
    """Where manifests stand now (`adapters/serving_queries.Standings`). Raises `Unavailable`."""

    def __call__(self, kos_uids: Collection[str]) -> Mapping[str, Standing]: ...
    def version(self) -> int | None: ...
    def close(self) -> None: ...


@dataclass
class Freshness:
    """A change that is committed when a request begins is seen by it. `async` methods: of one event loop.

    `grace`: for how long a manifest that was replaced serves on. No thread before the first use.
    """

    look: Look
    reading: SharedReading
    grace: timedelta = timedelta()
    _lookers: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "standings"))
    _readers: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(READERS, "shared-facts"))
    _standings: Coalesced[str, Standing] = field(init=False)
    _reads: dict[str, Coalesced[str, SharedFacts]] = field(default_factory=dict)
    _seen: dict[str, tuple[int, Standing]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._standings = Coalesced(self.look, self._lookers, LOOK_SECONDS)

    def facts(self, kos_uid: str, study: str, now: datetime) -> SharedFacts:
        """The facts of a manifest that serves. Raises `AccessRefused`, `Unavailable`, `errors.Damaged`."""
        standing = check_standing(study, self.look([kos_uid]).get(kos_uid), now, self.grace)
        return self._known(kos_uid, standing) or self._checked(self.reading.read(kos_uid), study, now)

    async def facts_soon(self, kos_uid: str, study: str, now: datetime) -> SharedFacts:
        """As `facts`, from the event loop: nothing but the look is waited for while nothing changed."""
        standing = check_standing(study, await self._standing(kos_uid), now, self.grace)
        return self._known(kos_uid, standing) or self._checked(await self._read(kos_uid), study, now)

    def close(self) -> None:
        """Ask no more; what runs is not waited for."""
        for pool in (self._lookers, self._readers):
            pool.shutdown(wait=False, cancel_futures=True)
        self.look.close()

    async def _standing(self, kos_uid: str) -> Standing | None:
        """Where the manifest stands: as seen before while nothing at all was committed since, else looked at."""
        version = self.look.version()
        seen = self._seen.get(kos_uid)
        if seen is not None and seen[0] == version:
            return seen[1]
        standing = await self._standings.of(kos_uid)
        if standing is not None and version is not None:  # read before the look: it is as new or newer
            if len(self._seen) >= SEEN:
                self._seen.clear()
            self._seen[kos_uid] = (version, standing)
        return standing

    def _known(self, kos_uid: str, standing: Standing) -> SharedFacts | None:
        known = self.reading.kept.get(kos_uid)
        return known if known is not None and known.standing == standing else None

    def _checked(self, facts: SharedFacts | None, study: str, now: datetime) -> SharedFacts:
        """What was read just now, which may stand otherwise than it did a moment before."""
        if facts is None:
            raise refuse("kos-unknown")
        check_standing(study, facts.standing, now, self.grace)
        return facts

    async def _read(self, kos_uid: str) -> SharedFacts | None:
        """Read after we asked, once for all who wait for the same; one manifest never waits behind itself twice."""
        if kos_uid not in self._reads:

            def forget() -> None:
                self._reads.pop(kos_uid, None)

            self._reads[kos_uid] = Coalesced(self._read_each, self._readers, READ_SECONDS, forget)
        return await self._reads[kos_uid].of(kos_uid)

    def _read_each(self, kos_uids: Collection[str]) -> Mapping[str, SharedFacts]:
        found = {uid: self.reading.read(uid) for uid in kos_uids}
        return {uid: facts for uid, facts in found.items() if facts is not None}
