"""Small real images, in the transfer syntax asked; each test breaks one thing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import dcmwrite, write_dataset
from pydicom.uid import UID
from sqlalchemy import Engine, create_engine, event

from dicom_store.index import Base
from fixtures.viewer_door import ViewerDoor, viewer_door

EXPLICIT = "1.2.840.10008.1.2.1"


def build_image(transfer_syntax: str = EXPLICIT, size: int = 64, **changes: Any) -> Dataset:
    """A secondary capture of `size` pixel bytes; encapsulated pixels are opaque fragments."""
    image = Dataset()
    values: dict[str, Any] = {
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.7",
        "SOPInstanceUID": "1.2.3.4.5.1",
        "StudyDate": "20260102",
        "StudyTime": "101112",
        "AccessionNumber": "ACN111",
        "Modality": "OT",
        "StudyDescription": "Contrôle",
        "SeriesDescription": "Capture",
        "PatientName": "PAT^ONE",
        "PatientID": "IPP101",
        "PatientBirthDate": "19800101",
        "StudyInstanceUID": "1.2.3.4",
        "SeriesInstanceUID": "1.2.3.4.5",
        "SeriesNumber": 1,
        "InstanceNumber": 1,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": 1,
        "Columns": size,
        "BitsAllocated": 8,
        "BitsStored": 8,
        "HighBit": 7,
        "PixelRepresentation": 0,
        "PixelData": bytes(n * 7 % 251 for n in range(size)),
    }
    image.SpecificCharacterSet = "ISO_IR 192"
    for keyword, value in {**values, **changes}.items():
        setattr(image, keyword, value)
    if UID(transfer_syntax).is_encapsulated:
        image.PixelData = encapsulate([bytes(image.PixelData)])
        image["PixelData"].VR = "OB"
        image["PixelData"].is_undefined_length = True
    else:
        image["PixelData"].VR = "OB"
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = UID(transfer_syntax)
    return image


def encode_image(image: Dataset) -> bytes:
    """The data set alone, as a C-STORE carries it."""
    syntax = image.file_meta.TransferSyntaxUID
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = syntax.is_implicit_VR, syntax.is_little_endian
    write_dataset(buffer, image)
    return bytes(buffer.getvalue())


@pytest.fixture(scope="session")
def build() -> Callable[..., Dataset]:
    return build_image


@pytest.fixture(scope="session")
def encode() -> Callable[[Dataset], bytes]:
    return encode_image


@pytest.fixture
def save(tmp_path: Path) -> Callable[[Dataset], Path]:
    """Write an image as a DICOM file; gives its path."""

    def write(image: Dataset) -> Path:
        path = tmp_path / f"{len(list(tmp_path.glob('*.dcm')))}.dcm"
        dcmwrite(path, image, enforce_file_format=True)
        return path

    return write


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """An engine with the tables of the index; on SQLite every transaction may write."""
    made = create_engine(database_url)
    if made.dialect.name == "sqlite":
        event.listen(made, "connect", _no_implicit_transactions)
        event.listen(made, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    Base.metadata.create_all(made)
    yield made
    made.dispose()


@pytest.fixture
def door(tmp_path: Path) -> Iterator[ViewerDoor]:
    """The department's DICOMweb door on an SQLite index; files about another door have a fixture of that name."""
    with viewer_door(tmp_path) as made:
        yield made


def _no_implicit_transactions(connection: object, _record: object) -> None:
    connection.isolation_level = None  # type: ignore[attr-defined]
    connection.execute("PRAGMA foreign_keys=ON")  # type: ignore[attr-defined]
