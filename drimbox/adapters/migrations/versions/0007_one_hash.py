"""The SHA-256 of the data set alone is not made any more: that of the file says as much.

Revision ID: 0007
Revises: 0006
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("dicom_instance", schema=None) as batch_op:
        batch_op.alter_column("data_set_sha256", existing_type=sa.String(length=64), nullable=True)


def downgrade() -> None:
    # what came since is not recognised when it is sent again: its data set differs from none
    op.execute("UPDATE dicom_instance SET data_set_sha256 = '' WHERE data_set_sha256 IS NULL")
    with op.batch_alter_table("dicom_instance", schema=None) as batch_op:
        batch_op.alter_column("data_set_sha256", existing_type=sa.String(length=64), nullable=False)
