"""The strict probe: it finds a good answer good, and each broken rule by its name."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from drimbox.simulators.health_probe import USER_AGENT, ProbeClient
from drimbox.simulators.pki import Pki
from drimbox.simulators.server import tls_context
from fixtures.kept_pki import kept_pki

FIELDS = {
    "Content-Type": "application/json",
    "Cache-Control": "no-store",
    "Content-Length": "{length}",
}


def answer(
    body: bytes = b'{"status":"pass"}', status: str = "200 OK", head: bool = False, **fields: str | None
) -> bytes:
    """A valid answer but for what is given; a field None is left out. `_` in a name is `-`."""
    changed = FIELDS | {name.replace("_", "-"): value for name, value in fields.items()}
    lines = [f"{n}: {v.format(length=len(body))}" for n, v in changed.items() if v is not None]
    return (
        f"HTTP/1.1 {status}\r\n".encode()
        + "\r\n".join(lines).encode()
        + b"\r\n\r\n"
        + (b"" if head else body)
    )


class Peer:
    """Answers every connection with `octets`, or by what a function of the socket does."""

    def __init__(self, context: ssl.SSLContext | None) -> None:
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._run)
        self.act: bytes | Callable[[Any], None] = answer()
        self.requests: list[str] = []
        self.sources: list[str] = []
        self.over = threading.Event()
        scheme = "https" if context else "http"
        self.url = f"{scheme}://127.0.0.1:{self._listener.getsockname()[1]}/dicom-web-rs"
        self._thread.start()

    def stop(self) -> None:
        self.over.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        self._listener.close()
        assert not self._thread.is_alive()

    def _run(self) -> None:
        while not self.over.is_set():
            try:
                client, source = self._listener.accept()
            except OSError:
                return
            with client:
                self.sources.append(source[0])
                self._serve(client)

    def _serve(self, client: socket.socket) -> None:
        client.settimeout(10)
        try:
            if self._context:
                client = self._context.wrap_socket(client, server_side=True)
            with client:
                self.requests.append(client.recv(4096).decode("latin-1"))
                if callable(self.act):
                    self.act(client)
                else:
                    client.sendall(self.act)
        except OSError:  # the probe did not like us, or is gone: that is what it is asked
            return


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return kept_pki(tmp_path_factory.mktemp("probe-world") / "pki")


@pytest.fixture
def peer(pki: Pki) -> Iterator[Peer]:
    peer = Peer(tls_context(pki.path("appliance_server"), pki.key("appliance_server")))
    yield peer
    peer.stop()


def probe(peer: Peer, pki: Pki, **options: Any) -> ProbeClient:
    return ProbeClient(peer.url, authority=pki.authority, **{"timeout": 10, **options})


@pytest.mark.parametrize(
    ("octets", "up", "status"),
    [
        (answer(), True, 200),
        (answer(b'{"status":"warn","version":"1.2"}'), True, 200),
        (answer(b'{"status":"fail"}', "503 Service Unavailable"), False, 503),
        (answer(Content_Type="application/health+json; charset=utf-8"), True, 200),
        (answer(Cache_Control="no-cache, no-store"), True, 200),
    ],
)
def test_good_answers_break_no_rule(peer: Peer, pki: Pki, octets: bytes, up: bool, status: int) -> None:
    peer.act = octets
    verdict = probe(peer, pki).check()
    assert (verdict.up, verdict.status, verdict.reasons) == (up, status, ())
    assert verdict.body == octets.partition(b"\r\n\r\n")[2]
    assert 0 < verdict.milliseconds < 10_000


def test_the_request_is_bare(peer: Peer, pki: Pki) -> None:
    probe(peer, pki).check()
    probe(
        peer, pki, method="HEAD", user_agent="other", headers={"Accept": "*/*", "X-Forwarded-For": "9.9.9.9"}
    ).check()
    first, second = (request.split("\r\n") for request in peer.requests)
    host = peer.url.split("/")[2]
    assert first == [
        "GET /dicom-web-rs HTTP/1.1",
        f"Host: {host}",
        f"User-Agent: {USER_AGENT}",
        "Accept: application/json",
        "Connection: close",
        "",
        "",
    ]
    assert second[0] == "HEAD /dicom-web-rs HTTP/1.1"
    assert {"User-Agent: other", "Accept: */*", "X-Forwarded-For: 9.9.9.9"} <= set(second)


@pytest.mark.parametrize("source", ["127.0.0.1", "127.0.0.7", "127.3.2.1"])
def test_it_asks_from_the_address_it_was_given(peer: Peer, pki: Pki, source: str) -> None:
    assert probe(peer, pki, source_address=source).check().up
    assert peer.sources == [source]


@pytest.mark.parametrize(
    ("octets", "reasons"),
    [
        (answer(status="204 No Content"), ("status",)),
        (answer(status="403 Forbidden"), ("status",)),
        (answer(status="302 Found", Location="/health"), ("status", "redirect")),
        (answer(Set_Cookie="a=b"), ("cookie",)),
        (answer(Cache_Control=None), ("cached",)),
        (answer(Cache_Control="max-age=5"), ("cached",)),
        (answer(Content_Type="text/html"), ("media-type",)),
        (answer(Content_Type=None), ("media-type",)),
        (answer(Content_Length=None), ("length",)),
        (answer(Content_Length="3"), ("length",)),
        (answer(Content_Length="x"), ("length",)),
        (answer(Transfer_Encoding="chunked"), ("transfer-encoding",)),
        (answer(b"OK"), ("body",)),
        (answer(b'["pass"]'), ("body",)),
        (answer(b"{}"), ("body",)),
        (answer(b'{"version":"1"}'), ("body",)),
        (answer(b'{"status":"pass","checks":{}}'), ("body",)),
        (answer(b'{"status":true}'), ("body",)),
        (answer(b'{"status":"pass","status":"fail"}'), ("body",)),
        (answer(b'{"status":"UP"}'), ("disagrees",)),
        (answer(b'{"status":"fail"}'), ("disagrees",)),
        (answer(b'{"status":"warn"}', "503 Service Unavailable"), ("disagrees",)),
        (answer(b"no", Cache_Control=None, Set_Cookie="a=b"), ("cookie", "cached", "body")),
    ],
)
def test_every_broken_rule_is_named(peer: Peer, pki: Pki, octets: bytes, reasons: tuple[str, ...]) -> None:
    peer.act = octets
    verdict = probe(peer, pki).check()
    assert (verdict.up, verdict.reasons) == (False, reasons)


@pytest.mark.parametrize(
    ("octets", "reasons"),
    [
        (answer(head=True), ()),
        (answer(), ("head-body",)),
        (answer(head=True, Content_Length=None), ("length",)),
        (answer(head=True, Content_Length="0"), ("length",)),
        (answer(head=True, Content_Type="text/plain"), ("media-type",)),
    ],
)
def test_head(peer: Peer, pki: Pki, octets: bytes, reasons: tuple[str, ...]) -> None:
    peer.act = octets
    verdict = probe(peer, pki, method="HEAD").check()
    assert (verdict.up, verdict.reasons) == (not reasons, reasons)


def test_get_and_head_must_say_the_same(peer: Peer, pki: Pki) -> None:
    def both(get: bytes, head: bytes) -> Callable[[Any], None]:
        return lambda client: client.sendall(head if peer.requests[-1].startswith("HEAD") else get)

    peer.act = both(answer(Date="now"), answer(head=True, Date="later"))
    assert probe(peer, pki).differences() == ()
    peer.act = both(answer(), answer(status="503 No", head=True, Content_Length="9", Vary="Accept"))
    assert probe(peer, pki).differences() == (":status", "content-length", "vary")


def drip(client: Any, peer: Peer) -> None:
    for octet in answer():
        if peer.over.wait(0.05):
            return
        client.sendall(bytes([octet]))


@pytest.mark.parametrize(
    ("octets", "reason"),
    [
        (b"", "not-http"),
        (b"SSH-2.0\r\n\r\n", "not-http"),
        (b"HTTP/1.0 200 OK\r\n\r\n", "not-http"),
        (answer()[:40], "not-http"),
        (answer(Padding="x" * 70_000), "not-http"),
        (answer(**{f"X{n}": "1" for n in range(200)}), "not-http"),
    ],
)
def test_what_is_no_answer(peer: Peer, pki: Pki, octets: bytes, reason: str) -> None:
    peer.act = octets
    verdict = probe(peer, pki).check()
    assert (verdict.up, verdict.status, verdict.reasons) == (False, None, (reason,))


def test_an_answer_that_drips_is_late(peer: Peer, pki: Pki) -> None:
    peer.act = lambda client: drip(client, peer)
    verdict = probe(peer, pki, timeout=0.5).check()
    assert (verdict.up, verdict.reasons) == (False, ("timeout",))
    assert verdict.milliseconds < 2000


def test_the_chain_is_verified(peer: Peer, pki: Pki) -> None:
    assert ProbeClient(peer.url, timeout=10).check().reasons == ("tls",)
    plain = ProbeClient(peer.url.replace("https", "http"), timeout=10).check()
    assert plain.status is None and plain.reasons in (("connection",), ("not-http",))


def test_nobody_there(free_port: Callable[[], int], pki: Pki) -> None:
    url = f"https://127.0.0.1:{free_port()}/health"
    assert ProbeClient(url, authority=pki.authority, timeout=5).check().reasons == ("connection",)


def test_plain_http_where_tls_ends_elsewhere() -> None:
    peer = Peer(None)
    verdict = ProbeClient(peer.url, timeout=10).check()
    peer.stop()
    assert verdict.up


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/", "127.0.0.1", "https:///health"])
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="https://host/path"):
        ProbeClient(url)
