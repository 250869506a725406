"""Facts to a lot: every value of drim-m-data 5.2-5.5, and every rule broken once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from drimbox.adapters.signing import RsaSigner
from drimbox.domain.identifiers import Identifier, Ins
from drimbox.domain.report import (
    Code,
    Order,
    Organization,
    Patient,
    Professional,
    Report,
    StudyAct,
    Timestamp,
)
from drimbox.domain.vihf import VihfIdentity
from drimbox.domain.xds import vocabulary as v
from drimbox.domain.xds.ebxml_reader import read_lot
from drimbox.domain.xds.hl7_types import clean, dtm_of
from drimbox.domain.xds.metadata import Author, Coded, DocumentEntry, Lot, SubmissionSet
from drimbox.domain.xds.publication import (
    FrozenLot,
    ManifestFacts,
    Publication,
    Publisher,
    XdsOptions,
    describe_lot,
    freeze_publication,
)
from drimbox.domain.xds.rules import LotRefused, check_lot
from drimbox.domain.xds.withdrawal import freeze_withdrawal
from fixtures.certificates import make_authority, make_leaf

NOW = datetime(2026, 9, 28, 7, 15, 30, tzinfo=UTC)
PARIS = timezone(timedelta(hours=2))
STUDY = "1.2.250.1.999.5.2.1.111"
ENTRY_UUID = "urn:uuid:3d188b5d-6e2b-4c0a-9a3e-0d6f0b9f3a11"
INS = Ins("279035121518989", "1.2.250.1.213.1.4.10")
RADIOLOGIST = Professional(
    id=Identifier(v.PS_ID_NAT, "801234560801"),
    family="BIDEAULT",
    given="Jacques",
    specialty=Code("G15_10/SM44", "1.2.250.1.213.1.1.4.5", "Médecin - Radio-diagnostic (SM)"),
    role="",
    time=None,
    organization=Organization(Identifier(v.STRUCT_ID_NAT, "1750803447"), "Centre de radiologie Ambroise"),
)
PUBLISHER = Publisher(
    name="Centre de radiologie Ambroise",
    structure_id="1750803447",
    device_id="1750803447/1",
    manufacturer="ANS",
    uid_root="1.2.250.1.999.1.1.8121",
)


@pytest.fixture(scope="module")
def signer() -> RsaSigner:
    leaf = make_leaf(make_authority())
    return RsaSigner(leaf.key, leaf.certificate)


def a_time(digits: str) -> Timestamp:
    filled = digits + "00000101000000"[len(digits) :]
    return Timestamp(digits, datetime.strptime(filled, "%Y%m%d%H%M%S").replace(tzinfo=PARIS))


def an_act(**changes: Any) -> StudyAct:
    act = StudyAct(
        StudyInstanceUID=STUDY,
        act=Code("24727-0", v.LOINC, "CT Head W contrast IV"),
        ccam=None,
        modalities=(Code("CT", v.DCM, "Computed Tomography"),),
        regions=(Code("774007", v.SNOMED_CT, "tête et cou"),),
        start=a_time("20260928090000"),
        stop=a_time("20260928093000"),
        performer=RADIOLOGIST,
    )
    return replace(act, **changes)


def a_report(**changes: Any) -> Report:
    report = Report(
        id=Identifier("1.2.250.1.999.4.411"),
        set_id="D52DE737-001D-4031-B571-0A0ED7C42300",
        version=1,
        replaces=(),
        code=Code("18748-4", v.LOINC, "CR d'imagerie médicale"),
        exam_codes=(),
        title="CR d'imagerie",
        effective_time=a_time("20260928090000"),
        confidentiality=Code("N", v.TRE_A08, "Normal"),
        language="fr-FR",
        level=1,
        patient=Patient(
            ins=INS,
            local_ids=(Identifier("1.2.250.1.999.2.4", "IPP101"),),
            birth_family="PAT-TROIS",
            birth_given="DOMINIQUE",
            birth_given_list="DOMINIQUE",
            used_family="",
            used_given="",
            sex="F",
            birth_date="19790328",
            birth_place="51215",
        ),
        authors=(RADIOLOGIST,),
        legal_authenticator=RADIOLOGIST,
        orders=(
            Order(Identifier("1.2.250.1.999.2.6", "OPN111"), (Identifier("1.2.250.1.999.2.5", "ACN111"),)),
        ),
        studies=(an_act(),),
        facility=Code("SA08", v.TRE_R02, "Cabinet de groupe"),
        practice_setting=Code("AMBULATOIRE", v.TRE_A01, "Ambulatoire"),
    )
    return replace(report, **changes)


def a_publication(**changes: Any) -> Publication:
    report = changes.pop("report", None) or a_report()
    publication = Publication(
        report=report,
        study_instance_uid=STUDY,
        kos=b"a manifest",
        manifest=ManifestFacts("2.25.111", NOW, ("CT", "SR")),
        publisher=PUBLISHER,
        submission_set_uid="1.2.250.1.999.1.1.8121.42",
        signature_uid="2.25.222",
        accessions=(Identifier("1.2.250.1.999.2.5", "ACN111"),),
        placers=(Identifier("1.2.250.1.999.2.6", "OPN111"),),
        local_patient_id=Identifier("1.2.250.1.999.2.4", "IPP101"),
    )
    return replace(publication, **changes)


def described(**changes: Any) -> Lot:
    return describe_lot(a_publication(**changes), signature=b"<Signature/>", now=NOW)


def the_kos(**changes: Any) -> DocumentEntry:
    return described(**changes).entries[0]


def test_the_default_lot_keeps_every_rule() -> None:
    assert check_lot(described()) == ()


def test_kos_entry() -> None:
    kos = the_kos()
    structure = "Centre de radiologie Ambroise^^^^^&1.2.250.1.71.4.2.2&ISO^IDNST^^^1750803447"
    radiologist = "801234560801^BIDEAULT^Jacques^^^^^^&1.2.250.1.71.4.2.1&ISO^D^^^IDNPS"
    assert (kos.id, kos.mime_type, kos.language_code) == ("DocumentKOS", "application/dicom", "fr-FR")
    assert kos.unique_id == "2.25.111"
    assert kos.patient_id == "279035121518989^^^&1.2.250.1.213.1.4.10&ISO^NH"
    assert kos.source_patient_id == "IPP101^^^&1.2.250.1.999.2.4&ISO^PI"
    assert kos.source_patient_info == (
        "PID-5|PAT-TROIS^DOMINIQUE^^^^^L",
        "PID-7|19790328",
        "PID-8|F",
        "PID-11|^^^^^^BDL^^51215",
    )
    assert kos.creation_time == "20260928071530"
    assert (kos.service_start_time, kos.service_stop_time) == ("20260928070000", "20260928073000")
    assert kos.hash == hashlib.sha1(b"a manifest").hexdigest()
    assert kos.size == len(b"a manifest")
    assert (kos.title, kos.comments) == ("Reference d'Objets d'un Examen d'Imagerie", "KOS")
    assert kos.legal_authenticator == radiologist
    device = "1750803447/1^DRIMBox^ANS^^^^^^&1.2.250.1.71.4.2.1&ISO^U^^^EI"
    assert kos.authors == (Author(device, (structure,)),)
    assert kos.class_code == Coded("31", v.TRE_A03, "Imagerie médicale")
    assert kos.type_code is not None
    assert (kos.type_code.code, kos.type_code.scheme) == ("IMG-KOS", "1.2.250.1.213.1.1.4.12")
    assert kos.format_code is not None
    assert (kos.format_code.code, kos.format_code.scheme) == (
        "1.2.840.10008.5.1.4.1.1.88.59",
        "1.2.840.10008.2.6.1",
    )
    assert kos.healthcare_facility_type_code == Coded("SA08", v.TRE_R02, "Cabinet de groupe")
    assert kos.practice_setting_code == Coded("AMBULATOIRE", v.TRE_A01, "Ambulatoire")
    assert [(c.code, c.scheme) for c in kos.event_codes] == [("774007", v.SNOMED_CT), ("CT", v.DCM)]
    assert kos.reference_id_list == (
        "ACN111^^^&1.2.250.1.999.2.5&ISO^urn:ihe:iti:xds:2013:accession",
        f"{STUDY}^^^^urn:ihe:iti:xds:2016:studyInstanceUID",
        "OPN111^^^&1.2.250.1.999.2.6&ISO^urn:ihe:iti:xds:2013:order",
    )


def test_signature_entry() -> None:
    signature = described().entries[1]
    assert (signature.id, signature.mime_type, signature.language_code) == ("Signature01", "text/xml", "art")
    assert signature.unique_id == "2.25.222"
    assert [c.code for c in signature.confidentiality_codes] == ["N", "MASQUE_PS", "INVISIBLE_PATIENT"]
    assert signature.source_patient_id == signature.patient_id
    times = (signature.creation_time, signature.service_start_time, signature.service_stop_time)
    assert times == ("20260928071530",) * 3
    assert signature.authors[0].person == signature.legal_authenticator
    assert signature.hash == hashlib.sha1(b"<Signature/>").hexdigest()
    codes = (signature.class_code, signature.type_code, signature.format_code)
    assert [c and (c.code, c.scheme) for c in codes] == [
        ("urn:oid:1.3.6.1.4.1.19376.1.2.1.1.1", "URN"),
        ("E1762", "ASTM"),
        ("http://www.w3.org/2000/09/xmldsig#", "URN"),
    ]


def test_submission_set_and_associations() -> None:
    lot = described(replaces=ENTRY_UUID, patient_class="I")
    submission = lot.submission_set
    assert submission.unique_id == "1.2.250.1.999.1.1.8121.42"
    assert submission.source_id == "1.2.250.1.999.1.1.8121"
    assert submission.submission_time == "20260928071530"
    assert submission.content_type_code is not None
    assert (submission.content_type_code.code, submission.content_type_code.scheme) == ("03", v.TRE_R209)
    assert [(a.type.rpartition(":")[2], a.source, a.target) for a in lot.associations] == [
        ("HasMember", "SubmissionSet01", "DocumentKOS"),
        ("HasMember", "SubmissionSet01", "Signature01"),
        ("signs", "Signature01", "SubmissionSet01"),
        ("RPLC", "DocumentKOS", ENTRY_UUID),
    ]
    assert check_lot(lot) == ()


@pytest.mark.parametrize(
    ("patient_class", "code"),
    [("I", "03"), ("O", "07"), ("E", "07"), ("R", "19"), ("N", "97"), (None, "07"), ("", "07"), ("Z", "07")],
)
def test_content_type_follows_pv1_2(patient_class: str | None, code: str) -> None:
    content_type = described(patient_class=patient_class).submission_set.content_type_code
    assert content_type is not None
    assert content_type.code == code


def test_without_ipp_the_source_patient_id_is_the_ins() -> None:
    assert the_kos(local_patient_id=None).source_patient_id == INS.cx


def test_confidentiality_flags_come_after_the_report_s_own_code() -> None:
    flags = ("MASQUE_PS", "INVISIBLE_PATIENT", "INVISIBLE_REPRESENTANTS_LEGAUX")
    codes = the_kos(confidentiality=flags).confidentiality_codes
    assert [(c.code, c.scheme) for c in codes] == [("N", v.TRE_A08)] + [(f, v.TRE_A07) for f in flags]
    assert all(c.display for c in codes)


def test_value_set_schemes_and_study_authority_are_options() -> None:
    options = XdsOptions(study_reference_authority="1.2.3.4.5.6", event_code_schemes="value_set")
    kos = the_kos(options=options)
    assert [c.scheme for c in kos.event_codes] == [v.JDV_REGION, v.JDV_MODALITY]
    assert f"{STUDY}^^^&1.2.3.4.5.6&ISO^urn:ihe:iti:xds:2016:studyInstanceUID" in kos.reference_id_list


def test_local_digits_are_an_option() -> None:
    lot = described(options=XdsOptions(utc=False))
    kos = lot.entries[0]
    assert lot.submission_set.submission_time == "20260928091530"
    assert kos.creation_time == "20260928091530"
    assert (kos.service_start_time, kos.service_stop_time) == ("20260928090000", "20260928093000")


@pytest.mark.parametrize(
    ("digits", "utc"), [("20260928", "20260928"), ("202609280100", "202609272300"), ("2026", "2026")]
)
def test_precision_is_kept_and_a_date_is_never_shifted(digits: str, utc: str) -> None:
    assert dtm_of(a_time(digits), utc=True) == utc
    assert dtm_of(a_time(digits), utc=False) == digits


def test_modalities_outside_the_value_set_are_left_out_and_the_report_s_serve_when_none_is_known() -> None:
    manifest = ManifestFacts("2.25.111", NOW, ("SR", "MR", "MR", "SEG", "KO"))
    assert [c.code for c in the_kos(manifest=manifest).event_codes] == ["774007", "MR"]
    unknown = ManifestFacts("2.25.111", NOW, ())
    assert [c.code for c in the_kos(manifest=unknown).event_codes] == ["774007", "CT"]


def test_regions_no_longer_in_the_value_set_are_not_emitted() -> None:
    act = an_act(regions=(Code("69536005", v.SNOMED_CT, "Tête"), Code("80891009", v.SNOMED_CT, "cœur")))
    kos = the_kos(report=a_report(studies=(act,)))
    assert [c.code for c in kos.event_codes] == ["80891009", "CT"]


def test_a_second_act_without_time_borrows_the_start_of_the_first() -> None:
    bare = an_act(StudyInstanceUID="1.2.3", start=None, stop=None)
    lot = described(report=a_report(studies=(an_act(), bare)), study_instance_uid="1.2.3")
    assert lot.entries[0].service_start_time == "20260928070000"
    assert lot.entries[0].service_stop_time == ""
    assert check_lot(lot) == ()


def test_hl7_delimiters_in_names_become_blanks() -> None:
    assert clean("O'NEIL^&|~\\ \n JEAN") == "O'NEIL JEAN"
    patient = replace(a_report().patient, birth_family="PAT^TROIS&X")
    assert (
        the_kos(report=a_report(patient=patient)).source_patient_info[0]
        == "PID-5|PAT TROIS X^DOMINIQUE^^^^^L"
    )


def test_person_of_a_structure_has_identifier_type_ei() -> None:
    person = replace(RADIOLOGIST, id=Identifier(v.PS_ID_NAT, "3750100125/88"))
    kos = the_kos(report=a_report(legal_authenticator=person))
    assert kos.legal_authenticator.endswith("&ISO^D^^^EI")


def test_freezing_signs_describes_and_keeps_everything(signer: RsaSigner) -> None:
    lot = freeze_publication(a_publication(), signer=signer, now=NOW)
    assert isinstance(lot, FrozenLot)
    assert (lot.submission_set_uid, lot.kos_uid, lot.signature_uid) == (
        "1.2.250.1.999.1.1.8121.42",
        "2.25.111",
        "2.25.222",
    )
    assert lot.patient == INS
    assert lot.kos == b"a manifest"
    read = read_lot(lot.submit_objects_request)
    assert read.entries[1].hash == hashlib.sha1(lot.signature).hexdigest()
    assert read.entries[1].size == len(lot.signature)
    assert lot.vihf.name_id == "801234560801"
    assert lot.vihf.subject_name == "Jacques BIDEAULT"
    assert lot.vihf.patient == INS.cx
    assert (lot.vihf.profession.code, lot.vihf.know_how and lot.vihf.know_how.code) == ("10", "SM44")
    assert lot.vihf.sector == "SA08"


def test_freezing_twice_gives_the_same_bytes(signer: RsaSigner) -> None:
    first = freeze_publication(a_publication(), signer=signer, now=NOW)
    assert freeze_publication(a_publication(), signer=signer, now=NOW) == first


def test_an_identity_given_is_kept_and_must_be_for_the_same_patient(signer: RsaSigner) -> None:
    kept = VihfIdentity("801", "A B", "1750803447", "SA05", INS.cx)
    assert freeze_publication(a_publication(vihf=kept), signer=signer, now=NOW).vihf == kept
    other = replace(kept, patient="1^^^&1.2&ISO^NH")
    with pytest.raises(LotRefused, match="another patient"):
        freeze_publication(a_publication(vihf=other), signer=signer, now=NOW)


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"report": a_report(patient=replace(a_report().patient, ins=None))}, "ins-missing"),
        ({"study_instance_uid": "1.2.3"}, "study-not-in-report"),
        ({"report": a_report(facility=None)}, "required"),
        ({"report": a_report(practice_setting=None)}, "required"),
        ({"report": a_report(legal_authenticator=None)}, "required"),
        ({"report": a_report(legal_authenticator=None, authors=())}, "nobody-responsible"),
        ({"kos": b""}, "size"),
        ({"confidentiality": ("SECRET",)}, "confidentiality"),
        ({"replaces": "2.25.111"}, "replacement"),
        ({"publisher": replace(PUBLISHER, uid_root="root")}, "set-source-id"),
        ({"publisher": replace(PUBLISHER, device_id="")}, "author"),
        ({"submission_set_uid": "2.25.111"}, "unique-ids"),
    ],
)
def test_facts_that_make_no_lot_are_refused_with_the_rule(
    signer: RsaSigner, changes: dict[str, Any], rule: str
) -> None:
    with pytest.raises(LotRefused) as refused:
        freeze_publication(a_publication(**changes), signer=signer, now=NOW)
    assert rule in {violation.rule for violation in refused.value.violations}
    assert refused.value.code == "lot-invalid"


def test_a_refusal_names_every_rule_and_no_patient(signer: RsaSigner) -> None:
    report = a_report(facility=None, practice_setting=None, patient=replace(a_report().patient, sex=""))
    with pytest.raises(LotRefused) as refused:
        freeze_publication(a_publication(report=report, kos=b""), signer=signer, now=NOW)
    assert {v.rule for v in refused.value.violations} == {"required", "size"}
    assert len(refused.value.violations) == 5  # two codes missing on both entries, one size
    for secret in ("279035121518989", "PAT-TROIS", "DOMINIQUE", "IPP101"):
        assert secret not in str(refused.value)


# -- every rule of the tables, broken once -------------------------------------------------------------------
Change = Callable[[Lot], Lot]


def kos(**changes: Any) -> Change:
    return lambda lot: replace(lot, entries=(replace(lot.entries[0], **changes), *lot.entries[1:]))


def submission(**changes: Any) -> Change:
    return lambda lot: replace(lot, submission_set=replace(lot.submission_set, **changes))


def association(index: int, **changes: Any) -> Change:
    def change(lot: Lot) -> Lot:
        links = list(lot.associations)
        links[index] = replace(links[index], **changes)
        return replace(lot, associations=tuple(links))

    return change


def without_association(index: int) -> Change:
    return lambda lot: replace(
        lot, associations=tuple(a for i, a in enumerate(lot.associations) if i != index)
    )


_CT = Coded("CT", v.DCM, "Tomodensitométrie")
_STUDY_REFERENCE = f"{STUDY}^^^^{v.STUDY_INSTANCE_UID}"
BREACHES: list[tuple[str, Change]] = [
    ("required", kos(creation_time="")),
    ("required", kos(authors=())),
    ("required", kos(source_patient_info=())),
    ("required", kos(reference_id_list=())),
    ("document-unique-id", kos(unique_id="not an oid")),
    ("document-unique-id", kos(unique_id="1." + "2" * 64)),
    ("document-unique-id", kos(unique_id="1.2.3^12345678901234567")),
    ("media", kos(mime_type="text/xml")),
    ("media", kos(language_code="art")),
    ("class-of-type", kos(class_code=Coded("10", v.TRE_A03, "Compte rendu"))),
    ("class-of-type", kos(type_code=Coded("OTHER", v.TRE_A05, "x"))),
    ("format-of-type", kos(format_code=Coded("urn:x", "1.2.3", "x"))),
    ("hash", kos(hash="40F3")),
    ("hash", kos(hash="A" * 40)),
    ("size", kos(size=0)),
    ("title-length", kos(title="x" * 129)),
    ("dtm", kos(creation_time="20260928071530+0100")),
    ("dtm", kos(service_start_time="20260231")),
    ("service-times", kos(service_stop_time="20260927")),
    ("patient-id", kos(patient_id="279035121518989^^^&1.2.250.1.213.1.4.10&ISO^PI")),
    ("patient-id", kos(patient_id="1234^^^&1.2.3&ISO^NH")),
    ("source-patient-id", kos(source_patient_id="IPP101")),
    ("source-patient-id", kos(source_patient_id="IPP101^^^&1.2.3&ISO^XX")),
    ("source-patient-info", kos(source_patient_info=("PID-13|0102030405",))),
    ("source-patient-info", kos(source_patient_info=("PID-7|1979", "PID-7|1980"))),
    ("legal-authenticator", kos(legal_authenticator="BIDEAULT Jacques")),
    ("author", kos(authors=(Author("x"),))),
    ("author", kos(authors=(Author("x", ("y",)),))),
    ("coded", kos(event_codes=(Coded("", v.DCM, "x"),))),
    ("coded", kos(event_codes=(Coded("CT", "DCM", "x"),))),
    ("coded", kos(event_codes=(replace(_CT, display=""),))),
    ("care-context", kos(healthcare_facility_type_code=Coded("SA08", "1.2.3", "x"))),
    ("confidentiality", kos(confidentiality_codes=(Coded("MASQUE_PS", v.TRE_A07, "x"),))),
    ("confidentiality", kos(confidentiality_codes=(Coded("N", v.TRE_A08, "x"),) * 2)),
    ("confidentiality", kos(confidentiality_codes=(Coded("N", v.TRE_A07, "x"),))),
    ("event-codes", kos(event_codes=(Coded("SR", v.DCM, "x"),))),
    ("event-codes", kos(event_codes=(Coded("1", v.SNOMED_CT, "x"),))),
    ("event-codes", kos(event_codes=(_CT, _CT))),
    ("reference-ids", kos(reference_id_list=("ACN111",))),
    (
        "reference-ids",
        kos(reference_id_list=(_STUDY_REFERENCE, "1^^^&1.2&ISO^urn:ihe:iti:xds:2013:referral")),
    ),
    ("reference-ids", kos(reference_id_list=(_STUDY_REFERENCE, f"1^^^&x&ISO^{v.ACCESSION}"))),
    ("reference-ids", kos(reference_id_list=(f"1^^^&1.2&ISO^{v.ACCESSION}",))),
    ("reference-ids", kos(reference_id_list=(_STUDY_REFERENCE, f"2^^^^{v.STUDY_INSTANCE_UID}"))),
    ("value-length", kos(comments="x" * 257)),
    ("set-unique-id", submission(unique_id="")),
    ("set-unique-id", submission(unique_id="1." + "2" * 63)),
    ("set-source-id", submission(source_id="x")),
    ("set-patient-id", submission(patient_id="")),
    ("submission-time", submission(submission_time="today")),
    ("set-author", submission(authors=())),
    ("content-type", submission(content_type_code=None)),
    ("content-type", submission(content_type_code=Coded("42", v.TRE_R209, "x"))),
    ("set-length", submission(comments="x" * 257)),
    ("ids", submission(id="DocumentKOS")),
    ("ids", kos(id="1KOS")),
    ("unique-ids", kos(unique_id="2.25.222")),
    ("one-patient", submission(patient_id="162018885045327^^^&1.2.250.1.213.1.4.10&ISO^NH")),
    ("purpose", lambda lot: replace(lot, entries=(), associations=())),
    ("association-type", association(0, type="urn:ihe:iti:2007:AssociationType:APND")),
    ("members", without_association(0)),
    ("members", association(0, target="Signature01")),
    ("members", association(0, slots=())),
    ("members", association(0, source="DocumentKOS")),
    ("replacement", association(3, target="2.25.5")),
    ("replacement", association(3, source="Elsewhere")),
    ("status-change", association(3, type=v.UPDATE_AVAILABILITY_STATUS)),
    ("signature", without_association(2)),
    ("signature", association(2, target="DocumentKOS")),
]


@pytest.mark.parametrize(("rule", "change"), BREACHES, ids=[f"{i}-{r}" for i, (r, _) in enumerate(BREACHES)])
def test_each_rule_is_seen_when_broken(rule: str, change: Change) -> None:
    lot = described(replaces=ENTRY_UUID)
    assert check_lot(lot) == ()
    found = check_lot(change(lot))
    assert rule in {violation.rule for violation in found}
    assert all(violation.clause and violation.message and violation.where for violation in found)


def test_every_rule_of_the_tables_is_broken_above() -> None:
    from drimbox.domain.xds.entry_rules import ENTRY_RULES
    from drimbox.domain.xds.rules import LOT_RULES, SET_RULES

    slugs = {rule.slug for table in (ENTRY_RULES, LOT_RULES, SET_RULES) for rule in table}  # type: ignore[attr-defined]
    assert slugs == {rule for rule, _ in BREACHES}


def test_withdrawal_is_one_set_and_one_change_of_status() -> None:
    vihf = VihfIdentity("801", "A B", "1750803447", "SA08", INS.cx)
    withdrawal = freeze_withdrawal(
        entry_uuid=ENTRY_UUID,
        patient=INS,
        vihf=vihf,
        publisher=PUBLISHER,
        options=XdsOptions(),
        submission_set_uid="1.2.250.1.999.1.1.8121.43",
        now=NOW,
    )
    lot = read_lot(withdrawal.submit_objects_request)
    assert lot.entries == ()
    assert isinstance(lot.submission_set, SubmissionSet)
    assert lot.submission_set.patient_id == INS.cx
    (change,) = lot.associations
    assert (change.type, change.source, change.target) == (
        "urn:ihe:iti:2010:AssociationType:UpdateAvailabilityStatus",
        "SubmissionSet01",
        ENTRY_UUID,
    )
    assert dict(change.slots) == {
        "OriginalStatus": "urn:oasis:names:tc:ebxml-regrep:StatusType:Approved",
        "NewStatus": "urn:asip:ci-sis:2010:StatusType:Deleted",
    }


@pytest.mark.parametrize(
    "changes",
    [{"entry_uuid": "2.25.111"}, {"original_status": v.DELETED}, {"submission_set_uid": "x"}],
)
def test_a_wrong_withdrawal_is_refused(changes: dict[str, Any]) -> None:
    arguments: dict[str, Any] = {
        "entry_uuid": ENTRY_UUID,
        "patient": INS,
        "vihf": VihfIdentity("801", "A B", "1750803447", "SA08", INS.cx),
        "publisher": PUBLISHER,
        "options": XdsOptions(),
        "submission_set_uid": "1.2.250.1.999.1.1.8121.43",
        "now": NOW,
    }
    with pytest.raises(LotRefused):
        freeze_withdrawal(**{**arguments, **changes})
