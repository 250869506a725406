"""Each rule of a manifest, by breaking one thing of a valid one; and how bytes that are no manifest are read."""

from __future__ import annotations

import copy
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from functools import cache
from io import BytesIO

import pytest
from pydicom import DataElement, Dataset, dcmread, dcmwrite
from pydicom.config import IGNORE

from dicom_store.study import InstanceRef, SeriesSnapshot, StudySnapshot
from drimbox.domain import kos
from drimbox.domain.identifiers import Identifier, Ins
from drimbox.domain.kos_profile import PROFILE
from drimbox.domain.kos_rules import STRUCTURE
from drimbox.domain.kos_tree import parse_kos
from drimbox.domain.report import Code, Order, Organization, Patient, Report, StudyAct, Timestamp
from drimbox.domain.violations import Severity, errors

STUDY = "1.2.250.1.999.1.1"
CT, DOSE_SR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.88.67"
NOW = datetime(2024, 1, 2, 9, 30, 15, tzinfo=UTC)

Change = Callable[[Dataset], object]


@cache
def _valid() -> bytes:
    when = Timestamp("20221215194622", NOW)
    patient = Patient(
        Ins("279035121518989", "1.2.250.1.213.1.4.10"), (), "PAT-TROIS", "DOMINIQUE", "DOMINIQUE", "", "",
        "F", "19790328", "63220",
    )  # fmt: skip
    report = Report(
        Identifier("1.2.9"), "", 1, (), Code("18748-4", "LOINC"), (), "", when, Code("N", "5.25"), "fr-FR", 1,
        patient, (), None, (Order(Identifier("1.2.6", "OPN1"), (Identifier("1.2.5", "ACN1"),)),),
        (StudyAct(STUDY, Code("24727-0", "LOINC", "CT"), None, (), (), when, None, None),), None, None,
    )  # fmt: skip
    series = tuple(
        SeriesSnapshot(f"{STUDY}.{s}", "CT", s, f"Serie {s}", "", tuple(refs))
        for s, refs in (
            (201, [InstanceRef(f"{STUDY}.201.{n}", CT, "1.2", n) for n in (1, 2)]),
            (202, [InstanceRef(f"{STUDY}.202.1", DOSE_SR, "1.2", 1)]),
        )
    )
    dataset = kos.build_manifest(
        StudySnapshot(STUDY, "20221215", "194622", "Examen A", ("ACN1",), ("IPP1",), ("19790328",), series),
        report,
        requests=kos.requests_for(report, ("ACN1",)),
        retrieve_base="https://db.example.fr/rs",
        manufacturer="ANS",
        institution=Organization(Identifier("1.2", "101235555"), "Centre"),
        sop_instance_uid="2.25.1001",
        series_instance_uid="2.25.1002",
        now=NOW,
        time_zone="Europe/Paris",
    )
    return kos.encode_manifest(dataset)


def _manifest() -> Dataset:
    return dcmread(BytesIO(_valid()))


def _series(dataset: Dataset, number: int = 0) -> Dataset:
    return dataset.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[number]


def _write(keyword: str, value: object, vr: str | None = None) -> Change:
    """Set a root attribute to anything, against pydicom's own opinion."""

    def change(dataset: Dataset) -> None:
        dataset[keyword] = DataElement(keyword, vr or dataset[keyword].VR, value, validation_mode=IGNORE)

    return change


def _delete(keyword: str) -> Change:
    return lambda dataset: dataset.__delattr__(keyword)


def _second_study(dataset: Dataset) -> None:
    other = copy.deepcopy(dataset.CurrentRequestedProcedureEvidenceSequence[0])
    other.StudyInstanceUID = "1.2.3"
    del other.ReferencedSeriesSequence[1]
    other.ReferencedSeriesSequence[0].SeriesInstanceUID = "1.2.3.4"
    dataset.CurrentRequestedProcedureEvidenceSequence.append(other)


def _text(replacement: Callable[[str], str]) -> Change:
    def change(dataset: Dataset) -> None:
        item = dataset.ContentSequence[-1]
        item.TextValue = replacement(item.TextValue)

    return change


def _retrieve_url(replacement: Callable[[str], str]) -> Change:
    def change(dataset: Dataset) -> None:
        series = _series(dataset)
        value = replacement(series.RetrieveURL)
        series["RetrieveURL"] = DataElement("RetrieveURL", "UR", value, validation_mode=IGNORE)

    return change


