"""Rows of instances written and read (notes: `index_notes`; whole studies: `index_studies`). Never commits.

Rows are written with ON CONFLICT DO NOTHING: two associations that bring the same study or the same instance
at once need neither savepoints nor retries, on SQLite and PostgreSQL alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from sys import intern
from typing import Any, cast

from sqlalchemy import Executable, Row, Table, bindparam, func, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from dicom_store.index import INDEXED_CHARACTERS, Base, InstanceRow, SeriesRow, StudyRow
from dicom_store.instance import InstanceHeader
from dicom_store.prepared import Prepared
from dicom_store.segment_record import HEADER as RECORD_HEADER
from dicom_store.study import InstanceRef

# Columns and the keywords of their values.
_STUDY_VALUES: Mapping[str, str] = {
    "study_date": "StudyDate",
    "study_time": "StudyTime",
    "study_description": "StudyDescription",
    "patient_name": "PatientName",
    "patient_id": "PatientID",
    "patient_birth_date": "PatientBirthDate",
    "patient_sex": "PatientSex",
    "accession_number": "AccessionNumber",
    "referring_physician_name": "ReferringPhysicianName",
    "study_id": "StudyID",
    "timezone_offset_from_utc": "TimezoneOffsetFromUTC",
}
_SERIES_VALUES: Mapping[str, str] = {
    "modality": "Modality",
    "series_number": "SeriesNumber",
    "series_description": "SeriesDescription",
    "body_part_examined": "BodyPartExamined",
    "performed_procedure_step_start_date": "PerformedProcedureStepStartDate",
    "performed_procedure_step_start_time": "PerformedProcedureStepStartTime",
}
_INSTANCE_VALUES: Mapping[str, str] = {
    "study_instance_uid": "StudyInstanceUID",
    "series_instance_uid": "SeriesInstanceUID",
    "sop_instance_uid": "SOPInstanceUID",
    "sop_class_uid": "SOPClassUID",
    "transfer_syntax_uid": "TransferSyntaxUID",
    "instance_number": "InstanceNumber",
    "number_of_frames": "NumberOfFrames",
    "patient_id": "PatientID",
    "patient_birth_date": "PatientBirthDate",
    "accession_number": "AccessionNumber",
    "rows": "Rows",
    "columns": "Columns",
    "bits_allocated": "BitsAllocated",
}
_NOTHING = ("", None)
_INSERTS: Mapping[str, Callable[[Table], Any]] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}


@dataclass(frozen=True, slots=True)
class Place:
    """Where an instance's file is (see `segment_writer.Stored`).

    `data_set_sha256`: of its data set alone; only rows written before migration 0007 have it.
    """

    segment: str
    offset: int
    length: int
    sha256: str
    metadata_length: int | None = None
    data_set_sha256: str | None = None


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
    study_values, series_values = _study_values(header), _values(header, _SERIES_VALUES)
    if not describes_study:
        study_values = dict.fromkeys(study_values, "")
    said = (*study_values.values(), *series_values.values())
    of_series = {"study": header.StudyInstanceUID, "series": header.SeriesInstanceUID}
    rows = _STANDING.rows(session, of_series)
    if not rows or any(
        have in _NOTHING and value not in _NOTHING for have, value in zip(rows[0], said, strict=True)
    ):
        study = {"study_instance_uid": header.StudyInstanceUID}
        series = {**study, "series_instance_uid": header.SeriesInstanceUID}
        _complete(session, StudyRow, study, study_values, {"received_at": received_at})
        _complete(session, SeriesRow, series, series_values, {})
    values = {**_values(header, _INSTANCE_VALUES), **_place_values(place), "received_at": received_at}
    return bool(_ADD.rows(session, values))


def move(session: Session, sop_instance_uid: str, place: Place) -> None:
    """Point the row of an instance to another copy of its file."""
    statement = update(InstanceRow).where(InstanceRow.sop_instance_uid == sop_instance_uid)
    session.execute(statement.values(_place_values(place)).execution_options(synchronize_session=False))


def find(session: Session, sop_instance_uid: str) -> IndexedInstance | None:
    """The instance of that UID, or None."""
    row = session.execute(_FIND, {"sop": sop_instance_uid}).first()
    return None if row is None else indexed(row)


def known_end(session: Session, segment: str) -> int:
    """End of the last indexed record of a segment, in bytes; 0 without any."""
    metadata = func.coalesce(InstanceRow.metadata_length + RECORD_HEADER.size, 0)
    end = func.max(InstanceRow.payload_offset + InstanceRow.payload_length + metadata)
    return int(session.scalar(select(end).where(InstanceRow.segment == segment)) or 0)


def _study_values(header: InstanceHeader) -> dict[str, str]:
    return {name: getattr(header, word)[:INDEXED_CHARACTERS] for name, word in _STUDY_VALUES.items()}


def _values(header: InstanceHeader, names: Mapping[str, str]) -> dict[str, Any]:
    return {name: getattr(header, word) for name, word in names.items()}


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
    missing = {name: value for name, value in values.items() if getattr(row, name) in _NOTHING}
    missing = {name: value for name, value in missing.items() if value not in _NOTHING}
    if missing:
        session.execute(update(table).where(*is_key).values(missing))


def insert(session: Session, row_class: type[Base], values: Mapping[str, Any]) -> bool:
    """Write a row unless its key is there already; whether it was written."""
    statement = _insertion(session.get_bind().dialect.name, row_class)
    return session.execute(statement, dict(values)).first() is not None


@cache
def _insertion(dialect: str, row_class: type[Base]) -> Executable:
    table = cast(Table, row_class.__table__)
    # RETURNING, since the row count of an INSERT is not kept by every driver
    return cast(Executable, _INSERTS[dialect](table).on_conflict_do_nothing().returning(*table.primary_key))


_STUDY, _SERIES, _INSTANCE = (cast(Table, row.__table__) for row in (StudyRow, SeriesRow, InstanceRow))
_FIND = select(*_INSTANCE.c).where(_INSTANCE.c.sop_instance_uid == bindparam("sop"))
_PLACE = (
    "segment",
    "payload_offset",
    "payload_length",
    "payload_sha256",
    "data_set_sha256",
    "metadata_length",
)
_ADD = Prepared(
    lambda dialect: _insertion(dialect, InstanceRow), columns=(*_INSTANCE_VALUES, *_PLACE, "received_at")
)
_STANDING = Prepared(
    select(*(_STUDY.c[name] for name in _STUDY_VALUES), *(_SERIES.c[name] for name in _SERIES_VALUES))
    .select_from(_STUDY.join(_SERIES, _SERIES.c.study_instance_uid == _STUDY.c.study_instance_uid))
    .where(
        _STUDY.c.study_instance_uid == bindparam("study"),
        _SERIES.c.series_instance_uid == bindparam("series"),
    )
    .with_for_update(of=_STUDY)
)


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
        row.metadata_length,
        row.data_set_sha256,
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
