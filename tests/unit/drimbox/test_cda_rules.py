"""The table of rules beside the facts: one mutation of a valid report, the rule that names it, how severe it is.

Level 1 in the order of the table; then level 3; then what is real and must not be said anything of.
"""

from __future__ import annotations

import base64
import re
from collections import Counter
from dataclasses import replace

import pytest

from drimbox.domain.cda import CdaReading, check_cda, read_cda
from drimbox.domain.cda_rules import MAX_FINDINGS, RULES
from drimbox.domain.violations import Violation
from fixtures.report_header import structured_body
from fixtures.report_pdf import one_page_pdf
from fixtures.reports import ActSpec, OrderSpec, ReportSpec, make_cda

PARIS = "Europe/Paris"
SPEC = ReportSpec()
PDF = base64.b64encode(one_page_pdf(SPEC.text)).decode("ascii")
STUDY = '<id root="1.2.250.1.999.1.901"/>'
MANY = "".join(f'<id root="1.2.250.1.999.1.{n}"/>' for n in range(101))
OLD_INS = '<id root="1.2.250.1.213.1.4.2" extension="1234567890123456789012"/>'
NO_ID = "<parentDocument><id nullFlavor='UNK'/></parentDocument>"

# rule -> (what is written, what is written instead)
ERRORS = {
    # the document
    "id-missing": ('<id root="1.2.250.1.999.7.9.1"/>', '<id nullFlavor="UNK"/>'),
    "id-invalid": ('<id root="1.2.250.1.999.7.9.1"/>', '<id root="report 1"/>'),
    "id-too-long": ('root="1.2.250.1.999.7.9.1"', f'root="1.2.250.1.999.7.9.1" extension="{"9" * 120}"'),
    "code-missing": ('<code code="18748-4"', '<code nullFlavor="UNK"'),
    "code-not-imaging-report": ('<code code="18748-4"', '<code code="55115-0"'),
    "effective-time-missing": ('<effectiveTime value="20260914101500+0200"/>', ""),
    "effective-time-invalid": ('<effectiveTime value="2026', '<effectiveTime value="{{2026'),
    "confidentiality-missing": ('<confidentialityCode code="N"', "<confidentialityCode"),
    "confidentiality-invalid": ('<confidentialityCode code="N"', '<confidentialityCode code="X"'),
    "visibility-in-cda": ('<confidentialityCode code="N"', '<confidentialityCode code="MASQUE_PS"'),
    # the patient
    "patient-not-one": ("</recordTarget>", "</recordTarget><recordTarget><patientRole/></recordTarget>"),
    "ins-invalid": ("279035121518989", "279035121518988"),
    "ins-ambiguous": (
        '<id root="1.2.250.1.999.7.1"',
        '<id root="1.2.250.1.213.1.4.9" extension="279035121518989"/><id root="1.2.250.1.999.7.1"',
    ),
    "ins-traits-incomplete": ("<county>51215</county>", ""),
    # orders and acts
    "order-missing": ("inFulfillmentOf>", "authorization>"),
    "accession-namespace": ("urn:dicom-org:ps3-20", "urn:example:elsewhere"),
    "study-uid-missing": (STUDY, ""),
    "studies-too-many": (STUDY, MANY),
    "study-uid-invalid": (STUDY, '<id root="1.2.250.01.901"/>'),
    "study-uid-extension": ('root="1.2.250.1.999.1.901"', 'root="1.2.250.1.999.1.901" extension="ACN901"'),
    "ccam-invalid": ('code="ACQH004"', 'code="ACQH0041"'),
    "region-unknown": ('code="774007"', 'code="774008"'),
    # the body
    "body-missing": (f'<text mediaType="application/pdf" representation="B64">{PDF}</text>', ""),
    "body-repeated": ("</nonXMLBody>", "</nonXMLBody><structuredBody/>"),
    "body-media-type": ('mediaType="application/pdf"', 'mediaType="text/plain"'),
    "body-content": ("JVBERi0", "J%ERi0"),
}
WARNINGS = {
    # the document
    "confidentiality-restricted": ('<confidentialityCode code="N"', '<confidentialityCode code="R"'),
    "confidentiality-not-for-dmp": ('<confidentialityCode code="N"', '<confidentialityCode code="L"'),
    "set-id-missing": ('<setId root="1.2.250.1.999.7.9"/>', ""),
    "version-missing": ('<versionNumber value="1"/>', f'<versionNumber value="{"9" * 5000}"/>'),
    "title-missing": (SPEC.title, " "),
    "language-missing": ('<languageCode code="fr-FR"/>', ""),
    "double-encoding": (SPEC.title, SPEC.title.encode("utf-8").decode("cp1252")),
    "time-invalid": ('<low value="20260914083000+0200"/><high', '<low value="yesterday"/><high'),
    "element-unknown": ("<setId", "<unknownElement/><setId"),
    "element-order": ('<languageCode code="fr-FR"/>\n<setId', '<setId root="1.2.3"/><languageCode/>\n<setId'),
    "template-missing": ("1.2.250.1.213.1.1.1.1", "1.2.250.1.213.1.1.1.45"),
    "related-document": (
        "<componentOf>",
        f'<relatedDocument typeCode="RPLC">{NO_ID}</relatedDocument><componentOf>',
    ),
    # the patient
    "ins-authority-unknown": ('<id root="1.2.250.1.999.7.1"', f'{OLD_INS}<id root="1.2.250.1.999.7.1"'),
    "ins-missing": ('<id root="1.2.250.1.213.1.4.10" extension="279035121518989"/>', ""),
    "birth-given-missing": ('<given qualifier="BR">DOMINIQUE</given>', ""),
    "name-qualifier-sp": (
        "</name>\n<administrative",
        '<family qualifier="SP">X</family></name>\n<administrative',
    ),
    "sex-unknown": ('<administrativeGenderCode code="F"', '<administrativeGenderCode code="X"'),
    "ipp-missing": ('<id root="1.2.250.1.999.7.1" extension="IPP901"/>', ""),
    # the actors
    "author-missing": ("author>", "authenticator>"),
    "author-time-missing": ('<time value="20260914101500+0200"/>\n<assignedAuthor', "<assignedAuthor"),
    "author-id-missing": (
        '<assignedAuthor><id root="1.2.250.1.71.4.2.1" extension="899900000019"/>',
        '<assignedAuthor><id nullFlavor="UNK"/>',
    ),
    "custodian-missing": ("custodian", "dataEnterer"),
    "legal-authenticator-missing": ("legalAuthenticator", "authenticator"),
    "signature-time-missing": (
        '<time value="20260914101500+0200"/><signature',
        '<time nullFlavor="UNK"/><signature',
    ),
    "structure-id-malformed": ('extension="1999999999"', 'extension="199999999"'),
    # orders and acts
    "order-id-missing": ('<id root="1.2.250.1.999.7.2" extension="OPN901"/>', '<id nullFlavor="NI"/>'),
    "accession-missing": ('extension="ACN901"', ""),
    "accession-order": ("<order>", '<order><ps3-20:accessionNumber root="1.2.250.1.999.7.3" extension="B"/>'),
    "accession-repeated": (
        "</order>",
        '<ps3-20:accessionNumber root="1.2.250.1.999.7.3" extension="B"/></order>',
    ),
    "act-without-study": (
        "<componentOf>",
        '<documentationOf><serviceEvent><code code="1"><translation code="CT"><qualifier><name code="121139"/>'
        "</qualifier></translation></code></serviceEvent></documentationOf><componentOf>",
    ),
    "modality-alias": ('code="CT"', 'code="RM"'),
    "modality-unknown": ('code="CT"', 'code="OT"'),
    "modality-missing": ('<name code="121139"', '<name code="121140"'),
    "region-misplaced": ('code="ACQH004"', 'code="67734004"'),
    "region-older": ('code="774007"', 'code="69536005"'),
    "start-missing": ('<low value="20260914083000+0200"/><high', "<high"),
    "performer-missing": (
        '<performer typeCode="PRF"><assignedEntity><id root="1.2.250.1.71.4.2.1" extension="899900000019"/>',
        '<performer typeCode="PRF"><assignedEntity><id nullFlavor="UNK"/>',
    ),
    "performer-structure-missing": ("performer", "participant"),
    "practice-setting-missing": ("<standardIndustryClassCode code", "<standardIndustryClassCode x"),
    "practice-setting-unknown": ('code="AMBULATOIRE"', 'code="AMBULATORY"'),
    "facility-missing": ('<code code="SA08"', '<code x="SA08"'),
    "facility-unknown": ('<code code="SA08"', '<code code="CLINIC"'),
    "encounter-unknown": ('<code code="AMB"', '<code code="OUT"'),
    # the body
    "body-representation": ('representation="B64"', 'representation="TXT"'),
}
# what is judged on other terms, in another level or before the table
ELSEWHERE = {"ins-authority-refused", "auto-presentable"}
LEVEL_3 = {"catalog-missing", "catalog-mismatch", "catalog-series", "conclusion-missing"}


