"""Rejected instances, rejections that are remembered, notes.

Revision ID: 0002
Revises: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("dicom_instance", schema=None) as batch_op:
        batch_op.add_column(sa.Column("rejected_code", sa.String(length=16), nullable=True))
        batch_op.add_column(sa.Column("rejected_at", sa.String(length=27), nullable=True))

    op.create_table(
        "dicom_note",
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("facts", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("sop_instance_uid"),
    )
    with op.batch_alter_table("dicom_note", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_dicom_note_study_instance_uid"), ["study_instance_uid"], unique=False
        )

    op.create_table(
        "dicom_rejection",
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("note_uid", sa.String(length=64), nullable=False),
        sa.Column("code", sa.String(length=16), nullable=False),
        sa.Column("rejected_at", sa.String(length=27), nullable=False),
        sa.Column("met_at", sa.String(length=27), nullable=True),
        sa.Column("ended_at", sa.String(length=27), nullable=True),
        sa.PrimaryKeyConstraint("study_instance_uid", "sop_instance_uid", "note_uid"),
    )


def downgrade() -> None:
    op.drop_table("dicom_rejection")
    op.drop_table("dicom_note")
    with op.batch_alter_table("dicom_instance", schema=None) as batch_op:
        batch_op.drop_column("rejected_at")
        batch_op.drop_column("rejected_code")
