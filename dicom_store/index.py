"""Which instances are kept, where, and what notes say of them: the tables (queries: `index_*`)."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKeyConstraint, Index, Integer, String, Text
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

# PostgreSQL indexes no text beyond 2704 bytes; the longest that DICOM allows here has 194 characters.
INDEXED_CHARACTERS = 256


class UtcText(TypeDecorator[datetime]):
    """An aware instant as `YYYY-MM-DDThh:mm:ss.ffffffZ`: the same text, and order, on every engine."""

    impl = String(27)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> str | None:
        """Refuses naive values."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a naive datetime is not an instant")
        return value.astimezone(UTC).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"

    def process_result_value(self, value: str | None, dialect: Dialect) -> datetime | None:
        """Gives UTC."""
        return None if value is None else datetime.fromisoformat(value)


class Base(DeclarativeBase):
    """The declarative base of this room; linked to other rooms by StudyInstanceUID, not by foreign keys."""


class StudyRow(Base):
    """One study; values of the first instance received that has them, as text of at most `INDEXED_CHARACTERS`."""

    __tablename__ = "dicom_study"
    __table_args__ = tuple(
        Index(f"ix_dicom_study_{column}", column)
        for column in ("study_date", "patient_id", "patient_name", "accession_number")
    )

    study_instance_uid: Mapped[str] = mapped_column(String(64), primary_key=True)
    study_date: Mapped[str] = mapped_column(Text)
    study_time: Mapped[str] = mapped_column(Text)
    study_description: Mapped[str] = mapped_column(Text)
    received_at: Mapped[datetime] = mapped_column(UtcText)
    patient_name: Mapped[str] = mapped_column(Text, server_default="")
    patient_id: Mapped[str] = mapped_column(Text, server_default="")
    patient_birth_date: Mapped[str] = mapped_column(Text, server_default="")
    patient_sex: Mapped[str] = mapped_column(Text, server_default="")
    accession_number: Mapped[str] = mapped_column(Text, server_default="")
    referring_physician_name: Mapped[str] = mapped_column(Text, server_default="")
    study_id: Mapped[str] = mapped_column(Text, server_default="")
    timezone_offset_from_utc: Mapped[str] = mapped_column(Text, server_default="")


class SeriesRow(Base):
    """One series of a study."""

    __tablename__ = "dicom_series"
    __table_args__ = (ForeignKeyConstraint(["study_instance_uid"], ["dicom_study.study_instance_uid"]),)

    study_instance_uid: Mapped[str] = mapped_column(String(64), primary_key=True)
    series_instance_uid: Mapped[str] = mapped_column(String(64), primary_key=True)
    modality: Mapped[str] = mapped_column(Text)
    series_number: Mapped[int | None] = mapped_column(Integer)
    series_description: Mapped[str] = mapped_column(Text)
    body_part_examined: Mapped[str] = mapped_column(Text)
    performed_procedure_step_start_date: Mapped[str] = mapped_column(Text, server_default="")
    performed_procedure_step_start_time: Mapped[str] = mapped_column(Text, server_default="")


class InstanceRow(Base):
    """One instance: where its file is, and what must not disagree within a study.

    `metadata_length`: of the DICOM JSON behind the file (`segment_writer.metadata_offset`); NULL = none there.
    `data_set_sha256`: kept where it was made (see `index_queries.Place`).
    """

    __tablename__ = "dicom_instance"
    __table_args__ = (
        ForeignKeyConstraint(
            ["study_instance_uid", "series_instance_uid"],
            ["dicom_series.study_instance_uid", "dicom_series.series_instance_uid"],
        ),
        Index("ix_dicom_instance_series", "study_instance_uid", "series_instance_uid"),
        Index("ix_dicom_instance_segment", "segment"),
    )

    sop_instance_uid: Mapped[str] = mapped_column(String(64), primary_key=True)
    sop_class_uid: Mapped[str] = mapped_column(String(64))
    transfer_syntax_uid: Mapped[str] = mapped_column(String(64))
    study_instance_uid: Mapped[str] = mapped_column(String(64))
    series_instance_uid: Mapped[str] = mapped_column(String(64))
    instance_number: Mapped[int | None] = mapped_column(Integer)
    number_of_frames: Mapped[int | None] = mapped_column(Integer)
    patient_id: Mapped[str] = mapped_column(Text)
    patient_birth_date: Mapped[str] = mapped_column(Text)
    accession_number: Mapped[str] = mapped_column(Text)
    segment: Mapped[str] = mapped_column(Text)
    payload_offset: Mapped[int] = mapped_column(BigInteger)
    payload_length: Mapped[int] = mapped_column(BigInteger)
    payload_sha256: Mapped[str] = mapped_column(String(64))
    data_set_sha256: Mapped[str | None] = mapped_column(String(64))
    received_at: Mapped[datetime] = mapped_column(UtcText)
    rejected_code: Mapped[str | None] = mapped_column(String(16))
    rejected_at: Mapped[datetime | None] = mapped_column(UtcText)
    rows: Mapped[int | None] = mapped_column(Integer)
    columns: Mapped[int | None] = mapped_column(Integer)
    bits_allocated: Mapped[int | None] = mapped_column(Integer)
    metadata_length: Mapped[int | None] = mapped_column(BigInteger)


class NoteRow(Base):
    """An instance that is a note. `kind`: rejection or key-image; `facts`: of a `study.KeyImageNote`, or {}."""

    __tablename__ = "dicom_note"

    sop_instance_uid: Mapped[str] = mapped_column(String(64), primary_key=True)
    study_instance_uid: Mapped[str] = mapped_column(String(64), index=True)
    kind: Mapped[str] = mapped_column(String(16))
    facts: Mapped[dict[str, Any]] = mapped_column(JSON)


class RejectionRow(Base):
    """One note rejects one instance, known here or not; kept when the instance is forgotten.

    `met_at`: when the instance was first here and rejected; `ended_at`: when it was stored again and came back.
    """

    __tablename__ = "dicom_rejection"

    study_instance_uid: Mapped[str] = mapped_column(String(64), primary_key=True)
    sop_instance_uid: Mapped[str] = mapped_column(String(64), primary_key=True)
    note_uid: Mapped[str] = mapped_column(String(64), primary_key=True)
    code: Mapped[str] = mapped_column(String(16))
    rejected_at: Mapped[datetime] = mapped_column(UtcText)
    met_at: Mapped[datetime | None] = mapped_column(UtcText)
    ended_at: Mapped[datetime | None] = mapped_column(UtcText)
