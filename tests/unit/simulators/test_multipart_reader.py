"""The partner's multipart reader, on whole and broken bodies."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drimbox.simulators.multipart_reader import BrokenMultipartError, boundary_of, read_parts


def body(*contents: bytes, boundary: bytes = b"b0") -> bytes:
    head = b"Content-Type: application/dicom;transfer-syntax=1.2.840.10008.1.2.1\r\n\r\n"
    parts = b"".join(b"--" + boundary + b"\r\n" + head + content + b"\r\n" for content in contents)
    return parts + b"--" + boundary + b"--\r\n"


@given(
    contents=st.lists(st.binary(max_size=60).filter(lambda c: b"\r\n--b0" not in c), min_size=1, max_size=4),
    step=st.integers(min_value=1, max_value=40),
)
def test_blocks_of_any_size_give_the_same_parts(contents: list[bytes], step: int) -> None:
    whole = body(*contents)
    blocks = [whole[at : at + step] for at in range(0, len(whole), step)]
    assert [part.content for part in read_parts(blocks, "b0")] == contents


def test_headers_are_read_by_lower_case_name() -> None:
    (part,) = read_parts([body(b"x")], "b0")
    assert part.headers == {"content-type": "application/dicom;transfer-syntax=1.2.840.10008.1.2.1"}


def test_a_preamble_is_skipped_and_an_empty_part_is_kept() -> None:
    assert [part.content for part in read_parts([b"hello\r\n" + body(b"", b"y")], "b0")] == [b"", b"y"]


@pytest.mark.parametrize("cut", [1, 5, 40, -5, -4])
def test_a_body_cut_short_is_broken(cut: int) -> None:
    with pytest.raises(BrokenMultipartError):
        list(read_parts([body(b"content of a part")[:cut]], "b0"))


def test_a_delimiter_followed_by_something_else_is_broken() -> None:
    with pytest.raises(BrokenMultipartError, match="neither"):
        list(read_parts([b"--b0XX\r\n\r\n\r\n--b0--"], "b0"))


def test_headers_without_end_are_broken() -> None:
    with pytest.raises(BrokenMultipartError, match="headers"):
        list(read_parts([b"--b0\r\n" + b"A" * 40_000], "b0"))


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        ('multipart/related; type="application/dicom"; boundary=abc', "abc"),
        ('multipart/related;start="<u@x>";type="application/dicom"; boundary="a=b"', "a=b"),
    ],
)
def test_the_boundary_is_found(content_type: str, boundary: str) -> None:
    assert boundary_of(content_type) == boundary


@pytest.mark.parametrize("content_type", ["application/dicom", "multipart/related", "nonsense"])
def test_no_boundary_is_broken(content_type: str) -> None:
    with pytest.raises(BrokenMultipartError):
        boundary_of(content_type)
