"""What a hostile reading found at the internal listener and on the way in: bombs, starvation, an open door."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from dicom_store import dicom_json, frames, metadata_rs
from dicom_store.archive import Archive, StoredInstance
from dicom_store.multipart import media_type_of
from dicom_store.places import Places
from drimbox.bootstrap import Foundation, lay_foundation
from drimbox.entrypoints.internal_door import DepartmentDoor, make_internal_app
from drimbox.entrypoints.reports_http import make_reports_app
from drimbox.entrypoints.serving import Serving
from drimbox.settings.whole import Settings, parse_settings
from drimbox.simulators.viewer_account import viewer_account
from fixtures.images import SeriesSpec, StudySpec, study_datasets, uid
from fixtures.viewer_door import URL, ViewerDoor, viewer_door

EXPLICIT, JPEG = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.50"
SPEC = StudySpec(series=(SeriesSpec("CT", 4), SeriesSpec("NM", 1, frames=3)))
STUDY = f"/studies/{SPEC.study_instance_uid}"
OTHER = StudySpec("1.2.250.1.999.77", series=(SeriesSpec("MR", 1),))
FRAMES = f"{STUDY}/series/{uid(SPEC, 2)}/instances/{uid(SPEC, 2, 1)}/frames"


@pytest.fixture
def door(tmp_path: Path) -> Iterator[ViewerDoor]:
    with viewer_door(tmp_path) as made:
        made.put(*study_datasets(SPEC), *study_datasets(OTHER))
        yield made


# --- the event loop


@pytest.mark.parametrize("value", ["{}x y", "{}", '"{}', '"\\"{}', "a{}b"])
def test_a_content_type_of_spaces_is_read_at_once(value: str) -> None:
    """It took the square of its length: half a minute for a head, in the event loop of every client."""
    begin = time.monotonic()
    media_type, parameters = media_type_of(f"multipart/related; boundary=b1; a={value.format(' ' * 50_000)}")
    assert time.monotonic() - begin < 2
    assert (media_type, parameters["boundary"]) == ("multipart/related", "b1")


# --- searches


@pytest.mark.parametrize("name", ["ModalitiesInStudy", "PatientSex"])
def test_a_long_list_of_codes_is_searched(door: ViewerDoor, name: str) -> None:
    """An engine takes only so many conditions beside each other: it was a 500."""
    codes = ",".join(["CT", "M", "F", "O", *(f"X{n}" for n in range(990))])
    assert SPEC.study_instance_uid in door.get("/studies", **{name: codes}).body.decode()


def test_wildcards_of_one_list_are_counted(door: ViewerDoor) -> None:
    assert len(door.get("/studies", ModalitiesInStudy=",".join(["C*"] * 32)).json) == 1
    refused = door.get("/studies", ModalitiesInStudy=",".join(["C*"] * 33))
    assert refused.problem == (400, "query-invalid")
    assert door.get("/studies", ModalitiesInStudy=",").problem == (400, "query-invalid")


def test_bulk_data_in_a_result_has_an_address_that_is_good(door: ViewerDoor) -> None:
    results = door.get(f"{STUDY}/instances", includefield="PixelData").json
    assert len(results) == 5
    for result, image in zip(results, study_datasets(SPEC), strict=True):
        address = result["7FE00010"]["BulkDataURI"]
        assert address.startswith(f"{URL}{STUDY}/series/")
        assert door.get(address.removeprefix(URL), "application/octet-stream").body == image.PixelData


def test_a_search_outlives_a_study_whose_bytes_are_lost(door: ViewerDoor) -> None:
    for path in door.archive._segments._base.glob(f"*/*/{OTHER.study_instance_uid}/*.seg"):
        path.unlink()
    got = door.get("/studies", includefield="PatientComments")
    assert (got.status, len(got.json)) == (200, 2)


# --- what is prepared at ingest


def ut(number: int, value: bytes) -> bytes:
    return struct.pack("<HH2sHI", 0x0011, 0x1000 + number, b"UT", 0, len(value)) + value


def test_json_is_bounded_by_what_it_becomes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A control character is six in JSON: 18 MB of them were 108 MB, and so many times over in memory."""
    monkeypatch.setattr(dicom_json, "COST_BYTES", 60_000)
    made = dicom_json.instance_json(b"".join(ut(n, b"\1" * 1000) for n in range(200)), EXPLICIT, 0)
    assert 54_000 < len(made) < 70_000
    assert len(json.loads(made)) == 11  # ten, and the character set


def test_fragments_cost_as_elements_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a long encapsulated value, empty ones by the million, held a thread for minutes."""
    monkeypatch.setattr(dicom_json, "COST_BYTES", 32 * 100)
    head = struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, 0xFFFFFFFF)
    fragment, end = b"\xfe\xff\x00\xe0" + bytes(4), b"\xfe\xff\xdd\xe0" + bytes(4)
    assert b"7FE00010" in dicom_json.instance_json(head + fragment * 90 + end, JPEG, 0)
    assert b"7FE00010" not in dicom_json.instance_json(head + fragment * 110 + end, JPEG, 0)


# --- memory of answers


@pytest.mark.parametrize("prepared", [True, False])
def test_metadata_is_read_by_bytes_not_by_number(
    door: ViewerDoor, prepared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fifty multi-frame instances have hundreds of megabytes of JSON."""
    whole = door.get(f"{STUDY}/metadata").json
    sizes: list[int] = []

    def read(archive: Archive, instances: Sequence[StoredInstance]) -> list[bytes]:
        sizes.append(len(instances))
        return metadata_rs_read(archive, instances)

    metadata_rs_read = metadata_rs.read_metadata
    monkeypatch.setattr(metadata_rs, "read_metadata", read)
    monkeypatch.setattr(metadata_rs, "BATCH_BYTES", 1)
    if not prepared:
        monkeypatch.setattr(Archive, "metadata_extent", staticmethod(lambda _stored: None))
    assert door.get(f"{STUDY}/metadata").json == whole
    assert sizes == [1, 1, 1, 1, 1]


