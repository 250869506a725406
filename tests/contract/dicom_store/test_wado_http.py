"""wado_rs through a real uvicorn: what a partner receives, and what it is told when it does not."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import uvicorn

from dicom_store.archive import StoredInstance
from dicom_store.multipart import boundary_of, read_parts
from dicom_store.segments import SegmentDamaged, Segments
from dicom_store.status import HttpRefusal
from dicom_store.study import InstanceRef
from dicom_store.wado_rs import WadoRequest, WadoRs

BASE = "/dicom-web-rs"
STUDY, SERIES = "1.2.3.4", "1.2.3.4.5"
PATH = f"{BASE}/studies/{STUDY}"
EXPLICIT, JPEG = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.50"
AS_STORED = {"Accept": 'multipart/related; type="application/dicom"; transfer-syntax=*'}


class House:
    """Files on disk and an authorisation that each test may change."""

    def __init__(self, root: Path) -> None:
        self.segments = Segments(root, 0)
        self.files: list[bytes] = []
        self.stored: list[StoredInstance] = []
        self.asked: list[WadoRequest] = []
        self.refusal: Exception | None = None
        self.gate: threading.Event | None = None
        self.read_gate: threading.Event | None = None

    def put(self, payload: bytes, syntax: str = EXPLICIT, frames: int | None = None) -> None:
        number = len(self.stored) + 1
        writer = self.segments.writer(STUDY)
        place = writer.append([payload])
        writer.close()
        ref = InstanceRef(f"1.2.3.4.5.{number}", "1.2.840.10008.5.1.4.1.1.7", syntax, number, frames)
        self.stored.append(StoredInstance(ref, SERIES, place.segment, place.offset, place.length))
        self.files.append(payload)

    def retrieve(self, request: WadoRequest) -> Iterable[StoredInstance]:
        self.asked.append(request)
        if self.gate is not None:
            self.gate.wait(10)
        if self.refusal is not None:
            raise self.refusal
        return [s for s in self.stored if request.sop in (None, s.ref.SOPInstanceUID)]

    def read(self, stored: StoredInstance) -> Iterator[bytes]:
        for chunk in self.segments.read(stored.segment, stored.offset, stored.length):
            if self.read_gate is not None:
                self.read_gate.wait(10)
            yield chunk


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path / "images")
    yield made
    made.segments.close()


class Listener:
    """One uvicorn for the module; each test puts its own application behind it."""

    def __init__(self) -> None:
        self.application: WadoRs | None = None
        self.socket = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(
            self, http="h11", lifespan="off", log_config=None, timeout_graceful_shutdown=1
        )
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]})

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        assert self.application is not None
        await self.application(scope, receive, send)


@pytest.fixture(scope="module")
def listener() -> Iterator[Listener]:
    made = Listener()
    made.thread.start()
    yield made
    made.server.should_exit = True
    made.thread.join(10)
    made.socket.close()


@pytest.fixture
def serve(house: House, listener: Listener) -> Callable[..., int]:
    def start(**changes: Any) -> int:
        values = {"max_streams": 4, "stall_timeout": 10.0, **changes}
        listener.application = WadoRs(BASE, house.retrieve, house.read, **values)
        return int(listener.socket.getsockname()[1])

    return start


@pytest.fixture
def port(serve: Callable[..., int]) -> int:
    return serve()


def get(port: int, path: str = PATH, method: str = "GET", **headers: str) -> requests.Response:
    sent = {
        "Accept": AS_STORED["Accept"],
        "Authorization": "Bearer t",
        "KOS-SOPInstanceUID": "1.9",
        **headers,
    }
    return requests.request(method, f"http://127.0.0.1:{port}{path}", headers=sent, timeout=20)


def parts_of(response: requests.Response) -> list[tuple[str, bytes]]:
    boundary = boundary_of(response.headers["Content-Type"])
    return [(p.headers["content-type"], b"".join(p.body)) for p in read_parts([response.content], boundary)]


def problem(response: requests.Response) -> tuple[int, str]:
    assert response.headers["Content-Type"] == "application/problem+json"
    body = response.json()
    assert body["status"] == response.status_code
    assert set(body) == {"type", "title", "status", "detail"}
    return response.status_code, body["type"]


# --- what is served ----------------------------------------------------------------------------------------


def test_the_parts_are_the_files(house: House, port: int) -> None:
    for size in (1000, 700_000, 0, 262_144):
        house.put(os.urandom(size))
    response = get(port)
    assert response.status_code == 200
    assert parts_of(response) == [
        (f"application/dicom;transfer-syntax={EXPLICIT}", file) for file in house.files
    ]
    assert int(response.headers["Content-Length"]) == len(response.content)
    assert response.headers["Cache-Control"] == "private, no-store"
    content_type = response.headers["Content-Type"]
    assert content_type.startswith('multipart/related; type="application/dicom"; boundary=')
    assert content_type.endswith(f"; transfer-syntax={EXPLICIT}")


def test_several_transfer_syntaxes(house: House, port: int) -> None:
    house.put(b"a", EXPLICIT)
    house.put(b"b", JPEG)
    response = get(port)
    assert [content_type.partition("=")[2] for content_type, _ in parts_of(response)] == [EXPLICIT, JPEG]
    assert "transfer-syntax" not in response.headers["Content-Type"]


def test_boundaries_are_not_repeated(house: House, port: int) -> None:
    house.put(b"a")
    assert len({boundary_of(get(port).headers["Content-Type"]) for _ in range(3)}) == 3


def test_what_the_handler_is_asked(house: House, port: int) -> None:
    house.put(b"a")
    path = f"{PATH}/series/{SERIES}/instances/1.2.3.4.5.1"
    get(port, path)
    (asked,) = house.asked
    assert asked == WadoRequest(
        method="GET",
        study=STUDY,
        series=SERIES,
        sop="1.2.3.4.5.1",
        frames=None,
        authorization="Bearer t",
        kos="1.9",
        peer_certificate=None,
        client="127.0.0.1",
    )


def test_headers_that_are_absent_or_repeated(house: House, port: int) -> None:
    house.put(b"a")
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", PATH)
    assert connection.getresponse().read()
    connection.putrequest("GET", PATH)
    for value in ("Bearer a", "Bearer b"):
        connection.putheader("Authorization", value)
    connection.endheaders()
    assert connection.getresponse().read()
    connection.close()
    assert (house.asked[0].authorization, house.asked[0].kos) == (None, None)
    assert house.asked[1].authorization == "Bearer a, Bearer b"


def test_one_instance_in_a_single_part(house: House, port: int) -> None:
    house.put(os.urandom(500_000))
    path = f"{PATH}/series/{SERIES}/instances/1.2.3.4.5.1"
    response = get(port, path, Accept="application/dicom")
    assert response.content == house.files[0]
    assert response.headers["Content-Type"] == f"application/dicom;transfer-syntax={EXPLICIT}"
    assert problem(get(port, Accept="application/dicom")) == (406, "not-acceptable")


def test_the_accept_parameter_of_the_query(house: House, port: int) -> None:
    house.put(b"a")
    path = f"{PATH}/series/{SERIES}/instances/1.2.3.4.5.1?accept=application/dicom"
    assert get(port, path, Accept="text/html").content == b"a"


def test_head_says_what_get_would(house: House, port: int) -> None:
    house.put(os.urandom(1000))
    head, whole = get(port, method="HEAD"), get(port)
    assert head.status_code == 200
    assert head.content == b""
    assert head.headers["Content-Length"] == whole.headers["Content-Length"]
    house.refusal = HttpRefusal(410, "kos-unpublished", "Gone", "Withdrawn.")
    assert (get(port, method="HEAD").status_code, get(port, method="HEAD").content) == (410, b"")


def test_a_keep_alive_connection_serves_on(house: House, port: int) -> None:
    house.put(os.urandom(1000))
    with requests.Session() as session:
        for _ in range(3):
            url = f"http://127.0.0.1:{port}"
            assert session.get(url + PATH, headers=AS_STORED, timeout=10).status_code == 200
            assert session.get(url + "/elsewhere", timeout=10).status_code == 404


def test_requests_of_the_official_client(house: House, port: int, official: Path) -> None:
    house.put(os.urandom(3000), JPEG)
    for name in ("OK_Series.txt", "OK_Instances.txt", "OK_Instances_v2.txt", "OK_Frames.txt"):
        house.stored = [
            StoredInstance(
                InstanceRef(uid, "1.2", JPEG, 1, None),
                SERIES,
                house.stored[0].segment,
                house.stored[0].offset,
                3000,
            )
            for uid in ("1.2.3.4.5.6.7.8.9", "1.2.3.4.5.6.7")
        ]
        lines = (official / "wado" / name).read_text("utf-8").strip().splitlines()
        target = lines[0].split(" ")[1].replace("/dcm4chee-arc/aets/DCM4CHEE/rs", BASE)
        if BASE not in target:
            target = target.replace("https://drimbox", f"https://drimbox{BASE}")
        message = "\r\n".join(
            [f"GET {target} HTTP/1.1", *lines[1:], "Host: other:8082", "Connection: close", "", ""]
        )
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(message.encode("ascii"))
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 200 OK"), (name, answer[:300])
        assert house.files[0] in answer
    assert house.asked[-1].authorization == "Bearer OK_Frames_token"


# --- what is refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("/", (404, "not-found")),
        (BASE, (404, "not-found")),
        ("/other/studies/1.2", (404, "not-found")),
        (f"{BASE}x/studies/1.2", (404, "not-found")),
        (f"{BASE}/studies", (404, "not-found")),
        (f"{PATH}/metadata", (404, "not-found")),
        (f"{PATH}/series", (404, "not-found")),
        (f"{PATH}/series/{SERIES}/rendered", (404, "not-found")),
        (f"{BASE}/studies/abc", (400, "uid-invalid")),
        (f"{BASE}/studies/1.02", (400, "uid-invalid")),
        (f"{BASE}/studies/%2e%2e", (400, "uid-invalid")),
        (f"{BASE}/studies/1.2%00", (400, "uid-invalid")),
        (f"{PATH}/series/x", (400, "uid-invalid")),
        (f"{PATH}/series/{SERIES}/instances/..%2f", (404, "not-found")),
        (f"{PATH}/series/{SERIES}/instances/1.2/frames/0", (400, "frames-invalid")),
        (f"{PATH}/series/{SERIES}/instances/1.2/frames/1;2", (400, "frames-invalid")),
    ],
)
def test_addresses(house: House, port: int, path: str, answer: tuple[int, str]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path)
    response = connection.getresponse()
    body = json.loads(response.read())
    connection.close()
    assert (response.status, body["type"]) == answer
    assert house.asked == []


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_other_methods(port: int, method: str) -> None:
    response = get(port, method=method)
    assert problem(response) == (405, "method-not-allowed")
    assert response.headers["Allow"] == "GET, HEAD"


def test_refusals_of_the_handler(house: House, port: int) -> None:
    house.refusal = HttpRefusal(
        401, "token-missing", "Unauthorized", "No token.", {"WWW-Authenticate": "Bearer"}
    )
    response = get(port)
    assert problem(response) == (401, "token-missing")
    assert response.headers["WWW-Authenticate"] == "Bearer"


def test_authorisation_comes_before_negotiation(house: House, port: int) -> None:
    house.put(b"a", JPEG)
    assert problem(get(port, Accept="text/html")) == (406, "not-acceptable")
    house.refusal = HttpRefusal(404, "kos-unknown", "Not found", "Unknown.")
    assert problem(get(port, Accept="text/html")) == (404, "kos-unknown")


def test_one_unacceptable_instance_refuses_all(house: House, port: int) -> None:
    house.put(b"a", EXPLICIT)
    house.put(b"b", JPEG)
    response = get(port, Accept=f'multipart/related; type="application/dicom"; transfer-syntax={EXPLICIT}')
    assert problem(response) == (406, "not-acceptable")
    assert JPEG in response.json()["detail"]
    assert EXPLICIT not in response.json()["detail"]


def test_nothing_found(port: int) -> None:
    assert problem(get(port)) == (404, "not-found")


def test_a_failure_of_the_handler_says_nothing_of_it(
    house: House, port: int, caplog: pytest.LogCaptureFixture
) -> None:
    house.refusal = RuntimeError("PAT^ONE")
    response = get(port)
    assert problem(response) == (500, "internal-error")
    assert "PAT" not in response.text
    assert "PAT^ONE" not in caplog.text
    assert "RuntimeError" in caplog.text


@pytest.mark.parametrize(
    ("frames", "stored_frames", "answer"),
    [
        ("1", None, 200),
        ("1", 1, 200),
        ("2", 1, 404),
        ("1", 3, 406),
        ("1,3", 3, 406),
        ("4", 3, 404),
        ("1,1", 1, 406),
    ],
)
def test_frames(house: House, port: int, frames: str, stored_frames: int | None, answer: int) -> None:
    house.put(b"file", frames=stored_frames)
    response = get(port, f"{PATH}/series/{SERIES}/instances/1.2.3.4.5.1/frames/{frames}")
    assert response.status_code == answer
    if answer == 200:
        assert [body for _, body in parts_of(response)] == [b"file"]


def test_frames_in_another_form_are_not_acceptable(house: House, port: int) -> None:
    house.put(b"file")
    path = f"{PATH}/series/{SERIES}/instances/1.2.3.4.5.1/frames/1"
    assert problem(get(port, path, Accept='multipart/related; type="application/octet-stream"')) == (
        406,
        "not-acceptable",
    )


def test_busy(house: House, serve: Callable[..., int]) -> None:
    house.put(b"a")
    port = serve(max_streams=1)
    house.gate = threading.Event()
    statuses: list[int] = []
    first = threading.Thread(target=lambda: statuses.append(get(port).status_code))
    first.start()
    deadline = time.monotonic() + 10
    while not house.asked:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    response = get(port)
    assert problem(response) == (503, "busy")
    assert response.headers["Retry-After"]
    assert problem(get(port, "/elsewhere")) == (404, "not-found")
    house.gate.set()
    first.join()
    assert statuses == [200]
    deadline = time.monotonic() + 10
    while get(port).status_code != 200:  # the place is given back just after the last byte
        assert time.monotonic() < deadline


# --- damage, and readers that go or stall ------------------------------------------------------------------


def test_a_file_that_is_missing_is_said_before_the_first_byte(
    house: House, port: int, tmp_path: Path
) -> None:
    house.put(b"a" * 1000)
    for segment in (tmp_path / "images").rglob("*.seg"):
        segment.unlink()
    assert problem(get(port)) == (500, "internal-error")
    assert "1.2.3.4" not in get(port).text


def test_damage_in_the_middle_never_looks_whole(house: House, port: int, tmp_path: Path) -> None:
    house.put(os.urandom(3_000_000))
    (segment,) = (tmp_path / "images").rglob("*.seg")
    os.truncate(segment, 2_000_000)
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        get(port)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", PATH, headers=AS_STORED)
    with pytest.raises(http.client.IncompleteRead) as short:
        connection.getresponse().read()
    connection.close()
    assert b"--\r\n" not in short.value.partial[-100:]
    with pytest.raises(SegmentDamaged):
        list(house.read(house.stored[0]))


def test_a_reader_that_goes_frees_its_place(house: House, serve: Callable[..., int]) -> None:
    house.put(os.urandom(30_000_000))
    port = serve(max_streams=1)
    for _ in range(3):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("GET", PATH, headers=AS_STORED)
        connection.getresponse().read(1000)
        connection.close()
        wait_until_free(port)


def test_a_reader_that_stalls_loses_its_place(house: House, serve: Callable[..., int]) -> None:
    house.put(os.urandom(30_000_000))
    port = serve(max_streams=1, stall_timeout=0.3)
    with socket.create_connection(("127.0.0.1", port), timeout=10) as stalled:
        stalled.sendall(f"GET {PATH} HTTP/1.1\r\nHost: x\r\nAccept: */*\r\n\r\n".encode("ascii"))
        stalled.recv(1000)
        wait_until_free(port)


def test_a_slow_reader_gets_everything_in_constant_memory(house: House, port: int) -> None:
    house.put(os.urandom(40_000_000))
    before = resident()
    digest, highest = hashlib.sha256(), before
    with requests.get(
        f"http://127.0.0.1:{port}{PATH}", headers=AS_STORED, stream=True, timeout=20
    ) as response:
        boundary = boundary_of(response.headers["Content-Type"])
        for chunk in next(read_parts(response.iter_content(500_000), boundary)).body:
            digest.update(chunk)
            highest = max(highest, resident())
    assert digest.digest() == hashlib.sha256(house.files[0]).digest()
    assert highest - before < 20_000_000


def wait_until_free(port: int) -> None:
    deadline = time.monotonic() + 10
    while get(port, method="HEAD").status_code != 200:
        assert time.monotonic() < deadline, "the place was never freed"
        time.sleep(0.02)


def resident() -> int:
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
