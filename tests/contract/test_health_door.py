"""The health check through the real door: every situation and its answer, the filter, and what it may not touch."""

from __future__ import annotations

import asyncio
import http.client
import itertools
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st

from drimbox.entrypoints.demo_stage import start_world
from drimbox.entrypoints.proxied import Proxied
from drimbox.simulators.health_probe import USER_AGENT, ProbeClient, Verdict
from fixtures.health_box import HealthBox, until
from fixtures.quick_stage import open_quick_stage
from healthcheck.endpoint import Asking, HealthEndpoint
from healthcheck.ip_filter import IpFilter
from healthcheck.ip_list import parse_list
from healthcheck.probe import Status

BASE = "/dicom-web-rs"
PATHS = (BASE, f"{BASE}/", "/healthcheck", "/health", "/q/health")
SAMPLE = Path(__file__).resolve().parents[2] / "systemd" / "nginx-drimbox.conf"
NGINX = shutil.which("nginx", path="/usr/sbin:/usr/bin:/sbin:/bin")
ALLOWED, SECOND_PROXY = "127.0.0.2", "127.0.0.9"
LISTED, UNLISTED = "192.31.196.1", "8.8.8.8"  # of the simulator's list, and of nobody's
CURL = "curl/8.5"  # calls itself no probe: nothing is retrieved because of it
BURST = 20  # refusals that an address gets at once, of one process

TLS: dict[str, Any] = {"web": {"proxies": [], "processes": 2}}
FILTER: dict[str, Any] = {"filter": True, "allowed": [ALLOWED], "list_refresh": 3600, "list_stale": 172800}
SITUATIONS: dict[str, dict[str, Any]] = {
    "open": {**TLS, "health": {**FILTER, "filter": False, "fail_open": True}},
    "filtered": {**TLS, "health": {**FILTER, "fail_open": True}},
    "stale-open": {**TLS, "health": {**FILTER, "fail_open": True}},
    "stale-closed": {**TLS, "health": {**FILTER, "fail_open": False}},
    "proxied": {
        "web": {"proxies": ["127.0.0.1", SECOND_PROXY], "processes": 2},
        "health": {**FILTER, "allowed": [], "fail_open": True},
    },
}


class Door(HealthBox):
    """`drimbox web` alone, with a whitelist: images could be served, the other doors are silent, hence `warn`."""

    situation = ""

    def be(self, situation: str, *, again: bool = False) -> Door:
        """Serve in that situation; `again`: from a new start in any case."""
        if situation != self.situation or again:
            if "web" in self.processes:
                self.end("web")
            begun = datetime.now(UTC)
            self.set(SITUATIONS[situation])
            self.start("web")
            self.situation = situation
            plain = situation == "proxied"
            until(lambda: plain_status(self) if plain else self.ask(source=ALLOWED).up, "the door to answer")
            if situation in ("filtered", "proxied"):
                until(lambda: self._retrieved() >= begun, "the retrieval at the start")
            if situation == "filtered":  # a moment later, everywhere
                until(lambda: not self.ask(source="127.0.0.3", user_agent=CURL).up, "the list to count")
        return self

    def _retrieved(self) -> datetime:
        path = self.storage / "health" / "betterstack.json"
        if not path.is_file():
            return datetime.min.replace(tzinfo=UTC)
        return datetime.fromisoformat(json.loads(path.read_text("utf-8"))["fetched_at"])

    def refresh_whitelist(self) -> None:
        assert self.stage.run("whitelist", "refresh").returncode in (0, 1)

    def arm(self, where: str, fault: str, times: int = 1) -> None:
        self.stage.control("/control/faults", {"where": where, "fault": fault, "times": times})

    def armed(self, where: str) -> list[str]:
        found: list[str] = self.stage.control("/control/faults")[where]
        return found

    def context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.authority))

    @contextmanager
    def connected(self, source: str = "127.0.0.1") -> Iterator[ssl.SSLSocket]:
        with (
            socket.create_connection(("127.0.0.1", self.port), 10, (source, 0)) as plain,
            self.context().wrap_socket(plain, server_hostname="127.0.0.1") as connection,
        ):
            yield connection


