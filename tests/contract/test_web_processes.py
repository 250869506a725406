"""The web processes as their peers meet them: limits of a connection, TLS, declared proxies, forked processes."""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import json
import os
import resource
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from dicom_store.asgi import send_document
from dicom_store.body import Body
from dicom_store.door import Answer, Door
from dicom_store.places import Places
from dicom_store.resources import IMAGES
from dicom_store.transmit import Gone, Transfer, transmit
from drimbox.bootstrap import lay_foundation
from drimbox.entrypoints import http_protocol, web
from drimbox.entrypoints.listener_tls import hold_public
from drimbox.entrypoints.proxied import Proxied
from drimbox.settings.whole import Settings, parse_settings
from drimbox.simulators.appliance_files import drimbox_toml
from drimbox.simulators.pki import Pki
from drimbox.simulators.ports import assign_ports
from fixtures.kept_pki import kept_pki

HOST = "127.0.0.1"
PATIENCE = 10.0
GET = b"GET /%s HTTP/1.1\r\nHost: x\r\n\r\n"
PROBLEM = "application/problem+json"


@dataclass
class Echo:
    """An application that says what it saw; the path `hold` waits until it is let go."""

    let_go: threading.Event = field(default_factory=threading.Event)
    served: int = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.served += 1
        if scope["path"].startswith("/hold"):
            await asyncio.to_thread(self.let_go.wait, PATIENCE)
        certificate = scope["state"].get("peer_certificate")
        seen = {"path": scope["path"], "certificate": certificate and hashlib.sha256(certificate).hexdigest()}
        await send_document(send, 200, "application/json", json.dumps(seen).encode("ascii"))


@contextmanager
def running(config: Any) -> Iterator[int]:
    """A listener as `drimbox web` makes it, in a thread: its port."""
    listener = socket.create_server((HOST, 0), backlog=web.BACKLOG)
    server = web._Server(config)

    def serve() -> None:
        with asyncio.Runner(loop_factory=web.BoundedLoop) as runner:
            runner.run(server.serve(sockets=[listener]))

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return kept_pki(tmp_path_factory.mktemp("pki") / "pki")


@pytest.fixture(scope="module")
def settings(pki: Pki) -> Settings:
    return parse_settings(drimbox_toml(pki.directory.parent, assign_ports(None), pki))


