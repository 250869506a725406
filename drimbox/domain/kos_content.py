"""The manifest's content: value types, evidence and the text 113012 (PS3.16 TID 2010).

Texts enter a manifest through `line` (free text of one line) and `description` (a part of the text 113012):
NFC, control characters and line breaks become one blank, and in the text 113012 a colon between blanks
becomes a hyphen, because consumers cut its lines at " : " (dmp-kos-xds 1.7).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import urlsplit

from pydicom import Dataset
from pydicom.uid import UID_dictionary

from dicom_store.study import InstanceRef, KeyImageNote, SeriesSnapshot, StudySnapshot

KOS_CLASS = "1.2.840.10008.5.1.4.1.1.88.59"
LO_MAX_LENGTH = 64  # characters, PS3.5 6.2

# Images whose registered name does not say so: Enhanced US Volume, Parametric Map, Segmentation, Label Map
# Segmentation, Ophthalmic OCT B-scan Volume Analysis, Confocal Tiled Pyramidal, Thickness Map, Corneal
# Topography Map. All have DICOMDIR records of type IMAGE (PS3.3 F.4); RT Dose and Spectroscopy do not.
_IMAGES_BY_ANOTHER_NAME = frozenset(
    "1.2.840.10008.5.1.4.1.1." + suffix
    for suffix in ("6.2", "30", "66.4", "66.7", "77.1.5.8", "77.1.9", "81.1", "82.1")
)


def _registered(words: str) -> frozenset[str]:
    return frozenset(uid for uid, entry in UID_dictionary.items() if words in entry[0])


IMAGE_CLASSES: frozenset[str] = _registered("Image Storage") | _IMAGES_BY_ANOTHER_NAME
WAVEFORM_CLASSES: frozenset[str] = _registered("Waveform Storage")

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_LONE_COLON = re.compile(r"(?:(?<=\s)|^):(?=\s|$)")
_RETRIEVE_HOST = re.compile(r"[A-Za-z0-9.\-:\[\]]+")


def value_type(sop_class_uid: str) -> str:
    """Value type that refers to an instance of that class: IMAGE, WAVEFORM, or COMPOSITE for all the rest.

    PS3.16 TID 2010 rows 8 to 10; drim-m-data 6.1 and 6.3 (a key object is COMPOSITE). An unknown or private
    class is COMPOSITE, which is true of any instance.
    """
    if sop_class_uid in IMAGE_CLASSES:
        return "IMAGE"
    return "WAVEFORM" if sop_class_uid in WAVEFORM_CLASSES else "COMPOSITE"


def line(text: str) -> str:
    """Free text as one line: NFC, each run of control characters (line breaks, tabs, C1) as one blank."""
    return _CONTROL.sub(" ", unicodedata.normalize("NFC", text)).strip()


def long_string(text: str) -> str:
    """Free text as one value of VR LO (PS3.5 6.2): one line, no backslash, at most 64 characters."""
    return line(text).replace("\\", "/")[:LO_MAX_LENGTH].strip()


def description(text: str) -> str:
    """Free text as a part of the text 113012: one line, and `:` between blanks as `-`."""
    return _LONE_COLON.sub("-", line(text)).strip()


def retrieve_base(url: str) -> str:
    """The base of Retrieve URLs without its final slash.

    Raises ValueError unless it is http(s), with a host, without user, query, fragment or blank. The appliance's own
    base is https (settings); http is for manifests built by hand, as the ANS samples are.
    """
    parts = urlsplit(url)
    plain = url.isascii() and url.isprintable() and " " not in url and not parts.query and not parts.fragment
    if parts.scheme not in ("https", "http") or not _RETRIEVE_HOST.fullmatch(parts.netloc) or not plain:
        raise ValueError("the Retrieve URL base must be https://host[:port]/path, without user or query")
    return url.rstrip("/")


def series_url(base: str, study_instance_uid: str, series_instance_uid: str) -> str:
    """Retrieve URL (0008,1190) of a series: always at series level (drim-m-data 6.1)."""
    return f"{base}/studies/{study_instance_uid}/series/{series_instance_uid}"


def key_object_description(study: StudySnapshot, act: str) -> str:
    """The text 113012, in the layout that consumers cut into pieces (drim-m-data 6.1); lines end with LF."""
    lines = [f"Examen : {description(study.StudyDescription)}", f"Acte = {description(act)}"]
    lines += map(_series_line, study.series)
    return "".join(f"{text}\n" for text in lines)


def _series_line(series: SeriesSnapshot) -> str:
    modality, part = description(series.Modality), description(series.BodyPartExamined)
    name = description(series.SeriesDescription)
    return f"Série-{series.SeriesInstanceUID} : {modality} @ {part} : {name}"


def item(**values: object) -> Dataset:
    """A data set with these DICOM keywords; None = leave the attribute out."""
    dataset = Dataset()
    for keyword, value in values.items():
        if value is not None:
            setattr(dataset, keyword, value)
    return dataset


def code(value: str, meaning: str) -> list[Dataset]:
    """A code sequence of one item of the DICOM controlled terminology (PS3.3 8)."""
    return [item(CodeValue=value, CodingSchemeDesignator="DCM", CodeMeaning=meaning)]


def marks(study: StudySnapshot) -> dict[str, list[KeyImageNote]]:
    """The key image notes that mark each instance, by SOP Instance UID; only notes that are instances here."""
    shared = {ref.SOPInstanceUID for ref in study.instances}
    found: dict[str, list[KeyImageNote]] = {}
    for note in study.key_image_notes:
        if note.SOPInstanceUID in shared:
            for uid in note.references:
                found.setdefault(uid, []).append(note)
    return found


def note_texts(study: StudySnapshot) -> list[str]:
    """The free texts that key image notes bring into a manifest, as written there."""
    notes = {note.SOPInstanceUID: note for each in marks(study).values() for note in each}
    return [
        text for note in notes.values() for text in (long_string(note.CodeMeaning), line(note.description))
    ]


def evidence(study: StudySnapshot, base: str) -> Dataset:
    """The item of Current Requested Procedure Evidence Sequence (0040,A375) of one study (PS3.3 C.17-3).

    Beyond the macro, as DRIM-M practises it: SeriesNumber of the series, InstanceNumber of the instances, the
    key image notes of an instance in a sequence of its own (drim-m-data 6.3).
    """
    marked = marks(study)
    series = [
        item(
            RetrieveURL=series_url(base, study.StudyInstanceUID, one.SeriesInstanceUID),
            ReferencedSOPSequence=[_evidence_reference(ref, marked) for ref in one.instances],
            SeriesInstanceUID=one.SeriesInstanceUID,
            SeriesNumber=one.SeriesNumber,
        )
        for one in study.series
    ]
    return item(ReferencedSeriesSequence=series, StudyInstanceUID=study.StudyInstanceUID)


def content(instances: Iterable[InstanceRef], text: str) -> list[Dataset]:
    """The items of Content Sequence (0040,A730): one reference per instance, then the text (TID 2010)."""
    return [*map(_content_reference, instances), _content_text(text)]


def _content_reference(ref: InstanceRef) -> Dataset:
    return item(
        ReferencedSOPSequence=[_reference(ref)],
        RelationshipType="CONTAINS",
        ValueType=value_type(ref.SOPClassUID),
    )


def _content_text(text: str) -> Dataset:
    return item(
        RelationshipType="CONTAINS",
        ValueType="TEXT",
        ConceptNameCodeSequence=code("113012", "Key Object Description"),
        TextValue=text,
    )


def _reference(ref: InstanceRef) -> Dataset:
    return item(
        ReferencedSOPClassUID=ref.SOPClassUID,
        ReferencedSOPInstanceUID=ref.SOPInstanceUID,
        InstanceNumber=ref.InstanceNumber,
    )


def _evidence_reference(ref: InstanceRef, marked: Mapping[str, Sequence[KeyImageNote]]) -> Dataset:
    reference = _reference(ref)
    if ref.SOPInstanceUID in marked:
        reference.ReferencedSOPSequence = [_note(note) for note in marked[ref.SOPInstanceUID]]
    return reference


def _note(note: KeyImageNote) -> Dataset:
    """drim-m-data 6.3: who marks the instance, under which title, and why."""
    text = line(note.description)
    return item(
        ReferencedSOPInstanceUID=note.SOPInstanceUID,
        SeriesInstanceUID=note.SeriesInstanceUID,
        ConceptNameCodeSequence=[
            item(
                CodeValue=note.CodeValue,
                CodingSchemeDesignator=note.CodingSchemeDesignator,
                CodeMeaning=long_string(note.CodeMeaning),
            )
        ],
        ContentSequence=[item(TextValue=text)] if text else None,
    )
