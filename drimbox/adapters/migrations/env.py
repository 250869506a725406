"""Alembic's entry: runs on the connection that `Database.migrate` hands over."""

from __future__ import annotations

from typing import Any

from alembic import context

from dicom_store.index import Base as ImagesBase
from drimbox.adapters.tables import metadata

applied = context.config.attributes.get("applied", str)  # hears each revision


def _tell(*, step: Any, **_: Any) -> None:
    applied(step.up_revision_id)


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=[metadata, ImagesBase.metadata],
    render_as_batch=True,
    on_version_apply=_tell,  # type: ignore[arg-type]  # called by keywords
)
with context.begin_transaction():
    context.run_migrations()
