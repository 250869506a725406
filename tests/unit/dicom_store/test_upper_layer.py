"""upper_layer: the state table beside pynetdicom's, PDUs beside its codec."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pynetdicom.fsm import TRANSITION_TABLE
from pynetdicom.pdu import A_ABORT_RQ, A_ASSOCIATE_RJ, A_RELEASE_RP, P_DATA_TF

from dicom_store import upper_layer
from dicom_store.upper_layer import MAXIMUM_PDU, PDU_BYTES, TABLE, Event, PduType, Reason, State

OURS = {state.value for state in State}
NEVER = {"Evt1", "Evt11"}  # we never ask for an association or a release


def test_the_table_is_that_of_the_standard() -> None:
    """Every cell of the states and events of an acceptor, beside the transcription of another hand."""
    expected = {
        cell: action for cell, action in TRANSITION_TABLE.items() if cell[1] in OURS and cell[0] not in NEVER
    }
    assert {
        (event.value, state.value): action.value for (state, event), (action, _) in TABLE.items()
    } == expected


@pytest.mark.parametrize(
    ("action", "then"),
    [("AE-5", "Sta2"), ("AE-6", "Sta3"), ("AE-7", "Sta6"), ("AE-8", "Sta13"), ("DT-2", "Sta6"), ("AR-2", "Sta8"),
     ("AR-4", "Sta13"), ("AA-1", "Sta13"), ("AA-2", "Sta1"), ("AA-3", "Sta1"), ("AA-4", "Sta1"), ("AA-5", "Sta1"),
     ("AR-5", "Sta1"), ("AA-6", "Sta13"), ("AA-7", "Sta13"), ("AA-8", "Sta13")],
)  # fmt: skip
def test_where_an_action_leads(action: str, then: str) -> None:
    assert {state.value for did, state in TABLE.values() if did.value == action} == {then}


def test_every_pdu_is_answered_in_every_state_that_reads() -> None:
    for state in (State.AWAITING_REQUEST, State.ESTABLISHED, State.AWAITING_CLOSE):
        for kind in range(256):
            for length in (0, 4, 100, MAXIMUM_PDU, MAXIMUM_PDU + 1, 2**32 - 1):
                assert (state, upper_layer.event_of(kind, length)[0]) in TABLE


@pytest.mark.parametrize(
    ("kind", "length", "event", "reason"),
    [
        (PduType.P_DATA_TF, MAXIMUM_PDU, Event.DATA_CAME, Reason.UNEXPECTED_PDU),
        (PduType.P_DATA_TF, MAXIMUM_PDU + 1, Event.INVALID_CAME, Reason.INVALID_PDU_PARAMETER),
        (PduType.P_DATA_TF, 0, Event.INVALID_CAME, Reason.INVALID_PDU_PARAMETER),
        (PduType.A_ASSOCIATE_RQ, 67, Event.INVALID_CAME, Reason.INVALID_PDU_PARAMETER),
        (PduType.A_ASSOCIATE_RQ, PDU_BYTES, Event.REQUEST_CAME, Reason.UNEXPECTED_PDU),
        (PduType.A_ASSOCIATE_RQ, PDU_BYTES + 1, Event.INVALID_CAME, Reason.INVALID_PDU_PARAMETER),
        (PduType.A_RELEASE_RQ, 5, Event.INVALID_CAME, Reason.INVALID_PDU_PARAMETER),
        (PduType.A_RELEASE_RP, 4, Event.RELEASED_CAME, Reason.UNEXPECTED_PDU),
        (8, 4, Event.INVALID_CAME, Reason.UNRECOGNIZED_PDU),
        (0, 4, Event.INVALID_CAME, Reason.UNRECOGNIZED_PDU),
    ],
)
def test_what_a_header_means(kind: int, length: int, event: Event, reason: Reason) -> None:
    found, abort = upper_layer.event_of(kind, length)
    assert (found, abort.source, abort.reason) == (event, upper_layer.SERVICE_PROVIDER, reason)


def test_last_pdus_are_those_that_pynetdicom_reads() -> None:
    abort = A_ABORT_RQ()
    abort.decode(upper_layer.abort_pdu(2, 6))
    assert (abort.source, abort.reason_diagnostic, len(abort)) == (2, 6, 10)
    assert upper_layer.abort_pdu(0, 6)[-1] == 0, "not significant for the service user"
    reject = A_ASSOCIATE_RJ()
    reject.decode(upper_layer.reject_pdu(2, 3, 1))
    assert (reject.result, reject.source, reject.reason_diagnostic, len(reject)) == (2, 3, 1, 10)
    assert upper_layer.release_pdu() == A_RELEASE_RP().encode()


@given(
    context=st.integers(0, 127).map(lambda n: 2 * n + 1),
    command=st.binary(max_size=300),
    data_set=st.none() | st.binary(max_size=2000),
    maximum=st.sampled_from([0, 128, 129, 16384, 131072, 2**32 - 1]),
)
def test_messages_are_cut_to_what_the_peer_takes(
    context: int, command: bytes, data_set: bytes | None, maximum: int
) -> None:
    encoded = upper_layer.message_pdus(context, command, data_set, maximum)
    parts: dict[bool, bytes] = {}
    ended: list[bool] = []
    while encoded:
        length = struct.unpack(">L", encoded[2:6])[0]
        assert length <= (maximum or MAXIMUM_PDU)
        read = P_DATA_TF()
        read.decode(encoded[: 6 + length])
        encoded = encoded[6 + length :]
        (value,) = read.presentation_data_value_items
        assert value.presentation_context_id == context
        control, *_ = value.presentation_data_value
        is_command = bool(control & 1)
        assert is_command not in ended
        parts[is_command] = parts.get(is_command, b"") + value.presentation_data_value[1:]
        if control & 2:
            ended.append(is_command)
    assert (parts[True], parts.get(False)) == (command, data_set)
    assert ended == ([True] if data_set is None else [True, False])


@pytest.mark.parametrize("maximum", [129, 16383, 131071])
def test_fragments_are_even_whatever_the_peer_takes(maximum: int) -> None:
    """A command set and a data set are; DCMTK ends the association at an odd fragment."""
    encoded = upper_layer.message_pdus(1, bytes(300), bytes(200_000), maximum)
    lengths = []
    while encoded:
        (length,) = struct.unpack(">L", encoded[2:6])
        lengths.append(length)
        encoded = encoded[6 + length :]
    assert all(length % 2 == 0 for length in lengths)
    assert max(lengths) in (maximum, maximum - 1)