def edited(old: str, new: str, data: bytes | None = None) -> bytes:
    text = (data or make_cda()).decode("utf-8")
    assert old in text
    return text.replace(old, new).encode("utf-8")


def read(data: bytes, *, for_publication: bool = True) -> CdaReading:
    return read_cda(data, time_zone=PARIS, for_publication=for_publication)


def broken(data: bytes) -> dict[str, Violation]:
    return {v.rule: v for v in check_cda(data, time_zone=PARIS)}


@pytest.mark.parametrize("rule", ERRORS)
def test_what_stops_a_report(rule: str) -> None:
    reading = read(edited(*ERRORS[rule]))
    assert reading.report is None
    violation = {v.rule: v for v in reading.violations}[rule]
    assert (violation.severity, bool(violation.clause), bool(violation.where)) == ("error", True, True)


@pytest.mark.parametrize("rule", WARNINGS)
def test_what_is_only_noted(rule: str) -> None:
    reading = read(edited(*WARNINGS[rule]))
    violation = {v.rule: v for v in reading.violations}[rule]
    assert (violation.severity, bool(violation.clause), bool(violation.where)) == ("warning", True, True)
    assert reading.report is not None, reading.violations


def test_every_row_of_the_table_is_tested() -> None:
    slugs = [rule.slug for rule in RULES]
    assert Counter(slugs).most_common(1)[0][1] == 1
    assert set(slugs) == {*ERRORS, *WARNINGS, *LEVEL_3, *ELSEWHERE}


