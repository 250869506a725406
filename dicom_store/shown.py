"""Which instances the department's doors show, and where: what was rejected, and the notes that say so, are not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from sqlalchemy.orm import Session

from dicom_store.archive import StoredInstance
from dicom_store.index_search import shown_instances
from dicom_store.resources import Resource
from dicom_store.status import HttpRefusal


class ShownInstances:
    """Looks instances up. `reading`: opens a session that only reads; it is used in a thread."""

    def __init__(self, reading: Callable[[], AbstractContextManager[Session]]) -> None:
        self._reading = reading

    async def of(self, resource: Resource) -> Sequence[StoredInstance]:
        """The instances of a resource, never empty, by their numbers. Raises `HttpRefusal` 404."""
        found = await asyncio.to_thread(self._find, resource)
        if not found:
            raise HttpRefusal(404, "not-found", "Not found", "There is no such instance here.")
        return found

    async def one(self, resource: Resource) -> StoredInstance:
        """The instance of a resource below one. Raises `HttpRefusal` 404."""
        return (await self.of(resource))[0]

    def _find(self, resource: Resource) -> Sequence[StoredInstance]:
        with self._reading() as session:
            return shown_instances(session, resource.study or "", resource.series, resource.sop)


def address_of(stored: StoredInstance) -> str:
    """The path of an instance below its study."""
    return f"/series/{stored.series_uid}/instances/{stored.ref.SOPInstanceUID}"
