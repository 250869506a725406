"""The manifest of a KOS file, as the product uses it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from dicom_store.paths import InvalidUID, check_uid
from drimbox.domain.identifiers import Identifier
from drimbox.domain.kos_content import KOS_CLASS
from drimbox.domain.kos_tree import Item, NotAManifest, parse_kos


@dataclass(frozen=True, slots=True)
class ManifestInstance:
    """One referenced instance."""

    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True, slots=True)
class ManifestSeries:
    """One referenced series and where to fetch it ("" when the manifest does not say)."""

    series_instance_uid: str
    retrieve_url: str
    instances: tuple[ManifestInstance, ...]


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest as the product uses it.

    `patient_id` with the OID of its issuer ("" when not given); `created`: InstanceCreation (else Content)
    date and time, aware when the file gives its offset, None when unreadable; `accessions` of the Referenced
    Requests; `description`: the text 113012.
    """

    sop_instance_uid: str
    study_instance_uid: str
    patient_id: str
    patient_issuer: str
    created: datetime | None
    accessions: tuple[Identifier, ...]
    series: tuple[ManifestSeries, ...]
    description: str = ""


def read_manifest(data: bytes) -> Manifest:
    """The manifest of a Part 10 file, tolerant of the differences of drim-m-data 6.4.

    Raises `NotAManifest`: no DICOM file, no Key Object Selection, another title than 113030, references to
    another study or to none, an identifier that is no UID.
    """
    root = parse_kos(data).root
    if root.text("SOPClassUID") != KOS_CLASS or title(root) != "113030":
        raise NotAManifest("not a Key Object Selection with the title 113030 (Manifest)")
    study = _uid(root, "StudyInstanceUID")
    qualifier = next(iter(root.items("IssuerOfPatientIDQualifiersSequence")), Item())
    return Manifest(
        sop_instance_uid=_uid(root, "SOPInstanceUID"),
        study_instance_uid=study,
        patient_id=root.text("PatientID"),
        patient_issuer=qualifier.text("UniversalEntityID"),
        created=_created(root),
        accessions=tuple(_accessions(root)),
        series=_series(root, study),
        description=key_object_description(root),
    )


def title(root: Item) -> str:
    """Code of the document title when it is one of DICOM's (CID 7010), else ""."""
    code = next(iter(root.items("ConceptNameCodeSequence")), Item())
    return code.text("CodeValue") if code.text("CodingSchemeDesignator") == "DCM" else ""


def descriptions(root: Item) -> tuple[str, ...]:
    """Every text 113012 of the content tree."""
    texts = (
        i for i in root.items("ContentSequence") if i.text("ValueType") == "TEXT" and title(i) == "113012"
    )
    return tuple(one.text("TextValue") for one in texts)


def key_object_description(root: Item) -> str:
    """The text 113012, or ""."""
    return next(iter(descriptions(root)), "")


def _series(root: Item, study: str) -> tuple[ManifestSeries, ...]:
    evidence = root.items("CurrentRequestedProcedureEvidenceSequence")
    if [_uid(one, "StudyInstanceUID") for one in evidence] != [study]:
        raise NotAManifest("the evidence is not of this study alone")
    series = tuple(map(_one_series, evidence[0].items("ReferencedSeriesSequence")))
    if not any(one.instances for one in series):
        raise NotAManifest("no instance is referenced")
    return series


def _one_series(item: Item) -> ManifestSeries:
    instances = tuple(
        ManifestInstance(_uid(ref, "ReferencedSOPClassUID"), _uid(ref, "ReferencedSOPInstanceUID"))
        for ref in item.items("ReferencedSOPSequence")
    )
    return ManifestSeries(_uid(item, "SeriesInstanceUID"), item.text("RetrieveURL"), instances)


def _uid(item: Item, keyword: str) -> str:
    try:
        return check_uid(item.text(keyword))
    except InvalidUID as error:
        raise NotAManifest(f"{keyword} is missing or no UID") from error


def _accessions(root: Item) -> Iterator[Identifier]:
    for request in root.items("ReferencedRequestSequence"):
        issuer = next(iter(request.items("IssuerOfAccessionNumberSequence")), Item())
        if request.text("AccessionNumber"):
            yield Identifier(issuer.text("UniversalEntityID"), request.text("AccessionNumber"))


def _created(root: Item) -> datetime | None:
    for kind in ("InstanceCreation", "Content"):
        digits = root.text(f"{kind}Date") + root.text(f"{kind}Time").partition(".")[0]
        offset = root.text("TimezoneOffsetFromUTC")
        try:
            return datetime.strptime(digits + offset, "%Y%m%d%H%M%S%z" if offset else "%Y%m%d%H%M%S")  # noqa: DTZ007
        except ValueError:
            continue  # not that pair; the rules report it
    return None
