"""store_response: outcomes of instances → status and DICOM JSON (PS3.18 10.5.3)."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydicom import Dataset

from dicom_store.status import HttpRefusal, Outcome
from dicom_store.store_response import InstanceResult, require_acceptable, store_response

CT = "1.2.840.10008.5.1.4.1.1.2"
BASE = "https://box/dicomweb"
O = Outcome  # noqa: E741 a table reads better


def result(outcome: Outcome, number: int = 1, study: str = "1.2") -> InstanceResult:
    return InstanceResult(outcome, CT, f"1.2.3.{number}", study, "1.2.3")


def answered(*results: InstanceResult) -> tuple[int, Any]:
    transfer = store_response(results, BASE, "application/dicom+json")
    (document,) = transfer.body.pieces()
    assert isinstance(document, bytes)
    assert transfer.headers["Content-Length"] == str(len(document)) == str(transfer.body.length)
    return transfer.status, json.loads(document)


@pytest.mark.parametrize(
    ("outcomes", "status"),
    [
        ([O.STORED], 200),
        ([O.STORED, O.DUPLICATE], 200),
        ([O.STORED, O.NOT_UNDERSTOOD], 202),
        ([O.DUPLICATE, O.OUT_OF_RESOURCES], 202),
        ([O.DUPLICATE, O.STORAGE_FULL], 202),
        ([O.NOT_UNDERSTOOD, O.STORAGE_FULL], 507),
        ([O.NOT_UNDERSTOOD, O.UID_MISSING], 400),
        ([O.DIFFERENT_BYTES, O.UID_MISMATCH], 409),
        ([O.DIFFERENT_BYTES, O.NOT_UNDERSTOOD], 409),
        ([O.FAILED], 500),
        ([O.NOT_UNDERSTOOD, O.OUT_OF_RESOURCES], 503),
    ],
)
def test_status(outcomes: list[Outcome], status: int) -> None:
    assert answered(*map(result, outcomes))[0] == status


def test_retry_after_what_may_pass() -> None:
    transfer = store_response([result(O.OUT_OF_RESOURCES)], BASE, "application/dicom+json")
    assert transfer.headers["Retry-After"] == "5"


def test_pydicom_reads_the_document() -> None:
    _, document = answered(result(O.STORED), result(O.DIFFERENT_BYTES, 2), InstanceResult(O.NOT_UNDERSTOOD))
    read = Dataset.from_json(document)
    assert read.RetrieveURL == f"{BASE}/studies/1.2"
    (stored,) = read.ReferencedSOPSequence
    assert (stored.ReferencedSOPClassUID, stored.ReferencedSOPInstanceUID) == (CT, "1.2.3.1")
    assert stored.RetrieveURL == f"{BASE}/studies/1.2/series/1.2.3/instances/1.2.3.1"
    other, unknown = read.FailedSOPSequence
    assert (other.ReferencedSOPInstanceUID, other.FailureReason) == ("1.2.3.2", 0x0111)
    assert (unknown.ReferencedSOPInstanceUID or "", unknown.FailureReason) == ("", 0xC000)


def test_only_sequences_with_items() -> None:
    assert set(answered(result(O.STORED))[1]) == {"00081190", "00081199"}
    assert answered(result(O.FAILED))[1]["00081190"] == {"vr": "UR"}
    assert set(answered(result(O.FAILED))[1]) == {"00081190", "00081198"}


def test_instances_of_two_studies_have_no_common_address() -> None:
    assert answered(result(O.STORED), result(O.STORED, 2, "1.9"))[1]["00081190"] == {"vr": "UR"}


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ([], "application/dicom+json"),
        ([""], "application/dicom+json"),
        (["text/html, */*;q=0.1"], "application/dicom+json"),
        (["application/*"], "application/dicom+json"),
        (["Application/DICOM+JSON ; q=0.3"], "application/dicom+json"),
        (["application/json", "text/plain"], "application/json"),
        (["application/json, application/dicom+json"], "application/dicom+json"),
    ],
)
def test_accepted(accept: list[str], content_type: str) -> None:
    assert require_acceptable(accept) == content_type


@pytest.mark.parametrize(
    "accept", ["application/dicom+xml", "*/*;q=0", "application/json; Q=0.000", "text/*"]
)
def test_not_acceptable(accept: str) -> None:
    with pytest.raises(HttpRefusal) as refused:
        require_acceptable([accept])
    assert (refused.value.status, refused.value.slug) == (406, "not-acceptable")
