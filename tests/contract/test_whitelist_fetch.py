"""Retrieval over real sockets: every fault of peer and network has its own code, and none outlives its deadline."""

from __future__ import annotations

import hashlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from drimbox.simulators.pki import Pki
from drimbox.simulators.server import tls_context
from fixtures.kept_pki import kept_pki
from whitelist.fetch import Fetched, Fetcher, Unreachable

Script = Callable[[socket.socket, str], None]
BODY = b"<ListeBlancheDRIM-M/>" * 50


class RawServer:
    """Answers each connection by a script that writes octets; keeps the requests."""

    def __init__(self, script: Script, context: ssl.SSLContext | None) -> None:
        self._script, self._context = script, context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.requests: list[str] = []
        self.over = threading.Event()
        self._threads: list[threading.Thread] = []
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()

    def stop(self) -> None:
        self.over.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in [self._accepting, *self._threads]:
            thread.join(10)
            assert not thread.is_alive()

    def _accept(self) -> None:
        while not self.over.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._threads.append(threading.Thread(target=self._answer, args=(client,)))
            self._threads[-1].start()

    def _answer(self, client: socket.socket) -> None:
        client.settimeout(10)
        try:
            if self._context is not None:
                client = self._context.wrap_socket(client, server_side=True)
            received = b""
            while b"\r\n\r\n" not in received and (chunk := client.recv(4096)):
                received += chunk
            self.requests.append(received.decode("latin-1"))
            self._script(client, received.decode("latin-1"))
        except OSError:
            return  # the client hung up, as it should in most of these tests
        finally:
            client.close()


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return kept_pki(tmp_path_factory.mktemp("fetch") / "pki")


@pytest.fixture
def serve(pki: Pki) -> Iterator[Callable[..., RawServer]]:
    running: list[RawServer] = []
    secure = tls_context(pki.path("ans_server"), pki.key("ans_server"))

    def start(script: Script, *, tls: bool = True) -> RawServer:
        running.append(RawServer(script, secure if tls else None))
        return running[-1]

    yield start
    for server in running:
        server.stop()


def answer(status: str = "200 OK", body: bytes = BODY, length: int | None = None, **fields: str) -> bytes:
    headers = {"Content-Length": str(len(body) if length is None else length)}
    headers |= {name.replace("_", "-"): value for name, value in fields.items()}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status}\r\n{lines}\r\n".encode() + body


def says(octets: bytes) -> Script:
    return lambda client, _: client.sendall(octets)


def fetcher(pki: Pki, **limits: float) -> Fetcher:
    connect, total = limits.get("connect", 5), limits.get("total", 5)
    return Fetcher(connect, total, int(limits.get("max_bytes", 1_000_000)), pki.authority)


def url_of(server: RawServer, path: str = "/liste.xml", scheme: str = "https") -> str:
    return f"{scheme}://localhost:{server.port}{path}"


def refusal(get: Callable[[], Fetched]) -> str:
    with pytest.raises(Unreachable) as caught:
        get()
    return caught.value.code


def test_a_body_comes_with_its_validators(pki: Pki, serve: Callable[..., RawServer]) -> None:
    server = serve(says(answer(ETag='"a1"', Last_Modified="Fri, 20 Nov 2026 04:00:00 GMT", Set_Cookie="a=b")))
    fetched = fetcher(pki).get(url_of(server))
    assert (fetched.status, fetched.body, fetched.etag) == (200, BODY, '"a1"')
    assert fetched.modified == "Fri, 20 Nov 2026 04:00:00 GMT"
    assert fetched.sha256 == hashlib.sha256(BODY).hexdigest()
    assert "accept-encoding: identity" in server.requests[0].lower()


def test_a_condition_may_be_answered_by_304(pki: Pki, serve: Callable[..., RawServer]) -> None:
    server = serve(says(answer("304 Not Modified", b"", ETag='"a1"')))
    fetched = fetcher(pki).get(url_of(server), '"a1"', "Fri, 20 Nov 2026 04:00:00 GMT")
    assert (fetched.status, fetched.body, fetched.etag) == (304, b"", '"a1"')
    assert 'If-None-Match: "a1"' in server.requests[0]
    assert "If-Modified-Since: Fri, 20 Nov 2026 04:00:00 GMT" in server.requests[0]


