"""A partner asks for images: mesh, token, manifest, instances, in this order; one audit record per request.

The decision is made at the start of a transfer, on what is committed then, and not again during it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime
from time import perf_counter
from typing import Any, Protocol

from drimbox.domain.access import Wish, bearer, check_token, manifest_uid, refuse
from drimbox.domain.errors import AccessRefused, PscBusy, PscUnavailable, Unavailable
from drimbox.domain.token_claims import Identity, TokenRules, is_alive
from drimbox.flow import retrievals
from drimbox.flow.freshness import Freshness
from drimbox.flow.partners import Partners
from drimbox.flow.ports import Clock
from drimbox.flow.retrieval_log import Open, RetrievalLog
from drimbox.flow.retrievals import Peer
from drimbox.flow.seldom import Seldom
from drimbox.flow.shared_facts import SharedFacts

__all__ = ["Gate", "Grant", "Peer"]

Claims = Mapping[str, Any]
RECOGNISED = 250  # claims that were judged, and are not judged again
STRANGERS_ASKED = (
    32  # tokens asked about at once beyond which callers without a certificate wait: partners come first
)


class Introspection(Protocol):
    """Pro Santé Connect; see `adapters/psc.py`. `ask` raises `PscUnavailable` and `PscBusy`, so does its answer."""

    def known(self, token: str) -> Claims | None: ...
    def ask(self, token: str) -> Future[Claims]: ...


class Grant:
    """What may leave, in order. One of `finished` and `refused` is called once, when the request is answered."""

    __slots__ = ("_case", "_log", "_open", "instances")

    def __init__(self, instances: Sequence[Any], case: _Case, log: RetrievalLog) -> None:
        self.instances = instances
        self._case, self._log = case, log
        self._open: Open | None = log.begin(case.record() | {"instances": len(instances)})

    def finished(
        self,
        sent: int,
        whole: bool,
        syntaxes: Sequence[str],
        why: str = "",
        began: float | None = None,
    ) -> None:
        """The transfer ended. `sent`: bytes; `syntaxes`: in which the instances left; `why` it was cut.

        `began`: `perf_counter` when the first byte left.
        """
        end = retrievals.ended(sent, whole, syntaxes, why, self._case.milliseconds)
        self._end(end, None if began is None else began - self._case.started)

    def refused(self, slug: str, status: int, why: str = "") -> None:
        """Nothing was sent after all: what is granted cannot be had in the form that was asked for."""
        self._end(retrievals.refused(slug, status, why, self._case.milliseconds) | {"instances": 0})

    def _end(self, end: retrievals.Record, first_byte: float | None = None) -> None:
        if self._open is None:
            raise RuntimeError("this retrieval has ended already")
        retrieval, self._open = self._open, None
        self._log.end(retrieval, end, first_byte)


@dataclass(slots=True)
class _Case:
    """One request while it is judged: what is known of it so far."""

    wish: Wish
    peer: Peer
    at: datetime
    started: float = field(default_factory=perf_counter)
    token: str | None = None
    identity: Identity | None = None

    def record(self) -> retrievals.Record:
        return retrievals.begun(self.wish, self.peer, self.identity, self.token, self.at)

    @property
    def milliseconds(self) -> float:
        return (perf_counter() - self.started) * 1000


@dataclass
class Gate:
    """The decision and its record. `log(event, **fields)`, which is not told the same thing for every request.

    `decide` and `admit` raise `AccessRefused` only, except for a defect or damaged bytes (then what they raise is
    recorded as 500 internal-error).
    """

    partners: Partners
    introspection: Introspection
    rules: TokenRules
    freshness: Freshness
    records: RetrievalLog
    clock: Clock
    log: Callable[..., object]
    _asked: Counter[str] = field(default_factory=Counter, init=False)
    _recognised: dict[int, tuple[Claims, Peer, Identity]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.log = Seldom(self.log)

    def decide(self, wish: Wish, peer: Peer) -> Grant:
        """Decide now, in this thread."""
        case = _Case(wish, peer, self.clock())
        try:
            self.partners.check(peer.certificate_subject)
            token = case.token = bearer(wish.authorization)
            claims = self.introspection.known(token) or self.introspection.ask(token).result()
            kos = self._recognise(case, claims)
            facts = self.freshness.facts(kos, wish.study, case.at)
            return self._grant(case, facts)
        except Exception as error:
            self._refuse(case, error)
            raise

    async def admit(self, wish: Wish, peer: Peer) -> Grant:
        """As `decide`, from the event loop, which waits for nothing."""
        case = _Case(wish, peer, self.clock())
        try:
            await self.partners.check_soon(peer.certificate_subject)
            token = case.token = bearer(wish.authorization)
            claims = self.introspection.known(token)
            if claims is None:
                claims = await self._ask(token, peer)
            kos = self._recognise(case, claims)
            facts = await self.freshness.facts_soon(kos, wish.study, case.at)
            return self._grant(case, facts)
        except Exception as error:
            self._refuse(case, error)
            raise

    def refused(self, wish: Wish, peer: Peer, slug: str, status: int, why: str = "") -> None:
        """Record a request that was refused without being judged here (no such resource, no room)."""
        self._record(_Case(wish, peer, self.clock()), slug, status, why)

    def close(self) -> None:
        """Decide no more; every record that is complete is written."""
        self.partners.close()
        self.freshness.close()
        self.records.stop()

    async def _ask(self, token: str, peer: Peer) -> Claims:
        crowded = len(self._asked) >= STRANGERS_ASKED and token not in self._asked
        if crowded and peer.certificate_der is None:
            raise refuse("busy", "too many tokens are being asked about")
        self._asked[token] += 1
        try:
            return await asyncio.wrap_future(self.introspection.ask(token))
        finally:
            self._asked[token] -= 1
            if not self._asked[token]:
                del self._asked[token]

    def _recognise(self, case: _Case, claims: Claims) -> str:
        """Whom the token names, and the manifest that is asked for."""
        case.identity = self._identity(claims, case.peer)
        return manifest_uid(case.wish.kos)

    def _identity(self, claims: Claims, peer: Peer) -> Identity:
        """Whom claims name; the very same ones, shown by the same peer, are judged once, but for their end."""
        now, seen = self.clock(), self._recognised.get(id(claims))
        if seen is not None and seen[0] is claims and seen[1] == peer and is_alive(claims, now):
            return seen[2]
        identity = check_token(
            claims,
            self.rules,
            now,
            certificate=peer.certificate_der,
            certificate_subject=peer.certificate_subject,
        )
        if len(self._recognised) >= RECOGNISED:
            self._recognised.clear()
        self._recognised[id(claims)] = claims, peer, identity
        return identity

    def _grant(self, case: _Case, facts: SharedFacts) -> Grant:
        return Grant(facts.choose(case.wish), case, self.records)

    def _refuse(self, case: _Case, error: Exception) -> None:
        """Record why, and raise the refusal that says so; returns for a defect, which is raised as it is."""
        refusal = error if isinstance(error, AccessRefused) else self._refusal_for(error, case.wish.study)
        if refusal is None:
            self._record(case, "internal-error", 500, type(error).__name__)
            return
        self._record(case, refusal.code, refusal.status, refusal.why)
        if refusal is not error:
            raise refusal from error

    def _refusal_for(self, error: Exception, study: str) -> AccessRefused | None:
        """How what we cannot do now is answered."""
        if isinstance(error, PscUnavailable) and not isinstance(error, PscBusy):
            self.log("psc_unavailable", error=str(error))
            return refuse("psc-unavailable")
        if isinstance(error, Unavailable):
            self.log("retrieval_impossible", study=study or None, reason=str(error))
            return refuse("busy", str(error))
        return None

    def _record(self, case: _Case, slug: str, status: int, why: str) -> None:
        end = retrievals.refused(slug, status, why, case.milliseconds)
        self.records.refuse(case.record(), end, stranger=case.identity is None, at=case.at)
