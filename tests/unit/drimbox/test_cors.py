"""Cross-origin answers: the mesh's viewers only, never `*`."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from drimbox.entrypoints.cors import Cors

VIEWER = "https://vi.partner.example.fr"


async def images(_scope: Any, _receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"image"})


def ask(method: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of one request."""
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError("nobody reads the body")

    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": method, "path": "/", "headers": raw}
    asyncio.run(Cors(images, lambda: frozenset({VIEWER}))(scope, receive, send))
    start, body = sent
    return start["status"], {k.decode(): v.decode() for k, v in start["headers"]}, body["body"]


def test_a_viewer_of_the_mesh_may_read() -> None:
    status, headers, body = ask("GET", origin=VIEWER)
    assert (status, body) == (200, b"image")
    assert headers["access-control-allow-origin"] == VIEWER
    assert headers["vary"] == "Origin"


@pytest.mark.parametrize("origin", ["https://evil.example.fr", f"{VIEWER}.evil.fr", "null", f"{VIEWER}:8443"])
def test_a_stranger_is_told_nothing(origin: str) -> None:
    status, headers, _ = ask("GET", origin=origin)
    assert status == 200
    assert "access-control-allow-origin" not in headers
    assert headers["vary"] == "Origin"


def test_a_preflight_names_the_headers_of_the_mesh() -> None:
    status, headers, body = ask("OPTIONS", origin=VIEWER, access_control_request_method="GET")
    assert (status, body) == (204, b"")
    assert "KOS-SOPInstanceUID" in headers["access-control-allow-headers"]
    assert "Authorization" in headers["access-control-allow-headers"]
    assert headers["access-control-allow-methods"] == "GET, HEAD"


def test_without_origin_nothing_is_added() -> None:
    _, headers, _ = ask("GET")
    assert set(headers) == {"content-type"}


def test_a_preflight_of_a_stranger_is_left_to_the_application() -> None:
    status, headers, _ = ask("OPTIONS", origin="https://evil.example.fr", access_control_request_method="GET")
    assert status == 200
    assert "access-control-allow-methods" not in headers
