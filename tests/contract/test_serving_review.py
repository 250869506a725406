"""The serving path under a hostile stranger: what a cheap request, a silent reader or an odd setting must not do."""

from __future__ import annotations

import asyncio
import http.client
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from cryptography.hazmat.primitives.serialization import Encoding

from dicom_store.asgi import HttpRequest, Receive, send_document
from dicom_store.body import Body, Extent, body_of
from dicom_store.door import Answer, Door
from dicom_store.places import Places
from dicom_store.resources import IMAGES, Resource
from dicom_store.segments import Segments
from dicom_store.status import HttpRefusal
from dicom_store.transmit import Stalled, Transfer, transmit
from drimbox.entrypoints import partner_door, proxied, web
from drimbox.entrypoints.http_protocol import BoundedLoop, BoundedProtocol
from fixtures.kept_pki import kept_pki

HOST = "127.0.0.1"
PATIENCE = 10.0
STUDY = b"GET /b/studies/1.2.3 HTTP/1.1\r\nHost: x\r\n\r\n"
BLOCK = bytes(1024 * 1024)


@contextmanager
def running(app: Any) -> Iterator[int]:
    """A listener of `drimbox web` in a thread: its port."""
    listener = socket.create_server((HOST, 0))
    config = uvicorn.Config(app, http=BoundedProtocol, log_config=None, lifespan="off", ws="none")
    server = web._Server(config)

    def serve() -> None:
        with asyncio.Runner(loop_factory=BoundedLoop) as runner:
            runner.run(server.serve(sockets=[listener]))

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
        assert not thread.is_alive()


def until(met: Callable[[], bool], seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# --- several requests on one connection


def test_who_asks_twice_and_leaves_is_noticed() -> None:
    """uvicorn tells the end of a connection to the request that came last, while the first is being answered."""
    ended: list[tuple[int, bool, str]] = []
    places = Places(1)

    async def respond(request: HttpRequest, resource: Resource, receive: Receive) -> Answer:
        def finished(transfer: Transfer, why: str) -> None:
            ended.append((transfer.sent, transfer.whole, why))

        return Answer(Transfer(200, {}, Body(lambda: (BLOCK for _ in range(2048)), None)), finished)

    with running(Door("/b", IMAGES, respond, places)) as port:
        with socket.create_connection((HOST, port), PATIENCE) as connection:
            connection.sendall(STUDY * 2)
            assert b"200 OK" in connection.recv(4096)
        until(lambda: places.taken == 0)
    (sent, whole, why) = ended[0]
    assert (whole, why) == (False, "the reader left")
    assert sent < 64 * len(BLOCK)


def test_a_trailer_is_no_header() -> None:
    """What comes behind a body passed no proxy's rules: it could be a certificate that nobody proved to have."""
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.1)
        seen.append([name for name, _ in scope["headers"]])
        await send_document(send, 200, "text/plain", b"")

    head = b"GET /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    with running(app) as port, socket.create_connection((HOST, port), PATIENCE) as connection:
        connection.sendall(head + b"0\r\nX-Client-Cert: forged\r\nAuthorization: Bearer t\r\n\r\n")
        assert b"200 OK" in connection.recv(4096)
        connection.sendall(head + b"0\r\n" + (b"X-Long: " + b"x" * 60_000 + b"\r\n") * 3 + b"\r\n")
        connection.settimeout(PATIENCE)
        while connection.recv(65536):  # too long a trailer ends the connection
            continue
    assert seen[0] == [b"host", b"transfer-encoding"]


def test_an_endless_trailer_is_not_kept() -> None:
    """A trailer is told when it is whole, and never is: all of it would be in memory."""
    sent = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send_document(send, 200, "text/plain", b"")

    head = b"GET /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    with running(app) as port, socket.create_connection((HOST, port), PATIENCE) as connection:
        connection.sendall(head + b"0\r\nX-Long: ")
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            while sent < 20_000_000:
                connection.sendall(b"x" * 100_000)
                sent += 100_000
                time.sleep(0.001)
    assert sent < 10_000_000


def test_a_long_chunked_body_is_no_trailer() -> None:
    read: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        message = {"more_body": True}
        while message["more_body"]:
            message = await receive()
            read.append(len(message["body"]))
        await send_document(send, 200, "text/plain", b"")

    pieces = [b"x" * size for size in (70_000, 1, 200_000, 65_535, 3)] * 5
    with running(app) as port:
        connection = http.client.HTTPConnection(HOST, port, timeout=PATIENCE)
        for _ in range(2):
            connection.request("POST", "/x", body=iter(pieces), encode_chunked=True)
            assert connection.getresponse().read() == b""
        connection.close()
    assert sum(read) == 2 * sum(map(len, pieces))


# --- who reads nothing


