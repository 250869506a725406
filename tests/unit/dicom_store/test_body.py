"""Bodies in pieces, and ranges of them."""

from __future__ import annotations

import pytest

from dicom_store.body import Extent, body_of
from dicom_store.byte_range import asked_range
from dicom_store.status import HttpRefusal


class Nowhere:
    """A source that is never opened."""

    def open(self) -> int:
        raise AssertionError("pure")

    def check(self, descriptor: int, extent: Extent) -> None:
        raise AssertionError("pure")

    def close(self) -> None:
        raise AssertionError("pure")


def test_the_length_of_a_body() -> None:
    assert body_of(b"head", Extent(Nowhere(), 10, 100), b"").length == 104


def test_a_part_of_a_part_still_names_the_whole() -> None:
    part = Extent(Nowhere(), 100, 50).part(10, 30).part(5, 20)
    assert (part.offset, part.length, part.start, part.whole) == (115, 20, 100, 50)


@pytest.mark.parametrize(
    ("header", "if_range", "expected"),
    [
        (None, None, None),
        ("bytes=0-9", None, (0, 10)),
        ("bytes=90-", None, (90, 10)),
        ("bytes=90-200", None, (90, 10)),
        ("bytes=-10", None, (90, 10)),
        ("bytes=-1000", None, (0, 100)),
        ("Bytes = 0 - 0", None, (0, 1)),
        ("bytes=0-9", '"e"', (0, 10)),
        ("bytes=0-9", '"other"', None),
        ("bytes=0-9,20-29", None, None),  # several ranges: all of it (RFC 9110 14.2 allows)
        ("bytes=9-0", None, None),
        ("bytes=-", None, None),
        ("items=0-9", None, None),
        ("nonsense", None, None),
    ],
)
def test_ranges(header: str | None, if_range: str | None, expected: tuple[int, int] | None) -> None:
    found = asked_range(header, if_range, '"e"', 100)
    assert (None if found is None else (found.first, found.length)) == expected
    if found is not None:
        assert found.content_range == f"bytes {found.first}-{found.first + found.length - 1}/100"


@pytest.mark.parametrize("header", ["bytes=100-", "bytes=100-200", "bytes=-0"])
def test_a_range_beyond_the_end(header: str) -> None:
    with pytest.raises(HttpRefusal) as refusal:
        asked_range(header, None, '"e"', 100)
    assert (refusal.value.status, refusal.value.headers["Content-Range"]) == (416, "bytes */100")
