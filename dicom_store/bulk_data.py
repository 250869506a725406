"""Bulk data of an instance, as its metadata addresses it: bytes of a value in its file (PS3.18 10.4.1.1.5).

The value as stored; of encapsulated pixel data with the items in which it lies: `frames` gives what is in them.
"""

from __future__ import annotations

import hashlib

from dicom_store.archive import Archive, StoredInstance
from dicom_store.asgi import HttpRequest
from dicom_store.body import Extent, body_of
from dicom_store.byte_range import asked_range
from dicom_store.frame_representation import choose_bulk_data
from dicom_store.negotiation import Form, parse_accept
from dicom_store.related import Related
from dicom_store.resources import Resource
from dicom_store.shown import ShownInstances, address_of
from dicom_store.status import HttpRefusal
from dicom_store.transfer_syntax import OCTETS
from dicom_store.transmit import Transfer


class BulkData:
    """Answers bulk data."""

    def __init__(self, shown: ShownInstances, archive: Archive) -> None:
        self._shown = shown
        self._archive = archive

    async def __call__(self, request: HttpRequest, resource: Resource, base_url: str) -> Transfer:
        """One value, alone (also a range of it) or as the only part. Raises `HttpRefusal` 404, 406, 416."""
        form = choose_bulk_data(parse_accept(request.accept))
        stored = await self._shown.one(resource)
        extent = self._extent(stored, resource.bulk or "")
        if form is Form.MULTIPART:
            related = Related(OCTETS)
            address = f"{base_url}/studies/{resource.study}{address_of(stored)}/bulkdata/{resource.bulk}"
            return related.whole([related.part(OCTETS, address, extent)])
        return _single(request, stored, resource.bulk or "", extent)

    def _extent(self, stored: StoredInstance, bulk: str) -> Extent:
        offset, _, length = bulk.partition("-")
        if not int(length) or int(offset) + int(length) > stored.length:
            raise HttpRefusal(404, "not-found", "Not found", "There is no such bulk data.")
        file = Extent(self._archive.source(stored.segment), stored.offset, stored.length)
        return file.part(int(offset), int(length))


def _single(request: HttpRequest, stored: StoredInstance, bulk: str, extent: Extent) -> Transfer:
    etag = hashlib.sha256(f"{stored.segment} {stored.offset} {bulk}".encode("ascii")).hexdigest()[:32]
    headers = {"Content-Type": OCTETS, "Accept-Ranges": "bytes", "ETag": f'"{etag}"'}
    asked = request.headers
    part = asked_range(asked.get("range"), asked.get("if-range"), f'"{etag}"', extent.length)
    if part is None or request.method != "GET":
        return Transfer(200, {**headers, "Content-Length": str(extent.length)}, body_of(extent))
    headers |= {"Content-Range": part.content_range, "Content-Length": str(part.length)}
    return Transfer(206, headers, body_of(extent.part(part.first, part.length)))