def _key_image_note(dataset: Dataset) -> None:
    note = Dataset()
    note.ReferencedSOPInstanceUID = "1.2.3.299"
    _series(dataset).ReferencedSOPSequence[0].ReferencedSOPSequence = [note]


def _template(dataset: Dataset) -> None:
    item = Dataset()
    item.MappingResource, item.TemplateIdentifier = "DCMR", "1500"
    dataset.ContentTemplateSequence = [item]


def _no_series(dataset: Dataset) -> None:
    dataset.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence = []


def _same_series(dataset: Dataset) -> None:
    dataset.SeriesInstanceUID = _series(dataset).SeriesInstanceUID


_SUMMER = (_write("ContentDate", "20240702"), _write("TimezoneOffsetFromUTC", "+0100"))

# rule that must be broken, where, the change
ERRORS: list[tuple[str, str, Change]] = [
    (
        "missing",
        "ReferencedPerformedProcedureStepSequence",
        _delete("ReferencedPerformedProcedureStepSequence"),
    ),
    ("missing", "StudyID", _delete("StudyID")),
    ("missing", "SeriesNumber", _delete("SeriesNumber")),
    ("empty", "ContentDate", _write("ContentDate", "")),
    (
        "missing",
        "CurrentRequestedProcedureEvidenceSequence[1].ReferencedSeriesSequence[1].SeriesInstanceUID",
        lambda d: _series(d).__delattr__("SeriesInstanceUID"),
    ),
    (
        "missing",
        "ReferencedRequestSequence[1].RequestedProcedureID",
        lambda d: d.ReferencedRequestSequence[0].__delattr__("RequestedProcedureID"),
    ),
    ("fixed-value", "Modality", _write("Modality", "CT")),
    ("fixed-value", "ContinuityOfContent", _write("ContinuityOfContent", "CONTINUOUS")),
    ("vr", "ContentTime", _write("ContentTime", "20240102", "DA")),
    ("vr", "InstitutionName", _write("InstitutionName", "CENTRE", "CS")),
    ("form", "ContentDate", _write("ContentDate", "20240231")),
    ("form", "StudyTime", _write("StudyTime", "20060531")),
    ("form", "StudyDescription", _write("StudyDescription", "x" * 65)),
    ("form", "SOPInstanceUID", _write("SOPInstanceUID", "1.02.3")),
    ("vm", "StudyDescription", _write("StudyDescription", ["a", "b"])),
    ("meta-agrees", "MediaStorageSOPInstanceUID", _write("SOPInstanceUID", "2.25.7")),
    ("identical-documents", "IdenticalDocumentsSequence", _second_study),
    ("drim-m-one-study", "CurrentRequestedProcedureEvidenceSequence", _second_study),
    ("listed-once", "ReferencedSOPSequence", _second_study),
    (
        "listed-once",
        "ContentSequence",
        lambda d: d.ContentSequence.append(copy.deepcopy(d.ContentSequence[0])),
    ),
    ("evidence-is-content", "ContentSequence", lambda d: d.ContentSequence.pop(0)),
    (
        "evidence-is-content",
        "CurrentRequestedProcedureEvidenceSequence",
        lambda d: _series(d).ReferencedSOPSequence.pop(0),
    ),
    (
        "class-agrees",
        "ContentSequence[1]",
        lambda d: setattr(d.ContentSequence[0].ReferencedSOPSequence[0], "ReferencedSOPClassUID", CT + ".1"),
    ),
    ("own-series", "SeriesInstanceUID", _same_series),
    ("value-type", "ContentSequence[3]", lambda d: setattr(d.ContentSequence[2], "ValueType", "IMAGE")),
    ("children", "ContentSequence[1]", lambda d: setattr(d.ContentSequence[0], "ValueType", "NUM")),
    (
        "children",
        "ContentSequence[1]",
        lambda d: setattr(d.ContentSequence[0], "RelationshipType", "HAS OBS CONTEXT"),
    ),
    ("children", "ContentSequence[1]", lambda d: setattr(d.ContentSequence[0], "ContentSequence", [])),
    (
        "children",
        "ContentSequence[1]",
        lambda d: setattr(d.ContentSequence[0], "ReferencedContentItemIdentifier", [1, 2]),
    ),
    ("children", "ContentSequence[1]", lambda d: setattr(d.ContentSequence[0], "ReferencedSOPSequence", [])),
    (
        "something-referenced",
        "ContentSequence",
        lambda d: d.__setattr__("ContentSequence", [d.ContentSequence[-1]]),
    ),
    (
        "one-description",
        "ContentSequence",
        lambda d: d.ContentSequence.append(copy.deepcopy(d.ContentSequence[-1])),
    ),
    ("template", "ContentTemplateSequence", _template),
    (
        "drim-m-title",
        "ConceptNameCodeSequence",
        lambda d: setattr(d.ConceptNameCodeSequence[0], "CodeValue", "113000"),
    ),
    ("drim-m-one-study", "CurrentRequestedProcedureEvidenceSequence", _write("StudyInstanceUID", "1.2.3")),
    ("drim-m-ins", "PatientID", _write("PatientID", "IPP101")),
    ("drim-m-ins", "PatientID", _write("PatientID", "279035121518988")),
    ("drim-m-ins", "PatientID", _delete("IssuerOfPatientIDQualifiersSequence")),
    ("drim-m-other-ids", "OtherPatientIDsSequence", _delete("OtherPatientIDsSequence")),
    ("drim-m-request", "ReferencedRequestSequence", _delete("ReferencedRequestSequence")),
    (
        "drim-m-request",
        "ReferencedRequestSequence[1].StudyInstanceUID",
        lambda d: setattr(d.ReferencedRequestSequence[0], "StudyInstanceUID", "1.2.3"),
    ),
    (
        "drim-m-retrieve-url",
        "CurrentRequestedProcedureEvidenceSequence[1].ReferencedSeriesSequence[1].RetrieveURL",
        lambda d: _series(d).__delattr__("RetrieveURL"),
    ),
    (
        "drim-m-retrieve-url",
        "CurrentRequestedProcedureEvidenceSequence[1].ReferencedSeriesSequence[1].RetrieveURL",
        _retrieve_url(lambda url: url.replace(".201", ".202")),
    ),
    (
        "drim-m-retrieve-url",
        "CurrentRequestedProcedureEvidenceSequence[1].ReferencedSeriesSequence[1].RetrieveURL",
        _retrieve_url(lambda url: url + "?token=1"),
    ),
    (
        "drim-m-retrieve-user",
        "CurrentRequestedProcedureEvidenceSequence[1].ReferencedSeriesSequence[1].RetrieveURL",
        _retrieve_url(lambda url: url.replace("https://", "https://user@")),
    ),
    ("drim-m-description", "ContentSequence", lambda d: d.ContentSequence.pop(-1)),
    (
        "drim-m-key-image-note",
        "CurrentRequestedProcedureEvidenceSequence[1].ReferencedSeriesSequence[1]."
        "ReferencedSOPSequence[1].ReferencedSOPSequence",
        _key_image_note,
    ),
    ("time-zone", "TimezoneOffsetFromUTC", _write("TimezoneOffsetFromUTC", "+1500")),
    ("time-zone", "TimezoneOffsetFromUTC", _write("TimezoneOffsetFromUTC", "Paris")),
]

