"""references: what pydicom writes in any form is read, anything else is refused, and little is held of either."""

from __future__ import annotations

import struct
import time
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset, Sequence

from dicom_store.commitment import (
    SOP_CLASS,
    SOP_INSTANCE,
    TRANSFER_SYNTAXES,
    RequestRefused,
    Status,
    read_request,
)
from dicom_store.commitment import encode as encode_information
from dicom_store.header import ENCODINGS
from dicom_store.references import TooMany, read_references
from dicom_store.scanner import Encoding, Unreadable

CT = "1.2.840.10008.5.1.4.1.1.2"
COMMAND = {"RequestedSOPClassUID": SOP_CLASS, "RequestedSOPInstanceUID": SOP_INSTANCE, "ActionTypeID": 1}
IMPLICIT = Encoding(implicit_vr=True)


def information(
    count: int, *, undefined_sequences: bool = False, undefined_items: bool = False, more: bool = False
) -> Dataset:
    """`count` references; `more`: beside them, elements and sequences that nobody asked for."""
    made = Dataset()
    made.TransactionUID = "1.2.3.9"
    made.ReferencedSOPSequence = Sequence([_item(f"1.2.3.{n}") for n in range(count)])
    if more:
        made.RetrieveAETitle = "PACS"
        made.ReferencedPerformedProcedureStepSequence = Sequence([_item("1.2.9")])
        made.ReferencedSOPSequence[0].PurposeOfReferenceCodeSequence = Sequence([_item("1.2.8")])
        made.add_new(0x00091001, "UN", b"private")
    for element in (one for one in made.iterall() if one.VR == "SQ"):
        element.is_undefined_length = undefined_sequences
        for item in element.value:
            item.is_undefined_length_sequence_item = undefined_items
    return made


def _item(uid: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = CT, uid
    return item


@given(
    syntax=st.sampled_from(TRANSFER_SYNTAXES),
    count=st.integers(1, 4),
    undefined_sequences=st.booleans(),
    undefined_items=st.booleans(),
    more=st.booleans(),
)
def test_every_form_that_pydicom_writes(
    syntax: str, count: int, undefined_sequences: bool, undefined_items: bool, more: bool
) -> None:
    made = information(
        count, undefined_sequences=undefined_sequences, undefined_items=undefined_items, more=more
    )
    encoding = ENCODINGS.get(syntax, Encoding())
    encoded = encode_information(made, syntax)
    assert read_references(encoded, encoding, count) == (
        "1.2.3.9",
        [(CT, f"1.2.3.{n}") for n in range(count)],
    )
    with pytest.raises(TooMany):
        read_references(encoded, encoding, count - 1)
    with pytest.raises(Unreadable):
        read_references(encoded[:-1], encoding, count)


@given(st.binary(max_size=200), st.sampled_from([IMPLICIT, Encoding(), Encoding(big_endian=True)]))
def test_any_bytes_are_read_or_refused(data: bytes, encoding: Encoding) -> None:
    try:
        transaction, asked = read_references(b"\x08\0\x99\x11" + data, encoding, 10)
    except (Unreadable, TooMany):
        return
    assert transaction.isascii() or "\ufffd" in transaction
    assert len(asked) <= 10


def _element(tag: int, value: bytes) -> bytes:
    return struct.pack("<HHL", tag >> 16, tag & 0xFFFF, len(value)) + value


@pytest.mark.parametrize("inner", [1, -1])
def test_an_element_longer_or_shorter_than_what_it_is_in(inner: int) -> None:
    uid = _element(0x00081150, b"1.2\0")
    item = struct.pack("<HHL", 0xFFFE, 0xE000, len(uid) + inner) + uid + b"\0" * max(inner, 0)
    with pytest.raises(Unreadable):
        read_references(_element(0x00081199, item), IMPLICIT, 10)


def test_what_is_no_item_is_no_reference() -> None:
    with pytest.raises(Unreadable, match="something else than an item"):
        read_references(_element(0x00081199, _element(0x00081150, b"1.2\0")), IMPLICIT, 10)


@pytest.mark.parametrize("what", ["references", "elements"])
def test_millions_of_tiny_elements_cost_neither_minutes_nor_gigabytes(what: str) -> None:
    if what == "references":
        items = b"".join(
            _element(
                0xFFFEE000, _element(0x00081150, b"1.2\0") + _element(0x00081155, b"%d.1" % (n % 10 + 10))
            )
            for n in range(200_000)
        )
        asked, status = (
            _element(0x00081195, b"1.2\0") + _element(0x00081199, items),
            Status.RESOURCE_LIMITATION,
        )
    else:
        asked, status = _element(0x00081190, b"") * 500_000, Status.INVALID_ARGUMENT
    tracemalloc.start()
    begun = time.process_time()
    with pytest.raises(RequestRefused) as refused:
        read_request(COMMAND, asked, "1.2.840.10008.1.2")
    used, (_, peak) = time.process_time() - begun, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert refused.value.status == status
    assert peak < 32_000_000
    assert used < 8, "slower than pydicom, which takes longer"
