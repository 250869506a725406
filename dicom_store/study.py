"""What the store knows of a study, frozen: the currency between the rooms."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class InstanceRef:
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


@dataclass(frozen=True, slots=True)
class StudySnapshot:
    """One study; `series` ordered by (SeriesNumber, SeriesInstanceUID).

    Study-level values come from the first instance received that has one; identity values are listed in full
    (distinct, sorted), since instances that disagree are a reason not to publish.
    """

    StudyInstanceUID: str
    StudyDate: str
    StudyTime: str
    StudyDescription: str
    AccessionNumbers: tuple[str, ...]
    PatientIDs: tuple[str, ...]
    PatientBirthDates: tuple[str, ...]
    series: tuple[SeriesSnapshot, ...]

    @property
    def instances(self) -> tuple[InstanceRef, ...]:
        """Every instance of every series, in order."""
        return tuple(ref for series in self.series for ref in series.instances)
