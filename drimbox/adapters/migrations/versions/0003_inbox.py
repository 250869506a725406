"""What entered and what was answered, visits and their consent, business acknowledgements.

Revision ID: 0003
Revises: 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("report", schema=None) as batch_op:
        batch_op.drop_column("message")
        batch_op.add_column(sa.Column("visit", sa.String(length=320), nullable=True))
        batch_op.add_column(sa.Column("author_structure", sa.String(length=64), nullable=True))
        batch_op.create_index(batch_op.f("ix_report_visit"), ["visit"], unique=False)

    with op.batch_alter_table("message", schema=None) as batch_op:
        batch_op.add_column(sa.Column("sender", sa.String(length=64), nullable=True))
        batch_op.add_column(sa.Column("kind", sa.String(length=16), nullable=False, server_default=""))
        batch_op.add_column(sa.Column("document", sa.String(length=64), nullable=True))
        batch_op.add_column(sa.Column("document_id", sa.String(length=200), nullable=True))
        batch_op.add_column(sa.Column("answer", sa.Text(), nullable=True))
        batch_op.add_column(sa.Column("violations", sa.JSON(), nullable=False, server_default="[]"))
        batch_op.add_column(sa.Column("studies", sa.JSON(), nullable=False, server_default="[]"))
        batch_op.add_column(sa.Column("replay_of", sa.String(length=36), nullable=True))
        batch_op.add_column(sa.Column("purged_at", sa.DateTime(), nullable=True))
        batch_op.create_index(batch_op.f("ix_message_report_id"), ["report_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_message_document_id"), ["document_id"], unique=False)
    op.execute(
        "UPDATE message SET kind = 'CDA' WHERE door = 'http'"
    )  # what that door takes; replayed as such

    op.create_table(
        "visit",
        sa.Column("visit", sa.String(length=320), nullable=False),
        sa.Column("feeding", sa.String(length=8), nullable=False),
        sa.Column("said_at", sa.DateTime(), nullable=False),
        sa.Column("message_id", sa.String(length=36), nullable=False),
        sa.PrimaryKeyConstraint("visit"),
    )
    op.create_table(
        "receipt",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("report_id", sa.String(length=36), nullable=False),
        sa.Column("operation", sa.String(length=2), nullable=False),
        sa.Column("control_id", sa.String(length=200), nullable=False),
        sa.Column("sender", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("due_at", sa.DateTime(), nullable=True),
        sa.Column("status", sa.String(length=1), nullable=True),
        sa.Column("error", sa.String(length=255), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("delivered_at", sa.DateTime(), nullable=True),
        sa.Column("given_up_at", sa.DateTime(), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    with op.batch_alter_table("receipt", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_receipt_due_at"), ["due_at"], unique=False)
        batch_op.create_index(batch_op.f("ix_receipt_report_id"), ["report_id"], unique=False)


def downgrade() -> None:
    op.drop_table("receipt")
    op.drop_table("visit")
    with op.batch_alter_table("message", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_message_document_id"))
        batch_op.drop_index(batch_op.f("ix_message_report_id"))
        names = ("sender", "kind", "document", "document_id", "answer", "violations", "studies", "replay_of")
        for name in (*names, "purged_at"):
            batch_op.drop_column(name)
    with op.batch_alter_table("report", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_report_visit"))
        batch_op.drop_column("author_structure")
        batch_op.drop_column("visit")
        batch_op.add_column(sa.Column("message", sa.String(length=64), nullable=True))
