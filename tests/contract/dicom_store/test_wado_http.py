"""The door and wado_rs through a real uvicorn: what a partner receives, and what it is told when it does not."""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from dicom_store.archive import StoredInstance
from dicom_store.asgi import HttpRequest, Receive
from dicom_store.body import Extent
from dicom_store.door import Answer, Door
from dicom_store.multipart import boundary_of, read_parts
from dicom_store.negotiation import ServingPolicy
from dicom_store.places import Places
from dicom_store.resources import IMAGES, Resource
from dicom_store.segments import SegmentDamaged, Segments
from dicom_store.status import HttpRefusal
from dicom_store.study import InstanceRef
from dicom_store.transmit import Transfer
from dicom_store.wado_rs import WadoRs
from fixtures.listener import Listener, listener_of

BASE = "/dicom-web-rs"
STUDY, SERIES = "1.2.3.4", "1.2.3.4.5"
PATH = f"{BASE}/studies/{STUDY}"
INSTANCE = f"{PATH}/series/{SERIES}/instances/1.2.3.4.5.1"
IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
JPEG, JPEG_LS, VIDEO = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.102"
AS_STORED = {"Accept": 'multipart/related; type="application/dicom"; transfer-syntax=*'}
SINGLE = {"Accept": "application/dicom"}


