"""What happens to an exam after its publication: every trigger, through its real door, to the DMP and to partners."""

from __future__ import annotations

import io
import json
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pydicom
import pytest
import requests

from fixtures.images import SeriesSpec, StudySpec
from fixtures.notes import make_rejection_note
from fixtures.reports import (
    DEFAULT_FLAGS,
    ActSpec,
    OrderSpec,
    ReportSpec,
    make_cda,
    make_mdm,
    make_omi,
    make_oru,
    replacement_of,
)

ROOT = "1.2.250.1.999.50"


class Exam:
    """One exam of these stories, published, with what one needs to change it."""

    def __init__(self, appliance: Any, number: int, images: int = 3) -> None:
        self.appliance, self.number, self.study = appliance, number, f"{ROOT}.{number}"
        self.spec = StudySpec(
            study_instance_uid=self.study,
            accession=f"ACN{number}",
            patient_id="IPP901",
            series=(SeriesSpec("CT", images),),
        )
        self.notes = 0
        self.report = ReportSpec(
            document_id=f"{ROOT}.9.{number}.1",
            orders=(OrderSpec(accession=f"ACN{number}", placer=f"OPN{number}"),),
            acts=(ActSpec(studies=(self.study,)),),
        )
        self.files = appliance.make_exam(self.spec)

    def publish(self) -> dict[str, Any]:
        self.appliance.push(self.files)
        self.send(self.report, "NW")
        return self.published()

    def send(self, report: ReportSpec, operation: str, **flags: bool) -> bytes:
        message = make_oru(
            make_cda(report),
            report,
            order_control=operation,
            flags=DEFAULT_FLAGS | flags,
            control_id=f"{operation}-{self.number}",
        )
        ack: bytes = self.appliance.send(message)
        assert b"MSA|AA" in ack, ack
        return ack

    def published(self, other_than: str = "") -> dict[str, Any]:
        exam: dict[str, Any] = self.appliance.until(
            self.study,
            lambda e: (
                e["manifest"]["status"] == "published"
                and e["manifest"]["entry_uuid"] is not None
                and e["manifest"]["sop_instance_uid"] != other_than
                and e["reason"] is None
            ),
        )
        return exam

    def unpublished(self, rule: str) -> dict[str, Any]:
        exam: dict[str, Any] = self.appliance.until(
            self.study, lambda e: e["manifest"]["status"] == "unpublished" and e["rule"] == rule
        )
        return exam

    def reject(self, code: str, *files: Path) -> None:
        datasets = [pydicom.dcmread(file, stop_before_pixels=True) for file in files]
        numbers = [(int(dataset.SeriesNumber), int(dataset.InstanceNumber)) for dataset in datasets]
        self.notes += 1
        directory = self.appliance.stage.directory / "notes" / str(self.number)
        self.appliance.push([make_rejection_note(directory, self.spec, code, numbers, self.notes)])

    def statuses(self) -> list[str]:
        return [document["status"] for document in self.appliance.documents(self.study)]

    def listed(self, kos_uid: str) -> set[str]:
        kos = pydicom.dcmread(io.BytesIO(self.appliance.content(kos_uid)))
        return {
            str(ref.ReferencedSOPInstanceUID)
            for series in kos.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
            for ref in series.ReferencedSOPSequence
        }

    def fetch(self, kos_uid: str, sop: Path | None = None) -> tuple[int, str]:
        """Status, and slug of the refusal."""
        path = f"/studies/{self.study}"
        if sop is not None:
            dataset = pydicom.dcmread(sop, stop_before_pixels=True)
            path += f"/series/{dataset.SeriesInstanceUID}/instances/{dataset.SOPInstanceUID}"
        status, _headers, body = self.appliance.curl(
            path, f"Authorization: Bearer {self.appliance.token()}", f"KOS-SOPInstanceUID: {kos_uid}"
        )
        return status, "" if status == 200 else json.loads(body)["type"]

    def events(self) -> list[str]:
        return [event["event"] for event in self.appliance.trace(self.study)]


def uid_of(file: Path) -> str:
    return str(pydicom.dcmread(file, stop_before_pixels=True).SOPInstanceUID)


# --- rejection notes (IOCM)


