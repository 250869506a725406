"""Searches of the image index, and which instances the department's doors show. Never writes; Core SQL alone.

Rejected instances, whatever the reason, and rejection notes are hidden and not counted (IHE RAD TF-3 4.66). Case is
ignored; where a pattern has a letter beyond ASCII that has case, any letter matches, so that SQLite and PostgreSQL
answer alike (and an accent in a name finds the same letter without one, as PS3.4 C.2.2.2.1 allows).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from sys import intern
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, bindparam, func, or_, select
from sqlalchemy.orm import Session

from dicom_store.archive import StoredInstance
from dicom_store.index import InstanceRow, NoteRow, SeriesRow, StudyRow
from dicom_store.index_notes import REJECTION
from dicom_store.query import Match, Query
from dicom_store.query_attributes import Level
from dicom_store.query_values import Between, Condition, Like, OneOf
from dicom_store.rejection import KEY_OBJECT_SELECTION
from dicom_store.search_result import Counts, Page
from dicom_store.study import InstanceRef

_STUDY, _SERIES, _INSTANCE = StudyRow.__table__.c, SeriesRow.__table__.c, InstanceRow.__table__.c
_NOTE = NoteRow.__table__.c
_CHUNK = 500  # values in one IN (...)
_ESCAPE = "/"
_PLACE = (
    "sop_instance_uid", "sop_class_uid", "transfer_syntax_uid", "instance_number", "number_of_frames",
    "study_instance_uid", "series_instance_uid", "segment", "payload_offset", "payload_length", "metadata_length",
    "payload_sha256", "bits_allocated",
)  # fmt: skip

# Where an attribute of `query_attributes` is kept; those that are counted are in `Counts`.
COLUMNS: Mapping[str, ColumnElement[Any]] = {
    "StudyDate": _STUDY.study_date,
    "StudyTime": _STUDY.study_time,
    "AccessionNumber": _STUDY.accession_number,
    "ReferringPhysicianName": _STUDY.referring_physician_name,
    "TimezoneOffsetFromUTC": _STUDY.timezone_offset_from_utc,
    "StudyDescription": _STUDY.study_description,
    "PatientName": _STUDY.patient_name,
    "PatientID": _STUDY.patient_id,
    "PatientBirthDate": _STUDY.patient_birth_date,
    "PatientSex": _STUDY.patient_sex,
    "StudyInstanceUID": _STUDY.study_instance_uid,
    "StudyID": _STUDY.study_id,
    "Modality": _SERIES.modality,
    "SeriesDescription": _SERIES.series_description,
    "BodyPartExamined": _SERIES.body_part_examined,
    "SeriesInstanceUID": _SERIES.series_instance_uid,
    "SeriesNumber": _SERIES.series_number,
    "PerformedProcedureStepStartDate": _SERIES.performed_procedure_step_start_date,
    "PerformedProcedureStepStartTime": _SERIES.performed_procedure_step_start_time,
    "SOPClassUID": _INSTANCE.sop_class_uid,
    "SOPInstanceUID": _INSTANCE.sop_instance_uid,
    "AvailableTransferSyntaxUID": _INSTANCE.transfer_syntax_uid,
    "InstanceNumber": _INSTANCE.instance_number,
    "NumberOfFrames": _INSTANCE.number_of_frames,
    "Rows": _INSTANCE["rows"],
    "Columns": _INSTANCE["columns"],
    "BitsAllocated": _INSTANCE.bits_allocated,
}
_UNIQUE = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")


def search(session: Session, query: Query) -> Page:
    """The results of a query, in a stable order: the newest study first, then by numbers, then by UID."""
    keywords = list(_UNIQUE[: query.level])
    keywords += [a.keyword for a in query.returned if a.keyword in COLUMNS and a.keyword not in keywords]
    statement = select(*(COLUMNS[keyword].label(keyword) for keyword in keywords)).select_from(
        _tables(query.level)
    )
    statement = statement.where(*_conditions(query)).order_by(*_order(query.level))
    rows = session.execute(statement.limit(query.limit + 1).offset(query.offset)).all()
    more, rows = len(rows) > query.limit, rows[: query.limit]
    counted = any(a.keyword not in COLUMNS for a in query.returned)
    studies = list(dict.fromkeys(row[0] for row in rows)) if counted else []
    return Page({keyword: n for n, keyword in enumerate(keywords)}, rows, more, _counts(session, studies))


def shown_instances(
    session: Session, study: str, series: str | None = None, sop: str | None = None
) -> list[StoredInstance]:
    """What a viewer may have of a study, a series, or one instance; in the order of their numbers, then UIDs."""
    asked = {"study": study, "series": series, "sop": sop}
    given = {name: uid for name, uid in asked.items() if uid is not None}
    return [_stored(row) for row in session.execute(_instances_of(*given), given)]


def first_instances(session: Session, level: Level, page: Page) -> list[StoredInstance | None]:
    """For each result an instance that speaks for it (one of the lowest UID), None when it is gone meanwhile."""
    keys = [tuple(row[: min(level, Level.SERIES)]) for row in page.rows]
    if level is Level.INSTANCE:
        named = {uid: uid for uid in (row[2] for row in page.rows)}
    else:
        named = dict(_lowest(session, level, keys))
        named = {key: uid for key, uid in named.items() if key in set(keys)}
    found: dict[str, StoredInstance] = {}
    for chunk in _chunks(list(named.values())):
        rows = session.execute(_places().where(_INSTANCE.sop_instance_uid.in_(chunk)))
        found |= {row.sop_instance_uid: _stored(row) for row in rows}
    wanted = (
        [row[2] for row in page.rows] if level is Level.INSTANCE else [named.get(key, "") for key in keys]
    )
    return [found.get(uid) for uid in wanted]


def _lowest(session: Session, level: Level, keys: Sequence[tuple[str, ...]]) -> Iterator[tuple[Any, str]]:
    columns = [_INSTANCE.study_instance_uid, _INSTANCE.series_instance_uid][:level]
    statement = select(*columns, func.min(_INSTANCE.sop_instance_uid)).where(_shown()).group_by(*columns)
    for chunk in _chunks(list(dict.fromkeys(key[-1] for key in keys))):
        for row in session.execute(statement.where(columns[-1].in_(chunk))):
            yield tuple(row[:-1]), row[-1]


def _counts(session: Session, studies: Sequence[str]) -> dict[str, Counts]:
    """One pass for a whole page: what is shown of each study."""
    key = (_INSTANCE.study_instance_uid, _INSTANCE.series_instance_uid)
    statement = (
        select(*key, func.min(_SERIES.modality), func.count())
        .select_from(_with_series())
        .where(_shown())
        .group_by(*key)
    )
    series: dict[str, dict[str, int]] = {}
    modalities: dict[str, set[str]] = {}
    for chunk in _chunks(studies):
        for study, uid, modality, count in session.execute(
            statement.where(_INSTANCE.study_instance_uid.in_(chunk))
        ):
            series.setdefault(study, {})[uid] = count
            modalities.setdefault(study, set()).add(modality)
    return {
        study: Counts(of, sum(of.values()), tuple(sorted(modalities[study] - {""})))
        for study, of in series.items()
    }


# --- parts of statements -------------------------------------------------------------------------------------------


@cache
def _shown() -> ColumnElement[bool]:
    """Of an instance; only Key Object Selections can be rejection notes."""
    note = select(_NOTE.sop_instance_uid).where(
        _NOTE.sop_instance_uid == _INSTANCE.sop_instance_uid, _NOTE.kind == REJECTION
    )
    return and_(
        _INSTANCE.rejected_code.is_(None),
        or_(_INSTANCE.sop_class_uid != KEY_OBJECT_SELECTION, ~note.exists()),
    )


@cache
def _with_series() -> Any:
    same = and_(
        _SERIES.study_instance_uid == _INSTANCE.study_instance_uid,
        _SERIES.series_instance_uid == _INSTANCE.series_instance_uid,
    )
    return InstanceRow.__table__.join(SeriesRow.__table__, same)


def _tables(level: Level) -> Any:
    if level is Level.STUDY:
        return StudyRow.__table__
    tables = _with_series() if level is Level.INSTANCE else SeriesRow.__table__
    return tables.join(StudyRow.__table__, _STUDY.study_instance_uid == _SERIES.study_instance_uid)


def _order(level: Level) -> list[ColumnElement[Any]]:
    order: list[ColumnElement[Any]] = [_STUDY.study_date.desc(), _STUDY.study_instance_uid]
    if level >= Level.SERIES:
        order += [_SERIES.series_number.is_(None), _SERIES.series_number, _SERIES.series_instance_uid]
    if level is Level.INSTANCE:
        number = _INSTANCE.instance_number
        order += [number.is_(None), number, _INSTANCE.sop_instance_uid]
    return order


def _places() -> Select[Any]:
    columns = (_INSTANCE[name] for name in _PLACE)
    return select(*columns).select_from(_with_series()).where(_shown())


@cache
def _instances_of(*given: str) -> Select[Any]:
    """Made once: a viewer asks for frames by the hundreds."""
    columns = {
        "study": _INSTANCE.study_instance_uid,
        "series": _INSTANCE.series_instance_uid,
        "sop": _INSTANCE.sop_instance_uid,
    }
    statement = _places().where(*(columns[name] == bindparam(name) for name in given))
    return statement if "sop" in given else statement.order_by(*_order(Level.INSTANCE)[2:])


def _stored(row: Sequence[Any]) -> StoredInstance:
    """Of the columns `_PLACE`; by place, for there may be thousands."""
    sop, sop_class, syntax, number, frames, _, series, segment, offset, length, metadata, sha256, bits = row
    ref = InstanceRef(sop, intern(sop_class), intern(syntax), number, frames)
    return StoredInstance(ref, series, segment, offset, length, sha256, None, metadata, bits)


def _conditions(query: Query) -> Iterator[ColumnElement[bool]]:
    for match in query.matches:
        yield _matched(match)
    if query.level is Level.STUDY:
        yield _something_shown(
            InstanceRow.__table__, _INSTANCE.study_instance_uid == _STUDY.study_instance_uid
        )
        return
    uids = {_STUDY.study_instance_uid: query.study, _SERIES.series_instance_uid: query.series}
    if query.level is Level.INSTANCE:
        uids = {_INSTANCE.study_instance_uid: query.study, _INSTANCE.series_instance_uid: query.series}
        yield _shown()
    else:
        yield _something_shown(
            InstanceRow.__table__,
            _INSTANCE.study_instance_uid == _SERIES.study_instance_uid,
            _INSTANCE.series_instance_uid == _SERIES.series_instance_uid,
        )
    yield from (column == uid for column, uid in uids.items() if uid is not None)


def _something_shown(tables: Any, *related: ColumnElement[bool]) -> ColumnElement[bool]:
    found = select(_INSTANCE.sop_instance_uid).select_from(tables).where(*related, _shown())
    return found.correlate(StudyRow.__table__, SeriesRow.__table__).exists()


def _matched(match: Match) -> ColumnElement[bool]:
    if match.attribute.keyword == "ModalitiesInStudy":
        one = or_(*(_fulfilled(_SERIES.modality, condition) for condition in match.any_of))
        inside = select(_INSTANCE.sop_instance_uid).select_from(_with_series())
        inside = inside.where(_INSTANCE.study_instance_uid == _STUDY.study_instance_uid, _shown(), one)
        return inside.correlate(StudyRow.__table__).exists()
    column = COLUMNS[match.attribute.keyword]
    return or_(*(_fulfilled(column, condition) for condition in match.any_of))


def _fulfilled(column: ColumnElement[Any], condition: Condition) -> ColumnElement[bool]:
    match condition:
        case OneOf(values):
            return column == values[0] if len(values) == 1 else column.in_(values)
        case Between(first, last):
            ends = [column >= first] if first else [column != ""]
            return and_(*ends, column <= last) if last else ends[0]
        case Like(pattern, name):
            return _like(column, pattern, name)


def _like(column: ColumnElement[Any], pattern: str, name: bool) -> ColumnElement[bool]:
    """PS3.5 6.2.1: `=` parts the groups of a name; a pattern without one may match any of them."""
    text, escaped = func.lower(func.rtrim(column, "^") if name else column), _pattern(pattern)
    forms = [escaped]
    if name and "=" not in pattern:
        forms += [f"{escaped}=%", f"%={escaped}", f"%={escaped}=%"]
    return or_(*(text.like(form, escape=_ESCAPE) for form in forms))


def _pattern(pattern: str) -> str:
    """DICOM wildcards as those of LIKE; what LIKE would read as one is escaped."""
    return "".join(_WILD.get(one) or _letter(one) for one in pattern)


def _letter(one: str) -> str:
    if one.isascii():
        return one.lower()
    return one if one.lower() == one.upper() else "_"  # its case is beyond what every engine knows


_WILD: Mapping[str, str] = {"*": "%", "?": "_", "%": "/%", "_": "/_", "/": "//"}


def _chunks(values: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(values), _CHUNK):
        yield values[start : start + _CHUNK]