class House:
    """Files on disk, an authorisation that each test may change, and conversions that only write a word in front."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.segments = Segments(root, 0)
        self.files: list[bytes] = []
        self.stored: list[StoredInstance] = []
        self.asked: list[tuple[HttpRequest, Resource]] = []
        self.ended: list[tuple[int, bool, str]] = []
        self.refusal: Exception | None = None
        self.gate: threading.Event | None = None
        self.cannot: Exception | None = None
        self.seconds = 0.0  # of each conversion
        self.wado = WadoRs(self.segments.source, self, ServingPolicy())

    def put(self, payload: bytes, syntax: str = EXPLICIT, frames: int | None = None) -> None:
        number = len(self.stored) + 1
        writer = self.segments.writer(STUDY)
        place = writer.append([payload])
        writer.close()
        ref = InstanceRef(f"1.2.3.4.5.{number}", "1.2.840.10008.5.1.4.1.1.7", syntax, number, frames)
        self.stored.append(
            StoredInstance(ref, SERIES, place.segment, place.offset, place.length, place.sha256)
        )
        self.files.append(payload)

    async def __call__(self, request: HttpRequest, resource: Resource, receive: Receive) -> Answer:
        self.asked.append((request, resource))
        if self.gate is not None:
            await asyncio.to_thread(self.gate.wait, 10)
        if self.refusal is not None:
            raise self.refusal
        chosen = [s for s in self.stored if resource.sop in (None, s.ref.SOPInstanceUID)]
        images = await self.wado.answer(request, resource, chosen)
        return Answer(images.transfer, self.finished)

    def finished(self, transfer: Transfer, why: str) -> None:
        self.ended.append((transfer.sent, transfer.whole, why))

    def can(self, stored: str, target: str) -> bool:
        return target == EXPLICIT and stored != VIDEO

    async def converted(self, stored: StoredInstance, target: str, client: str) -> Extent:
        if self.cannot is not None:
            raise self.cannot
        await asyncio.sleep(self.seconds)
        made = self.root / f"{stored.ref.SOPInstanceUID}.made"
        payload = b"made " + b"".join(self.segments.read(stored.segment, stored.offset, stored.length))
        made.write_bytes(payload)
        return Extent(Plain(made), 0, len(payload))


class Plain:
    """A whole file as a source; counts how often it was let go of."""

    closed = 0

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self) -> int:
        return os.open(self.path, os.O_RDONLY)

    def check(self, descriptor: int, extent: Extent) -> None:
        assert os.fstat(descriptor).st_size >= extent.offset + extent.length

    def close(self) -> None:
        Plain.closed += 1


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path / "images")
    yield made
    made.segments.close()


@pytest.fixture(scope="module")
def listener() -> Iterator[Listener]:
    with listener_of() as made:
        yield made


@pytest.fixture
def serve(house: House, listener: Listener) -> Callable[..., int]:
    def start(**changes: Any) -> int:
        values = {"max_streams": 4, "stall_timeout": 10.0, **changes}
        places = Places(int(values["max_streams"]))
        listener.application = Door(BASE, IMAGES, house, places, values["stall_timeout"])
        return listener.port

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
    get(port, INSTANCE)
    ((request, resource),) = house.asked
    assert (resource.study, resource.series, resource.sop, resource.frames) == (
        STUDY,
        SERIES,
        "1.2.3.4.5.1",
        None,
    )
    assert (request.method, request.client, request.peer_certificate) == ("GET", "127.0.0.1", None)
    assert (request.headers["authorization"], request.headers["kos-sopinstanceuid"]) == ("Bearer t", "1.9")


def test_repeated_headers_are_no_token(house: House, port: int) -> None:
    house.put(b"a")
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.putrequest("GET", PATH)
    for value in ("Bearer a", "Bearer b"):
        connection.putheader("Authorization", value)
    connection.endheaders()
    connection.getresponse().read()
    connection.close()
    assert house.asked[0][0].headers["authorization"] == "Bearer a, Bearer b"


def test_one_instance_in_a_single_part(house: House, port: int) -> None:
    house.put(os.urandom(500_000))
    response = get(port, INSTANCE, **SINGLE)
    assert response.content == house.files[0]
    assert response.headers["Content-Type"] == f"application/dicom;transfer-syntax={EXPLICIT}"
    assert problem(get(port, Accept="application/dicom")) == (406, "not-acceptable")


def test_the_accept_parameter_of_the_query(house: House, port: int) -> None:
    house.put(b"a")
    path = f"{INSTANCE}?accept=application/dicom"
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
                house.stored[0].sha256,
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
    assert house.asked[-1][0].headers["authorization"] == "Bearer OK_Frames_token"


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
    house.put(b"b", VIDEO)
    response = get(port, Accept=f'multipart/related; type="application/dicom"; transfer-syntax={EXPLICIT}')
    assert problem(response) == (406, "not-acceptable")
    assert VIDEO in response.json()["detail"]


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
        list(house.segments.read(house.stored[0].segment, house.stored[0].offset, 3_000_000))


def test_a_reader_that_goes_frees_its_place(house: House, serve: Callable[..., int]) -> None:
    house.put(os.urandom(30_000_000))
    port = serve(max_streams=1)
    for _ in range(3):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("GET", PATH, headers=AS_STORED)
        connection.getresponse().read(1000)
        connection.close()
        wait_until_free(port)
    assert [why for _, whole, why in house.ended if not whole] == ["the reader left"] * 3


def test_a_reader_that_stalls_loses_its_place(house: House, serve: Callable[..., int]) -> None:
    house.put(os.urandom(30_000_000))
    port = serve(max_streams=1, stall_timeout=0.3)
    with socket.create_connection(("127.0.0.1", port), timeout=10) as stalled:
        stalled.sendall(f"GET {PATH} HTTP/1.1\r\nHost: x\r\nAccept: */*\r\n\r\n".encode("ascii"))
        stalled.recv(1000)
        wait_until_free(port)
    assert [why for _, whole, why in house.ended if not whole] == ["stalled"]


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


# --- conversions ---------------------------------------------------------------------------------------------


def test_what_is_not_acceptable_is_converted(house: House, port: int) -> None:
    house.put(b"one", EXPLICIT)
    house.put(b"two", JPEG_LS)
    house.put(b"three", JPEG_LS)
    response = get(port, Accept=f'multipart/related; type="application/dicom"; transfer-syntax={EXPLICIT}')
    assert [body for _, body in parts_of(response)] == [b"one", b"made two", b"made three"]
    assert {content_type.partition("=")[2] for content_type, _ in parts_of(response)} == {EXPLICIT}
    assert "Content-Length" not in response.headers
    until(lambda: bool(house.ended))
    assert house.ended[-1][1:] == (True, "")


def test_one_converted_instance_has_a_length(house: House, port: int) -> None:
    house.put(b"two", JPEG_LS)
    one = get(port, INSTANCE, Accept="application/dicom")
    assert (one.content, one.headers["Content-Length"]) == (b"made two", "8")
    study = get(port, Accept=f'multipart/related; type="application/dicom"; transfer-syntax={EXPLICIT}')
    assert [body for _, body in parts_of(study)] == [b"made two"]
    assert int(study.headers["Content-Length"]) == len(study.content)


def test_implicit_vr_never_leaves_as_it_is(house: House, port: int) -> None:
    house.put(b"x", IMPLICIT)
    assert [body for _, body in parts_of(get(port))] == [b"made x"]


def test_a_conversion_that_fails_first_is_said(house: House, port: int) -> None:
    house.put(b"two", JPEG_LS)
    house.put(b"three", JPEG_LS)
    house.cannot = HttpRefusal(406, "not-acceptable", "Not acceptable", "It cannot be converted.")
    accept = f'multipart/related; type="application/dicom"; transfer-syntax={EXPLICIT}'
    assert problem(get(port, Accept=accept)) == (406, "not-acceptable")


def test_a_conversion_that_fails_later_cuts_the_answer(house: House, port: int) -> None:
    house.put(os.urandom(2_000_000), EXPLICIT)
    house.put(b"three", JPEG_LS)
    house.cannot = HttpRefusal(406, "not-acceptable", "Not acceptable", "It cannot be converted.")
    accept = f'multipart/related; type="application/dicom"; transfer-syntax={EXPLICIT}'
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        get(port, Accept=accept)
    until(lambda: bool(house.ended))
    assert house.ended[-1][1:] == (False, "a piece could not be made")


def test_a_conversion_may_take_longer_than_a_reader(house: House, serve: Callable[..., int]) -> None:
    house.put(os.urandom(600_000), EXPLICIT)
    house.put(b"three", JPEG_LS)
    house.put(b"four", JPEG_LS)
    house.seconds = 0.4
    accept = f'multipart/related; type="application/dicom"; transfer-syntax={EXPLICIT}'
    parts = parts_of(get(serve(stall_timeout=0.2), Accept=accept))
    assert [body for _, body in parts] == [house.files[0], b"made three", b"made four"]
    until(lambda: bool(house.ended))
    assert house.ended[-1][1:] == (True, "")


def test_converted_files_are_let_go_of_when_the_reader_leaves(house: House, port: int) -> None:
    for _ in range(20):
        house.put(os.urandom(2_000_000), JPEG_LS)
    Plain.closed = 0
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    accept = f'multipart/related; type="application/dicom"; transfer-syntax={EXPLICIT}'
    connection.request("GET", PATH, headers={"Accept": accept})
    connection.getresponse().read(1000)
    connection.close()
    until(lambda: bool(house.ended))
    made = len(list(house.root.glob("*.made")))
    assert 0 < made < 20, "it is not all made for a reader who is gone"
    until(lambda: Plain.closed == made)


# --- ranges --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [("bytes=0-0", 0, 0), ("bytes=300000-", 300_000, 499_999), ("bytes=-5", 499_995, 499_999)],
)
def test_a_range_of_a_single_part(house: House, port: int, asked: str, first: int, last: int) -> None:
    house.put(os.urandom(500_000))
    response = get(port, INSTANCE, Range=asked, **SINGLE)
    assert (response.status_code, response.content) == (206, house.files[0][first : last + 1])
    assert response.headers["Content-Range"] == f"bytes {first}-{last}/500000"


def test_a_download_that_is_resumed(house: House, port: int) -> None:
    house.put(os.urandom(500_000))
    whole = get(port, INSTANCE, method="HEAD", **SINGLE)
    assert whole.headers["Accept-Ranges"] == "bytes"
    etag = {"If-Range": whole.headers["ETag"], "Range": "bytes=400000-"}
    assert get(port, INSTANCE, **etag, **SINGLE).content == house.files[0][400_000:]
    other = {"If-Range": '"other"', "Range": "bytes=400000-"}
    assert get(port, INSTANCE, **other, **SINGLE).content == house.files[0]
    assert problem(get(port, INSTANCE, Range="bytes=500000-", **SINGLE)) == (416, "range-not-satisfiable")


def test_a_multipart_has_no_ranges(house: House, port: int) -> None:
    house.put(b"abc")
    response = get(port, Range="bytes=0-1")
    assert (response.status_code, [body for _, body in parts_of(response)]) == (200, [b"abc"])


# --- how it ended, and files that are not in the page cache --------------------------------------------------


def test_the_end_is_told(house: House, port: int) -> None:
    house.put(os.urandom(1_000_000))
    length = len(get(port).content)
    until(lambda: len(house.ended) == 1)
    get(port, method="HEAD")
    until(lambda: len(house.ended) == 2)
    assert house.ended == [(length, True, ""), (0, True, "")]


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no tmpfs to read from")
def test_a_file_system_that_cannot_read_without_waiting(tmp_path: Path, serve: Callable[..., int]) -> None:
    # tmpfs knows no RWF_NOWAIT: every read then waits, in a thread
    root = Path("/dev/shm") / f"drimbox-{os.getpid()}-{time.monotonic_ns()}"
    try:
        house = House(root)
        house.put(os.urandom(900_000))
        house.put(os.urandom(100))
        door = Door(BASE, IMAGES, house, Places(1))
        received = asyncio.run(_asked_directly(door))
        assert house.files[0] in received
        assert house.files[1] in received
        house.segments.close()
    finally:
        for path in sorted(root.rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
        root.rmdir()


async def _asked_directly(door: Door) -> bytes:
    sent: list[Any] = []

    async def receive() -> Any:
        await asyncio.sleep(10)

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"accept", AS_STORED["Accept"].encode("ascii"))]
    scope = {"type": "http", "method": "GET", "path": PATH, "headers": headers}
    await door(scope, receive, send)
    return b"".join(message.get("body", b"") for message in sent)


def until(held: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not held():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def wait_until_free(port: int) -> None:
    deadline = time.monotonic() + 10
    while get(port, method="HEAD").status_code != 200:
        assert time.monotonic() < deadline, "the place was never freed"
        time.sleep(0.02)


def resident() -> int:
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
