"""One exam, end to end, on the ANS's own message: PACS, RIS, DMP, partner (issue 2, "Holds when")."""

from __future__ import annotations

import email
import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pydicom
import pytest
import requests

from drimbox.simulators.multipart_reader import boundary_of, read_parts
from fixtures.images import SeriesSpec, StudySpec

STUDY = "1.2.250.1.213.4.5.2.1.111"
SPEC = StudySpec(
    study_instance_uid=STUDY,
    accession="ACN111",
    patient_id="IPP101",
    description="Examen J",
    series=(SeriesSpec("CT", 4, "Serie J1"), SeriesSpec("CT", 2, "Série J2")),
    series_uid_pattern="1.2.250.1.213.4.5.2.2.111.20{series}",
    sop_uid_pattern="1.2.250.1.213.4.5.2.3.111.20{series}.3{instance}",
)


MR_SPEC = StudySpec(patient_id="IPP101")


def filled(path: Path, control_id: str) -> bytes:
    """The official message with its placeholders filled as the test tool fills them."""
    text = path.read_bytes()
    for name, value in {
        "applicationSupplier": "RIS", "facilitySupplier": "CIM", "applicationReceiver": "DRIMBOX",
        "facilityReceiver": "CIM", "idMessage": control_id,
    }.items():  # fmt: skip
        text = text.replace(b"{{%s}}" % name.encode(), value.encode())
    assert b"{{" not in text
    return text


def data_set(part10: bytes) -> bytes:
    """The bytes after the file meta information: what travelled over C-STORE."""
    return part10[144 + int.from_bytes(part10[140:144], "little") :]


def parts_of(headers: dict[str, str], body: bytes) -> list[bytes]:
    return [part.content for part in read_parts(iter([body]), boundary_of(headers["content-type"]))]


@pytest.fixture(scope="module")
def story(appliance: Any, official: Path) -> Iterator[dict[str, Any]]:
    files = appliance.make_exam(SPEC)
    appliance.push(files)
    ack = appliance.send(filled(official / "hl7/CR_J-ORU.hl7", "J-0001"))
    appliance.published(STUDY)
    exam = appliance.until(STUDY, lambda exam: exam["reason"] is None)
    yield {"files": files, "ack": ack, "exam": exam}


def test_the_report_is_acknowledged(story: dict[str, Any]) -> None:
    segments = story["ack"].split(b"\r")
    assert segments[0].split(b"|")[8] == b"ACK^R01^ACK"
    assert segments[1] == b"MSA|AA|J-0001"


def test_exams_show_says_published(appliance: Any, story: dict[str, Any]) -> None:
    exam = appliance.stage.ask("exams", "show", STUDY)
    assert exam == story["exam"]
    assert exam["state"] == "SETTLED"
    assert exam["reason"] is None
    assert (exam["instances"], exam["series"]) == (6, 2)
    assert exam["patient"] == {
        "ins": "279035121518989",
        "oid": "1.2.250.1.213.1.4.10",
        "name": "PAT-TROIS DOMINIQUE",
    }
    (report,) = exam["reports"]
    assert report["confidentiality"] == ["N", "INVISIBLE_PATIENT", "INVISIBLE_REPRESENTANTS_LEGAUX"]
    assert [step["status"] for step in exam["history"]] == ["published"]


def test_the_dmp_holds_one_manifest_with_our_bytes(
    appliance: Any, story: dict[str, Any], tmp_path: Path
) -> None:
    (document,) = appliance.documents(STUDY)
    assert document["status"] == "Approved"
    assert document["unique_id"] == story["exam"]["manifest"]["sop_instance_uid"]
    assert document["entry_uuid"] == story["exam"]["manifest"]["entry_uuid"]
    assert document["patient_id"] == "279035121518989^^^&1.2.250.1.213.1.4.10&ISO^NH"
    done = appliance.stage.ask("archive", "export", str(tmp_path))
    (ours,) = [Path(f).read_bytes() for f in done["files"] if f.endswith(".DCM")]
    assert (document["sha1"].lower(), document["size"]) == (hashlib.sha1(ours).hexdigest(), len(ours))
    assert appliance.content(document["unique_id"]) == ours


def test_the_manifest_is_this_exam(appliance: Any, story: dict[str, Any]) -> None:
    kos = pydicom.dcmread(io.BytesIO(appliance.content(story["exam"]["manifest"]["sop_instance_uid"])))
    (request,) = kos.ReferencedRequestSequence
    assert (request.AccessionNumber, request.PlacerOrderNumberImagingServiceRequest) == ("ACN111", "OPN111")
    (evidence,) = kos.CurrentRequestedProcedureEvidenceSequence
    base = appliance.world["appliance"]["public"]
    for series in evidence.ReferencedSeriesSequence:
        assert series.RetrieveURL == f"{base}/studies/{STUDY}/series/{series.SeriesInstanceUID}"
    sent = {str(pydicom.dcmread(f, stop_before_pixels=True).SOPInstanceUID) for f in story["files"]}
    listed = {
        str(i.ReferencedSOPInstanceUID)
        for s in evidence.ReferencedSeriesSequence
        for i in s.ReferencedSOPSequence
    }
    assert listed == sent


def test_the_trace_tells_the_story(appliance: Any, story: dict[str, Any]) -> None:
    events = [event["event"] for event in appliance.trace(STUDY)]
    for expected in (
        "INSTANCE_STORED",
        "REPORT_RECEIVED",
        "STUDY_QUIET",
        "PREPARED",
        "CLAIMED",
        "REGISTERED",
        "IDENTIFIED",
    ):
        assert expected in events
    assert events.index("PREPARED") < events.index("CLAIMED") < events.index("REGISTERED")


