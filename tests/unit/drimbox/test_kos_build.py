"""The manifest as built: every attribute of drim-m-data 6.1, names 6.2, texts, refusals."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from pydicom import Dataset

from dicom_store.paths import InvalidUID
from dicom_store.study import InstanceRef, SeriesSnapshot, StudySnapshot
from drimbox.domain import kos, kos_content
from drimbox.domain.errors import ReportRefused
from drimbox.domain.identifiers import INS_AUTHORITIES, Identifier, Ins
from drimbox.domain.kos_identity import institution_name, other_patient_names, patient_name
from drimbox.domain.report import Code, Order, Organization, Patient, Report, StudyAct, Timestamp
from drimbox.domain.violations import errors

STUDY = "1.2.250.1.999.1.1"
CT, KEY_OBJECT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.88.59"
WHEN = Timestamp("20221215194622", datetime(2022, 12, 15, 18, 46, 22, tzinfo=UTC))
WINTER = datetime(2024, 1, 2, 9, 30, 15, tzinfo=UTC)
SUMMER = datetime(2024, 7, 2, 9, 30, 15, tzinfo=UTC)
PATIENT = Patient(
    ins=Ins("279035121518989", "1.2.250.1.213.1.4.10"),
    local_ids=(Identifier("1.2.250.1.999.4", "IPP101"),),
    birth_family="PAT-TROIS",
    birth_given="DOMINIQUE",
    birth_given_list="DOMINIQUE MARIE-LOUISE",
    used_family="",
    used_given="",
    sex="F",
    birth_date="19790328",
    birth_place="63220",
)
ACT = StudyAct(STUDY, Code("24727-0", "LOINC", "CT Head W contrast IV"), None, (), (), WHEN, None, None)
ORDER = Order(Identifier("1.2.250.1.999.6", "OPN101"), (Identifier("1.2.250.1.999.5", "ACN101"),))
REPORT = Report(
    id=Identifier("1.2.250.1.999.9"),
    set_id="",
    version=1,
    replaces=(),
    code=Code("18748-4", "LOINC", "CR imagerie"),
    exam_codes=(Code("24802-1", "LOINC", "RM genou"),),
    title="",
    effective_time=WHEN,
    confidentiality=Code("N", "2.16.840.1.113883.5.25"),
    language="fr-FR",
    level=1,
    patient=PATIENT,
    authors=(),
    legal_authenticator=None,
    orders=(ORDER,),
    studies=(ACT,),
    facility=None,
    practice_setting=None,
)
SERIES = SeriesSnapshot(
    SeriesInstanceUID=f"{STUDY}.201",
    Modality="CT",
    SeriesNumber=1000,
    SeriesDescription="Serie A1",
    BodyPartExamined="",
    instances=tuple(InstanceRef(f"{STUDY}.201.{n}", CT, "1.2.840.10008.1.2.1", n) for n in (1, 2)),
)
IMAGES = StudySnapshot(
    STUDY, "20221215", "194622.300000", "Examen A", ("ACN101",), ("IPP101",), ("19790328",), (SERIES,)
)
INSTITUTION = Organization(Identifier("1.2.250.1.71.4.2.2", "101235555"), "Centre de radiologie")


def build(images: StudySnapshot = IMAGES, report: Report = REPORT, **changes: Any) -> Dataset:
    arguments: dict[str, Any] = {
        "requests": kos.requests_for(report, images.AccessionNumbers),
        "retrieve_base": "https://db.example.fr/dicom-web-rs",
        "manufacturer": "ANS",
        "institution": INSTITUTION,
        "sop_instance_uid": "2.25.1001",
        "series_instance_uid": "2.25.1002",
        "now": WINTER,
        "time_zone": "Europe/Paris",
    }
    return kos.build_manifest(images, report, **(arguments | changes))


def text_of(dataset: Dataset) -> str:
    return str(dataset.ContentSequence[-1].TextValue)


# keyword, VR, value: the table of drim-m-data 6.1, root attributes
ROOT = [
    ("SpecificCharacterSet", "CS", "ISO_IR 100"),
    ("InstanceCreationDate", "DA", "20240102"),
    ("InstanceCreationTime", "TM", "103015"),
    ("SOPClassUID", "UI", KEY_OBJECT),
    ("SOPInstanceUID", "UI", "2.25.1001"),
    ("StudyDate", "DA", "20221215"),
    ("SeriesDate", "DA", "20240102"),
    ("ContentDate", "DA", "20240102"),
    ("StudyTime", "TM", "194622.300000"),
    ("SeriesTime", "TM", "103015"),
    ("ContentTime", "TM", "103015"),
    ("AccessionNumber", "SH", ""),
    ("Modality", "CS", "KO"),
    ("Manufacturer", "LO", "ANS"),
    ("InstitutionName", "LO", "Centre de radiologie^^^^^^^^^101235555"),
    ("ReferringPhysicianName", "PN", ""),
    ("TimezoneOffsetFromUTC", "SH", "+0100"),
    ("StudyDescription", "LO", "Examen A"),
    ("ReferencedPerformedProcedureStepSequence", "SQ", []),
    ("PatientName", "PN", "PAT-TROIS^DOMINIQUE"),
    ("PatientID", "LO", "279035121518989"),
    ("IssuerOfPatientID", "LO", "ASIP-SANTE-INS-NIR"),
    ("IssuerOfPatientIDQualifiersSequence", "SQ", [("1.2.250.1.213.1.4.10", "ISO")]),
    ("PatientBirthDate", "DA", "19790328"),
    ("PatientSex", "CS", "F"),
    ("OtherPatientNames", "PN", "^DOMINIQUE MARIE-LOUISE"),
    ("OtherPatientIDsSequence", "SQ", 1),
    ("PatientComments", "LT", "63220"),
    ("StudyInstanceUID", "UI", STUDY),
    ("SeriesInstanceUID", "UI", "2.25.1002"),
    ("StudyID", "SH", ""),
    ("SeriesNumber", "IS", "59"),
    ("InstanceNumber", "IS", "1"),
    ("ValueType", "CS", "CONTAINER"),
    ("ConceptNameCodeSequence", "SQ", 1),
    ("ContinuityOfContent", "CS", "SEPARATE"),
    ("ReferencedRequestSequence", "SQ", 1),
    ("CurrentRequestedProcedureEvidenceSequence", "SQ", 1),
    ("ContentSequence", "SQ", 3),
]


def test_root_attributes_are_those_of_the_profile_and_no_others() -> None:
    dataset = build()
    assert {element.keyword for element in dataset} == {keyword for keyword, _, _ in ROOT}
    for keyword, vr, value in ROOT:
        element = dataset[keyword]
        assert element.VR == vr, keyword
        if isinstance(value, int):
            assert len(element.value) == value, keyword
        elif isinstance(value, list):
            found = [(item.UniversalEntityID, item.UniversalEntityIDType) for item in element.value]
            assert found == value, keyword
        else:
            assert str(element.value) == value, keyword


def test_nested_attributes_are_those_of_the_profile() -> None:
    dataset = build()
    title = dataset.ConceptNameCodeSequence[0]
    assert (title.CodeValue, title.CodingSchemeDesignator, title.CodeMeaning) == ("113030", "DCM", "MANIFEST")
    other = dataset.OtherPatientIDsSequence[0]
    assert (other.PatientID, other.IssuerOfPatientID, other.TypeOfPatientID) == (
        "279035121518989",
        "ASIP-SANTE-INS-NIR",
        "TEXT",
    )
    assert other.IssuerOfPatientIDQualifiersSequence[0].UniversalEntityID == "1.2.250.1.213.1.4.10"
    request = dataset.ReferencedRequestSequence[0]
    assert [element.keyword for element in request] == [
        "AccessionNumber",
        "IssuerOfAccessionNumberSequence",
        "ReferencedStudySequence",
        "StudyInstanceUID",
        "RequestedProcedureDescription",
        "RequestedProcedureCodeSequence",
        "OrderPlacerIdentifierSequence",
        "RequestedProcedureID",
        "PlacerOrderNumberImagingServiceRequest",
        "FillerOrderNumberImagingServiceRequest",
    ]
    assert (request.AccessionNumber, request.PlacerOrderNumberImagingServiceRequest) == ("ACN101", "OPN101")
    assert request.IssuerOfAccessionNumberSequence[0].UniversalEntityID == "1.2.250.1.999.5"
    assert request.OrderPlacerIdentifierSequence[0].UniversalEntityID == "1.2.250.1.999.6"
    assert request.StudyInstanceUID == STUDY


def test_evidence_and_content_list_every_instance_in_order() -> None:
    dataset = build()
    study = dataset.CurrentRequestedProcedureEvidenceSequence[0]
    series = study.ReferencedSeriesSequence[0]
    assert study.StudyInstanceUID == STUDY
    url = f"https://db.example.fr/dicom-web-rs/studies/{STUDY}/series/{STUDY}.201"
    assert (series.RetrieveURL, series.SeriesInstanceUID, series.SeriesNumber) == (url, f"{STUDY}.201", 1000)
    assert series["RetrieveURL"].VR == "UR"
    references = [(r.ReferencedSOPClassUID, r.ReferencedSOPInstanceUID) for r in series.ReferencedSOPSequence]
    assert references == [(CT, f"{STUDY}.201.1"), (CT, f"{STUDY}.201.2")]
    assert [int(r.InstanceNumber) for r in series.ReferencedSOPSequence] == [1, 2]
    content = [
        (i.RelationshipType, i.ValueType, i.ReferencedSOPSequence[0].ReferencedSOPInstanceUID)
        for i in dataset.ContentSequence[:-1]
    ]
    assert content == [("CONTAINS", "IMAGE", f"{STUDY}.201.{n}") for n in (1, 2)]
    last = dataset.ContentSequence[-1]
    concept = last.ConceptNameCodeSequence[0]
    assert (last.ValueType, concept.CodeValue, concept.CodeMeaning) == (
        "TEXT",
        "113012",
        "Key Object Description",
    )


def test_numbers_that_the_images_lack_are_left_out() -> None:
    bare = replace(SERIES, SeriesNumber=None, instances=(InstanceRef(f"{STUDY}.201.1", CT, "1.2"),))
    series = build(replace(IMAGES, series=(bare,))).CurrentRequestedProcedureEvidenceSequence[0]
    series = series.ReferencedSeriesSequence[0]
    assert "SeriesNumber" not in series
    assert "InstanceNumber" not in series.ReferencedSOPSequence[0]


# drim-m-data 6.2: case, changes to the patient, (0010,1001)
NAMES = [
    ("Absent", {}, ["^DOMINIQUE"]),
    ("Nom", {"used_family": "PAT-TROIS"}, ["^DOMINIQUE", "PAT-TROIS"]),
    ("Prenom", {"used_given": "DOMINIQUE"}, ["^DOMINIQUE", "^DOMINIQUE"]),
    (
        "Nom_Prenom",
        {"used_family": "PAT-TROIS", "used_given": "DOMINIQUE"},
        ["^DOMINIQUE", "PAT-TROIS^DOMINIQUE"],
    ),
    ("KOS_OK", {"birth_given_list": "", "birth_given": "FRANCOISE"}, ["^FRANCOISE"]),
    ("list", {"birth_given_list": "DOMINIQUE MARIE-LOUISE"}, ["^DOMINIQUE MARIE-LOUISE"]),
    ("delimiters", {"birth_given_list": "A^B=C\\D\nE"}, ["^A B C D E"]),
    ("too long", {"birth_given_list": "X" * 80}, ["^" + "X" * 63]),
]


@pytest.mark.parametrize(("case", "changes", "expected"), NAMES, ids=[case for case, _, _ in NAMES])
def test_other_patient_names(case: str, changes: dict[str, str], expected: list[str]) -> None:
    patient = replace(PATIENT, **({"birth_given_list": "DOMINIQUE"} | changes))  # type: ignore[arg-type]
    assert other_patient_names(patient) == expected
    written = build(report=replace(REPORT, patient=patient)).OtherPatientNames
    assert ([written] if isinstance(written, str) or len(expected) == 1 else list(written)) == expected


def test_patient_name_is_the_birth_identity_even_when_another_name_is_used() -> None:
    patient = replace(PATIENT, used_family="DURAND", used_given="MARIE")
    assert patient_name(patient) == "PAT-TROIS^DOMINIQUE"


@pytest.mark.parametrize(("oid", "label"), sorted(INS_AUTHORITIES.items()))
def test_issuer_follows_the_authority_of_the_report(oid: str, label: str) -> None:
    dataset = build(report=replace(REPORT, patient=replace(PATIENT, ins=Ins("279035121518989", oid))))
    assert dataset.IssuerOfPatientID == label
    assert dataset.IssuerOfPatientIDQualifiersSequence[0].UniversalEntityID == oid
    assert dataset.OtherPatientIDsSequence[0].IssuerOfPatientIDQualifiersSequence[0].UniversalEntityID == oid


@pytest.mark.parametrize(
    ("now", "zone", "time_of_day", "offset"),
    [
        (WINTER, "Europe/Paris", "103015", "+0100"),
        (SUMMER, "Europe/Paris", "113015", "+0200"),
        (SUMMER, "Indian/Reunion", "133015", "+0400"),
        (SUMMER, "America/Guadeloupe", "053015", "-0400"),
    ],
)
def test_times_are_local_with_the_offset_valid_then(
    now: datetime, zone: str, time_of_day: str, offset: str
) -> None:
    dataset = build(now=now, time_zone=zone)
    assert (dataset.ContentTime, dataset.TimezoneOffsetFromUTC) == (time_of_day, offset)


@pytest.mark.parametrize(("sex", "written"), [("F", "F"), ("M", "M"), ("UN", "O"), ("", "")])
def test_sex(sex: str, written: str) -> None:
    assert build(report=replace(REPORT, patient=replace(PATIENT, sex=sex))).PatientSex == written


@pytest.mark.parametrize("birth_date", ["1979", "197903", "19790231", ""])
def test_a_birth_date_that_is_no_day_is_left_empty(birth_date: str) -> None:
    report = replace(REPORT, patient=replace(PATIENT, birth_date=birth_date))
    assert build(report=report).PatientBirthDate == ""


def test_study_values_that_are_no_dates_are_left_empty() -> None:
    dataset = build(replace(IMAGES, StudyDate="2022.12.15", StudyTime="25h"))
    assert (dataset.StudyDate, dataset.StudyTime) == ("", "")


@pytest.mark.parametrize(
    ("organization", "expected"),
    [
        (INSTITUTION, "Centre de radiologie^^^^^^^^^101235555"),
        (Organization(None, "Centre"), "Centre"),
        (Organization(INSTITUTION.id, "C" * 80), "C" * 46 + "^^^^^^^^^101235555"),
        (Organization(INSTITUTION.id, "A^B\nC\\D"), "A B C/D^^^^^^^^^101235555"),
        (None, None),
    ],
)
def test_institution_keeps_the_identifier(organization: Organization | None, expected: str | None) -> None:
    name = institution_name(organization)
    assert name == expected
    assert name is None or len(name) <= 64
    assert build(institution=organization).get("InstitutionName") == expected


def test_text_has_the_exact_layout() -> None:
    second = replace(
        SERIES,
        SeriesInstanceUID=f"{STUDY}.202",
        Modality="MR",
        BodyPartExamined="HEAD",
        SeriesDescription="T2",
    )
    expected = (
        "Examen : Examen A\nActe = CT Head W contrast IV\n"
        f"Série-{STUDY}.201 : CT @  : Serie A1\nSérie-{STUDY}.202 : MR @ HEAD : T2\n"
    )
    assert text_of(build(replace(IMAGES, series=(SERIES, second)))) == expected


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("T2 : Ax", "T2 - Ax"),
        ("a : : b", "a - - b"),
        (": b :", "- b -"),
        ("10:30", "10:30"),
        ("a\r\nb\tc\x85d\u2028e", "a b c d e"),
        ("e\u0301", "é"),
    ],
)
def test_descriptions_cannot_break_the_layout(written: str, expected: str) -> None:
    assert kos_content.description(written) == expected
    text = text_of(build(replace(IMAGES, series=(replace(SERIES, SeriesDescription=written),))))
    assert text.splitlines()[2] == f"Série-{STUDY}.201 : CT @  : {expected}"
    assert len(text.splitlines()) == 3


@pytest.mark.parametrize(
    ("act", "codes", "expected"),
    [
        (ACT.act, REPORT.exam_codes, "CT Head W contrast IV"),
        (Code("24727-0", "LOINC"), REPORT.exam_codes, "RM genou"),
        (None, REPORT.exam_codes, "RM genou"),
        (None, (), ""),
    ],
)
def test_act_is_the_study_s_else_the_exam_s(act: Code | None, codes: tuple[Code, ...], expected: str) -> None:
    report = replace(REPORT, studies=(replace(ACT, act=act),), exam_codes=codes)
    assert text_of(build(report=report)).splitlines()[1] == f"Acte = {expected}"


# SOP class, value type (TID 2010 rows 8 to 10)
VALUE_TYPES = [
    ("1.2.840.10008.5.1.4.1.1.2", "IMAGE"),  # CT
    ("1.2.840.10008.5.1.4.1.1.1.1", "IMAGE"),  # DX for presentation
    ("1.2.840.10008.5.1.4.1.1.77.1.1.1", "IMAGE"),  # video endoscopic
    ("1.2.840.10008.5.1.4.1.1.66.4", "IMAGE"),  # segmentation
    ("1.2.840.10008.5.1.4.1.1.30", "IMAGE"),  # parametric map
    ("1.2.840.10008.5.1.4.1.1.6.2", "IMAGE"),  # enhanced US volume
    ("1.2.840.10008.5.1.4.1.1.481.1", "IMAGE"),  # RT image
    ("1.2.840.10008.5.1.4.1.1.9.1.1", "WAVEFORM"),  # 12-lead ECG
    (KEY_OBJECT, "COMPOSITE"),
    ("1.2.840.10008.5.1.4.1.1.88.67", "COMPOSITE"),  # dose SR
    ("1.2.840.10008.5.1.4.1.1.11.1", "COMPOSITE"),  # GSPS
    ("1.2.840.10008.5.1.4.1.1.104.1", "COMPOSITE"),  # encapsulated PDF
    ("1.2.840.10008.5.1.4.1.1.481.3", "COMPOSITE"),  # RT structure set
    ("1.2.840.10008.5.1.4.1.1.481.2", "COMPOSITE"),  # RT dose
    ("1.2.840.10008.5.1.4.1.1.66", "COMPOSITE"),  # raw data
    ("1.3.12.2.1107.5.9.1", "COMPOSITE"),  # private
]


@pytest.mark.parametrize(("sop_class", "expected"), VALUE_TYPES)
def test_value_type_by_sop_class(sop_class: str, expected: str) -> None:
    one = replace(SERIES, instances=(InstanceRef(f"{STUDY}.9", sop_class, "1.2"),))
    dataset = build(replace(IMAGES, series=(one,)))
    assert [item.ValueType for item in dataset.ContentSequence] == [expected, "TEXT"]
    assert not errors(kos.check_manifest(kos.encode_manifest(dataset)))


@pytest.mark.parametrize(
    ("name", "charset"),
    [("HÉLÈNE", "ISO_IR 100"), ("ZOË", "ISO_IR 100"), ("Œ", "ISO_IR 192"), ("Ł", "ISO_IR 192")],
)
def test_character_set_is_latin_1_when_it_is_enough(name: str, charset: str) -> None:
    dataset = build(report=replace(REPORT, patient=replace(PATIENT, birth_family=name)))
    assert dataset.SpecificCharacterSet == charset
    data = kos.encode_manifest(dataset)
    assert name.encode("latin-1" if charset == "ISO_IR 100" else "utf-8") in data
    assert kos.read_manifest(data).description == text_of(dataset)


def test_without_any_request_the_one_item_has_empty_numbers() -> None:
    item = build(requests=()).ReferencedRequestSequence[0]
    assert (item.AccessionNumber, item.PlacerOrderNumberImagingServiceRequest) == ("", "")
    assert "IssuerOfAccessionNumberSequence" not in item
    assert "OrderPlacerIdentifierSequence" not in item


def test_issuer_kind_follows_the_root() -> None:
    uuid = "90E1C8EC-1111-2222-3333-0123456789AB"
    request = kos.Request(Identifier(uuid, "A1"), Identifier("not an oid", "P1"))
    item = build(requests=(request,)).ReferencedRequestSequence[0]
    issuer = item.IssuerOfAccessionNumberSequence[0]
    assert (issuer.UniversalEntityID, issuer.UniversalEntityIDType) == (uuid, "UUID")
    assert "OrderPlacerIdentifierSequence" not in item


def test_requests_are_those_of_the_images_accession_numbers() -> None:
    second = Order(Identifier("1.2.3", "OPN2"), (Identifier("1.2.4", "ACN2"), Identifier("1.2.4", "ACN3")))
    third = Order(Identifier("1.2.3", "OPN3"), ())
    report = replace(REPORT, orders=(ORDER, second, third))
    wanted = kos.requests_for(report, ("ACN3", "ACN101"))
    assert [one.accession and one.accession.extension for one in wanted] == ["ACN101", "ACN3"]
    every = kos.requests_for(report, ("other",))
    assert [one.placer and one.placer.extension for one in every] == ["OPN101", "OPN2", "OPN2", "OPN3"]
    assert kos.requests_for(replace(REPORT, orders=()), ("ACN101",)) == ()


@pytest.mark.parametrize(
    ("code", "images", "report", "requests"),
    [
        ("report-without-ins", IMAGES, replace(REPORT, patient=replace(PATIENT, ins=None)), ()),
        ("study-not-documented", IMAGES, replace(REPORT, studies=()), ()),
        ("study-empty", replace(IMAGES, series=()), REPORT, ()),
        ("accession-unfit", IMAGES, REPORT, (kos.Request(Identifier("1.2", "A" * 17), None),)),
        ("accession-unfit", IMAGES, REPORT, (kos.Request(Identifier("1.2", "A\\B"), None),)),
        ("placer-unfit", IMAGES, REPORT, (kos.Request(None, Identifier("1.2", "P" * 65)),)),
    ],
)
def test_refusals(
    code: str, images: StudySnapshot, report: Report, requests: tuple[kos.Request, ...]
) -> None:
    with pytest.raises(ReportRefused) as refusal:
        build(images, report, requests=requests)
    assert refusal.value.code == code


def test_every_reason_of_a_refusal_is_given() -> None:
    report = replace(REPORT, patient=replace(PATIENT, ins=None), studies=())
    with pytest.raises(ReportRefused) as refusal:
        build(replace(IMAGES, series=()), report)
    assert refusal.value.reason.count(";") == 2


@pytest.mark.parametrize(
    "base",
    [
        "ftp://db.example.fr/rs",
        "https:///rs",
        "https://user@db.example.fr/rs",
        "https://db.example.fr/rs?x=1",
        "https://db.example.fr/r s",
        "https://db.example.fr/é",
        "",
    ],
)
def test_retrieve_base_must_be_a_plain_address(base: str) -> None:
    with pytest.raises(ValueError, match="Retrieve URL base"):
        build(retrieve_base=base)


def test_a_final_slash_of_the_base_is_not_doubled() -> None:
    study = build(retrieve_base="https://db.example.fr:8443/rs/").CurrentRequestedProcedureEvidenceSequence[0]
    url = study.ReferencedSeriesSequence[0].RetrieveURL
    assert url == f"https://db.example.fr:8443/rs/studies/{STUDY}/series/{STUDY}.201"


def test_arguments_are_checked() -> None:
    with pytest.raises(InvalidUID):
        build(sop_instance_uid="1.02.3")
    with pytest.raises(ValueError, match="series of its own"):
        build(series_instance_uid=f"{STUDY}.201")
    with pytest.raises(ValueError, match="aware"):
        build(now=datetime(2024, 1, 1))  # noqa: DTZ001


def test_the_same_facts_give_the_same_bytes() -> None:
    data = kos.encode_manifest(build())
    assert data == kos.encode_manifest(build())
    assert data[:132] == bytes(128) + b"DICM"
    again = build()
    assert kos.encode_manifest(again) == kos.encode_manifest(again)
    assert "file_meta" not in vars(again)


def test_two_thousand_instances_are_built_in_a_second() -> None:
    instances = tuple(InstanceRef(f"{STUDY}.201.{n}", CT, "1.2", n) for n in range(2000))
    images = replace(IMAGES, series=(replace(SERIES, instances=instances),))
    start = time.process_time()
    data = kos.encode_manifest(build(images))
    assert time.process_time() - start < 2.0, "measured 0.5 s; twice that would be worth a look"
    assert len(kos.read_manifest(data).series[0].instances) == 2000