PUBLICATION = {rule.slug for rule in RULES if rule.publication}


def test_what_only_forbids_publication_is_the_list_of_the_facts() -> None:
    """cda-and-xds 4.6, its last sentence; INS and Study Instance UID have their own rows."""
    assert {
        "id-too-long",
        "ins-authority-refused",
        "order-missing",
        "ccam-invalid",
        "region-unknown",
        "body-missing",
        "body-repeated",
        "body-media-type",
        "body-content",
    } == PUBLICATION


@pytest.mark.parametrize("rule", sorted(PUBLICATION & set(ERRORS)))
def test_a_withdrawal_is_not_stopped_by_what_forbids_publication(rule: str) -> None:
    reading = read(edited(*ERRORS[rule]), for_publication=False)
    assert reading.report is not None, reading.violations
    assert {v.rule: v.severity for v in reading.violations}[rule] == "warning"


@pytest.mark.parametrize("rule", sorted(set(ERRORS) - PUBLICATION))
def test_a_withdrawal_is_stopped_by_what_cannot_be_read(rule: str) -> None:
    assert read(edited(*ERRORS[rule]), for_publication=False).report is None


def test_test_and_production_identities_do_not_mix() -> None:
    data = make_cda()
    production = frozenset({"1.2.250.1.213.1.4.8", "1.2.250.1.213.1.4.9"})
    found = check_cda(data, time_zone=PARIS, ins_authorities=production)
    assert [(v.rule, v.severity) for v in found] == [("ins-authority-refused", "error")]
    assert read_cda(data, time_zone=PARIS, ins_authorities=production).report is None
    nir = edited("1.2.250.1.213.1.4.10", "1.2.250.1.213.1.4.8")
    assert check_cda(nir, time_zone=PARIS, ins_authorities=production) == ()


INS_KEYS = {
    "279035121518989": True,
    "279035121518988": False,
    "27903512151898": False,
    "2790351215189891": False,
    "199012A55512342": True,
    "199012A55512343": False,
    "199012B55512369": True,
    "199012B55512370": False,
    "199012C55512322": False,
    "19901A255512322": False,
}


@pytest.mark.parametrize("ins", INS_KEYS)
def test_the_key_of_the_ins(ins: str) -> None:
    """97 less the rest by 97 of 13 characters; department 2A counts as 19, 2B as 18."""
    assert ("ins-invalid" not in broken(make_cda(replace(SPEC, ins=ins)))) is INS_KEYS[ins]


GARBAGE = {
    "no base64": "%%%%",
    "blank that is no ASCII": f"\u00a0{PDF}",
    "padding in the middle": PDF[:8] + "==" + PDF[8:],
    "padding left out": base64.b64encode(one_page_pdf(SPEC.text) + b"  ").decode("ascii").rstrip("=")[:-1],
    "too much padding": f"{PDF}====",
    "url alphabet": PDF[:20] + "-_-_" + PDF[20:],
    "empty": "",
    "other file": base64.b64encode(b"\x89PNG\r\n\x1a\n").decode("ascii"),
}


