"""commitment: what is asked and answered, byte for byte, and every way in which a request may be wrong."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import pytest
from pydicom import Dataset
from pydicom.filereader import read_dataset

from dicom_store.commitment import (
    FAILURES_EXIST,
    SOP_CLASS,
    SOP_INSTANCE,
    SUCCESSFUL,
    TRANSFER_SYNTAXES,
    Asked,
    CommitmentRequest,
    CommitmentResult,
    Known,
    Reason,
    RequestRefused,
    Status,
    encode,
    judge,
    read_request,
)

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = TRANSFER_SYNTAXES[0]
COMMAND = {"RequestedSOPClassUID": SOP_CLASS, "RequestedSOPInstanceUID": SOP_INSTANCE, "ActionTypeID": 1}
ONE, TWO = Asked(CT, "1.2.3.1"), Asked(CT, "1.2.3.2")


def information(*asked: Asked, transaction: str = "1.2.3.9") -> Dataset:
    made = Dataset()
    made.TransactionUID = transaction
    items = []
    for one in asked:
        item = Dataset()
        item.ReferencedSOPClassUID = one.sop_class_uid
        item.ReferencedSOPInstanceUID = one.sop_instance_uid
        items.append(item)
    made.ReferencedSOPSequence = items
    return made


def read(data_set: bytes, syntax: str = EXPLICIT, **changes: Any) -> CommitmentRequest:
    return read_request(COMMAND | changes, data_set, syntax)


@pytest.mark.parametrize("syntax", TRANSFER_SYNTAXES)
def test_a_request_is_read_in_every_transfer_syntax(syntax: str) -> None:
    found = read(encode(information(ONE, TWO, ONE), syntax), syntax)
    assert found == CommitmentRequest("1.2.3.9", (ONE, TWO))


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"RequestedSOPClassUID": "1.2.840.10008.1.1"}, Status.NO_SUCH_CLASS),
        ({"RequestedSOPInstanceUID": "1.2.3"}, Status.NO_SUCH_INSTANCE),
        ({"ActionTypeID": 2}, Status.NO_SUCH_ACTION),
        ({"ActionTypeID": None}, Status.NO_SUCH_ACTION),
    ],
)
def test_a_command_of_something_else(changes: dict[str, Any], status: Status) -> None:
    with pytest.raises(RequestRefused) as refused:
        read(encode(information(ONE), EXPLICIT), **changes)
    assert refused.value.status == status


@pytest.mark.parametrize(
    "broken",
    [
        encode(information(), EXPLICIT),
        encode(information(ONE, transaction=""), EXPLICIT),
        encode(information(ONE), EXPLICIT).replace(b"1.2.3.9", b"1.2.x.9"),
        encode(information(Asked(CT, "")), EXPLICIT),
        encode(information(Asked("", "1.2.3.1")), EXPLICIT),
        encode(information(ONE), EXPLICIT).replace(b"1.2.3.1", b"1.2.3/1"),
        b"",
    ],
)
def test_what_asks_for_nothing_that_can_be_named(broken: bytes) -> None:
    with pytest.raises(RequestRefused) as refused:
        read(broken)
    assert refused.value.status == Status.INVALID_ARGUMENT


def test_bytes_that_are_no_data_set_at_every_cut() -> None:
    whole = encode(information(ONE, TWO), EXPLICIT)
    for cut in range(len(whole)):
        with pytest.raises(RequestRefused) as refused:
            read(whole[:cut])
        assert refused.value.status == Status.INVALID_ARGUMENT


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.1.99", "1.2.3"])
def test_a_transfer_syntax_that_is_not_offered(syntax: str) -> None:
    with pytest.raises(RequestRefused) as refused:
        read(encode(information(ONE), EXPLICIT), syntax)
    assert refused.value.status == Status.INVALID_ARGUMENT


def test_more_instances_than_one_request_may_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dicom_store.commitment.MOST_REFERENCES", 1)
    with pytest.raises(RequestRefused) as refused:
        read(encode(information(ONE, TWO), EXPLICIT))
    assert refused.value.status == Status.RESOURCE_LIMITATION


@pytest.mark.parametrize(
    ("known", "reason"),
    [
        (None, Reason.NO_SUCH_INSTANCE),
        (Known(CT, rejected=True, proven=True), Reason.NO_SUCH_INSTANCE),
        (Known("1.2.840.10008.5.1.4.1.1.4", rejected=False, proven=True), Reason.CLASS_INSTANCE_CONFLICT),
        (Known(CT, rejected=False, proven=False), Reason.PROCESSING_FAILURE),
        (Known(CT, rejected=False, proven=True), Reason.COMMITTED),
    ],
)
def test_the_reason_of_each_instance(known: Known | None, reason: Reason) -> None:
    assert judge(ONE, known) is reason


def told(result: CommitmentResult, syntax: str) -> Dataset:
    implicit, little = syntax == TRANSFER_SYNTAXES[1], syntax != TRANSFER_SYNTAXES[2]
    return read_dataset(BytesIO(encode(result.event_information("DRIMBOX"), syntax)), implicit, little)


@pytest.mark.parametrize("syntax", TRANSFER_SYNTAXES)
def test_success_names_every_instance_and_no_failure(syntax: str) -> None:
    result = CommitmentResult("1.2.3.9", ((ONE, Reason.COMMITTED), (TWO, Reason.COMMITTED)))
    found = told(result, syntax)
    assert result.event_type == SUCCESSFUL
    assert (found.TransactionUID, found.RetrieveAETitle) == ("1.2.3.9", "DRIMBOX")
    assert [one.ReferencedSOPInstanceUID for one in found.ReferencedSOPSequence] == ["1.2.3.1", "1.2.3.2"]
    assert "FailedSOPSequence" not in found


def test_failures_are_told_apart() -> None:
    result = CommitmentResult("1.2.3.9", ((ONE, Reason.COMMITTED), (TWO, Reason.NO_SUCH_INSTANCE)))
    found = told(result, EXPLICIT)
    assert result.event_type == FAILURES_EXIST
    (failed,) = found.FailedSOPSequence
    assert (failed.ReferencedSOPClassUID, failed.ReferencedSOPInstanceUID) == (CT, "1.2.3.2")
    assert failed.FailureReason == 0x0112
    assert len(found.ReferencedSOPSequence) == 1


def test_when_nothing_is_committed_no_empty_sequence_is_sent() -> None:
    found = told(CommitmentResult("1.2.3.9", ((ONE, Reason.DUPLICATE_TRANSACTION),)), EXPLICIT)
    assert "ReferencedSOPSequence" not in found
    assert found.FailedSOPSequence[0].FailureReason == 0x0131


def test_the_key_of_a_request_does_not_know_the_order() -> None:
    one, other = CommitmentRequest("1.2", (ONE, TWO)), CommitmentRequest("1.2", (TWO, ONE))
    assert one.key == other.key != CommitmentRequest("1.2", (ONE,)).key
