"""What `drimbox bench wado` serves: a CT exam in JPEG-LS lossless of real size, and an exam of many small instances."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import dcmwrite
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.uid import JPEGLSLossless

from drimbox.entrypoints.bench_exams import images_of, report_of
from fixtures.images import SeriesSpec, StudySpec, study_datasets
from fixtures.reports import ReportSpec

SERIES = 4
FRAMES = 20  # distinct ones, used in turn: only encoding them is slow
NOISE = 5.3  # standard deviation of the noise: 512 x 512 then compress to about 160 KB
PIXEL_DATA = 0x7FE00010


@dataclass(frozen=True)
class Exam:
    """Part 10 files of one study; `series`: the UID of each series, first the one with most instances."""

    study: str
    series: tuple[str, ...]
    paths: tuple[str, ...]  # below the base of a DICOMweb service: /studies/U/series/S/instances/I
    files: tuple[Path, ...]
    report: ReportSpec

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.stat().st_size for file in self.files)

    @property
    def first_series(self) -> tuple[Path, ...]:
        """The files of the first series."""
        return tuple(
            file for file, path in zip(self.files, self.paths, strict=True) if f"/{self.series[0]}/" in path
        )


def make_exam(directory: Path, instances: int) -> Exam:
    """The exam that is shared: `instances` CT images of 512 x 512 pixels of 16 bits, in four series."""
    report = report_of(0)
    return _make(directory, report, images_of(report, 0), instances, 512)


def make_search_exam(directory: Path, instances: int) -> Exam:
    """The exam that is searched: images of 64 x 64 pixels."""
    report = report_of(1)
    return _make(directory, report, images_of(report, 0), instances, 64)


def _make(directory: Path, report: ReportSpec, spec: StudySpec, instances: int, pixels: int) -> Exam:
    directory.mkdir(parents=True)
    share, rest = divmod(instances, SERIES)
    sizes = [share + (1 if number < rest else 0) for number in range(SERIES)]
    # the pixels of the specification are replaced: as few as an image may have
    series = tuple(SeriesSpec("CT", size, f"Serie {size}", rows=2, columns=2) for size in sizes if size)
    spec = replace(spec, series=series)
    written = [
        (_write(directory, number, dataset, frame), dataset)
        for number, (dataset, frame) in enumerate(_images(spec, pixels, min(instances, FRAMES)))
    ]
    return Exam(
        spec.study_instance_uid,
        tuple(dict.fromkeys(str(dataset.SeriesInstanceUID) for _, dataset in written)),
        tuple(_path(dataset) for _, dataset in written),
        tuple(file for file, _ in written),
        report,
    )


def _images(spec: StudySpec, pixels: int, frames: int) -> Iterator[tuple[Dataset, Dataset]]:
    """Each instance with the image module that it is given."""
    compressed: list[Dataset] = []
    for dataset in study_datasets(spec):
        if len(compressed) < frames:
            compressed.append(_compressed(dataset, pixels, len(compressed)))
        yield dataset, compressed[int(dataset.InstanceNumber) % len(compressed)]


def _compressed(like: Dataset, pixels: int, number: int) -> Dataset:
    """The image `number` in JPEG-LS lossless: a gradient, a disc that grows, and noise of its own."""
    image = Dataset()
    for keyword in ("SamplesPerPixel", "PhotometricInterpretation", "PixelRepresentation"):
        setattr(image, keyword, like[keyword].value)
    image.BitsAllocated, image.BitsStored, image.HighBit = 16, 12, 11
    image.Rows = image.Columns = pixels
    image.file_meta = _own_meta(like)
    image.PixelData = _phantom(pixels, number)
    image.compress(JPEGLSLossless, generate_instance_uid=False)
    return image


def _own_meta(like: Dataset) -> Any:
    """A file meta of its own: `compress` changes it."""
    meta = type(like.file_meta)()
    meta.update(like.file_meta)
    return meta


def _phantom(pixels: int, number: int) -> bytes:
    y, x = np.mgrid[-1 : 1 : pixels * 1j, -1 : 1 : pixels * 1j]
    disc = (x**2 + y**2) < 0.2 + 0.6 * number / FRAMES
    noise = np.random.default_rng(number).normal(0, NOISE, (pixels, pixels))
    return bytes(np.clip(400 * (x + 1) + 900 * disc + noise, 0, 2047).astype("<i2").tobytes())


def _write(directory: Path, number: int, dataset: Dataset, image: Dataset) -> Path:
    dataset.Rows, dataset.Columns = image.Rows, image.Columns
    dataset.file_meta.TransferSyntaxUID = JPEGLSLossless
    element = DataElement(PIXEL_DATA, "OB", image.PixelData)
    element.is_undefined_length = True
    dataset[PIXEL_DATA] = element
    path = directory / f"{number:05}.dcm"
    dcmwrite(path, dataset, enforce_file_format=True)
    return path


def _path(dataset: Dataset) -> str:
    return (
        f"/studies/{dataset.StudyInstanceUID}/series/{dataset.SeriesInstanceUID}"
        f"/instances/{dataset.SOPInstanceUID}"
    )


def write_bare(file: Path, images: Sequence[Path]) -> None:
    """The bytes of images in one file, for the bare stream."""
    with file.open("wb") as target:
        for one in images:
            target.write(one.read_bytes())
