"""Error cases E8 to E15 of the homologation (drim-m-data 12): bytes in by the real door, the answer, and the trace."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import sqlite3
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pydicom
import pytest

from fixtures.images import SeriesSpec, StudySpec
from fixtures.reports import ActSpec, OrderSpec, ReportSpec, make_cda, make_mdm, make_omi, make_oru

ROOT = "1.2.250.1.999.60"


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


def accepted(ack: bytes, control_id: str) -> None:
    assert ack.split(b"\r")[1:] == [b"MSA|AA|" + control_id.encode(), b""]


def refused(ack: bytes, control_id: str, *codes: bytes) -> None:
    """AE, and one ERR segment with these codes: table 0357 in ERR-3, 0533 in ERR-5."""
    _head, acknowledged, error, *_rest = ack.split(b"\r")
    assert acknowledged.split(b"|")[:3] == [b"MSA", b"AE", control_id.encode()]
    fields = error.split(b"|")
    assert [fields[n].split(b"^")[0] for n in (3, 5)][: len(codes)] == list(codes), error


def rows(appliance: Any, table: str) -> list[dict[str, Any]]:
    """Every row of a table of the appliance, oldest first."""
    settings = tomllib.loads(Path(appliance.stage.config).read_text("utf-8"))
    with sqlite3.connect(settings["database"]["url"].removeprefix("sqlite:///")) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute(f"SELECT * FROM {table} ORDER BY rowid")]


def refusals(appliance: Any) -> list[dict[str, Any]]:
    """The detail of the trace rows of refused messages: they may belong to no study."""
    return [json.loads(row["detail"]) for row in rows(appliance, "trace") if row["event"] == "REPORT_REFUSED"]


def events(appliance: Any, number: int, name: str) -> list[dict[str, Any]]:
    """The details of the events of that name of a study."""
    return [event["detail"] for event in appliance.trace(study_of(number)) if event["event"] == name]


def facts(appliance: Any) -> list[list[dict[str, Any]]]:
    """All that is known of exams, reports and lots, and what the DMP holds."""
    tables = [rows(appliance, table) for table in ("report", "report_study", "report_parent", "submission")]
    exams = [{k: v for k, v in row.items() if k in ("study_instance_uid", "withdrawn_by", "revision")}
             for row in rows(appliance, "exam")]  # fmt: skip
    return [*tables, exams, appliance.stage.control("/control/dmp/documents")]


# --- E8, E9: images that are missing, or of somebody else


@pytest.mark.parametrize("make", [make_oru, make_mdm])
def test_e8_a_report_without_images_is_kept_and_nothing_is_published(appliance: Any, make: Any) -> None:
    """No KOS; the message was received, so AA; the exam says what it waits for."""
    number = 80 if make is make_oru else 81
    spec = report_spec(number)
    accepted(appliance.send(make(make_cda(spec), spec, control_id=f"E8-{number}")), f"E8-{number}")
    exam = appliance.refused_for(study_of(number), "no-images")
    assert (exam["manifest"]["status"], exam["instances"], len(exam["reports"])) == ("none", 0, 1)
    assert appliance.documents(study_of(number)) == []
    assert events(appliance, number, "REPORT_RECEIVED")[0]["document"] == spec.document_id
    assert events(appliance, number, "WAITING")[-1]["rule"] == "no-images"
    appliance.push(appliance.make_exam(exam_spec(number)))
    assert appliance.published(study_of(number))["instances"] == 2


def test_e9_images_of_another_patient_are_never_published(appliance: Any) -> None:
    appliance.push(appliance.make_exam(exam_spec(90, patient_id="IPP-OTHER")))
    spec = report_spec(90)
    accepted(appliance.send(make_oru(make_cda(spec), spec, control_id="E9-90")), "E9-90")
    exam = appliance.refused_for(study_of(90), "ipp-mismatch")
    assert "PatientID" in exam["reason"]
    assert exam["manifest"]["status"] == "none"
    assert appliance.documents(study_of(90)) == []
    assert events(appliance, 90, "WAITING")[-1]["rule"] == "ipp-mismatch"


def test_e9_other_traits_with_the_same_ipp_the_identity_is_that_of_the_report(appliance: Any) -> None:
    """IMG_OK: another birth date in the images; the manifest says the CDA's identity (drim-m-data 6.1)."""
    appliance.push(appliance.make_exam(exam_spec(91, birth_date="19790329", patient_name="PAT TROIS^D")))
    spec = report_spec(91)
    accepted(appliance.send(make_oru(make_cda(spec), spec, control_id="E9-91")), "E9-91")
    published = appliance.published(study_of(91))["manifest"]["sop_instance_uid"]
    kos = pydicom.dcmread(io.BytesIO(appliance.content(published)))
    assert (kos.PatientID, kos.PatientBirthDate) == (spec.ins, spec.birth_date)
    assert str(kos.PatientName).startswith("PAT-TROIS^DOMINIQUE")


