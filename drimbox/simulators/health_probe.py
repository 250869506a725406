"""A probe as BetterStack runs it (trust-and-identity 6.2), stricter: it says every rule of 6.2 and 6.3 that is broken.

One bare request on a connection of its own, from a chosen source address. Shares no code with the product.
"""

from __future__ import annotations

import io
import json
import re
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.message import Message
from http.client import HTTPException, parse_headers
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

MOST_BYTES = 64 * 1024
USER_AGENT = "Better Stack Better Uptime Bot Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36"
MEDIA_TYPES = ("application/json", "application/health+json")
STATUS_OF = {"pass": 200, "warn": 200, "fail": 503}
PER_REQUEST = frozenset({"date", "connection", "server"})  # header fields that GET and HEAD need not share


@dataclass(frozen=True)
class Verdict:
    """`up`: 200 and no rule broken. `reasons`: the rules that are broken, empty for an honest 503 too.

    `status`: None when no answer came. `headers`: names in lower case. `body`: as received.
    """

    up: bool
    status: int | None
    reasons: tuple[str, ...]
    milliseconds: float
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Answer:
    method: str
    status: int
    fields: Message
    body: bytes

    @property
    def announced(self) -> int | None:
        """Content-Length, once and a number."""
        found = self.fields.get_all("Content-Length", [])
        return int(found[0]) if len(found) == 1 and re.fullmatch(r"[0-9]{1,9}", found[0]) else None

    @property
    def ours(self) -> bool:
        """It is the health check that answers, not a refusal before it."""
        return self.status in STATUS_OF.values()


class _Strange(Exception):
    """What came is no answer of HTTP/1.1."""


class ProbeClient:
    """Asks `url` (https, or http where TLS ends elsewhere). No redirect is followed, no cookie or certificate sent.

    `source_address`: of this machine; `authority`: PEM of the only authorities believed, None = the system's;
    `timeout`: seconds for everything; `headers`: sent as well, in place of ours of the same name.
    """

    def __init__(
        self,
        url: str,
        *,
        source_address: str = "127.0.0.1",
        method: Literal["GET", "HEAD"] = "GET",
        authority: Path | None = None,
        timeout: float = 30,
        user_agent: str = USER_AGENT,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("the url must be https://host/path or http://host/path")
        self._host, self._port = parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._source, self._method, self._timeout = source_address, method, timeout
        self._headers = {
            "Host": parts.netloc,
            "User-Agent": user_agent,
            "Accept": "application/json",
            "Connection": "close",
        } | dict(headers or {})
        self._tls = ssl.create_default_context(cafile=authority) if parts.scheme == "https" else None

    def check(self) -> Verdict:
        """One request, and what a probe makes of it. Never raises for what the peer does."""
        return self._check(self._method)

    def differences(self) -> tuple[str, ...]:
        """Header fields (and `:status`) in which HEAD and GET differ; they may not (RFC 9110 9.3.2)."""
        get, head = self._check("GET"), self._check("HEAD")
        seen = [{**v.headers, ":status": str(v.status)} for v in (get, head)]
        names = sorted((set(seen[0]) | set(seen[1])) - PER_REQUEST)
        return tuple(name for name in names if seen[0].get(name) != seen[1].get(name))

    def _check(self, method: str) -> Verdict:
        start = time.monotonic()
        try:
            answer = _answer_of(method, self._exchange(method, start + self._timeout))
        except (OSError, HTTPException, _Strange) as error:
            return Verdict(False, None, (_trouble(error),), _milliseconds(start))
        reasons = tuple(name for name, broken in RULES if broken(answer))
        up = answer.status == 200 and not reasons
        headers = {name.lower(): str(value) for name, value in answer.fields.items()}
        return Verdict(up, answer.status, reasons, _milliseconds(start), answer.body, headers)

    def _exchange(self, method: str, deadline: float) -> bytes:
        """The octets of the whole answer, to the end of the connection."""
        lines = [f"{method} {self._target} HTTP/1.1", *(f"{k}: {v}" for k, v in self._headers.items())]
        with self._connected(deadline) as peer:
            peer.settimeout(_left(deadline))
            peer.sendall(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
            received = b""
            while chunk := _received(peer, deadline):
                received += chunk
                if len(received) > MOST_BYTES:
                    raise _Strange
            return received

    def _connected(self, deadline: float) -> socket.socket:
        peer = socket.create_connection((self._host, self._port), _left(deadline), (self._source, 0))
        if self._tls is None:
            return peer
        try:
            peer.settimeout(_left(deadline))
            return self._tls.wrap_socket(peer, server_hostname=self._host)
        except BaseException:
            peer.close()
            raise


def _received(peer: socket.socket, deadline: float) -> bytes:
    peer.settimeout(_left(deadline))
    return peer.recv(16 * 1024)


def _left(deadline: float) -> float:
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError
    return seconds


def _milliseconds(start: float) -> float:
    return (time.monotonic() - start) * 1000


def _answer_of(method: str, octets: bytes) -> _Answer:
    head, end, body = octets.partition(b"\r\n\r\n")
    line, _, fields = head.partition(b"\r\n")
    found = re.fullmatch(rb"HTTP/1\.1 ([0-9]{3})( [ -~]*)?", line)
    if not end or found is None:
        raise _Strange
    return _Answer(method, int(found[1]), parse_headers(io.BytesIO(fields + end)), body)


def _trouble(error: Exception) -> str:
    return next(name for kind, name in _TROUBLES if isinstance(error, kind))


_TROUBLES: tuple[tuple[type[Exception], str], ...] = (
    (TimeoutError, "timeout"),
    (ssl.SSLError, "tls"),
    (_Strange, "not-http"),
    (HTTPException, "not-http"),
    (OSError, "connection"),
)


def _wrong_length(answer: _Answer) -> bool:
    if answer.announced is None:
        return True
    return answer.announced == 0 if answer.method == "HEAD" else answer.announced != len(answer.body)


def _content(answer: _Answer) -> Any:
    """The body as JSON, None when it is none or repeats a member."""
    try:
        return json.loads(answer.body, object_pairs_hook=_once)
    except (ValueError, RecursionError):
        return None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a member is repeated")
    return dict(pairs)


def _bad_body(answer: _Answer) -> bool:
    content = _content(answer) if answer.ours and answer.method == "GET" else {"status": "pass"}
    allowed = isinstance(content, dict) and {"status"} <= set(content) <= {"status", "version"}
    return not allowed or not all(isinstance(value, str) for value in content.values())


def _disagrees(answer: _Answer) -> bool:
    if _bad_body(answer) or not answer.ours or answer.method == "HEAD":
        return False
    return STATUS_OF.get(_content(answer)["status"]) != answer.status


#: rules of an answer (6.2, 6.3): their name, and whether it is broken
RULES: tuple[tuple[str, Callable[[_Answer], bool]], ...] = (
    ("status", lambda a: not a.ours),
    ("redirect", lambda a: 300 <= a.status < 400),
    ("cookie", lambda a: "Set-Cookie" in a.fields),
    ("cached", lambda a: "no-store" not in str(a.fields.get("Cache-Control", "")).lower()),
    ("media-type", lambda a: a.ours and a.fields.get_content_type() not in MEDIA_TYPES),
    ("transfer-encoding", lambda a: "Transfer-Encoding" in a.fields),
    ("length", _wrong_length),
    ("head-body", lambda a: a.method == "HEAD" and bool(a.body)),
    ("body", _bad_body),
    ("disagrees", _disagrees),
)
