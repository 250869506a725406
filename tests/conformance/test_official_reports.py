"""The ecosystem's own reports and messages: read whole, facts as documented (drim-m-data 7, 8; cda-and-xds 1, 2)."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path

import pytest
from lxml import etree

from drimbox.domain.acknowledge import acknowledge
from drimbox.domain.cda import read_cda
from drimbox.domain.hl7v2 import ExamOrder, ReportMessage, read_message
from drimbox.domain.identifiers import Identifier
from drimbox.domain.report import Report
from drimbox.domain.report_states import Incoming, Known, StatePolicy, decide
from fixtures.reports import ReportSpec, make_cda, make_omi

INS = Identifier("1.2.250.1.213.1.4.10", "279035121518989")
FILLED = {
    "{{applicationSupplier}}": "RIS",
    "{{facilitySupplier}}": "CENTRE",
    "{{applicationReceiver}}": "DRIMBOX",
    "{{facilityReceiver}}": "CENTRE",
    "{{idMessage}}": "20261114093000123",
}


def report(official: Path, name: str, *, warnings: set[str]) -> Report:
    reading = read_cda((official / "cda" / name).read_bytes(), time_zone="Europe/Paris")
    assert {v.rule for v in reading.violations} == warnings
    assert reading.report is not None
    return reading.report


def received(official: Path, name: str, *, fill: bool = True) -> ReportMessage | ExamOrder:
    data = (official / "hl7" / name).read_bytes()
    for placeholder, value in FILLED.items() if fill else ():
        data = data.replace(placeholder.encode(), value.encode())
    found = read_message(data)
    assert isinstance(found, ReportMessage | ExamOrder)
    return found


def message(official: Path, name: str, *, fill: bool = True) -> ReportMessage:
    found = received(official, name, fill=fill)
    assert isinstance(found, ReportMessage)
    return found


def carried(found: ReportMessage) -> Report:
    reading = read_cda(found.cda, time_zone="Europe/Paris")
    assert reading.report is not None, reading.violations
    return reading.report


def studies(found: Report) -> list[str]:
    return [s.StudyInstanceUID for s in found.studies]


@pytest.mark.parametrize("fill", [True, False])
def test_cr_j_oru(official: Path, fill: bool) -> None:
    found = message(official, "CR_J-ORU.hl7", fill=fill)
    assert (found.operation, found.ins, found.patient_class) == ("NW", INS, "I")
    assert found.local_ids == (Identifier("1.2.250.1.213.4.5.2.4", "IPP101"),)
    assert found.header.control_id == ("20261114093000123" if fill else "{{idMessage}}")
    unfilled = "message-date" if fill else "placeholder"  # MSH-7 is the message id of the template
    assert {w.rule for w in found.warnings} == {unfilled, "authority-blank", "participation-label"}
    assert found.flags["DESTDMP"] is True
    assert found.flags["INVISIBLE_PATIENT"] is True
    assert found.sender is not None
    assert found.sender.person == Identifier("1.2.250.1.71.4.2.1", "801234564895")
    inside = carried(found)
    assert studies(inside) == ["1.2.250.1.213.4.5.2.1.111"]
    assert [o.accessions[0].extension for o in inside.orders] == ["ACN111"]
    assert [o.placer.extension for o in inside.orders if o.placer] == ["OPN111"]
    assert inside.patient.ins is not None
    assert inside.patient.ins.value == INS.extension
    assert inside.patient.local_ids == found.local_ids
    assert (inside.patient.birth_family, inside.patient.birth_given) == ("PAT-TROIS", "DOMINIQUE")


def test_cr_g1_maj_mdm_replaces(official: Path) -> None:
    found = message(official, "CR_G1_MAJ-MDM.hl7")
    assert (found.operation, found.document_id, found.parent_id) == (
        "RO",
        "1.2.250.1.213.4.5.4.4072",
        "1.2.250.1.213.4.5.4.407",
    )
    assert found.flags["MODIF_CONF_CODE"] is True
    inside = carried(found)
    assert str(inside.id) == found.document_id
    assert [str(i) for i in inside.replaces] == [found.parent_id]
    assert inside.version == 2


@pytest.mark.parametrize(
    ("name", "operation", "document"),
    [
        ("01_mdm_t02_img_init_v21.er7", "NW", "71024000081"),
        ("02_mdm_t10_img_replace_v21.er7", "RO", "71024000082"),
        ("03_mdm_t04_img_delete_v21.er7", "CA", "71024000082"),
    ],
)
def test_er7_messages(official: Path, name: str, operation: str, document: str) -> None:
    """LF terminators, base64 without padding, a stray component in TXA-12, old flags of a full-size report."""
    found = message(official, name)
    assert (found.operation, found.header.control_id) == (operation, "015")
    assert found.document_id == f"1.2.250.1.71.4.2.2.120456789.{document}"
    assert found.sender is not None
    inside = carried(found)
    assert str(inside.id) == found.document_id
    assert studies(inside) == ["1.3.6.1.4.1.5962.99.1.3711725607.829148806.1687338938407.3.0"]
    assert inside.orders[0].accessions == (Identifier("1.2.840.113619.6.197", "7252295367250056"),)
    assert inside.effective_time.digits == "20050411103328"
    assert inside.authors[0].time is not None
    assert inside.authors[0].time.at.microsecond == 827_000


@pytest.mark.parametrize("fill", [True, False])
def test_cr_w_deletes_an_exam(official: Path, fill: bool) -> None:
    found = received(official, "CR_W_Suppression-OMI.hl7", fill=fill)
    assert isinstance(found, ExamOrder)
    assert (found.control, found.cancelled) == ("CA", True)
    assert found.study_instance_uid == "1.2.250.1.213.4.5.2.1.124"
    assert found.accession == Identifier("", "ACN124")
    assert found.requested_procedure_id == Identifier("", "PACS_SOURCE")
    assert (found.ins, found.identity_reliability, found.patient_class) == (INS, "VALI", "I")
    assert found.local_ids == (Identifier("1.2.250.1.213.4.5.2.4", "IPP101"),)
    assert (found.header.control_id, found.header.version) == ("001", "2.5.1")
    assert {w.rule for w in found.warnings} == {"terminator", "message-date" if fill else "placeholder"}
    answer = acknowledge(found.header, code="AA", now=datetime(2026, 11, 14, tzinfo=UTC), control_id="X")
    assert b"|ACK^O23^ACK|X|P|2.5.1|" in answer
    assert answer.endswith(b"\rMSA|AA|001\r")


def names(data: bytes) -> list[bytes]:
    return [line[:3] for line in data.replace(b"\n", b"").split(b"\r") if line]


def test_our_synthetic_order_has_the_shape_of_the_official_one(official: Path) -> None:
    theirs, ours = (official / "hl7" / "CR_W_Suppression-OMI.hl7").read_bytes(), make_omi()
    assert names(ours) == names(theirs)
    filled = [{n for n, f in enumerate(d.split(b"IPC|")[1].split(b"|")) if f.strip()} for d in (theirs, ours)]
    assert filled[0] == filled[1]


def incoming(official: Path, name: str) -> tuple[ReportMessage, Incoming]:
    found = message(official, name)
    inside = carried(found)
    digest = hashlib.sha256(found.cda).hexdigest()
    parents = tuple(str(parent) for parent in inside.replaces)
    return found, Incoming(str(inside.id), digest, parents, found.flags.get("MODIF_CONF_CODE", False))


def test_the_life_of_a_report(official: Path) -> None:
    """Created, replaced, deleted by the three .er7: the CDA of the deletion is not the bytes of the replacement."""
    policy = StatePolicy()
    created, first = incoming(official, "01_mdm_t02_img_init_v21.er7")
    assert decide(created.operation, first, Known(), policy).row == "new"
    replaced, second = incoming(official, "02_mdm_t10_img_replace_v21.er7")
    assert second.parents == (first.document_id,) == (replaced.parent_id,)
    verdict = decide(replaced.operation, second, Known(parents={first.document_id: "current"}), policy)
    assert (verdict.kind, verdict.supersedes) == ("replace", (first.document_id,))
    deleted, third = incoming(official, "03_mdm_t04_img_delete_v21.er7")
    assert third.document_id == second.document_id
    known = Known(("current", second.digest), {first.document_id: "superseded"})
    verdict = decide(deleted.operation, third, known, policy)
    assert (verdict.kind, verdict.row) == ("withdraw", "deletion-other-content")
    known = Known(("withdrawn", second.digest), known.parents)
    assert decide(deleted.operation, third, known, policy).kind == "nothing"


def test_g1_maj_before_and_after_g1(official: Path) -> None:
    found, update = incoming(official, "CR_G1_MAJ-MDM.hl7")
    known = Known(parents={"1.2.250.1.213.4.5.4.407": "current"})
    assert decide(found.operation, update, known, StatePolicy()).kind == "replace"
    alone = decide(found.operation, update, Known(), StatePolicy())
    assert (alone.kind, alone.warning) == ("create", "orphan-replacement")
    strict = decide(found.operation, update, Known(), StatePolicy(orphan_replacement=False))
    assert (strict.kind, strict.code) == ("refuse", "900")


def test_cr_f_two_studies_two_accessions(official: Path) -> None:
    found = report(official, "CR_F.xml", warnings={"modality-alias", "structure-id-malformed"})
    assert studies(found) == ["1.2.250.1.213.4.5.2.1.106", "1.2.250.1.213.4.5.2.1.107"]
    assert [o.accessions[0].extension for o in found.orders] == ["ACN106", "ACN107"]
    assert {m.code for s in found.studies for m in s.modalities} == {"MR"}
    assert {r.code for s in found.studies for r in s.regions} == {"61685007"}
    assert found.studies[0].ccam is not None
    assert found.studies[0].ccam.code == "NZQN001"


def test_cr_ok_absent_no_used_name(official: Path) -> None:
    patient = report(official, "CR_OK_Absent.xml", warnings={"structure-id-malformed"}).patient
    assert (patient.birth_family, patient.birth_given, patient.birth_given_list) == (
        "PAT-TROIS",
        "DOMINIQUE",
        "DOMINIQUE",
    )
    assert (patient.used_family, patient.used_given) == ("", "")
    assert patient.birth_place == "63220"


def test_2023_11(official: Path) -> None:
    expected = {"birth-given-missing", "structure-id-malformed"}
    found = report(official, "IMG_CR_IMG_2023.11_CDA-R2-Niveau-1.xml", warnings=expected)
    assert studies(found) == [f"1.2.250.1.3.152.235.2.12.18763647{n}" for n in (4, 5, 6)]
    assert found.patient.birth_given == "DOMINIQUE"
    assert found.replaces == (Identifier("90E1C8EC-F951-4B26-A305-A34848818DD6"),)


@pytest.mark.parametrize(
    ("name", "level", "last", "accessions"),
    [
        ("tc3-IMG_CR_IMG_2024.01.xml", 3, "187636", ["105234751", "105234752"]),
        ("tc3-IMG_CR_IMG_2024.01_N1.xml", 1, "187635", ["105234751"]),
    ],
)
def test_tc3(official: Path, name: str, level: int, last: str, accessions: list[str]) -> None:
    """Three studies and a screening act that is none; the CCAM under its newer OID."""
    found = report(official, name, warnings=set())
    assert (found.level, found.version) == (level, 2)
    assert studies(found) == [f"1.2.250.1.925.994044.27.123.{last}{n}" for n in (0, 1, 2)]
    assert [o.accessions[0].extension for o in found.orders] == accessions
    assert [c.code for c in found.exam_codes] == ["24727-0", "36235-0", "24979-7"]
    assert {s.ccam.system for s in found.studies if s.ccam} == {"1.2.250.1.215.300.1"}
    assert [c.code for c in found.context] == ["Z13.9"]
    assert found.patient.birth_given_list == "DOMINIQUE MARIE-LOUISE"
    assert found.facility is not None
    assert found.facility.code == "SA08"
    assert found.practice_setting is not None
    assert found.practice_setting.code == "AMBULATOIRE"


OF_THE_FULL_SIZE_REPORT = {
    "set-id-missing",
    "name-qualifier-sp",
    "ipp-missing",
    "modality-missing",
    "region-misplaced",
    "region-older",
    "performer-missing",
}


@pytest.mark.parametrize(
    ("name", "warnings"),
    [
        ("CR_J-ORU.hl7", {"structure-id-malformed"}),
        ("CR_G1_MAJ-MDM.hl7", set()),
        ("01_mdm_t02_img_init_v21.er7", OF_THE_FULL_SIZE_REPORT),
        ("02_mdm_t10_img_replace_v21.er7", OF_THE_FULL_SIZE_REPORT),
        ("03_mdm_t04_img_delete_v21.er7", OF_THE_FULL_SIZE_REPORT),
    ],
)
def test_what_is_noted_of_the_carried_reports(official: Path, name: str, warnings: set[str]) -> None:
    found = read_cda(message(official, name).cda, time_zone="Europe/Paris")
    assert found.report is not None
    assert {v.rule for v in found.violations} == warnings


def mutated(official: Path, name: str, old: str, new: str) -> dict[str, str]:
    text = (official / "cda" / name).read_text("utf-8")
    assert old in text
    found = read_cda(text.replace(old, new).encode("utf-8"), time_zone="Europe/Paris")
    return {v.rule: v.severity for v in found.violations}


STRUCTURED = "tc3-IMG_CR_IMG_2024.01.xml"


@pytest.mark.parametrize(
    ("name", "old", "new", "expected"),
    [
        (STRUCTURED, 'code="113014"', 'code="113099"', {"catalog-missing": "warning"}),
        (STRUCTURED, 'code="19005-8"', 'code="19005-9"', {"conclusion-missing": "warning"}),
        (STRUCTURED, 'code="774007"', 'code="774008"', {"region-unknown": "error"}),
        (STRUCTURED, 'code="ACQH004"', 'code="ACQH00"', {"ccam-invalid": "error"}),
        (STRUCTURED, "urn:dicom-org:ps3-20", "urn:other", {"accession-namespace": "error"}),
        ("CR_OK_Absent.xml", "279035121518989", "279035121518988", {"ins-invalid": "error"}),
        (
            "CR_OK_Absent.xml",
            'mediaType="application/pdf"',
            'mediaType="bogus"',
            {"body-media-type": "error"},
        ),
    ],
)
def test_one_thing_broken_in_an_official_report(
    official: Path, name: str, old: str, new: str, expected: dict[str, str]
) -> None:
    assert expected.items() <= mutated(official, name, old, new).items()


def paths(data: bytes) -> set[str]:
    """Every element of a document as the names from its root."""
    root = etree.fromstring(data)
    names = {
        e: "/".join(etree.QName(p).localname for p in reversed([e, *e.iterancestors()]))
        for e in root.iter("*")
    }
    return set(names.values())


def test_our_synthetic_report_has_the_shape_of_the_official_ones(official: Path) -> None:
    """Left out on purpose: a second signatory, details of addresses, prefixes, the attending physician's structure."""
    spec = ReportSpec(used_family="A", used_given="B", replaces=("1.2.250.1.999.7.8",))
    theirs = paths((official / "cda" / "CR_OK_Absent.xml").read_bytes())
    missing = {p.removeprefix("ClinicalDocument/") for p in theirs - paths(make_cda(spec))}
    details = ("/unitID", "/country", "/prefix", "/suffix", "/associatedEntity/code")
    unexplained = {p for p in missing if not p.endswith(details)}
    assert {p.split("/")[0] for p in unexplained} <= {"authenticator", "participant"}
    assert all(
        "scopingOrganization" in p or "suffix" in p for p in unexplained if p.startswith("participant")
    )
