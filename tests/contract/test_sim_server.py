"""The simulators' HTTP server, on real sockets: keep-alive, TLS, hostile clients, faults, stop."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from drimbox.simulators.faults import Faults
from drimbox.simulators.pki import Pki
from drimbox.simulators.server import CutConnection, WsgiServer, serve_wsgi, tls_context
from fixtures.kept_pki import kept_pki


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return kept_pki(tmp_path_factory.mktemp("world") / "pki")


def echo(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    if environ["PATH_INFO"] == "/cut":
        raise CutConnection
    if environ["PATH_INFO"] == "/fail":
        raise RuntimeError("secret of the application")
    start_response("200 OK", [("Content-Type", "text/plain"), ("X-Accept", environ.get("HTTP_ACCEPT", ""))])
    certificate = environ["drimbox.peer_certificate"]
    said = b"none" if certificate is None else b"%d" % len(certificate)
    return [environ["REQUEST_METHOD"].encode(), b" ", environ["wsgi.input"].read(), b" ", said]


def streamed(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
    start_response("200 OK", [("Content-Length", "6")])
    yield b"abc"
    yield b"def"


@pytest.fixture
def plain() -> Iterator[WsgiServer]:
    server = serve_wsgi(echo, "127.0.0.1", 0)
    yield server
    server.stop()


@pytest.fixture
def secured(pki: Pki) -> Iterator[WsgiServer]:
    context = tls_context(pki.path("dmp_server"), pki.key("dmp_server"), pki.authority)
    server = serve_wsgi(echo, "127.0.0.1", 0, context)
    yield server
    server.stop()


def client_context(pki: Pki, name: str | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(pki.authority))
    if name:
        context.load_cert_chain(pki.path(name), pki.key(name))
    return context


def asked(
    connection: http.client.HTTPConnection, path: str = "/", body: bytes | None = None
) -> tuple[int, bytes]:
    connection.request("GET" if body is None else "POST", path, body)
    answer = connection.getresponse()
    return answer.status, answer.read()


def status(server: WsgiServer) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
    try:
        return asked(connection)[0]
    finally:
        connection.close()


def test_a_connection_carries_many_requests(plain: WsgiServer) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", plain.port, timeout=5)
    assert asked(connection, body=b"one") == (200, b"POST one none")
    local = connection.sock.getsockname()
    assert asked(connection, body=b"two") == (200, b"POST two none")
    assert connection.sock.getsockname() == local
    connection.close()


def test_a_chunked_body_is_read_whole(plain: WsgiServer) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", plain.port, timeout=5)
    connection.request("POST", "/", iter([b"a" * 70_000, b"b"]), encode_chunked=True)
    assert connection.getresponse().read() == b"POST " + b"a" * 70_000 + b"b none"
    connection.close()


def test_repeated_headers_are_joined_and_expectations_met(plain: WsgiServer) -> None:
    with socket.create_connection(("127.0.0.1", plain.port), timeout=5) as raw:
        raw.sendall(
            b"POST / HTTP/1.1\r\nHost: x\r\nAccept: a\r\nAccept: b\r\n"
            b"Expect: 100-continue\r\nContent-Length: 1\r\n\r\n"
        )
        assert raw.recv(1000).startswith(b"HTTP/1.1 100")
        raw.sendall(b"z")
        answer = raw.recv(1000)
    assert (
        answer.startswith(b"HTTP/1.1 200") and b"X-Accept: a,b" in answer and answer.endswith(b"POST z none")
    )


def test_head_has_the_length_without_the_body(plain: WsgiServer) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", plain.port, timeout=5)
    connection.request("HEAD", "/")
    answer = connection.getresponse()
    assert (answer.getheader("Content-Length"), answer.read()) == ("10", b"")
    assert asked(connection)[0] == 200
    connection.close()


def test_a_declared_length_streams() -> None:
    server = serve_wsgi(streamed, "127.0.0.1", 0)
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
    assert asked(connection) == (200, b"abcdef")
    connection.close()
    server.stop()


@pytest.mark.parametrize(
    ("sent", "refusal"),
    [
        (b"\x16\x03\x01\x00\x05hello\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 100_000, b"431"),
    ],
)
def test_what_is_not_http_is_refused_and_the_server_goes_on(
    plain: WsgiServer, sent: bytes, refusal: bytes
) -> None:
    with socket.create_connection(("127.0.0.1", plain.port), timeout=5) as raw:
        raw.sendall(sent)
        assert raw.recv(100).startswith(b"HTTP/1.1 " + refusal)
    assert status(plain) == 200


def test_a_body_over_the_limit_is_refused() -> None:
    server = WsgiServer(echo, "127.0.0.1", 0, max_body_bytes=1000)
    server.start()
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
    assert asked(connection, body=b"x" * 1001)[0] == 413
    connection.close()
    server.stop()


def test_an_application_that_fails_is_answered_500_without_its_reason(plain: WsgiServer) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", plain.port, timeout=5)
    assert asked(connection, "/fail") == (500, b"")
    assert asked(connection)[0] == 200
    connection.close()


def test_an_application_can_cut_the_connection(plain: WsgiServer) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", plain.port, timeout=5)
    with pytest.raises(http.client.RemoteDisconnected):
        asked(connection, "/cut", b"registered, unanswered")
    connection.close()


def test_the_client_certificate_reaches_the_application(secured: WsgiServer, pki: Pki) -> None:
    context = client_context(pki, "appliance_auth")
    connection = http.client.HTTPSConnection("127.0.0.1", secured.port, timeout=5, context=context)
    length = len(ssl.PEM_cert_to_DER_cert(pki.path("appliance_auth").read_text().split("-----END")[0] + END))
    assert asked(connection) == (200, b"GET  %d" % length)
    connection.close()


END = "-----END CERTIFICATE-----\n"


def test_without_a_client_certificate_the_application_is_told(secured: WsgiServer, pki: Pki) -> None:
    connection = http.client.HTTPSConnection(
        "127.0.0.1", secured.port, timeout=5, context=client_context(pki)
    )
    assert asked(connection) == (200, b"GET  none")
    connection.close()


def test_a_certificate_of_another_authority_fails_the_handshake(
    secured: WsgiServer, pki: Pki, tmp_path: Path
) -> None:
    stranger = pki.issue("AUTH_CLI", "stranger", "1750803447", foreign_authority=True)
    context = ssl.create_default_context(cafile=str(pki.authority))
    context.load_cert_chain(*stranger.write(tmp_path, "stranger"))
    connection = http.client.HTTPSConnection("127.0.0.1", secured.port, timeout=5, context=context)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        asked(connection)
    connection.close()


def test_tls_1_1_is_refused(secured: WsgiServer, pki: Pki) -> None:
    context = client_context(pki)
    with pytest.warns(DeprecationWarning):
        context.minimum_version = ssl.TLSVersion.TLSv1_1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    connection = http.client.HTTPSConnection("127.0.0.1", secured.port, timeout=5, context=context)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        asked(connection)
    connection.close()


def test_silent_clients_do_not_hold_up_the_others(secured: WsgiServer, pki: Pki) -> None:
    silent = [socket.create_connection(("127.0.0.1", secured.port), timeout=5) for _ in range(5)]
    silent[0].sendall(b"\x16\x03")  # the start of a handshake, and no more
    started = time.monotonic()
    connection = http.client.HTTPSConnection(
        "127.0.0.1", secured.port, timeout=5, context=client_context(pki)
    )
    assert asked(connection)[0] == 200
    assert time.monotonic() - started < 2
    connection.close()
    for raw in silent:
        raw.close()


def test_connections_are_reset_as_often_as_the_fault_was_armed() -> None:
    faults = Faults()
    server = serve_wsgi(
        echo, "127.0.0.1", 0, refuse=lambda: faults.take("dmp", "refuse_connection") is not None
    )
    faults.arm("dmp", "refuse_connection", 2)
    for _ in range(2):
        with socket.create_connection(("127.0.0.1", server.port), timeout=5) as raw:
            raw.sendall(b"G")
            with pytest.raises(ConnectionResetError):
                assert raw.recv(1) == b"never"
    assert status(server) == 200
    server.stop()


def test_idle_connections_go_when_refusal_is_armed(plain: WsgiServer) -> None:
    faults = Faults()
    faults.when_refusing("dmp", plain.drop_idle)
    connection = http.client.HTTPConnection("127.0.0.1", plain.port, timeout=5)
    assert asked(connection)[0] == 200
    deadline = time.monotonic() + 5
    while connection.sock is not None and time.monotonic() < deadline:
        faults.arm("dmp", "refuse_connection", 1)  # the worker marks itself idle a moment after its answer
        connection.sock.settimeout(0.1)
        try:
            assert connection.sock.recv(1) == b""
            break
        except TimeoutError:
            continue
    else:
        pytest.fail("the idle connection was kept")
    connection.close()


def test_stop_ends_waiting_connections_and_frees_the_port(pki: Pki) -> None:
    context = tls_context(pki.path("dmp_server"), pki.key("dmp_server"), pki.authority)
    server = serve_wsgi(echo, "127.0.0.1", 0, context)
    mute = socket.create_connection(("127.0.0.1", server.port), timeout=5)
    idle = http.client.HTTPSConnection("127.0.0.1", server.port, timeout=5, context=client_context(pki))
    assert asked(idle)[0] == 200
    before = threading.active_count()
    started = time.monotonic()
    server.stop()
    assert time.monotonic() - started < 3
    assert threading.active_count() <= before - 2
    again = serve_wsgi(echo, "127.0.0.1", server.port)
    assert status(again) == 200
    again.stop()
    mute.close()
    idle.close()


def test_an_application_that_waits_can_see_the_stop() -> None:
    waiting = threading.Event()

    def patient(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        waiting.set()
        assert environ["drimbox.stopping"].wait(20)
        raise CutConnection

    server = serve_wsgi(patient, "127.0.0.1", 0)
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as raw:
        raw.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert waiting.wait(5)
        started = time.monotonic()
        server.stop()
        assert raw.recv(1) == b""
    assert time.monotonic() - started < 3


def test_a_port_that_is_taken_is_an_error(plain: WsgiServer) -> None:
    with pytest.raises(OSError):
        WsgiServer(echo, "127.0.0.1", plain.port)
