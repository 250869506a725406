"""STOW-RS through a real uvicorn into real stores: good clients, every broken body, the same intake as C-STORE."""

from __future__ import annotations

import io
import itertools
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
import requests
from dicomweb_client.api import DICOMwebClient
from pydicom import dcmwrite
from pydicom.dataset import Dataset
from requests.auth import HTTPBasicAuth

from dicom_store import stow_rs
from dicom_store.asgi import HttpRequest, Receive
from dicom_store.door import Answer, Door
from dicom_store.places import Places
from dicom_store.resources import Kind, Resource
from drimbox.adapters.account_guard import AccountGuard
from drimbox.bootstrap import Foundation, lay_foundation
from drimbox.domain.accounts import Account, Caller, Right, parse_hash
from drimbox.domain.errors import Unavailable
from drimbox.entrypoints import intake
from drimbox.entrypoints.dicomweb_store import DicomWebStore, RequestIntake
from drimbox.entrypoints.http_protocol import BoundedProtocol
from drimbox.settings.whole import Settings, parse_settings
from drimbox.simulators.viewer_account import viewer_account
from fixtures.images import SeriesSpec, StudySpec, study_datasets, uid
from fixtures.listener import Listener, listener_of
from fixtures.newest_database import bring_to_newest
from fixtures.notes import note_dataset

PATIENCE = 10.0
BOUNDARY = "0f3cf5c0"
SPEC = StudySpec(series=(SeriesSpec("CT", 3, rows=8, columns=8),))
STUDY = SPEC.study_instance_uid
MULTIPART = f'multipart/related; type="application/dicom"; boundary={BOUNDARY}'
FAILED, REFERENCED, RETRIEVE_URL, REASON, SOP = "00081198", "00081199", "00081190", "00081197", "00081155"


class House:
    """An appliance's stores behind the door, with the account of the simulated world."""

    def __init__(self, settings: Settings, directory: Path, places: int = 8) -> None:
        self.foundation: Foundation = lay_foundation(settings)
        bring_to_newest(self.foundation.database)
        self.account = viewer_account(directory)
        row = settings.web.accounts[0]
        networks = tuple(ip_network(one) for one in row.addresses)
        viewer = Account(
            row.name, networks, frozenset({Right.READ, Right.STORE}), parse_hash(row.password_scrypt)
        )
        self.guard = AccountGuard([viewer])
        self.store = DicomWebStore(self.foundation)
        self.places = Places(places)
        self.door = Door(
            "/dicomweb", dict.fromkeys((Kind.STUDIES, Kind.STUDY), ("POST",)), self.respond, self.places
        )

    async def respond(self, request: HttpRequest, resource: Resource, receive: Receive) -> Answer:
        caller = Caller(request.client, request.peer_certificate, request.headers.get("authorization"))
        account = await self.guard.admit(caller, Right.STORE)
        base = f"http://{request.headers['host']}/dicomweb"
        return Answer(await self.store.answer(request, resource, receive, account.name, base))

    def close(self) -> None:
        self.guard.close()
        self.store.close()
        self.foundation.archive.close()
        self.foundation.database.close()

    @property
    def credentials(self) -> HTTPBasicAuth:
        return HTTPBasicAuth(self.account.name, self.account.password)

    def kept(self, study: str = STUDY) -> dict[str, bytes]:
        """Data sets of a study by SOP Instance UID, those not hidden."""
        archive = self.foundation.archive
        with self.foundation.transactions.reading() as transaction:
            found = transaction.images.retrieve(study, None, None)
        files = {one.ref.SOPInstanceUID: b"".join(archive.read(one)) for one in found if not one.rejected}
        return {sop: data_set_of(file) for sop, file in files.items()}

    def events(self, study: str = STUDY) -> list[tuple[str, str]]:
        with self.foundation.transactions.reading() as transaction:
            return [(one.event, one.actor) for one in transaction.ledger.trace_of(study)]

    def refused(self) -> list[str]:
        """Reasons of the requests that were broken off."""
        with self.foundation.database.reading() as session:
            rows = session.connection().exec_driver_sql(
                "SELECT detail FROM trace WHERE event = 'REQUEST_REFUSED' ORDER BY id"
            )
            return [json.loads(row[0])["reason"] for row in rows]


