"""The patient's opposition by ADT (hl7-mss 1.12): it blocks the exams of a visit, before and after the report."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from drimbox.flow.keep_report import Arrival
from fixtures.images import SeriesSpec, StudySpec, study_datasets
from fixtures.reports import ReportSpec, make_adt, make_cda, make_oru

SPEC = StudySpec(
    study_instance_uid="1.2.250.1.999.1.901",
    accession="ACN901",
    patient_id="IPP901",
    series=(SeriesSpec("CT", 2),),
)


@pytest.fixture
def desk(box: Any) -> Any:
    """A box that reads ADT messages; `say` is its MLLP door."""
    box.reception = replace(box.reception, consent_from_adt=True)
    box.say_hl7 = lambda message: box.reception.message(Arrival(message, "mllp", "127.0.0.1", box.now)) or b""
    return box


def report(box: Any) -> None:
    assert b"MSA|AA" in box.say_hl7(make_oru(make_cda(), ReportSpec()))


def images(box: Any) -> None:
    for dataset in study_datasets(SPEC):
        box.image(dataset)
    box.later(61)
    box.work()


@pytest.mark.parametrize("first", ["adt", "report"])
def test_an_opposition_blocks_the_publication(desk: Any, first: str) -> None:
    steps = [lambda: desk.say_hl7(make_adt(feeding="IO")), lambda: report(desk)]
    for step in steps if first == "adt" else reversed(steps):
        step()
    images(desk)
    assert desk.exam()["rule"] == "opposition"
    assert desk.dmp.published == []


def test_it_unpublishes_and_its_end_publishes_again(desk: Any) -> None:
    report(desk)
    images(desk)
    assert desk.exam()["manifest"]["status"] == "published"
    assert b"MSA|AA" in desk.say_hl7(make_adt(event="A08", feeding="IO"))
    desk.work()
    assert desk.exam()["manifest"]["status"] == "unpublished"
    said = [e["detail"]["feeding"] for e in desk.trace() if e["event"] == "CONSENT_RECEIVED"]
    assert said == ["IO"]
    desk.say_hl7(make_adt(event="A08", feeding="INO", control_id="ADM-2"))
    desk.work()
    assert desk.exam()["manifest"]["status"] == "published"


@pytest.mark.parametrize("feeding", ["INO", "NA", None])
def test_without_an_opposition_nothing_is_blocked(desk: Any, feeding: str | None) -> None:
    assert b"MSA|AA" in desk.say_hl7(make_adt(feeding=feeding))
    report(desk)
    images(desk)
    assert desk.exam()["manifest"]["status"] == "published"


def test_a_message_that_says_nothing_takes_nothing_back(desk: Any) -> None:
    desk.say_hl7(make_adt(feeding="IO"))
    desk.say_hl7(make_adt(event="A03", feeding=None, control_id="ADM-2"))
    report(desk)
    images(desk)
    assert desk.exam()["rule"] == "opposition"


def test_another_visit_is_not_concerned(desk: Any) -> None:
    other = make_adt(feeding="IO").replace(b"|V260901^", b"|V260999^")
    assert b"MSA|AA" in desk.say_hl7(other)
    report(desk)
    images(desk)
    assert desk.exam()["manifest"]["status"] == "published"


def test_without_the_setting_it_is_refused_and_says_which(box: Any) -> None:
    answer = box.reception.message(Arrival(make_adt(feeding="IO"), "mllp", "127.0.0.1", box.now))
    assert b"MSA|AE" in answer
    assert b"|200^" in answer
    assert b"policy.consent_from_adt" in answer
