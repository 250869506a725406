"""The first tables: exams, reports, messages, submissions, trace; studies, series, instances.

Revision ID: 0001
Revises:
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    _exam()
    _message()
    _report()
    _report_study()
    _submission()
    _report_parent()
    _gate()
    _trace()
    _dicom_study()
    _dicom_series()
    _dicom_instance()


def _exam() -> None:
    op.create_table(
        "exam",
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("rule", sa.String(length=64), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("changed_at", sa.DateTime(), nullable=False),
        sa.Column("last_instance_at", sa.DateTime(), nullable=True),
        sa.Column("reconcile_at", sa.DateTime(), nullable=True),
        sa.Column("judged", sa.String(length=80), nullable=True),
        sa.Column("withdrawn_by", sa.String(length=16), nullable=True),
        sa.Column("held_key", sa.String(length=64), nullable=True),
        sa.Column("approved_key", sa.String(length=64), nullable=True),
        sa.PrimaryKeyConstraint("study_instance_uid"),
    )
    with op.batch_alter_table("exam", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_exam_reconcile_at"), ["reconcile_at"], unique=False)
        batch_op.create_index(batch_op.f("ix_exam_state"), ["state"], unique=False)


def _message() -> None:
    op.create_table(
        "message",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("received_at", sa.DateTime(), nullable=False),
        sa.Column("door", sa.String(length=16), nullable=False),
        sa.Column("peer", sa.String(length=64), nullable=False),
        sa.Column("control_id", sa.String(length=200), nullable=False),
        sa.Column("content", sa.String(length=64), nullable=False),
        sa.Column("verdict", sa.String(length=8), nullable=False),
        sa.Column("code", sa.String(length=64), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("report_id", sa.String(length=36), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    with op.batch_alter_table("message", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_message_received_at"), ["received_at"], unique=False)


def _report() -> None:
    op.create_table(
        "report",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("document_id", sa.String(length=200), nullable=False),
        sa.Column("set_id", sa.String(length=200), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("operation", sa.String(length=2), nullable=False),
        sa.Column("cda", sa.String(length=64), nullable=False),
        sa.Column("message", sa.String(length=64), nullable=True),
        sa.Column("received_at", sa.DateTime(), nullable=False),
        sa.Column("door", sa.String(length=16), nullable=False),
        sa.Column("flags", sa.JSON(), nullable=False),
        sa.Column("destined_to_dmp", sa.Boolean(), nullable=False),
        sa.Column("patient_class", sa.String(length=16), nullable=False),
        sa.Column("sender", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("patient_ins", sa.String(length=15), nullable=True),
        sa.Column("patient_oid", sa.String(length=64), nullable=True),
        sa.Column("replaced_by", sa.String(length=200), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("document_id"),
    )


def _report_study() -> None:
    op.create_table(
        "report_study",
        sa.Column("report_id", sa.String(length=36), nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("report_id", "study_instance_uid"),
    )
    with op.batch_alter_table("report_study", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_report_study_study_instance_uid"), ["study_instance_uid"], unique=False
        )


def _submission() -> None:
    op.create_table(
        "submission",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("content_key", sa.String(length=64), nullable=False),
        sa.Column("kos_uid", sa.String(length=64), nullable=True),
        sa.Column("submission_set_uid", sa.String(length=64), nullable=False),
        sa.Column("signature_uid", sa.String(length=64), nullable=True),
        sa.Column("kos", sa.String(length=64), nullable=True),
        sa.Column("signature", sa.String(length=64), nullable=True),
        sa.Column("request", sa.String(length=64), nullable=False),
        sa.Column("vihf", sa.Text(), nullable=False),
        sa.Column("report_id", sa.String(length=36), nullable=True),
        sa.Column("patient_ins", sa.String(length=15), nullable=False),
        sa.Column("patient_oid", sa.String(length=64), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("since", sa.DateTime(), nullable=False),
        sa.Column("replaces_id", sa.String(length=36), nullable=True),
        sa.Column("target_entry", sa.String(length=64), nullable=True),
        sa.Column("origin", sa.String(length=16), nullable=False),
        sa.Column("cause", sa.String(length=64), nullable=True),
        sa.Column("entry_uuid", sa.String(length=64), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("ending", sa.String(length=32), nullable=True),
        sa.Column("endings", sa.Integer(), nullable=False),
        sa.Column("due_at", sa.DateTime(), nullable=True),
        sa.Column("lease_owner", sa.String(length=128), nullable=True),
        sa.Column("lease_until", sa.DateTime(), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("kos_uid"),
        sa.UniqueConstraint("submission_set_uid"),
    )
    with op.batch_alter_table("submission", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_submission_due_at"), ["due_at"], unique=False)
        batch_op.create_index(batch_op.f("ix_submission_state"), ["state"], unique=False)
        batch_op.create_index(
            batch_op.f("ix_submission_study_instance_uid"), ["study_instance_uid"], unique=False
        )


def _report_parent() -> None:
    op.create_table(
        "report_parent",
        sa.Column("report_id", sa.String(length=36), nullable=False),
        sa.Column("document_id", sa.String(length=200), nullable=False),
        sa.PrimaryKeyConstraint("report_id", "document_id"),
    )
    op.create_index("ix_report_parent_document_id", "report_parent", ["document_id"], unique=False)


def _gate() -> None:
    op.create_table(
        "gate",
        sa.Column("name", sa.String(length=16), nullable=False),
        sa.Column("since", sa.DateTime(), nullable=False),
        sa.Column("until", sa.DateTime(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )


def _trace() -> None:
    op.create_table(
        "trace",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("at", sa.DateTime(), nullable=False),
        sa.Column("event", sa.String(length=64), nullable=False),
        sa.Column("actor", sa.String(length=128), nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=True),
        sa.Column("submission_id", sa.String(length=36), nullable=True),
        sa.Column("before", sa.String(length=16), nullable=True),
        sa.Column("after", sa.String(length=16), nullable=True),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    with op.batch_alter_table("trace", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_trace_at"), ["at"], unique=False)
        batch_op.create_index(batch_op.f("ix_trace_study_instance_uid"), ["study_instance_uid"], unique=False)


def _dicom_study() -> None:
    op.create_table(
        "dicom_study",
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("study_date", sa.Text(), nullable=False),
        sa.Column("study_time", sa.Text(), nullable=False),
        sa.Column("study_description", sa.Text(), nullable=False),
        sa.Column("received_at", sa.String(length=27), nullable=False),
        sa.PrimaryKeyConstraint("study_instance_uid"),
    )


def _dicom_series() -> None:
    op.create_table(
        "dicom_series",
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("series_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("modality", sa.Text(), nullable=False),
        sa.Column("series_number", sa.Integer(), nullable=True),
        sa.Column("series_description", sa.Text(), nullable=False),
        sa.Column("body_part_examined", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["study_instance_uid"],
            ["dicom_study.study_instance_uid"],
        ),
        sa.PrimaryKeyConstraint("study_instance_uid", "series_instance_uid"),
    )


def _dicom_instance() -> None:
    op.create_table(
        "dicom_instance",
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("sop_class_uid", sa.String(length=64), nullable=False),
        sa.Column("transfer_syntax_uid", sa.String(length=64), nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("series_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("instance_number", sa.Integer(), nullable=True),
        sa.Column("number_of_frames", sa.Integer(), nullable=True),
        sa.Column("patient_id", sa.Text(), nullable=False),
        sa.Column("patient_birth_date", sa.Text(), nullable=False),
        sa.Column("accession_number", sa.Text(), nullable=False),
        sa.Column("segment", sa.Text(), nullable=False),
        sa.Column("payload_offset", sa.BigInteger(), nullable=False),
        sa.Column("payload_length", sa.BigInteger(), nullable=False),
        sa.Column("payload_sha256", sa.String(length=64), nullable=False),
        sa.Column("data_set_sha256", sa.String(length=64), nullable=False),
        sa.Column("received_at", sa.String(length=27), nullable=False),
        sa.ForeignKeyConstraint(
            ["study_instance_uid", "series_instance_uid"],
            ["dicom_series.study_instance_uid", "dicom_series.series_instance_uid"],
        ),
        sa.PrimaryKeyConstraint("sop_instance_uid"),
    )
    with op.batch_alter_table("dicom_instance", schema=None) as batch_op:
        batch_op.create_index("ix_dicom_instance_segment", ["segment"], unique=False)
        batch_op.create_index(
            "ix_dicom_instance_series", ["study_instance_uid", "series_instance_uid"], unique=False
        )


def downgrade() -> None:
    op.drop_table("dicom_instance")
    op.drop_table("dicom_series")
    op.drop_table("dicom_study")
    op.drop_table("trace")
    op.drop_table("gate")
    op.drop_table("report_parent")
    op.drop_table("submission")
    op.drop_table("report_study")
    op.drop_table("report")
    op.drop_table("message")
    op.drop_table("exam")
