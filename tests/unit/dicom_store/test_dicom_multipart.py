"""multipart: out and in, at any chunk size."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dicom_store.multipart import (
    MAX_HEADER_BYTES,
    MultipartError,
    MultipartReader,
    boundary_of,
    media_type_of,
    read_parts,
)

BOUNDARY = "f00dbeef"


def written_of(bodies: list[bytes]) -> bytes:
    head = b"--f00dbeef\r\nContent-Type: application/dicom\r\n\r\n"
    return b"".join(head + body + b"\r\n" for body in bodies) + b"--f00dbeef--\r\n"


def chunked(data: bytes, size: int) -> Iterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def received(data: bytes, size: int = 7) -> list[bytes]:
    return [b"".join(part.body) for part in read_parts(chunked(data, size), BOUNDARY)]


@settings(max_examples=100, deadline=None)
@given(bodies=st.lists(st.binary(max_size=200), min_size=1, max_size=4), size=st.integers(1, 300))
def test_what_is_written_is_read_back(bodies: list[bytes], size: int) -> None:
    written = written_of(bodies)
    assert received(written, size) == bodies


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_bodies_full_of_near_delimiters(size: int) -> None:
    bodies = [b"\r\n--f00dbee\r\n--\r\n-", b"\r\n\r\n--f00dbeeX", b"\r", b"\n--f00dbeef"]
    assert received(written_of(bodies), size) == bodies


def test_headers_preamble_padding_and_epilogue() -> None:
    message = (
        b"ignored\r\n--f00dbeef \t\r\nContent-TYPE: a/b; c=d\r\nX: 1\r\n\r\nbody\r\n--f00dbeef--\r\nignored"
    )
    parts = [(part.headers, b"".join(part.body)) for part in read_parts([message], BOUNDARY)]
    assert parts == [({"content-type": "a/b; c=d", "x": "1"}, b"body")]


def test_a_body_left_unread_is_skipped() -> None:
    written = written_of([b"one", b"two"])
    assert len(list(read_parts([written], BOUNDARY))) == 2


def test_every_cut_is_noticed() -> None:
    written = written_of([b"one", b"two"])
    for end in range(len(written) - 2):
        if written[:end].endswith(b"--f00dbeef--"):
            continue
        with pytest.raises(MultipartError, match="ends before"):
            received(written[:end])


@pytest.mark.parametrize(
    "message",
    [
        b"--f00dbeef\r\nno colon\r\n\r\nx\r\n--f00dbeef--",
        b"--f00dbeefx\r\n\r\nx\r\n--f00dbeef--",
        b"--f00dbeef\r\nA: " + b"x" * (MAX_HEADER_BYTES + 1) + b"\r\n\r\nx\r\n--f00dbeef--",
        b"--f00dbeef\r\n" + b"A: x\r\n" * MAX_HEADER_BYTES + b"\r\nx\r\n--f00dbeef--",
        b"nothing at all",
    ],
)
def test_what_is_not_a_multipart(message: bytes) -> None:
    with pytest.raises(MultipartError):
        received(message, 100)


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        ('multipart/related; type="application/dicom"; boundary=abc; transfer-syntax=1.2', "abc"),
        ('multipart/related;boundary="a b";type=x', "a b"),
        ("Multipart/Related; BOUNDARY = abc", "abc"),
        ("multipart/related; boundary=" + "a" * 73, "a" * 73),  # Orthanc's are longer than RFC 2046 allows
        (r'multipart/related; type="a;boundary=x\"y"; boundary="a,b"', "a,b"),
    ],
)
def test_boundary(content_type: str, boundary: str) -> None:
    assert boundary_of(content_type) == boundary


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/related",
        "application/dicom; boundary=a",
        "multipart/related; boundary=**",
        "multipart/related; boundary=",
        "multipart/related; boundary=" + "a" * 256,
    ],
)
def test_no_legal_boundary(content_type: str) -> None:
    with pytest.raises(MultipartError):
        boundary_of(content_type)


def test_nothing_is_read_after_the_closing_delimiter() -> None:
    reader = MultipartReader(BOUNDARY)
    assert list(reader.feed(b"--f00dbeef--\r\n" + bytes(1_000_000))) == []
    assert reader.closed
    assert list(reader.feed(b"--f00dbeef\r\n\r\nx\r\n--f00dbeef--")) == []
    reader.finish()


def test_what_stands_before_the_first_delimiter_is_bounded() -> None:
    reader = MultipartReader(BOUNDARY)
    with pytest.raises(MultipartError, match="no delimiter"):
        for _ in range(MAX_HEADER_BYTES):
            list(reader.feed(b"xx"))


@pytest.mark.parametrize(
    ("content_type", "parameters"),
    [
        ("multipart/related", {}),
        ("Multipart/Related;", {}),
        ('multipart/related; Type="Application/DICOM";a=b', {"type": "Application/DICOM", "a": "b"}),
        ('multipart/related; a="x\\"y;z=1"', {"a": 'x"y;z=1'}),
        ("multipart/related; a=1; a=2", {"a": "1"}),
        ('multipart/related; a="never ends', {}),
    ],
)
def test_media_type(content_type: str, parameters: dict[str, str]) -> None:
    assert media_type_of(content_type) == ("multipart/related", parameters)
