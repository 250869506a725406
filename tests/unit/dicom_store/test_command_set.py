"""command_set: beside pynetdicom's and pydicom's encoding, and what is no command set."""

from __future__ import annotations

import struct
from io import BytesIO
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.datadict import dictionary_keyword, dictionary_VR
from pynetdicom import dimse_messages
from pynetdicom.dimse_primitives import C_STORE, N_ACTION
from pynetdicom.dsutils import decode as decode_dataset
from pynetdicom.dsutils import encode as encode_dataset

from dicom_store import command_set
from dicom_store.command_set import ELEMENTS, CommandField, CommandSetInvalid

ECHO = {"CommandField": 0x30, "MessageID": 7, "CommandDataSetType": 0x0101}


def element(tag: int, value: bytes, group: int = 0) -> bytes:
    return struct.pack("<HHL", group, tag, len(value)) + value


def test_the_table_is_that_of_the_dictionary() -> None:
    for tag, (keyword, vr) in ELEMENTS.items():
        assert dictionary_VR(tag) == vr
        assert dictionary_keyword(tag).replace("SubOperations", "Suboperations") == keyword


def test_requests_of_pynetdicom_are_read() -> None:
    store = C_STORE()
    store.MessageID, store.Priority = 65535, 2
    store.AffectedSOPClassUID, store.AffectedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.7", "1.2.3"
    action = N_ACTION()
    action.MessageID, action.ActionTypeID = 3, 1
    action.RequestedSOPClassUID, action.RequestedSOPInstanceUID = (
        "1.2.840.10008.1.20.1",
        "1.2.840.10008.1.20.1.1",
    )
    for primitive, message in ((store, dimse_messages.C_STORE_RQ()), (action, dimse_messages.N_ACTION_RQ())):
        message.primitive_to_message(primitive)
        encoded = encode_dataset(message.command_set, True, True)
        assert encoded is not None
        found = command_set.decode(encoded)
        expected = {one.keyword: one.value for one in message.command_set}
        assert {name: expected[name] for name in found} == found
        assert set(expected) - set(found) == set()


def test_responses_are_read_by_pynetdicom() -> None:
    request = {
        **ECHO,
        "CommandField": 1,
        "AffectedSOPClassUID": "1.2.3",
        "AffectedSOPInstanceUID": "1.2.3.44",
    }
    encoded = command_set.encode(command_set.response(request, 0xA900, "é" + "x" * 99))
    read = decode_dataset(BytesIO(encoded), True, True)
    assert read.CommandGroupLength == len(encoded) - 12
    assert (read.CommandField, read.MessageIDBeingRespondedTo, read.Status) == (0x8001, 7, 0xA900)
    assert (read.AffectedSOPClassUID, read.AffectedSOPInstanceUID) == ("1.2.3", "1.2.3.44")
    assert read.ErrorComment == "?" + "x" * 63
    assert not command_set.has_data_set({"CommandDataSetType": read.CommandDataSetType})
    assert [one.tag for one in read] == sorted(one.tag for one in read)


_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "US": st.integers(0, 65535),
    "UL": st.integers(0, 2**32 - 1),
    "UI": st.from_regex(r"[0-9.]{1,64}", fullmatch=True),
    "LO": st.from_regex(r"[A-Za-z0-9]{1,64}", fullmatch=True),
    "AE": st.from_regex(r"[A-Z0-9]{1,16}", fullmatch=True),
    "AT": st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=5),
}


_FRAME: dict[str, st.SearchStrategy[Any]] = {
    "CommandField": st.sampled_from(list(CommandField)).map(int),
    **dict.fromkeys(("CommandDataSetType", "MessageID", "MessageIDBeingRespondedTo"), _VALUES["US"]),
}
_OTHERS = {
    keyword: _VALUES[vr]
    for keyword, vr in ELEMENTS.values()
    if keyword not in _FRAME and keyword != "CommandGroupLength"
}


@given(st.fixed_dictionaries(_FRAME, optional=_OTHERS))
def test_written_and_read_again(elements: dict[str, Any]) -> None:
    encoded = command_set.encode(elements)
    found = command_set.decode(encoded)
    assert found.pop("CommandGroupLength") == len(encoded) - 12
    assert found == elements


@given(st.binary(max_size=120))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        assert "CommandField" in command_set.decode(data)
    except CommandSetInvalid as refusal:
        assert str(refusal)


GOOD = command_set.encode(ECHO)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (GOOD[:-1], "longer than its command set"),
        (GOOD[:-9], "cut"),
        (GOOD + element(0x10, b"x", group=8), "another group"),
        (GOOD + element(0x0110, b"\1\0"), "MessageID twice"),
        (element(0x0100, b"\1\0\0\0") + GOOD, "CommandField has not the length"),
        (element(0x0901, b"\1\0\0") + GOOD, "OffendingElement has not the length"),
        (element(0x0100, b"") + element(0x0110, b"\1\0") + element(0x0800, b"\1\1"), "CommandField or"),
        (element(0x0100, b"\1\0") + element(0x0110, b"\1\0"), "or CommandDataSetType"),
        (element(0x0100, b"\1\0") + element(0x0800, b"\1\1"), "message ID"),
        (element(0x0100, b"\1\x80") + element(0x0110, b"\1\0") + element(0x0800, b"\1\1"), "message ID"),
        (element(0x0100, b"\xff\x0f") + element(0x0110, b"\1\0") + element(0x0800, b"\1\1"), "message ID"),
        (struct.pack("<HHL", 0, 0x0100, 0xFFFFFFFF), "longer than"),
        (b"", "missing"),
    ],
)
def test_what_is_no_command_set(data: bytes, said: str) -> None:
    with pytest.raises(CommandSetInvalid, match=said):
        command_set.decode(data)


def test_unknown_and_retired_elements_are_skipped() -> None:
    assert command_set.decode(GOOD + element(0x0010, b"ACR-NEMA")) == command_set.decode(GOOD)
