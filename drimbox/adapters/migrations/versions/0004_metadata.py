"""What QIDO-RS answers of studies, series and instances; the length of the DICOM JSON behind each instance.

Revision ID: 0004
Revises: 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_STUDY = (
    "patient_name",
    "patient_id",
    "patient_birth_date",
    "patient_sex",
    "accession_number",
    "referring_physician_name",
    "study_id",
    "timezone_offset_from_utc",
)
_SERIES = ("performed_procedure_step_start_date", "performed_procedure_step_start_time")
_INSTANCE = (
    ("rows", sa.Integer),
    ("columns", sa.Integer),
    ("bits_allocated", sa.Integer),
    ("metadata_length", sa.BigInteger),
)
_SEARCHED = ("study_date", "patient_id", "patient_name", "accession_number")
_OF_INSTANCES = ("patient_id", "patient_birth_date", "accession_number")  # known of what is here already


def upgrade() -> None:
    for table, names in (("dicom_study", _STUDY), ("dicom_series", _SERIES)):
        for name in names:
            op.add_column(table, sa.Column(name, sa.Text(), nullable=False, server_default=""))
    for name, kind in _INSTANCE:
        op.add_column("dicom_instance", sa.Column(name, kind(), nullable=True))
    for name in _OF_INSTANCES:
        op.execute(
            f"UPDATE dicom_study SET {name} = substr(COALESCE((SELECT {name} FROM dicom_instance AS i "  # noqa: S608
            f"WHERE i.study_instance_uid = dicom_study.study_instance_uid AND i.{name} <> '' "
            "ORDER BY i.received_at, i.sop_instance_uid LIMIT 1), ''), 1, 256)"
        )
    op.execute(
        "UPDATE dicom_study SET study_date = substr(study_date, 1, 256) WHERE length(study_date) > 256"
    )
    for name in _SEARCHED:
        op.create_index(f"ix_dicom_study_{name}", "dicom_study", [name], unique=False)


def downgrade() -> None:
    for name in _SEARCHED:
        op.drop_index(f"ix_dicom_study_{name}", "dicom_study")
    # not in a batch: SQLite would make the tables anew, under the foreign keys that point to them
    for table, names in (
        ("dicom_instance", [name for name, _ in _INSTANCE]),
        ("dicom_series", _SERIES),
        ("dicom_study", _STUDY),
    ):
        for name in names:
            op.execute(f'ALTER TABLE {table} DROP COLUMN "{name}"')