def plain_status(door: HealthBox) -> int | None:
    """Of the listener behind a proxy: 403 from an address that is none of its proxies."""
    place = door.port
    client = http.client.HTTPConnection("127.0.0.1", place, timeout=5, source_address=("127.0.0.3", 0))
    with closing(client):
        try:
            client.request("GET", "/health")
            return client.getresponse().status
        except OSError:
            return None


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    with open_quick_stage(tmp_path_factory.mktemp("world")) as stage:
        start_world(stage)
        door = Door(stage)
        door.set(SITUATIONS["open"] | {"health": SITUATIONS["open"]["health"] | {"remote_period": 1}})
        door.refresh_whitelist()
        yield door
        sys.stderr.write((stage.directory / "web.log").read_text("utf-8")[-6000:])


def request_of(path: str, method: str = "GET", **headers: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", *(f"{k}: {v}" for k, v in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("ascii")


def answers(connection: ssl.SSLSocket, methods: Sequence[str]) -> list[tuple[int, dict[str, str], bytes]]:
    """The next answers of a connection, each read to its own end and no further."""
    stream, found = connection.makefile("rb"), []
    for method in methods:
        status = int(stream.readline().split()[1])
        headers = {}
        while (line := stream.readline().strip()) != b"":
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        length = 0 if method == "HEAD" else int(headers["content-length"])
        found.append((status, headers, stream.read(length)))
    return found


# --- the table of situations: no filter


SOURCES = ("127.0.0.1", "127.0.0.2", "127.0.0.77")
FIELDS = frozenset({"content-type", "content-length", "cache-control", "date", "connection"})


def told(door: Door) -> dict[tuple[str, str], tuple[Any, ...]]:
    """By path and source: statuses of GET and HEAD, broken rules of both, the document, its header fields."""
    found = {}
    for path, source in itertools.product(PATHS, SOURCES):
        get, head = (door.ask(path, source, method=method) for method in ("GET", "HEAD"))
        rules = (*get.reasons, *head.reasons)
        found[path, source] = get.status, head.status, rules, json.loads(get.body), frozenset(get.headers)
    return found


def everywhere(word: str, status: int) -> dict[tuple[str, str], tuple[Any, ...]]:
    """The same state for everybody, and nothing else."""
    return dict.fromkeys(itertools.product(PATHS, SOURCES), (status, status, (), {"status": word}, FIELDS))


def test_every_path_says_warn_while_images_can_be_served(door: Door) -> None:
    door.be("open")
    until(lambda: door.checks().get("dicom:echo") == "fail", "the first look at every door")
    assert told(door) == everywhere("warn", 200)


def test_every_path_says_fail_while_they_cannot_and_is_well_again(door: Door) -> None:
    door.be("open")
    door.arm("ans", "without_us")
    door.refresh_whitelist()
    until(lambda: door.word() == "fail", "the absence to be told", 10)
    assert told(door) == everywhere("fail", 503)
    door.refresh_whitelist()
    until(lambda: door.word() == "warn", "the end of it", 10)


@pytest.mark.parametrize("path", PATHS)
def test_head_says_what_get_says(door: Door, path: str) -> None:
    door.be("open")
    client = ProbeClient(door.public + path, authority=door.authority)
    assert client.differences() == ()


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_other_methods_are_refused_and_the_connection_lives(door: Door, method: str) -> None:
    door.be("open")
    with door.connected() as connection:
        for path in PATHS:
            connection.sendall(request_of(path, method, **{"Content-Length": "3"}) + b"a=b")
            ((status, headers, body),) = answers(connection, [method])
            assert (status, headers["allow"], headers["cache-control"]) == (405, "GET, HEAD", "no-store")
            assert json.loads(body)["type"] == "method-not-allowed"
        connection.sendall(request_of("/health"))
        assert answers(connection, ["GET"])[0][0] == 200


def test_the_official_request_is_answered(door: Door, official: Path) -> None:
    """Absolute-form target, lower-case `accept`, kept alive: sent as it is but for host and path."""
    door.be("open")
    text = (official / "healthcheck" / "OK_Healthcheck_Request.txt").read_text("utf-8")
    lines = text.replace("46.105.63.141:10375", f"127.0.0.1:{door.port}").splitlines()
    assert lines[0].startswith(f"GET https://127.0.0.1:{door.port}/")
    lines[0] = re.sub(r"(?<=[0-9])/dcm4chee-arc/aets/SERVEUR_WADO/rs", BASE, lines[0])
    assert BASE in lines[0]
    whole = "\r\n".join([*filter(None, lines), "", ""]).encode("ascii")
    with door.connected() as connection:
        for _ in range(2):
            connection.sendall(whole)
            ((status, headers, body),) = answers(connection, ["GET"])
            assert (status, headers["content-type"], body) == (200, "application/json", b'{"status": "warn"}')


def test_a_kept_connection_and_pipelined_requests(door: Door) -> None:
    door.be("open")
    methods = ["GET", "HEAD", "GET", "HEAD", "GET"]
    with door.connected() as connection:
        for _ in range(50):
            connection.sendall(request_of("/health"))
            assert answers(connection, ["GET"])[0][::2] == (200, b'{"status": "warn"}')
        connection.sendall(b"".join(map(request_of, PATHS, methods)))
        assert [(status, len(body)) for status, _, body in answers(connection, methods)] == [
            (200, 18), (200, 0), (200, 18), (200, 0), (200, 18)
        ]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/health?deep=true&token=x", 200),  # a query changes nothing
        ("/health/", 200),
        ("/health/live", 404),
        ("/healthz", 404),
        ("/HEALTH", 404),
        (f"{BASE}//", 404),
        ("/metrics", 404),
        ("/dicomweb", 404),
    ],
)
def test_neighbours_of_the_paths(door: Door, path: str, status: int) -> None:
    assert door.be("open").ask(path).status == status


