"""Pro Santé Connect: introspection of the partners' access tokens over mutual TLS (trust-and-identity 1.5).

Positive answers are believed for at most `cache` seconds and never past `exp` (a token that is revoked meanwhile is
served on for that long), negative ones for 5 seconds, failures never: after one, everybody is told so for a second
instead of waiting for the next. The cache holds digests of tokens, not tokens. Whoever asks about a token that is
being asked about waits for that answer; at most `MAX_ASKED` tokens are asked about at once.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

from drimbox.adapters.https import HttpAnswer, Limits, NothingHeard, NothingSent, mutual_tls, request
from drimbox.domain.errors import PscBusy, PscUnavailable
from drimbox.domain.token_claims import expiry
from drimbox.flow.ports import Clock

__all__ = ["Psc", "PscBusy", "PscEndpoint", "PscUnavailable"]

WELL_KNOWN = "/.well-known/wallet-openid-configuration"  # not the standard suffix: trust-and-identity 1.1
NEGATIVE_SECONDS = 5.0
FAILURE_SECONDS = 1.0  # after a failure, nobody asks
DISCOVERY_LIFE = timedelta(days=1)
MAX_ANSWER_BYTES = 256 * 1024
MAX_CACHED = 10_000
MAX_ASKED = 64  # tokens asked about at once, those that wait for a thread among them
THREADS = 8  # introspections in flight

# What an HTTP server says of one request that it cannot take: it is no failure of its own.
_OF_ONE_TOKEN = frozenset({400, 413, 414, 431})

Claims = Mapping[str, Any]


class _NotTaken(PscUnavailable):
    """The question about this token was refused; one about another may be answered."""


@dataclass(frozen=True, slots=True)
class PscEndpoint:
    """Where and as whom we ask. `timeout` and `cache` in seconds; paths are PEM files."""

    issuer: str
    discovery_url: str
    authority: Path
    client_id: str
    client_certificate: Path
    client_key: Path
    timeout: float
    cache: float
    passphrase: Path | None = None


class _Believed(NamedTuple):
    """An answer and until when it holds, by both clocks: one may be set back, the other stands still in a test."""

    claims: Claims
    until: datetime
    until_monotonic: float


class Psc:
    """Asks Pro Santé Connect about tokens; safe for threads. `monotonic`: seconds. No thread before the first use."""

    def __init__(
        self, endpoint: PscEndpoint, clock: Clock, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._endpoint = endpoint
        self._clock, self._monotonic = clock, monotonic
        self._lock = threading.Lock()
        self._answers: OrderedDict[str, _Believed] = OrderedDict()
        self._asked: dict[str, Future[Claims]] = {}
        self._failure: tuple[float, str] = (float("-inf"), "")
        self._introspection: tuple[datetime, str] | None = None
        self._pool: ThreadPoolExecutor | None = None

    def introspect(self, token: str) -> Claims:
        """The introspection answer (`active` true or false). Raises `PscUnavailable`, `PscBusy`."""
        return self.known(token) or self.ask(token).result()

    def known(self, token: str) -> Claims | None:
        """The answer that is still believed, or None: `ask`. Never waits."""
        with self._lock:
            believed = self._answers.get(_key(token))
        if believed is None or self._clock() >= believed.until:
            return None
        return believed.claims if self._monotonic() < believed.until_monotonic else None

    def ask(self, token: str) -> Future[Claims]:
        """The answer to come, shared by all who ask about this token. Raises `PscUnavailable`, `PscBusy`."""
        key = _key(token)
        with self._lock:
            if key in self._asked:
                return self._asked[key]
            until, why = self._failure
            if self._monotonic() < until:
                raise PscUnavailable(why)
            if len(self._asked) >= MAX_ASKED:
                raise PscBusy("too many tokens are being asked about")
            self._pool = self._pool or ThreadPoolExecutor(THREADS, "psc")
            answer: Future[Claims] = Future()
            answer.set_running_or_notify_cancel()  # one who leaves takes it away from nobody
            self._asked[key] = answer
            self._pool.submit(self._answer, key, token, answer)
        return answer

    def close(self) -> None:
        """Ask no more; what is in flight ends by its own limits."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _answer(self, key: str, token: str, answer: Future[Claims]) -> None:
        now, instant = self._clock(), self._monotonic()
        try:
            claims = self._ask(token, now)
            with self._lock:
                self._remember(key, claims, now, instant)
        except BaseException as error:  # noqa: BLE001 the door of a thread: those who wait are told, and raise it
            with self._lock:
                if not isinstance(error, _NotTaken):
                    self._failure = (self._monotonic() + FAILURE_SECONDS, str(error))
                del self._asked[key]
            answer.set_exception(error)
            return
        with self._lock:
            del self._asked[key]
        answer.set_result(claims)

    def _remember(self, key: str, claims: Claims, now: datetime, instant: float) -> None:
        """`now`, `instant`: before the question, so that a slow answer is not believed for longer."""
        seconds = NEGATIVE_SECONDS
        if claims.get("active") is True:
            seconds = min(self._endpoint.cache, max((expiry(claims) or 0.0) - now.timestamp(), 0.0))
        self._answers[key] = _Believed(claims, now + timedelta(seconds=seconds), instant + seconds)
        self._answers.move_to_end(key)
        while len(self._answers) > MAX_CACHED or self._oldest_is_over(instant):
            self._answers.popitem(last=False)

    def _oldest_is_over(self, instant: float) -> bool:
        oldest = next(iter(self._answers.values()), None)
        return oldest is not None and oldest.until_monotonic <= instant

    def _ask(self, token: str, now: datetime) -> Mapping[str, Any]:
        form = {"token": token, "client_id": self._endpoint.client_id}
        claims = self._call("POST", self._introspection_url(now), form)
        if not isinstance(claims.get("active"), bool):
            raise PscUnavailable("the introspection answer has no `active`")
        return claims

    def _introspection_url(self, now: datetime) -> str:
        known = self._introspection
        if known is not None and now - known[0] < DISCOVERY_LIFE:
            return known[1]
        try:
            url = self._discover()
        except PscUnavailable:
            if known is None:
                raise
            return known[1]  # the last good copy
        self._introspection = (now, url)
        return url

    def _discover(self) -> str:
        endpoint = self._endpoint
        document = self._call("GET", endpoint.discovery_url or endpoint.issuer + WELL_KNOWN, None)
        if document.get("issuer") != endpoint.issuer:
            raise PscUnavailable("the discovery document names another issuer")
        url = document.get("introspection_endpoint")
        if not isinstance(url, str) or not url.startswith("https://"):
            raise PscUnavailable("the discovery document names no https introspection_endpoint")
        return url

    def _call(self, method: str, url: str, form: Mapping[str, str] | None) -> Mapping[str, Any]:
        endpoint = self._endpoint
        body = None if form is None else urlencode(form).encode("ascii")
        headers = {"Accept": "application/json"}
        if form is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        try:
            files = (endpoint.authority, endpoint.client_certificate, endpoint.client_key)
            context = mutual_tls(
                *files, now=self._clock(), passphrase=endpoint.passphrase, setting="psc.client_certificate"
            )
            limits = Limits(endpoint.timeout, endpoint.timeout, MAX_ANSWER_BYTES)
            answer = request(method, url, body, headers, context=context, limits=limits)
        except (NothingSent, NothingHeard, OSError) as error:
            raise PscUnavailable(f"{method} {url}: {error}") from error
        return _read(url, answer)


def _key(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _read(url: str, answer: HttpAnswer) -> Mapping[str, Any]:
    if answer.status in _OF_ONE_TOKEN:
        raise _NotTaken(f"{url} answered {answer.status}")
    if answer.status != 200:  # 401: our client is refused; 5xx: theirs fails; neither judges the token
        raise PscUnavailable(f"{url} answered {answer.status}")
    try:
        document = json.loads(answer.body)
    except (ValueError, RecursionError) as error:
        raise PscUnavailable(f"{url} answered no JSON") from error
    if not isinstance(document, dict):
        raise PscUnavailable(f"{url} answered no JSON object")
    return document
