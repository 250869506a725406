"""part10.file_start: what every DICOM reader understands before our data set."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import UID

from dicom_store.header import read_header
from dicom_store.part10 import IMPLEMENTATION_CLASS_UID, data_set_offset, file_start

EXPLICIT = "1.2.840.10008.1.2.1"


@pytest.mark.parametrize("source", ["", "PACS", "MODALITY1"])
def test_pydicom_reads_the_file(data_set: Dataset, encode: Callable[..., bytes], source: str) -> None:
    body = encode(data_set)
    header = read_header(body, EXPLICIT, data_set.SOPClassUID, data_set.SOPInstanceUID)
    file = dcmread(BytesIO(file_start(header, source) + body))
    meta = file.file_meta
    assert meta.MediaStorageSOPClassUID == data_set.SOPClassUID
    assert meta.MediaStorageSOPInstanceUID == data_set.SOPInstanceUID
    assert meta.TransferSyntaxUID == EXPLICIT
    assert meta.FileMetaInformationVersion == b"\0\1"
    assert meta.get("SourceApplicationEntityTitle", "") == source
    assert meta.FileMetaInformationGroupLength == len(file_start(header, source)) - 132 - 12
    assert file == data_set
    assert len(file_start(header, source)) % 2 == 0


@pytest.mark.parametrize("source", ["", "PACS"])
def test_the_data_set_is_found_again(data_set: Dataset, encode: Callable[..., bytes], source: str) -> None:
    body = encode(data_set)
    header = read_header(body, EXPLICIT, data_set.SOPClassUID, data_set.SOPInstanceUID)
    start = file_start(header, source)
    assert data_set_offset(memoryview(start + body)) == len(start)
    for other in (b"", body, start[:100], bytes(200)):
        with pytest.raises(ValueError, match="not the beginning"):
            data_set_offset(other)


def test_our_implementation_class_uid_is_valid() -> None:
    assert UID(IMPLEMENTATION_CLASS_UID).is_valid