def test_the_detailed_type_when_asked_for_and_no_cookie_for_who_sends_one(door: Door) -> None:
    verdict = door.be("open").ask(
        headers={
            "Accept": "application/health+json",
            "Cookie": "session=1",
            "Origin": "https://elsewhere.example",
            "Authorization": "Bearer x",
        }
    )
    assert (verdict.up, verdict.headers["content-type"]) == (True, "application/health+json")
    assert json.loads(verdict.body) == {"status": "warn"}


# --- the filter


def test_only_who_may_is_answered_and_the_answer_tells_nothing(door: Door) -> None:
    door.be("filtered")
    for path in PATHS:
        assert door.ask(path, ALLOWED).up
        for method in ("GET", "HEAD"):
            verdict = door.ask(path, "127.0.0.3", method=method, user_agent=CURL)
            assert verdict.status == 403
            assert verdict.headers["content-type"] == "application/problem+json"
            assert b"warn" not in verdict.body
            assert method == "HEAD" or json.loads(verdict.body)["type"] == "address-not-listed"


def test_who_insists_waits_and_nobody_else_does(door: Door) -> None:
    door.be("filtered")
    with door.connected("127.0.0.10") as connection:
        seen: list[int] = []
        while 429 not in seen:
            assert len(seen) < 3 * BURST
            connection.sendall(request_of("/health", **{"User-Agent": CURL}))
            ((status, headers, _),) = answers(connection, ["GET"])
            seen.append(status)
        assert set(seen[:-1]) == {403}
        assert len(seen) > BURST
        assert headers["retry-after"] == "60"
        assert door.ask(source=ALLOWED).up
        assert door.ask(source="127.0.0.11", user_agent=CURL).status == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Forwarded-For": ALLOWED},
        {"X-Forwarded-For": LISTED},
        {"X-Real-IP": ALLOWED},
        {"Forwarded": f"for={ALLOWED}"},
    ],
)
def test_without_a_proxy_no_header_counts(door: Door, headers: Mapping[str, str]) -> None:
    door.be("filtered")
    verdict = door.ask(source="127.0.0.12", headers=headers, user_agent=CURL)
    assert verdict.status == 403


