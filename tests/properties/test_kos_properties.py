"""Whatever a report and images may hold: build, encode, read gives it back, and breaks no rule of ours."""

from __future__ import annotations

import unicodedata
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dicom_store.study import InstanceRef, SeriesSnapshot, StudySnapshot
from drimbox.domain import kos
from drimbox.domain.identifiers import Identifier, Ins
from drimbox.domain.kos_content import description, value_type
from drimbox.domain.report import Code, Order, Organization, Patient, Report, StudyAct, Timestamp
from drimbox.domain.violations import errors

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
KEY_OBJECT = "1.2.840.10008.5.1.4.1.1.88.59"
NOW = datetime(2024, 1, 2, 9, 30, tzinfo=UTC)
WHEN = Timestamp("20240102", NOW)
TEXT = st.text(max_size=90)
PLAIN = st.text(alphabet=st.characters(categories=("L", "N"), include_characters=" ,;.-"), max_size=90)
LATIN = st.text(alphabet=st.characters(max_codepoint=255), max_size=30)
CLASSES = st.sampled_from(
    [
        "1.2.840.10008.5.1.4.1.1.2",
        "1.2.840.10008.5.1.4.1.1.66.4",
        "1.2.840.10008.5.1.4.1.1.9.1.1",
        KEY_OBJECT,
        "1.2.826.0.1.3680043.8.1055.1",
    ]
)
NUMBER = st.none() | st.integers(min_value=-(2**31), max_value=2**31 - 1)
# accession numbers and placer numbers that VR SH can hold
EXTENSION = st.text(alphabet=st.characters(codec="ascii", categories=("L", "N", "P")), max_size=16).filter(
    lambda text: "\\" not in text
)
IDENTIFIER = st.builds(
    Identifier, st.sampled_from(["1.2.5", "90E1C8EC-1111-2222-3333-0123456789AB", "?"]), EXTENSION
)
ORGANIZATION = st.none() | st.builds(Organization, st.none() | IDENTIFIER, TEXT)
PATIENT = st.builds(
    Patient,
    ins=st.sampled_from([Ins("279035121518989", f"1.2.250.1.213.1.4.{n}") for n in (8, 9, 10, 11)]),
    local_ids=st.just(()),
    birth_family=TEXT,
    birth_given=TEXT,
    birth_given_list=TEXT,
    used_family=TEXT,
    used_given=LATIN,
    sex=st.sampled_from(["F", "M", "UN", "?"]),
    birth_date=st.sampled_from(["19790328", "1979", "19790231"]) | LATIN,
    birth_place=st.sampled_from(["63220", "2A004", "99109"]) | LATIN,
)


@st.composite
def _series(draw: st.DrawFn, number: int) -> SeriesSnapshot:
    count = draw(st.integers(min_value=1, max_value=4))
    refs = tuple(
        InstanceRef(f"1.2.3.{number}.{n}", draw(CLASSES), "1.2.840.10008.1.2.1", draw(NUMBER))
        for n in range(count)
    )
    return SeriesSnapshot(f"1.2.3.{number}", draw(LATIN), draw(NUMBER), draw(TEXT), draw(LATIN), refs)


@st.composite
def _study(draw: st.DrawFn) -> StudySnapshot:
    series = tuple(draw(_series(number)) for number in range(draw(st.integers(min_value=1, max_value=3))))
    return StudySnapshot("1.2.3", draw(LATIN), draw(LATIN), draw(TEXT), (), (), (), series)


@st.composite
def _report(draw: st.DrawFn) -> Report:
    orders = st.lists(
        st.builds(Order, st.none() | IDENTIFIER, st.lists(IDENTIFIER, max_size=2).map(tuple)), max_size=2
    )
    act = StudyAct("1.2.3", Code("1", "2", draw(TEXT)), None, (), (), WHEN, None, None)
    return Report(
        Identifier("1.2.9"), "", 1, (), Code("18748-4", "LOINC"), (Code("1", "2", draw(TEXT)),), "", WHEN,
        Code("N", "2.16.840.1.113883.5.25"), "fr-FR", 1, draw(PATIENT), (), None, tuple(draw(orders)), (act,), None,
        None,
    )  # fmt: skip


