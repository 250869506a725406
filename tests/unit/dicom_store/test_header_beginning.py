"""header.read_beginning: what the first bytes of a data set say, and when they say enough."""

from __future__ import annotations

import zlib
from typing import Any

import pytest

from dicom_store.header import HeaderRefused, read_beginning, read_header
from dicom_store.scanner import PREFIX_BYTES
from dicom_store.status import Outcome

EXPLICIT, IMPLICIT, DEFLATED = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.1.99"
CT = "1.2.840.10008.5.1.4.1.1.2"
SOP = "1.2.3.4.5.1"
MORE = [
    (0x00100020, b"LO", b"IPP101"),
    (0x0020000D, b"UI", b"1.2.3.4\0"),
    (0x0020000E, b"UI", b"1.2.3.4.5\0"),
    (0x00280010, b"US", b"\x02\0"),
    (0x00280100, b"US", b"\x10\0"),
    (0x00400244, b"DA", b"20260102"),
    (0x00540081, b"US", b"\1\0"),
    (0x7FE00010, b"OW", bytes(64)),
]
ELEMENTS = [(0x00080016, b"UI", CT.encode() + b"\0"), (0x00080018, b"UI", SOP.encode() + b"\0"), *MORE]


def element(tag: int, vr: bytes, value: bytes) -> bytes:
    head = (tag >> 16).to_bytes(2, "little") + (tag & 0xFFFF).to_bytes(2, "little")
    if vr in (b"OW", b"OB", b"UN"):
        return head + vr + b"\0\0" + len(value).to_bytes(4, "little") + value
    return head + vr + len(value).to_bytes(2, "little") + value


def implicit(tag: int, _vr: bytes, value: bytes) -> bytes:
    head = (tag >> 16).to_bytes(2, "little") + (tag & 0xFFFF).to_bytes(2, "little")
    return head + len(value).to_bytes(4, "little") + value


def encoded(elements: list[tuple[int, bytes, bytes]] = ELEMENTS, syntax: str = EXPLICIT) -> bytes:
    write = implicit if syntax == IMPLICIT else element
    data = b"".join(write(*one) for one in elements)
    if syntax == DEFLATED:
        deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        return deflater.compress(data) + deflater.flush()
    return data


def beginning(data: bytes, syntax: str = EXPLICIT, sop: str = SOP) -> Any:
    return read_beginning(data, syntax, CT, sop)


def with_blob(before: int, size: int) -> bytes:
    """A private value of `size` bytes before a tag."""
    elements = sorted([*ELEMENTS, (before - 1, b"UN", bytes(size))])
    return encoded(elements)


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, DEFLATED])
def test_every_beginning_says_what_the_whole_says_or_nothing(syntax: str) -> None:
    data = encoded(syntax=syntax)
    whole = read_header(data, syntax, CT, SOP)
    told = [beginning(data[:length], syntax) for length in range(len(data) + 1)]
    first = next(length for length, one in enumerate(told) if one is not None)
    assert told[:first] == [None] * first
    assert told[first:] == [(whole, True)] * (len(told) - first)
    assert whole.PerformedProcedureStepStartDate == "20260102"


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
def test_what_the_scanner_refuses_is_known_when_the_pixels_come(syntax: str) -> None:
    """Elements out of order: pydicom reads them, up to the pixel data."""
    elements = [ELEMENTS[2], *ELEMENTS[:2], *ELEMENTS[3:]]
    data = encoded(elements, syntax)
    whole = read_header(data, syntax, CT, SOP)
    told = [beginning(data[:length], syntax) for length in range(len(data) + 1)]
    pixels = len(encoded(elements[:-1], syntax))
    assert all(one is None for one in told[:pixels])
    assert told[-1] == (whole, True)
    assert {one for one in told if one is not None} == {(whole, True)}


def test_a_fault_is_told_as_soon_as_it_is_sure() -> None:
    with pytest.raises(HeaderRefused) as refused:
        beginning(encoded()[:-10], sop="1.2.9")
    assert refused.value.outcome is Outcome.UID_MISMATCH
    with pytest.raises(HeaderRefused):
        beginning(b"\xff" * 100, DEFLATED)


def test_what_identifies_comes_within_sixteen_mebibytes() -> None:
    late = with_blob(0x0020000D, PREFIX_BYTES)
    assert beginning(late[: PREFIX_BYTES - 1]) is None
    with pytest.raises(HeaderRefused, match="16 MiB") as refused:
        beginning(late[:PREFIX_BYTES])
    assert refused.value.outcome is Outcome.NOT_UNDERSTOOD


@pytest.mark.parametrize("before", [0x00280010, 0x00400244])
def test_an_instance_that_is_identified_is_taken_for_what_is_known(before: int) -> None:
    data = with_blob(before, PREFIX_BYTES)
    assert beginning(data[: PREFIX_BYTES - 1]) is None
    header, final = beginning(data[:PREFIX_BYTES])
    whole = read_header(data, EXPLICIT, CT, SOP)
    assert not final
    assert (header.StudyInstanceUID, header.PerformedProcedureStepStartDate) == ("1.2.3.4", "")
    assert whole.PerformedProcedureStepStartDate == "20260102"


def test_rubbish_is_refused_when_enough_of_it_came() -> None:
    with pytest.raises(HeaderRefused):
        beginning(b"\xff\xfe" * (PREFIX_BYTES // 2))
