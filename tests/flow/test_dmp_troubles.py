"""The DMP on bad days: each fault seen, said, survived, and exactly one Approved manifest at the end."""

from __future__ import annotations

from typing import Any

import pytest

from fixtures.images import SeriesSpec, StudySpec
from fixtures.reports import ActSpec, OrderSpec, ReportSpec, make_cda, make_oru

ROOT = "1.2.250.1.999.30"


def bring(appliance: Any, number: int) -> str:
    """Push an exam and its report."""
    study = f"{ROOT}.{number}"
    spec = StudySpec(
        study_instance_uid=study, accession=f"ACN{number}", patient_id="IPP901", series=(SeriesSpec("CT", 1),)
    )
    report = ReportSpec(
        document_id=f"{ROOT}.9.{number}",
        orders=(OrderSpec(accession=f"ACN{number}", placer=f"OPN{number}"),),
        acts=(ActSpec(studies=(study,)),),
    )
    appliance.push(appliance.make_exam(spec))
    assert b"MSA|AA" in appliance.send(make_oru(make_cda(report), report, control_id=f"T{number}"))
    return study


def events_of(appliance: Any, study: str) -> list[str]:
    return [event["event"] for event in appliance.trace(study)]


def one_approved(appliance: Any, study: str) -> None:
    assert [d["status"] for d in appliance.documents(study)] == ["Approved"]


# fault, the event that it leaves in the trace, words of the reason
PASSING = {
    "busy": ("NOT_SENT", "XDSRegistryBusy"),
    "registry_error:XDSRegistryError": ("NOT_SENT", "XDSRegistryError"),
    "soap_fault:Sender": ("NOT_SENT", "Sender"),
    "http_500": ("NO_ANSWER", "500"),
    "garbage": ("NO_ANSWER", ""),
    "drop_before_answer": ("NO_ANSWER", ""),
    "refuse_connection": ("NOT_SENT", ""),
}


@pytest.mark.parametrize("fault", PASSING)
def test_a_passing_trouble_ends_in_one_publication(appliance: Any, fault: str) -> None:
    event, words = PASSING[fault]
    # a connection of the health check may meet the first
    appliance.arm("dmp", fault, times=2 if fault == "refuse_connection" else 1)
    study = bring(appliance, 400 + list(PASSING).index(fault))
    appliance.published(study)
    appliance.until(study, lambda exam: exam["reason"] is None)
    trace = appliance.trace(study)
    (trouble, *_) = [entry for entry in trace if entry["event"] == event]
    assert words in trouble["detail"]["reason"]
    one_approved(appliance, study)


def test_a_lost_answer_is_settled_by_the_registry_not_by_a_second_lot(appliance: Any) -> None:
    """drop_before_answer registers, then cuts: the lookup finds it, nothing is sent twice."""
    appliance.arm("dmp", "drop_before_answer")
    study = bring(appliance, 420)
    appliance.published(study)
    events = events_of(appliance, study)
    assert "FOUND" in events
    assert events.count("CLAIMED") == 1
    one_approved(appliance, study)


def test_silence_is_a_doubt_then_settled(appliance: Any) -> None:
    appliance.arm("dmp", "timeout")
    study = bring(appliance, 421)
    appliance.until(study, lambda e: e["manifest"]["status"] == "doubtful")
    appliance.published(study)
    assert "NO_ANSWER" in events_of(appliance, study)
    one_approved(appliance, study)


@pytest.mark.parametrize("code", ["XDSRegistryMetadataError", "InvalidDocumentContent"])
def test_a_lasting_refusal_is_said_and_can_be_released(appliance: Any, code: str) -> None:
    appliance.arm("dmp", f"registry_error:{code}")
    study = bring(appliance, 430 + len(code))
    exam = appliance.until(study, lambda e: e["manifest"]["status"] == "refused")
    assert code in exam["reason"]
    assert appliance.documents(study) == []
    assert appliance.stage.ask("exams", "release", study) is not None
    appliance.published(study)
    one_approved(appliance, study)
