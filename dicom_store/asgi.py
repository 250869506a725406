"""What the DICOMweb doors share of HTTP: a request as values, a refusal or an answer as ASGI messages (ASGI 3)."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import parse_qsl

from dicom_store.status import HttpRefusal

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

PROBLEM = "application/problem+json"
RETRY_AFTER = "5"  # seconds, with every 503 of ours
_ABSOLUTE_FORM = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://[^/]*")
_MAX_QUERY = 100  # parameters of one request


def _nothing() -> None:
    """The server behind gives no way to abort."""


@dataclass(eq=False)
class HttpRequest:
    """One request. `path`: decoded, without scheme and host; `client`: address of the peer, or what a proxy said.

    `raw_headers`: names in lower case, latin-1, as received; `peer_certificate`: DER, None without one; `abort`:
    ends the connection at once, with what was not taken yet.
    """

    method: str
    path: str
    query_string: bytes
    raw_headers: Sequence[tuple[bytes, bytes]]
    client: str
    peer_certificate: bytes | None
    abort: Callable[[], object] = _nothing

    @cached_property
    def headers(self) -> Mapping[str, str]:
        """By name in lower case; repeated ones are joined by ", " (so that two tokens are no token)."""
        headers: dict[str, str] = {}
        for raw_name, raw_value in self.raw_headers:
            name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1").strip()
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        return headers

    @cached_property
    def query(self) -> Sequence[tuple[str, str]]:
        """Parameters in order. Raises `HttpRefusal` 400 when there are too many, or bytes that are no UTF-8."""
        try:
            return parse_qsl(
                self.query_string.decode("ascii"),
                keep_blank_values=True,
                errors="strict",
                max_num_fields=_MAX_QUERY,
            )
        except ValueError as error:
            detail = "The query cannot be read: too many parameters, or no UTF-8."
            raise HttpRefusal(400, "query-invalid", "Bad request", detail) from error

    @property
    def accept(self) -> tuple[str, ...]:
        """Lines of the Accept header; the `accept` parameter of the query stands for it (PS3.18 8.3.3.1)."""
        if self.query_string:
            asked = tuple(value for name, value in self.query if name == "accept")
            if asked:
                return asked
        return tuple(value.decode("latin-1") for name, value in self.raw_headers if name.lower() == b"accept")


def read_request(scope: Scope) -> HttpRequest:
    """The request of an ASGI scope. Raises ValueError for a scope that is not HTTP."""
    if scope["type"] != "http":
        raise ValueError(f"not an HTTP request: {scope['type']}")
    path = scope["path"]
    if path[:1] != "/":  # an absolute-form target, as the ANS simulator sends (drim-m-data 3.1)
        path = _ABSOLUTE_FORM.sub("", path, count=1)
    state = scope.get("state") or {}
    client = scope.get("client") or ("",)
    return HttpRequest(
        scope["method"],
        path,
        scope.get("query_string", b""),
        scope["headers"],
        state.get("client") or client[0],
        state.get("peer_certificate"),
        state.get("abort", _nothing),
    )


def busy(detail: str = "Too many requests at once; try again.") -> HttpRefusal:
    """503 of a door that is full."""
    return HttpRefusal(503, "busy", "Busy", detail, {"Retry-After": RETRY_AFTER})


def internal_error(detail: str) -> HttpRefusal:
    """500: ours is the fault; the detail says nothing of it."""
    return HttpRefusal(500, "internal-error", "Internal error", detail)


async def send_start(send: Send, status: int, headers: Mapping[str, str]) -> None:
    """Status and headers; nothing of ours may be kept by a cache."""
    raw = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    raw.append((b"cache-control", b"private, no-store"))
    await send({"type": "http.response.start", "status": status, "headers": raw})


async def send_problem(send: Send, refusal: HttpRefusal, head_only: bool = False) -> None:
    """A refusal as `application/problem+json` (RFC 9457)."""
    problem = {
        "type": refusal.slug,
        "title": refusal.title,
        "status": refusal.status,
        "detail": refusal.detail,
    }
    await send_document(
        send, refusal.status, PROBLEM, json.dumps(problem).encode("utf-8"), refusal.headers, head_only
    )


async def send_document(
    send: Send,
    status: int,
    content_type: str,
    document: bytes,
    headers: Mapping[str, str] | None = None,
    head_only: bool = False,
) -> None:
    """A small answer in one piece."""
    about = {"Content-Type": content_type, "Content-Length": str(len(document)), **(headers or {})}
    await send_start(send, status, about)
    await send({"type": "http.response.body", "body": b"" if head_only else document})
