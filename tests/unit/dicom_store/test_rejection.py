"""rejection: the table of reasons, and what is read in a note, in every encoding and when it is broken."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from itertools import permutations

import pytest
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from dicom_store import rejection
from dicom_store.rejection import (
    KEY_IMAGE_TITLES,
    REASONS,
    Reference,
    RejectionNote,
    read_note,
    stronger,
    strongest,
)
from dicom_store.status import Outcome, StoreRefused
from dicom_store.study import KeyImageNote
from fixtures.images import SeriesSpec, StudySpec, uid
from fixtures.notes import TITLES, note_dataset

SPEC = StudySpec(series=(SeriesSpec("CT", 3), SeriesSpec("MR", 2)))
STUDY = SPEC.study_instance_uid
IMPLICIT, EXPLICIT, BIG_ENDIAN = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"


def encode(note: Dataset, syntax: str = EXPLICIT) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = syntax == IMPLICIT, syntax != BIG_ENDIAN
    write_dataset(buffer, note)
    data = bytes(buffer.getvalue())
    if syntax == DEFLATED:
        deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        data = deflater.compress(data) + deflater.flush()
    return data


def rejection_of(**changes: object) -> Dataset:
    note = note_dataset(SPEC, "113037", [(1, 2), (2, 1)])
    for keyword, value in changes.items():
        setattr(note, keyword, value)
    return note


def evidence(note: Dataset) -> Dataset:
    return note.CurrentRequestedProcedureEvidenceSequence[0]


# --- the table -----------------------------------------------------------------------------------------------


def test_the_codes_are_those_of_iocm() -> None:
    assert {code: reason.meaning for code, reason in REASONS.items()} == {
        code: TITLES[code] for code in ("113001", "113037", "113038", "113039")
    }


@pytest.mark.parametrize(
    ("code", "at_once", "returns"),
    [("113001", False, False), ("113037", True, False), ("113038", True, False), ("113039", False, True)],
)
def test_what_follows_from_a_reason(code: str, at_once: bool, returns: bool) -> None:
    reason = REASONS[code]
    assert (reason.stops_serving_at_once, reason.returns_when_stored_again) == (at_once, returns)
    assert reason.clause


def test_of_two_reasons_exactly_one_overrides_the_other() -> None:
    for one, other in permutations(REASONS, 2):
        assert (one in REASONS[other].overrides) != (other in REASONS[one].overrides)


def test_the_reason_that_counts_does_not_depend_on_the_order() -> None:
    for order in permutations(REASONS):
        assert strongest(order) == "113038"
    for order in permutations(("113037", "113001", "113039")):
        assert strongest(order) == "113037"
    assert strongest(()) is None
    assert [stronger(None, "113039"), stronger("113039", "113001"), stronger("113037", "113001")] == [
        "113039",
        "113001",
        "113037",
    ]


def test_no_title_is_both() -> None:
    assert KEY_IMAGE_TITLES.isdisjoint(REASONS)
    assert "113030" not in KEY_IMAGE_TITLES


# --- notes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG_ENDIAN, DEFLATED])
@pytest.mark.parametrize("code", sorted(REASONS))
def test_a_rejection_note(syntax: str, code: str) -> None:
    note = read_note(encode(note_dataset(SPEC, code, [(1, 2), (2, 1)]), syntax), syntax)
    assert note == RejectionNote(
        SOPInstanceUID=uid(SPEC, 9001, 1),
        StudyInstanceUID=STUDY,
        code=code,
        references=(
            Reference(STUDY, uid(SPEC, 1), uid(SPEC, 1, 2)),
            Reference(STUDY, uid(SPEC, 2), uid(SPEC, 2, 1)),
        ),
    )


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG_ENDIAN, DEFLATED])
def test_a_key_image_note(syntax: str) -> None:
    data = encode(note_dataset(SPEC, "113000", [(1, 2), (2, 1)], "Lésion clé : œil", number=5), syntax)
    assert read_note(memoryview(data), syntax) == KeyImageNote(
        SOPInstanceUID=uid(SPEC, 9005, 1),
        SeriesInstanceUID=uid(SPEC, 9005),
        CodeValue="113000",
        CodingSchemeDesignator="DCM",
        CodeMeaning="Of Interest",
        description="Lésion clé : œil",
        references=(uid(SPEC, 1, 2), uid(SPEC, 2, 1)),
    )


def test_a_latin_description() -> None:
    note = note_dataset(SPEC, "113013", [(1, 1)], "Série clé")
    note.SpecificCharacterSet = "ISO_IR 100"
    found = read_note(encode(note), EXPLICIT)
    assert isinstance(found, KeyImageNote)
    assert found.description == "Série clé"


def test_a_note_without_description() -> None:
    found = read_note(encode(note_dataset(SPEC, "113000", [(1, 1)])), EXPLICIT)
    assert isinstance(found, KeyImageNote)
    assert found.description == ""


def _private_scheme(note: Dataset) -> None:
    note.ConceptNameCodeSequence[0].CodingSchemeDesignator = "99ACME"


def _manifest(note: Dataset) -> None:
    note.ConceptNameCodeSequence[0].CodeValue = "113030"


def _unknown(note: Dataset) -> None:
    note.ConceptNameCodeSequence[0].CodeValue = "113035"


def _untitled(note: Dataset) -> None:
    del note.ConceptNameCodeSequence


@pytest.mark.parametrize("change", [_private_scheme, _manifest, _unknown, _untitled])
def test_other_titles_say_nothing(change: Callable[[Dataset], None]) -> None:
    note = rejection_of()
    change(note)
    assert read_note(encode(note), EXPLICIT) is None


def test_instances_named_twice_count_once() -> None:
    note = rejection_of()
    again = evidence(note).ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
    evidence(note).ReferencedSeriesSequence[0].ReferencedSOPSequence.append(again)
    found = read_note(encode(note), EXPLICIT)
    assert isinstance(found, RejectionNote)
    assert len(found.references) == 2


def test_what_only_the_content_names_is_rejected_too() -> None:
    note = rejection_of()
    del evidence(note).ReferencedSeriesSequence[1]
    found = read_note(encode(note), EXPLICIT)
    assert isinstance(found, RejectionNote)
    assert set(found.references) == {
        Reference(STUDY, uid(SPEC, 1), uid(SPEC, 1, 2)),
        Reference(STUDY, "", uid(SPEC, 2, 1)),
    }


def test_a_note_does_not_name_itself() -> None:
    note = rejection_of()
    evidence(note).ReferencedSeriesSequence[0].ReferencedSOPSequence[
        0
    ].ReferencedSOPInstanceUID = note.SOPInstanceUID
    del note.ContentSequence
    found = read_note(encode(note), EXPLICIT)
    assert isinstance(found, RejectionNote)
    assert [one.SOPInstanceUID for one in found.references] == [uid(SPEC, 2, 1)]


# --- broken notes --------------------------------------------------------------------------------------------


def _other_study(note: Dataset) -> None:
    evidence(note).StudyInstanceUID = "1.2.3"


def _no_instance(note: Dataset) -> None:
    del note.ContentSequence
    note.CurrentRequestedProcedureEvidenceSequence = []


def _bad_uid(note: Dataset) -> None:
    evidence(note).ReferencedSeriesSequence[0]["SeriesInstanceUID"]._value = "../../x"


def _missing_uid(note: Dataset) -> None:
    del evidence(note).ReferencedSeriesSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID


def _not_a_sequence(note: Dataset) -> None:
    del note.CurrentRequestedProcedureEvidenceSequence
    note.add(DataElement(0x0040A375, "LO", "text"))


BROKEN = [_other_study, _no_instance, _bad_uid, _missing_uid, _not_a_sequence]


@pytest.mark.parametrize("break_it", BROKEN)
def test_a_rejection_that_cannot_be_followed_is_refused(break_it: Callable[[Dataset], None]) -> None:
    note = rejection_of()
    break_it(note)
    with pytest.raises(StoreRefused) as refused:
        read_note(encode(note), EXPLICIT)
    assert refused.value.outcome is Outcome.NOT_UNDERSTOOD
    assert SPEC.patient_name not in refused.value.reason


def test_a_key_image_note_that_cannot_be_followed_is_an_instance_like_any() -> None:
    note = note_dataset(SPEC, "113000", [(1, 1)])
    _bad_uid(note)
    assert read_note(encode(note), EXPLICIT) is None


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, DEFLATED])
def test_a_note_cut_anywhere_never_loses_an_instance(syntax: str) -> None:
    """Either it is refused, or (cut behind what it names) both instances are rejected, or its title is gone."""
    data = encode(rejection_of(), syntax)
    whole = read_note(data, syntax)
    assert isinstance(whole, RejectionNote)
    for length in range(0, len(data), 7):
        try:
            note = read_note(data[:length], syntax)
        except StoreRefused:
            continue
        assert note is None or (
            isinstance(note, RejectionNote)
            and {one.SOPInstanceUID for one in note.references}
            == {one.SOPInstanceUID for one in whole.references}
        )


@pytest.mark.parametrize("syntax", [EXPLICIT, DEFLATED])
def test_a_note_too_long_to_read_is_refused(monkeypatch: pytest.MonkeyPatch, syntax: str) -> None:
    data = encode(rejection_of(PatientComments="x" * 5000), syntax)
    monkeypatch.setattr(rejection, "MAX_NOTE_BYTES", 2000)
    with pytest.raises(StoreRefused, match="cannot be read"):
        read_note(data, syntax)


@pytest.mark.parametrize("data", [b"", b"\xff" * 40, bytes(64)])
def test_bytes_that_are_no_data_set(data: bytes) -> None:
    try:
        assert read_note(data, EXPLICIT) is None
    except StoreRefused as refusal:
        assert refusal.outcome is Outcome.NOT_UNDERSTOOD
