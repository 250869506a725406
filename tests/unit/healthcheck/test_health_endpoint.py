"""The table of requests and answers of the health paths (trust-and-identity 6.2, 6.3, 6.5)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import MutableMapping
from typing import Any

import pytest

from healthcheck.endpoint import Admit, Asking, HealthEndpoint, Patience
from healthcheck.probe import Status

BASE = "/dicom-web-rs"


class Heard:
    """One answer."""

    def __init__(self) -> None:
        self.messages: list[MutableMapping[str, Any]] = []

    async def send(self, message: MutableMapping[str, Any]) -> None:
        self.messages.append(message)

    @property
    def status(self) -> int:
        return int(self.messages[0]["status"])

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.messages[0]["headers"]}

    @property
    def body(self) -> bytes:
        return b"".join(message["body"] for message in self.messages[1:])


async def elsewhere(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 299, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def nothing() -> MutableMapping[str, Any]:
    raise AssertionError("the health check reads no body")


def ask(
    path: str = "/health",
    method: str = "GET",
    *,
    status: Status = Status.PASS,
    headers: dict[str, str] | None = None,
    state: dict[str, Any] | None = None,
    admit: Admit | None = None,
    patience: Patience | None = None,
    times: int = 1,
) -> Heard:
    endpoint = HealthEndpoint(elsewhere, BASE, lambda: status, admit, patience)
    lines = [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()]
    scope = {
        "type": "http", "path": path, "method": method, "headers": lines, "client": ("192.0.2.1", 1),
        "state": state or {},
    }  # fmt: skip

    async def run() -> Heard:
        for _ in range(times):
            heard = Heard()
            await endpoint(dict(scope), nothing, heard.send)
        return heard

    return asyncio.run(run())


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(("status", "code"), [(Status.PASS, 200), (Status.WARN, 200), (Status.FAIL, 503)])
@pytest.mark.parametrize(
    "path", [BASE, f"{BASE}/", "/healthcheck", "/health", "/q/health", "/q/health/", "/health/"]
)
def test_every_path_tells_the_state(path: str, status: Status, code: int, method: str) -> None:
    heard = ask(path, method, status=status)
    assert heard.status == code
    body = json.dumps({"status": status.word}).encode()
    assert heard.body == (body if method == "GET" else b"")
    assert heard.headers == {
        "content-type": "application/json", "content-length": str(len(body)), "cache-control": "no-store",
    }  # fmt: skip


@pytest.mark.parametrize(
    "path",
    ["/", "", "/healthz", "/Health", "/health/x", "/q", f"{BASE}/health", f"{BASE}/studies", f"{BASE}x"],
)
def test_every_other_path_is_left_alone(path: str) -> None:
    refuse_all = ask(path, admit=lambda _asking: False)
    assert (refuse_all.status, ask(path, "POST").status) == (299, 299)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"])
def test_other_methods_are_refused(method: str) -> None:
    heard = ask(method=method)
    assert (heard.status, heard.headers["allow"]) == (405, "GET, HEAD")
    assert json.loads(heard.body)["type"] == "method-not-allowed"


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (None, "application/json"),
        ("application/json", "application/json"),
        ("*/*", "application/json"),
        ("text/html", "application/json"),
        ("application/health+json", "application/health+json"),
        ("application/health+json, application/json;q=0.5", "application/health+json"),
    ],
)
def test_the_media_type_is_what_is_asked_or_json(accept: str | None, kind: str) -> None:
    headers = {} if accept is None else {"Accept": accept}
    assert ask(headers=headers).headers["content-type"] == kind


@pytest.mark.parametrize(
    ("state", "address"), [(None, "192.0.2.1"), ({"client": "198.51.100.7"}, "198.51.100.7")]
)
def test_who_asks_is_the_client_of_a_declared_proxy_else_the_peer(
    state: dict[str, Any] | None, address: str
) -> None:
    asked: list[Asking] = []

    def admit(asking: Asking) -> bool:
        asked.append(asking)
        return True

    headers = {"User-Agent": "Better Stack", "X-Forwarded-For": "203.0.113.9"}
    assert ask(state=state, headers=headers, admit=admit).status == 200
    assert asked == [Asking(address, "Better Stack")]


@pytest.mark.parametrize("status", Status)
def test_who_is_not_admitted_learns_nothing(status: Status) -> None:
    heard = ask(status=status, admit=lambda _asking: False)
    assert (heard.status, heard.headers["content-type"]) == (403, "application/problem+json")
    assert json.loads(heard.body) == {
        "type": "address-not-listed", "title": "Forbidden", "status": 403,
        "detail": "This address is not one of the probes that may ask.",
    }  # fmt: skip
    assert ask(method="HEAD", admit=lambda _asking: False).body == b""


def test_who_keeps_being_refused_has_to_wait() -> None:
    patience = Patience(burst=3, rate=1.0, delay=0.0, monotonic=lambda: 5.0)
    assert ask(admit=lambda _a: False, patience=patience, times=3).status == 403
    heard = ask(admit=lambda _a: False, patience=patience)
    assert (heard.status, heard.headers["retry-after"]) == (429, "60")
    assert ask(admit=lambda _a: True, patience=patience).status == 200


def test_patience_comes_back_and_forgets_the_oldest_address() -> None:
    now = [0.0]
    patience = Patience(burst=2, rate=1.0, addresses=2, monotonic=lambda: now[0])
    assert [patience.is_spent("a") for _ in range(3)] == [False, False, True]
    now[0] = 1.0
    assert [patience.is_spent("a") for _ in range(2)] == [False, True]
    for other in "bc":
        assert not patience.is_spent(other)
    assert not patience.is_spent("a")  # forgotten, hence new


def test_only_so_many_wait() -> None:
    patience = Patience(delay=30.0, most=2)

    async def run() -> int:
        tasks = [asyncio.create_task(patience.wait()) for _ in range(5)]
        done, waiting = await asyncio.wait(tasks, timeout=0.2)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await asyncio.wait_for(Patience(delay=0.0, most=1).wait(), 1)
        return len(done)

    assert asyncio.run(run()) == 3
