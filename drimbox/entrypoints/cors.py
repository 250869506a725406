"""Cross-origin requests of the mesh's viewers: `https://<vi>` and `https://<db>` of the whitelist, never `*`.

trust-and-identity 3.8. A stranger's origin is answered as if it had none: its browser keeps the answer from it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_METHODS = b"GET, HEAD"
_REQUEST_HEADERS = b"Authorization, KOS-SOPInstanceUID, Accept"
_ANSWER_HEADERS = b"Content-Type, Content-Length, Retry-After, WWW-Authenticate"
_MAX_AGE = b"600"  # seconds that a browser may keep a preflight


class Cors:
    """An ASGI application around another. `origins()`: those allowed at this moment, lower case."""

    def __init__(self, app: App, origins: Callable[[], frozenset[str]]) -> None:
        self._app = app
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a preflight, or add the headers to the application's answer."""
        origin = None
        for name, value in scope.get("headers", ()):
            if name == b"origin":
                origin = value
        if scope["type"] != "http" or origin is None:
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        # in a thread: the list may have to be read and verified, and the loop serves everybody
        origins = await asyncio.to_thread(self._origins)
        allowed = origin.decode("latin-1").lower() in origins
        if allowed and scope["method"] == "OPTIONS" and b"access-control-request-method" in headers:
            await _preflight(send, origin)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message.get("headers", ()),
                    *_headers(origin if allowed else None),
                ]
            await send(message)

        await self._app(scope, receive, send_with_headers)


def _headers(origin: bytes | None) -> list[tuple[bytes, bytes]]:
    if origin is None:
        return [(b"vary", b"Origin")]
    return [
        (b"vary", b"Origin"),
        (b"access-control-allow-origin", origin),
        (b"access-control-expose-headers", _ANSWER_HEADERS),
    ]


async def _preflight(send: Send, origin: bytes) -> None:
    headers = [
        (b"vary", b"Origin"),
        (b"access-control-allow-origin", origin),
        (b"access-control-allow-methods", _METHODS),
        (b"access-control-allow-headers", _REQUEST_HEADERS),
        (b"access-control-max-age", _MAX_AGE),
        (b"content-length", b"0"),
    ]
    await send({"type": "http.response.start", "status": 204, "headers": headers})
    await send({"type": "http.response.body", "body": b""})