WARNINGS: list[tuple[str, str, Change]] = [
    (
        "drim-m-retrieve-https",
        "CurrentRequestedProcedureEvidenceSequence[1].ReferencedSeriesSequence[1].RetrieveURL",
        _retrieve_url(lambda url: url.replace("https", "http")),
    ),
    (
        "value-type-vague",
        "ContentSequence",
        lambda d: setattr(d.ContentSequence[0], "ValueType", "COMPOSITE"),
    ),
    (
        "drim-m-title-meaning",
        "ConceptNameCodeSequence",
        lambda d: setattr(d.ConceptNameCodeSequence[0], "CodeMeaning", "Manifest"),
    ),
    ("drim-m-ins-label", "IssuerOfPatientID", _write("IssuerOfPatientID", "ASIP-SANTE-INS-NIA")),
    (
        "drim-m-other-ids-issuer",
        "OtherPatientIDsSequence[1].IssuerOfPatientID",
        lambda d: d.OtherPatientIDsSequence[0].__delattr__("IssuerOfPatientID"),
    ),
    ("drim-m-traits", "PatientBirthDate", _write("PatientBirthDate", "")),
    ("drim-m-traits", "PatientComments", _write("PatientComments", "Paris")),
    ("drim-m-names", "PatientName", _write("PatientName", "PAT-TROIS")),
    ("drim-m-names", "OtherPatientNames", _write("OtherPatientNames", "DOMINIQUE")),
    ("drim-m-institution", "InstitutionName", _write("InstitutionName", "BCOM")),
    ("drim-m-root-accession", "AccessionNumber", _write("AccessionNumber", "ACN1")),
    ("drim-m-numbering", "SeriesNumber", _write("SeriesNumber", "1")),
    (
        "drim-m-numbering",
        "CurrentRequestedProcedureEvidenceSequence.SeriesNumber",
        lambda d: _series(d).__delattr__("SeriesNumber"),
    ),
    (
        "drim-m-numbering",
        "CurrentRequestedProcedureEvidenceSequence.InstanceNumber",
        lambda d: _series(d).ReferencedSOPSequence[0].__delattr__("InstanceNumber"),
    ),
    (
        "drim-m-request-numbers",
        "ReferencedRequestSequence[1].AccessionNumber",
        lambda d: setattr(d.ReferencedRequestSequence[0], "AccessionNumber", ""),
    ),
    (
        "drim-m-request-numbers",
        "ReferencedRequestSequence[1].OrderPlacerIdentifierSequence",
        lambda d: d.ReferencedRequestSequence[0].__delattr__("OrderPlacerIdentifierSequence"),
    ),
    (
        "drim-m-retrieve-base",
        "CurrentRequestedProcedureEvidenceSequence",
        _retrieve_url(lambda url: url.replace("/rs/", "/other/")),
    ),
    ("drim-m-layout", "TextValue", _text(lambda text: text.replace("Acte = ", "Acte : "))),
    ("drim-m-layout", "TextValue", _text(lambda text: text.replace("\n", "\r\n"))),
    ("drim-m-layout", "TextValue", _text(lambda text: text.replace(".201 :", ".209 :"))),
    ("drim-m-character-set", "SpecificCharacterSet", _write("SpecificCharacterSet", "ISO_IR 101")),
    ("summer-time", "TimezoneOffsetFromUTC", lambda d: [change(d) for change in _SUMMER]),
    ("summer-time", "TimezoneOffsetFromUTC", _delete("TimezoneOffsetFromUTC")),
]