@pytest.mark.parametrize("code", ["113001", "113037", "113038", "113039"])
def test_rejected_images_leave_the_manifest(appliance: Any, code: str) -> None:
    exam = Exam(appliance, int(code[-2:]))
    first = exam.publish()["manifest"]["sop_instance_uid"]
    exam.reject(code, exam.files[0])
    second = exam.published(other_than=first)["manifest"]["sop_instance_uid"]
    assert exam.listed(second) == {uid_of(file) for file in exam.files[1:]}
    assert exam.statuses() == ["Deprecated", "Approved"]
    assert exam.fetch(second, exam.files[0]) == (404, "instance-not-shared")
    assert exam.fetch(second)[0] == 200
    assert exam.fetch(first) == (404, "kos-replaced")
    assert "INSTANCES_REJECTED" in exam.events()


def test_113037_stops_serving_before_the_dmp_answers(appliance: Any) -> None:
    exam = Exam(appliance, 110)
    kos = exam.publish()["manifest"]["sop_instance_uid"]
    appliance.arm("dmp", "refuse_connection", 4)
    exam.reject("113037", exam.files[0])
    assert exam.fetch(kos, exam.files[0]) == (410, "instance-withdrawn")
    assert exam.statuses() == ["Approved"]  # the DMP does not know yet
    exam.published(other_than=kos)


def test_when_every_image_is_rejected_the_manifest_is_unpublished(appliance: Any) -> None:
    exam = Exam(appliance, 111)
    kos = exam.publish()["manifest"]["sop_instance_uid"]
    exam.reject("113001", *exam.files)
    exam.unpublished("all-rejected")
    assert exam.statuses() == ["Deleted"]
    assert exam.fetch(kos) == (410, "kos-unpublished")


def test_a_note_before_its_instances(appliance: Any) -> None:
    exam = Exam(appliance, 112)
    exam.reject("113037", exam.files[0])
    known = exam.publish()
    assert exam.listed(known["manifest"]["sop_instance_uid"]) == {uid_of(file) for file in exam.files[1:]}


def test_the_same_note_twice_changes_nothing(appliance: Any) -> None:
    exam = Exam(appliance, 113)
    first = exam.publish()["manifest"]["sop_instance_uid"]
    exam.reject("113001", exam.files[0])
    second = exam.published(other_than=first)
    exam.reject("113001", exam.files[0])
    assert appliance.exam(exam.study)["manifest"] == second["manifest"]
    assert exam.events().count("PREPARED") == 2


# --- reports


def test_a_replaced_report_replaces_the_manifest_and_its_visibility(appliance: Any) -> None:
    """drim-m-data 12, P3: MODIF_CONF_CODE lifts the invisibility."""
    exam = Exam(appliance, 120)
    appliance.push(exam.files)
    exam.send(exam.report, "NW", INVISIBLE_PATIENT=True)
    first = exam.published()["manifest"]["sop_instance_uid"]
    (before,) = appliance.documents(exam.study)
    assert any("INVISIBLE_PATIENT" in code for code in before["confidentiality"])
    exam.send(replacement_of(exam.report, f"{ROOT}.9.120.2"), "RO", MODIF_CONF_CODE=True)
    known = exam.published(other_than=first)
    after = [d for d in appliance.documents(exam.study) if d["status"] == "Approved"]
    assert not any("INVISIBLE_PATIENT" in code for code in after[0]["confidentiality"])
    assert [report["version"] for report in known["reports"]] == [2]
    assert exam.statuses() == ["Deprecated", "Approved"]


def test_a_withdrawn_report_unpublishes_and_a_new_one_publishes_again(appliance: Any) -> None:
    exam = Exam(appliance, 121)
    kos = exam.publish()["manifest"]["sop_instance_uid"]
    message = make_mdm(make_cda(exam.report), exam.report, order_control="CA", control_id="CA-121")
    ack = appliance.send(message)
    assert b"ACK^T04" in ack
    assert b"MSA|AA" in ack
    assert exam.fetch(kos) == (410, "kos-unpublished")  # at once
    exam.unpublished("report-withdrawn")
    assert exam.statuses() == ["Deleted"]
    again = replace(exam.report, document_id=f"{ROOT}.9.121.2")
    exam.send(again, "NW")
    known = exam.published(other_than=kos)
    assert sorted(exam.statuses()) == ["Approved", "Deleted"]
    assert exam.fetch(known["manifest"]["sop_instance_uid"])[0] == 200


