"""Attributes that searches know, as a table: what is matched, what is returned, at which level (PS3.18 10.6). Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum


class Level(IntEnum):
    """What one result is."""

    STUDY = 1
    SERIES = 2
    INSTANCE = 3


@dataclass(frozen=True, slots=True)
class Attribute:
    """One row. `matched`: may be a match parameter; `always`: returned also when it has no value (types R and U).

    `asked_only`: returned when it is matched or an includefield; the others are in every answer of their level.
    """

    keyword: str
    tag: int
    vr: str
    level: Level
    matched: bool = True
    always: bool = True
    asked_only: bool = False


# fmt: off
_ROWS = (
    # PS3.18 table 10.6.3-3; StudyDescription as every viewer expects it
    Attribute("StudyDate", 0x00080020, "DA", Level.STUDY),
    Attribute("StudyTime", 0x00080030, "TM", Level.STUDY),
    Attribute("AccessionNumber", 0x00080050, "SH", Level.STUDY),
    Attribute("ModalitiesInStudy", 0x00080061, "CS", Level.STUDY),
    Attribute("ReferringPhysicianName", 0x00080090, "PN", Level.STUDY),
    Attribute("TimezoneOffsetFromUTC", 0x00080201, "SH", Level.STUDY, matched=False, always=False),
    Attribute("StudyDescription", 0x00081030, "LO", Level.STUDY),
    Attribute("PatientName", 0x00100010, "PN", Level.STUDY),
    Attribute("PatientID", 0x00100020, "LO", Level.STUDY),
    Attribute("PatientBirthDate", 0x00100030, "DA", Level.STUDY),
    Attribute("PatientSex", 0x00100040, "CS", Level.STUDY),
    Attribute("StudyInstanceUID", 0x0020000D, "UI", Level.STUDY),
    Attribute("StudyID", 0x00200010, "SH", Level.STUDY),
    Attribute("NumberOfStudyRelatedSeries", 0x00201206, "IS", Level.STUDY, matched=False),
    Attribute("NumberOfStudyRelatedInstances", 0x00201208, "IS", Level.STUDY, matched=False),
    # table 10.6.3-4; RequestAttributesSequence comes from an instance, when it is asked
    Attribute("Modality", 0x00080060, "CS", Level.SERIES),
    Attribute("SeriesDescription", 0x0008103E, "LO", Level.SERIES),
    Attribute("BodyPartExamined", 0x00180015, "CS", Level.SERIES, always=False, asked_only=True),
    Attribute("SeriesInstanceUID", 0x0020000E, "UI", Level.SERIES),
    Attribute("SeriesNumber", 0x00200011, "IS", Level.SERIES),
    Attribute("NumberOfSeriesRelatedInstances", 0x00201209, "IS", Level.SERIES, matched=False),
    Attribute("PerformedProcedureStepStartDate", 0x00400244, "DA", Level.SERIES, always=False),
    Attribute("PerformedProcedureStepStartTime", 0x00400245, "TM", Level.SERIES, always=False),
    # table 10.6.3-5
    Attribute("SOPClassUID", 0x00080016, "UI", Level.INSTANCE),
    Attribute("SOPInstanceUID", 0x00080018, "UI", Level.INSTANCE),
    Attribute("AvailableTransferSyntaxUID", 0x00083002, "UI", Level.INSTANCE, matched=False),
    Attribute("InstanceNumber", 0x00200013, "IS", Level.INSTANCE),
    Attribute("NumberOfFrames", 0x00280008, "IS", Level.INSTANCE, always=False),
    Attribute("Rows", 0x00280010, "US", Level.INSTANCE, always=False),
    Attribute("Columns", 0x00280011, "US", Level.INSTANCE, always=False),
    Attribute("BitsAllocated", 0x00280100, "US", Level.INSTANCE, always=False),
)
# fmt: on
KEPT: Mapping[int, Attribute] = {row.tag: row for row in _ROWS}

# In every answer, whatever is asked (PS3.18 10.6.3.3; PS3.4 C.4.1.1.3.2): SpecificCharacterSet, InstanceAvailability,
# RetrieveURL.
GIVEN = frozenset({0x00080005, 0x00080056, 0x00081190})

# Levels of attributes that are read from an instance when an includefield asks for them (PS3.4 C.6.1.1, C.6.2.1;
# modules of PS3.3 C.7.1 to C.7.5). The whole patient group 0010 is of the study; what is in neither is of the instance.
_OF_STUDY = frozenset({
    0x00081032,  # ProcedureCodeSequence
    0x00081048,  # PhysiciansOfRecord
    0x00081060,  # NameOfPhysiciansReadingStudy
    0x00081080,  # AdmittingDiagnosesDescription
    0x00081110,  # ReferencedStudySequence
    0x00081120,  # ReferencedPatientSequence
    0x00080051,  # IssuerOfAccessionNumberSequence
    0x00321032,  # RequestingPhysician
    0x00321033,  # RequestingService
    0x00321060,  # RequestedProcedureDescription
    0x00380010,  # AdmissionID
})  # fmt: skip
_OF_SERIES = frozenset({
    0x00080021,  # SeriesDate
    0x00080031,  # SeriesTime
    0x00080070,  # Manufacturer
    0x00080080,  # InstitutionName
    0x00081010,  # StationName
    0x0008103F,  # SeriesDescriptionCodeSequence
    0x00081040,  # InstitutionalDepartmentName
    0x00081050,  # PerformingPhysicianName
    0x00081070,  # OperatorsName
    0x00081090,  # ManufacturerModelName
    0x00081111,  # ReferencedPerformedProcedureStepSequence
    0x00181000,  # DeviceSerialNumber
    0x00181020,  # SoftwareVersions
    0x00181030,  # ProtocolName
    0x00185100,  # PatientPosition
    0x00200052,  # FrameOfReferenceUID
    0x00200060,  # Laterality
    0x00400250,  # PerformedProcedureStepEndDate
    0x00400251,  # PerformedProcedureStepEndTime
    0x00400253,  # PerformedProcedureStepID
    0x00400254,  # PerformedProcedureStepDescription
    0x00400260,  # PerformedProtocolCodeSequence
    0x00400275,  # RequestAttributesSequence
})  # fmt: skip


def level_of(tag: int) -> Level:
    """The level that an attribute describes: a search returns none of a level below its own (PS3.18 10.6.3.3)."""
    if tag in KEPT:
        return KEPT[tag].level
    if tag >> 16 == 0x0010 or tag in _OF_STUDY:
        return Level.STUDY
    return Level.SERIES if tag in _OF_SERIES else Level.INSTANCE
