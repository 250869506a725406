"""Metadata and bulk data as a viewer gets them: the JSON of the instances, and every address in it is good."""

from __future__ import annotations

import json
import os

import pytest
from pydicom import Dataset
from sqlalchemy import update
from sqlalchemy.orm import Session

from dicom_store import metadata_rs
from dicom_store.index import InstanceRow
from fixtures.images import SeriesSpec, StudySpec, study_datasets, uid
from fixtures.notes import note_dataset
from fixtures.viewer_door import URL, ViewerDoor

SPEC = StudySpec(series=(SeriesSpec("CT", 5), SeriesSpec("MR", 2)))
STUDY, SERIES = f"/studies/{SPEC.study_instance_uid}", f"/series/{uid(SPEC, 1)}"
INSTANCE = f"{STUDY}{SERIES}/instances/{uid(SPEC, 1, 1)}"
OHIF = "application/dicom+json, multipart/related; type=application/octet-stream; transfer-syntax=*"
OCTETS = 'multipart/related; type="application/octet-stream"'


@pytest.fixture
def images(door: ViewerDoor) -> list[Dataset]:
    made = list(study_datasets(SPEC))
    door.put(*made)
    return made


def numbers(results: list[dict[str, dict[str, list[int]]]]) -> list[tuple[int, int]]:
    return [(r["00200011"]["Value"][0], r["00200013"]["Value"][0]) for r in results]


@pytest.mark.parametrize("batch", [1, 2, 7, 50])
def test_metadata_of_a_study_in_order(
    door: ViewerDoor, images: list[Dataset], batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metadata_rs, "BATCH", batch)
    got = door.get(f"{STUDY}/metadata")
    assert (got.status, got.headers["content-type"], got.whole) == (200, "application/dicom+json", True)
    assert numbers(got.json) == [(1, 1), (1, 2), (1, 3), (1, 4), (1, 5), (2, 1), (2, 2)]
    for result, image in zip(got.json, images, strict=True):
        assert result["00080018"]["Value"] == [image.SOPInstanceUID]
        assert result["00280010"] == {"vr": "US", "Value": [32]}


def test_metadata_of_a_series_and_of_an_instance(door: ViewerDoor, images: list[Dataset]) -> None:
    assert len(door.get(f"{STUDY}{SERIES}/metadata").json) == 5
    assert numbers(door.get(f"{INSTANCE}/metadata").json) == [(1, 1)]


def test_the_pixels_are_where_the_metadata_says(door: ViewerDoor, images: list[Dataset]) -> None:
    for result, image in zip(door.get(f"{STUDY}/metadata").json, images, strict=True):
        address = result["7FE00010"]["BulkDataURI"]
        assert address.startswith(
            f"{URL}{STUDY}/series/{image.SeriesInstanceUID}/instances/{image.SOPInstanceUID}/"
        )
        got = door.get(address.removeprefix(URL), "application/octet-stream")
        assert (got.status, got.body) == (200, image.PixelData)
        assert got.headers["content-type"] == "application/octet-stream"
        assert got.headers["content-length"] == str(len(image.PixelData))


@pytest.mark.parametrize("accept", [OHIF, None, "*/*", "application/json"])
def test_what_viewers_accept(door: ViewerDoor, images: list[Dataset], accept: str | None) -> None:
    assert door.get(f"{INSTANCE}/metadata", accept).status == 200


def test_xml_is_not_made(door: ViewerDoor, images: list[Dataset]) -> None:
    assert door.get(f"{INSTANCE}/metadata", "application/dicom+xml").problem == (406, "not-acceptable")


def test_what_is_not_here_is_not_found(door: ViewerDoor, images: list[Dataset]) -> None:
    for path in ("/studies/1.2.3", f"{STUDY}/series/1.2.3", f"/studies/1.2.3{SERIES}"):
        assert door.get(f"{path}/metadata").problem == (404, "not-found")


def test_what_is_rejected_is_hidden(door: ViewerDoor, images: list[Dataset]) -> None:
    door.put(note_dataset(SPEC, "113001", [(1, 1), (2, 1), (2, 2)]))
    assert numbers(door.get(f"{STUDY}/metadata").json) == [(1, 2), (1, 3), (1, 4), (1, 5)]
    assert door.get(f"{INSTANCE}/metadata").status == 404
    assert door.get(f"{INSTANCE}/bulkdata/0-4").status == 404


