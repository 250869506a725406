"""frame_table: where frames lie, natively and in fragments; nothing outside the pixel data is ever given."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_store import frame_table
from dicom_store.frame_table import FrameTable, read_frame_table
from dicom_store.status import HttpRefusal

EXPLICIT, JPEG, J2K = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.90"
RLE, MPEG4 = "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.102"
BEFORE = bytes(100)  # what precedes the pixel data in the file
SOI, SOC = b"\xff\xd8", b"\xff\x4f"


def item(value: bytes) -> bytes:
    return struct.pack("<HHI", 0xFFFE, 0xE000, len(value)) + value


def encapsulated(fragments: Sequence[bytes], table: Sequence[int] = ()) -> bytes:
    body = b"".join(map(item, fragments))
    return item(struct.pack(f"<{len(table)}I", *table)) + body + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)


def document(length: int, **numbers: int) -> dict[str, Any]:
    tags = {
        "frames": "00280008",
        "rows": "00280010",
        "columns": "00280011",
        "bits": "00280100",
        "samples": "00280002",
    }
    described: dict[str, Any] = {
        tags[name]: {"vr": "US", "Value": [value]} for name, value in numbers.items()
    }
    described["7FE00010"] = {"vr": "OB", "BulkDataURI": f"bulkdata/{len(BEFORE)}-{length}"}
    return described


def table_of(pixels: bytes, syntax: str, **numbers: int) -> FrameTable:
    file = BEFORE + pixels + b"after"
    return read_frame_table(document(len(pixels), **numbers), syntax, lambda at, n: file[at : at + n])


def frames_of(pixels: bytes, syntax: str = JPEG, **numbers: int) -> list[bytes]:
    file, table = BEFORE + pixels + b"after", table_of(pixels, syntax, **numbers)
    return [
        b"".join(file[at : at + n] for at, n in table.places(number)) for number in range(1, table.count + 1)
    ]


def refused(pixels: bytes, syntax: str = JPEG, **numbers: int) -> tuple[int, str]:
    with pytest.raises(HttpRefusal) as caught:
        frames_of(pixels, syntax, **numbers)
    return caught.value.status, caught.value.detail


# --- native --------------------------------------------------------------------------------------------------------


def test_native_frames_follow_each_other() -> None:
    assert frames_of(b"aaaaaabbbbbb", EXPLICIT, rows=1, columns=3, bits=16, frames=2) == [b"a" * 6, b"b" * 6]


def test_native_frames_of_three_samples() -> None:
    assert frames_of(b"aaabbb", EXPLICIT, rows=1, columns=1, bits=8, samples=3, frames=2) == [b"aaa", b"bbb"]


def test_subsampled_colour_has_two_bytes_a_pixel() -> None:
    described = {
        **document(8, rows=1, columns=2, bits=8, samples=3, frames=2),
        "00280004": {"Value": ["YBR_FULL_422"]},
    }
    assert [read_frame_table(described, EXPLICIT, lambda *_: b"").places(n) for n in (1, 2)] == [
        [(100, 4)],
        [(104, 4)],
    ]


def test_the_padding_of_native_pixels_is_no_frame() -> None:
    assert frames_of(b"abc\0", EXPLICIT, rows=1, columns=3, bits=8) == [b"abc"]


def test_packed_bits_are_given_where_they_begin_with_a_byte() -> None:
    assert frames_of(b"abcd", EXPLICIT, rows=2, columns=8, bits=1, frames=2) == [b"ab", b"cd"]
    assert frames_of(b"ab", EXPLICIT, rows=3, columns=3, bits=1) == [b"ab"]


def test_packed_bits_that_begin_inside_a_byte_are_refused() -> None:
    table = table_of(b"abc\0", EXPLICIT, rows=3, columns=3, bits=1, frames=2)
    assert table.places(1) == [(100, 2)]
    with pytest.raises(HttpRefusal, match="406"):
        table.places(2)


@pytest.mark.parametrize("numbers", [{"rows": 2}, {"frames": 2}, {"bits": 16}, {"columns": 0}])
def test_pixels_shorter_than_described_are_refused(numbers: dict[str, int]) -> None:
    status, detail = refused(b"abc", EXPLICIT, **{"rows": 1, "columns": 3, "bits": 8, **numbers})
    assert status == 406
    assert "not as long as" in detail


@pytest.mark.parametrize(
    "described", [{}, {"7FE00010": {"vr": "OW"}}, {"7FE00010": {"BulkDataURI": "http://x"}}]
)
def test_without_pixel_data_there_are_no_frames(described: dict[str, Any]) -> None:
    with pytest.raises(HttpRefusal, match="404"):
        read_frame_table(described, EXPLICIT, lambda *_: b"")


@pytest.mark.parametrize("tag", ["7FE00008", "7FE00009"])
def test_float_pixels_are_pixels(tag: str) -> None:
    described = document(8, rows=1, columns=1, bits=64)
    described[tag] = described.pop("7FE00010")
    assert read_frame_table(described, EXPLICIT, lambda *_: b"").places(1) == [(100, 8)]


# --- in fragments (PS3.5 A.4) --------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", [(), (0, 10), (0, 77), (9,)])
def test_a_fragment_for_each_frame_whatever_the_table_says(table: tuple[int, ...]) -> None:
    assert frames_of(encapsulated([b"aa", b"bbbb"], table), frames=2) == [b"aa", b"bbbb"]


def test_one_frame_of_several_fragments() -> None:
    assert frames_of(encapsulated([b"aa", b"bb", b"cc"])) == [b"aabbcc"]


def test_several_fragments_each_by_the_offset_table() -> None:
    pixels = encapsulated([b"aa", b"bb", b"cc"], (0, 20))
    assert frames_of(pixels, frames=2) == [b"aabb", b"cc"]


@pytest.mark.parametrize("table", [(), (0, 13), (0, 0), (10, 20), (0, 4_000_000_000)])
@pytest.mark.parametrize("start", [SOI, SOC])
def test_several_fragments_each_by_their_codestreams(start: bytes, table: tuple[int, ...]) -> None:
    pixels = encapsulated([start + b"aa", b"bb", start + b"cc", b"dd"], table)
    assert frames_of(pixels, frames=2) == [start + b"aabb", start + b"ccdd"]


@pytest.mark.parametrize(
    ("pixels", "frames"),
    [
        (encapsulated([b"aa"]), 2),
        (encapsulated([]), 1),
        (encapsulated([b"aa", b"bb", b"cc"]), 2),
        (encapsulated([b"aa", SOI + b"bb", SOI + b"cc"]), 2),
        (b"no item here....", 1),
        (b"", 1),
    ],
)
def test_what_cannot_be_told_apart_is_refused(pixels: bytes, frames: int) -> None:
    status, detail = refused(pixels, frames=frames)
    assert status in (404, 406) if not pixels else status == 406
    assert "fragments" in detail or not pixels


@pytest.mark.parametrize("cut", range(1, 11))
def test_pixels_that_break_off_have_the_whole_fragments(cut: int) -> None:
    pixels = encapsulated([b"aa", b"bb"])[: -8 - cut]
    table = table_of(pixels, JPEG)
    assert [n for _, n in table.places(1)] in ([2], [2, 2])


def test_a_video_has_no_frames_of_its_own() -> None:
    status, detail = refused(encapsulated([b"aa"]), MPEG4, frames=300)
    assert status == 406
    assert "video" in detail


def test_fragments_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame_table, "MAX_FRAGMENTS", 3)
    assert len(frames_of(encapsulated([b"aa"] * 3), frames=3)) == 3
    assert refused(encapsulated([b"aa"] * 4), frames=4)[0] == 406


_fragments = st.lists(
    st.tuples(st.sampled_from([b"", SOI, SOC]), st.binary(max_size=6)).map(b"".join), max_size=6
)


@given(
    pixels=st.one_of(
        st.binary(max_size=80),
        st.builds(encapsulated, _fragments, st.lists(st.integers(0, 2**32 - 1), max_size=4)),
        st.builds(encapsulated, _fragments, st.lists(st.integers(0, 60), max_size=4)),
    ),
    syntax=st.sampled_from([EXPLICIT, JPEG, J2K, RLE, "1.2.3"]),
    numbers=st.fixed_dictionaries({}, optional={
        name: st.integers(-2, 40) for name in ("frames", "rows", "columns", "bits", "samples")
    }),
)  # fmt: skip
def test_anything_gives_places_inside_the_pixel_data_or_a_refusal(
    pixels: bytes, syntax: str, numbers: dict[str, int]
) -> None:
    try:
        table = table_of(pixels, syntax, **numbers)
        places = [place for number in range(1, table.count + 1) for place in table.places(number)]
    except HttpRefusal as refusal:
        assert refusal.status in (404, 406)
        return
    assert all(at >= 100 and n >= 0 and at + n <= 100 + len(pixels) for at, n in places)
