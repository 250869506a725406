"""Frames of an instance, each a part or one alone (PS3.18 10.4.1.1.4, 8.7.3.3): extents of a file.

Of its own file where the pixels are wanted as they are stored, else of a converted one, which is kept for the next.

Frames as `application/dicom` are instances: `wado_rs` gives them.
"""

from __future__ import annotations

import asyncio
import json
import mmap
import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache

from dicom_store.archive import Archive, StoredInstance
from dicom_store.asgi import HttpRequest
from dicom_store.body import Extent, body_of
from dicom_store.dicom_json import instance_json
from dicom_store.frame_representation import FrameForm, choose_frames
from dicom_store.frame_table import MAX_FRAGMENTS, FrameTable, read_frame_table
from dicom_store.header import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN
from dicom_store.negotiation import Acceptable, parse_accept
from dicom_store.part10 import data_set_offset
from dicom_store.related import Related
from dicom_store.resources import Resource
from dicom_store.shown import ShownInstances, address_of
from dicom_store.status import HttpRefusal
from dicom_store.transfer_syntax import DICOM
from dicom_store.transmit import Transfer
from dicom_store.wado_rs import Conversions

MAX_PIECES = 100_000  # fragments of one answer

_Key = tuple[str, int, str]  # segment, offset: never written again; transfer syntax


def wants_instances(acceptable: Acceptable) -> bool:
    """Whether nothing but `application/dicom` is acceptable: then frames are a matter of `wado_rs`."""
    wanted = [media_range for media_range in acceptable.ranges if media_range.quality > 0]
    return bool(wanted) and all(media_range.media_type == DICOM for media_range in wanted)


class Frames:
    """Answers frames. `conversions`: what makes them when they are not acceptable as stored."""

    def __init__(self, shown: ShownInstances, archive: Archive, conversions: Conversions) -> None:
        self._shown = shown
        self._archive = archive
        self._conversions = conversions
        self._tables = FrameTables()
        self._form = lru_cache(64)(self._choose)  # a viewer asks by the hundreds, always with the same header

    async def __call__(self, request: HttpRequest, resource: Resource, base_url: str) -> Transfer:
        """The frames of a list, in its order. Raises `HttpRefusal` 404, 406; 503 as conversions do."""
        stored = await self._shown.one(resource)
        numbers = [int(number) for number in (resource.frames or "1").split(",")]
        _require(numbers, stored.ref.NumberOfFrames or 1)
        form = self._form(tuple(request.accept), stored.ref.TransferSyntaxUID, len(numbers) == 1)
        file = await self._file(stored, form, request.client)
        try:
            table = await self._table(stored, form, file)
            _require(numbers, table.count)
            frames = _extents(file, table, numbers)
        except BaseException:
            file.source.close()
            raise
        url = f"{base_url}/studies/{resource.study}{address_of(stored)}/frames"
        return _answer(form, [f"{url}/{number}" for number in numbers], frames)

    def _choose(self, accept: tuple[str, ...], syntax: str, alone: bool) -> FrameForm:
        return choose_frames(parse_accept(accept), syntax, self._conversions.can, alone)

    async def _file(self, stored: StoredInstance, form: FrameForm, client: str) -> Extent:
        """The file whose frames are sent: the stored one where its pixels are those wanted."""
        if form.transfer_syntax == _as_sent(stored):
            return Extent(self._archive.source(stored.segment), stored.offset, stored.length)
        return await self._conversions.converted(stored, form.transfer_syntax, client)

    async def _table(self, stored: StoredInstance, form: FrameForm, file: Extent) -> FrameTable:
        key = (stored.segment, stored.offset, form.transfer_syntax)
        table = self._tables.get(key)
        if table is None:
            if form.transfer_syntax == _as_sent(stored):
                table = await asyncio.to_thread(_stored_table, self._archive, stored, file)
            else:
                table = await asyncio.to_thread(_converted_table, form.transfer_syntax, file)
            self._tables.put(key, table)
        return table


class FrameTables:
    """The tables last used; at most `MAX_FRAGMENTS` fragments in all, 16 bytes each."""

    def __init__(self, limit: int = MAX_FRAGMENTS) -> None:
        self._limit = limit
        self._weight = 0
        self._tables: OrderedDict[_Key, FrameTable] = OrderedDict()

    def get(self, key: _Key) -> FrameTable | None:
        """A table kept; it is now the one last used."""
        table = self._tables.get(key)
        if table is not None:
            self._tables.move_to_end(key)
        return table

    def put(self, key: _Key, table: FrameTable) -> None:
        """Keep a table, and let go of those used longest ago."""
        known = self._tables.pop(key, None)
        self._weight -= known.weight if known else 0
        self._tables[key] = table
        self._weight += table.weight
        while self._weight > self._limit or len(self._tables) > self._limit // 100:
            self._weight -= self._tables.popitem(last=False)[1].weight


def _require(numbers: Sequence[int], count: int) -> None:
    if max(numbers) > count:
        raise HttpRefusal(404, "not-found", "Not found", f"The instance has {count} frame(s).")


def _extents(file: Extent, table: FrameTable, numbers: Sequence[int]) -> list[list[Extent]]:
    """Where each frame is. Raises `HttpRefusal` 406 when that is more than may be held."""
    frames: list[list[Extent]] = []
    left = MAX_PIECES
    for number in numbers:
        places = table.places(number)
        left -= len(places)
        if left < 0:
            detail = "These frames are in too many fragments; ask for fewer, or for the instance."
            raise HttpRefusal(406, "not-acceptable", "Not acceptable", detail)
        frames.append([file.part(*place) for place in places])
    return frames


def _as_sent(stored: StoredInstance) -> str:
    """Implicit VR says nothing of pixels: they are those of Explicit VR Little Endian."""
    syntax = stored.ref.TransferSyntaxUID
    return EXPLICIT_VR_LITTLE_ENDIAN if syntax == IMPLICIT_VR_LITTLE_ENDIAN else syntax


def _stored_table(archive: Archive, stored: StoredInstance, file: Extent) -> FrameTable:
    document = json.loads(archive.metadata(stored))
    with _opened(file) as descriptor:
        return read_frame_table(
            document,
            stored.ref.TransferSyntaxUID,
            lambda offset, length: os.pread(descriptor, length, file.offset + offset),
        )


def _converted_table(transfer_syntax: str, file: Extent) -> FrameTable:
    with _opened(file) as descriptor:
        mapped = mmap.mmap(descriptor, file.offset + file.length, prot=mmap.PROT_READ)
    view = memoryview(mapped)[file.offset :]  # unmapped with its last view
    begin = data_set_offset(view)
    document = json.loads(instance_json(view[begin:], transfer_syntax, begin))
    return read_frame_table(
        document, transfer_syntax, lambda offset, length: bytes(view[offset : offset + length])
    )


@contextmanager
def _opened(file: Extent) -> Iterator[int]:
    descriptor = file.source.open()
    try:
        file.source.check(descriptor, file)
        yield descriptor
    finally:
        os.close(descriptor)


def _answer(form: FrameForm, addresses: Sequence[str], frames: Sequence[Sequence[Extent]]) -> Transfer:
    content_type = f"{form.media_type}; transfer-syntax={form.transfer_syntax}"
    if form.multipart:
        related = Related(form.media_type)
        return related.whole(
            related.part(content_type, address, *extents)
            for address, extents in zip(addresses, frames, strict=True)
        )
    body = body_of(*frames[0])
    headers = {
        "Content-Type": content_type,
        "Content-Location": addresses[0],
        "Content-Length": str(body.length),
    }
    return Transfer(200, headers, body)