@pytest.fixture(scope="module")
def listener() -> Iterator[Listener]:
    with listener_of("/dicomweb", http=BoundedProtocol, loop="uvloop") as made:
        yield made


@pytest.fixture
def make_house(toml: tuple[Path, str], tmp_path: Path, listener: Listener) -> Iterator[Callable[..., House]]:
    """`make_house(room={setting: value}, places=)`: stores of its own, closed with the test."""
    made: list[House] = []

    def make(places: int = 8, **rooms: dict[str, Any]) -> House:
        directory, text = toml
        settings = parse_settings(text.replace(str(directory / "appliance"), str(tmp_path)))
        changed = {
            room: getattr(settings, room).model_copy(update=changes) for room, changes in rooms.items()
        }
        house = House(settings.model_copy(update=changed), directory, places)
        listener.application = house.door
        made.append(house)
        return house

    yield make
    for house in made:
        house.close()


@pytest.fixture
def house(make_house: Callable[..., House]) -> House:
    return make_house()


def part10(dataset: Dataset) -> bytes:
    buffer = io.BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def data_set_of(file: bytes) -> bytes:
    return file[144 + int.from_bytes(file[140:144], "little") :]


FILES = [part10(dataset) for dataset in study_datasets(SPEC)]
SOPS = [uid(SPEC, 1, number) for number in (1, 2, 3)]


def body_of(files: Sequence[bytes], headers: bytes = b"Content-Type: application/dicom\r\n") -> bytes:
    parts = [b"--%s\r\n%s\r\n%s\r\n" % (BOUNDARY.encode(), headers, file) for file in files]
    return b"".join(parts) + b"--%s--\r\n" % BOUNDARY.encode()


def post(
    house: House, listener: Listener, body: Any, path: str = "/studies", **headers: str
) -> requests.Response:
    return requests.post(
        listener.url + path,
        data=body,
        headers={"Content-Type": MULTIPART}
        | {name.replace("_", "-"): text for name, text in headers.items()},
        auth=house.credentials,
        timeout=60,
    )


def stored(answer: requests.Response) -> list[str]:
    return [item[SOP]["Value"][0] for item in answer.json().get(REFERENCED, {}).get("Value", [])]


def failed(answer: requests.Response) -> list[tuple[str | None, int]]:
    return [
        (item[SOP].get("Value", [None])[0], item[REASON]["Value"][0])
        for item in answer.json().get(FAILED, {}).get("Value", [])
    ]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# --- good clients ---


def test_dicomweb_client_stores_hundreds_of_instances(house: House, listener: Listener) -> None:
    spec = StudySpec(series=(SeriesSpec("CT", 250, rows=8, columns=8),))
    datasets = list(study_datasets(spec))
    session = requests.Session()
    session.auth = house.credentials
    client = DICOMwebClient(listener.url, session=session)
    client.set_chunk_size(100_000)  # so that it sends chunked
    answer = client.store_instances(datasets)
    assert [one.ReferencedSOPInstanceUID for one in answer.ReferencedSOPSequence] == [
        one.SOPInstanceUID for one in datasets
    ]
    assert answer.RetrieveURL == f"{listener.url}/studies/{STUDY}"
    assert "FailedSOPSequence" not in answer
    assert house.kept() == {str(one.SOPInstanceUID): data_set_of(part10(one)) for one in datasets}
    assert house.events() == [("INSTANCE_STORED", "stow:viewer@127.0.0.1")] * 250


def test_curl_stores_one_file_without_multipart(house: House, listener: Listener, tmp_path: Path) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("curl is not installed")
    (tmp_path / "one.dcm").write_bytes(FILES[0])
    account = f"{house.account.name}:{house.account.password}"
    command = [
        curl, "-sS", "-u", account, "-H", "Content-Type: application/dicom", "-H", "Expect: 100-continue",
        "--data-binary", f"@{tmp_path / 'one.dcm'}", f"{listener.url}/studies/{STUDY}",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, check=True, timeout=60)
    answer = json.loads(done.stdout)
    item = answer[REFERENCED]["Value"][0]
    place = f"{listener.url}/studies/{STUDY}/series/{uid(SPEC, 1)}/instances/{SOPS[0]}"
    assert item[RETRIEVE_URL] == {"vr": "UR", "Value": [place]}
    assert item["00081150"] == {"vr": "UI", "Value": ["1.2.840.10008.5.1.4.1.1.2"]}
    assert house.kept() == {SOPS[0]: data_set_of(FILES[0])}


