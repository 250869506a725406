"""What the store knows of a study, frozen: the currency between the rooms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class InstanceRef(NamedTuple):
    """One composite instance. `InstanceNumber` and `NumberOfFrames` are None where the data set has none."""

    SOPInstanceUID: str
    SOPClassUID: str
    TransferSyntaxUID: str
    InstanceNumber: int | None = None
    NumberOfFrames: int | None = None


@dataclass(frozen=True, slots=True)
class SeriesSnapshot:
    """One series; `instances` ordered by (InstanceNumber, SOPInstanceUID), never empty."""

    SeriesInstanceUID: str
    Modality: str
    SeriesNumber: int | None
    SeriesDescription: str
    BodyPartExamined: str
    instances: tuple[InstanceRef, ...]


@dataclass(frozen=True, slots=True, order=True)
class KeyImageNote:
    """A key image note (KIN) of a study: the instances that it marks, its title (CID 7010) and why.

    `description`: its text 113012, "" = none; `references`: SOP Instance UIDs, of its own study.
    """

    SOPInstanceUID: str
    SeriesInstanceUID: str
    CodeValue: str
    CodingSchemeDesignator: str
    CodeMeaning: str
    description: str
    references: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StudySnapshot:
    """What may be shared of one study; `series` ordered by (SeriesNumber, SeriesInstanceUID).

    Study-level values come from the first instance received that has one; identity values are listed in full
    (distinct, sorted), since instances that disagree are a reason not to publish. Rejected instances and the
    rejection notes themselves are left out: a study of nothing else has no series. `rejected`: those kept
    here, (SOPInstanceUID, code of `rejection.REASONS`), sorted; `key_image_notes`: of the instances above,
    sorted.
    """

    StudyInstanceUID: str
    StudyDate: str
    StudyTime: str
    StudyDescription: str
    AccessionNumbers: tuple[str, ...]
    PatientIDs: tuple[str, ...]
    PatientBirthDates: tuple[str, ...]
    series: tuple[SeriesSnapshot, ...]
    rejected: tuple[tuple[str, str], ...] = ()
    key_image_notes: tuple[KeyImageNote, ...] = ()

    @property
    def instances(self) -> tuple[InstanceRef, ...]:
        """Every instance of every series, in order."""
        return tuple(ref for series in self.series for ref in series.instances)
