"""The health paths in front of another ASGI application: the filter, then the last report; nothing is waited for.

trust-and-identity 6.2: GET and HEAD, no token, no redirect, no cookie; 200 for pass and warn, 503 for fail.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from healthcheck.client_address import parse_address
from healthcheck.probe import Status
from healthcheck.report import public_body

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

PATHS = ("/healthcheck", "/health", "/q/health")
METHODS = ("GET", "HEAD")
DETAILED = "application/health+json"
PLAIN = "application/json"
_CODES = {Status.PASS: 200, Status.WARN: 200, Status.FAIL: 503}


class Asking(NamedTuple):
    """Who asks. `address`: of the client, behind declared proxies too."""

    address: str
    user_agent: str


Admit = Callable[[Asking], bool]


@dataclass
class Patience:
    """How often an address may be refused before it has to wait for its refusals: `burst`, then `rate` a second.

    A refusal beyond that comes `delay` seconds late, as long as fewer than `most` wait. IPv6 addresses of one /64,
    which a single host may have all, count as one.
    """

    burst: int = 20
    rate: float = 2.0
    delay: float = 0.5
    most: int = 64
    addresses: int = 4096
    monotonic: Callable[[], float] = time.monotonic
    _tokens: OrderedDict[str, tuple[float, float]] = field(default_factory=OrderedDict, init=False)
    _waiting: int = field(default=0, init=False)

    def is_spent(self, address: str) -> bool:
        """Whether this refusal is one too many."""
        now, who = self.monotonic(), _host_of(address)
        tokens, then = self._tokens.pop(who, (float(self.burst), now))
        tokens = min(float(self.burst), tokens + (now - then) * self.rate)
        spent = tokens < 1
        self._tokens[who] = (tokens if spent else tokens - 1, now)
        if len(self._tokens) > self.addresses:
            self._tokens.popitem(last=False)
        return spent

    async def wait(self) -> None:
        """Make it wait, unless too many do."""
        if self._waiting >= self.most:
            return
        self._waiting += 1
        try:
            await asyncio.sleep(self.delay)
        finally:
            self._waiting -= 1


class HealthEndpoint:
    """Answers `base` (path of the WADO-RS service, with and without final slash) and PATHS; passes on all else.

    `status` gives the state of the last report. `admit` says whether an address gets an answer, and keeps count;
    None = everybody does.
    """

    def __init__(
        self,
        app: App,
        base: str,
        status: Callable[[], Status],
        admit: Admit | None = None,
        patience: Patience | None = None,
    ) -> None:
        self._app = app
        self._paths = frozenset(path + end for path in (base.rstrip("/"), *PATHS) for end in ("", "/"))
        self._status, self._admit = status, admit
        self._patience = patience or Patience()
        self._bodies = {status: public_body(status) for status in Status}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request for the health paths."""
        if scope["type"] != "http" or scope["path"] not in self._paths:
            await self._app(scope, receive, send)
        elif scope["method"] not in METHODS:
            problem = _problem(405, "method-not-allowed", "Method not allowed", "GET and HEAD only.")
            await _answer(scope, send, 405, problem, _PROBLEM | {"allow": ", ".join(METHODS)})
        elif self._admit is not None and not self._admit(asking := _asking(scope)):
            await self._refuse(scope, send, asking.address)
        else:
            status = self._status()
            kind = DETAILED if DETAILED in _header(scope, b"accept") else PLAIN
            await _answer(scope, send, _CODES[status], self._bodies[status], {"content-type": kind})

    async def _refuse(self, scope: Scope, send: Send, address: str) -> None:
        if self._patience.is_spent(address):
            await self._patience.wait()
            problem = _problem(429, "too-many-requests", "Too many requests", "This address is not listed.")
            await _answer(scope, send, 429, problem, _PROBLEM | {"retry-after": "60"})
            return
        words = "This address is not one of the probes that may ask."
        await _answer(
            scope, send, 403, _problem(403, "address-not-listed", "Forbidden", words), dict(_PROBLEM)
        )


_PROBLEM = {"content-type": "application/problem+json"}


def _problem(status: int, slug: str, title: str, detail: str) -> bytes:
    """RFC 9457."""
    return json.dumps({"type": slug, "title": title, "status": status, "detail": detail}).encode("ascii")


def _asking(scope: Scope) -> Asking:
    """Who asks: what a declared proxy says of its client counts, else the socket's peer."""
    client = (scope.get("state") or {}).get("client") or (scope.get("client") or ("",))[0]
    return Asking(client, _header(scope, b"user-agent"))


def _host_of(address: str) -> str:
    found = parse_address(address)
    return address if found is None or found.version == 4 else f"{int(found) >> 64:x}::/64"


def _header(scope: Scope, name: bytes) -> str:
    return ",".join(value.decode("latin-1") for key, value in scope["headers"] if key == name)


async def _answer(scope: Scope, send: Send, status: int, body: bytes, headers: Mapping[str, str]) -> None:
    every = {**headers, "content-length": str(len(body)), "cache-control": "no-store"}
    lines = [(name.encode("ascii"), value.encode("ascii")) for name, value in every.items()]
    await send({"type": "http.response.start", "status": status, "headers": lines})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})