@pytest.mark.parametrize("case", GARBAGE)
def test_a_body_that_is_no_pdf_in_base64(case: str) -> None:
    assert broken(edited(f">{PDF}<", f">{GARBAGE[case]}<"))["body-content"].severity == "error"


@pytest.mark.parametrize(
    "body",
    [
        "\r\n".join(re.findall(".{1,76}", PDF)),
        f"  {PDF[:50]}\t{PDF[50:]}\n",
        f"{PDF[:50]}<!-- page -->{PDF[50:]}",
        base64.b64encode(b"%PDF-1.7").decode("ascii"),
    ],
)
def test_a_body_that_is_a_pdf(body: str) -> None:
    """White space is stripped; no mark of PDF/A is asked for."""
    assert broken(edited(f">{PDF}<", f">{body}<")) == {}


# what is real and must be read without a word (cda-and-xds 4.6, section 6)
SILENT = {
    "a misspelt schema namespace": ("XMLSchema-instance", "XMLSchemainstance"),
    "a display name that is not the code's": ("CT Head W contrast IV", "Radio du genou"),
    "another label of ATTPHYS": (SPEC.author_role, "Médecin responsable"),
    "an order domain under the OID of SNOMED CT": ("1.2.250.1.999.7.2", "2.16.840.1.113883.6.96"),
    "an undeclared domain": ("1.2.250.1.999.7.3", "1.2.840.10008.99"),
    "the literal extension of older senders": (STUDY, STUDY.replace("/>", ' extension="studyInstanceUID"/>')),
    "the other OID of the CCAM": ("1.2.250.1.213.2.5", "1.2.250.1.215.300.1"),
    "a setId that is a UUID": (
        '<setId root="1.2.250.1.999.7.9"',
        '<setId root="D52DE737-001D-4031-B571-0A0ED7C42300"',
    ),
    "a header translation that is not the act's": (
        '<translation code="24727-0"',
        '<translation code="24728-0"',
    ),
    "participants without time": ('<time nullFlavor="NA"/>', '<time nullFlavor="UNK"/>'),
    "an encounter without type": ('<code code="AMB" displayName="ambulatoire"', '<code nullFlavor="UNK"'),
    "an encounter of the other system": ('code="AMB"', 'code="EXTERNE"'),
    "a facility of the nomenclature that is not listed here": ('code="SA08"', 'code="SA69"'),
    "an unknown sex": ('<administrativeGenderCode code="F"', '<administrativeGenderCode code="UN"'),
    "a foreign birth place": ("<county>51215</county>", "<county>99350</county>"),
    "a Corsican birth place": ("<county>51215</county>", "<county>2A004</county>"),
    "an RPPS whose Luhn key is wrong": ("899900000019", "801234560804"),
    "an extension of another standard": ("<setId", '<s:x xmlns:s="urn:hl7-org:sdtc"/><setId'),
    "instructions before the root": (
        "<ClinicalDocument",
        '<?xml-stylesheet href="x.xsl"?><?oxygen x="y"?><ClinicalDocument',
    ),
}


@pytest.mark.parametrize("case", SILENT)
def test_what_is_real_passes_without_a_word(case: str) -> None:
    data = edited(*SILENT[case])
    assert broken(data) == {}
    assert read(data).report is not None


STUDIES = ("1.2.250.1.999.1.901", "1.2.250.1.999.1.902")


def level_3(body: str) -> bytes:
    acts = tuple(replace(ActSpec(), studies=(study,)) for study in STUDIES)
    orders = (OrderSpec(), replace(OrderSpec(), accession="ACN902"))
    text = make_cda(replace(SPEC, acts=acts, orders=orders)).decode("utf-8")
    level_1 = text[text.index("<component><nonXMLBody>") : text.index("</ClinicalDocument>")]
    templates = ("1.2.840.10008.9.1", "1.2.840.10008.9.20", "1.2.840.10008.9.21", "1.2.250.1.213.1.1.1.45")
    declared = "".join(f'<templateId root="{template}"/>' for template in templates)
    text = text.replace('<templateId root="1.3.6.1.4.1.19376.1.2.20"/>', declared)
    return text.replace(level_1, body).encode("utf-8")