def test_nothing_but_the_health_paths_is_filtered(door: Door) -> None:
    door.be("filtered")
    refused = door.ask(source="127.0.0.13", user_agent=CURL)
    images = door.ask(f"{BASE}/studies/1.2.3", "127.0.0.13", user_agent=CURL)
    place = door.internal.rpartition(":")[2]
    client = http.client.HTTPConnection("127.0.0.1", int(place), 10, source_address=("127.0.0.13", 0))
    with closing(client):
        client.request("GET", "/metrics")
        metrics = client.getresponse()
        text = metrics.read().decode("utf-8")
    assert (refused.status, images.status, metrics.status) == (403, 401, 200)
    assert json.loads(images.body)["type"] == "token-missing"
    assert float(re.findall(r"^drimbox_health_refused{[^}]*} ([0-9.]+)$", text, re.M)[0]) >= 1


def test_the_internal_listener_has_no_health_paths_to_filter(door: Door) -> None:
    door.be("filtered")
    seen = {path: requests.get(door.internal + path, timeout=10).status_code for path in PATHS}
    assert set(seen.values()) == {404}


def insist(door: Door, source: str, count: int) -> None:
    """That many refused requests, from one address, on several connections at once."""

    def some(number: int) -> None:
        with door.connected(source) as connection:
            for _ in range(count // 10):
                connection.sendall(request_of("/health", **{"User-Agent": CURL}))
                ((status, _, _),) = answers(connection, ["GET"])
                assert status in (403, 429)

    with ThreadPoolExecutor(10) as pool:
        list(pool.map(some, range(10)))


def test_every_refusal_is_counted_also_those_that_had_to_wait(door: Door) -> None:
    door.be("filtered")
    insist(door, "127.0.0.20", 120)
    door.be("filtered", again=True)  # what is counted and not yet written is written at the end
    assert door.refused()["127.0.0.20"] == 120
    assert {row["actor"] for row in door.rows("HEALTH_FORBIDDEN")} >= {"probe:127.0.0.20"}
    own = [row for row in door.rows("HEALTH_FORBIDDEN") if row["actor"] == "probe:127.0.0.20"]
    assert len(own) < 120  # nobody fills the disk by being refused
    assert {row["code"] for row in own} == {"address-not-listed"}
    assert {row["user_agent"] for row in own if "user_agent" in row} == {CURL}


def test_refusals_survive_a_kill_of_the_processes(door: Door) -> None:
    door.be("filtered")
    for _ in range(7):
        assert door.ask(source="127.0.0.21", user_agent=CURL).status == 403
    for pid in door.web_processes():
        os.kill(pid, signal.SIGKILL)
    until(lambda: door.ask(source=ALLOWED).up, "the processes to come back")
    until(lambda: door.refused().get("127.0.0.21") == 7, "the refusals to be written")


def by_different_processes(door: Door, sources: tuple[str, str]) -> None:
    """A refused request that calls itself a probe, from each address, each answered by another process."""
    with door.connected(sources[0]) as first:
        mine = door.holder_of(first.getsockname()[1])
        for _ in range(60):
            with door.connected(sources[1]) as second:
                if door.holder_of(second.getsockname()[1]) == mine:
                    continue
                for connection in (first, second):
                    connection.sendall(request_of("/health", **{"User-Agent": USER_AGENT}))
                    assert answers(connection, ["GET"])[0][0] == 403
                return
    raise AssertionError("one process accepts everything")


def test_two_unknown_probes_make_the_list_be_retrieved_once(door: Door) -> None:
    door.be("filtered", again=True)
    before = len(door.rows("HEALTH_LIST_REFRESHED"))
    door.arm("betterstack", "grown", 2)
    assert door.ask(source="127.0.0.30", user_agent=USER_AGENT).status == 403
    with pytest.raises(AssertionError):  # one alone, however often it comes, changes nothing
        until(lambda: door.armed("betterstack") != ["grown"] * 2, "a retrieval", 2.5)
    by_different_processes(door, ("127.0.0.31", "127.0.0.32"))
    until(lambda: door.armed("betterstack") == ["grown"], "the retrieval at once", 5)
    rows = until(lambda: door.rows("HEALTH_LIST_REFRESHED")[before:], "the row that says so")
    assert (rows[-1]["added"], rows[-1]["removed"]) == (2, 0)
    by_different_processes(door, ("127.0.0.33", "127.0.0.34"))
    with pytest.raises(AssertionError):  # not again within ten minutes
        until(lambda: door.armed("betterstack") != ["grown"], "a second retrieval", 3)
    door.be("filtered", again=True)  # the next start retrieves it again
    assert not door.armed("betterstack")


def grow_old(door: Door, hours: float) -> None:
    """The list on the disk was retrieved that long ago, and the publisher fails at the next start."""
    path = door.storage / "health" / "betterstack.json"
    if not path.is_file():
        door.be("filtered")
    door.end("web")
    kept = json.loads(path.read_text("utf-8"))
    kept["fetched_at"] = (datetime.now(UTC) - timedelta(hours=hours)).isoformat()
    path.write_text(json.dumps(kept), "utf-8")
    door.situation = ""
    door.arm("betterstack", "http_500", 2)  # both forms


def test_a_stale_list_keeps_nobody_out_and_says_so(door: Door) -> None:
    grow_old(door, 48.1)
    told = len(door.rows("HEALTH_LIST_STALE"))
    door.be("stale-open")
    until(lambda: not door.armed("betterstack"), "the retrieval at the start to fail")
    until(lambda: len(door.rows("HEALTH_LIST_STALE")) > told, "the row that says so")
    assert [door.ask(path, "127.0.0.40", user_agent=CURL).status for path in PATHS] == [200] * len(PATHS)
    until(lambda: door.checks().get("probes:list") == "warn", "the probe that says so", 10)
    assert "everybody is answered" in door.report()["checks"]["probes:list"][0]["output"]
    assert door.ask(f"{BASE}/studies/1.2.3", "127.0.0.40").status == 401
    assert {row["code"] for row in door.rows("HEALTH_LIST_REFUSED")} == {"status"}
    door.be("filtered", again=True)  # the publisher is back
    until(lambda: door.checks().get("probes:list") == "pass", "the probe to be well again", 10)
    assert door.ask(source="127.0.0.40", user_agent=CURL).status == 403


def test_a_stale_list_stays_closed_where_that_is_wanted(door: Door) -> None:
    grow_old(door, 48.1)
    door.be("stale-closed")
    until(lambda: not door.armed("betterstack"), "the retrieval at the start to fail")
    until(lambda: door.checks().get("probes:list") == "warn", "the probe that says so", 10)
    assert "new probes are refused" in door.report()["checks"]["probes:list"][0]["output"]
    assert door.ask(source="127.0.0.50", user_agent=CURL).status == 403
    assert door.ask(source=ALLOWED).up


def test_a_list_of_less_than_two_days_still_counts(door: Door) -> None:
    grow_old(door, 47.9)
    door.be("stale-open")
    until(lambda: not door.armed("betterstack"), "the retrieval at the start to fail")
    assert door.ask(source="127.0.0.51", user_agent=CURL).status == 403
    until(lambda: door.checks().get("probes:list") == "pass", "the first look at the list", 10)


# --- behind a real nginx


@dataclass(frozen=True)
class Edge:
    """An nginx in front of the door; `appending`: it believes what clients say and adds to it, a common mistake."""

    url: str
    authority: Path

    def ask(self, source: str, path: str = "/health", **headers: str) -> Verdict:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return ProbeClient(
            self.url + path,
            source_address=source,
            authority=self.authority,
            timeout=10,
            user_agent=CURL,
            headers=named,
        ).check()


def nginx_of(directory: Path, door: Door, port: int, *, appending: bool) -> list[str]:
    pki = door.authority.parent
    changes = {
        "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
        "listen [::]:443 ssl;": "",
        "server 127.0.0.1:8443": f"server 127.0.0.1:{door.port}",
        "/var/log/nginx": str(directory),
        "/etc/drimbox/tls/server.pem": str(pki / "appliance_server.pem"),
        "/etc/drimbox/tls/server.key": str(pki / "appliance_server.key"),
        "/etc/drimbox/tls/partners.pem": str(door.authority),
    }
    if appending:
        changes |= {
            "X-Forwarded-For $remote_addr": "X-Forwarded-For $proxy_add_x_forwarded_for",
            'proxy_set_header X-Real-IP "";': "",
            'proxy_set_header Forwarded "";': "",
        }
    text = SAMPLE.read_text("utf-8")
    for there, here in changes.items():
        assert there in text
        text = text.replace(there, here)
    (directory / "drimbox.conf").write_text(text, "utf-8")
    account = "user root;\n" if os.geteuid() == 0 else ""
    (directory / "nginx.conf").write_text(
        f"{account}daemon off;\nworker_processes 1;\npid {directory}/pid;\n"
        f"events {{ worker_connections 256; }}\nhttp {{ include {directory}/drimbox.conf; }}\n",
        "utf-8",
    )
    assert NGINX is not None
    return [NGINX, "-p", str(directory), "-e", "stderr", "-c", str(directory / "nginx.conf")]


@contextmanager
def before(door: Door, directory: Path, port: int, *, appending: bool) -> Iterator[Edge]:
    command = nginx_of(directory, door, port, appending=appending)
    with (
        (directory / "stderr").open("w", encoding="utf-8") as errors,
        subprocess.Popen(command, stderr=errors) as process,
    ):
        try:
            edge = Edge(f"https://127.0.0.1:{port}", door.authority)
            until(lambda: edge.ask("127.0.0.1").status, "nginx to listen", 15)
            yield edge
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def port_of(free_port: Callable[[], int]) -> dict[bool, int]:
    return {True: free_port(), False: free_port()}


@pytest.fixture(params=[False, True], ids=["overwriting", "appending"])
def edge(
    request: pytest.FixtureRequest, door: Door, tmp_path: Path, port_of: dict[bool, int]
) -> Iterator[Edge]:
    if NGINX is None:
        pytest.skip("nginx is not installed: apt-get install nginx")
    door.be("proxied")
    until(lambda: door.checks().get("probes:list") == "pass", "the list")
    with before(door, tmp_path, port_of[request.param], appending=request.param) as edge:
        yield edge


SPOOFS: tuple[dict[str, str], ...] = (
    {},
    {"X_Forwarded_For": LISTED},
    {"X_Forwarded_For": f"{LISTED}, {LISTED}, {LISTED}"},
    {"X_Forwarded_For": f"{LISTED}, {SECOND_PROXY}"},
    {"X_Forwarded_For": f"{LISTED},127.0.0.1,127.0.0.1"},
    {"X_Forwarded_For": f'"{LISTED}"'},
    {"X_Forwarded_For": f"::ffff:{LISTED}"},
    {"X_Forwarded_For": f"{LISTED}, garbage"},
    {"X_Forwarded_For": ",,,"},
    {"X_Forwarded_For": f"{LISTED}," * 100},
    {"X_Real_IP": LISTED},
    {"Forwarded": f"for={LISTED}"},
    {"X_Client_IP": LISTED, "True_Client_IP": LISTED, "CF_Connecting_IP": LISTED},
)


def test_what_a_stranger_says_of_itself_never_lets_it_in(edge: Edge) -> None:
    for number, headers in enumerate(SPOOFS):
        verdict = edge.ask(f"127.0.1.{number + 1}", **headers)
        assert verdict.status == 403, headers
        assert json.loads(verdict.body)["type"] == "address-not-listed"


CHAINS: tuple[tuple[str | None, int], ...] = (
    (LISTED, 200),
    (f"{UNLISTED}, {LISTED}", 200),  # what the client said of itself stands before its address
    (f"garbage, {LISTED}", 200),
    (f"{LISTED}, {SECOND_PROXY}", 200),
    ("2620:4f:8000::1", 200),
    (f"::ffff:{LISTED}", 200),
    (f"{LISTED}:4711", 200),
    (f"{LISTED}, {UNLISTED}", 403),
    (f"{LISTED}, garbage", 403),  # the walk ends at what is no address
    (f"{LISTED}, ", 403),
    (UNLISTED, 403),
    (None, 403),
)


def test_a_chain_of_proxies_is_walked_from_the_right(
    door: Door, tmp_path: Path, port_of: dict[bool, int]
) -> None:
    """The client of nginx is a declared proxy too, and says whom it speaks for."""
    if NGINX is None:
        pytest.skip("nginx is not installed: apt-get install nginx")
    door.be("proxied")
    until(lambda: door.checks().get("probes:list") == "pass", "the list")
    with before(door, tmp_path, port_of[True], appending=True) as edge:
        for told, status in CHAINS:
            headers = {} if told is None else {"X_Forwarded_For": told}
            assert edge.ask(SECOND_PROXY, **headers).status == status, told
        assert edge.ask(SECOND_PROXY, f"{BASE}/studies/1.2.3", X_Forwarded_For=UNLISTED).status == 401


def test_who_is_no_proxy_is_not_heard_behind_one(door: Door) -> None:
    door.be("proxied")
    assert plain_status(door) == 403


# --- the same decision for any header: the applications of the door, without its sockets

PROXIES = ("127.0.0.1", SECOND_PROXY)
LIST = parse_list(f"{LISTED}\n192.31.196.2\n2620:4f:8000::/48\n".encode())
WORDS = st.one_of(
    st.sampled_from(
        [
            *(LISTED, UNLISTED, "127.0.0.1", SECOND_PROXY, "", " ", "unknown", "_hidden", "0.0.0.0"),
            *("[2620:4f:8000::1]:443", f"::ffff:{LISTED}", f"{LISTED}:80", f"for={LISTED}", "1.2.3.4.5"),
        ]
    ),
    st.ip_addresses().map(str),
    st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters=","), max_size=12),
)
FORGED = st.lists(st.lists(WORDS, max_size=5).map(",".join), max_size=4)
OTHERS = st.lists(
    st.tuples(st.sampled_from([b"x-real-ip", b"forwarded", b"x-client-ip", b"via"]), WORDS), max_size=3
)


