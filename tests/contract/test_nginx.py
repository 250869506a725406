"""The sample of `systemd/nginx-drimbox.conf`, by a real nginx, before the public door's own reading of a proxy."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import requests
import uvicorn
from cryptography.hazmat.primitives.serialization import Encoding
from pydicom import dcmread

from dicom_store.asgi import send_document
from drimbox.entrypoints.bench_wado_exam import Exam, make_exam
from drimbox.entrypoints.bench_wado_peers import bring, start_appliance_behind_proxy
from drimbox.entrypoints.demo_stage import Stage
from drimbox.entrypoints.http_protocol import BoundedProtocol
from drimbox.entrypoints.proxied import Proxied
from drimbox.simulators.certificates import Urls
from drimbox.simulators.partner import partner_fetch
from drimbox.simulators.pki import Pki
from fixtures.kept_pki import kept_pki
from fixtures.quick_stage import open_quick_stage

SAMPLE = Path(__file__).resolve().parents[2] / "systemd" / "nginx-drimbox.conf"
NGINX = shutil.which("nginx", path="/usr/sbin:/usr/bin:/sbin:/bin")
START_SECONDS = 15.0
BASE = "/dicom-web-rs"
TOKEN = "eyJhbGciOiJub25lIn0.a-secret-of-the-professional.signature"

pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed: apt-get install nginx")


@dataclass(frozen=True)
class Edge:
    """A running nginx with the sample, and what it needs to be called."""

    url: str
    port: int
    pki: Pki
    directory: Path

    def get(self, path: str, certificate: str | None = None, **headers: str) -> requests.Response:
        shown = None if certificate is None else (self.pki.path(certificate), self.pki.key(certificate))
        return self.ask("GET", path, shown, headers)

    def ask(
        self, method: str, path: str, shown: tuple[Path, Path] | None, headers: dict[str, str], **more: Any
    ) -> requests.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        files = None if shown is None else (str(shown[0]), str(shown[1]))
        return requests.request(
            method,
            self.url + path,
            headers=named,
            cert=files,
            verify=str(self.pki.authority),
            timeout=10,
            **more,
        )

    def log(self) -> list[dict[str, str]]:
        """Lines of the access log; nginx writes one after the answer has left."""
        text = (self.directory / "drimbox.log").read_text("utf-8")
        return [json.loads(line) for line in text.splitlines()]


async def _echo(scope: Any, receive: Any, send: Any) -> None:
    """What the door behind the proxy knows of the request."""
    seen = {
        "path": scope["path"],
        "query": scope["query_string"].decode("ascii"),
        "client": scope["state"]["client"],
        "certificate": hashlib.sha256(scope["state"]["peer_certificate"] or b"").hexdigest(),
        "headers": sorted(name.decode("ascii") for name, _ in scope["headers"]),
        "accepts": [value.decode("ascii") for name, value in scope["headers"] if name == b"accept"],
        "http_version": scope["http_version"],
    }
    await send_document(send, 200, "application/json", json.dumps(seen).encode("ascii"))


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextmanager
def _upstream(port: int) -> Iterator[None]:
    app = Proxied(_echo, ("127.0.0.1",), "X-Client-Certificate")
    config = uvicorn.Config(
        app,
        host="127.0.0.1",
        port=port,
        http=BoundedProtocol,
        log_config=None,
        lifespan="off",
        ws="none",
        proxy_headers=False,
    )
    server = _Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
    thread.start()
    try:
        _wait_for_port(port)
        yield
    finally:
        server.should_exit = True
        thread.join()


def _wait_for_port(port: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    pytest.fail(f"nothing listens on {port}")


def configuration(directory: Path, pki: Pki, port: int, upstream: int) -> Path:
    """The sample, with the places of this test: every substitution must have something to replace."""
    text = SAMPLE.read_text("utf-8")
    for there, here in {
        "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
        "listen [::]:443 ssl;": "",
        "server 127.0.0.1:8443": f"server 127.0.0.1:{upstream}",
        "/var/log/nginx": str(directory),
        "/etc/drimbox/tls/server.pem": str(pki.path("appliance_server")),
        "/etc/drimbox/tls/server.key": str(pki.key("appliance_server")),
        "/etc/drimbox/tls/partners.pem": str(pki.authority),
    }.items():
        assert there in text
        text = text.replace(there, here)
    sample, main = directory / "drimbox.conf", directory / "nginx.conf"
    sample.write_text(text, "utf-8")
    account = "user root;\n" if os.geteuid() == 0 else ""
    main.write_text(
        f"{account}daemon off;\nworker_processes 1;\npid {directory}/pid;\n"
        f"events {{ worker_connections 256; }}\nhttp {{ include {sample}; }}\n",
        "utf-8",
    )
    return main


def _nginx(directory: Path, main: Path, *options: str) -> list[str]:
    assert NGINX is not None
    return [NGINX, "-p", str(directory), "-e", "stderr", "-c", str(main), *options]


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return kept_pki(tmp_path_factory.mktemp("pki"))


@contextmanager
def running(directory: Path, pki: Pki, port: int, upstream: int) -> Iterator[Edge]:
    command = _nginx(directory, configuration(directory, pki, port, upstream))
    with (
        (directory / "stderr").open("w", encoding="utf-8") as errors,
        subprocess.Popen(command, stderr=errors) as process,
    ):
        try:
            _wait_for_port(port)
            yield Edge(f"https://127.0.0.1:{port}", port, pki, directory)
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory, pki: Pki, free_port: Callable[[], int]) -> Iterator[Edge]:
    upstream = free_port()
    with _upstream(upstream), running(tmp_path_factory.mktemp("nginx"), pki, free_port(), upstream) as edge:
        yield edge


def test_nginx_accepts_the_sample(tmp_path: Path, pki: Pki) -> None:
    main = configuration(tmp_path, pki, 18443, 18444)
    done = subprocess.run(_nginx(tmp_path, main, "-t"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "warn" not in done.stderr


def test_a_verified_certificate_reaches_the_door(edge: Edge) -> None:
    seen = edge.get(f"{BASE}/studies/1.2.3", "partner_auth").json()
    der = edge.pki.certificate("partner_auth").public_bytes(Encoding.DER)
    assert seen["certificate"] == hashlib.sha256(der).hexdigest()
    assert (seen["client"], seen["http_version"]) == ("127.0.0.1", "1.1")


def test_a_client_without_certificate_is_passed_on_without(edge: Edge) -> None:
    seen = edge.get(f"{BASE}/studies/1.2.3").json()
    assert "x-client-certificate" not in seen["headers"]
    assert seen["certificate"] == hashlib.sha256(b"").hexdigest()


def test_what_a_client_says_of_itself_is_not_believed(edge: Edge) -> None:
    forged = edge.pki.path("appliance_auth").read_text("ascii").replace("\n", "%0A")
    seen = edge.get(
        f"{BASE}/studies/1.2.3",
        X_Client_Certificate=forged,
        X_Forwarded_For="192.0.2.66",
        Forwarded="for=192.0.2.66",
        X_Real_IP="192.0.2.66",
    ).json()
    assert seen["client"] == "127.0.0.1"
    assert seen["certificate"] == hashlib.sha256(b"").hexdigest()
    assert {"forwarded", "x-real-ip", "x-client-certificate"} & set(seen["headers"]) == set()


def test_a_certificate_of_another_authority_is_refused(edge: Edge, tmp_path: Path) -> None:
    stranger = edge.pki.issue("AUTH_CLI", "stranger", "1750803447", foreign_authority=True)
    shown = stranger.write(tmp_path, "stranger")
    answer = edge.ask("GET", f"{BASE}/studies/1.2.3", shown, {})
    assert (answer.status_code, answer.json()["type"]) == (400, "bad-request")


def test_old_tls_is_refused(edge: Edge) -> None:
    context = ssl.create_default_context(cafile=str(edge.pki.authority))
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning):
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with (
        socket.create_connection(("127.0.0.1", edge.port), 10) as plain,
        pytest.raises(ssl.SSLError),
    ):
        context.wrap_socket(plain, server_hostname="127.0.0.1")


@pytest.mark.parametrize(
    "path", ["/dicomweb/studies", "/reports", "/metrics", "/", f"{BASE}x/studies", f"{BASE}/../metrics"]
)
def test_what_is_internal_is_not_there(edge: Edge, path: str) -> None:
    with requests.Session() as session:
        prepared = session.prepare_request(requests.Request("GET", edge.url + path))
        prepared.url = edge.url + path  # dots as they are
        answer = session.send(prepared, verify=str(edge.pki.authority), timeout=10)
    assert (answer.status_code, answer.json()["type"]) == (404, "not-found")
    assert answer.headers["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize("path", [BASE, f"{BASE}/", "/healthcheck", "/health", "/q/health"])
def test_probes_reach_the_door(edge: Edge, path: str) -> None:
    assert edge.get(path).json()["path"] == path


def test_the_target_and_ten_accept_lines_arrive_as_sent(edge: Edge) -> None:
    """drim-m-data 3.1 and 3.3: an absolute-form target, a long Accept, a token of 8 KiB."""
    accepts = [
        f'multipart/related; type="application/dicom"; transfer-syntax=1.2.{n}; q=0.{n}' for n in range(10)
    ]
    target = f"http://db.example.fr{BASE}/studies/1.2.3?accept=a"
    head = "".join(f"Accept: {line}\r\n" for line in accepts)
    head += f"Authorization: Bearer {'x' * 8192}\r\nConnection: close\r\n"
    request = f"GET {target} HTTP/1.1\r\nHost: db.example.fr\r\n{head}\r\n"
    context = ssl.create_default_context(cafile=str(edge.pki.authority))
    with (
        socket.create_connection(("127.0.0.1", edge.port), 10) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
    ):
        connection.sendall(request.encode("ascii"))
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    seen = json.loads(answer[answer.index(b"{") : answer.rindex(b"}") + 1])
    assert (seen["path"], seen["query"], seen["accepts"]) == (f"{BASE}/studies/1.2.3", "accept=a", accepts)


def test_a_body_is_refused(edge: Edge) -> None:
    answer = edge.ask("POST", f"{BASE}/studies/1.2.3", None, {}, data=b"x" * 5000)
    assert (answer.status_code, answer.json()["type"]) == (400, "bad-request")


def test_the_log_names_the_client_and_never_the_token(edge: Edge) -> None:
    path = f"{BASE}/studies/1.2.250.1.777"
    edge.get(f"{path}?access_token={TOKEN}", "partner_auth", Authorization=f"Bearer {TOKEN}")
    deadline = time.monotonic() + 5
    while not (lines := [line for line in edge.log() if line["path"] == path]):
        assert time.monotonic() < deadline, "no line in the log"
        time.sleep(0.05)
    assert (lines[0]["status"], lines[0]["verified"]) == ("200", "SUCCESS")
    assert "drimbox-partenaire" in lines[0]["certificate"]
    written = "".join(file.read_text("utf-8") for file in edge.directory.glob("*log"))
    assert "a-secret-of-the-professional" not in written


def test_a_door_that_is_down_is_busy(tmp_path: Path, pki: Pki, free_port: Callable[[], int]) -> None:
    with running(tmp_path, pki, free_port(), free_port()) as edge:
        answer = edge.get(f"{BASE}/studies/1.2.3")
    assert (answer.status_code, answer.json()["type"]) == (503, "busy")
    assert answer.headers["Retry-After"] == "5"
    assert answer.headers["Server"] == "nginx"


@dataclass(frozen=True)
class Shared:
    """An exam that an appliance behind nginx shares; a token must be shown by whom it was issued to."""

    edge: Edge
    stage: Stage
    exam: Exam
    kos: str

    @property
    def path(self) -> str:
        return f"{BASE}/studies/{self.exam.study}"

    def token(self, form: str) -> str:
        pem = self.edge.pki.path("partner_auth").read_text("ascii")
        order = {"claims": {}, "ttl": 120, "bind": form, "certificate": pem}
        return str(self.stage.control("/control/psc/token", order)["access_token"])

    def headers(self) -> dict[str, str]:
        accept = 'multipart/related; type="application/dicom"; transfer-syntax=*'
        return {
            "Authorization": f"Bearer {self.token('ans')}",
            "KOS-SOPInstanceUID": self.kos,
            "Accept": accept,
        }


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int]) -> Iterator[Shared]:
    directory = tmp_path_factory.mktemp("world")
    exam = make_exam(directory / "exam", 3)
    with open_quick_stage(directory) as stage:
        start_appliance_behind_proxy(stage, psc={"binding": "require"})
        kos = bring(stage, [exam])
        upstream = int(stage.world["appliance"]["public"].split("/")[2].rpartition(":")[2])
        pki = Pki(directory / "pki", datetime.now(UTC), Urls("", ""))
        with running(tmp_path_factory.mktemp("before"), pki, free_port(), upstream) as edge:
            yield Shared(edge, stage, exam, kos)


@pytest.mark.parametrize("form", ["rfc8705", "ans"])
def test_a_partner_gets_its_exam_with_a_token_bound_to_its_certificate(shared: Shared, form: str) -> None:
    pki = shared.edge.pki
    shown = (pki.path("partner_auth"), pki.key("partner_auth"))
    fetched = partner_fetch(
        shared.edge.url + shared.path,
        shared.token(form),
        shared.kos,
        pki.authority,
        shown,
        accept=shared.headers()["Accept"],
    )
    assert fetched.status == 200, fetched.body
    received = [dcmread(BytesIO(part)).PixelData for part in fetched.parts]
    assert sorted(received) == sorted(dcmread(file).PixelData for file in shared.exam.files)


def test_the_token_alone_is_refused(shared: Shared) -> None:
    answer = shared.edge.ask("GET", shared.path, None, shared.headers())
    assert (answer.status_code, answer.json()["type"]) == (401, "token-binding")


def test_the_token_of_another_certificate_is_refused(shared: Shared) -> None:
    shown = (shared.edge.pki.path("ris_auth"), shared.edge.pki.key("ris_auth"))
    answer = shared.edge.ask("GET", shared.path, shown, shared.headers())
    assert (answer.status_code, answer.json()["type"]) == (401, "token-binding")


def test_a_certificate_told_in_a_header_does_not_help(shared: Shared) -> None:
    told = quote(shared.edge.pki.path("partner_auth").read_text("ascii"), safe="")
    headers = shared.headers() | {"X-Client-Certificate": told}
    assert shared.edge.ask("GET", shared.path, None, headers).status_code == 401


def test_a_range_and_a_head_pass_through(shared: Shared) -> None:
    shown = (shared.edge.pki.path("partner_auth"), shared.edge.pki.key("partner_auth"))
    headers = shared.headers() | {"Accept": "application/dicom; transfer-syntax=*"}
    path = BASE + shared.exam.paths[0]
    whole = shared.edge.ask("GET", path, shown, headers)
    part = shared.edge.ask("GET", path, shown, headers | {"Range": "bytes=128-131"})
    head = shared.edge.ask("HEAD", path, shown, headers)
    assert (whole.status_code, part.status_code, part.content) == (200, 206, b"DICM")
    assert (head.status_code, head.headers["Content-Length"]) == (200, str(len(whole.content)))