def _broken(change: Change) -> bytes:
    dataset = _manifest()
    change(dataset)
    buffer = BytesIO()
    dcmwrite(buffer, dataset)
    return buffer.getvalue()


def test_a_manifest_of_ours_breaks_no_rule() -> None:
    assert kos.check_manifest(_valid()) == ()


@pytest.mark.parametrize(("rule", "where", "change"), ERRORS, ids=[f"{r}:{w}" for r, w, _ in ERRORS])
def test_error(rule: str, where: str, change: Change) -> None:
    found = [v for v in kos.check_manifest(_broken(change)) if (v.rule, v.where) == (rule, where)]
    assert [v.severity for v in found] == [Severity.ERROR] * len(found) != []
    assert all(v.clause and v.message for v in found)


@pytest.mark.parametrize(("rule", "where", "change"), WARNINGS, ids=[f"{r}:{w}" for r, w, _ in WARNINGS])
def test_warning(rule: str, where: str, change: Change) -> None:
    found = kos.check_manifest(_broken(change))
    assert (rule, where) in {(v.rule, v.where) for v in found}
    assert errors(found) == (), "a tolerated difference does not stop a manifest"


def test_every_rule_of_the_tables_has_its_test() -> None:
    tested = {rule for rule, _, _ in [*ERRORS, *WARNINGS]}
    assert {rule.slug for rule in (*STRUCTURE, *PROFILE)} <= tested


def test_every_violation_is_listed_not_the_first() -> None:
    def several(dataset: Dataset) -> None:
        del dataset.StudyID
        dataset.Modality = "CT"
        _series(dataset).RetrieveURL = "http://x/"

    rules = {violation.rule for violation in kos.check_manifest(_broken(several))}
    assert {"missing", "fixed-value", "drim-m-retrieve-url", "drim-m-retrieve-https"} <= rules


def test_text_outside_ascii_needs_a_character_set() -> None:
    found = kos.check_manifest(_valid().replace(b"ISO_IR 100", b"          "))
    assert {v.rule for v in found} >= {"charset", "drim-m-character-set"}


def test_latin_1_bytes_announced_as_utf_8_are_an_error() -> None:
    found = kos.check_manifest(_valid().replace(b"ISO_IR 100", b"ISO_IR 192"))
    assert [v.rule for v in errors(found)] == ["charset"]


