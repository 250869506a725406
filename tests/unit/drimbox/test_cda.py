"""A CDA as facts: the valid report, then one thing broken per test."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC

import pytest

from drimbox.domain.cda import check_cda, read_cda
from drimbox.domain.identifiers import Identifier
from drimbox.domain.report import Report
from drimbox.domain.violations import Severity, Violation
from fixtures.reports import ActSpec, OrderSpec, ReportSpec, make_cda

SPEC = ReportSpec()
PARIS = "Europe/Paris"


def read(data: bytes) -> Report:
    reading = read_cda(data, time_zone=PARIS)
    assert reading.report is not None, reading.violations
    return reading.report


def violations(data: bytes) -> dict[str, Violation]:
    return {v.rule: v for v in read_cda(data, time_zone=PARIS).violations}


def edited(old: str, new: str, data: bytes | None = None) -> bytes:
    text = (data or make_cda()).decode("utf-8")
    assert old in text
    return text.replace(old, new).encode("utf-8")


def warned(rule: str, data: bytes) -> Report:
    found = violations(data)
    assert found[rule].severity is Severity.WARNING
    return read(data)


def refused(rule: str, data: bytes) -> Violation:
    reading = read_cda(data, time_zone=PARIS)
    assert reading.report is None
    found = {v.rule: v for v in reading.violations}
    assert found[rule].severity is Severity.ERROR
    return found[rule]


def test_a_valid_report_breaks_no_rule() -> None:
    assert violations(make_cda()) == {}


def test_document() -> None:
    report = read(
        make_cda(replace(SPEC, document_extension="42", version=3, replaces=("1.2.250.1.999.7.8",)))
    )
    assert report.id == Identifier(SPEC.document_id, "42")
    assert (report.set_id, report.version, report.level) == (SPEC.set_id, 3, 1)
    assert report.replaces == (Identifier("1.2.250.1.999.7.8"),)
    assert (report.code.code, report.language, report.confidentiality.code) == ("18748-4", "fr-FR", "N")
    assert [c.display for c in report.exam_codes] == ["CT Head W contrast IV"]
    assert report.title == SPEC.title
    assert report.effective_time.digits == "20260914101500"


def test_patient() -> None:
    patient = read(make_cda(replace(SPEC, used_family="MARTIN", used_given="DOMI"))).patient
    assert patient.ins is not None
    assert (patient.ins.value, patient.ins.oid) == (SPEC.ins, SPEC.ins_oid)
    assert patient.local_ids == (Identifier(SPEC.ipp_oid, SPEC.ipp),)
    assert (patient.birth_family, patient.birth_given) == ("PAT-TROIS", "DOMINIQUE")
    assert patient.birth_given_list == "DOMINIQUE MARIE-LOUISE"
    assert (patient.used_family, patient.used_given) == ("MARTIN", "DOMI")
    assert (patient.sex, patient.birth_date, patient.birth_place) == ("F", "19790328", "51215")


def test_the_ins_is_found_by_its_authority_not_by_its_place() -> None:
    first, second = (
        f'<id root="{SPEC.ins_oid}" extension="{SPEC.ins}"/>',
        f'<id root="{SPEC.ipp_oid}" extension="{SPEC.ipp}"/>',
    )
    patient = read(edited(first + second, second + first)).patient
    assert patient.ins is not None
    assert patient.local_ids == (Identifier(SPEC.ipp_oid, SPEC.ipp),)


def test_nobody_else_lends_a_name() -> None:
    """Guardian, informant and attending physician have names too."""
    assert not {"TUTELLE", "PROCHE", "TRAITANT"} & set(repr(read(make_cda())).replace("'", " ").split())


def test_actors() -> None:
    report = read(make_cda())
    author, signed, performer = report.authors[0], report.legal_authenticator, report.studies[0].performer
    assert signed is not None
    assert performer is not None
    for person in (author, signed, performer):
        assert person.id == Identifier("1.2.250.1.71.4.2.1", SPEC.author_id)
        assert (person.family, person.given) == ("ESSAI", "Camille")
        assert person.specialty is not None
        assert person.specialty.code == "G15_10/SM44"
        assert person.organization is not None
        assert person.organization.id == Identifier("1.2.250.1.71.4.2.2", SPEC.organization_id)
        assert person.organization.name == SPEC.organization_name
    assert (author.role, author.time) == (SPEC.author_role, report.effective_time)
    assert report.facility is not None
    assert report.practice_setting is not None
    assert (report.facility.code, report.practice_setting.code) == ("SA08", "AMBULATOIRE")


def test_a_device_as_author() -> None:
    text = make_cda().decode("utf-8")
    start, end = text.index("<assignedPerson>"), text.index("</assignedPerson>") + len("</assignedPerson>")
    device = "<manufacturerModelName>M1</manufacturerModelName><softwareName>RIS</softwareName>"
    device = f"<assignedAuthoringDevice>{device}</assignedAuthoringDevice>"
    author = read((text[:start] + device + text[end:]).encode("utf-8")).authors[0]
    assert (author.family, author.given) == ("RIS", "M1")


def test_orders_and_accession_numbers() -> None:
    orders = (OrderSpec(), replace(OrderSpec(), accession="ACN902"))
    read_orders = read(make_cda(replace(SPEC, orders=orders))).orders
    assert [o.accessions[0].extension for o in read_orders] == ["ACN901", "ACN902"]
    assert read_orders[0].placer == Identifier("1.2.250.1.999.7.2", "OPN901")
    assert read_orders[0].accessions == (Identifier("1.2.250.1.999.7.3", "ACN901"),)


def test_one_act_with_several_ids_is_several_studies() -> None:
    act = replace(ActSpec(), studies=("1.2.250.1.999.1.1", "1.2.250.1.999.1.2"))
    studies = read(make_cda(replace(SPEC, acts=(act,)))).studies
    assert [s.StudyInstanceUID for s in studies] == ["1.2.250.1.999.1.1", "1.2.250.1.999.1.2"]
    assert studies[0].modalities == studies[1].modalities
    assert studies[0].ccam is not None
    assert studies[0].ccam.code == "ACQH004"


def test_several_acts_on_one_study_are_one() -> None:
    second = replace(ActSpec(), modality="MR", region="67734004")
    studies = read(make_cda(replace(SPEC, acts=(ActSpec(), second)))).studies
    assert len(studies) == 1
    assert [m.code for m in studies[0].modalities] == ["CT", "MR"]
    assert [r.code for r in studies[0].regions] == ["774007", "67734004"]


def test_an_act_without_id_is_no_study() -> None:
    screening = ActSpec(studies=(), act="Z13.9", ccam="", modality="", region="")
    report = read(make_cda(replace(SPEC, acts=(screening, ActSpec()))))
    assert [s.StudyInstanceUID for s in report.studies] == ["1.2.250.1.999.1.901"]
    assert [c.code for c in report.context] == ["Z13.9"]


def test_the_literal_extension_of_older_senders() -> None:
    old = '<id root="1.2.250.1.999.1.901"/>'
    data = edited(old, old.replace("/>", ' extension="studyInstanceUID"/>'))
    assert violations(data) == {}
    assert read(data).studies[0].StudyInstanceUID == "1.2.250.1.999.1.901"


def test_times_of_a_study() -> None:
    study = read(make_cda()).studies[0]
    assert study.start is not None
    assert study.stop is not None
    assert (study.start.digits, study.stop.digits) == ("20260914083000", "20260914085500")


def test_without_ins_the_report_is_read() -> None:
    report = warned("ins-missing", make_cda(replace(SPEC, ins="", birth_place="")))
    assert report.patient.ins is None


def test_rm_becomes_mr() -> None:
    modality = warned("modality-alias", make_cda(replace(SPEC, acts=(replace(ActSpec(), modality="RM"),))))
    assert modality.studies[0].modalities[0].code == "MR"


def test_codes_outside_their_value_set_are_left_aside() -> None:
    study = read(
        make_cda(replace(SPEC, acts=(replace(ActSpec(), modality="OT", region="69536005"),)))
    ).studies[0]
    assert (study.modalities, study.regions) == ((), ())  # 69536005: an older list held it


def test_a_region_under_the_oid_of_the_ccam() -> None:
    loinc = 'codeSystem="2.16.840.1.113883.6.1" codeSystemName="LOINC"'
    old = f'<code code="24727-0" displayName="CT Head W contrast IV" {loinc}>'
    misplaced = '<code code="67734004" displayName="Thorax" codeSystem="1.2.250.1.213.2.5">'
    data = edited('<name code="39111-0"', '<name code="0"', edited(old, misplaced))
    study = warned("region-misplaced", data).studies[0]
    assert [(r.code, r.system) for r in study.regions] == [("67734004", "2.16.840.1.113883.6.96")]


@pytest.mark.parametrize("oid", ["1.2.250.1.215.300.1", "1.2.250.1.213.2.5"])
def test_both_oids_of_the_ccam(oid: str) -> None:
    ccam = read(make_cda(replace(SPEC, acts=(replace(ActSpec(), ccam_oid=oid),)))).studies[0].ccam
    assert ccam is not None
    assert (ccam.code, ccam.system) == ("ACQH004", oid)


def test_the_used_name_of_older_senders_is_not_a_birth_name() -> None:
    spouse = '<family qualifier="SP">MARTIN</family></name>\n<administrative'
    patient = warned("name-qualifier-sp", edited("</name>\n<administrative", spouse)).patient
    assert (patient.birth_family, patient.used_family) == ("PAT-TROIS", "MARTIN")


def test_the_first_given_name_falls_back_on_the_list() -> None:
    patient = read(edited('<given qualifier="BR">DOMINIQUE</given>', "")).patient
    assert patient.birth_given == "DOMINIQUE"


def test_prefixes_do_not_matter() -> None:
    data = edited("ps3-20:", "dcm:", edited("xmlns:ps3-20", "xmlns:dcm"))
    assert read(data).orders[0].accessions[0].extension == "ACN901"


def test_comments_and_long_forms_do_not_matter() -> None:
    data = edited('<id root="1.2.250.1.999.1.901"/>', '<!-- UID --><id\n root="1.2.250.1.999.1.901" ></id>')
    data = edited("<title>CR", "<title><!-- t -->CR", data)
    assert read(data).studies[0].StudyInstanceUID == "1.2.250.1.999.1.901"
    assert read(data).title == SPEC.title


def test_given_names_without_qualifier_are_a_list_split_on_blanks_only() -> None:
    patient = read(make_cda(replace(SPEC, birth_given="", birth_given_list="ANNE-LISE MARIE"))).patient
    assert (patient.birth_given, patient.birth_given_list) == ("ANNE-LISE", "ANNE-LISE MARIE")


def test_the_order_of_names_does_not_matter() -> None:
    first, second = '<family qualifier="BR">PAT-TROIS</family>', '<given qualifier="BR">DOMINIQUE</given>'
    data = edited(first, second, edited(second, ""))
    data = edited("<administrativeGenderCode", "<administrativeGenderCode", data)
    data = edited("</name>\n<administrative", f"{first}</name>\n<administrative", data)
    patient = read(data).patient
    assert (patient.birth_family, patient.birth_given) == ("PAT-TROIS", "DOMINIQUE")


def test_several_authors_and_another_legal_authenticator() -> None:
    text = make_cda().decode("utf-8")
    author = text[text.index("<author>") : text.index("</author>") + len("</author>")]
    second = author.replace("ESSAI", "SECOND").replace(SPEC.author_id, "899900000027")
    second = second.replace(SPEC.author_role, "Radiologue")
    report = read(text.replace(author, author + second).encode("utf-8"))
    assert [a.family for a in report.authors] == ["ESSAI", "SECOND"]
    assert [a.role for a in report.authors] == [
        SPEC.author_role,
        "Radiologue",
    ]  # ATTPHYS both: the label is kept
    assert report.legal_authenticator is not None
    assert report.legal_authenticator.family == "ESSAI"


def test_two_orders_and_three_studies_are_read_and_not_paired() -> None:
    acts = tuple(replace(ActSpec(), studies=(f"1.2.250.1.999.1.{n}",)) for n in (1, 2, 3))
    orders = (OrderSpec(), replace(OrderSpec(), accession="ACN902"))
    report = read(make_cda(replace(SPEC, acts=acts, orders=orders)))
    assert [len(report.studies), len(report.orders)] == [3, 2]


@pytest.mark.parametrize(
    ("written", "digits", "utc"),
    [
        ("20260214083000+0200", "20260214083000", "2026-02-14T06:30:00"),  # summer offset in winter: it wins
        ("20260914083000.827+0200", "20260914083000", "2026-09-14T06:30:00.827000"),
        ("20260914083000", "20260914083000", "2026-09-14T06:30:00"),  # none: Paris
        ("20260914", "20260914", "2026-09-13T22:00:00"),
    ],
)
def test_the_forms_of_a_time(written: str, digits: str, utc: str) -> None:
    start = read(make_cda(replace(SPEC, acts=(replace(ActSpec(), start=written),)))).studies[0].start
    assert start is not None
    assert start.digits == digits
    assert start.at.astimezone(UTC).isoformat() == f"{utc}+00:00"


def test_apostrophes_entities_and_accents() -> None:
    report = read(make_cda(replace(SPEC, title="L’os & l'œil <1>", birth_given="ZOÉ")))
    assert (report.title, report.patient.birth_given) == ("L’os & l'œil <1>", "ZOÉ")


@pytest.mark.parametrize(
    "parent", ["90E1C8EC-F951-4B26-A305-A34848818DD6", "1.2.250.1.999.7.8", "1.2.250.1.999.7.8^42"]
)
def test_a_parent_is_an_oid_or_a_uuid(parent: str) -> None:
    data = make_cda(replace(SPEC, replaces=(parent,)))
    assert violations(data) == {}
    assert [str(p) for p in read(data).replaces] == [parent]


def test_an_id_of_another_time_of_the_ins_is_no_ipp() -> None:
    other = f'<id root="1.2.250.1.213.1.4.2" extension="1234567890123456789012"/><id root="{SPEC.ipp_oid}"'
    patient = warned("ins-authority-unknown", edited(f'<id root="{SPEC.ipp_oid}"', other)).patient
    assert patient.local_ids == (Identifier(SPEC.ipp_oid, SPEC.ipp),)


def test_a_stylesheet_that_carries_a_report() -> None:
    data = make_cda()
    declaration, _, document = data.partition(b"?>")
    sheet = b'<xsl:stylesheet xmlns:xsl="http://www.w3.org/1999/XSL/Transform"><xsl:template match="/"/>'
    carried = declaration + b"?>" + sheet + document + b"</xsl:stylesheet>"
    assert warned("auto-presentable", carried) == read(data)


def test_checking_and_reading_say_the_same() -> None:
    data = edited('<id root="1.2.250.1.999.1.901"/>', "")
    assert check_cda(data, time_zone=PARIS) == read_cda(data, time_zone=PARIS).violations
    assert check_cda(make_cda(), time_zone=PARIS) == ()


def test_every_violation_is_reported() -> None:
    data = edited('<id root="1.2.250.1.999.1.901"/>', "", edited("279035121518989", "279035121518988"))
    assert {"ins-invalid", "study-uid-missing"} <= set(violations(data))


def test_violations_quote_no_identity() -> None:
    data = edited("279035121518989", "279035121518988", edited('code="CT"', 'code="DUPONT Jean"'))
    said = " ".join(v.message + v.where for v in violations(data).values())
    assert not any(word in said for word in ("279035", "PAT-TROIS", "DUPONT", "IPP901"))


@pytest.mark.parametrize("code", ["55115-0", "11502-2", "34555-3"])
def test_another_document_is_named(code: str) -> None:
    violation = refused("code-not-imaging-report", make_cda(replace(SPEC, code=code)))
    assert "not an imaging report" in violation.message