def test_fragments_of_an_answer_are_counted(door: ViewerDoor, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list may name the same frame 30,000 times, and a frame may be 500,000 fragments."""
    monkeypatch.setattr(frames, "MAX_PIECES", 3)
    accept = "multipart/related; type=application/octet-stream"
    assert len(door.get(f"{FRAMES}/1,2,1", accept).parts) == 3
    assert door.get(f"{FRAMES}/1,2,1,1", accept).problem == (406, "not-acceptable")


# --- the other rooms of the internal listener


@pytest.fixture
def make_foundation(toml: tuple[Path, str], tmp_path: Path) -> Iterator[Callable[..., Foundation]]:
    """`make_foundation(edit)`: of the world's settings as `edit` changes them; its database has no tables yet."""
    made: list[Foundation] = []

    def make(edit: Callable[[Settings], Settings] = lambda settings: settings) -> Foundation:
        directory, text = toml
        settings = edit(parse_settings(text.replace(str(directory / "appliance"), str(tmp_path))))
        foundation = lay_foundation(settings)
        made.append(foundation)
        return foundation

    yield make
    for one in made:
        one.archive.close()
        one.database.close()


def ask(app: Any, method: str, path: str, *headers: tuple[bytes, bytes], first: bytes = b"") -> int:
    """Status of a request whose body, after `first`, never comes."""
    answers: list[Any] = []
    messages = [{"type": "http.request", "body": first, "more_body": method == "POST"}]

    async def receive() -> Any:
        if messages:
            return messages.pop()
        return await asyncio.Event().wait()

    async def send(message: Any) -> None:
        answers.append(message)

    scope = {
        "type": "http", "http_version": "1.1", "method": method, "path": path, "query_string": b"",
        "headers": list(headers), "client": ("127.0.0.1", 4000), "server": ("127.0.0.1", 80), "state": {},
    }  # fmt: skip

    async def run() -> None:
        await asyncio.wait_for(app(scope, receive, send), 20)

    asyncio.run(run())
    return int(answers[0]["status"])


def serving_of(foundation: Foundation, stall: float = 60) -> Serving:
    settings = foundation.settings
    web = settings.web.model_copy(update={"stall_timeout": stall})
    parts = SimpleNamespace(
        foundation=foundation,
        settings=settings.model_copy(update={"web": web}),
        images=None,
        gate=SimpleNamespace(records=None),
        conversions=SimpleNamespace(can=None),
    )
    return cast(Serving, parts)


def test_a_report_that_never_ends_loses_its_thread(make_foundation: Callable[..., Foundation]) -> None:
    """Ten such requests shut the door for everybody else."""
    foundation = make_foundation()
    foundation.database.migrate()
    app = make_internal_app(serving_of(foundation, stall=0.2), cast(DepartmentDoor, None), Places(4))
    length = (b"content-length", b"100000")
    assert ask(app, "POST", "/reports", length, first=b"<ClinicalDocument") == 400


def test_only_senders_may_post_reports(make_foundation: Callable[..., Foundation]) -> None:
    """README, Reports: nobody may send reports until a sender is named."""
    foundation = make_foundation()
    foundation.database.migrate()
    client = make_reports_app(foundation).test_client()
    stranger = client.post("/reports", data=b"<x/>", environ_base={"REMOTE_ADDR": "10.9.9.9"})
    assert (stranger.status_code, json.loads(stranger.data)["type"]) == (403, "sender-unknown")
    assert client.post("/reports", data=b"<x/>").status_code == 422
    assert client.get("/metrics", environ_base={"REMOTE_ADDR": "10.9.9.9"}).status_code == 200


def test_a_sender_with_a_certificate_shows_it_here_too(make_foundation: Callable[..., Foundation]) -> None:
    certificate = b"the DER of one"

    def edit(settings: Settings) -> Settings:
        sender = settings.mllp.senders[0].model_copy(
            update={"certificate_sha256": hashlib.sha256(certificate).hexdigest()}
        )
        mllp = settings.mllp.model_copy(update={"senders": (sender,)})
        return settings.model_copy(update={"mllp": mllp})

    foundation = make_foundation(edit)
    foundation.database.migrate()
    client = make_reports_app(foundation).test_client()
    for shown, status in ((None, 403), (b"another", 403), (certificate, 422)):
        scope = {"state": {"peer_certificate": shown}}
        answer = client.post("/reports", data=b"<x/>", environ_base={"asgi.scope": scope})
        assert answer.status_code == status


def test_a_database_that_cannot_be_read_is_503(
    make_foundation: Callable[..., Foundation], toml: tuple[Path, str]
) -> None:
    """It was a 500, which no PACS tries again."""
    foundation = make_foundation()  # without tables
    account = viewer_account(toml[0])
    serving = serving_of(foundation)
    department = DepartmentDoor(serving)
    try:
        app = make_internal_app(serving, department, Places(4))
        token = f"{account.name}:{account.password}".encode()
        basic = (b"authorization", b"Basic " + base64.b64encode(token))
        assert ask(app, "GET", f"/dicomweb{STUDY}/metadata", basic) == 503
        assert ask(app, "GET", "/dicomweb/studies") == 401
    finally:
        department.close()