# --- E10, E11: deletions and replacements of what is not known


@pytest.mark.parametrize("make", [make_oru, make_mdm])
def test_e10_the_deletion_of_an_unknown_document_has_no_effect(appliance: Any, make: Any) -> None:
    number = 100 if make is make_oru else 101
    spec = report_spec(number)
    before, told = facts(appliance), len(refusals(appliance))
    message = make(make_cda(spec), spec, order_control="CA", control_id=f"E10-{number}")
    refused(appliance.send(message), f"E10-{number}", b"207", b"906")
    assert facts(appliance) == before
    assert appliance.exam(study_of(number)) is None
    (refusal,) = refusals(appliance)[told:]
    assert refusal["code"].startswith("207/906")
    assert "not known here" in refusal["reason"]


@pytest.mark.parametrize("make", [make_oru, make_mdm])
def test_e11_an_orphan_replacement_is_published_as_new_and_flagged(appliance: Any, make: Any) -> None:
    number = 110 if make is make_oru else 111
    spec = report_spec(number, version=2, replaces=(f"{ROOT}.9.{number}.1",))
    appliance.push(appliance.make_exam(exam_spec(number)))
    message = make(make_cda(spec), spec, order_control="RO", control_id=f"E11-{number}")
    accepted(appliance.send(message), f"E11-{number}")
    exam = appliance.published(study_of(number))
    assert [(r["version"], r["operation"]) for r in exam["reports"]] == [(2, "RO")]
    (detail,) = events(appliance, number, "REPORT_RECEIVED")
    assert (detail["row"], "orphan-replacement" in detail["warnings"]) == ("orphan-replacement", True)
    assert [document["status"] for document in appliance.documents(study_of(number))] == ["Approved"]


# --- E12, E13: several documents, one control id


def other_document(message: bytes, *, kind: bytes, place: str) -> bytes:
    """A second ED OBX that is no CDA (drim-m-data 7.3), before or after the report."""
    text = base64.b64encode(b"Compte-rendu de biologie, en texte seul")
    extra = b"OBX|90|ED|11502-2^CR d'examens biologiques^LN||^" + kind + b"^XML^Base64^" + text + b"||||||F"
    segments = message.split(b"\r")
    first = next(n for n, segment in enumerate(segments) if segment.startswith(b"OBX|1|ED|"))
    segments.insert(first if place == "before" else first + 1, extra)
    return b"\r".join(segments)


@pytest.mark.parametrize("place", ["before", "after"])
def test_e12_the_imaging_cda_is_picked_among_several_documents(appliance: Any, place: str) -> None:
    number = 120 if place == "before" else 121
    spec = report_spec(number)
    appliance.push(appliance.make_exam(exam_spec(number)))
    message = make_oru(make_cda(spec), spec, control_id=f"E12-{number}")
    accepted(appliance.send(other_document(message, kind=b"TEXT", place=place)), f"E12-{number}")
    exam = appliance.published(study_of(number))
    assert [report["id"] for report in exam["reports"]] == [spec.document_id]
    assert len(events(appliance, number, "REPORT_RECEIVED")) == 1


@pytest.mark.parametrize("make", [make_oru, make_mdm])
def test_e12_no_document_is_a_cda(appliance: Any, make: Any) -> None:
    number = 122 if make is make_oru else 123
    spec = report_spec(number)
    before, told = facts(appliance), len(refusals(appliance))
    message = make(b"Compte-rendu en texte seul", spec, control_id=f"E12-{number}")
    message = other_document(message, kind=b"TEXT", place="after")
    refused(appliance.send(message), f"E12-{number}", b"102")
    assert facts(appliance) == before
    (refusal,) = refusals(appliance)[told:]
    assert refusal["code"].startswith("102")