@pytest.mark.parametrize("data", [b"", b"not DICOM", bytes(128) + b"DICM", bytes(200)])
def test_bytes_that_are_no_manifest(data: bytes) -> None:
    assert [v.rule for v in errors(kos.check_manifest(data))]
    with pytest.raises(kos.NotAManifest):
        kos.read_manifest(data)


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_a_manifest_cut_anywhere_is_refused_or_read_never_a_crash() -> None:
    whole = _valid()
    for length in range(0, len(whole), 7):
        cut = whole[:length]
        kos.check_manifest(cut)
        try:
            manifest = kos.read_manifest(cut)
        except kos.NotAManifest:
            continue
        assert manifest.sop_instance_uid == "2.25.1001"


@pytest.mark.parametrize("transfer_syntax", ["1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.50", "1.2.3"])
def test_only_native_transfer_syntaxes_are_read(transfer_syntax: str) -> None:
    """A deflated file could inflate without end; pixels have no place in a manifest."""
    data = _valid()
    size, start = int.from_bytes(data[140:144], "little"), data.index(b"1.2.840.10008.1.2.1\0")
    value = transfer_syntax.encode().ljust(len(transfer_syntax) + len(transfer_syntax) % 2, b"\0")
    swapped = b"".join(
        (
            data[:140],
            (size - 20 + len(value)).to_bytes(4, "little"),
            data[144 : start - 2],
            len(value).to_bytes(2, "little"),
            value,
            data[start + 20 :],
        )
    )
    with pytest.raises(kos.NotAManifest):
        kos.read_manifest(swapped)
    assert [v.rule for v in kos.check_manifest(swapped)] == ["not-dicom"]


def test_sequences_nested_without_end_are_refused() -> None:
    deep = Dataset()
    for _ in range(40):
        outer = Dataset()
        outer.ContentSequence = [deep]
        deep = outer
    with pytest.raises(kos.NotAManifest, match="nested"):
        parse_kos(_broken(lambda d: d.__setattr__("ContentSequence", [deep])))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_write("SOPClassUID", CT), "Key Object"),
        (lambda d: setattr(d.ConceptNameCodeSequence[0], "CodeValue", "113001"), "113030"),
        (lambda d: setattr(d.ConceptNameCodeSequence[0], "CodingSchemeDesignator", "99X"), "113030"),
        (_second_study, "this study alone"),
        (_delete("StudyInstanceUID"), "StudyInstanceUID"),
        (_write("SOPInstanceUID", "../etc/passwd"), "SOPInstanceUID"),
        (lambda d: _series(d).__delattr__("ReferencedSOPSequence") or _series(d, 1).clear(), "SeriesInstanceUID"),
        (_no_series, "no instance"),
    ],
)  # fmt: skip
def test_what_read_refuses(change: Change, reason: str) -> None:
    with pytest.raises(kos.NotAManifest, match=reason):
        kos.read_manifest(_broken(change))


def test_read_gives_what_was_written() -> None:
    manifest = kos.read_manifest(_valid())
    assert (manifest.sop_instance_uid, manifest.study_instance_uid) == ("2.25.1001", STUDY)
    assert (manifest.patient_id, manifest.patient_issuer) == ("279035121518989", "1.2.250.1.213.1.4.10")
    assert manifest.created == NOW
    assert manifest.created.tzinfo == timezone(timedelta(hours=1))
    assert manifest.accessions == (Identifier("1.2.5", "ACN1"),)
    first, second = manifest.series
    assert first.retrieve_url == f"https://db.example.fr/rs/studies/{STUDY}/series/{STUDY}.201"
    assert [(i.sop_class_uid, i.sop_instance_uid) for i in second.instances] == [(DOSE_SR, f"{STUDY}.202.1")]


def test_read_without_creation_time_takes_the_content_time_then_nothing() -> None:
    def no_creation(dataset: Dataset) -> None:
        del dataset.InstanceCreationDate

    def no_time(dataset: Dataset) -> None:
        no_creation(dataset)
        dataset.ContentTime = ""

    assert kos.read_manifest(_broken(no_creation)).created == NOW
    assert kos.read_manifest(_broken(no_time)).created is None


def test_blanks_around_a_retrieve_url_are_trimmed() -> None:
    url = kos.read_manifest(_valid()).series[0].retrieve_url
    padded = _broken(_retrieve_url(lambda value: f" {value}   "))
    assert kos.read_manifest(padded).series[0].retrieve_url == url