@pytest.mark.parametrize(
    ("number", "operation", "change", "code"),
    [
        (122, "CA", {"document_id": f"{ROOT}.9.999"}, b"906^"),
        (123, "RO", {"document_id": f"{ROOT}.9.123.2", "replaces": ()}, b"900^"),
        (124, "NW", {"title": "Autre"}, b"906^"),
    ],
)
def test_what_the_state_table_refuses(
    appliance: Any, number: int, operation: str, change: dict[str, Any], code: bytes
) -> None:
    exam = Exam(appliance, number)
    before = exam.publish()
    report = replace(exam.report, **change)
    ack = appliance.send(make_oru(make_cda(report), report, order_control=operation, control_id=f"X{number}"))
    assert b"MSA|AE" in ack
    assert code in ack
    assert appliance.exam(exam.study)["manifest"] == before["manifest"]


def test_another_patient_is_never_a_replacement(appliance: Any) -> None:
    """The identity is corrected: unpublished for the one, then published for the other."""
    exam = Exam(appliance, 125)
    first = exam.publish()["manifest"]["sop_instance_uid"]
    other = replace(replacement_of(exam.report, f"{ROOT}.9.125.2"), ins="162018885045327")
    exam.send(other, "RO")
    known = exam.published(other_than=first)
    assert known["patient"]["ins"] == "162018885045327"
    by_patient = {d["patient_id"].split("^")[0]: d["status"] for d in appliance.documents(exam.study)}
    assert by_patient == {"279035121518989": "Deleted", "162018885045327": "Approved"}
    transactions = [r["transaction"] for r in appliance.stage.control("/control/dmp/requests")]
    assert transactions.index("TD3.3c") < len(transactions) - 1 - transactions[::-1].index("TD2.1a")


# --- orders and operators


def test_a_cancelled_order_unpublishes_and_late_images_do_not_bring_it_back(appliance: Any) -> None:
    exam = Exam(appliance, 130)
    *early, late = exam.files
    appliance.push(early)
    exam.send(exam.report, "NW")
    kos = exam.published()["manifest"]["sop_instance_uid"]
    ack = appliance.send(make_omi(exam.report, exam.study))
    assert b"ACK^O23" in ack
    assert b"MSA|AA" in ack
    assert exam.fetch(kos) == (410, "kos-unpublished")
    exam.unpublished("withdrawn")
    appliance.push([late])
    appliance.until(exam.study, lambda e: e["state"] == "SETTLED")
    assert exam.statuses() == ["Deleted"]
    appliance.send(make_omi(exam.report, exam.study, control="NW"))
    assert exam.fetch(exam.published(other_than=kos)["manifest"]["sop_instance_uid"])[0] == 200


def test_an_order_for_an_exam_that_is_not_here_is_refused(appliance: Any) -> None:
    ack = appliance.send(make_omi(ReportSpec(), f"{ROOT}.777", "ACN777"))
    assert b"MSA|AE" in ack
    assert b"906^" in ack


def test_an_operator_withdraws_and_restores(appliance: Any) -> None:
    exam = Exam(appliance, 131)
    kos = exam.publish()["manifest"]["sop_instance_uid"]
    stage = appliance.stage
    assert stage.run("exams", "withdraw", exam.study, "--reason", "demande du patient").returncode == 0
    assert exam.fetch(kos) == (410, "kos-unpublished")
    exam.unpublished("withdrawn")
    assert stage.run("exams", "restore", exam.study, "--reason", "erreur").returncode == 0
    exam.published(other_than=kos)
    withdrawal = next(e for e in appliance.trace(exam.study) if e["event"] == "WITHDRAWAL_ASKED")
    assert withdrawal["detail"]["reason"] == "demande du patient"


# --- lost answers and stale references


@pytest.mark.parametrize(
    "fault",
    [
        "drop_before_answer",
        "timeout",
        *(pytest.param(one, marks=pytest.mark.soak) for one in ("http_500", "busy")),
    ],
)
def test_an_unpublication_survives_a_bad_day(appliance: Any, fault: str) -> None:
    number = 140 + ["drop_before_answer", "timeout", "http_500", "busy"].index(fault)
    exam = Exam(appliance, number)
    exam.publish()
    appliance.arm("dmp", fault)
    exam.send(exam.report, "CA")
    exam.unpublished("report-withdrawn")
    assert exam.statuses() == ["Deleted"]


