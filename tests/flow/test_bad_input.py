"""Broken inputs and misconfigured peers, each through its real door: a precise refusal, nothing lost, still serving."""

from __future__ import annotations

import base64
import contextlib
import io
import socket
import sqlite3
import subprocess
import time
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE

from drimbox.simulators.still_reactor import still_reactor
from fixtures.images import SeriesSpec, StudySpec
from fixtures.reports import ActSpec, OrderSpec, ReportSpec, make_cda, make_oru

ROOT = "1.2.250.1.999.20"
CT = "1.2.840.10008.5.1.4.1.1.2"


def study_of(number: int) -> str:
    return f"{ROOT}.{number}"


def exam_spec(number: int, **changes: Any) -> StudySpec:
    spec = StudySpec(
        study_instance_uid=study_of(number),
        accession=f"ACN{number}",
        patient_id="IPP901",
        series=(SeriesSpec("CT", 2),),
    )
    return replace(spec, **changes)


def report_spec(number: int, **changes: Any) -> ReportSpec:
    spec = ReportSpec(
        document_id=f"{ROOT}.9.{number}",
        orders=(OrderSpec(accession=f"ACN{number}", placer=f"OPN{number}"),),
        acts=(ActSpec(studies=(study_of(number),)),),
    )
    return replace(spec, **changes)


def oru(spec: ReportSpec, control_id: str, cda: bytes | None = None) -> bytes:
    return make_oru(cda if cda is not None else make_cda(spec), spec, control_id=control_id)


def still_serving(appliance: Any) -> bool:
    """Both doors answer: the DICOM one by C-ECHO, the MLLP one with a refusal."""
    dicom = appliance.world["appliance"]["dicom"]
    echo = ["echoscu", "-aet", "STORESCU", "-aec", dicom["ae_title"], dicom["host"], str(dicom["port"])]
    return subprocess.run(echo).returncode == 0 and b"MSA|AE" in appliance.send(b"MSH|^~\\&|x\r")


def trace_rows(appliance: Any, event: str) -> list[str]:
    """The detail of every trace row of an event, of any study or none."""
    settings = tomllib.loads(Path(appliance.stage.config).read_text("utf-8"))
    with sqlite3.connect(settings["database"]["url"].removeprefix("sqlite:///")) as connection:
        return [
            row[0]
            for row in connection.execute("SELECT detail FROM trace WHERE event = ? ORDER BY id", (event,))
        ]


