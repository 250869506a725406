"""Retrieve a published file within limits: the list by verified TLS, CRLs in clear too (they are signed).

Facts: trust-and-identity 3.1 (W1), 3.5 step 1, 5.4. The answer is 200 or 304 or an `Unreachable` that says why;
what the bytes are worth is not judged here.
"""

from __future__ import annotations

import hashlib
import http.client
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from whitelist.errors import Unusable
from whitelist.timed_http import Answer, Bounds, TooLarge, Truncated, get

MAX_LIST_BYTES = 10 * 1024 * 1024  # 3.5 step 1
MAX_REDIRECTS = 3
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_SAFE = "/%:@!$&'()*+,;=~-._"  # stays as it is in a path: what may already be percent-encoded is not encoded twice
_MAX_VALIDATOR = 512


class Unreachable(Unusable):
    """Nothing usable came; the reason never quotes the peer."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """`status` 304: the body is the one that the validators named, `body` is empty and `sha256` is of nothing.

    `etag`, `modified`: validators for the next conditional request, None when the server gave none usable.
    """

    status: Literal[200, 304]
    body: bytes
    etag: str | None
    modified: str | None
    sha256: str
    url: str


class Fetcher:
    """GETs with limits: seconds to connect, seconds for everything (redirects included each), bytes of a body.

    `authority`: PEM of the only authorities believed; None = those of the system.
    """

    def __init__(
        self,
        timeout_connect: float = 10,
        timeout_total: float = 60,
        max_bytes: int = MAX_LIST_BYTES,
        authority: Path | None = None,
    ) -> None:
        self._bounds = Bounds(timeout_connect, timeout_total, max_bytes)
        self._authority = authority

    def get(
        self, url: str, etag: str | None = None, modified: str | None = None, *, plain: bool = False
    ) -> Fetched:
        """The body at `url`, or 304 when a validator given still holds.

        `plain`: http is allowed as well, for content that is signed and holds no secret. Redirects stay on the same
        scheme, host and port. Raises `Unreachable`.
        """
        conditions = {"If-None-Match": etag, "If-Modified-Since": modified}
        headers = {name: value for name, value in conditions.items() if value} | {
            "Accept-Encoding": "identity",
            "User-Agent": "drimbox-whitelist",
        }
        place = _place(url, plain)
        for _ in range(MAX_REDIRECTS + 1):
            answer = self._exchange(place, headers)
            if answer.status not in _REDIRECTS:
                return _fetched(answer, place, conditional=bool(etag or modified))
            place = _next_place(place, answer, plain)
        raise Unreachable("redirect", f"more than {MAX_REDIRECTS} redirects")

    def _exchange(self, place: SplitResult, headers: dict[str, str]) -> Answer:
        try:
            context = self._context() if place.scheme == "https" else None
            return get(place, headers, context, self._bounds)
        except (OSError, http.client.HTTPException, UnicodeError, TooLarge, Truncated, ValueError) as error:
            raise _translated(error) from error

    def _context(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=self._authority)
        except OSError as error:
            raise Unreachable(
                "authority", f"the authorities of the server cannot be read: {error}"
            ) from error
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context


def _place(url: str, plain: bool) -> SplitResult:
    """The parts of an acceptable address, its path percent-encoded (published paths have accents and spaces)."""
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  # raises when it is no port
    except ValueError as error:
        raise Unreachable("url", f"not an address: {error}") from error
    if parts.scheme != "https" and not (plain and parts.scheme == "http"):
        raise Unreachable("url", f"the scheme must be https{' or http' if plain else ''}")
    if not parts.hostname or "@" in parts.netloc:
        raise Unreachable("url", "the address must name a host, and no user")
    return parts._replace(path=quote(parts.path, _SAFE), query=quote(parts.query, _SAFE + "?"), fragment="")


def _next_place(place: SplitResult, answer: Answer, plain: bool) -> SplitResult:
    target = _place(urljoin(place.geturl(), answer.headers.get("location", "")), plain)
    if (target.scheme, target.hostname, target.port) != (place.scheme, place.hostname, place.port):
        raise Unreachable("redirect", "redirected to another scheme, host or port")
    return target


def _fetched(answer: Answer, place: SplitResult, *, conditional: bool) -> Fetched:
    status: Literal[200, 304]
    if answer.status == 304 and conditional:
        status, body = 304, b""
    elif answer.status == 200:
        status, body = 200, answer.body
    else:
        raise Unreachable("status", f"HTTP {answer.status}")
    if answer.headers.get("content-encoding", "identity").lower() != "identity":
        raise Unreachable("encoding", "the body is encoded though identity was asked for")
    if status == 200 and not body:
        raise Unreachable("empty", "the body is empty")
    etag, modified = (_validator(answer.headers.get(name)) for name in ("etag", "last-modified"))
    return Fetched(status, body, etag, modified, hashlib.sha256(body).hexdigest(), place.geturl())


def _validator(text: str | None) -> str | None:
    """A validator that can be sent back as it is."""
    usable = text and text.isascii() and text.isprintable() and len(text) <= _MAX_VALIDATOR
    return text if usable else None


def _translated(error: Exception) -> Unreachable:
    """The kind of trouble; of HTTP the kind only, a status line may hold anything."""
    if isinstance(error, Unreachable):
        return error
    for kind, code, reason in _TROUBLES:
        if isinstance(error, kind):
            return Unreachable(code, reason or str(error))
    if isinstance(error, OSError):
        return Unreachable("connect", f"{type(error).__name__}: {error.strerror or 'no connection'}")
    return Unreachable("http", f"not HTTP, or cut: {type(error).__name__}")


# first match wins: kind of error, slug, sentence (empty = the error's own)
_TROUBLES: tuple[tuple[type[Exception], str, str], ...] = (
    (TooLarge, "too-large", ""),
    (Truncated, "truncated", ""),
    (http.client.IncompleteRead, "truncated", "the body ended before its last chunk"),
    (ssl.SSLEOFError, "truncated", "the connection ended without a closing message of TLS"),
    (ssl.SSLError, "tls", ""),
    (TimeoutError, "timeout", "no complete answer in time"),
)
