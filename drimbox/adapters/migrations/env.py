"""Alembic's entry: runs on the connection that `Database.migrate` hands over."""

from __future__ import annotations

from alembic import context

from dicom_store.index import Base as ImagesBase
from drimbox.adapters.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=[metadata, ImagesBase.metadata],
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
