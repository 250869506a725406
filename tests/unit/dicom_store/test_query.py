"""query: parameters of a search → a query; whatever is sent, nothing but a refusal is raised."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_store.query import MOST, MOST_WITH_EXTRAS, read_query
from dicom_store.query_attributes import KEPT, Level
from dicom_store.query_values import Between, Condition, Like, OneOf
from dicom_store.status import HttpRefusal

STUDY, SERIES, INSTANCE = Level


def conditions(name: str, value: str, level: Level = INSTANCE) -> tuple[Condition, ...]:
    (match,) = read_query(level, None, None, [(name, value)]).matches
    return match.any_of


def refusal(*parameters: tuple[str, str]) -> str:
    with pytest.raises(HttpRefusal) as caught:
        read_query(STUDY, None, None, parameters)
    assert (caught.value.status, caught.value.slug) == (400, "query-invalid")
    return caught.value.detail


def keywords(level: Level, study: str | None = None, series: str | None = None, **query: str) -> set[str]:
    return {a.keyword for a in read_query(level, study, series, list(query.items())).returned}


# --- matching (PS3.4 C.2.2.2) --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("StudyInstanceUID", "1.2.3", (OneOf(("1.2.3",)),)),
        ("StudyInstanceUID", "1.2.3,1.2.4", (OneOf(("1.2.3", "1.2.4")),)),
        ("0020000D", "1.2.3\\1.2.4", (OneOf(("1.2.3", "1.2.4")),)),
        ("0020000d", "1.2.3", (OneOf(("1.2.3",)),)),
        ("PatientID", "IPP1", (OneOf(("IPP1",)),)),
        ("00100020", " IPP1 ", (OneOf(("IPP1",)),)),
        ("PatientID", "IPP*", (Like("IPP*", False),)),
        ("PatientID", "IPP?", (Like("IPP?", False),)),
        ("PatientID", "A,B", (OneOf(("A,B",)),)),  # a comma may be part of an identifier
        ("PatientName", "DUPONT", (Like("DUPONT", True),)),
        ("PatientName", "DUPONT^^", (Like("DUPONT", True),)),
        ("ModalitiesInStudy", "CT,MR", (OneOf(("CT", "MR")),)),
        ("ModalitiesInStudy", "CT\\M*,", (OneOf(("CT",)), Like("M*", False))),
        ("StudyDate", "20260102", (Between("20260102", "20260102"),)),
        ("StudyDate", "20260102-20260203", (Between("20260102", "20260203"),)),
        ("StudyDate", "20260102-", (Between("20260102", ""),)),
        ("StudyDate", "-20260102", (Between("", "20260102"),)),
        ("StudyTime", "10", (Between("10", "105959.999999"),)),
        ("StudyTime", "1011-1012", (Between("1011", "101259.999999"),)),
        ("StudyTime", "101112.5-", (Between("101112.5", ""),)),
        ("SeriesNumber", "+3", (OneOf((3,)),)),
        ("InstanceNumber", "-1", (OneOf((-1,)),)),
        ("Rows", "512", (OneOf((512,)),)),
    ],
)
def test_values_become_conditions(name: str, value: str, expected: tuple[Condition, ...]) -> None:
    assert conditions(name, value) == expected


@pytest.mark.parametrize("value", ["", "*", "**", " "])
@pytest.mark.parametrize("name", ["PatientName", "StudyDate", "StudyInstanceUID", "PatientAge"])
def test_universal_matching_asks_for_the_attribute(name: str, value: str) -> None:
    query = read_query(STUDY, None, None, [(name, value)])
    assert (query.matches, query.warnings) == ((), ())


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("StudyInstanceUID", "1.2.x", "StudyInstanceUID: not a UID"),
        ("StudyInstanceUID", "1.2,", "StudyInstanceUID: not a UID"),
        ("StudyInstanceUID", ",".join(["1.2"] * 1001), "StudyInstanceUID: more than 1000 values"),
        ("StudyDate", "2026", "StudyDate: not a date"),
        ("StudyDate", "20260102-20260203-20260304", "StudyDate: not a date"),
        ("StudyDate", "-", "StudyDate: not a date"),
        ("StudyTime", "1", "StudyTime: not a time"),
        ("SeriesNumber", "1*", "SeriesNumber: not a whole number"),
        ("SeriesNumber", "4294967296", "SeriesNumber: not a whole number"),
        ("SeriesNumber", "٣", "SeriesNumber: not a whole number"),
        ("PatientID", "A\0B", "PatientID: control characters"),
        ("PatientID", "A" * 1025, "PatientID: longer than"),
        ("Unheard", "1", "Unheard: not a parameter"),
        ("00090000Z", "1", "00090000Z: not a parameter"),
        ("0020FFFF", "1", "0020FFFF: not a parameter"),
        ("PatientID.", "1", "PatientID.: not a parameter"),
        ("a b'", "1", "a name that is none: not a parameter"),
        ("limit", "-1", "limit: not a number"),
        ("offset", "1.5", "offset: not a number"),
        ("limit", "1" * 10, "limit: not a number"),
        ("fuzzymatching", "yes", "fuzzymatching: neither true nor false"),
        ("includefield", "PatientID,Unheard", "includefield: not a parameter"),
    ],
)
def test_what_is_malformed_is_refused(name: str, value: str, told: str) -> None:
    assert told in refusal((name, value))


def test_every_fault_is_told_and_no_value() -> None:
    detail = refusal(("StudyDate", "SECRET"), ("Unheard", "SECRET"), ("limit", "SECRET"))
    assert all(name in detail for name in ("StudyDate", "Unheard", "limit"))
    assert "SECRET" not in detail


@pytest.mark.parametrize("again", ["PatientID", "00100020"])
def test_an_attribute_is_matched_once(again: str) -> None:
    assert f"{again}: given twice" in refusal(("PatientID", "1"), (again, "2"))


@pytest.mark.parametrize(
    ("name", "level", "ignored"),
    [
        ("PatientAge", STUDY, "PatientAge"),
        ("00101010", STUDY, "PatientAge"),
        ("Modality", STUDY, "Modality"),
        ("SOPInstanceUID", SERIES, "SOPInstanceUID"),
        ("RequestAttributesSequence.ScheduledProcedureStepID", SERIES, "ScheduledProcedureStepID"),
        ("00400275.00400009", SERIES, "RequestAttributesSequence.ScheduledProcedureStepID"),
        ("00091001", STUDY, "00091001"),
        ("NumberOfStudyRelatedInstances", STUDY, "NumberOfStudyRelatedInstances"),
    ],
)
def test_what_is_not_matched_is_ignored_with_a_warning(name: str, level: Level, ignored: str) -> None:
    query = read_query(level, None, None, [(name, "1.2")])
    assert query.matches == ()
    assert query.warnings[0].startswith("Not matched here")
    assert ignored in query.warnings[0]


def test_options_that_are_not_done_say_so() -> None:
    named = ("fuzzymatching", "emptyvaluematching", "multiplevaluematching")
    asked = read_query(STUDY, None, None, [(name, "true") for name in named]).warnings
    assert [text.split()[1] for text in asked] == list(named)
    assert read_query(STUDY, None, None, [(name, "false") for name in named]).warnings == ()


# --- what is returned (10.6.3.3) -----------------------------------------------------------------------------------


def test_a_study_comes_with_the_attributes_of_its_table() -> None:
    always = {a.keyword for a in KEPT.values() if a.level is STUDY}
    assert keywords(STUDY) == always


def test_series_of_a_study_come_without_what_the_path_says() -> None:
    found = keywords(SERIES, "1.2")
    assert {"StudyInstanceUID", "Modality", "NumberOfSeriesRelatedInstances"} <= found
    assert not {"PatientName", "StudyDate", "BodyPartExamined", "SOPInstanceUID"} & found
    assert {"PatientName", "NumberOfStudyRelatedInstances"} <= keywords(SERIES)


def test_instances_come_with_what_the_path_does_not_say() -> None:
    assert "Modality" not in keywords(INSTANCE, "1.2", "1.2.3")
    assert "Modality" in keywords(INSTANCE, "1.2")
    assert "PatientName" not in keywords(INSTANCE, "1.2")
    assert "PatientName" in keywords(INSTANCE)


@pytest.mark.parametrize("asked", [{"includefield": "BodyPartExamined,00100010"}, {"includefield": "all"}])
def test_what_is_asked_is_returned(asked: dict[str, str]) -> None:
    assert {"BodyPartExamined", "PatientName"} <= keywords(SERIES, "1.2", **asked)


def test_what_is_matched_is_returned() -> None:
    assert "PatientName" in keywords(SERIES, "1.2", PatientName="A*")


def test_extras_are_those_of_the_level_and_above() -> None:
    asked = [("includefield", "PatientAge,SeriesDate,SliceLocation,00091001,SOPInstanceUID,RetrieveURL")]
    assert read_query(STUDY, None, None, asked).extras == (0x00101010,)
    assert read_query(SERIES, None, None, asked).extras == (0x00080021, 0x00101010)
    every = (0x00080021, 0x00090010, 0x00091001, 0x00101010, 0x00201041)  # with the private creator
    assert read_query(INSTANCE, None, None, asked).extras == every


# --- pages (8.3.4.4) -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", Level)
def test_the_limit_is_ours_or_a_smaller_one(level: Level) -> None:
    most = MOST[level]
    for asked, limit, capped in ((None, most, True), (0, 0, False), (7, 7, False), (most + 1, most, True)):
        parameters = [] if asked is None else [("limit", str(asked))]
        query = read_query(level, None, None, parameters)
        assert (query.limit, query.capped) == (limit, capped)


def test_extras_make_the_limit_smaller() -> None:
    assert read_query(INSTANCE, None, None, [("includefield", "SliceLocation")]).limit == MOST_WITH_EXTRAS
    assert read_query(INSTANCE, None, None, [("offset", "40")]).offset == 40


# --- anything at all -----------------------------------------------------------------------------------------------

_names = st.one_of(
    st.sampled_from(
        [*(a.keyword for a in KEPT.values()), "limit", "offset", "includefield", "fuzzymatching"]
    ),
    st.from_regex(r"[0-9A-Fa-f]{8}(\.[0-9A-F]{8})*", fullmatch=True),
    st.text(max_size=30),
)
_values = st.one_of(
    st.text(max_size=60),
    st.from_regex(r"[0-9.*?,\\^=-]{0,40}", fullmatch=True),
    st.sampled_from(["all", "true", "1.2.3", "20260101-", "-1011"]),
)


@given(
    level=st.sampled_from(list(Level)),
    parameters=st.lists(st.tuples(_names, _values), max_size=6),
    study=st.sampled_from([None, "1.2"]),
)
def test_anything_gives_a_query_or_a_refusal(
    level: Level, parameters: list[tuple[str, str]], study: str | None
) -> None:
    try:
        query = read_query(level, study, None, parameters)
    except HttpRefusal as refused:
        assert refused.status == 400
        return
    assert 0 <= query.limit <= MOST[level]
    assert all(match.attribute.level <= level for match in query.matches)
    assert all(text.isascii() and text.isprintable() for text in query.warnings)  # they go into a header
