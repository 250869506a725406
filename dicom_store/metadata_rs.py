"""Metadata of a study, a series or an instance (PS3.18 10.4.1.1.2): the DICOM JSON prepared at ingest, streamed.

Read in batches while the ones before are sent: the memory is that of a few batches, whatever the study.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Sequence
from functools import partial

from dicom_store.archive import Archive, StoredInstance
from dicom_store.asgi import HttpRequest
from dicom_store.body import Body, Later, Piece
from dicom_store.frame_representation import choose_metadata
from dicom_store.negotiation import parse_accept
from dicom_store.resources import Resource
from dicom_store.segment_record import Kind, SegmentDamaged, check_record
from dicom_store.shown import ShownInstances, address_of
from dicom_store.transmit import Transfer

BATCH = 200  # instances read at once
BATCH_BYTES = 4 * 1024 * 1024  # of their JSON: that of a multi-frame instance has megabytes
_PREPARED = b'"BulkDataURI":"bulkdata/'  # as `dicom_json` writes it, for this replacement


class Metadata:
    """Answers metadata. `shown`: which instances there are."""

    def __init__(self, shown: ShownInstances, archive: Archive) -> None:
        self._shown = shown
        self._archive = archive

    async def __call__(self, request: HttpRequest, resource: Resource, base_url: str) -> Transfer:
        """The array of a study, a series, or one instance. Raises `HttpRefusal` 404, 406."""
        content_type = choose_metadata(parse_accept(request.accept))
        instances = await self._shown.of(resource)
        body = Body(partial(self._pieces, instances, f"{base_url}/studies/{resource.study}"), None)
        return Transfer(200, {"Content-Type": content_type}, body)

    def _pieces(self, instances: Sequence[StoredInstance], study_url: str) -> Iterator[Piece]:
        before = b"["
        for batch in _batches(instances):
            yield Later(partial(asyncio.to_thread, self._batch, batch, study_url, before))
            before = b","
        yield b"]"

    def _batch(self, batch: Sequence[StoredInstance], study_url: str, before: bytes) -> Sequence[bytes]:
        documents = zip(batch, read_metadata(self._archive, batch), strict=True)
        return [before + b",".join([addressed(document, one, study_url) for one, document in documents])]


def _batches(instances: Sequence[StoredInstance]) -> Iterator[Sequence[StoredInstance]]:
    """In order; one that is not prepared counts as its file, which is longer but for odd ones."""
    batch: list[StoredInstance] = []
    size = 0
    for one in instances:
        length = min(one.metadata_length or one.length, BATCH_BYTES)
        if batch and (len(batch) >= BATCH or size + length > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(one)
        size += length
    yield batch


def addressed(document: bytes, stored: StoredInstance, study_url: str) -> bytes:
    """The DICOM JSON of an instance with absolute addresses of its bulk data."""
    url = f"{study_url}{address_of(stored)}/bulkdata/"
    return document.replace(_PREPARED, b'"BulkDataURI":"' + url.encode("ascii"))


def read_metadata(archive: Archive, instances: Sequence[StoredInstance]) -> list[bytes]:
    """The DICOM JSON of instances, each segment opened once. Blocks. Raises `SegmentDamaged`, OSError."""
    documents: list[bytes] = []
    with _Segments(archive) as segments:
        for stored in instances:
            document = segments.prepared(stored)
            documents.append(archive.metadata(stored) if document is None else document)
    return documents


class _Segments:
    """The one segment that is open: instances of a series lie side by side."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._name = ""
        self._descriptor = -1

    def __enter__(self) -> _Segments:
        return self

    def __exit__(self, *_: object) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def prepared(self, stored: StoredInstance) -> bytes | None:
        """What was prepared at ingest; None when there is none that can be read: `Archive.metadata` makes it anew."""
        extent = self._archive.metadata_extent(stored)
        if extent is None:
            return None
        segment, offset, length = extent
        try:
            descriptor = self._open(segment)
            check_record(descriptor, offset, length, Kind.DICOM_JSON)
        except SegmentDamaged:
            return None
        document = os.pread(descriptor, length, offset)
        return document if len(document) == length else None

    def _open(self, segment: str) -> int:
        if segment != self._name:
            opened = self._archive.source(segment).open()
            self.__exit__()
            self._name, self._descriptor = segment, opened
        return self._descriptor
