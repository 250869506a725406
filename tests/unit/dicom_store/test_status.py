"""status.ANSWERS: one row for every outcome; failures are failures on both wires."""

from __future__ import annotations

import pytest
from pynetdicom.status import code_to_category

from dicom_store.status import ANSWERS, HttpRefusal, Outcome, StoreRefused

KEPT = {Outcome.STORED, Outcome.DUPLICATE}


def test_every_outcome_has_an_answer() -> None:
    assert set(ANSWERS) == set(Outcome)


@pytest.mark.parametrize("outcome", Outcome)
def test_both_wires_say_the_same(outcome: Outcome) -> None:
    answer = ANSWERS[outcome]
    assert (code_to_category(answer.dimse) == "Success") == (outcome in KEPT)
    assert (answer.http < 300) == (outcome in KEPT)
    if outcome not in KEPT:
        assert code_to_category(answer.dimse) == "Failure"


def test_distinct_refusals_are_distinct_on_the_wire() -> None:
    answers = [ANSWERS[outcome] for outcome in Outcome if outcome not in KEPT]
    on_the_wire = [(answer.dimse, answer.http) for answer in answers]
    assert len(on_the_wire) == len(set(on_the_wire))
    full, busy = ANSWERS[Outcome.STORAGE_FULL], ANSWERS[Outcome.OUT_OF_RESOURCES]
    assert full.dimse == busy.dimse == 0xA700  # DIMSE has one code for both: the comment tells


def test_refusals_say_what_they_are() -> None:
    assert str(StoreRefused(Outcome.UID_MISSING, "StudyInstanceUID is missing")) == (
        "uid-missing: StudyInstanceUID is missing"
    )
    refusal = HttpRefusal(410, "kos-unpublished", "Gone", "The manifest was withdrawn.")
    assert (str(refusal), refusal.headers) == ("410 kos-unpublished", {})
    assert len({refusal, HttpRefusal(410, "a", "b", "c")}) == 2