@pytest.mark.skipif(shutil.which("Orthanc") is None, reason="orthanc and orthanc-dicomweb are not installed")
def test_orthanc_sends_a_study(
    house: House, listener: Listener, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    plugin = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
    if not plugin.exists():
        pytest.skip("orthanc-dicomweb is not installed")
    port = free_port()
    server = [f"{listener.url}/", house.account.name, house.account.password]
    configuration = {
        "HttpPort": port, "DicomServerEnabled": False, "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False, "StorageDirectory": str(tmp_path / "db"), "Plugins": [str(plugin)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/", "Servers": {"box": server}},
    }  # fmt: skip
    (tmp_path / "orthanc.json").write_text(json.dumps(configuration), "utf-8")
    base = f"http://127.0.0.1:{port}"
    with (tmp_path / "orthanc.log").open("wb") as log:
        child = subprocess.Popen(["Orthanc", str(tmp_path / "orthanc.json")], stdout=log, stderr=log)
    try:
        wait_until(lambda: answers(f"{base}/system"))
        for file in FILES:
            requests.post(f"{base}/instances", data=file, timeout=10).raise_for_status()
        (study,) = requests.get(f"{base}/studies", timeout=10).json()
        sent = requests.post(
            f"{base}/dicom-web/servers/box/stow", json={"Resources": [study], "Synchronous": True}, timeout=30
        )
        assert sent.status_code == 200, (tmp_path / "orthanc.log").read_text()[-2000:]
    finally:
        child.terminate()
        child.wait(PATIENCE)
    assert sorted(house.kept()) == sorted(SOPS)


def answers(url: str) -> bool:
    with suppress(requests.ConnectionError):
        return requests.get(url, timeout=5).ok
    return False


@pytest.mark.parametrize(
    "content_type",
    [
        f"multipart/related; boundary={BOUNDARY}",
        f"multipart/related; type=application/dicom; boundary={BOUNDARY}",
        f'Multipart/Related;boundary="{BOUNDARY}";TYPE="application/dicom"; transfer-syntax=1.2.840.10008.1.2.1',
    ],
)
def test_forms_of_content_type(house: House, listener: Listener, content_type: str) -> None:
    answer = post(house, listener, body_of(FILES), Content_Type=content_type)
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "application/dicom+json")
    assert stored(answer) == SOPS


@pytest.mark.parametrize(
    "headers",
    [
        b"",
        b"content-type: application/dicom; transfer-syntax=1.2.3\r\nContent-Transfer-Encoding: BINARY\r\n",
        b"Content-Length: 1\r\nContent-Location: http://elsewhere/1\r\n",
    ],
)
def test_forms_of_part_headers(house: House, listener: Listener, headers: bytes) -> None:
    assert stored(post(house, listener, body_of(FILES, headers))) == SOPS


def test_the_same_again_is_stored_and_other_bytes_are_not(house: House, listener: Listener) -> None:
    assert post(house, listener, body_of(FILES[:2])).status_code == 200
    again = post(house, listener, body_of(FILES))
    assert (again.status_code, stored(again)) == (200, SOPS)
    other = FILES[0].replace(b"PAT-TROIS", b"PAT-AUTRE")
    mixed = post(house, listener, body_of([other, FILES[1]]))
    assert (mixed.status_code, stored(mixed), failed(mixed)) == (202, SOPS[1:2], [(SOPS[0], 0x0111)])
    assert post(house, listener, body_of([other])).status_code == 409
    assert house.kept()[SOPS[0]] == data_set_of(FILES[0])
    events = [event for event, _ in house.events()]
    assert (events.count("INSTANCE_STORED"), events.count("INSTANCE_REPEATED")) == (3, 3)
    assert events.count("INSTANCE_REFUSED") == 2


