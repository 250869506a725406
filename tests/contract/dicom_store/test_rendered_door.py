"""Rendered images as a viewer gets them, through a real transcoder."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from PIL import Image
from pydicom import Dataset

from fixtures.images import SeriesSpec, StudySpec, study_datasets, uid
from fixtures.notes import note_dataset
from fixtures.viewer_door import URL, ViewerDoor, encoded

SPEC = StudySpec(series=(SeriesSpec("CT", 3, rows=24, columns=32), SeriesSpec("NM", 1, frames=3)))
STUDY = f"/studies/{SPEC.study_instance_uid}"
CT = f"{STUDY}/series/{uid(SPEC, 1)}"
ONE = f"{CT}/instances/{uid(SPEC, 1, 1)}"
NM = f"{STUDY}/series/{uid(SPEC, 2)}/instances/{uid(SPEC, 2, 1)}"
PARTS = 'multipart/related; type="image/jpeg"'


@pytest.fixture
def images(door: ViewerDoor) -> list[Dataset]:
    made = list(study_datasets(SPEC))
    door.put(*made)
    return made


def picture(content: bytes) -> tuple[str | None, tuple[int, int]]:
    with Image.open(io.BytesIO(content)) as opened:
        opened.load()
        return opened.format, opened.size


@pytest.mark.parametrize(
    ("accept", "media_type", "kind"),
    [
        (None, "image/jpeg", "JPEG"),
        ("*/*", "image/jpeg", "JPEG"),
        ("image/png", "image/png", "PNG"),
        ("image/png;q=0.5, image/jpeg;q=0.4", "image/png", "PNG"),
    ],
)
def test_one_image(
    door: ViewerDoor, images: list[Dataset], accept: str | None, media_type: str, kind: str
) -> None:
    got = door.get(f"{ONE}/rendered", accept)
    assert (got.status, got.headers["content-type"], got.whole) == (200, media_type, True)
    assert picture(got.body) == (kind, (32, 24))
    assert got.headers["content-location"] == f"{URL}{ONE}/rendered"
    assert int(got.headers["content-length"]) == len(got.body)
    assert door.made.still_open() == 0


def test_one_image_as_a_part(door: ViewerDoor, images: list[Dataset]) -> None:
    ((headers, content),) = door.get(f"{ONE}/rendered", PARTS).parts
    assert headers["content-type"] == "image/jpeg"
    assert picture(content) == ("JPEG", (32, 24))


def test_parameters_are_heeded(door: ViewerDoor, images: list[Dataset]) -> None:
    small = door.get(f"{ONE}/rendered", "image/png", viewport="16,16", window="40,400,linear")
    assert picture(small.body) == ("PNG", (16, 12))
    assert (
        small.body != door.get(f"{ONE}/rendered", "image/png", viewport="16,16", window="900,10,linear").body
    )


def test_parameters_that_mean_nothing_are_refused(door: ViewerDoor, images: list[Dataset]) -> None:
    assert door.get(f"{ONE}/rendered", viewport="0,0").problem == (400, "rendering-parameters")
    assert door.get(f"{ONE}/rendered", None, "GET", quality=["10", "20"]).status == 400


def test_frames(door: ViewerDoor, images: list[Dataset]) -> None:
    first, second = (door.get(f"{NM}/frames/{n}/rendered", "image/png") for n in (1, 2))
    assert picture(first.body) == picture(second.body) == ("PNG", (32, 32))
    assert door.made.asked == [1, 2]
    got = door.get(f"{NM}/frames/3,1/rendered", PARTS)
    assert [headers["content-location"] for headers, _ in got.parts] == [
        f"{URL}{NM}/frames/3/rendered",
        f"{URL}{NM}/frames/1/rendered",
    ]
    assert door.get(f"{NM}/frames/1,4/rendered").problem == (404, "not-found")


@pytest.mark.parametrize("accept", [None, "image/jpeg", PARTS])
def test_a_study_is_its_images(door: ViewerDoor, images: list[Dataset], accept: str | None) -> None:
    door.put(note_dataset(SPEC, "113000", [(1, 1)]))  # a note is no picture
    got = door.get(f"{STUDY}/rendered", accept)
    assert got.headers["content-type"].startswith('multipart/related; type="image/jpeg"; boundary=')
    assert [picture(content) for _, content in got.parts] == [("JPEG", (32, 24))] * 3 + [("JPEG", (32, 32))]
    assert len(door.get(f"{CT}/rendered").parts) == 3
    assert door.made.still_open() == 0


def test_what_cannot_be_shown_is_left_out_of_a_series(door: ViewerDoor, images: list[Dataset]) -> None:
    header, data_set = encoded(images[1])
    unknown = {
        "SOPInstanceUID": "1.2.3.9",
        "TransferSyntaxUID": "1.2.840.10008.1.2.4.102",
        "InstanceNumber": 0,
    }
    door.put_bytes((replace(header, **unknown), data_set))
    assert len(door.get(f"{CT}/rendered").parts) == 3
    assert door.get(f"{CT}/instances/1.2.3.9/rendered").problem == (406, "not-acceptable")


def test_nothing_to_show(door: ViewerDoor, images: list[Dataset]) -> None:
    note = note_dataset(SPEC, "113000", [(1, 1)])
    door.put(note)
    path = f"{STUDY}/series/{note.SeriesInstanceUID}"
    for below in ("", f"/instances/{note.SOPInstanceUID}"):
        assert door.get(f"{path}{below}/rendered").problem == (406, "not-acceptable")


def test_a_series_of_which_nothing_can_be_shown_is_refused(door: ViewerDoor, images: list[Dataset]) -> None:
    header, data_set = encoded(images[1])
    video = {"SeriesInstanceUID": "1.2.3", "TransferSyntaxUID": "1.2.840.10008.1.2.4.102"}
    door.put_bytes(*((replace(header, SOPInstanceUID=f"1.2.3.{n}", **video), data_set) for n in (1, 2)))
    assert door.get(f"{STUDY}/series/1.2.3/rendered").problem == (406, "not-acceptable")


def test_what_is_not_acceptable_or_not_here(door: ViewerDoor, images: list[Dataset]) -> None:
    assert door.get(f"{ONE}/rendered", "image/gif").problem == (406, "not-acceptable")
    assert door.get(f"{STUDY}/rendered", "application/pdf").problem == (406, "not-acceptable")
    assert door.get("/studies/1.2.3/rendered").problem == (404, "not-found")
