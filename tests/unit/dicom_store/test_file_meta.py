"""file_meta: files of every writer, and those that are none."""

from __future__ import annotations

import struct
from io import BytesIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread

from dicom_store.file_meta import META_BYTES, FileMeta, read_file_meta
from dicom_store.instance import InstanceHeader
from dicom_store.part10 import file_start
from dicom_store.status import Outcome, StoreRefused

HEADER = InstanceHeader("1.2.840.10008.5.1.4.1.1.2", "1.2.3.4.5.6", "1.2.3", "1.2.4", "1.2.840.10008.1.2.1")
DATA = b"\x08\x00\x16\x00UI\x02\x001\0"
FILE = file_start(HEADER, "PACS") + DATA
UIDS = ("1.2.840.10008.5.1.4.1.1.2", "1.2.3.4.5.6", "1.2.840.10008.1.2.1")


def element(number: int, vr: bytes, value: bytes) -> bytes:
    if vr == b"OB":
        return struct.pack("<HH2sHI", 2, number, vr, 0, len(value)) + value
    return struct.pack("<HH2sH", 2, number, vr, len(value)) + value


def made(*elements: bytes, preamble: bytes = bytes(128) + b"DICM") -> bytes:
    return preamble + b"".join(elements)


CLASS, INSTANCE, SYNTAX = (
    element(0x02, b"UI", b"1.2.840.10008.5.1.4.1.1.2\0"),
    element(0x03, b"UI", b"1.2.3.4.5.6\0"),
    element(0x10, b"UI", b"1.2.840.10008.1.2.1\0"),
)


def test_what_we_write_is_read_back() -> None:
    assert read_file_meta(FILE) == FileMeta(*UIDS, len(FILE) - len(DATA))
    assert str(dcmread(BytesIO(FILE)).file_meta.TransferSyntaxUID) == UIDS[2]


@pytest.mark.parametrize(
    "meta",
    [
        made(CLASS, INSTANCE, SYNTAX),  # no group length
        made(element(0, b"UL", struct.pack("<I", 9999)), CLASS, INSTANCE, SYNTAX),  # a wrong one
        made(element(0, b"UL", struct.pack("<I", 3)), CLASS, INSTANCE, SYNTAX),
        made(SYNTAX, INSTANCE, CLASS),
        made(element(1, b"OB", b"\0\1"), CLASS, INSTANCE, SYNTAX, element(0x102, b"OB", bytes(60_000))),
        made(CLASS, INSTANCE, SYNTAX, preamble=b""),  # as dicomweb-client sends data sets made in memory
        made(CLASS, INSTANCE, SYNTAX, preamble=b"\x02\x00" * 64 + b"DICM"),
    ],
)
def test_files_of_other_writers(meta: bytes) -> None:
    assert read_file_meta(memoryview(meta + DATA)) == FileMeta(*UIDS, len(meta))


def test_the_group_length_ends_the_meta_before_deflated_bytes() -> None:
    """They may begin like an element of group 2."""
    elements = CLASS + INSTANCE + SYNTAX
    meta = made(element(0, b"UL", struct.pack("<I", len(elements))), elements)
    assert read_file_meta(meta + b"\x02\x00\xff\xff deflated").length == len(meta)


@pytest.mark.parametrize(
    ("file", "outcome", "reason"),
    [
        (b"", Outcome.NOT_UNDERSTOOD, "DICM"),
        (bytes(200), Outcome.NOT_UNDERSTOOD, "DICM"),
        (FILE[:150], Outcome.NOT_UNDERSTOOD, "file meta"),
        (made(element(0x102, b"OB", bytes(META_BYTES)), CLASS), Outcome.NOT_UNDERSTOOD, "file meta"),
        (made(CLASS, b"\x02\x00\x03\x00??\x04\x001.2\0"), Outcome.NOT_UNDERSTOOD, "file meta"),
        (made() + DATA, Outcome.UID_MISSING, "MediaStorageSOPClassUID.*InstanceUID.*TransferSyntaxUID"),
        (made(CLASS, SYNTAX), Outcome.UID_MISSING, "^uid-missing: MediaStorageSOPInstanceUID is missing$"),
        (
            made(CLASS, element(0x03, b"UI", b"1..2"), SYNTAX),
            Outcome.UID_INVALID,
            "MediaStorageSOPInstanceUID",
        ),
        (made(CLASS, element(0x03, b"UI", b"../../etc"), SYNTAX), Outcome.UID_INVALID, "is not a UID"),
    ],
)
def test_what_is_refused(file: bytes, outcome: Outcome, reason: str) -> None:
    with pytest.raises(StoreRefused, match=reason) as refused:
        read_file_meta(file)
    assert refused.value.outcome is outcome


@settings(max_examples=200, deadline=None)
@given(
    st.binary(max_size=300) | st.builds(lambda at, more: FILE[:at] + more, st.integers(0, 400), st.binary())
)
def test_nothing_else_is_raised(file: bytes) -> None:
    try:
        assert read_file_meta(file).length <= len(file)
    except StoreRefused as refusal:
        assert refusal.outcome in {Outcome.NOT_UNDERSTOOD, Outcome.UID_MISSING, Outcome.UID_INVALID}
