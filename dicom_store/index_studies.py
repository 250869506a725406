"""A whole study of the image index: its snapshot, its instances in order, its end. Never commits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Row, delete, func, select
from sqlalchemy.orm import Session

from dicom_store.index import InstanceRow, NoteRow, SeriesRow, StudyRow
from dicom_store.index_notes import Notes, notes_of
from dicom_store.index_queries import IndexedInstance, indexed, known_end, ref_of
from dicom_store.rejection import KEY_OBJECT_SELECTION
from dicom_store.study import InstanceRef, SeriesSnapshot, StudySnapshot

# What a snapshot takes of an instance: times and places would cost as much as all the rest.
_SHARED = (
    "sop_instance_uid",
    "sop_class_uid",
    "transfer_syntax_uid",
    "series_instance_uid",
    "instance_number",
    "number_of_frames",
    "accession_number",
    "patient_id",
    "patient_birth_date",
    "rejected_code",
)


@dataclass(frozen=True, slots=True)
class Forgotten:
    """A study whose rows are gone: how many instances, of how many bytes; `segments`: where its last row ended."""

    instances: int
    bytes: int
    segments: Mapping[str, int]


def snapshot(session: Session, study_instance_uid: str) -> StudySnapshot | None:
    """What may be shared of a study, or None when nothing of it is here. Empty identity values are not listed."""
    study = session.execute(
        select(*StudyRow.__table__.c).where(StudyRow.study_instance_uid == study_instance_uid)
    ).first()
    every = _instances(session, study_instance_uid, wanted=_SHARED)
    if study is None or not every:
        return None
    notes = _notes(session, study_instance_uid, every)
    rows = [row for row in every if row.rejected_code is None and row.sop_instance_uid not in notes.rejection]
    visible = {row.sop_instance_uid for row in rows}
    return StudySnapshot(
        StudyInstanceUID=study_instance_uid,
        StudyDate=study.study_date,
        StudyTime=study.study_time,
        StudyDescription=study.study_description,
        AccessionNumbers=_distinct(row.accession_number for row in rows),
        PatientIDs=_distinct(row.patient_id for row in rows),
        PatientBirthDates=_distinct(row.patient_birth_date for row in rows),
        series=tuple(_series(session, study_instance_uid, rows)),
        rejected=tuple(sorted((r.sop_instance_uid, r.rejected_code) for r in every if r.rejected_code)),
        key_image_notes=tuple(sorted(n for n in notes.key_image if n.SOPInstanceUID in visible)),
    )


def select_instances(
    session: Session, study: str, series: str | None = None, sop: str | None = None
) -> list[IndexedInstance]:
    """Instances of a study, of a series, or one; in the order of the snapshot. Empty when unknown."""
    order = {row.series_instance_uid: n for n, row in enumerate(_series_rows(session, study))}
    columns = InstanceRow.__table__.c
    narrowed = {columns.series_instance_uid: series, columns.sop_instance_uid: sop}
    rows = _instances(session, study, *(column == uid for column, uid in narrowed.items() if uid is not None))
    rows.sort(key=lambda row: order[row.series_instance_uid])  # stable: instances stay in their order
    return [indexed(row) for row in rows]


def forget(session: Session, study: str) -> Forgotten:
    """Delete the rows of a study and of its instances. What rejects them stays: it holds if they come back."""
    of_study = InstanceRow.study_instance_uid == study
    # locked before anything is counted: an instance that arrives meanwhile waits, and begins the study anew
    session.execute(
        select(StudyRow.study_instance_uid).where(StudyRow.study_instance_uid == study).with_for_update()
    ).first()
    count, size = session.execute(
        select(func.count(), func.coalesce(func.sum(InstanceRow.payload_length), 0)).where(of_study)
    ).one()
    names = session.scalars(select(InstanceRow.segment).where(of_study).distinct()).all()
    segments = {name: known_end(session, name) for name in sorted(names)}
    for row_class in (NoteRow, InstanceRow, SeriesRow, StudyRow):
        session.execute(
            delete(row_class)
            .where(row_class.study_instance_uid == study)
            .execution_options(synchronize_session=False)
        )
    return Forgotten(int(count), int(size), segments)


def segments_in_use(session: Session) -> frozenset[str]:
    """Every segment that a row points to."""
    return frozenset(session.scalars(select(InstanceRow.segment).distinct()))


def _notes(session: Session, study: str, rows: Sequence[Row[Any]]) -> Notes:
    if any(row.sop_class_uid == KEY_OBJECT_SELECTION for row in rows):
        return notes_of(session, study)
    return Notes()


def _series_rows(session: Session, study: str) -> list[Row[Any]]:
    columns = SeriesRow.__table__.c
    rows = session.execute(select(*columns).where(columns.study_instance_uid == study)).all()
    return sorted(rows, key=lambda row: (*_number_key(row.series_number), row.series_instance_uid))


def _instances(
    session: Session, study: str, *narrowed: ColumnElement[bool], wanted: Sequence[str] = ()
) -> list[Row[Any]]:
    """Rows of instances by (InstanceNumber, SOPInstanceUID); `wanted`: columns, none = all."""
    columns = InstanceRow.__table__.c
    chosen = [columns[name] for name in wanted] or columns
    rows = session.execute(select(*chosen).where(columns.study_instance_uid == study, *narrowed)).all()
    return sorted(rows, key=lambda row: (*_number_key(row.instance_number), row.sop_instance_uid))


def _series(session: Session, study: str, rows: list[Row[Any]]) -> list[SeriesSnapshot]:
    members: dict[str, list[InstanceRef]] = {}
    for row in rows:
        members.setdefault(row.series_instance_uid, []).append(ref_of(row))
    return [
        SeriesSnapshot(
            SeriesInstanceUID=series.series_instance_uid,
            Modality=series.modality,
            SeriesNumber=series.series_number,
            SeriesDescription=series.series_description,
            BodyPartExamined=series.body_part_examined,
            instances=tuple(members[series.series_instance_uid]),
        )
        for series in _series_rows(session, study)
        if series.series_instance_uid in members
    ]


def _number_key(number: int | None) -> tuple[bool, int]:
    """Sorts what has no number last."""
    return number is None, number or 0


def _distinct(values: Any) -> tuple[str, ...]:
    return tuple(sorted({value for value in values if value}))