def test_two_studies_have_no_common_address(house: House, listener: Listener) -> None:
    (elsewhere,) = study_datasets(StudySpec("1.2.3.4", series=(SeriesSpec("CT", 1, rows=8, columns=8),)))
    answer = post(house, listener, body_of([FILES[0], part10(elsewhere)]))
    assert answer.json()[RETRIEVE_URL] == {"vr": "UR"}
    assert stored(answer) == [SOPS[0], elsewhere.SOPInstanceUID]


def test_a_study_in_the_path_takes_no_other(house: House, listener: Listener) -> None:
    answer = post(house, listener, body_of(FILES[:1]), "/studies/1.2.3.4")
    assert (answer.status_code, failed(answer)) == (409, [(SOPS[0], 0xA900)])
    assert house.kept() == {}


def test_a_rejection_note_hides_at_once(house: House, listener: Listener) -> None:
    note = note_dataset(SPEC, "113037", [(1, 1)])
    answer = post(house, listener, body_of([*FILES, part10(note)]))
    assert answer.status_code == 200
    assert set(house.kept()) == {*SOPS[1:], str(note.SOPInstanceUID)}
    assert house.events()[-1] == ("INSTANCES_REJECTED", "stow:viewer@127.0.0.1")


# --- what is not taken ---


def test_parts_that_are_no_instances(house: House, listener: Listener) -> None:
    wrong_meta = FILES[0].replace(SOPS[0].encode(), SOPS[1].encode(), 1)
    nonsense = [b"", b"junk", FILES[0][:140], FILES[0][:200] + b"\xff" * 400, wrong_meta]
    answer = post(house, listener, body_of([*nonsense, FILES[2]]))
    assert (answer.status_code, stored(answer)) == (202, SOPS[2:])
    assert failed(answer) == [
        (None, 0xC000), (None, 0xC000), (None, 0xC000), (None, 0xC002), (SOPS[1], 0xA900),
    ]  # fmt: skip
    assert post(house, listener, body_of([b"junk"])).status_code == 400


@pytest.mark.parametrize(
    "headers", [b"Content-Type: application/dicom+json\r\n", b"Content-Transfer-Encoding: base64\r\n"]
)
def test_parts_of_another_kind(house: House, listener: Listener, headers: bytes) -> None:
    answer = post(house, listener, body_of(FILES[:1], headers))
    assert (answer.status_code, failed(answer)) == (400, [(None, 0xC000)])


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content_Type": "application/json"}, 415),
        ({"Content_Type": ""}, 415),
        ({"Content_Type": f'multipart/related; type="application/dicom+xml"; boundary={BOUNDARY}'}, 415),
        ({"Content_Type": f'multipart/form-data; type="application/dicom"; boundary={BOUNDARY}'}, 415),
        ({"Content_Encoding": "gzip"}, 415),
        ({"Content_Type": 'multipart/related; type="application/dicom"'}, 400),
        ({"Content_Type": MULTIPART + "x"}, 400),
        ({"Accept": "application/dicom+xml"}, 406),
        ({"Accept": "application/dicom+json;q=0.0, text/html"}, 406),
    ],
)
def test_what_is_refused_as_a_whole(
    house: House, listener: Listener, headers: dict[str, str], status: int
) -> None:
    answer = post(house, listener, body_of(FILES), **headers)
    assert (answer.status_code, answer.headers["Content-Type"]) == (status, "application/problem+json")
    assert house.kept() == {}


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("*/*", "application/dicom+json"),
        ("application/json", "application/json"),
        ("application/dicom+xml, application/dicom+json;q=0.5", "application/dicom+json"),
    ],
)
def test_forms_of_accept(house: House, listener: Listener, accept: str, content_type: str) -> None:
    answer = post(house, listener, body_of(FILES[:1]), Accept=accept)
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, content_type)


def test_an_empty_request(house: House, listener: Listener) -> None:
    answer = post(house, listener, b"--%s--\r\n" % BOUNDARY.encode())
    assert (answer.status_code, answer.json()["type"]) == (400, "no-instances")


