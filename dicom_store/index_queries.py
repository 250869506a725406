"""Rows of the image index written and read. Never commits.

Rows are written with ON CONFLICT DO NOTHING: two associations that bring the same study or the same instance
at once need neither savepoints nor retries, on SQLite and PostgreSQL alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

from sqlalchemy import ColumnElement, Row, Table, func, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from dicom_store.index import Base, InstanceRow, SeriesRow, StudyRow
from dicom_store.instance import InstanceHeader
from dicom_store.study import InstanceRef, SeriesSnapshot, StudySnapshot

_INSERTS: Mapping[str, Callable[[Table], Any]] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}


@dataclass(frozen=True, slots=True)
class Place:
    """Where an instance's file is (see `segments.Stored`), and the SHA-256 of its data set alone."""

    segment: str
    offset: int
    length: int
    sha256: str
    data_set_sha256: str


@dataclass(frozen=True, slots=True)
class IndexedInstance:
    """One instance of the index."""

    ref: InstanceRef
    StudyInstanceUID: str
    SeriesInstanceUID: str
    place: Place
    received_at: datetime


def add(session: Session, header: InstanceHeader, place: Place, received_at: datetime) -> bool:
    """Write the rows of an instance. False: the SOP Instance UID is there already; its row is as it was."""
    study = {"study_instance_uid": header.StudyInstanceUID}
    series = {**study, "series_instance_uid": header.SeriesInstanceUID}
    study_values = {
        "study_date": header.StudyDate,
        "study_time": header.StudyTime,
        "study_description": header.StudyDescription,
    }
    series_values = {
        "modality": header.Modality,
        "series_number": header.SeriesNumber,
        "series_description": header.SeriesDescription,
        "body_part_examined": header.BodyPartExamined,
    }
    _complete(session, StudyRow, study, study_values, {"received_at": received_at})
    _complete(session, SeriesRow, series, series_values, {})
    values = {**series, **_instance_values(header), **_place_values(place), "received_at": received_at}
    return _insert(session, InstanceRow, values)


def move(session: Session, sop_instance_uid: str, place: Place) -> None:
    """Point the row of an instance to another copy of its file."""
    statement = update(InstanceRow).where(InstanceRow.sop_instance_uid == sop_instance_uid)
    session.execute(statement.values(_place_values(place)).execution_options(synchronize_session=False))


def find(session: Session, sop_instance_uid: str) -> IndexedInstance | None:
    """The instance of that UID, or None."""
    columns = InstanceRow.__table__.c
    row = session.execute(select(*columns).where(columns.sop_instance_uid == sop_instance_uid)).first()
    return None if row is None else _indexed(row)


def known_end(session: Session, segment: str) -> int:
    """End of the last indexed record of a segment, in bytes; 0 without any."""
    end = func.max(InstanceRow.payload_offset + InstanceRow.payload_length)
    return int(session.scalar(select(end).where(InstanceRow.segment == segment)) or 0)


def snapshot(session: Session, study_instance_uid: str) -> StudySnapshot | None:
    """Everything known of a study, or None. Identity values that are empty are not listed."""
    study = session.execute(
        select(*StudyRow.__table__.c).where(StudyRow.study_instance_uid == study_instance_uid)
    ).first()
    rows = _instances(session, study_instance_uid)
    if study is None or not rows:
        return None
    return StudySnapshot(
        StudyInstanceUID=study_instance_uid,
        StudyDate=study.study_date,
        StudyTime=study.study_time,
        StudyDescription=study.study_description,
        AccessionNumbers=_distinct(row.accession_number for row in rows),
        PatientIDs=_distinct(row.patient_id for row in rows),
        PatientBirthDates=_distinct(row.patient_birth_date for row in rows),
        series=tuple(_series(session, study_instance_uid, rows)),
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
    return [_indexed(row) for row in rows]


def _instance_values(header: InstanceHeader) -> dict[str, Any]:
    return {
        "sop_instance_uid": header.SOPInstanceUID,
        "sop_class_uid": header.SOPClassUID,
        "transfer_syntax_uid": header.TransferSyntaxUID,
        "instance_number": header.InstanceNumber,
        "number_of_frames": header.NumberOfFrames,
        "patient_id": header.PatientID,
        "patient_birth_date": header.PatientBirthDate,
        "accession_number": header.AccessionNumber,
    }


def _place_values(place: Place) -> dict[str, Any]:
    return {
        "segment": place.segment,
        "payload_offset": place.offset,
        "payload_length": place.length,
        "payload_sha256": place.sha256,
        "data_set_sha256": place.data_set_sha256,
    }


def _complete(
    session: Session, row_class: type[Base], key: Mapping[str, str], values: Mapping[str, Any], extra: Any
) -> None:
    """Write the row of `key`, or fill in those of its `values` that no instance had so far."""
    table = cast(Table, row_class.__table__)
    columns = table.c
    is_key = [columns[name] == value for name, value in key.items()]
    row = session.execute(select(*(columns[name] for name in values)).where(*is_key)).first()
    if row is None:
        if _insert(session, row_class, {**key, **values, **extra}):
            return
        row = session.execute(select(*(columns[name] for name in values)).where(*is_key)).one()
    missing = {name: value for name, value in values.items() if getattr(row, name) in ("", None)}
    missing = {name: value for name, value in missing.items() if value not in ("", None)}
    if missing:
        session.execute(update(table).where(*is_key).values(missing))


def _insert(session: Session, row_class: type[Base], values: Mapping[str, Any]) -> bool:
    table = cast(Table, row_class.__table__)
    statement = _INSERTS[session.get_bind().dialect.name](table).values(values).on_conflict_do_nothing()
    # RETURNING, since the row count of an INSERT is not kept by every driver
    return session.execute(statement.returning(*table.primary_key)).first() is not None


def _series_rows(session: Session, study: str) -> list[Row[Any]]:
    columns = SeriesRow.__table__.c
    rows = session.execute(select(*columns).where(columns.study_instance_uid == study)).all()
    return sorted(rows, key=lambda row: (*_number_key(row.series_number), row.series_instance_uid))


def _instances(session: Session, study: str, *narrowed: ColumnElement[bool]) -> list[Row[Any]]:
    columns = InstanceRow.__table__.c
    rows = session.execute(select(*columns).where(columns.study_instance_uid == study, *narrowed)).all()
    return sorted(rows, key=lambda row: (*_number_key(row.instance_number), row.sop_instance_uid))


def _series(session: Session, study: str, rows: list[Row[Any]]) -> list[SeriesSnapshot]:
    members: dict[str, list[InstanceRef]] = {}
    for row in rows:
        members.setdefault(row.series_instance_uid, []).append(_ref(row))
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


def _ref(row: Row[Any]) -> InstanceRef:
    return InstanceRef(
        row.sop_instance_uid,
        row.sop_class_uid,
        row.transfer_syntax_uid,
        row.instance_number,
        row.number_of_frames,
    )


def _indexed(row: Row[Any]) -> IndexedInstance:
    place = Place(
        row.segment, row.payload_offset, row.payload_length, row.payload_sha256, row.data_set_sha256
    )
    return IndexedInstance(_ref(row), row.study_instance_uid, row.series_instance_uid, place, row.received_at)


def _number_key(number: int | None) -> tuple[bool, int]:
    """Sorts what has no number last."""
    return number is None, number or 0


def _distinct(values: Any) -> tuple[str, ...]:
    return tuple(sorted({value for value in values if value}))
