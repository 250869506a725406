"""The body of a request as it comes (ASGI `receive`): no more is read than is taken, and not at any pace."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from dicom_store.asgi import Message, Receive
from dicom_store.status import HttpRefusal

PACE_BYTES = 16 * 1024  # a sender brings them within the stall time, or loses its place


class BodyBroken(HttpRefusal):
    """The body ended before it was whole, or was too slow, too long, or no such body."""


async def chunks(receive: Receive, stall: float) -> AsyncGenerator[bytes, None]:
    """Bytes of the body. `stall`: seconds that may be waited for `PACE_BYTES`. Raises `BodyBroken` 400, 408."""
    now = asyncio.get_running_loop().time
    patience, brought, more = stall, 0, True
    while more:
        started = now()
        try:
            async with asyncio.timeout(patience):
                message = await receive()
        except TimeoutError as error:
            raise broken(408, "request-timeout", "The body came too slowly.", Connection="close") from error
        if message["type"] == "http.disconnect":
            raise broken(400, "body-incomplete", "The connection ended within the body.")
        chunk, more = message.get("body", b""), message.get("more_body", False)
        brought += len(chunk)
        patience -= now() - started
        if brought >= PACE_BYTES:
            patience, brought = stall, 0
        if chunk:
            yield chunk


def paced(receive: Receive, stall: float) -> Receive:
    """The same messages for an application that waits without end: who is slower than `chunks` allows has left."""
    body = chunks(receive, stall)

    async def next_message() -> Message:
        try:
            chunk = await anext(body, None)
        except BodyBroken:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": chunk or b"", "more_body": chunk is not None}

    return next_message


def broken(status: int, slug: str, detail: str, **headers: str) -> BodyBroken:
    """What is raised when nothing more can be read of a body."""
    return BodyBroken(status, slug, slug.replace("-", " "), detail, headers)