def _encode(study: StudySnapshot, report: Report, institution: Organization | None) -> bytes:
    dataset = kos.build_manifest(
        study,
        report,
        requests=kos.requests_for(report, ()),
        retrieve_base="https://db.example.fr/rs",
        manufacturer="ANS",
        institution=institution,
        sop_instance_uid="2.25.1",
        series_instance_uid="2.25.2",
        now=NOW,
        time_zone="Europe/Paris",
    )
    return kos.encode_manifest(dataset)


@QUICK
@given(_study(), _report(), ORGANIZATION)
def test_built_manifests_break_no_rule(
    study: StudySnapshot, report: Report, institution: Organization | None
) -> None:
    assert errors(kos.check_manifest(_encode(study, report, institution))) == ()


@QUICK
@given(_study(), _report())
def test_what_is_built_is_what_is_read(study: StudySnapshot, report: Report) -> None:
    manifest = kos.read_manifest(_encode(study, report, None))
    assert report.patient.ins is not None
    assert (manifest.patient_id, manifest.patient_issuer) == (
        report.patient.ins.value,
        report.patient.ins.oid,
    )
    assert manifest.created == NOW
    found = [[(one.sop_class_uid, one.sop_instance_uid) for one in s.instances] for s in manifest.series]
    assert found == [[(one.SOPClassUID, one.SOPInstanceUID) for one in s.instances] for s in study.series]
    assert [s.series_instance_uid for s in manifest.series] == [s.SeriesInstanceUID for s in study.series]
    numbers = [
        r.accession.extension for r in kos.requests_for(report, ()) if r.accession and r.accession.extension
    ]
    assert [one.extension for one in manifest.accessions] == numbers


@QUICK
@given(_study(), _report())
def test_consumers_can_cut_the_text(study: StudySnapshot, report: Report) -> None:
    """Line by line, and each series line at " : " as the existing consumers do."""
    lines = kos.read_manifest(_encode(study, report, None)).description.split("\n")
    assert len(lines) == 2 + len(study.series) + 1
    for line, series in zip(lines[2:], study.series, strict=False):
        label, rest = line.split(" : ", 1)
        assert label == f"Série-{series.SeriesInstanceUID}"
        assert rest.startswith(description(series.Modality))
        assert rest.endswith(description(series.SeriesDescription))


@QUICK
@given(TEXT | PLAIN)
def test_a_description_keeps_its_words(text: str) -> None:
    cleaned = description(text)
    assert " : " not in f" {cleaned} ".replace("  ", " ")
    assert description(cleaned) == cleaned
    plain = unicodedata.normalize("NFC", text)
    if plain.isprintable() and ":" not in plain:
        assert cleaned == plain.strip()


@given(st.from_regex(r"1\.2\.840\.10008\.5\.1\.4\.1\.1\.[1-9][0-9]{0,2}(\.[1-9]){0,3}", fullmatch=True))
def test_every_class_has_a_value_type(sop_class: str) -> None:
    assert value_type(sop_class) in ("IMAGE", "WAVEFORM", "COMPOSITE")


_SAMPLE = _encode(
    StudySnapshot(
        "1.2.3", "20240102", "093000", "Exam", ("A1",), (), (),
        (SeriesSnapshot("1.2.3.1", "CT", 1, "S", "", (InstanceRef("1.2.3.1.1", KEY_OBJECT, "1.2", 1),)),),
    ),
    Report(
        Identifier("1.2.9"), "", 1, (), Code("18748-4", "LOINC"), (), "", WHEN, Code("N", "5.25"), "fr-FR", 1,
        Patient(Ins("279035121518989", "1.2.250.1.213.1.4.10"), (), "A", "B", "B", "", "", "F", "19790328", "63220"),
        (), None, (), (StudyAct("1.2.3", None, None, (), (), WHEN, None, None),), None, None,
    ),
    None,
)  # fmt: skip


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
@settings(max_examples=300, deadline=None)
@example([(138, 1)])  # the length of the file meta group length
@given(st.lists(st.tuples(st.integers(0, len(_SAMPLE) - 1), st.integers(0, 255)), min_size=1, max_size=6))
def test_damaged_bytes_are_judged_never_a_crash(damage: list[tuple[int, int]]) -> None:
    data = bytearray(_SAMPLE)
    for place, value in damage:
        data[place] = value
    kos.check_manifest(bytes(data))
    try:
        kos.read_manifest(bytes(data))
    except kos.NotAManifest as error:
        assert "B" not in str(error).split(), "no patient data in the reason"
