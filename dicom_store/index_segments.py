"""Segments in the index: what holds what, what moves to a compacted one, which old ones wait for their end.

Never commits. A row of `dicom_retired_segment` = nothing points to that segment any more, but somebody may still
read it; it is dropped some time later.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

from sqlalchemy import BigInteger, CursorResult, Table, Text, delete, exists, func, select, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from dicom_store.index import Base, InstanceRow, NoteRow, RejectionRow, SeriesRow, StudyRow, UtcText
from dicom_store.index_queries import insert, known_end
from dicom_store.segment_record import HEADER

_CHUNK = 500  # values in one IN (...)
_ROW = InstanceRow.__table__.c


class RetiredSegmentRow(Base):
    """A segment without rows that is not dropped yet. `size`: of its file, in bytes."""

    __tablename__ = "dicom_retired_segment"

    segment: Mapped[str] = mapped_column(Text, primary_key=True)
    size: Mapped[int] = mapped_column(BigInteger)
    retired_at: Mapped[datetime] = mapped_column(UtcText, index=True)


@dataclass(frozen=True, slots=True)
class Recorded:
    """What the index says of one record. Offsets and lengths in bytes, of the file and of the JSON behind it."""

    sop_instance_uid: str
    sop_class_uid: str
    segment: str
    offset: int
    length: int
    sha256: str
    metadata_length: int | None
    rejected: str | None
    rejected_at: datetime | None

    @property
    def start(self) -> int:
        """Where its header begins."""
        return self.offset - HEADER.size

    @property
    def end(self) -> int:
        """Behind its last byte, the JSON included."""
        metadata = 0 if self.metadata_length is None else HEADER.size + self.metadata_length
        return self.offset + self.length + metadata


_WANTED = (
    _ROW.sop_instance_uid,
    _ROW.sop_class_uid,
    _ROW.segment,
    _ROW.payload_offset,
    _ROW.payload_length,
    _ROW.payload_sha256,
    _ROW.metadata_length,
    _ROW.rejected_code,
    _ROW.rejected_at,
)


def kept_bytes(session: Session) -> int:
    """Bytes of the DICOM files of every row."""
    return int(session.scalar(select(func.sum(_ROW.payload_length))) or 0)


def records_of(session: Session, study: str) -> list[Recorded]:
    """Every record of a study, by segment and offset."""
    rows = session.execute(select(*_WANTED).where(_ROW.study_instance_uid == study))
    return sorted((_recorded(row) for row in rows), key=lambda one: (one.segment, one.offset))


def records_named(session: Session, uids: Collection[str]) -> Mapping[str, tuple[str, Recorded]]:
    """(study, record) of those of these SOP Instance UIDs that are here."""
    found: dict[str, tuple[str, Recorded]] = {}
    for chunk in _chunks(sorted(uids)):
        query = select(_ROW.study_instance_uid, *_WANTED).where(_ROW.sop_instance_uid.in_(chunk))
        found |= {
            row.sop_instance_uid: (row.study_instance_uid, _recorded(row)) for row in session.execute(query)
        }
    return found


def _recorded(row: Any) -> Recorded:
    return Recorded(
        row.sop_instance_uid,
        row.sop_class_uid,
        row.segment,
        row.payload_offset,
        row.payload_length,
        row.payload_sha256,
        row.metadata_length,
        row.rejected_code,
        row.rejected_at,
    )


def studies_after(session: Session, study: str, limit: int) -> list[str]:
    """The next studies in the order of the engine; "" = from the first one on."""
    column = StudyRow.study_instance_uid
    return list(session.scalars(select(column).where(column > study).order_by(column).limit(limit)))


def known_studies(session: Session, studies: Collection[str]) -> set[str]:
    """Those of which something is here."""
    column = StudyRow.study_instance_uid
    return {
        one
        for chunk in _chunks(sorted(studies))
        for one in session.scalars(select(column).where(column.in_(chunk)))
    }


def studies_with_rejections(session: Session) -> list[str]:
    """Studies some instance of which was ever rejected, and of which something is here."""
    here = exists().where(StudyRow.study_instance_uid == RejectionRow.study_instance_uid)
    return sorted(session.scalars(select(RejectionRow.study_instance_uid).where(here).distinct()))


def lock_study(session: Session, study: str) -> None:
    """Instances of this study arrive, and are rejected, before us or after us, never beside us."""
    session.execute(
        select(StudyRow.study_instance_uid).where(StudyRow.study_instance_uid == study).with_for_update()
    ).first()


def move(session: Session, one: Recorded, segment: str, offset: int) -> bool:
    """Point the row of a record to its copy; False: the row has gone, or points elsewhere by now."""
    statement = (
        update(InstanceRow)
        .where(
            _ROW.sop_instance_uid == one.sop_instance_uid,
            _ROW.segment == one.segment,
            _ROW.payload_offset == one.offset,
        )
        .values(segment=segment, payload_offset=offset)
        .execution_options(synchronize_session=False)
    )
    return cast(CursorResult[Any], session.execute(statement)).rowcount == 1


def purge(session: Session, study: str, records: Sequence[Recorded]) -> list[str]:
    """Delete the rows of rejected instances; the SOP Instance UIDs deleted.

    What rejects them stays known (`index_studies.forget`). A row that is no longer rejected, or points elsewhere,
    stays. Series and study go with their last instance.
    """
    gone = [one.sop_instance_uid for one in records if _purge(session, one)]
    for chunk in _chunks(gone):
        session.execute(
            delete(NoteRow).where(NoteRow.sop_instance_uid.in_(chunk)).execution_options(**_PLAIN)
        )
    of_series = exists().where(
        InstanceRow.study_instance_uid == SeriesRow.study_instance_uid,
        InstanceRow.series_instance_uid == SeriesRow.series_instance_uid,
    )
    of_study = exists().where(SeriesRow.study_instance_uid == StudyRow.study_instance_uid)
    if gone:
        session.execute(
            delete(SeriesRow)
            .where(SeriesRow.study_instance_uid == study, ~of_series)
            .execution_options(**_PLAIN)
        )
        session.execute(
            delete(StudyRow)
            .where(StudyRow.study_instance_uid == study, ~of_study)
            .execution_options(**_PLAIN)
        )
    return gone


_PLAIN: Mapping[str, Any] = {"synchronize_session": False}


def _purge(session: Session, one: Recorded) -> bool:
    statement = delete(InstanceRow).where(
        _ROW.sop_instance_uid == one.sop_instance_uid,
        _ROW.segment == one.segment,
        _ROW.payload_offset == one.offset,
        _ROW.rejected_code.is_not(None),
    )
    return cast(CursorResult[Any], session.execute(statement.execution_options(**_PLAIN))).rowcount == 1


def in_use(session: Session, segment: str) -> bool:
    """Whether a row points to it."""
    return session.scalar(select(exists().where(_ROW.segment == segment))) or False


def retire(session: Session, segment: str, size: int, at: datetime) -> None:
    """Nothing points to a segment any more: it may go once nobody can be reading it.

    `size`: up to where it was indexed, in bytes: nothing of that is ever taken for what lost its row.
    """
    if not insert(session, RetiredSegmentRow, {"segment": segment, "size": size, "retired_at": at}):
        columns = cast(Table, RetiredSegmentRow.__table__).c
        longer = update(RetiredSegmentRow).where(columns.segment == segment, columns.size < size)
        session.execute(longer.values(size=size).execution_options(**_PLAIN))


def retired(session: Session, before: datetime | None = None) -> dict[str, int]:
    """Retired segments with their sizes; `before`: those retired at that instant at the latest."""
    columns = cast(Table, RetiredSegmentRow.__table__).c
    query = select(columns.segment, columns.size)
    if before is not None:
        query = query.where(columns.retired_at <= before)
    return {row.segment: row.size for row in session.execute(query)}


def needed_end(session: Session, segment: str) -> int:
    """What of a segment must stay, in bytes: up to its last row, all of it while it is retired; 0 = nothing."""
    columns = cast(Table, RetiredSegmentRow.__table__).c
    retired_size = session.scalar(select(columns.size).where(columns.segment == segment))
    return max(known_end(session, segment), retired_size or 0)


def known_ends(session: Session) -> dict[str, int]:
    """End of the last record of every segment that a row points to, in bytes."""
    metadata = func.coalesce(_ROW.metadata_length + HEADER.size, 0)
    end = func.max(_ROW.payload_offset + _ROW.payload_length + metadata)
    return {
        segment: int(last)
        for segment, last in session.execute(select(_ROW.segment, end).group_by(_ROW.segment))
    }


def end_retirement(session: Session, segment: str) -> None:
    """Its file is gone."""
    columns = cast(Table, RetiredSegmentRow.__table__).c
    session.execute(delete(RetiredSegmentRow).where(columns.segment == segment).execution_options(**_PLAIN))


def _chunks(values: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(values), _CHUNK):
        yield values[start : start + _CHUNK]
