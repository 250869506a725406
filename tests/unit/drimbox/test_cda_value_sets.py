"""Value sets as data: named, versioned, and enforced only when known whole."""

from __future__ import annotations

import pytest

from drimbox.domain import value_sets as sets
from drimbox.domain.identifiers import is_oid


@pytest.mark.parametrize("one", sets.VALUE_SETS, ids=lambda one: one.name)
def test_a_set_says_what_it_is(one: sets.ValueSet) -> None:
    assert is_oid(one.oid)
    assert one.name
    assert one.version
    assert one.codes


def test_each_set_once() -> None:
    oids = [one.oid for one in sets.VALUE_SETS]
    assert len(oids) == len(set(oids))


@pytest.mark.parametrize(
    ("one", "count"),
    [
        (sets.MODALITIES, 49),
        (sets.REGIONS, 10),
        (sets.CONFIDENTIALITY, 6),
        (sets.ADMINISTRATIVE_GENDERS, 3),
        (sets.ENCOUNTERS, 8),
        (sets.PRACTICE_SETTINGS, 12),
    ],
)
def test_a_whole_set_refuses_what_is_not_in_it(one: sets.ValueSet, count: int) -> None:
    assert (len(one.codes), one.complete) == (count, True)
    assert one.refuses("?")
    assert not any(map(one.refuses, one.codes))


def test_a_set_known_in_part_refuses_nothing() -> None:
    assert "SA08" in sets.FACILITY_TYPES
    assert "SA40" not in sets.FACILITY_TYPES
    assert not sets.FACILITY_TYPES.refuses("SA40")


def test_french_acronyms_older_regions_and_visibility_are_in_no_set() -> None:
    assert "RM" not in sets.MODALITIES
    assert not sets.OLDER_REGIONS & set(sets.REGIONS.codes)
    assert {"MASQUE_PS", "INVISIBLE_PATIENT", "INVISIBLE_REPRESENTANTS_LEGAUX"} == sets.VISIBILITY_CODES