def test_e13_the_same_control_id_twice_is_never_twice_in_the_dmp(appliance: Any) -> None:
    """OMI with the constant 001: the same order has no second effect, an order on another exam is another order."""
    for number in (130, 131):
        spec = report_spec(number)
        appliance.push(appliance.make_exam(exam_spec(number)))
        accepted(appliance.send(make_oru(make_cda(spec), spec, control_id="001")), "001")
    for number in (130, 131):
        appliance.published(study_of(number))
    withdrawals = [r["transaction"] for r in appliance.stage.control("/control/dmp/requests")].count("TD3.3c")
    for number in (130, 130, 131):
        accepted(appliance.send(make_omi(report_spec(number))), "001")
    for number in (130, 131):
        appliance.until(study_of(number), lambda e: e["manifest"]["status"] == "unpublished")
        assert [document["status"] for document in appliance.documents(study_of(number))] == ["Deleted"]
    transactions = [r["transaction"] for r in appliance.stage.control("/control/dmp/requests")]
    assert transactions.count("TD3.3c") == withdrawals + 2
    assert len(events(appliance, 130, "WITHDRAWAL_ASKED")) == 2  # both orders are in the trace
    assert len(events(appliance, 131, "WITHDRAWAL_ASKED")) == 1


def test_e13_a_report_sent_twice_is_taken_once(appliance: Any) -> None:
    spec = report_spec(132)
    appliance.push(appliance.make_exam(exam_spec(132)))
    message = make_oru(make_cda(spec), spec, control_id="E13-132")
    accepted(appliance.send(message), "E13-132")
    appliance.published(study_of(132))
    published = appliance.until(study_of(132), lambda exam: exam["rule"] is None)  # nothing more to be judged
    accepted(appliance.send(message), "E13-132")
    assert appliance.exam(study_of(132)) == published
    assert len(appliance.documents(study_of(132))) == 1
    assert len(events(appliance, 132, "REPORT_REPEATED")) == 1


# --- E14: URLs that do not exist


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/viewer", 404),
        ("/viewer?study=1.2.3&accession=ACN119", 404),
        ("/studies", 404),
        ("/studies/1.2.3/patients", 404),
        ("/studies/1.2.3/series", 404),
        ("/studies/..%2F..%2Fetc%2Fpasswd", 404),
        ("/studies/%3Cscript%3E", 400),
        ("/studies/1.2.03", 400),
    ],
)
def test_e14_an_unknown_address_is_refused_cleanly(appliance: Any, path: str, status: int) -> None:
    """The variants R2 to R5 are addresses of a viewer, and the appliance has none yet: nothing here serves them.

    What can be held already: whatever is asked of the public door, the refusal is a problem document that shows
    no inside.
    """
    headers = [f"Authorization: Bearer {appliance.token()}", "KOS-SOPInstanceUID: 1.2.3.4"]
    seen, head, body = appliance.curl(path, *headers)
    assert seen == status
    assert head["content-type"] == "application/problem+json"
    problem = json.loads(body)
    assert problem["status"] == status
    assert set(problem) == {"type", "title", "status", "detail"}
    assert not re.search(rb"Traceback|File \"|\.py|passwd|script", body)


# --- E15: what is wrong in form and must not stop the chain


def published_by(appliance: Any, number: int, message: bytes, modality: str = "CT") -> pydicom.Dataset:
    """The manifest that follows from this message and small images of that modality."""
    appliance.push(appliance.make_exam(exam_spec(number, series=(SeriesSpec(modality, 2),))))
    accepted(appliance.send(message), f"E15-{number}")
    known = appliance.published(study_of(number))
    return pydicom.dcmread(io.BytesIO(appliance.content(known["manifest"]["sop_instance_uid"])))