@pytest.fixture
def echo() -> Iterator[Echo]:
    made = Echo()
    yield made
    made.let_go.set()


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Doors that wait less long."""
    monkeypatch.setattr(http_protocol, "HEAD_SECONDS", 0.7)
    monkeypatch.setattr(web, "KEEP_ALIVE_SECONDS", 1)


@pytest.fixture
def port(echo: Echo, settings: Settings) -> Iterator[int]:
    with running(web.listener_config(echo, None)) as found:
        yield found


@contextmanager
def connected(port: int) -> Iterator[socket.socket]:
    with socket.create_connection((HOST, port), PATIENCE) as connection:
        yield connection


def until_closed(connection: socket.socket) -> bytes:
    """Everything that comes until the door ends the connection."""
    received = b""
    try:
        while block := connection.recv(65536):
            received += block
    except ConnectionResetError:
        return received
    return received


def refusal_in(received: bytes) -> tuple[int, dict[str, str], dict[str, Any]]:
    """Status, headers and problem of the only answer received."""
    head, _, body = received.partition(b"\r\n\r\n")
    status, *lines = head.decode("ascii").split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    assert int(headers["content-length"]) == len(body)
    assert headers["content-type"] == PROBLEM
    problem = json.loads(body)
    assert problem["status"] == int(status.split()[1])
    return problem["status"], headers, problem


def answers(port: int) -> float:
    """Seconds in which an honest client has its answer."""
    began = time.monotonic()
    with connected(port) as connection:
        connection.sendall(GET % b"honest" + b"")
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        assert json.loads(answer.read())["path"] == "/honest"
        answer.close()
    return time.monotonic() - began


# --- who is slow, silent or endless


def test_who_says_nothing_is_dropped(hasty: None, port: int) -> None:
    began = time.monotonic()
    with connected(port) as connection:
        assert until_closed(connection) == b""
    assert 0.5 < time.monotonic() - began < 3


def test_a_head_that_comes_byte_by_byte_is_dropped(hasty: None, port: int) -> None:
    began = time.monotonic()
    with connected(port) as connection:
        received = b""
        connection.settimeout(0.1)
        for byte in GET % (b"x" * 1000):
            try:
                connection.sendall(bytes([byte]))
                received += connection.recv(65536)
            except TimeoutError:
                continue
            except OSError:
                break
            if received:
                break
    status, headers, problem = refusal_in(received)
    assert (status, problem["type"], headers["connection"]) == (408, "request-timeout", "close")
    assert time.monotonic() - began < 3  # bytes do not prolong it


def test_a_second_head_has_no_more_time(hasty: None, port: int) -> None:
    with connected(port) as connection:
        connection.sendall(GET % b"first")
        assert b"200 OK" in connection.recv(65536)
        began = time.monotonic()
        connection.sendall(b"GET /second HTTP/1.1\r\nHost:")
        status, _, _ = refusal_in(until_closed(connection))
    assert status == 408
    assert time.monotonic() - began < 3


def test_a_connection_without_a_next_request_ends(hasty: None, port: int) -> None:
    with connected(port) as connection:
        connection.sendall(GET % b"only")
        received = until_closed(connection)
    assert received.count(b"HTTP/1.1 200 OK") == 1


@pytest.mark.parametrize(
    "head",
    [
        b"GET /%s HTTP/1.1\r\n" % (b"x" * 70_000),
        b"GET / HTTP/1.1\r\nX: %s\r\n" % (b"x" * 70_000),
        b"GET / HTTP/1.1\r\n" + b"".join(b"X%d: y\r\n" % n for n in range(9_000)),
        b"GET / HTTP/1.1\r\n" + b"a:\r\n" * 15_000,
    ],
    ids=["target", "one header", "many headers", "empty headers"],
)
def test_a_head_that_is_too_long(port: int, echo: Echo, head: bytes) -> None:
    with connected(port) as connection:
        connection.sendall(head)
        status, headers, problem = refusal_in(until_closed(connection))
    assert (status, problem["type"], headers["connection"]) == (431, "head-too-large", "close")
    assert echo.served == 0


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # a TLS hello
        b"hello\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\nX : y\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: a\x00b\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"DICM\x00\x00\x00\x00" * 100,
    ],
)  # fmt: skip
def test_garbage(port: int, garbage: bytes) -> None:
    with connected(port) as connection:
        connection.sendall(garbage)
        status, headers, problem = refusal_in(until_closed(connection))
    assert (status, problem["type"], headers["connection"]) == (400, "bad-request", "close")


def test_silent_connections_stop_nobody(port: int) -> None:
    with ExitStack() as stack:
        for number in range(200):
            connection = stack.enter_context(connected(port))
            if number % 2:
                connection.sendall(b"GET /half HTTP/1.1\r\nHo")
        assert max(answers(port) for _ in range(5)) < 2


def test_too_many_connections(echo: Echo, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "CONNECTIONS", 4)
    with running(web.listener_config(echo, None)) as port, ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(connected(port))
        with connected(port) as connection:
            connection.sendall(GET % b"late")
            status, headers, problem = refusal_in(until_closed(connection))
        assert (status, problem["type"]) == (503, "busy")
        assert (headers["retry-after"], headers["connection"]) == ("5", "close")
        stack.close()
        deadline = time.monotonic() + PATIENCE
        while echo.served == 0 and time.monotonic() < deadline:
            with connected(port) as connection:
                connection.sendall(GET % b"later")
                connection.recv(65536)
        assert echo.served == 1


# --- several requests on one connection


def test_a_pipelined_pair_is_answered_in_order(port: int, echo: Echo) -> None:
    with connected(port) as connection:
        connection.sendall(GET % b"hold" + GET % b"second")
        while echo.served == 0:
            time.sleep(0.01)
        echo.let_go.set()
        for path in ("/hold", "/second"):
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            # the reader of one answer may take some of the next: its body is read from what it took
            assert json.loads(answer.fp.read(answer.length))["path"] == path  # type: ignore[arg-type]
            rest = answer.fp.peek() if path == "/hold" else b""
            if rest:
                assert b'"/second"' in rest
                break


def test_endless_pipelining_is_cut(port: int, echo: Echo) -> None:
    """What is asked before anything is answered costs memory: a few wait, the connection of more is ended."""
    with connected(port) as connection:
        connection.sendall(GET % b"hold" + (GET % b"next") * 5_000)
        while echo.served == 0:
            time.sleep(0.01)
        echo.let_go.set()
        received = until_closed(connection)
    assert received.count(b"HTTP/1.1 200 OK") == echo.served == 1 + http_protocol.MOST_PIPELINED
    assert b"400 Bad" not in received


def test_an_endless_head_behind_a_request_is_not_kept(port: int, echo: Echo) -> None:
    with connected(port) as connection:
        connection.sendall(GET % b"hold" + b"GET /next HTTP/1.1\r\nX: ")
        while echo.served == 0:
            time.sleep(0.01)
        for _ in range(100):
            connection.sendall(b"x" * 100_000)
        echo.let_go.set()
        received = until_closed(connection)
    assert received.count(b"HTTP/1.1 200 OK") == 1
    assert b"431" not in received


def test_garbage_behind_a_request_does_not_spoil_its_answer(port: int, echo: Echo) -> None:
    with connected(port) as connection:
        connection.sendall(GET % b"hold" + b"\x00garbage\r\n\r\n")
        while echo.served == 0:
            time.sleep(0.01)
        connection.sendall(b"more of it")
        echo.let_go.set()
        head, _, body = until_closed(connection).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK")
    assert json.loads(body)["path"] == "/hold"


# --- who leaves


class Pieces:
    """A door with an endless answer, and how it ended."""

    def __init__(self, places: Places) -> None:
        self.ended: list[tuple[int, bool, str]] = []
        self.door = Door("/b", dict.fromkeys(IMAGES, ("GET",)), self._respond, places, 5.0)

    async def _respond(self, request: Any, resource: Any, receive: Any) -> Answer:
        block = bytes(1024 * 1024)
        return Answer(Transfer(200, {}, Body(lambda: (block for _ in range(4096)), None)), self._finished)

    def _finished(self, transfer: Transfer, why: str) -> None:
        self.ended.append((transfer.sent, transfer.whole, why))


def test_a_reader_that_leaves_gives_its_place_back(settings: Settings) -> None:
    places = Places(1)
    pieces = Pieces(places)
    with running(web.listener_config(pieces.door, None)) as port:
        for _ in range(3):
            with connected(port) as connection:
                connection.sendall(GET % b"b/studies/1.2.3")
                assert b"200 OK" in connection.recv(4096)
            deadline = time.monotonic() + PATIENCE
            while places.taken and time.monotonic() < deadline:
                time.sleep(0.01)
            assert places.taken == 0
    assert [why for _, _, why in pieces.ended] == ["the reader left"] * 3
    assert all(not whole and sent < 64 * 1024 * 1024 for sent, whole, _ in pieces.ended)


def test_a_lost_connection_is_noticed_though_it_takes_everything() -> None:
    """uvicorn drops what is sent to a connection that is lost, without waiting: the rest would be read for nobody."""
    sent: list[int] = []
    block = bytes(256 * 1024)
    transfer = Transfer(200, {}, Body(lambda: (block for _ in range(1000)), None))

    async def send(message: Any) -> None:
        sent.append(len(message.get("body", b"")))

    async def story() -> None:
        lost = asyncio.Event()

        async def receive() -> Any:
            await lost.wait()
            return {"type": "http.disconnect"}

        asyncio.get_running_loop().call_later(0, lost.set)
        with ThreadPoolExecutor(1) as disk, pytest.raises(Gone):
            await transmit(transfer, receive, send, stall=5, disk=disk)

    asyncio.run(story())
    assert not transfer.whole
    assert len(sent) < 20


# --- TLS


@contextmanager
def public(echo: Echo, settings: Settings) -> Iterator[int]:
    shown = hold_public(lay_foundation(settings))
    with running(web.listener_config(echo, shown)) as port:
        yield port


def trusting(pki: Pki, shown: tuple[Path, Path] | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(pki.authority))
    if shown is not None:
        context.load_cert_chain(*shown)
    return context


def seen_over_tls(port: int, context: ssl.SSLContext) -> dict[str, Any]:
    connection = http.client.HTTPSConnection(HOST, port, timeout=PATIENCE, context=context)
    try:
        connection.request("GET", "/tls")
        found: dict[str, Any] = json.loads(connection.getresponse().read())
        return found
    finally:
        connection.close()


def test_a_certificate_reaches_the_application(echo: Echo, settings: Settings, pki: Pki) -> None:
    with public(echo, settings) as port:
        shown = (pki.path("partner_auth"), pki.key("partner_auth"))
        der = pki.certificate("partner_auth").public_bytes(Encoding.DER)
        assert seen_over_tls(port, trusting(pki, shown))["certificate"] == hashlib.sha256(der).hexdigest()
        assert seen_over_tls(port, trusting(pki))["certificate"] is None  # nor that of the one before


@pytest.mark.parametrize("fault", ["foreign_authority", "expired", "not_yet_valid"])
def test_a_bad_certificate_is_refused_at_the_handshake(
    echo: Echo, settings: Settings, pki: Pki, tmp_path: Path, fault: str
) -> None:
    leaf = pki.issue("AUTH_CLI", "stranger", "1750803447", **{fault: True})  # type: ignore[arg-type]
    with public(echo, settings) as port, pytest.raises((ssl.SSLError, ConnectionResetError)):
        seen_over_tls(port, trusting(pki, leaf.write(tmp_path, "stranger")))
    assert echo.served == 0


def test_old_tls_is_refused(echo: Echo, settings: Settings, pki: Pki) -> None:
    context = trusting(pki)
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning):
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with public(echo, settings) as port, connected(port) as plain, pytest.raises(ssl.SSLError):
        context.wrap_socket(plain, server_hostname=HOST)
    context = trusting(pki)
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    with public(echo, settings) as port:
        assert seen_over_tls(port, context)["path"] == "/tls"


def test_a_handshake_that_does_not_come_is_not_waited_for(
    hasty: None, echo: Echo, settings: Settings, pki: Pki
) -> None:
    began = time.monotonic()
    with public(echo, settings) as port, ExitStack() as stack:
        silent = [stack.enter_context(connected(port)) for _ in range(100)]
        silent[1].sendall(b"\x16\x03\x01\x02")  # the beginning of a hello
        assert seen_over_tls(port, trusting(pki))["path"] == "/tls"
        assert [until_closed(connection) for connection in silent] == [b""] * 100
    assert time.monotonic() - began < 5


# --- declared proxies


def proxied(
    peer: str = "10.0.0.9", *headers: tuple[str, str], method: str = "GET"
) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """What the application sees of a request, and the problem that is answered instead."""
    seen: list[dict[str, Any]] = []
    sent: list[dict[str, Any]] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["state"])

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError("nothing is read")

    app = Proxied(application, ("10.0.0.9", "192.168.7.0/24"), "X-Client-Certificate")
    raw = [(name.lower().encode("ascii"), value.encode("latin-1")) for name, value in headers]
    scope = {"type": "http", "method": method, "client": (peer, 1), "headers": raw, "state": {"kept": 1}}
    asyncio.run(app(scope, receive, send))
    problem = json.loads(sent[1]["body"]) if sent and sent[1]["body"] else None
    assert bool(seen) != bool(sent)
    return (seen[0] if seen else None), problem


def escaped(pki: Pki, name: str = "partner_auth") -> str:
    """As nginx writes $ssl_client_escaped_cert: the leaf alone."""
    return quote(pki.certificate(name).public_bytes(Encoding.PEM).decode("ascii"), safe="")


@pytest.mark.parametrize("peer", ["10.0.0.8", "127.0.0.1", "192.168.8.1", "", "nobody", "::1"])
def test_who_is_no_proxy_is_refused(peer: str, pki: Pki) -> None:
    headers = (("X-Forwarded-For", "192.0.2.1"), ("X-Client-Certificate", escaped(pki)))
    seen, problem = proxied(peer, *headers)
    assert seen is None
    assert problem is not None
    assert (problem["status"], problem["type"]) == (403, "not-a-proxy")


def test_a_refusal_of_head_has_no_body() -> None:
    assert proxied("10.0.0.8", method="HEAD") == (None, None)


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        ([], "10.0.0.9"),
        (["192.0.2.1"], "192.0.2.1"),
        (["203.0.113.66, 192.0.2.1"], "192.0.2.1"),  # what the client wrote is on the left
        (["203.0.113.66", "192.0.2.1"], "192.0.2.1"),
        (["203.0.113.66, 192.0.2.1, 192.168.7.3"], "192.0.2.1"),  # a second declared proxy
        (["10.0.0.9"], "10.0.0.9"),
        (["192.0.2.1, junk"], "10.0.0.9"),
        (["192.0.2.1,"], "10.0.0.9"),
        (["2001:db8::1"], "2001:db8::1"),
        (["[2001:db8::1]:443"], "2001:db8::1"),
        (["::ffff:192.0.2.1"], "192.0.2.1"),
        ([", ".join(["192.168.7.4"] * 1000)], "192.168.7.4"),
    ],
)
def test_the_client_behind_a_proxy(forwarded: list[str], client: str) -> None:
    seen, _ = proxied("10.0.0.9", *(("X-Forwarded-For", line) for line in forwarded))
    assert seen is not None
    assert (seen["client"], seen["peer_certificate"], seen["kept"]) == (client, None, 1)


def test_the_certificate_that_a_proxy_verified(pki: Pki) -> None:
    der = pki.certificate("partner_auth").public_bytes(Encoding.DER)
    for header in ("X-Client-Certificate", "x-client-certificate"):
        seen, _ = proxied("192.168.7.200", (header, escaped(pki)))
        assert seen is not None
        assert seen["peer_certificate"] == der
    for nothing in ("", "-"):
        seen, _ = proxied("192.168.7.200", ("X-Client-Certificate", nothing))
        assert seen is not None
        assert seen["peer_certificate"] is None


@pytest.mark.parametrize("spoil", [
    lambda pem: pem[:-20],
    lambda pem: pem + pem,
    lambda pem: quote("-----BEGIN CERTIFICATE-----\n@@@@\n-----END CERTIFICATE-----"),
    lambda pem: quote("-----BEGIN CERTIFICATE-----\nabc\n-----END CERTIFICATE-----"),
    lambda pem: quote("-----BEGIN CERTIFICATE-----\n" + "A" * 20_000 + "\n-----END CERTIFICATE-----"),
    lambda pem: "CN=partner",
    lambda pem: "%FF%FE",
    lambda pem: pem + ", " + pem,
])  # fmt: skip
def test_what_is_no_certificate_is_refused(pki: Pki, spoil: Callable[[str], str]) -> None:
    seen, problem = proxied("10.0.0.9", ("X-Client-Certificate", spoil(escaped(pki))))
    assert seen is None
    assert problem is not None
    assert (problem["status"], problem["type"]) == (400, "proxy-certificate")


def test_two_certificate_headers_are_none(pki: Pki) -> None:
    both = [("X-Client-Certificate", escaped(pki, name)) for name in ("partner_auth", "ris_auth")]
    seen, problem = proxied("10.0.0.9", *both)
    assert (seen, problem and problem["type"]) == (None, "proxy-certificate")


# --- several processes

PLACES = """
import os, signal, sys
from dicom_store.places import Places
from dicom_store.status import HttpRefusal

