"""Frames as a viewer gets them: those of pydicom, for each of its test images that the archive takes."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pydicom.data
import pytest
from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate, encapsulate_extended, generate_frames
from pydicom.pixels import pixel_array
from pydicom.uid import RLELossless

from dicom_store.frame_table import NativeFrames
from dicom_store.frames import FrameTables, wants_instances
from dicom_store.header import read_header
from dicom_store.negotiation import parse_accept
from dicom_store.status import StoreRefused
from fixtures.images import SeriesSpec, StudySpec, study_datasets, uid
from fixtures.viewer_door import URL, Got, ViewerDoor, encoded

AS_STORED = "multipart/related; type=application/octet-stream; transfer-syntax=*"  # as OHIF asks
NATIVE = "multipart/related; type=application/octet-stream"
RLE = "multipart/related; type=image/dicom-rle"  # few read it: it leaves so for who names it
EXPLICIT = "1.2.840.10008.1.2.1"
FILES = Path(pydicom.data.__file__).parent / "test_files"
SPEC = StudySpec(series=(SeriesSpec("NM", 1, frames=3),))
FRAMES = f"/studies/{SPEC.study_instance_uid}/series/{uid(SPEC, 1)}/instances/{uid(SPEC, 1, 1)}/frames"


@pytest.fixture
def image(door: ViewerDoor) -> Dataset:
    (made,) = study_datasets(SPEC)
    door.put(made)
    return made


def native_frames(image: Dataset) -> list[bytes]:
    count = int(image.get("NumberOfFrames", 1) or 1)
    length = image.Rows * image.Columns * image.SamplesPerPixel * image.BitsAllocated // 8
    if image.PhotometricInterpretation == "YBR_FULL_422":
        length = length // 3 * 2
    return [image.PixelData[n * length : (n + 1) * length] for n in range(count)]


def contents(got: Got) -> list[bytes]:
    assert got.status == 200, got.body
    assert got.headers["content-length"] == str(len(got.body))
    return [content for _, content in got.parts]


# --- every test image of pydicom -----------------------------------------------------------------------------------


def readable(path: Path) -> Dataset | None:
    """The image of a file; None for files that are no image, or that pydicom itself cannot split into frames."""
    try:
        image = dcmread(path)
        syntax = image.file_meta.TransferSyntaxUID
        int(image.get("NumberOfFrames", 1) or 1)
    except Exception:  # noqa: BLE001  # test files that are broken on purpose
        return None
    fits = "PixelData" in image and "Rows" in image and syntax.is_little_endian and not syntax.is_deflated
    return image if fits and image.BitsAllocated >= 8 and path.name != "MR_truncated.dcm" else None


def stored(door: ViewerDoor, path: Path, image: Dataset) -> str | None:
    """Store the bytes of a file under UIDs of its own; the path of its frames, None when the door refuses it."""
    content = path.read_bytes()
    begin = 144 + int.from_bytes(content[140:144], "little")
    try:
        syntax, sop = str(image.file_meta.TransferSyntaxUID), str(image.SOPInstanceUID)
        header = read_header(content[begin:], syntax, str(image.SOPClassUID), sop)
    except (StoreRefused, AttributeError):
        return None
    header = replace(
        header,
        StudyInstanceUID="1.2.3",
        SeriesInstanceUID="1.2.4",
        SOPInstanceUID=f"1.2.5.{path.stat().st_ino}",
    )
    door.put_bytes((header, content[begin:]))
    return f"/studies/1.2.3/series/1.2.4/instances/{header.SOPInstanceUID}/frames"


@pytest.mark.filterwarnings("ignore")
def test_frames_are_those_of_pydicom(door: ViewerDoor) -> None:
    compared: dict[str, int] = {}
    for path in sorted(FILES.glob("*.dcm")):
        image = readable(path)
        frames = image and stored(door, path, image)
        if image is None or frames is None:
            continue
        count = int(image.get("NumberOfFrames", 1) or 1)
        if image.file_meta.TransferSyntaxUID.is_encapsulated:
            expected = list(generate_frames(image.PixelData, number_of_frames=count))
        else:
            expected = native_frames(image)
        wanted = ",".join(str(n) for n in range(1, count + 1))
        accept = RLE if image.file_meta.TransferSyntaxUID == RLELossless else AS_STORED
        got = door.get(f"{frames}/{wanted}", accept)
        assert (path.name, contents(got)) == (path.name, expected)
        assert door.get(f"{frames}/{count + 1}", AS_STORED).status == 404
        compared[path.name] = count
    assert len(compared) >= 40, sorted(compared)
    assert max(compared.values()) == 30


@pytest.mark.filterwarnings("ignore")
def test_pixels_that_are_cut_short_are_no_frames(door: ViewerDoor) -> None:
    path = FILES / "MR_truncated.dcm"
    frames = stored(door, path, dcmread(path))
    assert door.get(f"{frames}/1", AS_STORED).problem == (406, "not-acceptable")


def test_bit_packed_frames_are_given_where_they_begin_with_a_byte(door: ViewerDoor) -> None:
    image = dcmread(FILES / "liver_1frame.dcm")
    frames = stored(door, FILES / "liver_1frame.dcm", image)
    length = math.ceil(image.Rows * image.Columns / 8)
    assert contents(door.get(f"{frames}/1", AS_STORED)) == [image.PixelData[:length]]


# --- how they are given --------------------------------------------------------------------------------------------


def test_frames_in_the_order_asked(door: ViewerDoor, image: Dataset) -> None:
    first, second, third = native_frames(image)
    assert contents(door.get(f"{FRAMES}/3,1,3", AS_STORED)) == [third, first, third]
    assert contents(door.get(f"{FRAMES}/2", NATIVE)) == [second]


def test_each_part_says_what_it_is(door: ViewerDoor, image: Dataset) -> None:
    got = door.get(f"{FRAMES}/2,3", AS_STORED)
    assert got.headers["content-type"].startswith(
        'multipart/related; type="application/octet-stream"; boundary='
    )
    for (headers, content), number in zip(got.parts, (2, 3), strict=True):
        assert headers["content-type"] == f"application/octet-stream; transfer-syntax={EXPLICIT}"
        assert headers["content-location"] == f"{URL}{FRAMES}/{number}"
        assert headers["content-length"] == str(len(content))


def test_one_frame_alone(door: ViewerDoor, image: Dataset) -> None:
    got = door.get(f"{FRAMES}/2", "application/octet-stream")
    assert (got.status, got.body) == (200, native_frames(image)[1])
    assert got.headers["content-type"] == f"application/octet-stream; transfer-syntax={EXPLICIT}"
    assert door.get(f"{FRAMES}/1,2", "application/octet-stream").problem == (406, "not-acceptable")


def test_frames_that_are_not_there(door: ViewerDoor, image: Dataset) -> None:
    assert door.get(f"{FRAMES}/1,4", AS_STORED).problem == (404, "not-found")
    assert door.get(f"{FRAMES}/0", AS_STORED).problem == (400, "frames-invalid")
    assert door.get("/studies/1.2/series/1.2/instances/1.2/frames/1", AS_STORED).problem == (404, "not-found")


def test_implicit_vr_needs_no_conversion(door: ViewerDoor) -> None:
    (image,) = study_datasets(replace(SPEC, transfer_syntax="implicit"))
    door.put(image)
    assert contents(door.get(f"{FRAMES}/1,2,3", NATIVE)) == native_frames(image)
    assert door.made.asked == []


def test_an_extended_offset_table(door: ViewerDoor) -> None:
    (image,) = study_datasets(replace(SPEC, transfer_syntax="rle"))
    frames = list(generate_frames(image.PixelData, number_of_frames=3))
    image.PixelData, image.ExtendedOffsetTable, image.ExtendedOffsetTableLengths = encapsulate_extended(
        frames
    )
    door.put(image)
    assert contents(door.get(f"{FRAMES}/3,2", RLE)) == [
        frames[2],
        frames[1],
    ]


def test_fragments_of_a_frame_are_joined(door: ViewerDoor) -> None:
    (image,) = study_datasets(replace(SPEC, transfer_syntax="rle"))
    frames = list(generate_frames(image.PixelData, number_of_frames=3))
    image.PixelData = encapsulate(frames, fragments_per_frame=2, has_bot=True)
    door.put(image)
    assert contents(door.get(f"{FRAMES}/1,2,3", RLE)) == frames


@pytest.mark.parametrize("syntax", ["rle", "deflated"])
def test_native_frames_of_what_is_not_native(door: ViewerDoor, syntax: str) -> None:
    (image,) = study_datasets(replace(SPEC, transfer_syntax=syntax))
    (plain,) = study_datasets(SPEC)
    door.put(image)
    for number in (1, 2, 3):
        got = door.get(f"{FRAMES}/{number}", NATIVE)
        assert contents(got) == [native_frames(plain)[number - 1]]
        assert got.parts[0][0]["content-type"] == f"application/octet-stream; transfer-syntax={EXPLICIT}"
    assert door.made.asked == [EXPLICIT] * 3
    assert door.made.still_open() == 0


def test_conversions_of_two_instances_are_two(door: ViewerDoor) -> None:
    spec = replace(SPEC, series=(SeriesSpec("CT", 2),), transfer_syntax="rle")
    door.put(*study_datasets(spec))
    plain = list(study_datasets(replace(spec, transfer_syntax="explicit")))
    series = f"/studies/{spec.study_instance_uid}/series/{uid(spec, 1)}"
    for number in (1, 2):
        path = f"{series}/instances/{uid(spec, 1, number)}/frames/1"
        assert contents(door.get(path, NATIVE)) == [plain[number - 1].PixelData]


def test_a_jpeg_ls_image_natively(door: ViewerDoor) -> None:
    path = FILES / "MR_small_jpeg_ls_lossless.dcm"
    image = dcmread(path)
    frames = stored(door, path, image)
    assert contents(door.get(f"{frames}/1", NATIVE)) == [pixel_array(image).astype("<i2").tobytes()]
    assert (
        door.get(f"{frames}/1", "image/jls; transfer-syntax=*")
        .headers["content-type"]
        .startswith("image/jls")
    )


def test_a_frame_that_cannot_be_given_lets_go_of_the_conversion(door: ViewerDoor) -> None:
    (image,) = study_datasets(replace(SPEC, transfer_syntax="rle"))
    header, data_set = encoded(image)
    door.put_bytes((replace(header, NumberOfFrames=9), data_set))
    assert door.get(f"{FRAMES}/4", NATIVE).problem == (404, "not-found")
    assert (len(door.made.held), door.made.still_open()) == (1, 0)


def test_tables_are_read_once(door: ViewerDoor, image: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[object] = []
    metadata = door.archive.metadata
    monkeypatch.setattr(door.archive, "metadata", lambda one: read.append(one) or metadata(one))
    for number in (1, 2, 3, 1):
        assert door.get(f"{FRAMES}/{number}", AS_STORED).status == 200
    assert len(read) == 1


def test_tables_kept_are_bounded() -> None:
    tables = FrameTables(limit=300)
    for number in range(10):
        tables.put(("segment", number, EXPLICIT), NativeFrames(0, 8, 1))
    kept = [number for number in range(10) if tables.get(("segment", number, EXPLICIT))]
    assert kept == [7, 8, 9]


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ('multipart/related; type="application/dicom"; transfer-syntax=*', True),
        ("application/dicom, application/octet-stream;q=0", True),
        ("application/dicom, */*;q=0.1", False),
        (AS_STORED, False),
        ("*/*", False),
        ("text/html", False),
    ],
)
def test_frames_as_dicom_are_for_another(accept: str, wanted: bool) -> None:
    assert wants_instances(parse_accept([accept])) is wanted
