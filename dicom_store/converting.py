"""Conversions and pictures of stored instances as extents of a body: the transcoder behind the doors' protocols."""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from dicom_store import conversions
from dicom_store.archive import StoredInstance
from dicom_store.asgi import busy, internal_error
from dicom_store.body import Extent
from dicom_store.conversions import LOSSY_TARGETS, Busy, SourceUnreadable, TranscodeFailed
from dicom_store.render_params import RenderParams
from dicom_store.segment_source import SegmentSource
from dicom_store.status import HttpRefusal
from dicom_store.transcode_cache import CachedFile
from dicom_store.transcode_process import Passing
from dicom_store.transcoder import Extent as Stored

log = logging.getLogger(__name__)


class Transcoding(Protocol):
    """See `transcoder.Transcoder`."""

    async def file_of(
        self, key: str, source: Stored, target: str, lossy_quality: int | None = None, *, client: str = ""
    ) -> CachedFile: ...
    async def rendered(
        self, key: str, source: Stored, frame: int | None, params: RenderParams, *, client: str = ""
    ) -> CachedFile: ...


@dataclass(eq=False)
class ConvertedSource:
    """A converted file, held open until its reader lets go."""

    file: CachedFile

    def open(self) -> int:
        """A descriptor of its own."""
        return os.dup(self.file.fileno())

    def check(self, descriptor: int, extent: Extent) -> None:
        """Raises EOFError for an extent beyond the end: the file itself was proven when it was found."""
        if extent.offset + extent.length > self.file.length:
            raise EOFError("beyond the end of a converted file")

    def close(self) -> None:
        """Let go of the file."""
        self.file.close()


class Converting:
    """`source(segment)`: its file; `lossy_quality`: 1..100, of lossy syntaxes."""

    def __init__(
        self, transcoder: Transcoding, source: Callable[[str], SegmentSource], lossy_quality: int
    ) -> None:
        self._transcoder = transcoder
        self._source = source
        self._lossy_quality = lossy_quality

    def can(self, stored: str, target: str) -> bool:
        """Whether an instance stored in the one may leave in the other."""
        return conversions.can(stored, target)

    async def converted(self, stored: StoredInstance, target: str, client: str) -> Extent:
        """The instance in another transfer syntax. Raises `HttpRefusal`: 406, 503 busy, 500 damaged."""
        quality = self._lossy_quality if target in LOSSY_TARGETS else None
        place = self._place(stored)
        return await _extent(self._transcoder.file_of(stored.sha256, place, target, quality, client=client))

    async def rendered(
        self, stored: StoredInstance, frame: int | None, params: RenderParams, client: str
    ) -> Extent:
        """A picture of a frame (from 1; None = the representative one). Raises as `converted`."""
        place = self._place(stored)
        return await _extent(self._transcoder.rendered(stored.sha256, place, frame, params, client=client))

    def _place(self, stored: StoredInstance) -> Stored:
        return Stored(self._source(stored.segment).path, stored.offset, stored.length)


async def _extent(made: Awaitable[CachedFile]) -> Extent:
    try:
        file = await made
    except Busy as error:
        raise busy("Too many conversions wait; try again, or accept the stored transfer syntax.") from error
    except Passing as error:
        raise busy(
            "It could not be converted now; try again, or accept the stored transfer syntax."
        ) from error
    except SourceUnreadable as error:
        said = {"action": "image_not_converted"}
        log.error("cannot be converted: %s", error.reason, extra=said)  # noqa: TRY400 the reason says it
        raise internal_error("An image cannot be read.") from error
    except TranscodeFailed as error:
        detail = f"It cannot be made of what is stored: {error.reason}"
        raise HttpRefusal(406, "not-acceptable", "Not acceptable", detail) from error
    return Extent(ConvertedSource(file), 0, file.length)
