"""search_result: rows of the index as DICOM JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dicom_store.query import read_query
from dicom_store.query_attributes import Level
from dicom_store.search_result import Counts, Page, results_json

URL = "https://viewer.example/dicomweb"


def written(level: Level, row: dict[str, Any], extra: bytes = b"", asked: str = "all") -> dict[str, Any]:
    """The one result of a search that gives this row."""
    query = read_query(level, None, None, [("includefield", asked)])
    uids = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")[:level]
    others = [a.keyword for a in query.returned if a.keyword not in uids]
    keywords = {keyword: n for n, keyword in enumerate([*uids, *others])}
    blank = {a.keyword: None if a.vr in ("IS", "US") else "" for a in query.returned}
    values = {**blank, **dict.fromkeys(uids, "1.2"), **row}
    page = Page(
        keywords,
        [[values[keyword] for keyword in keywords]],
        False,
        {"1.2": Counts({"1.2": 3, "1.3": 4}, 7, ("CT", "MR"))},
    )
    document = results_json(query, page, URL, [extra] if query.extras else [])
    (result,) = json.loads(document)
    assert list(result) == sorted(result)  # F.2.2: in the order of tags
    return dict(result)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("PAT^ONE", {"Alphabetic": "PAT^ONE"}),
        ("Ya^T=山^太=や^た", {"Alphabetic": "Ya^T", "Ideographic": "山^太", "Phonetic": "や^た"}),
        ("=山田", {"Ideographic": "山田"}),
        ('O"NEIL\\', {"Alphabetic": 'O"NEIL\\'}),
    ],
)  # fmt: skip
def test_names_have_their_groups(name: str, expected: dict[str, str]) -> None:
    assert written(Level.STUDY, {"PatientName": name})["00100010"] == {"vr": "PN", "Value": [expected]}


@pytest.mark.parametrize("name", ["", "^^", "="])
def test_an_empty_name_has_no_value(name: str) -> None:
    assert written(Level.STUDY, {"PatientName": name})["00100010"] == {"vr": "PN"}


def test_required_attributes_are_there_without_a_value_and_others_are_not() -> None:
    result = written(Level.SERIES, {})
    assert result["00080060"] == {"vr": "CS"}
    assert result["00200011"] == {"vr": "IS"}
    assert "00400244" not in result
    assert "00180015" not in result


def test_numbers_are_numbers() -> None:
    result = written(Level.INSTANCE, {"InstanceNumber": 0, "Rows": 512})
    assert result["00200013"] == {"vr": "IS", "Value": [0]}
    assert result["00280010"] == {"vr": "US", "Value": [512]}


@pytest.mark.parametrize(
    ("level", "path"),
    [
        (Level.STUDY, "/studies/1.2"),
        (Level.SERIES, "/studies/1.2/series/1.2"),
        (Level.INSTANCE, "/studies/1.2/series/1.2/instances/1.2"),
    ],
)
def test_every_result_says_where_it_is(level: Level, path: str) -> None:
    result = written(level, {})
    assert result["00081190"] == {"vr": "UR", "Value": [URL + path]}
    assert result["00080056"] == {"vr": "CS", "Value": ["ONLINE"]}
    assert result["00080005"] == {"vr": "CS", "Value": ["ISO_IR 192"]}


def test_what_is_counted() -> None:
    result = written(Level.SERIES, {})
    assert result["00080061"]["Value"] == ["CT", "MR"]
    assert [result[tag]["Value"] for tag in ("00201206", "00201208", "00201209")] == [[2], [7], [3]]


def test_extras_come_from_the_instance_and_nothing_else_does() -> None:
    extra = {
        "00201041": {"vr": "DS", "Value": [1.5]},
        "00101010": {"vr": "AS", "Value": ["é40Y"]},
        "00100010": {"vr": "PN"},
    }
    result = written(
        Level.INSTANCE, {"PatientName": "A"}, json.dumps(extra).encode(), "SliceLocation,PatientAge"
    )
    assert result["00201041"] == {"vr": "DS", "Value": [1.5]}
    assert result["00101010"] == {"vr": "AS", "Value": ["é40Y"]}
    assert result["00100010"]["Value"] == [{"Alphabetic": "A"}]


def test_extras_of_an_instance_that_is_gone_are_left_out() -> None:
    assert "00201041" not in written(Level.INSTANCE, {}, b"", "SliceLocation")
