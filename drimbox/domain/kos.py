"""The manifest of a study (KOS) as DRIM-M practises it: build, encode; read and check live beside.

`manifest_bytes` is the way of production; `build_manifest` and `encode_manifest` give the same bytes by pydicom
alone, some fifty times slower for a long study.

One manifest documents one study (dmp-kos-xds 1.4). Attributes, values and origins: drim-m-data 6.1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from io import BytesIO
from typing import TypedDict, Unpack
from zoneinfo import ZoneInfo

from pydicom import Dataset, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from dicom_store.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicom_store.paths import check_uid
from dicom_store.study import StudySnapshot
from drimbox.domain import kos_bytes, kos_content
from drimbox.domain.errors import ReportRefused
from drimbox.domain.identifiers import Identifier
from drimbox.domain.kos_content import KOS_CLASS, LO_MAX_LENGTH, code, item, line, long_string
from drimbox.domain.kos_identity import identity, institution_name, issuer, number
from drimbox.domain.kos_iod import fits
from drimbox.domain.kos_quick import manifest_errors
from drimbox.domain.kos_reading import Manifest, read_manifest
from drimbox.domain.kos_rules import check_manifest
from drimbox.domain.kos_tree import NotAManifest
from drimbox.domain.report import Organization, Report

__all__ = [
    "Manifest",
    "NotAManifest",
    "Request",
    "build_manifest",
    "check_manifest",
    "encode_manifest",
    "manifest_bytes",
    "manifest_errors",
    "read_manifest",
    "requests_for",
]

SH_MAX_LENGTH = 16  # characters, PS3.5 6.2


@dataclass(frozen=True, slots=True)
class Request:
    """A request that the exam fulfils; each number has its issuer as root, None = the report gives none."""

    accession: Identifier | None
    placer: Identifier | None


def requests_for(report: Report, accession_numbers: Iterable[str]) -> tuple[Request, ...]:
    """The requests of a report that concern a study, told by the AccessionNumbers of its images.

    A CDA does not say which order belongs to which study: the accession number does. All requests of the
    report when none matches (the mismatch itself is judged elsewhere).
    """
    every = tuple(
        Request(accession, order.placer)
        for order in report.orders
        for accession in (order.accessions or (None,))
    )
    known = frozenset(accession_numbers)
    return tuple(one for one in every if one.accession and one.accession.extension in known) or every


class ManifestArguments(TypedDict):
    """What a manifest says beside its study and its report.

    `retrieve_base`: address before `/studies/...`. `now`: aware; written as local time of `time_zone` (IANA
    name) with the offset valid at that instant.
    """

    requests: tuple[Request, ...]
    retrieve_base: str
    manufacturer: str
    institution: Organization | None
    sop_instance_uid: str
    series_instance_uid: str
    now: datetime
    time_zone: str


def build_manifest(study: StudySnapshot, report: Report, **arguments: Unpack[ManifestArguments]) -> Dataset:
    """The manifest of `study`: identity and requests of the report, the rest of the images (drim-m-data 6.1).

    SpecificCharacterSet is ISO_IR 100, as in every sample, when all texts fit in it, else ISO_IR 192. Without any
    request, the one item of Referenced Request carries empty numbers. Raises `ReportRefused` (the report cannot
    give this manifest: every reason is in the message), ValueError for arguments that are no UIDs, no usable
    base, a naive `now`, or a series UID of the study.
    """
    frame = _frame(study, report, arguments)
    frame.root.CurrentRequestedProcedureEvidenceSequence = [kos_content.evidence(study, frame.base)]
    frame.root.ContentSequence = kos_content.content(study.instances, frame.text)
    return frame.root


def manifest_bytes(study: StudySnapshot, report: Report, **arguments: Unpack[ManifestArguments]) -> bytes:
    """`encode_manifest(build_manifest(...))`, byte for byte, the long sequences written without pydicom.

    Raises as `build_manifest` does.
    """
    frame = _frame(study, report, arguments)
    # the two sequences are the last elements of a manifest, in this order
    return b"".join(
        (
            encode_manifest(frame.root),
            kos_bytes.evidence(study, frame.base, frame.codec),
            kos_bytes.content(study.instances, frame.text, frame.codec),
        )
    )


@dataclass(frozen=True, slots=True)
class _Frame:
    """A manifest but for its long sequences, and what these need: text 113012, Retrieve URL base, codec."""

    root: Dataset
    text: str
    base: str
    codec: str


def _frame(study: StudySnapshot, report: Report, arguments: ManifestArguments) -> _Frame:
    requests = arguments["requests"]
    _refuse_unfit(study, report, requests)
    _check_arguments(study, arguments)
    base = kos_content.retrieve_base(arguments["retrieve_base"])
    text = kos_content.key_object_description(study, _act_name(report, study.StudyInstanceUID))
    parts = {
        **_document(arguments),
        **_study(study),
        **_equipment(arguments["manufacturer"], arguments["institution"]),
        **identity(report.patient),
        "ReferencedRequestSequence": [
            _request(one, study.StudyInstanceUID) for one in requests or (Request(None, None),)
        ],
    }
    numbers = [n.extension for one in requests for n in (one.accession, one.placer) if n]
    texts = [text, *numbers, *kos_content.note_texts(study), *_texts(parts)]
    character_set, codec = _character_set(texts)
    return _Frame(item(SpecificCharacterSet=character_set, **parts), text, base, codec)


def encode_manifest(dataset: Dataset) -> bytes:
    """The manifest as a Part 10 file, Explicit VR Little Endian; the same data set gives the same bytes."""
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = IMPLEMENTATION_CLASS_UID
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    part10 = Dataset(dataset)
    part10.file_meta = meta
    buffer = BytesIO()
    dcmwrite(buffer, part10, implicit_vr=False, little_endian=True, enforce_file_format=True)
    return buffer.getvalue()


_Fit = Callable[[StudySnapshot, Report, tuple[Request, ...]], bool]

# What a report and a study must have before a manifest can be written: code, reason, test that must hold.
_CONDITIONS: tuple[tuple[str, str, _Fit], ...] = (
    ("report-without-ins", "the report has no INS", lambda s, r, q: r.patient.ins is not None),
    (
        "study-not-documented",
        "the report does not document this study",
        lambda s, r, q: any(act.StudyInstanceUID == s.StudyInstanceUID for act in r.studies),
    ),
    ("study-empty", "the study has no instance", lambda s, r, q: bool(s.instances)),
    (
        "accession-unfit",
        f"an accession number is no SH value: one line, no backslash, at most {SH_MAX_LENGTH} characters",
        lambda s, r, q: all(_is_value(number(one.accession), SH_MAX_LENGTH) for one in q),
    ),
    (
        "placer-unfit",
        f"a placer order number is no LO value: one line, no backslash, at most {LO_MAX_LENGTH} characters",
        lambda s, r, q: all(_is_value(number(one.placer), LO_MAX_LENGTH) for one in q),
    ),
)


def _refuse_unfit(study: StudySnapshot, report: Report, requests: tuple[Request, ...]) -> None:
    broken = [(slug, reason) for slug, reason, holds in _CONDITIONS if not holds(study, report, requests)]
    if broken:
        raise ReportRefused(broken[0][0], "; ".join(reason for _, reason in broken))


def _check_arguments(study: StudySnapshot, arguments: ManifestArguments) -> None:
    refs = study.instances
    uids = {uid for ref in refs for uid in (ref.SOPInstanceUID, ref.SOPClassUID)}
    uids.update(series.SeriesInstanceUID for series in study.series)
    uids.update(
        uid for note in study.key_image_notes for uid in (note.SOPInstanceUID, note.SeriesInstanceUID)
    )
    own = (study.StudyInstanceUID, arguments["sop_instance_uid"], arguments["series_instance_uid"])
    for uid in (*own, *uids):
        check_uid(uid)
    if arguments["series_instance_uid"] in uids:
        raise ValueError("the manifest needs a series of its own")
    if arguments["now"].tzinfo is None:
        raise ValueError("now must be aware")


def _document(arguments: ManifestArguments) -> dict[str, object]:
    at = arguments["now"].astimezone(ZoneInfo(arguments["time_zone"]))
    date, time = at.strftime("%Y%m%d"), at.strftime("%H%M%S")
    return {
        "InstanceCreationDate": date,
        "InstanceCreationTime": time,
        "SOPClassUID": KOS_CLASS,
        "SOPInstanceUID": arguments["sop_instance_uid"],
        "SeriesDate": date,
        "SeriesTime": time,
        "ContentDate": date,
        "ContentTime": time,
        "AccessionNumber": "",  # the numbers live in Referenced Request, with their issuers
        "Modality": "KO",
        "ReferringPhysicianName": "",
        "TimezoneOffsetFromUTC": at.strftime("%z"),
        "ReferencedPerformedProcedureStepSequence": [],
        "SeriesInstanceUID": arguments["series_instance_uid"],
        "StudyID": "",
        "SeriesNumber": 59,
        "InstanceNumber": 1,
        "ValueType": "CONTAINER",
        "ConceptNameCodeSequence": code("113030", "MANIFEST"),
        "ContinuityOfContent": "SEPARATE",
    }


def _study(study: StudySnapshot) -> dict[str, object]:
    return {
        "StudyInstanceUID": study.StudyInstanceUID,
        "StudyDate": study.StudyDate if fits("DA", study.StudyDate) else "",
        "StudyTime": study.StudyTime if fits("TM", study.StudyTime) else "",
        "StudyDescription": long_string(study.StudyDescription),
    }


def _equipment(manufacturer: str, institution: Organization | None) -> dict[str, object]:
    return {"Manufacturer": long_string(manufacturer), "InstitutionName": institution_name(institution)}


def _request(request: Request, study_instance_uid: str) -> Dataset:
    return item(
        AccessionNumber=number(request.accession),
        IssuerOfAccessionNumberSequence=_issuer_of(request.accession),
        ReferencedStudySequence=[],
        StudyInstanceUID=study_instance_uid,
        RequestedProcedureDescription="",
        RequestedProcedureCodeSequence=[],
        OrderPlacerIdentifierSequence=_issuer_of(request.placer),
        RequestedProcedureID="",
        PlacerOrderNumberImagingServiceRequest=number(request.placer),
        FillerOrderNumberImagingServiceRequest="",
    )


def _is_value(text: str, max_length: int) -> bool:
    """True when a number can be written as it is: a number is never cut or changed."""
    return len(text) <= max_length and "\\" not in text and text == line(text)


def _issuer_of(identifier: Identifier | None) -> list[Dataset] | None:
    """The issuer of a number; None (leave the sequence out) without number or without usable root."""
    return issuer(identifier.root) if identifier is not None and number(identifier) else None


def _act_name(report: Report, study_instance_uid: str) -> str:
    """Name of the study's act, else of the exam codes of the report; empty when neither has a name."""
    act = report.study(study_instance_uid).act
    return next((c.display for c in (act, *report.exam_codes) if c is not None and c.display), "")


def _character_set(texts: Iterable[str]) -> tuple[str, str]:
    """Specific Character Set and its Python codec."""
    try:
        "".join(texts).encode("latin-1")
    except UnicodeEncodeError:
        return "ISO_IR 192", "utf-8"
    return "ISO_IR 100", "latin-1"


def _texts(parts: dict[str, object]) -> list[str]:
    """The free texts of the root attributes."""
    values = (v for part in parts.values() for v in (part if isinstance(part, list) else [part]))
    return [value for value in values if isinstance(value, str)]