def test_too_large_and_too_many(
    make_house: Callable[..., House], listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = make_house(dicom={"max_instance_bytes": 100_000})
    answer = post(house, listener, body_of([FILES[0], bytes(200_000), FILES[1]]))
    assert (answer.status_code, answer.json()["type"]) == (413, "instance-too-large")
    assert "stored before: 1" in answer.json()["detail"]
    monkeypatch.setattr(stow_rs, "MAX_PARTS", 2)
    assert post(house, listener, body_of(FILES)).json()["type"] == "too-many-instances"
    assert sorted(house.kept()) == sorted(SOPS[:2])
    assert house.refused() == ["instance-too-large", "too-many-instances"]


def test_a_full_disk_is_said_before_and_after_a_byte_is_written(
    make_house: Callable[..., House], listener: Listener
) -> None:
    house = make_house(storage={"minimum_free_bytes": 1 << 60})
    large = [FILES[0], FILES[0] + bytes(3_000_000)]
    answer = post(house, listener, body_of(large))
    assert (answer.status_code, answer.headers["Retry-After"]) == (507, "5")
    assert [code for _, code in failed(answer)] == [0xA700, 0xA700]
    assert house.kept() == {}


def test_a_database_that_is_down(house: House, listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    def down(*_: Any, **__: Any) -> Any:
        raise Unavailable("the database cannot be used now")

    with monkeypatch.context() as patched:
        patched.setattr(intake, "receive_instance", down)
        assert post(house, listener, body_of(FILES)).status_code == 503
    with monkeypatch.context() as patched:
        patched.setattr(intake, "receive_instance", lambda *_, **__: 1 // 0)
        answer = post(house, listener, body_of(FILES))
        assert (answer.status_code, {code for _, code in failed(answer)}) == (500, {0x0110})
    assert post(house, listener, body_of(FILES)).status_code == 200


# --- broken bodies ---


def test_a_message_cut_anywhere(house: House, listener: Listener) -> None:
    whole = body_of(FILES)
    ends = [whole.index(file) + len(file) for file in FILES]
    closing = len(whole) - 2
    cuts = {0, 1, len(BOUNDARY), *range(0, closing, len(whole) // 12), closing - 1}
    cuts |= {end + more for end in ends for more in (-1, 0, 2, 4, 4 + len(BOUNDARY), 6 + len(BOUNDARY))}
    for cut in sorted(one for one in cuts if one < closing):
        answer = post(house, listener, whole[:cut])
        assert (answer.status_code, answer.json()["type"]) == (400, "not-multipart"), cut
        complete = sum(end + 4 + len(BOUNDARY) <= cut for end in ends)
        assert f"stored before: {complete}" in answer.json()["detail"], cut
    assert stored(post(house, listener, whole[:closing])) == SOPS
    assert house.places.taken == 0


def test_a_connection_cut_within_the_body(house: House, listener: Listener) -> None:
    whole = body_of(FILES)
    with sending(house, listener, len(whole)) as connection:
        connection.sendall(whole[:-40])
        wait_until(lambda: len(house.kept()) == 2)
    wait_until(lambda: house.refused() == ["body-incomplete"])
    wait_until(lambda: house.places.taken == 0)
    assert sorted(house.kept()) == sorted(SOPS[:2])


def test_a_slow_sender_is_dropped(make_house: Callable[..., House], listener: Listener) -> None:
    house = make_house(web={"stall_timeout": 0.4})
    whole = body_of(FILES)
    with sending(house, listener, len(whole)) as connection:
        connection.sendall(whole[: len(whole) // 2])
        for dripped in whole[len(whole) // 2 :][:20]:  # a byte now and then is no progress
            with suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall(bytes([dripped]))
            time.sleep(0.05)
        answer = connection.recv(65536)
        assert b" 408 " in answer.split(b"\r\n")[0]
        assert connection.recv(65536) == b""
    assert house.refused() == ["request-timeout"]


@contextmanager
def sending(house: House, listener: Listener, length: int) -> Iterator[socket.socket]:
    """A connection on which the head of a request was sent."""
    prepared = requests.Request("POST", f"{listener.url}/studies", auth=house.credentials).prepare()
    head = (
        f"POST /dicomweb/studies HTTP/1.1\r\nHost: box\r\nContent-Type: {MULTIPART}\r\n"
        f"Authorization: {prepared.headers['Authorization']}\r\nContent-Length: {length}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", listener.port), PATIENCE) as connection:
        connection.sendall(head.encode("ascii"))
        yield connection


def test_what_follows_the_closing_delimiter_is_dropped(house: House, listener: Listener) -> None:
    with requests.Session() as session:
        for _ in range(2):  # on one connection
            answer = session.post(
                f"{listener.url}/studies",
                data=body_of(FILES) + bytes(3_000_000),
                headers={"Content-Type": MULTIPART},
                auth=house.credentials,
                timeout=30,
            )
            assert stored(answer) == SOPS


# --- bounds ---


def test_a_large_instance_takes_no_memory(house: House, listener: Listener) -> None:
    """200 MB: what grows is page cache, not the process."""
    pixels = 200_000_000
    template = next(iter(study_datasets(SPEC)))
    template.PixelData = b""
    template.Rows = template.Columns = 10_000
    start = part10(template)[:-4] + pixels.to_bytes(4, "little")
    piece = bytes(1_000_000)
    peaks = [anonymous_memory()]

    def chunks() -> Iterator[bytes]:
        whole = body_of([start + b"PIXELS"])
        before, after = whole.split(b"PIXELS")
        yield before
        for _ in range(pixels // len(piece)):
            peaks.append(anonymous_memory())
            yield piece
        yield after

    answer = post(house, listener, chunks())
    assert stored(answer) == SOPS[:1]
    assert max(peaks) - peaks[0] < 40_000_000
    with house.foundation.transactions.reading() as transaction:
        (found,) = transaction.images.retrieve(STUDY, None, None)
    assert found.length > pixels
    assert not (house.foundation.settings.storage.root / "spool").exists()


def anonymous_memory() -> int:
    """Bytes of this process that no file backs."""
    status = Path(f"/proc/{os.getpid()}/status").read_text("ascii")
    return 1024 * int(status.split("RssAnon:")[1].split()[0])


def test_storing_does_not_hold_up_the_loop(
    house: House, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, leave = threading.Event(), threading.Event()
    receive = RequestIntake.receive

    def slow(self: RequestIntake, *what: Any) -> Any:
        entered.set()
        assert leave.wait(PATIENCE)
        return receive(self, *what)

    monkeypatch.setattr(RequestIntake, "receive", slow)
    answers: list[requests.Response] = []
    sender = threading.Thread(target=lambda: answers.append(post(house, listener, body_of(FILES))))
    sender.start()
    try:
        assert entered.wait(PATIENCE)
        assert post(house, listener, b"", Accept="text/html").status_code == 406
    finally:
        leave.set()
        sender.join(PATIENCE)
    assert stored(answers[0]) == SOPS


def test_requests_at_once_store_all(house: House, listener: Listener) -> None:
    spec = StudySpec(series=(SeriesSpec("CT", 60, rows=8, columns=8),))
    files = [part10(one) for one in study_datasets(spec)]
    statuses: list[int] = []
    threads = [
        threading.Thread(
            target=lambda some=some: statuses.append(post(house, listener, body_of(some)).status_code)
        )
        for some in (files[first : first + 20] for first in range(0, 60, 10))  # the halves overlap
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert statuses == [200] * len(threads)
    assert len(house.kept()) == 60


# --- who may ---


def test_who_is_not_let_in(house: House, listener: Listener) -> None:
    def status(name: str | None, password: str = "") -> requests.Response:
        auth = HTTPBasicAuth(name, password) if name else None
        return requests.post(f"{listener.url}/studies", data=b"", auth=auth, timeout=30)

    nobody = status(None)
    assert nobody.status_code == 401
    assert nobody.headers["WWW-Authenticate"] == 'Basic realm="DRIMBox", charset="UTF-8"'
    for name, _ in itertools.product(("viewer", "stranger"), range(2)):
        assert status(name, "wrong").status_code == 401
    assert status("viewer", "wrong").status_code == 401
    throttled = status("viewer", "wrong")
    assert throttled.status_code == 429
    assert 0 < int(throttled.headers["Retry-After"]) <= 60
    assert house.kept() == {}


def test_the_door_knows_no_other_method(house: House, listener: Listener) -> None:
    answer = requests.put(f"{listener.url}/studies", data=b"", auth=house.credentials, timeout=30)
    assert (answer.status_code, answer.headers["Allow"]) == (405, "POST")
