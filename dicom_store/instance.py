"""The identifying attributes of one instance, read once; names are the DICOM keywords."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class InstanceHeader:
    """What the door reads of a data set. Texts are decoded and stripped; absent = "" or None.

    Person names are as written, with `^` and `=`. The four UIDs are syntactically valid (PS3.5 9.1):
    `header.read_header` refuses the others.
    """

    SOPClassUID: str
    SOPInstanceUID: str
    StudyInstanceUID: str
    SeriesInstanceUID: str
    TransferSyntaxUID: str
    Modality: str = ""
    PatientID: str = ""
    PatientBirthDate: str = ""
    AccessionNumber: str = ""
    StudyDate: str = ""
    StudyTime: str = ""
    StudyDescription: str = ""
    SeriesNumber: int | None = None
    SeriesDescription: str = ""
    BodyPartExamined: str = ""
    InstanceNumber: int | None = None
    NumberOfFrames: int | None = None
    PatientName: str = ""
    PatientSex: str = ""
    ReferringPhysicianName: str = ""
    StudyID: str = ""
    TimezoneOffsetFromUTC: str = ""
    PerformedProcedureStepStartDate: str = ""
    PerformedProcedureStepStartTime: str = ""
    Rows: int | None = None
    Columns: int | None = None
    BitsAllocated: int | None = None
