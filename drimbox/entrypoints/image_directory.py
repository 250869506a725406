"""A directory of DICOM files as one study, for commands that work without the store."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError

from dicom_store.paths import InvalidUID, check_uid
from dicom_store.study import InstanceRef, SeriesSnapshot, StudySnapshot

_STUDY = ("StudyInstanceUID", "StudyDate", "StudyTime", "StudyDescription")
_IDENTITY = ("AccessionNumber", "PatientID", "PatientBirthDate")
_SERIES = ("SeriesInstanceUID", "Modality", "SeriesNumber", "SeriesDescription", "BodyPartExamined")
_INSTANCE = ("SOPInstanceUID", "SOPClassUID", "InstanceNumber", "NumberOfFrames")
_TAGS: Any = [*_STUDY, *_IDENTITY, *_SERIES, *_INSTANCE]


class UnusableImages(Exception):
    """The directory is not one study; the message says why."""


@dataclass(frozen=True, slots=True)
class ImageDirectory:
    """One study, and how many files were left out: no DICOM instances; copies of one already read."""

    study: StudySnapshot
    ignored: int
    copies: int


def read_directory(directory: Path) -> ImageDirectory:
    """Read every DICOM instance under a directory, DICOMDIR and other files left out.

    Raises `UnusableImages`: no instance, several studies, a UID that is none, one instance in two series.
    """
    paths = sorted(path for path in directory.rglob("*") if path.is_file())
    datasets = [dataset for path in paths if (dataset := _read(path)) is not None]
    if not datasets:
        raise UnusableImages(f"no DICOM instance under {directory}")
    for dataset in datasets:
        _check(dataset)
    studies = {_text(dataset, "StudyInstanceUID") for dataset in datasets}
    if len(studies) > 1:
        raise UnusableImages(f"{len(studies)} studies under {directory}: {', '.join(sorted(studies))}")
    kept = list(_without_copies(datasets))
    return ImageDirectory(_study(kept), len(paths) - len(datasets), len(datasets) - len(kept))


def _read(path: Path) -> Dataset | None:
    """The identifying attributes of a file; None when it is no Part 10 file or no instance (DICOMDIR)."""
    try:
        dataset = dcmread(path, stop_before_pixels=True, specific_tags=_TAGS)
    except InvalidDicomError:
        return None
    return dataset if "SOPInstanceUID" in dataset else None


def _check(dataset: Dataset) -> None:
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID"):
        try:
            check_uid(_text(dataset, keyword))
        except InvalidUID as error:
            raise UnusableImages(f"{dataset.filename}: {keyword}: {error}") from error


def _without_copies(datasets: Iterable[Dataset]) -> Iterator[Dataset]:
    series: dict[str, str] = {}
    for dataset in datasets:
        sop, own = _text(dataset, "SOPInstanceUID"), _text(dataset, "SeriesInstanceUID")
        if sop not in series:
            series[sop] = own
            yield dataset
        elif series[sop] != own:
            raise UnusableImages(f"SOP Instance UID {sop} is in two series")


def _study(datasets: list[Dataset]) -> StudySnapshot:
    members: dict[str, list[Dataset]] = {}
    for dataset in datasets:
        members.setdefault(_text(dataset, "SeriesInstanceUID"), []).append(dataset)
    series = sorted(
        map(_series, members.values()), key=lambda s: (*_last(s.SeriesNumber), s.SeriesInstanceUID)
    )
    return StudySnapshot(
        StudyInstanceUID=_first(datasets, "StudyInstanceUID"),
        StudyDate=_first(datasets, "StudyDate"),
        StudyTime=_first(datasets, "StudyTime"),
        StudyDescription=_first(datasets, "StudyDescription"),
        AccessionNumbers=_distinct(datasets, "AccessionNumber"),
        PatientIDs=_distinct(datasets, "PatientID"),
        PatientBirthDates=_distinct(datasets, "PatientBirthDate"),
        series=tuple(series),
    )


def _series(datasets: list[Dataset]) -> SeriesSnapshot:
    refs = sorted(map(_instance, datasets), key=lambda r: (*_last(r.InstanceNumber), r.SOPInstanceUID))
    return SeriesSnapshot(
        SeriesInstanceUID=_first(datasets, "SeriesInstanceUID"),
        Modality=_first(datasets, "Modality"),
        SeriesNumber=next((n for d in datasets if (n := _number(d, "SeriesNumber")) is not None), None),
        SeriesDescription=_first(datasets, "SeriesDescription"),
        BodyPartExamined=_first(datasets, "BodyPartExamined"),
        instances=tuple(refs),
    )


def _instance(dataset: Dataset) -> InstanceRef:
    return InstanceRef(
        SOPInstanceUID=_text(dataset, "SOPInstanceUID"),
        SOPClassUID=_text(dataset, "SOPClassUID"),
        TransferSyntaxUID=str(dataset.file_meta.get("TransferSyntaxUID", "")),
        InstanceNumber=_number(dataset, "InstanceNumber"),
        NumberOfFrames=_number(dataset, "NumberOfFrames"),
    )


def _text(dataset: Dataset, keyword: str) -> str:
    return str(dataset.get(keyword) or "").strip()


def _number(dataset: Dataset, keyword: str) -> int | None:
    text = _text(dataset, keyword)
    return int(text) if text.lstrip("+-").isdigit() else None


def _first(datasets: list[Dataset], keyword: str) -> str:
    """First value that is not empty."""
    return next((value for dataset in datasets if (value := _text(dataset, keyword))), "")


def _distinct(datasets: list[Dataset], keyword: str) -> tuple[str, ...]:
    return tuple(sorted({value for dataset in datasets if (value := _text(dataset, keyword))}))


def _last(number: int | None) -> tuple[bool, int]:
    """Sort key that puts what has no number last."""
    return number is None, number or 0
