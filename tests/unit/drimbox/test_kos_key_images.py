"""Key images in the manifest, and the quick judgement of a long one: where it agrees and when it steps back."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from io import BytesIO
from typing import Any

import pytest
from pydicom import Dataset, dcmread

from dicom_store.paths import InvalidUID
from dicom_store.study import InstanceRef, KeyImageNote, SeriesSnapshot, StudySnapshot
from drimbox.domain import kos, kos_quick
from drimbox.domain.identifiers import Identifier, Ins
from drimbox.domain.report import Code, Order, Organization, Patient, Report, StudyAct, Timestamp
from drimbox.domain.violations import errors

STUDY = "1.2.250.1.999.1.1"
CT, MR, KEY_OBJECT = (
    "1.2.840.10008.5.1.4.1.1.2",
    "1.2.840.10008.5.1.4.1.1.4",
    "1.2.840.10008.5.1.4.1.1.88.59",
)
NOW = datetime(2024, 1, 2, 9, 30, 15, tzinfo=UTC)
WHEN = Timestamp("20221215194622", NOW)
NOTE_SERIES = f"{STUDY}.299"
NOTE = KeyImageNote(
    f"{NOTE_SERIES}.1", NOTE_SERIES, "113000", "DCM", "Of Interest", "Lésion", (f"{STUDY}.201.2",)
)
REPORT = Report(
    Identifier("1.2.9"), "", 1, (), Code("18748-4", "LOINC"), (), "", WHEN, Code("N", "5.25"), "fr-FR", 1,
    Patient(
        Ins("279035121518989", "1.2.250.1.213.1.4.10"), (), "PAT-TROIS", "DOMINIQUE", "DOMINIQUE", "", "", "F",
        "19790328", "63220",
    ),
    (), None, (Order(Identifier("1.2.6", "OPN1"), (Identifier("1.2.5", "ACN1"),)),),
    (StudyAct(STUDY, Code("24727-0", "LOINC", "CT"), None, (), (), WHEN, None, None),), None, None,
)  # fmt: skip


def series(number: int, instances: int, sop_class: str = CT, modality: str = "CT") -> SeriesSnapshot:
    uid = f"{STUDY}.{number}"
    refs = tuple(InstanceRef(f"{uid}.{n}", sop_class, "1.2", n) for n in range(1, instances + 1))
    return SeriesSnapshot(uid, modality, number, f"Serie {number}", "", refs)


def study(instances: int = 5, *notes: KeyImageNote) -> StudySnapshot:
    every = (series(201, instances), series(202, instances, MR, "MR"), series(299, 1, KEY_OBJECT, "KO"))
    return StudySnapshot(STUDY, "20221215", "194622", "Examen A", ("ACN1",), (), (), every, (), notes)


def arguments(**changes: Any) -> dict[str, Any]:
    return {
        "requests": kos.requests_for(REPORT, ("ACN1",)),
        "retrieve_base": "https://db.example.fr/rs",
        "manufacturer": "ANS",
        "institution": Organization(Identifier("1.2", "101235555"), "Centre"),
        "sop_instance_uid": "2.25.1001",
        "series_instance_uid": "2.25.1002",
        "now": NOW,
        "time_zone": "Europe/Paris",
    } | changes


def build(images: StudySnapshot, **changes: Any) -> Dataset:
    return kos.build_manifest(images, REPORT, **arguments(**changes))


def references(manifest: Dataset) -> dict[str, Dataset]:
    evidence = manifest.CurrentRequestedProcedureEvidenceSequence[0]
    every = (ref for one in evidence.ReferencedSeriesSequence for ref in one.ReferencedSOPSequence)
    return {ref.ReferencedSOPInstanceUID: ref for ref in every}


# --- key images ----------------------------------------------------------------------------------------------


def test_a_marked_instance_says_by_which_note() -> None:
    marked = {uid for uid, ref in references(build(study(5, NOTE))).items() if "ReferencedSOPSequence" in ref}
    assert marked == set(NOTE.references)
    (nested,) = references(build(study(5, NOTE)))[NOTE.references[0]].ReferencedSOPSequence
    title = nested.ConceptNameCodeSequence[0]
    assert (nested.ReferencedSOPInstanceUID, nested.SeriesInstanceUID) == (
        NOTE.SOPInstanceUID,
        NOTE.SeriesInstanceUID,
    )
    assert (title.CodeValue, title.CodingSchemeDesignator, title.CodeMeaning) == (
        "113000",
        "DCM",
        "Of Interest",
    )
    assert [item.TextValue for item in nested.ContentSequence] == ["Lésion"]


def test_the_content_tree_has_no_nested_reference() -> None:
    for item in build(study(5, NOTE)).ContentSequence[:-1]:
        assert "ReferencedSOPSequence" not in item.ReferencedSOPSequence[0]


def test_a_note_without_description_has_no_content() -> None:
    (nested,) = references(build(study(5, replace(NOTE, description=" \n"))))[
        NOTE.references[0]
    ].ReferencedSOPSequence
    assert "ContentSequence" not in nested


def test_an_instance_marked_by_two_notes() -> None:
    images = study(5, NOTE, replace(NOTE, SOPInstanceUID=f"{NOTE_SERIES}.2", CodeValue="113013"))
    images = replace(images, series=(*images.series[:2], series(299, 2, KEY_OBJECT, "KO")))
    nested = references(build(images))[NOTE.references[0]].ReferencedSOPSequence
    assert [one.ConceptNameCodeSequence[0].CodeValue for one in nested] == ["113000", "113013"]
    assert kos.manifest_errors(kos.manifest_bytes(images, REPORT, **arguments())) == ()


def test_a_note_that_is_not_shared_marks_nothing() -> None:
    without = replace(study(5, NOTE), series=study().series[:2])
    assert not [ref for ref in references(build(without)).values() if "ReferencedSOPSequence" in ref]


def test_a_note_that_marks_what_is_not_shared() -> None:
    elsewhere = replace(NOTE, references=("1.2.3.4.5",))
    assert build(study(5, elsewhere)) == build(study())


def test_texts_of_notes_choose_the_character_set() -> None:
    assert build(study(5, replace(NOTE, description="Łódź"))).SpecificCharacterSet == "ISO_IR 192"
    assert build(study(5, replace(NOTE, CodeMeaning="Łódź"))).SpecificCharacterSet == "ISO_IR 192"
    hidden = replace(NOTE, SOPInstanceUID="1.2.3.9", description="Łódź")
    assert build(study(5, hidden)).SpecificCharacterSet == "ISO_IR 100"


def test_a_manifest_with_key_images_breaks_no_rule() -> None:
    data = kos.manifest_bytes(study(5, NOTE), REPORT, **arguments())
    assert kos.check_manifest(data) == ()


# --- bytes ---------------------------------------------------------------------------------------------------


def test_both_ways_give_the_same_bytes() -> None:
    for images in (study(), study(5, NOTE), study(1, replace(NOTE, description="Łódź", references=()))):
        assert kos.manifest_bytes(images, REPORT, **arguments()) == kos.encode_manifest(build(images))


def test_uids_are_checked_on_both_ways() -> None:
    one = series(201, 1)
    bad = (
        replace(one, SeriesInstanceUID="1.02"),
        replace(one, instances=(InstanceRef("../x", CT, "1.2"),)),
        replace(one, instances=(InstanceRef("1.2.3", "CT", "1.2"),)),
    )
    for broken in bad:
        images = replace(study(), series=(broken,))
        for make in (kos.build_manifest, kos.manifest_bytes):
            with pytest.raises(InvalidUID):
                make(images, REPORT, **arguments())


# --- the quick judgement -------------------------------------------------------------------------------------


@cache
def valid() -> bytes:
    return kos.manifest_bytes(study(6, NOTE), REPORT, **arguments())


def series_item(manifest: Dataset, number: int = 0) -> Dataset:
    item: Dataset = manifest.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[number]
    return item


def _unlisted_in_content(manifest: Dataset) -> None:
    del manifest.ContentSequence[3]


def _unlisted_in_evidence(manifest: Dataset) -> None:
    del series_item(manifest).ReferencedSOPSequence[4]


def _listed_twice(manifest: Dataset) -> None:
    refs = series_item(manifest).ReferencedSOPSequence
    refs[4].ReferencedSOPInstanceUID = refs[5].ReferencedSOPInstanceUID


def _content_listed_twice(manifest: Dataset) -> None:
    manifest.ContentSequence[4] = manifest.ContentSequence[5]


def _another_class(manifest: Dataset) -> None:
    series_item(manifest).ReferencedSOPSequence[4].ReferencedSOPClassUID = MR


def _wrong_value_type(manifest: Dataset) -> None:
    manifest.ContentSequence[4].ValueType = "WAVEFORM"


def _child_of_an_image(manifest: Dataset) -> None:
    manifest.ContentSequence[4].ContentSequence = [Dataset()]


def _own_instance(manifest: Dataset) -> None:
    manifest.SOPInstanceUID = series_item(manifest).ReferencedSOPSequence[4].ReferencedSOPInstanceUID
    manifest.file_meta.MediaStorageSOPInstanceUID = manifest.SOPInstanceUID


def _unknown_note(manifest: Dataset) -> None:
    nested = series_item(manifest).ReferencedSOPSequence[1].ReferencedSOPSequence[0]
    nested.ReferencedSOPInstanceUID = "1.2.3.4"


def _wrong_retrieve_url(manifest: Dataset) -> None:
    series_item(manifest, 1).RetrieveURL = series_item(manifest, 0).RetrieveURL


def _no_patient(manifest: Dataset) -> None:
    manifest.PatientID = ""


def _two_studies(manifest: Dataset) -> None:
    manifest.CurrentRequestedProcedureEvidenceSequence.append(Dataset())


def _two_references_in_an_item(manifest: Dataset) -> None:
    refs = manifest.ContentSequence[4].ReferencedSOPSequence
    refs.append(manifest.ContentSequence[5].ReferencedSOPSequence[0])


def _missing_class(manifest: Dataset) -> None:
    del series_item(manifest).ReferencedSOPSequence[4].ReferencedSOPClassUID


CHANGES = [
    _unlisted_in_content, _unlisted_in_evidence, _listed_twice, _content_listed_twice, _another_class,
    _wrong_value_type, _child_of_an_image, _own_instance, _unknown_note, _wrong_retrieve_url, _no_patient,
    _two_studies, _two_references_in_an_item, _missing_class,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_every_error_is_found(change: Callable[[Dataset], None]) -> None:
    manifest = dcmread(BytesIO(valid()))
    change(manifest)
    buffer = BytesIO()
    manifest.save_as(buffer)
    data = buffer.getvalue()
    found = kos.manifest_errors(data)
    assert found
    assert found == errors(kos.check_manifest(data))


@pytest.mark.parametrize(
    ("written", "instead"),
    [
        (b"CONTAINS", b"HAS PROP"),  # a relationship
        (b"https://db.example.fr", b"https://[b.example.fr"),  # an address that cannot be cut
        (f"{STUDY}.202.4".encode(), f"{STUDY}.202.X".encode()),  # a UID of both places
        (f"{STUDY}.202.4".encode(), f"{STUDY}.2.02.4".encode()[:-1]),
        (b"\x20\x00\x13\x00IS\x02\x005 ", b"\x20\x00\x13\x00IS\x02\x00X "),  # an InstanceNumber
        (b"\x20\x00\x13\x00IS\x02\x005 ", b"\x20\x00\x13\x00DS\x02\x005 "),  # its VR
    ],
)
def test_errors_among_references_that_are_alike(written: bytes, instead: bytes) -> None:
    assert len(written) == len(instead)
    data = valid().replace(written, instead)
    assert data != valid()
    found = kos.manifest_errors(data)
    assert found
    assert found == errors(kos.check_manifest(data))


def test_what_stays_of_a_long_manifest() -> None:
    data = kos.manifest_bytes(study(300, NOTE), REPORT, **arguments())
    thinned = dcmread(BytesIO(kos_quick.thin(data)))
    kept = references(thinned)
    assert len(kept) < 15
    assert {NOTE.SOPInstanceUID, NOTE.references[0], f"{STUDY}.201.1", f"{STUDY}.202.1"} <= kept.keys()
    assert kos.check_manifest(kos_quick.thin(data)) == ()


def test_another_layout_is_judged_whole() -> None:
    manifest = dcmread(BytesIO(valid()))
    manifest.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2"
    buffer = BytesIO()
    manifest.save_as(buffer, implicit_vr=True, little_endian=True)
    assert kos.manifest_errors(buffer.getvalue()) == ()
    for data in (b"", b"no DICOM file", valid()[:200], valid()[:-1]):
        assert kos.manifest_errors(data) == errors(kos.check_manifest(data))


def test_a_long_manifest_is_made_and_judged_in_no_time() -> None:
    """Budgets: 50 ms to make, 30 ms to judge; here with a margin for a busy machine (measured 10 and 15 ms)."""
    images = study(1000, NOTE)
    made, judged = [], []
    for _ in range(3):
        start = time.process_time()
        data = kos.manifest_bytes(images, REPORT, **arguments())
        middle = time.process_time()
        assert kos.manifest_errors(data) == ()
        judged.append(time.process_time() - middle)
        made.append(middle - start)
    assert min(made) < 0.1
    assert min(judged) < 0.1
