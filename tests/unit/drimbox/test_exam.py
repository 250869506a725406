"""`desired`: each rule breaks on one thing, with its reason; the rest is publishable."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dicom_store.study import InstanceRef, SeriesSnapshot, StudySnapshot
from drimbox.domain.exam import (
    RULES,
    ExamFacts,
    Policy,
    ReportFacts,
    Undecided,
    Unwanted,
    Wanted,
    desired,
    thinner,
)
from drimbox.domain.identifiers import Identifier, Ins
from drimbox.domain.report import Code, Order, Patient, Report, StudyAct, Timestamp

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
STUDY = "1.2.250.1.999.1.1"
POLICY = Policy(("1.2.250.1.213.1.4.10",), "", settle_after=60)

PATIENT = Patient(
    ins=Ins("279035121518989", "1.2.250.1.213.1.4.10"),
    local_ids=(Identifier("1.2.250.1.999.4", "IPP101"),),
    birth_family="PAT-TROIS",
    birth_given="DOMINIQUE",
    birth_given_list="DOMINIQUE",
    used_family="",
    used_given="",
    sex="F",
    birth_date="19790328",
    birth_place="51215",
)
OTHER_PATIENT = replace(PATIENT, ins=Ins("162018885045327", "1.2.250.1.213.1.4.10"))
REPORT = Report(
    id=Identifier("1.2.250.1.999.7.1"),
    set_id="1.2.250.1.999.7",
    version=1,
    replaces=(),
    code=Code("18748-4", "2.16.840.1.113883.6.1"),
    exam_codes=(),
    title="CR",
    effective_time=Timestamp("20261120101500", NOW),
    confidentiality=Code("N", "2.16.840.1.113883.5.25"),
    language="fr-FR",
    level=1,
    patient=PATIENT,
    authors=(),
    legal_authenticator=None,
    orders=(Order(Identifier("1.2.250.1.999.6", "OPN1"), (Identifier("1.2.250.1.999.5", "ACN1"),)),),
    studies=(StudyAct(STUDY, None, None, (), (), None, None, None),),
    facility=None,
    practice_setting=None,
)


def image(number: int) -> InstanceRef:
    return InstanceRef(f"{STUDY}.1.{number}", "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1", number)


SOURCE = ReportFacts(REPORT, "r1", "d" * 64, ("DESTDMP", "INVISIBLE_PATIENT"), True, "O", {})
IMAGES = StudySnapshot(
    STUDY, "20261120", "101500", "Scanner", ("ACN1",), ("IPP101",), ("19790328",),
    (SeriesSnapshot(STUDY + ".1", "CT", 1, "Axial", "", (image(1),)),),
)  # fmt: skip
FACTS = ExamFacts(STUDY, IMAGES, NOW - timedelta(minutes=5), (SOURCE,))


def with_report(**changes: Any) -> ExamFacts:
    return replace(FACTS, reports=(replace(SOURCE, report=replace(REPORT, **changes)),))


def with_patient(**changes: Any) -> ExamFacts:
    return with_report(patient=replace(PATIENT, **changes))


def with_images(**changes: Any) -> ExamFacts:
    return replace(FACTS, images=replace(IMAGES, **changes))


def test_a_complete_exam_is_wanted() -> None:
    wanted = desired(FACTS, POLICY, NOW)
    assert isinstance(wanted, Wanted)
    assert wanted.confidentiality == ("INVISIBLE_PATIENT",)
    assert [str(request.accession) for request in wanted.requests] == ["1.2.250.1.999.5^ACN1"]


# Somebody said on purpose that it must not be public: what is published is unpublished.
WITHDRAWING = {"withdrawn", "report-withdrawn", "all-rejected", "not-for-dmp", "opposition", "restricted"}
BROKEN = {
    "withdrawn": replace(FACTS, withdrawn=True),
    "report-withdrawn": replace(FACTS, reports=(), had_reports=True),
    "all-rejected": with_images(series=(), rejected=((f"{STUDY}.1.1", "113037"),)),
    "no-images": replace(FACTS, images=None, last_instance_at=None),
    "no-report": replace(FACTS, reports=()),
    "not-for-dmp": replace(FACTS, reports=(replace(SOURCE, destined_to_dmp=False),)),
    "opposition": replace(FACTS, reports=(SOURCE, replace(SOURCE, opposed=True))),
    "secret-connection": replace(FACTS, reports=(replace(SOURCE, flags=("CONNEXION_SECRETE",)),)),
    "restricted": with_report(confidentiality=Code("R", "2.16.840.1.113883.5.25")),
    "ins-missing": with_patient(ins=None),
    "ins-authority": with_patient(ins=Ins("279035121518989", "1.2.250.1.213.1.4.8")),
    "ins-traits": with_patient(birth_place=""),
    "reports-disagree": replace(
        FACTS,
        reports=(SOURCE, replace(SOURCE, report=replace(REPORT, patient=OTHER_PATIENT))),
    ),
    "several-patients": with_images(PatientIDs=("IPP101", "IPP102")),
    "ipp-mismatch": with_images(PatientIDs=("IPP999",)),
    "accession-mismatch": with_images(AccessionNumbers=("ACN2",)),
}  # fmt: skip


@pytest.mark.parametrize("rule", BROKEN)
def test_each_rule_says_why(rule: str) -> None:
    verdict = desired(BROKEN[rule], POLICY, NOW)
    assert isinstance(verdict, Unwanted if rule in WITHDRAWING else Undecided)
    assert verdict.rule == rule
    assert verdict.reason


def test_reasons_do_not_name_the_patient() -> None:
    for facts in BROKEN.values():
        verdict = desired(facts, POLICY, NOW)
        assert not isinstance(verdict, Wanted)
        assert "279035121518989" not in verdict.reason
        assert "PAT-TROIS" not in verdict.reason


def test_images_without_patient_id_tie_to_nobody() -> None:
    undecided = desired(with_images(PatientIDs=()), POLICY, NOW)
    assert isinstance(undecided, Undecided)
    assert undecided.rule == "ipp-mismatch"


def test_images_may_carry_the_ins() -> None:
    assert isinstance(desired(with_images(PatientIDs=("279035121518989",)), POLICY, NOW), Wanted)


def test_ipp_of_another_domain_is_no_match() -> None:
    undecided = desired(FACTS, replace(POLICY, ipp_authority="1.2.250.1.999.99"), NOW)
    assert isinstance(undecided, Undecided)
    assert undecided.rule == "ipp-mismatch"


def test_a_study_that_still_receives_waits_until_it_is_quiet() -> None:
    facts = replace(FACTS, last_instance_at=NOW - timedelta(seconds=59))
    undecided = desired(facts, POLICY, NOW)
    assert isinstance(undecided, Undecided)
    assert (undecided.rule, undecided.until) == ("receiving", NOW + timedelta(seconds=1))
    assert isinstance(desired(facts, POLICY, NOW + timedelta(seconds=1)), Wanted)


def test_the_same_facts_give_the_same_key_and_a_late_image_another() -> None:
    first, again = desired(FACTS, POLICY, NOW), desired(FACTS, POLICY, NOW + timedelta(days=1))
    assert isinstance(first, Wanted)
    assert isinstance(again, Wanted)
    assert first.content_key == again.content_key
    late = replace(IMAGES.series[0], instances=(image(1), image(2)))
    fuller = desired(with_images(series=(late,)), POLICY, NOW)
    assert isinstance(fuller, Wanted)
    assert fuller.content_key != first.content_key


def test_a_second_report_of_the_study_changes_nothing() -> None:
    """drim-m-data 12, P4: one study, one KOS, no duplicate publication."""
    second = replace(SOURCE, report=replace(REPORT, id=Identifier("1.2.250.1.999.7.2")), digest="e" * 64)
    one, two = desired(FACTS, POLICY, NOW), desired(replace(FACTS, reports=(SOURCE, second)), POLICY, NOW)
    assert isinstance(one, Wanted)
    assert isinstance(two, Wanted)
    assert one.content_key == two.content_key


def test_every_rule_is_tested() -> None:
    assert {rule.slug for rule in RULES} == set(BROKEN)
    assert {rule.slug for rule in RULES if rule.withdraws} == WITHDRAWING


def test_nothing_is_withdrawn_because_something_is_missing() -> None:
    """Safety of deletion: a lost image, a lost report row, an unreadable source never unpublish."""
    for facts in (replace(FACTS, images=None), replace(FACTS, reports=()), with_images(series=())):
        assert isinstance(desired(facts, POLICY, NOW), Undecided)


def wanted_of(facts: ExamFacts) -> Wanted:
    wanted = desired(facts, POLICY, NOW)
    assert isinstance(wanted, Wanted)
    return wanted


def test_a_thinner_manifest_needs_a_cause() -> None:
    here, gone = f"{STUDY}.1.1", f"{STUDY}.1.2"
    undecided = thinner(wanted_of(FACTS), frozenset({here, gone}), POLICY)
    assert isinstance(undecided, Undecided)
    assert "1 of 2" in undecided.reason
    explained = wanted_of(with_images(rejected=((gone, "113001"),)))
    assert thinner(explained, frozenset({here, gone}), POLICY) is None
    assert thinner(wanted_of(FACTS), frozenset({here, gone}), replace(POLICY, thinner_alarm=0.5)) is None
    assert thinner(wanted_of(FACTS), frozenset({here}), POLICY) is None