def test_instances_of_before_the_json_was_prepared(door: ViewerDoor, images: list[Dataset]) -> None:
    prepared = door.get(f"{STUDY}/metadata").json
    with Session(door.engine) as session:
        session.execute(
            update(InstanceRow).where(InstanceRow.instance_number < 4).values(metadata_length=None)
        )
        session.commit()
    assert door.get(f"{STUDY}/metadata").json == prepared


def test_json_that_is_damaged_is_made_anew(door: ViewerDoor, images: list[Dataset]) -> None:
    prepared = door.get(f"{STUDY}/metadata").json
    for path in (door.archive._segments._base).glob("*/*/*/*.seg"):
        content = path.read_bytes()
        at = content.find(b'{"00080005"')
        while at >= 0:
            content = content[: at - 52] + b"XXXX" + content[at - 48 :]
            at = content.find(b'{"00080005"', at + 1)
        path.write_bytes(content)
    assert door.get(f"{STUDY}/metadata").json == prepared


def test_a_segment_that_is_lost_is_no_empty_answer(door: ViewerDoor, images: list[Dataset]) -> None:
    for path in (door.archive._segments._base).glob("*/*/*/*.seg"):
        path.unlink()
    assert door.get(f"{STUDY}/metadata").problem == (500, "internal-error")


def test_many_instances_come_in_pieces(door: ViewerDoor) -> None:
    spec = StudySpec(series=(SeriesSpec("CT", 300, rows=4, columns=4),))
    door.put(*study_datasets(spec))
    got = door.get(f"{STUDY}/metadata")
    assert [n for _, n in numbers(got.json)] == list(range(1, 301))
    assert "content-length" not in got.headers


# --- bulk data -----------------------------------------------------------------------------------------------------


def test_private_bulk_data_is_addressed_too(door: ViewerDoor) -> None:
    (image,) = study_datasets(StudySpec(series=(SeriesSpec("CT", 1),)))
    value = os.urandom(3000)
    block = image.private_block(0x0009, "TEST", create=True)
    block.add_new(0x01, "OB", value)
    door.put(image)
    (result,) = door.get(f"{INSTANCE}/metadata").json
    assert door.get(result["00091001"]["BulkDataURI"].removeprefix(URL)).parts[0][1] == value


def test_bulk_data_as_a_part(door: ViewerDoor, images: list[Dataset]) -> None:
    address = json.loads(door.get(f"{INSTANCE}/metadata").body)[0]["7FE00010"]["BulkDataURI"]
    got = door.get(address.removeprefix(URL), OCTETS)
    ((headers, content),) = got.parts
    assert content == images[0].PixelData
    assert headers["content-location"] == address
    assert headers["content-type"] == "application/octet-stream"
    assert got.headers["content-length"] == str(len(got.body))


def test_ranges_of_bulk_data(door: ViewerDoor, images: list[Dataset]) -> None:
    path = door.get(f"{INSTANCE}/metadata").json[0]["7FE00010"]["BulkDataURI"].removeprefix(URL)
    whole = door.get(path, "application/octet-stream")
    part = door.get(path, "application/octet-stream", Range="bytes=10-19")
    assert (part.status, part.body) == (206, images[0].PixelData[10:20])
    assert part.headers["content-range"] == "bytes 10-19/2048"
    assert whole.headers["etag"] == part.headers["etag"]
    kept = door.get(path, "application/octet-stream", Range="bytes=10-19", If_Range='"other"')
    assert (kept.status, kept.body) == (200, whole.body)
    assert door.get(path, "application/octet-stream", Range="bytes=9999-").status == 416


@pytest.mark.parametrize(
    "bulk", ["0-0", "0-99999999", "999999999-1", "{size}-1", "1-{size}", "5-", "-5", "a-b"]
)
def test_bulk_data_never_leaves_the_file(door: ViewerDoor, images: list[Dataset], bulk: str) -> None:
    with Session(door.engine) as session:
        row = session.query(InstanceRow).filter_by(sop_instance_uid=uid(SPEC, 1, 1)).one()
        size = row.payload_length
    assert door.get(f"{INSTANCE}/bulkdata/{bulk.format(size=size)}").problem == (404, "not-found")
    assert door.get(f"{INSTANCE}/bulkdata/{size - 1}-1").status == 200