def refused_since(appliance: Any, before: int) -> int:
    """Associations refused after the first `before`: the row is written just after the peer has its refusal."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and len(trace_rows(appliance, "ASSOCIATION_REFUSED")) == before:
        time.sleep(0.05)
    return len(trace_rows(appliance, "ASSOCIATION_REFUSED")) - before


# --- the DICOM door


@pytest.mark.parametrize(
    "noise",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x00" * 64,
        b"\x01\x00\x00\x00\xff\xff",
        b"\x04\x00\x00\x00\x10\x00partial",
    ],
)
def test_not_dicom_on_the_dicom_port(appliance: Any, noise: bytes) -> None:
    """The first of an address has its row; the others of the same minute are counted."""
    dicom = appliance.world["appliance"]["dicom"]
    with socket.create_connection((dicom["host"], dicom["port"]), 10) as connection:
        connection.sendall(noise)
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(30)
        while connection.recv(4096):
            pass
    assert still_serving(appliance)
    assert refused_since(appliance, 0) >= 1


@pytest.mark.parametrize("titles", [{"called": "WRONG"}, {"calling": "STRANGER"}])
def test_a_stranger_is_refused_at_the_association(appliance: Any, titles: dict[str, str]) -> None:
    before = len(trace_rows(appliance, "ASSOCIATION_REFUSED"))
    files = appliance.make_exam(exam_spec(100))
    done = appliance.push(files, check=False, **titles)
    assert done.returncode != 0
    assert "Rejected" in done.stdout + done.stderr
    assert appliance.exam(study_of(100)) is None
    assert refused_since(appliance, before) == 1
    assert still_serving(appliance)


def send_raw(appliance: Any, dataset: pydicom.Dataset, sop_instance_uid: str) -> tuple[int, str]:
    """C-STORE of a data set as it is, with a command of our choice: status and ErrorComment."""
    dicom = appliance.world["appliance"]["dicom"]
    entity = AE("STORESCU")
    entity.add_requested_context(CT, ExplicitVRLittleEndian)
    association = entity.associate(dicom["host"], dicom["port"], ae_title=dicom["ae_title"])
    assert association.is_established
    dataset.file_meta.MediaStorageSOPInstanceUID = sop_instance_uid
    try:
        with still_reactor(association):
            status = association.send_c_store(dataset)
    finally:
        association.release()
    return int(status.Status), str(status.get("ErrorComment", ""))


@pytest.mark.parametrize(
    ("keyword", "value", "expected"),
    [
        ("StudyInstanceUID", None, 0xC001),
        ("StudyInstanceUID", "../../../etc", 0xC002),
        ("SeriesInstanceUID", "1.2.03", 0xC002),
        ("StudyInstanceUID", "1." + "2" * 70, 0xC002),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom warns of the values that we break on purpose
def test_an_instance_with_unusable_uids(
    appliance: Any, keyword: str, value: str | None, expected: int
) -> None:
    before = len(trace_rows(appliance, "INSTANCE_REFUSED"))
    (file, *_) = appliance.make_exam(exam_spec(101))
    dataset = pydicom.dcmread(file)
    if value is None:
        delattr(dataset, keyword)
    else:
        setattr(dataset, keyword, value)
    status, comment = send_raw(appliance, dataset, str(dataset.SOPInstanceUID))
    assert status == expected
    assert keyword in comment
    assert appliance.exam(study_of(101)) is None
    assert len(trace_rows(appliance, "INSTANCE_REFUSED")) == before + 1
    assert still_serving(appliance)


def test_the_same_uid_with_other_bytes_is_refused_and_the_first_kept(appliance: Any) -> None:
    files = appliance.make_exam(exam_spec(102))
    appliance.push(files)
    dataset = pydicom.dcmread(files[0])
    dataset.SeriesDescription = "changed"
    status, comment = send_raw(appliance, dataset, str(dataset.SOPInstanceUID))
    assert status == 0x0111
    assert "another" in comment
    assert appliance.exam(study_of(102))["instances"] == 2
    assert any("different-bytes" in row for row in trace_rows(appliance, "INSTANCE_REFUSED"))


# --- the report doors


def doctype(cda: bytes) -> bytes:
    declaration, _, rest = cda.partition(b"?>")
    return declaration + b'?><!DOCTYPE c [<!ENTITY x SYSTEM "file:///etc/passwd">]>' + rest


MESSAGES: dict[str, tuple[bytes, str, bytes]] = {
    "not HL7": (b"GET / HTTP/1.1", "100", b"100^"),
    "no MSH": (b"PID|||1\rPV1|1|O\r", "100", b"100^"),
    "wrong version": (oru(report_spec(200), "V1").replace(b"|2.5|", b"|2.3|", 1), "203", b"203^"),
    "not a CDA": (oru(report_spec(201), "V2", b"<html/>"), "102", b"102^"),
    "not XML": (oru(report_spec(202), "V3", b"just text"), "102", b"102^"),
    "a DTD": (oru(report_spec(203), "V4", doctype(make_cda(report_spec(203)))), "102", b"102^"),
    "no study UID": (oru(report_spec(204, acts=(ActSpec(studies=()),)), "V5"), "207/906", b"906^"),
    "no INS": (oru(report_spec(205, ins=""), "V6"), "207/903", b"903^"),
}


@pytest.mark.parametrize("case", MESSAGES)
def test_a_message_that_cannot_be_taken(appliance: Any, case: str) -> None:
    message, code, err = MESSAGES[case]
    before = trace_rows(appliance, "REPORT_REFUSED")
    ack = appliance.send(message)
    assert b"MSA|AE" in ack
    assert err in ack, ack
    rows = trace_rows(appliance, "REPORT_REFUSED")
    assert len(rows) == len(before) + 1
    assert f'"{code} ' in rows[-1]
    assert still_serving(appliance)


def test_the_bytes_of_a_refused_message_are_kept(appliance: Any) -> None:
    message = oru(report_spec(206, acts=(ActSpec(studies=()),)), "KEEP-ME")
    assert b"MSA|AE|KEEP-ME" in appliance.send(message)
    settings = tomllib.loads(Path(appliance.stage.config).read_text("utf-8"))
    kept = (Path(settings["storage"]["root"]) / "documents").rglob("*")
    assert any(path.is_file() and path.read_bytes() == message for path in kept)


@pytest.mark.parametrize(
    ("body", "slug"),
    [
        (b"", "not-xml"),
        (b"<a>", "not-xml"),
        (doctype(make_cda()), "doctype"),
        (b"<html xmlns='x'/>", "not-a-cda"),
    ],
)
def test_reports_by_http_are_refused_as_precisely(appliance: Any, body: bytes, slug: str) -> None:
    answer = appliance.post(body)
    assert answer.status_code == 422
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["detail"]
    assert still_serving(appliance)


def test_a_report_by_http_is_taken_once(appliance: Any) -> None:
    cda = make_cda(report_spec(207))
    first, again = appliance.post(cda), appliance.post(cda)
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json()["studies"] == [study_of(207)]
    other = appliance.post(cda.replace(b"DOMINIQUE MARIE-LOUISE", b"DOMINIQUE MARIE"))
    assert other.status_code == 422
    assert "another content" in other.json()["detail"]


def test_a_200_mb_cda_is_refused_at_once(appliance: Any) -> None:
    """Over the limit: 413 before it is read, the MLLP connection closed without an ACK; the door goes on."""
    big = b"<ClinicalDocument>" + b"x" * (200 * 1024 * 1024)
    internal = appliance.world["appliance"]["internal"].removeprefix("http://").split(":")
    with socket.create_connection((internal[0], int(internal[1])), 30) as connection:
        head = f"POST /reports HTTP/1.1\r\nHost: x\r\nContent-Length: {len(big)}\r\n\r\n"
        connection.sendall(head.encode() + big[:65536])
        connection.settimeout(30)
        assert b" 413 " in connection.recv(4096).split(b"\r\n")[0]
    mllp = appliance.world["appliance"]["mllp"]
    sent = 0
    with socket.create_connection((mllp["host"], mllp["port"]), 30) as connection:
        connection.sendall(b"\x0b")
        with contextlib.suppress(ConnectionError):
            for start in range(0, len(big), 1 << 20):
                connection.sendall(big[start : start + (1 << 20)])
                sent = start
    assert sent < len(big) - (100 << 20)  # cut soon after the limit of 64 MiB
    assert still_serving(appliance)


def test_base64_that_is_no_cda(appliance: Any) -> None:
    message = oru(report_spec(208), "B64", base64.b64decode(b"AAECAwQ="))
    assert b"MSA|AE|B64" in appliance.send(message)


# --- one half without the other, halves that disagree


def test_images_without_report_wait_and_say_so(appliance: Any) -> None:
    appliance.push(appliance.make_exam(exam_spec(300)))
    exam = appliance.refused_for(study_of(300), "no-report")
    assert exam["reason"] == "no report received yet"
    assert exam["manifest"]["status"] == "none"


def test_the_report_before_the_images(appliance: Any) -> None:
    spec = report_spec(301)
    assert b"MSA|AA|R301" in appliance.send(oru(spec, "R301"))
    assert appliance.refused_for(study_of(301), "no-images")["instances"] == 0
    appliance.push(appliance.make_exam(exam_spec(301)))
    assert appliance.published(study_of(301))["instances"] == 2


@pytest.mark.parametrize(
    ("number", "changes", "rule"),
    [
        (302, {"accession": "ACN-OTHER"}, "accession-mismatch"),
        (303, {"patient_id": "IPP-OTHER"}, "ipp-mismatch"),
        (304, {"patient_id": ""}, "ipp-mismatch"),
    ],
)
def test_images_of_another_patient_or_request_are_never_published(
    appliance: Any, number: int, changes: dict[str, str], rule: str
) -> None:
    appliance.push(appliance.make_exam(exam_spec(number, **changes)))
    assert b"MSA|AA" in appliance.send(oru(report_spec(number), f"R{number}"))
    exam = appliance.refused_for(study_of(number), rule)
    assert exam["manifest"]["status"] == "none"
    assert appliance.documents(study_of(number)) == []


def test_late_images_replace_the_manifest(appliance: Any) -> None:
    spec = exam_spec(305, series=(SeriesSpec("CT", 2), SeriesSpec("CT", 1)))
    first, second, late = appliance.make_exam(spec)
    appliance.push([first, second])
    appliance.send(oru(report_spec(305), "R305"))
    before = appliance.published(study_of(305))
    appliance.push([late])
    after = appliance.until(
        study_of(305),
        lambda e: (
            e["manifest"]["sop_instance_uid"] != before["manifest"]["sop_instance_uid"]
            and e["manifest"]["entry_uuid"] is not None
        ),
    )
    assert [step["status"] for step in after["history"]] == ["replaced", "published"]
    states = {d["unique_id"]: d["status"] for d in appliance.documents(study_of(305))}
    assert states == {
        before["manifest"]["sop_instance_uid"]: "Deprecated",
        after["manifest"]["sop_instance_uid"]: "Approved",
    }
    kos = pydicom.dcmread(io.BytesIO(appliance.content(after["manifest"]["sop_instance_uid"])))
    assert len(kos.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence) == 2