def test_a_structured_report() -> None:
    reading = read(level_3(structured_body(STUDIES)))
    assert reading.violations == ()
    assert reading.report is not None
    assert reading.report.level == 3
    assert [s.StudyInstanceUID for s in reading.report.studies] == list(STUDIES)
    assert [o.accessions[0].extension for o in reading.report.orders] == ["ACN901", "ACN902"]


@pytest.mark.parametrize(
    ("body", "rules"),
    [
        (structured_body(()), {"catalog-missing": 1}),
        (structured_body((*STUDIES, "1.2.250.1.999.1.903")), {"catalog-mismatch": 1}),
        (structured_body(STUDIES[:1]), {"catalog-mismatch": 1}),
        (structured_body((STUDIES[0], "1.2.250.1.999.1.001")), {"catalog-mismatch": 2}),
        (structured_body(STUDIES, series=2), {"catalog-series": 2}),
        (structured_body(STUDIES).replace("19005-8", "55112-7"), {"conclusion-missing": 1}),
    ],
)
def test_a_catalog_that_disagrees_is_noted_and_the_header_wins(body: str, rules: dict[str, int]) -> None:
    reading = read(level_3(body))
    assert Counter(v.rule for v in reading.violations) == rules
    assert {v.severity for v in reading.violations} == {"warning"}
    assert reading.report is not None
    assert [s.StudyInstanceUID for s in reading.report.studies] == list(STUDIES)


def test_the_annex_of_a_structured_report_is_not_its_body() -> None:
    annex = (
        '<observationMedia><value mediaType="text/rtf" representation="B64">%%%</value></observationMedia>'
    )
    body = structured_body(STUDIES).replace("<text>Conclusion.</text>", f"<text/><entry>{annex}</entry>")
    assert broken(level_3(body)) == {}


def test_level_3_templates_on_a_level_1_body() -> None:
    data = edited(
        '<templateId root="1.3.6.1.4.1.19376.1.2.20"/>',
        '<templateId root="1.3.6.1.4.1.19376.1.2.20"/><templateId root="1.2.250.1.213.1.1.1.45"/>',
    )
    reading = read(data)
    assert [v.rule for v in reading.violations] == ["template-missing"]
    assert reading.report is not None
    assert reading.report.level == 1


def test_an_order_is_refused_as_no_report_first() -> None:
    """IMG-DA-IMG: its serviceEvent/id is a placer order number, never to be taken for a study."""
    data = make_cda(replace(SPEC, code="55115-0", orders=()))
    found = check_cda(data, time_zone=PARIS)
    assert next(v.rule for v in found if v.severity == "error") == "code-not-imaging-report"
    assert "an imaging order (IMG-DA-IMG)" in found[0].message


def test_screening_acts_are_skipped_by_every_rule() -> None:
    screening = ActSpec(studies=(), act="Z13.9", ccam="", modality="", region="")
    urgency = replace(screening, act="MED-1095")
    reading = read(make_cda(replace(SPEC, acts=(ActSpec(), screening, urgency))))
    assert reading.violations == ()
    assert reading.report is not None
    assert [c.code for c in reading.report.context] == ["Z13.9", "MED-1095"]


def test_accents_encoded_twice_are_named_wherever_they_show() -> None:
    data = make_cda(replace(SPEC, birth_given_list="ZOÃ‰ ANAÃ¯S", code_label="CR dâ€™imagerie mÃ©dicale"))
    assert [v.where for v in check_cda(data, time_zone=PARIS)] == [
        "c:recordTarget/c:patientRole/c:patient/c:name/c:given",
        "c:code/@displayName",
    ]


def test_one_rule_reports_its_first_places_only() -> None:
    acts = tuple(replace(ActSpec(), studies=(f"1.2.250.1.999.1.{n}",), modality="OT") for n in range(1, 41))
    found = Counter(v.rule for v in check_cda(make_cda(replace(SPEC, acts=acts)), time_zone=PARIS))
    assert found == {"modality-unknown": MAX_FINDINGS}


def test_no_violation_repeats_what_the_sender_wrote_of_a_person() -> None:
    """Every mutation of the tables, read whole: names, INS and IPP stay out."""
    words = ("PAT-TROIS", "DOMINIQUE", "2790351215", "IPP901", "DOMPREMY", "ESSAI", "19790328")
    for old, new in [*ERRORS.values(), *WARNINGS.values()]:
        for violation in check_cda(edited(old, new), time_zone=PARIS):
            assert not any(word in violation.message + violation.where for word in words)
