"""Rows of instances written and read (notes: `index_notes`; whole studies: `index_studies`). Never commits.

Rows are written with ON CONFLICT DO NOTHING: two associations that bring the same study or the same instance
at once need neither savepoints nor retries, on SQLite and PostgreSQL alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from sys import intern
from typing import Any, cast

from sqlalchemy import Row, Table, func, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from dicom_store.index import INDEXED_CHARACTERS, Base, InstanceRow, SeriesRow, StudyRow
from dicom_store.instance import InstanceHeader
from dicom_store.segment_record import HEADER as RECORD_HEADER
from dicom_store.study import InstanceRef

_INSERTS: Mapping[str, Callable[[Table], Any]] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}


@dataclass(frozen=True, slots=True)
class Place:
    """Where an instance's file is (see `segment_writer.Stored`), and the SHA-256 of its data set alone."""

    segment: str
    offset: int
    length: int
    sha256: str
    data_set_sha256: str
    metadata_length: int | None = None


@dataclass(frozen=True, slots=True)
class IndexedInstance:
    """One instance of the index."""

    ref: InstanceRef
    StudyInstanceUID: str
    SeriesInstanceUID: str
    place: Place
    received_at: datetime
    rejected: str | None = None
    bits_allocated: int | None = None


def add(
    session: Session,
    header: InstanceHeader,
    place: Place,
    received_at: datetime,
    *,
    describes_study: bool = True,
) -> bool:
    """Write the rows of an instance. False: the SOP Instance UID is there already; its row is as it was.

    The study stays locked until the transaction ends: no rejection passes unseen. `describes_study`: False for
    an instance whose study-level values do not count.
    """
    study = {"study_instance_uid": header.StudyInstanceUID}
    series = {**study, "series_instance_uid": header.SeriesInstanceUID}
    study_values = _study_values(header)
    if not describes_study:
        study_values = dict.fromkeys(study_values, "")
    _complete(session, StudyRow, study, study_values, {"received_at": received_at})
    _complete(session, SeriesRow, series, _series_values(header), {})
    values = {**series, **_instance_values(header), **_place_values(place), "received_at": received_at}
    return insert(session, InstanceRow, values)


def move(session: Session, sop_instance_uid: str, place: Place) -> None:
    """Point the row of an instance to another copy of its file."""
    statement = update(InstanceRow).where(InstanceRow.sop_instance_uid == sop_instance_uid)
    session.execute(statement.values(_place_values(place)).execution_options(synchronize_session=False))


def find(session: Session, sop_instance_uid: str) -> IndexedInstance | None:
    """The instance of that UID, or None."""
    columns = InstanceRow.__table__.c
    row = session.execute(select(*columns).where(columns.sop_instance_uid == sop_instance_uid)).first()
    return None if row is None else indexed(row)


def known_end(session: Session, segment: str) -> int:
    """End of the last indexed record of a segment, in bytes; 0 without any."""
    metadata = func.coalesce(InstanceRow.metadata_length + RECORD_HEADER.size, 0)
    end = func.max(InstanceRow.payload_offset + InstanceRow.payload_length + metadata)
    return int(session.scalar(select(end).where(InstanceRow.segment == segment)) or 0)


def _study_values(header: InstanceHeader) -> dict[str, str]:
    values = {
        "study_date": header.StudyDate,
        "study_time": header.StudyTime,
        "study_description": header.StudyDescription,
        "patient_name": header.PatientName,
        "patient_id": header.PatientID,
        "patient_birth_date": header.PatientBirthDate,
        "patient_sex": header.PatientSex,
        "accession_number": header.AccessionNumber,
        "referring_physician_name": header.ReferringPhysicianName,
        "study_id": header.StudyID,
        "timezone_offset_from_utc": header.TimezoneOffsetFromUTC,
    }
    return {name: value[:INDEXED_CHARACTERS] for name, value in values.items()}


def _series_values(header: InstanceHeader) -> dict[str, str | int | None]:
    return {
        "modality": header.Modality,
        "series_number": header.SeriesNumber,
        "series_description": header.SeriesDescription,
        "body_part_examined": header.BodyPartExamined,
        "performed_procedure_step_start_date": header.PerformedProcedureStepStartDate,
        "performed_procedure_step_start_time": header.PerformedProcedureStepStartTime,
    }


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
        "rows": header.Rows,
        "columns": header.Columns,
        "bits_allocated": header.BitsAllocated,
    }


def _place_values(place: Place) -> dict[str, Any]:
    return {
        "segment": place.segment,
        "payload_offset": place.offset,
        "payload_length": place.length,
        "payload_sha256": place.sha256,
        "data_set_sha256": place.data_set_sha256,
        "metadata_length": place.metadata_length,
    }


def _complete(
    session: Session, row_class: type[Base], key: Mapping[str, str], values: Mapping[str, Any], extra: Any
) -> None:
    """Write the row of `key`, or fill in those of its `values` that no instance had so far."""
    table = cast(Table, row_class.__table__)
    columns = table.c
    is_key = [columns[name] == value for name, value in key.items()]
    query = select(*(columns[name] for name in values)).where(*is_key).with_for_update()
    row = session.execute(query).first()
    if row is None:
        if insert(session, row_class, {**key, **values, **extra}):
            return
        row = session.execute(query).one()
    missing = {name: value for name, value in values.items() if getattr(row, name) in ("", None)}
    missing = {name: value for name, value in missing.items() if value not in ("", None)}
    if missing:
        session.execute(update(table).where(*is_key).values(missing))


def insert(session: Session, row_class: type[Base], values: Mapping[str, Any]) -> bool:
    """Write a row unless its key is there already; whether it was written."""
    table = cast(Table, row_class.__table__)
    statement = _INSERTS[session.get_bind().dialect.name](table).values(values).on_conflict_do_nothing()
    # RETURNING, since the row count of an INSERT is not kept by every driver
    return session.execute(statement.returning(*table.primary_key)).first() is not None


def ref_of(row: Row[Any]) -> InstanceRef:
    """The reference to the instance of a row."""
    return InstanceRef(
        row.sop_instance_uid,
        intern(row.sop_class_uid),
        intern(row.transfer_syntax_uid),
        row.instance_number,
        row.number_of_frames,
    )


def indexed(row: Row[Any]) -> IndexedInstance:
    """The instance of a whole row."""
    place = Place(
        row.segment,
        row.payload_offset,
        row.payload_length,
        row.payload_sha256,
        row.data_set_sha256,
        row.metadata_length,
    )
    return IndexedInstance(
        ref_of(row),
        row.study_instance_uid,
        row.series_instance_uid,
        place,
        row.received_at,
        row.rejected_code,
        row.bits_allocated,
    )