def test_a_partner_gets_the_very_bytes(appliance: Any, story: dict[str, Any]) -> None:
    series = SPEC.series_uid_pattern.format(study=STUDY, series=1)
    status, headers, body = appliance.curl(
        f"/studies/{STUDY}/series/{series}",
        f"Authorization: Bearer {appliance.token()}",
        f"KOS-SOPInstanceUID: {story['exam']['manifest']['sop_instance_uid']}",
    )
    assert status == 200
    assert headers["content-type"].startswith("multipart/related")
    assert int(headers["content-length"]) == len(body)
    received = parts_of(headers, body)
    sent = [f.read_bytes() for f in story["files"]]
    mine = [
        s
        for s in sent
        if str(pydicom.dcmread(io.BytesIO(s), stop_before_pixels=True).SeriesInstanceUID) == series
    ]
    assert len(received) == len(mine) == 4
    assert sorted(map(data_set, received)) == sorted(map(data_set, mine))


@pytest.mark.parametrize(
    ("headers", "status", "slug"),
    [
        ([], 401, "token-missing"),
        (["Authorization: Bearer nonsense", "KOS-SOPInstanceUID: {kos}"], 401, "token-inactive"),
        (["Authorization: Bearer {token}"], 400, "kos-header"),
        (["Authorization: Bearer {token}", "KOS-SOPInstanceUID: 1.2.03"], 400, "kos-header"),
        (["Authorization: Bearer {token}", "KOS-SOPInstanceUID: 1.2.3.4"], 404, "kos-unknown"),
        (
            ["Authorization: Bearer {token}", "KOS-SOPInstanceUID: {kos}", "Accept: image/jpeg"],
            406,
            "not-acceptable",
        ),
    ],
)
def test_the_refusals_of_the_public_door(
    appliance: Any, story: dict[str, Any], headers: list[str], status: int, slug: str
) -> None:
    values = {"token": appliance.token(), "kos": story["exam"]["manifest"]["sop_instance_uid"]}
    answer = appliance.curl(f"/studies/{STUDY}", *(h.format(**values) for h in headers))
    assert answer[0] == status
    assert answer[1]["content-type"] == "application/problem+json"
    problem = json.loads(answer[2])
    assert (problem["type"], problem["status"]) == (slug, status)
    if status == 401:
        assert answer[1]["www-authenticate"].startswith("Bearer")


def test_pro_sante_connect_down_is_no_401(appliance: Any, story: dict[str, Any]) -> None:
    appliance.arm("psc", "http_503", 1)
    status, headers, body = appliance.curl(
        f"/studies/{STUDY}",
        f"Authorization: Bearer {appliance.token()}",
        f"KOS-SOPInstanceUID: {story['exam']['manifest']['sop_instance_uid']}",
    )
    assert (status, json.loads(body)["type"]) == (503, "psc-unavailable")
    assert "retry-after" in headers


def test_the_mtom_message_is_what_the_dmp_received(appliance: Any, story: dict[str, Any]) -> None:
    """The raw body: CRLF MIME, XOP, both documents binary, our KOS byte for byte."""
    requests_seen = appliance.stage.control("/control/dmp/requests")
    published = [r for r in requests_seen if r["transaction"] == "TD2.1a"]
    assert len(published) == 1
    raw = requests.get(
        f"{appliance.world['control']}/control/dmp/requests",
        params={"content": published[0]["message_id"]},
        timeout=10,
    )
    message = email.message_from_bytes(
        b"Content-Type: " + raw.headers["Content-Type"].encode() + b"\r\n\r\n" + raw.content
    )
    root, *documents = message.get_payload()
    assert root.get_content_type() == "application/xop+xml"
    assert [d["Content-Transfer-Encoding"] for d in documents] == ["binary", "binary"]
    kos = appliance.content(story["exam"]["manifest"]["sop_instance_uid"])
    assert kos in raw.content


def test_one_report_of_two_exams_gives_two_manifests(appliance: Any, official: Path) -> None:
    """CR_F: two studies, two accession numbers, modality RM (drim-m-data 12, P5)."""
    studies = {"1.2.250.1.213.4.5.2.1.106": "ACN106", "1.2.250.1.213.4.5.2.1.107": "ACN107"}
    answer = appliance.post((official / "cda/CR_F.xml").read_bytes())
    assert answer.status_code == 201, answer.text
    assert sorted(answer.json()["studies"]) == sorted(studies)
    for study, accession in studies.items():
        spec = replace(MR_SPEC, study_instance_uid=study, accession=accession, series=(SeriesSpec("MR", 2),))
        appliance.push(appliance.make_exam(spec))
    for study, accession in studies.items():
        exam = appliance.published(study)
        kos = pydicom.dcmread(io.BytesIO(appliance.content(exam["manifest"]["sop_instance_uid"])))
        assert [request.AccessionNumber for request in kos.ReferencedRequestSequence] == [accession]
        (document,) = appliance.documents(study)
        assert any(code.startswith("MR^") or code == "MR" for code in document["event_codes"])


def test_the_same_again_changes_nothing(appliance: Any, story: dict[str, Any], official: Path) -> None:
    before = appliance.exam(STUDY)
    appliance.push(story["files"])
    ack = appliance.send(filled(official / "hl7/CR_J-ORU.hl7", "J-0001"))
    assert b"MSA|AA|J-0001" in ack
    after = appliance.exam(STUDY)
    assert after["manifest"] == before["manifest"]
    assert len(appliance.documents(STUDY)) == 1
    events = [event["event"] for event in appliance.trace(STUDY)]
    assert events.count("INSTANCE_REPEATED") == 6
    assert events.count("REPORT_REPEATED") == 1