def test_a_security_refusal_stops_the_queue_and_it_resumes(appliance: Any) -> None:
    appliance.arm("dmp", "soap_fault:DMPInvalidCertificate", 2)
    exam = Exam(appliance, 150)
    appliance.push(exam.files)
    exam.send(exam.report, "NW")
    appliance.until(exam.study, lambda e: "DMPInvalidCertificate" in (e["reason"] or ""))
    assert "DMPInvalidCertificate" in (appliance.stage.ask("status") or {"stopped": ""})["stopped"]
    exam.published()
    assert appliance.stage.ask("status")["stopped"] is None


def told_of(exam: Exam) -> list[dict[str, Any]]:
    """What the processes logged of an exam, in the order of their words."""
    log = (exam.appliance.stage.directory / "serve.log").read_text("utf-8").splitlines()
    lines = [json.loads(line) for line in log if line.startswith("{")]
    return [line for line in lines if line.get("study") == exam.study]


def test_one_id_follows_an_exam_through_every_process(appliance: Any) -> None:
    exam = Exam(appliance, 90)
    live = exam.publish()["manifest"]["sop_instance_uid"]
    assert exam.fetch(live) == (200, "")
    assert exam.fetch("2.25.404") == (404, "kos-unknown")
    story = [
        ("dicom", "instances_received", "stored"),
        ("mllp", "report_kept", "AA"),
        ("worker", "exam_judged", "wanted"),
        ("worker", "lot_prepared", "publish"),
        ("worker", "lot_sending", None),
        ("worker", "dmp_answered", "registered"),
        ("worker", "dmp_looked_up", "found"),
        ("web", "retrieval_served", None),
        ("web", "retrieval_refused", None),
    ]
    deadline = time.monotonic() + 10
    seen: list[tuple[Any, ...]] = []
    while not set(story) <= set(seen) and time.monotonic() < deadline:
        seen = [(one["process"], one["action"], one.get("outcome")) for one in told_of(exam)]
        time.sleep(0.1)
    assert [one for one in story if one not in seen] == []
    assert [seen.index(one) for one in story[1:7]] == sorted(seen.index(one) for one in story[1:7])


def test_metrics_and_status_say_what_was_done(appliance: Any) -> None:
    exam = Exam(appliance, 91, images=2)
    live = exam.publish()["manifest"]["sop_instance_uid"]
    assert exam.fetch(live) == (200, "")
    wanted = [
        *(f'drimbox_up{{process="{door}"}} 1' for door in ("dicom", "mllp", "worker", "web-0")),
        'drimbox_ingest_instances_total{door="dicom",outcome="stored",process="dicom"} [1-9]',
        'drimbox_ingest_answer_seconds_count{door="dicom",process="dicom"} [1-9]',
        'drimbox_reports_messages_total{door="mllp",process="mllp",verdict="AA"} [1-9]',
        'drimbox_publish_attempts_total{outcome="registered",process="worker",transaction="TD2.1a"} [1-9]',
        'drimbox_serve_requests_total{door="partner",outcome="served",process="web-.",slug=""} [1-9]',
        'drimbox_serve_first_byte_seconds_count{door="partner",process="web-.*"} [1-9]',
    ]
    deadline, missing = time.monotonic() + 12, wanted
    while missing and time.monotonic() < deadline:  # each process writes its numbers every 5 seconds
        text = requests.get(f"{appliance.world['appliance']['internal']}/metrics", timeout=10).text
        plain = re.sub(r'node="[^"]*",?', "", text).replace(",}", "}")
        missing = [
            one
            for one in wanted
            if not re.search("^" + one.replace("{", r"\{").replace("}", r"\}"), plain, re.M)
        ]
        time.sleep(0.2)
    assert missing == []
    said = appliance.stage.ask("status")
    assert {"exams", "submissions", "exams_due", "submissions_due", "stopped", "whitelist"} <= set(said)
    assert (said["whitelist"], [name for name, one in said["doors"].items() if not one["up"]]) == (
        "CURRENT",
        [],
    )
    assert said["last_hour"]["instances_stored"] >= 2
    assert said["last_hour"]["manifests_registered"] >= 1
