"""Pro Santé Connect: introspection of the partners' access tokens over mutual TLS (trust-and-identity 1.5).

Positive answers are believed for at most `cache` seconds and never past `exp`, negative ones for 5 seconds,
failures never. The cache holds digests of tokens, not tokens.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from drimbox.adapters.https import HttpAnswer, Limits, NothingHeard, NothingSent, mutual_tls, request
from drimbox.flow.ports import Clock

WELL_KNOWN = "/.well-known/wallet-openid-configuration"  # not the standard suffix: trust-and-identity 1.1
NEGATIVE_SECONDS = 5
DISCOVERY_LIFE = timedelta(days=1)
MAX_ANSWER_BYTES = 256 * 1024
MAX_CACHED = 10_000


class PscUnavailable(Exception):
    """Pro Santé Connect could not be asked, or refused us as a client: says nothing about the token."""


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


class Psc:
    """Asks Pro Santé Connect about tokens; safe for threads."""

    def __init__(self, endpoint: PscEndpoint, clock: Clock) -> None:
        self._endpoint = endpoint
        self._clock = clock
        self._lock = threading.Lock()
        self._answers: OrderedDict[str, tuple[datetime, Mapping[str, Any]]] = OrderedDict()
        self._introspection: tuple[datetime, str] | None = None

    def introspect(self, token: str) -> Mapping[str, Any]:
        """The introspection answer (`active` true or false). Raises `PscUnavailable`."""
        key = hashlib.sha256(token.encode()).hexdigest()
        now = self._clock()
        with self._lock:
            believed = self._answers.get(key)
            if believed is not None and now < believed[0]:
                return believed[1]
        claims = self._ask(token, now)
        self._remember(key, claims, now)
        return claims

    def _remember(self, key: str, claims: Mapping[str, Any], now: datetime) -> None:
        seconds: float = NEGATIVE_SECONDS
        if claims.get("active") is True:
            seconds = min(self._endpoint.cache, float(claims.get("exp", 0)) - now.timestamp())
        with self._lock:
            self._answers[key] = (now + timedelta(seconds=seconds), claims)
            self._answers.move_to_end(key)
            while len(self._answers) > MAX_CACHED:
                self._answers.popitem(last=False)

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
            context = mutual_tls(*files, now=self._clock())
            limits = Limits(endpoint.timeout, endpoint.timeout, MAX_ANSWER_BYTES)
            answer = request(method, url, body, headers, context=context, limits=limits)
        except (NothingSent, NothingHeard, OSError) as error:
            raise PscUnavailable(f"{method} {url}: {error}") from error
        return _read(url, answer)


def _read(url: str, answer: HttpAnswer) -> Mapping[str, Any]:
    if answer.status != 200:  # 400/401: our client is refused; 5xx: theirs fails; neither judges the token
        raise PscUnavailable(f"{url} answered {answer.status}")
    try:
        document = json.loads(answer.body)
    except ValueError as error:
        raise PscUnavailable(f"{url} answered no JSON") from error
    if not isinstance(document, dict):
        raise PscUnavailable(f"{url} answered no JSON object")
    return document
