"""A data set that the door takes; each test breaks one thing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"


def valid_data_set() -> Dataset:
    data_set = Dataset()
    data_set.SpecificCharacterSet = "ISO_IR 100"
    data_set.SOPClassUID = CT_IMAGE_STORAGE
    data_set.SOPInstanceUID = "1.2.3.4.5.6"
    data_set.StudyDate = "20260102"
    data_set.StudyTime = "101112"
    data_set.AccessionNumber = "ACN111"
    data_set.Modality = "CT"
    data_set.StudyDescription = "Scanner thoracique, contrôle"
    data_set.SeriesDescription = "Axial"
    data_set.PatientName = "PAT^ONE"
    data_set.PatientID = "IPP101"
    data_set.PatientBirthDate = "19800101"
    data_set.PatientSex = "F"
    data_set.ReferringPhysicianName = "REF^ONE"
    data_set.StudyID = "S1"
    data_set.TimezoneOffsetFromUTC = "+0200"
    data_set.PerformedProcedureStepStartDate = "20260102"
    data_set.PerformedProcedureStepStartTime = "101000"
    data_set.BodyPartExamined = "CHEST"
    data_set.StudyInstanceUID = "1.2.3.4"
    data_set.SeriesInstanceUID = "1.2.3.4.5"
    data_set.SeriesNumber = 2
    data_set.InstanceNumber = 7
    data_set.NumberOfFrames = 3
    data_set.Rows = 2
    data_set.Columns = 1
    data_set.BitsAllocated = 16
    data_set.PixelData = b"\0\1\2\3"
    data_set["PixelData"].VR = "OW"
    return data_set


def encode_data_set(data_set: Dataset, implicit_vr: bool = False, big_endian: bool = False) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_implicit_VR = implicit_vr
    buffer.is_little_endian = not big_endian
    write_dataset(buffer, data_set)
    return bytes(buffer.getvalue())


@pytest.fixture
def data_set() -> Dataset:
    return valid_data_set()


@pytest.fixture
def encode() -> Callable[..., bytes]:
    return encode_data_set
