"""Manifests against the world: official samples, dciodvfy, dcmdump, dsrdump, and our judgement of the samples."""

from __future__ import annotations

import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread

from dicom_store.study import InstanceRef, SeriesSnapshot, StudySnapshot
from drimbox.domain import kos
from drimbox.domain.identifiers import Identifier, Ins
from drimbox.domain.report import Code, Order, Organization, Patient, Report, StudyAct, Timestamp
from drimbox.domain.violations import Severity

MR = "1.2.840.10008.5.1.4.1.1.4"
STUDY = "1.3.6.1.4.1.5962.99.1.3711725607.829148806.1687338938407.3.116"
NOW = datetime(2023, 11, 14, 13, 44, 57, tzinfo=UTC)
BASE = "https://db.example.fr/dicom-web-rs"


def run(*command: object) -> tuple[int, str]:
    """A peer's tool: exit status and everything that it printed. Skips where it is not installed."""
    if shutil.which(str(command[0])) is None:
        pytest.skip(f"{command[0]} is not installed")
    done = subprocess.run(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout.decode("latin-1")


def report() -> Report:
    """The report behind publication_KOS.dcm, as far as that manifest tells it."""
    when = Timestamp("20210104092200", NOW)
    patient = Patient(
        Ins("162018885045327", "1.2.250.1.213.1.4.10"), (), "PAT-SIX", "ALAIN", "ALAIN", "", "", "M", "19960124",
        "29758",
    )  # fmt: skip
    order = Order(
        Identifier("2.16.840.1.113883.6.96", "12989855966"),
        (Identifier("1.2.840.113619.6.196", "7252295367250016"),),
    )
    act = StudyAct(STUDY, Code("63337009", "", "Abdomen + pelvis"), None, (), (), when, None, None)
    return Report(
        Identifier("1.2.9"), "", 1, (), Code("18748-4", ""), (), "", when, Code("N", ""), "fr-FR", 1, patient, (),
        None, (order,), (act,), None, None,
    )  # fmt: skip


def images(official_kos: Dataset) -> StudySnapshot:
    """The study that publication_KOS.dcm references."""
    series = tuple(
        SeriesSnapshot(
            one.SeriesInstanceUID,
            "MR",
            number,
            "T2 Ax Space Iso RT",
            "",
            tuple(
                InstanceRef(ref.ReferencedSOPInstanceUID, ref.ReferencedSOPClassUID, "1.2", place)
                for place, ref in enumerate(one.ReferencedSOPSequence, 1)
            ),
        )
        for number, one in enumerate(
            official_kos.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence, 1
        )
    )
    return StudySnapshot(STUDY, "20221215", "194622.300000", "Exam A", ("7252295367250016",), (), (), series)


def build(study: StudySnapshot, facts: Report) -> bytes:
    dataset = kos.build_manifest(
        study,
        facts,
        requests=kos.requests_for(facts, study.AccessionNumbers),
        retrieve_base=BASE,
        manufacturer="BCOM",
        institution=Organization(Identifier("1.2.250.1.71.4.2.2", "499700367909006"), "BCOM"),
        sop_instance_uid="1.3.2.751468943.3.1234.56838.231114144457.1.1.1",
        series_instance_uid="1.3.2.751468943.3.1234.29023.231114144457.1.1.2",
        now=NOW,
        time_zone="Europe/Paris",
    )
    return kos.encode_manifest(dataset)


@pytest.fixture
def official_kos(official: Path) -> Dataset:
    return dcmread(official / "kos" / "publication_KOS.dcm")


@pytest.fixture
def ours(official_kos: Dataset, tmp_path: Path) -> Path:
    path = tmp_path / "kos.dcm"
    path.write_bytes(build(images(official_kos), report()))
    return path


def flat(dataset: Dataset, place: str = "") -> Iterator[tuple[str, tuple[str, str]]]:
    """(place, (VR, value)) of every attribute; a place is keywords with item numbers."""
    for element in dataset:
        if element.VR == "SQ":
            yield place + element.keyword, ("SQ", str(len(element.value)))
            for number, item in enumerate(element.value):
                yield from flat(item, f"{place}{element.keyword}[{number}].")
        else:
            yield place + element.keyword, (element.VR, str(element.value or ""))


# Every difference with publication_KOS.dcm (made in 2023), with its reason. Nothing else may differ.
DIFFERENCES = {
    "TimezoneOffsetFromUTC": "+0100: the sample says +0200 in November, when Paris is at +0100",
    "InstitutionName": "name, nine carets, identifier: the form of every later sample (drim-m-data 6.1)",
    "PatientName": "birth family name ^ birth first name: the sample of 2023 has the family name alone",
    "OtherPatientNames": "^ birth given names (drim-m-data 6.2): the sample of 2023 repeats the family name",
    "OtherPatientIDsSequence[].IssuerOfPatientID": "added: absent in 2023 only (drim-m-data 6.4)",
    "EVIDENCE.RetrieveURL": "https and our own base: the sample points to http://localhost",
    "EVIDENCE.SeriesNumber": "added: as the KIN sample has it, consumers ask for it",
    "EVIDENCE.ReferencedSOPSequence[].InstanceNumber": "added since 2023-09 (drim-m-data 6.1)",
    "ContentSequence[].ReferencedSOPSequence[].InstanceNumber": "the same, in the content tree",
    "ContentSequence[].TextValue": "'Acte = <name>': the sample has the older 'Acte =  : <name>'",
}


def _generic(place: str) -> str:
    short = "".join(
        "[]" if part.isdigit() else part for part in place.replace("[", "\0").replace("]", "\0").split("\0")
    )
    evidence = "CurrentRequestedProcedureEvidenceSequence[].ReferencedSeriesSequence[]"
    return short.replace(evidence, "EVIDENCE")


def test_every_attribute_agrees_with_the_published_sample(official_kos: Dataset, ours: Path) -> None:
    theirs, mine = dict(flat(official_kos)), dict(flat(dcmread(ours)))
    differing = {
        _generic(place) for place in theirs.keys() | mine.keys() if theirs.get(place) != mine.get(place)
    }
    assert differing == set(DIFFERENCES)
    missing = theirs.keys() - mine.keys()
    assert missing == set(), "every place of the sample is in ours"
    assert {p: v[0] for p, v in theirs.items()} == {p: mine[p][0] for p in theirs}, "same VR everywhere"


def test_text_agrees_with_the_published_sample(official_kos: Dataset, ours: Path) -> None:
    theirs = official_kos.ContentSequence[-1].TextValue
    assert dcmread(ours).ContentSequence[-1].TextValue == theirs.replace("Acte =  : ", "Acte = ")


# What is wrong with publication_KOS.dcm, by rule: severity and how often.
JUDGEMENT = {
    ("drim-m-retrieve-https", Severity.WARNING): 2,  # http://localhost:4200, one per series
    ("drim-m-other-ids-issuer", Severity.WARNING): 1,  # 2023 style
    ("drim-m-names", Severity.WARNING): 2,  # family name alone, in PatientName and OtherPatientNames
    ("drim-m-institution", Severity.WARNING): 1,  # BCOM, without identifier
    ("drim-m-numbering", Severity.WARNING): 2,  # neither SeriesNumber nor InstanceNumber in the evidence
    ("summer-time", Severity.WARNING): 1,  # +0200 in November
}


def test_the_published_sample_has_only_deviations_that_can_be_justified(official: Path) -> None:
    found = kos.check_manifest((official / "kos" / "publication_KOS.dcm").read_bytes())
    assert Counter((v.rule, v.severity) for v in found) == JUDGEMENT


def test_the_archived_sample_has_the_same_deviations(official: Path) -> None:
    data = (official / "xdm" / "KA202401" / "IHE_XDM" / "SS000001" / "KOS_1_1.DCM").read_bytes()
    found = kos.check_manifest(data)
    assert {(v.rule, v.severity) for v in found} == set(JUDGEMENT)
    assert kos.read_manifest(data).accessions == (Identifier("1.2.840.113619.6.192", "725229536725002"),)


def test_the_sample_with_key_images(official: Path, tmp_path: Path) -> None:
    """Its http base, and a text that belongs to another exam (drim-m-data 6.3): nothing about the key images."""
    path = tmp_path / "kin.dcm"
    status, output = run("xml2dcm", official / "kos" / "Manifest_KOS.xml", path)
    assert status == 0, output
    found = kos.check_manifest(path.read_bytes())
    assert Counter((v.rule, v.severity) for v in found) == {
        ("drim-m-retrieve-https", Severity.WARNING): 3,
        ("drim-m-layout", Severity.WARNING): 4,
    }
    manifest = kos.read_manifest(path.read_bytes())
    assert [len(series.instances) for series in manifest.series] == [1, 1, 1]
    assert manifest.accessions == (Identifier("1.2.250.1.213.4.5.2.5", "ACN101"),)


def test_read_of_the_published_sample(official: Path) -> None:
    manifest = kos.read_manifest((official / "kos" / "publication_KOS.dcm").read_bytes())
    assert manifest.study_instance_uid == STUDY
    assert (manifest.patient_id, manifest.patient_issuer) == ("162018885045327", "1.2.250.1.213.1.4.10")
    assert manifest.accessions == (Identifier("1.2.840.113619.6.196", "7252295367250016"),)
    assert [len(series.instances) for series in manifest.series] == [10, 10]
    assert manifest.description.startswith("Examen : Exam A\nActe =  : Abdomen + pelvis\nSérie-")


# Warnings of dciodvfy that come from the profile itself; any other is a surprise.
EXPECTED_WARNINGS = (
    "needed to build DICOMDIR",  # StudyID is empty in every sample; date and time when the images have none
    "Retired Person Name form",  # a used family name alone
    "Attribute is not present in standard DICOM IOD",  # RetrieveURL, InstanceNumber, SeriesNumber
    "Standard Extended SOP Class",
)


def _variants(official_kos: Dataset) -> dict[str, bytes]:
    study, facts = images(official_kos), report()
    key_object = SeriesSnapshot(
        "1.2.9.299", "KO", 1003, "Key", "", (InstanceRef("1.2.9.299.1", KOS, "1.2", 1),)
    )
    waveform = SeriesSnapshot("1.2.9.300", "ECG", 4, "ECG", "", (InstanceRef("1.2.9.300.1", ECG, "1.2", 1),))
    used = replace(facts.patient, used_family="DURAND", birth_given_list="ALAIN JEAN")
    return {
        "nominal": build(study, facts),
        "key objects and waveforms": build(
            replace(study, series=(*study.series, key_object, waveform)), facts
        ),
        "UTF-8": build(study, replace(facts, patient=replace(facts.patient, birth_family="ŁUKASIEWICZ"))),
        "used name": build(study, replace(facts, patient=used)),
        "no order": build(study, replace(facts, orders=())),
        "empty texts": build(replace(study, StudyDescription="", StudyDate="", StudyTime=""), facts),
    }


KOS, ECG = "1.2.840.10008.5.1.4.1.1.88.59", "1.2.840.10008.5.1.4.1.1.9.1.1"


def test_dciodvfy_finds_no_error(official_kos: Dataset, tmp_path: Path) -> None:
    for name, data in _variants(official_kos).items():
        path = tmp_path / "kos.dcm"
        path.write_bytes(data)
        status, output = run("dciodvfy", path)
        lines = [line for line in output.splitlines() if line != "KeyObjectSelectionDocument"]
        assert status == 0, name
        assert not [line for line in lines if line.startswith("Error")], name
        assert not [line for line in lines if not any(words in line for words in EXPECTED_WARNINGS)], name


def test_our_own_rules_agree_that_there_is_no_error(official_kos: Dataset) -> None:
    for name, data in _variants(official_kos).items():
        found = kos.check_manifest(data)
        assert not [v for v in found if v.severity is Severity.ERROR], name


def test_dcmtk_reads_the_document_tree(ours: Path) -> None:
    status, output = run("dsrdump", ours)
    assert status == 0
    assert "Key Object Selection Document" in output
    assert output.count("<contains IMAGE:=(MR image,)>") == 20
    assert output.count("<contains TEXT:") == 1


def test_dcmtk_reads_every_attribute(ours: Path) -> None:
    status, output = run("dcmdump", "+L", "+U8", ours)
    assert status == 0
    assert "Little Endian Explicit" in output
    assert output.count("ReferencedSOPInstanceUID") == 40
    assert f"{BASE}/studies/{STUDY}/series/" in output