def decided(forged: list[str], told: str, others: list[tuple[bytes, str]]) -> int:
    """The status for a client whose address the proxy of the socket put behind what it had sent."""

    async def elsewhere(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError

    def admit(asking: Asking) -> bool:
        return IpFilter(True).decide(asking.address, LIST, 0.0).allowed

    app = Proxied(
        HealthEndpoint(elsewhere, BASE, lambda: Status.PASS, admit), PROXIES, "x-client-certificate"
    )
    lines = [(b"x-forwarded-for", line.encode("latin-1")) for line in [*forged, told]]
    lines += [(name, value.encode("latin-1")) for name, value in others]
    scope = {
        "type": "http", "method": "GET", "path": "/health", "client": ("127.0.0.1", 5), "headers": lines
    }  # fmt: skip
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request"}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    return int(sent[0]["status"])


@settings(max_examples=150, deadline=None)
@given(FORGED, st.sampled_from(["", f"{SECOND_PROXY},", f"127.0.0.1, {SECOND_PROXY} ,"]), OTHERS)
def test_no_header_whatever_changes_who_is_let_in(
    forged: list[str], behind: str, others: list[tuple[bytes, str]]
) -> None:
    proxies = [proxy.strip() for proxy in behind.split(",") if proxy]
    for client, status in ((UNLISTED, 403), (LISTED, 200)):
        assert decided(forged, ",".join([client, *proxies]), others) == status