def test_304_without_a_condition_is_no_answer(pki: Pki, serve: Callable[..., RawServer]) -> None:
    server = serve(says(answer("304 Not Modified", b"")))
    assert refusal(lambda: fetcher(pki).get(url_of(server))) == "status"


def test_a_page_is_fetched_as_it_is(pki: Pki, serve: Callable[..., RawServer]) -> None:
    """HTML with 200 is not told here: the verification refuses it (step 2)."""
    page = b"<!DOCTYPE html><html><body>Sign in</body></html>"
    assert fetcher(pki).get(url_of(serve(says(answer(body=page))))).body == page


def test_a_chunked_body_is_read_whole(pki: Pki, serve: Callable[..., RawServer]) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert fetcher(pki).get(url_of(serve(says(head + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")))).body == b"abcde"


REFUSED = {
    "http 500": (answer("500 Internal Server Error"), "status"),
    "no content": (answer("204 No Content", b""), "status"),
    "partial content": (answer("206 Partial Content"), "status"),
    "empty": (answer(body=b""), "empty"),
    "compressed": (answer(Content_Encoding="gzip"), "encoding"),
    "too large, announced": (answer(body=b"x" * 2_000_000), "too-large"),
    "too large, in chunks": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"80000\r\n" + b"x" * 0x80000 + b"\r\n" +
        b"80000\r\n" + b"x" * 0x80000 + b"\r\n0\r\n\r\n", "too-large",
    ),
    "truncated": (answer(length=len(BODY) + 10), "truncated"),
    "truncated chunk": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n100\r\nabc", "truncated"),
    "no length, cut": (b"HTTP/1.1 200 OK\r\n\r\nabc", "truncated"),
    "not http": (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "http"),
    "hung up": (b"", "truncated"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_other_answers_are_refused(pki: Pki, serve: Callable[..., RawServer], case: str) -> None:
    octets, code = REFUSED[case]
    assert refusal(lambda: fetcher(pki).get(url_of(serve(says(octets))))) == code


def test_nobody_listens(pki: Pki, free_port: Callable[[], int]) -> None:
    assert refusal(lambda: fetcher(pki).get(f"https://localhost:{free_port()}/")) == "connect"


def hang(client: socket.socket, _: str) -> None:
    client.recv(1)  # until the client leaves


def drip_body(client: socket.socket, _: str) -> None:
    client.sendall(answer(body=b"", length=1000))
    drip(client, b"x")


def drip_headers(client: socket.socket, _: str) -> None:
    client.sendall(b"HTTP/1.1 200 OK\r\nX-Long: ")
    drip(client, b"y")


def drip(client: socket.socket, octet: bytes) -> None:
    for _ in range(200):
        client.sendall(octet)
        time.sleep(0.05)


@pytest.mark.parametrize("script", [hang, drip_body, drip_headers])
def test_the_whole_exchange_has_one_deadline(
    pki: Pki, serve: Callable[..., RawServer], script: Script
) -> None:
    server, began = serve(script), time.monotonic()
    assert refusal(lambda: fetcher(pki, total=0.6).get(url_of(server))) == "timeout"
    assert 0.5 < time.monotonic() - began < 3


def test_a_handshake_that_hangs_ends_at_the_connect_limit(pki: Pki) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url, began = f"https://localhost:{silent.getsockname()[1]}/", time.monotonic()
        assert refusal(lambda: fetcher(pki, connect=0.4, total=20).get(url)) == "timeout"
        assert time.monotonic() - began < 3


def test_the_certificate_must_be_of_the_authority(
    pki: Pki, serve: Callable[..., RawServer], tmp_path: Path
) -> None:
    other = pki.issue("SERV_SSL", "ans.localhost", "1", foreign_authority=True).write(tmp_path, "other")
    server = RawServer(says(answer()), tls_context(*other))
    assert refusal(lambda: fetcher(pki).get(url_of(server))) == "tls"
    server.stop()
    assert refusal(lambda: Fetcher(5, 5, 1000).get(url_of(serve(says(answer()))))) == "tls"  # system store
    assert server.requests == []


def test_the_certificate_must_name_the_host(pki: Pki, serve: Callable[..., RawServer]) -> None:
    server = serve(says(answer()))
    assert refusal(lambda: fetcher(pki).get(f"https://127.0.0.2:{server.port}/")) in {"tls", "connect"}
    assert server.requests == []


def test_authorities_that_cannot_be_read_are_no_reason_for_others(tmp_path: Path) -> None:
    assert refusal(lambda: Fetcher(1, 1, 10, tmp_path / "none.pem").get("https://localhost/")) == "authority"
    (tmp_path / "bad.pem").write_text("no certificate")
    assert refusal(lambda: Fetcher(1, 1, 10, tmp_path / "bad.pem").get("https://localhost/")) == "authority"


def redirecting(target: Callable[[int], str], *, stop_at: str = "") -> Callable[[list[int]], Script]:
    def script_for(port: list[int]) -> Script:
        def script(client: socket.socket, request: str) -> None:
            arrived = stop_at and request.startswith(f"GET {stop_at} ")
            moved = answer("302 Found", b"", Location=target(port[0]))
            client.sendall(answer() if arrived else moved)

        return script

    return script_for


REDIRECTS = {
    "to http": lambda port: f"http://localhost:{port}/x",
    "to another host": lambda port: f"https://127.0.0.1:{port}/x",
    "to another port": lambda port: f"https://localhost:{port + 1}/x",
    "for ever": lambda port: "/again",
}


@pytest.mark.parametrize("case", REDIRECTS)
def test_redirects_that_are_not_followed(pki: Pki, serve: Callable[..., RawServer], case: str) -> None:
    port: list[int] = []
    server = serve(redirecting(REDIRECTS[case])(port))
    port.append(server.port)
    code = refusal(lambda: fetcher(pki).get(url_of(server)))
    assert code == ("url" if case == "to http" else "redirect")
    assert len(server.requests) == (4 if case == "for ever" else 1)


def test_a_redirect_on_the_same_host_is_followed(pki: Pki, serve: Callable[..., RawServer]) -> None:
    port: list[int] = []
    server = serve(redirecting(lambda _: "/moved.xml", stop_at="/moved.xml")(port))
    port.append(server.port)
    fetched = fetcher(pki).get(url_of(server))
    assert (fetched.body, fetched.url) == (BODY, url_of(server, "/moved.xml"))


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost/list.xml",
        "ftp://localhost/list.xml",
        "https://user:secret@localhost/",
        "https:///list.xml",
        "https://localhost:port/",
        "file:///etc/passwd",
        "",
    ],
)
def test_addresses_that_are_not_asked(pki: Pki, url: str) -> None:
    assert refusal(lambda: fetcher(pki).get(url)) == "url"


def test_clear_text_is_for_signed_content_only(pki: Pki, serve: Callable[..., RawServer]) -> None:
    server = serve(says(answer()), tls=False)
    url = url_of(server, scheme="http")
    assert refusal(lambda: fetcher(pki).get(url)) == "url"
    assert fetcher(pki).get(url, plain=True).body == BODY


def test_published_paths_have_spaces_and_accents(pki: Pki, serve: Callable[..., RawServer]) -> None:
    server = serve(says(answer()))
    fetcher(pki).get(url_of(server, "/Référencement DRIMBox/d%C3%A9j%C3%A0.xml?a=1 2"))
    assert server.requests[0].startswith(
        "GET /R%C3%A9f%C3%A9rencement%20DRIMBox/d%C3%A9j%C3%A0.xml?a=1%202 HTTP/1.1"
    )


def test_no_proxy_of_the_environment_is_used(
    pki: Pki, serve: Callable[..., RawServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    assert fetcher(pki).get(url_of(serve(says(answer())))).status == 200


def test_a_validator_that_cannot_be_sent_back_is_not_kept(pki: Pki, serve: Callable[..., RawServer]) -> None:
    assert fetcher(pki).get(url_of(serve(says(answer(ETag='"' + "a" * 600 + '"'))))).etag is None
    assert fetcher(pki).get(url_of(serve(says(answer(ETag='"a\tb"'))))).etag is None