class Deaf:
    """A connection that takes no byte, or none after a number of messages."""

    def __init__(self, taken: int = 0) -> None:
        self.left = taken
        self.aborted = 0
        self.blocked = asyncio.Event()

    async def send(self, message: Any) -> None:
        self.left -= 1
        if self.left < 0:
            self.blocked.set()
            await asyncio.Event().wait()

    async def receive(self) -> Any:
        await asyncio.Event().wait()

    def abort(self) -> None:
        self.aborted += 1

    def scope(self, path: str, method: str = "GET") -> dict[str, Any]:
        state = {"abort": self.abort}
        return {"type": "http", "method": method, "path": path, "headers": [], "state": state}


async def refuse(request: HttpRequest, resource: Resource, receive: Receive) -> Answer:
    raise HttpRefusal(401, "token-missing", "Unauthorized", "No token.")


@pytest.mark.parametrize("path", ["/b/studies/1.2.3", "/nothing"])
def test_a_refusal_that_nobody_reads_holds_no_place(path: str) -> None:
    """A stranger need only ask often on one connection, and never read: what is sent then waits."""
    places, deaf = Places(1), Deaf()

    async def story() -> None:
        door = Door("/b", IMAGES, refuse, places, stall_timeout=0.3)
        serving = asyncio.ensure_future(door(deaf.scope(path), deaf.receive, deaf.send))
        await asyncio.wait_for(deaf.blocked.wait(), PATIENCE)
        assert places.taken == 0
        await asyncio.wait_for(serving, PATIENCE)

    asyncio.run(story())
    assert deaf.aborted == 1


@pytest.mark.parametrize(("method", "taken"), [("GET", 0), ("HEAD", 0), ("HEAD", 1)])
def test_an_answer_whose_head_nobody_takes_is_given_up(method: str, taken: int) -> None:
    """The head of the second answer waits behind the first one, of which nothing is read."""
    deaf = Deaf(taken)

    async def story() -> None:
        with ThreadPoolExecutor(1) as disk:
            await asyncio.wait_for(
                transmit(
                    Transfer(200, {}, body_of(b"x")),
                    deaf.receive,
                    deaf.send,
                    stall=0.2,
                    disk=disk,
                    head_only=method == "HEAD",
                ),
                PATIENCE,
            )

    with pytest.raises(Stalled):
        asyncio.run(story())
    assert deaf.blocked.is_set()


# --- the disk


def test_a_cold_record_is_not_waited_for_in_the_event_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segments = Segments(tmp_path / "images", 0)
    writer = segments.writer("1.2.3")
    place = writer.append([b"x" * 1000])
    writer.close()
    source = segments.source(place.segment)
    checked: list[int] = []

    class Watched:
        def open(self) -> int:
            return source.open()

        def check(self, descriptor: int, extent: Extent) -> None:
            checked.append(threading.get_ident())
            source.check(descriptor, extent)

        def close(self) -> None:
            source.close()

    real = os.preadv

    def preadv(descriptor: int, buffers: Any, offset: int, flags: int = 0) -> int:
        if flags:
            raise BlockingIOError
        return real(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", preadv)
    received = bytearray()

    async def send(message: Any) -> None:
        received.extend(message.get("body", b""))

    async def story() -> None:
        with ThreadPoolExecutor(1) as disk:
            body = body_of(Extent(Watched(), place.offset, place.length))
            await transmit(Transfer(200, {}, body), Deaf().receive, send, stall=5, disk=disk)

    asyncio.run(story())
    segments.close()
    assert bytes(received) == b"x" * 1000
    assert len(checked) == 1
    assert checked[0] != threading.get_ident()


# --- certificates


def test_a_certificate_of_no_known_version_is_nobodys(tmp_path: Path) -> None:
    """It may be a sound one for OpenSSL: the request is judged as a stranger's, and recorded."""
    der = kept_pki(tmp_path / "pki").certificate("partner_auth").public_bytes(Encoding.DER)
    version_3, version_9 = bytes.fromhex("a003020102"), bytes.fromhex("a003020108")
    assert der.count(version_3) == 1
    assert partner_door._subject(der.replace(version_3, version_9)) == ""


def test_long_tales_of_a_proxy_are_not_remembered() -> None:
    async def nobody(*_: object) -> None:
        raise AssertionError("nothing is passed on here")

    door = proxied.Proxied(nobody, ["10.0.0.0/8"], "X-Client-Certificate")
    for number in range(5):
        told = "x" * 60_000 + f", 192.0.2.{number}"
        assert door.client_of("10.0.0.1", told) == f"192.0.2.{number}"
    assert door._client.cache_info().currsize == 0
    assert door.client_of("10.0.0.1", "192.0.2.7") == "192.0.2.7"
    assert door._client.cache_info().currsize == 1
