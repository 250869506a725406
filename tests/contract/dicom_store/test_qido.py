"""QIDO-RS against a real index, on each engine: what is found, in which order, and what is said of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Engine, update
from sqlalchemy.orm import Session

from dicom_store import query as query_module
from dicom_store.index import StudyRow
from dicom_store.query_attributes import Level
from fixtures.images import SeriesSpec, StudySpec, study_datasets, uid
from fixtures.notes import note_dataset
from fixtures.viewer_door import URL, Got, ViewerDoor

CT = SeriesSpec("CT", 3, "Axial", body_part="CHEST")
DUPONT = StudySpec(
    "1.2.250.1.999.1",
    "ACN1",
    "IPP1",
    "DUPONT^JEAN",
    "19500101",
    "M",
    "20260101",
    "0830",
    "Scanner",
    (CT, SeriesSpec("MR", 2)),
)
LEFEVRE = StudySpec(
    "1.2.250.1.999.2",
    "ACN2",
    "IPP2",
    "Lefèvre^Ana^^^",
    "19600203",
    "F",
    "20260102",
    "101112.5",
    "Contrôle 100%",
    (SeriesSpec("CR", 1),),
)
YAMADA = StudySpec(
    "1.2.250.1.999.3",
    "acn_3",
    "IPP_3",
    "Yamada^Tarou=山田^太郎=やまだ^たろう",
    "",
    "",
    "20260103",
    "235959",
    "",
    (SeriesSpec("MR", 1),),
)
OLD = StudySpec(
    "1.2.250.1.999.4",
    "ACN4",
    "IPP10",
    "DUPONTEL^ANNE",
    "19700101",
    "F",
    "20250101",
    "000000",
    "Scanner",
    (SeriesSpec("CT", 1),),
)
ALL = (YAMADA, LEFEVRE, DUPONT, OLD)  # the newest first
NUMBERS = {spec.study_instance_uid: spec.study_instance_uid[-1] for spec in ALL}


@pytest.fixture
def door(tmp_path: Path, engine: Engine) -> Iterator[ViewerDoor]:
    made = ViewerDoor(tmp_path, engine)
    yield made
    made.close()


@pytest.fixture
def full(door: ViewerDoor) -> ViewerDoor:
    for spec in ALL:
        door.put(*study_datasets(spec))
    return door


def value(result: dict[str, dict[str, list[object]]], tag: str) -> object:
    values = result[tag].get("Value", [])
    return values[0] if len(values) == 1 else values


def found(door: ViewerDoor, path: str = "/studies", /, tag: str = "0020000D", **query: str) -> list[object]:
    got = door.get(path, **query)
    assert got.status == 200, got.body
    return [value(result, tag) for result in got.json]


def studies(door: ViewerDoor, **query: str) -> str:
    """Last digits of the studies found, in order."""
    return "".join(NUMBERS[str(study)] for study in found(door, **query))


MATCHES = {
    ("PatientID", "IPP1"): "1",
    ("00100020", "IPP1"): "1",
    ("PatientID", "ipp1"): "",
    ("PatientID", "IPP1*"): "14",
    ("PatientID", "IPP?"): "21",
    ("PatientID", "IPP_3"): "3",
    ("PatientID", "IPP_?"): "3",  # no wildcard of SQL is one here
    ("PatientID", "IPP%"): "",
    ("PatientID", "%"): "",
    ("PatientID", "/*"): "",
    ("PatientID", "' OR '1'='1"): "",
    ("PatientID", "\\"): "",
    ("PatientName", "dupont^jean"): "1",
    ("PatientName", "DUPONT*"): "14",
    ("PatientName", "*^an*"): "24",
    ("PatientName", "lefèvre^ana"): "2",
    ("PatientName", "LEFÈVRE*"): "2",
    ("PatientName", "DUPONT"): "",
    ("PatientName", "yamada^tarou"): "3",
    ("PatientName", "山田*"): "3",
    ("PatientName", "やまだ^たろう"): "3",
    ("PatientName", "yamada^tarou=山田^太郎=やまだ^たろう"): "3",
    ("PatientName", "*"): "3214",
    ("StudyDate", "20260102"): "2",
    ("StudyDate", "20260101-20260102"): "21",
    ("StudyDate", "20260102-"): "32",
    ("StudyDate", "-20251231"): "4",
    ("StudyTime", "08"): "1",
    ("StudyTime", "101112-101113"): "2",
    ("StudyTime", "1011"): "2",
    ("StudyTime", "-0900"): "14",
    ("PatientBirthDate", "19500101-19691231"): "21",
    ("PatientBirthDate", "-20990101"): "214",  # an empty date is in no range
    ("PatientSex", "F"): "24",
    ("PatientSex", "F,M"): "214",
    ("AccessionNumber", "ACN*"): "3214",
    ("AccessionNumber", "acn_3"): "3",
    ("StudyDescription", "Contrôle 100%"): "2",
    ("StudyDescription", "contrôle*"): "2",
    ("StudyID", "1"): "3214",
    ("ModalitiesInStudy", "MR"): "31",
    ("ModalitiesInStudy", "CT"): "14",
    ("ModalitiesInStudy", "CR,MR"): "321",
    ("ModalitiesInStudy", "C*"): "214",
    ("ModalitiesInStudy", "US"): "",
    ("StudyInstanceUID", "1.2.250.1.999.2"): "2",
    ("StudyInstanceUID", "1.2.250.1.999.1,1.2.250.1.999.3"): "31",
    ("StudyInstanceUID", "1.2.3"): "",
}  # fmt: skip


def test_matching(full: ViewerDoor) -> None:
    assert {key: studies(full, **{key[0]: key[1]}) for key in MATCHES} == MATCHES


def test_matches_narrow_each_other(full: ViewerDoor) -> None:
    assert studies(full, PatientName="DUPONT*", StudyDate="2026010" + "1-20261231") == "1"
    assert studies(full, PatientName="DUPONT*", ModalitiesInStudy="CR") == ""


def test_nothing_found_is_an_empty_array(full: ViewerDoor) -> None:
    got = full.get("/studies", PatientID="NOBODY")
    assert (got.status, got.body, got.headers["content-type"]) == (200, b"[]", "application/dicom+json")
    assert full.get("/studies/1.2.3/series").json == []


def test_a_study_in_full(full: ViewerDoor) -> None:
    (result,) = full.get("/studies", PatientID="IPP1").json
    assert result == {
        "00080005": {"vr": "CS", "Value": ["ISO_IR 192"]},
        "00080020": {"vr": "DA", "Value": ["20260101"]},
        "00080030": {"vr": "TM", "Value": ["0830"]},
        "00080050": {"vr": "SH", "Value": ["ACN1"]},
        "00080056": {"vr": "CS", "Value": ["ONLINE"]},
        "00080061": {"vr": "CS", "Value": ["CT", "MR"]},
        "00080090": {"vr": "PN"},
        "00081030": {"vr": "LO", "Value": ["Scanner"]},
        "00081190": {"vr": "UR", "Value": [f"{URL}/studies/1.2.250.1.999.1"]},
        "00100010": {"vr": "PN", "Value": [{"Alphabetic": "DUPONT^JEAN"}]},
        "00100020": {"vr": "LO", "Value": ["IPP1"]},
        "00100030": {"vr": "DA", "Value": ["19500101"]},
        "00100040": {"vr": "CS", "Value": ["M"]},
        "0020000D": {"vr": "UI", "Value": ["1.2.250.1.999.1"]},
        "00200010": {"vr": "SH", "Value": ["1"]},
        "00201206": {"vr": "IS", "Value": [2]},
        "00201208": {"vr": "IS", "Value": [5]},
    }


def test_a_series_in_full(full: ViewerDoor) -> None:
    series = uid(DUPONT, 1)
    first, second = full.get("/studies/1.2.250.1.999.1/series").json
    assert first == {
        "00080005": {"vr": "CS", "Value": ["ISO_IR 192"]},
        "00080056": {"vr": "CS", "Value": ["ONLINE"]},
        "00080060": {"vr": "CS", "Value": ["CT"]},
        "0008103E": {"vr": "LO", "Value": ["Axial"]},
        "00081190": {"vr": "UR", "Value": [f"{URL}/studies/1.2.250.1.999.1/series/{series}"]},
        "0020000D": {"vr": "UI", "Value": ["1.2.250.1.999.1"]},
        "0020000E": {"vr": "UI", "Value": [series]},
        "00200011": {"vr": "IS", "Value": [1]},
        "00201209": {"vr": "IS", "Value": [3]},
    }
    assert value(second, "00200011") == 2


def test_an_instance_in_full(full: ViewerDoor) -> None:
    series, sop = uid(DUPONT, 1), uid(DUPONT, 1, 2)
    path = f"/studies/1.2.250.1.999.1/series/{series}/instances"
    assert found(full, path, "00200013") == [1, 2, 3]
    (result,) = full.get(path, InstanceNumber="2").json
    assert result == {
        "00080005": {"vr": "CS", "Value": ["ISO_IR 192"]},
        "00080016": {"vr": "UI", "Value": ["1.2.840.10008.5.1.4.1.1.2"]},
        "00080018": {"vr": "UI", "Value": [sop]},
        "00080056": {"vr": "CS", "Value": ["ONLINE"]},
        "00081190": {"vr": "UR", "Value": [f"{URL}{path}/{sop}"]},
        "00083002": {"vr": "UI", "Value": ["1.2.840.10008.1.2.1"]},
        "0020000D": {"vr": "UI", "Value": ["1.2.250.1.999.1"]},
        "0020000E": {"vr": "UI", "Value": [series]},
        "00200013": {"vr": "IS", "Value": [2]},
        "00280010": {"vr": "US", "Value": [32]},
        "00280011": {"vr": "US", "Value": [32]},
        "00280100": {"vr": "US", "Value": [16]},
    }


def test_paths_narrow_the_search(full: ViewerDoor) -> None:
    assert found(full, "/series", "00200011") == [1, 1, 1, 2, 1]
    assert found(full, "/series", "00080060", Modality="MR") == ["MR", "MR"]
    assert len(found(full, "/instances")) == 8
    assert len(found(full, "/studies/1.2.250.1.999.1/instances")) == 5
    assert found(full, "/studies/1.2.250.1.999.1/series", SeriesInstanceUID=uid(YAMADA, 1)) == []
    assert found(full, f"/studies/1.2.250.1.999.2/series/{uid(DUPONT, 1)}/instances") == []
    assert found(full, "/instances", "00100020", PatientName="LEF*") == ["IPP2"]
    assert found(full, "/instances", "00080018", SOPInstanceUID=uid(YAMADA, 1, 1)) == [uid(YAMADA, 1, 1)]


def test_all_series_and_instances_come_with_their_study(full: ViewerDoor) -> None:
    (series,) = full.get("/series", PatientID="IPP2").json
    (instance,) = full.get("/instances", PatientID="IPP2").json
    for result in (series, instance):
        assert value(result, "00100010") == {"Alphabetic": "Lefèvre^Ana^^^"}
        assert [value(result, tag) for tag in ("00201206", "00201208", "00201209")] == [1, 1, 1]


# --- what is hidden ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["113001", "113037", "113038", "113039"])
def test_what_is_rejected_is_neither_shown_nor_counted(door: ViewerDoor, code: str) -> None:
    door.put(*study_datasets(DUPONT), note_dataset(DUPONT, code, [(1, 1), (2, 1), (2, 2)]))
    (study,) = door.get("/studies").json
    assert [value(study, tag) for tag in ("00080061", "00201206", "00201208")] == ["CT", 1, 2]
    assert found(door, "/studies/1.2.250.1.999.1/series", "00080060") == ["CT"]
    assert found(door, "/studies/1.2.250.1.999.1/instances", "00200013") == [2, 3]
    assert found(door, ModalitiesInStudy="MR") == []
    assert found(door, ModalitiesInStudy="KO") == []


def test_a_study_of_nothing_but_rejections_is_not_found(door: ViewerDoor) -> None:
    door.put(*study_datasets(LEFEVRE), note_dataset(LEFEVRE, "113001", [(1, 1)]))
    for path in ("/studies", "/series", "/instances", "/studies/1.2.250.1.999.2/instances"):
        assert found(door, path) == []


def test_other_notes_are_instances(door: ViewerDoor) -> None:
    door.put(*study_datasets(LEFEVRE), note_dataset(LEFEVRE, "113000", [(1, 1)]))
    assert found(door, tag="00080061") == [["CR", "KO"]]


# --- extras --------------------------------------------------------------------------------------------------------


def test_what_is_not_kept_comes_from_the_instances(full: ViewerDoor) -> None:
    path = f"/studies/1.2.250.1.999.1/series/{uid(DUPONT, 1)}/instances"
    assert found(full, path, "00201041", includefield="SliceLocation") == [5.0, 10.0, 15.0]
    asked = {"includefield": "Manufacturer,00081090"}
    assert found(full, "/studies/1.2.250.1.999.1/series", "00080070", **asked) == ["SYNTHETIC"] * 2
    assert "00080070" not in full.get("/studies", **asked).json[0]  # of series, not of studies
    assert (
        full.get("/studies", PatientID="IPP1", includefield="SliceLocation").json[0].get("00201041") is None
    )


def test_extras_are_read_for_a_bounded_page(full: ViewerDoor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query_module, "MOST_WITH_EXTRAS", 2)
    got = full.get("/instances", includefield="SliceLocation")
    assert len(got.json) == 2
    assert "exceeded the maximum" in got.headers["warning"]


# --- pages ---------------------------------------------------------------------------------------------------------


def page_by_page(door: ViewerDoor, path: str, tag: str, size: int) -> list[object]:
    results: list[object] = []
    while page := found(door, path, tag, limit=str(size), offset=str(len(results))):
        results += page
    return results


@pytest.mark.parametrize("size", [1, 3])
def test_pages_repeat_nothing_and_leave_out_nothing(full: ViewerDoor, size: int) -> None:
    for path, tag in (("/studies", "0020000D"), ("/series", "0020000E"), ("/instances", "00080018")):
        assert page_by_page(full, path, tag, size) == found(full, path, tag)


def test_a_page_cut_by_us_says_so_and_one_cut_by_the_client_does_not(
    full: ViewerDoor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(query_module, "MOST", {Level.STUDY: 2, Level.SERIES: 5, Level.INSTANCE: 5})

    def warning(**query: str) -> str | None:
        return full.get("/studies", **query).headers.get("warning")

    text = f"299 {URL}: The number of results exceeded the maximum supported by the server. "
    assert warning() == warning(limit="3") == text + "Additional results can be requested."
    assert warning(limit="2") is warning(limit="0") is warning(offset="2") is None
    assert "warning" not in full.get("/series").headers  # five, and not one more
    assert "warning" in full.get("/instances").headers


def test_equal_and_missing_dates_have_a_stable_order(door: ViewerDoor, engine: Engine) -> None:
    for number in (3, 1, 2):
        spec = replace(LEFEVRE, study_instance_uid=f"1.2.3.{number}", date="")
        door.put(*study_datasets(spec))
    with Session(engine) as session:
        session.execute(
            update(StudyRow).where(StudyRow.study_instance_uid == "1.2.3.2").values(study_date="20260101")
        )
        session.commit()
    assert found(door) == ["1.2.3.2", "1.2.3.1", "1.2.3.3"]


# --- the request ---------------------------------------------------------------------------------------------------


def test_head_says_what_get_would(full: ViewerDoor) -> None:
    got, head = full.get("/studies"), full.get("/studies", None, "HEAD")
    assert (head.status, head.body) == (200, b"")
    assert head.headers == got.headers
    assert int(head.headers["content-length"]) == len(got.body)


@pytest.mark.parametrize(
    "accept", [None, "*/*", "application/json", "application/dicom+json, application/json"]
)
def test_json_is_acceptable_by_either_name(full: ViewerDoor, accept: str | None) -> None:
    assert full.get("/studies", accept).headers["content-type"] == "application/dicom+json"


def test_xml_is_not_made(full: ViewerDoor) -> None:
    got = full.get("/studies", 'multipart/related; type="application/dicom+xml"')
    assert got.problem == (406, "not-acceptable")


def test_refusals_name_the_parameters(full: ViewerDoor) -> None:
    got: Got = full.get("/studies", Unheard="x", StudyDate="tomorrow")
    assert got.problem == (400, "query-invalid")
    assert "Unheard" in got.json["detail"]
    assert "StudyDate" in got.json["detail"]
    assert "tomorrow" not in got.json["detail"]


def test_what_is_not_done_is_said(full: ViewerDoor) -> None:
    got = full.get("/studies", fuzzymatching="true", PatientAge="040Y", limit="1")
    assert got.headers["warning"] == (
        f"299 {URL}: The fuzzymatching parameter is not supported. Only literal matching has been performed., "
        f"299 {URL}: Not matched here, and ignored: PatientAge."
    )
    assert len(got.json) == 1