def taken(places):
    try:
        places.take()
    except HttpRefusal as refusal:
        return refusal.slug
    return "taken"

places = Places(3, 2)
places.take_slot(0)
print(taken(places), taken(places))
told, tell = os.pipe()
child = os.fork()
if child == 0:
    places.take_slot(1)
    print(taken(places), taken(places), places.taken, flush=True)
    os.write(tell, b"x")
    signal.pause()
os.read(told, 1)
print(taken(places), places.taken, flush=True)
places.give_back()
print(taken(places), flush=True)
os.kill(child, signal.SIGKILL)
os.waitpid(child, 0)
print(taken(places), places.taken, flush=True)  # the dead one still holds its place
child = os.fork()
if child == 0:
    places.take_slot(1)  # the next one in its slot holds nothing
    print(places.taken, taken(places), taken(places), flush=True)
    os._exit(0)
os.waitpid(child, 0)
"""


def test_places_are_counted_over_processes() -> None:
    done = subprocess.run([sys.executable, "-c", PLACES], capture_output=True, text=True, timeout=30)
    assert done.stdout.splitlines() == [
        "taken taken",
        "taken busy 3",
        "busy 3",
        "taken",
        "busy 3",
        "2 taken busy",
    ], done.stderr


PREFORK = """
import os, signal, sys, threading
import structlog
from drimbox.entrypoints import prefork

structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))

prefork.STOP_SECONDS, prefork.PAUSE_SECONDS = 1.0, 0.2
kind = sys.argv[1]

def say(*words):  # whole lines, whoever else writes
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

def child(number, follow_parent):
    stop = threading.Event()
    if kind == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGTERM, lambda *_: stop.set())
        follow_parent(stop.set)
    say("child", number, os.getpid())
    if kind == "unable":
        raise OSError("cannot start")
    while kind == "deaf" or not stop.is_set():
        stop.wait(0.05)
    say("stopped", number)

prefork.Prefork(2, child).run()
say("done")
"""


@dataclass
class Forked:
    """Processes of the script above."""

    process: subprocess.Popen[str]

    def line(self) -> list[str]:
        assert self.process.stdout is not None
        return self.process.stdout.readline().split()

    def children(self, count: int = 2) -> dict[int, int]:
        """Number of the slot -> process, of the next lines that name one."""
        found: dict[int, int] = {}
        while len(found) < count:
            words = self.line()
            assert words, "the script ended"
            if words[0] == "child":
                found[int(words[1])] = int(words[2])
        return found

    def rest(self) -> str:
        return self.process.communicate(timeout=PATIENCE)[0]


@contextmanager
def forked(kind: str) -> Iterator[Forked]:
    command = [sys.executable, "-c", PREFORK, kind]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            yield Forked(process)
        finally:
            process.kill()


def is_dead(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state in "ZX"


def survivors(*pids: int) -> set[int]:
    """Those that live on after all the time that they may take to end."""
    deadline = time.monotonic() + PATIENCE
    while (alive := {pid for pid in pids if not is_dead(pid)}) and time.monotonic() < deadline:
        time.sleep(0.02)
    return alive


def test_a_process_that_dies_is_started_again() -> None:
    with forked("well") as stage:
        first = stage.children()
        os.kill(first[1], signal.SIGKILL)
        again = stage.children(1)
        assert set(again) == {1}
        assert again[1] != first[1]
        assert not is_dead(first[0])
        stage.process.terminate()
        assert sorted(stage.rest().split()) == ["0", "1", "done", "stopped", "stopped"]
    assert survivors(*first.values(), *again.values()) == set()


def test_processes_end_with_their_parent() -> None:
    with forked("well") as stage:
        children = stage.children()
        stage.process.kill()
        assert survivors(*children.values()) == set()


def test_a_process_that_does_not_stop_is_killed() -> None:
    with forked("deaf") as stage:
        children = stage.children()
        began = time.monotonic()
        stage.process.terminate()
        assert stage.rest().split() == ["done"]
        assert time.monotonic() - began < 5
        assert survivors(*children.values()) == set()


def test_a_process_that_cannot_start_is_tried_again_with_a_pause() -> None:
    with forked("unable") as stage:
        began = time.monotonic()
        for _ in range(3):
            stage.children()
        assert time.monotonic() - began > 0.3
        stage.process.terminate()
        assert stage.rest().split()[-1] == "done"


def test_there_are_descriptors_for_all_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "setrlimit", lambda _kind, limits: asked.append(limits))
    for soft, hard in ((1024, 524288), (1024, 4096), (1024, resource.RLIM_INFINITY), (65536, 65536)):
        monkeypatch.setattr(resource, "getrlimit", lambda _kind, limits=(soft, hard): limits)
        web._raise_descriptor_limit()
    assert asked == [(16384, 524288), (4096, 4096), (16384, resource.RLIM_INFINITY)]