def test_e15_a_doubly_encoded_cda(appliance: Any) -> None:
    """Generation 1 of the ANS's messages: UTF-8 read as Windows-1252 and written again ("mÃ©dicale")."""
    spec = report_spec(150)
    cda = make_cda(spec).decode("cp1252").encode("utf-8")
    assert "mÃ©dicale".encode() in cda
    kos = published_by(appliance, 150, make_oru(cda, spec, control_id="E15-150"))
    assert str(kos.PatientName).startswith("PAT-TROIS^DOMINIQUE")
    (detail,) = events(appliance, 150, "REPORT_RECEIVED")
    assert "double-encoding" in detail["warnings"]


def test_e15_a_small_tilde_between_the_addresses(appliance: Any) -> None:
    """U+02DC for ~ in PID-11: the birth place of the message is lost, that of the CDA counts."""
    spec = report_spec(151)
    message = make_oru(make_cda(spec), spec, control_id="E15-151").decode("utf-8")
    broken = message.replace(
        "|^^^^^^BDL^^51215|", "|^^^^^^BDL^^51215\u02dc28 Av de Breteuil^^PARIS^^75007^FRA^H|"
    )
    assert broken != message
    kos = published_by(appliance, 151, broken.encode("utf-8"))
    assert kos.PatientID == spec.ins
    assert len(events(appliance, 151, "REPORT_RECEIVED")) == 1
    (row,) = [row for row in rows(appliance, "message") if row["control_id"] == "E15-151"]
    assert row["verdict"] == "AA"
    assert "small-tilde" in row["violations"]


def test_e15_the_french_acronym_of_a_modality(appliance: Any) -> None:
    act = ActSpec(studies=(study_of(152),), modality="RM", modality_label="Résonance magnétique")
    spec = report_spec(152, acts=(act,))
    published_by(appliance, 152, make_oru(make_cda(spec), spec, control_id="E15-152"), "MR")
    (detail,) = events(appliance, 152, "REPORT_RECEIVED")
    assert "modality-alias" in detail["warnings"]
    (document,) = appliance.documents(study_of(152))
    codes = {code.split("^")[0] for code in document["event_codes"]}
    assert "MR" in codes
    assert "RM" not in codes


def official_archive(official: Path, directory: Path, change: Any) -> Path:
    """A copy of the ANS's archive whose METADATA.XML was changed."""
    copy = directory / "xdm"
    shutil.copytree(official / "xdm", copy)
    (metadata,) = copy.rglob("METADATA.XML")
    before = metadata.read_bytes()
    metadata.write_bytes(change(before))
    assert metadata.read_bytes() != before
    return copy


def undeclared(metadata: bytes) -> bytes:
    """The request alone, as the ANS's data repository shows it: its prefixes are declared nowhere."""
    found = re.search(rb"<ns3:SubmitObjectsRequest>.*</ns3:SubmitObjectsRequest>", metadata, re.DOTALL)
    assert found is not None
    assert b"xmlns" not in found[0]
    return found[0]


def test_e15_metadata_with_undeclared_prefixes_are_imported(
    appliance: Any, official: Path, tmp_path: Path
) -> None:
    archive = official_archive(official, tmp_path, undeclared)
    answer = appliance.stage.ask("archive", "import", str(archive))
    assert (answer["imported"], answer["refused"]) == (1, 0), answer
    (lot,) = answer["lots"]
    study = "1.3.6.1.4.1.5962.99.1.3711725607.829148806.1687338938407.3.12"
    assert "metadata-repaired" in json.dumps(lot)
    assert appliance.exam(study)["manifest"]["sop_instance_uid"] == lot["kos_uid"]
    assert "IMPORTED" in [event["event"] for event in appliance.trace(study)]


def test_e15_metadata_cut_in_the_middle_are_refused_with_the_reason(
    appliance: Any, official: Path, tmp_path: Path
) -> None:
    archive = official_archive(official, tmp_path, lambda text: undeclared(text)[:5000])
    before = {row["kos_uid"] for row in rows(appliance, "submission")}
    done = appliance.stage.run("archive", "import", str(archive), "--json")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    (lot,) = json.loads(done.stdout)["lots"]
    assert lot["verdict"] == "refused"
    assert all(reason["rule"] and reason["message"] for reason in lot["reasons"])
    assert {row["kos_uid"] for row in rows(appliance, "submission")} == before
