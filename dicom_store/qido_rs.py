"""QIDO-RS (PS3.18 10.6): what is here of studies, series and instances, as DICOM JSON.

Nothing found is 200 with an empty array, as the standard says since 2025 (204 before, which some clients take for
a failure). What was asked and is not done is said by a Warning header (8.3.4).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager

from sqlalchemy.orm import Session

from dicom_store.archive import Archive, StoredInstance
from dicom_store.asgi import HttpRequest
from dicom_store.body import body_of
from dicom_store.frame_representation import choose_metadata
from dicom_store.index_search import first_instances, search
from dicom_store.metadata_rs import addressed, read_metadata
from dicom_store.negotiation import parse_accept
from dicom_store.query import CUT, Query, read_query
from dicom_store.query_attributes import Level
from dicom_store.resources import Kind, Resource
from dicom_store.search_result import Page, results_json
from dicom_store.segment_record import SegmentDamaged
from dicom_store.transmit import Transfer

log = logging.getLogger(__name__)

LEVELS: Mapping[Kind, Level] = {
    Kind.STUDIES: Level.STUDY,
    Kind.SEARCH_SERIES: Level.SERIES,
    Kind.SEARCH_INSTANCES: Level.INSTANCE,
}


class QidoRs:
    """Answers searches. `reading`: opens a session that only reads; it is used in a thread."""

    def __init__(self, reading: Callable[[], AbstractContextManager[Session]], archive: Archive) -> None:
        self._reading = reading
        self._archive = archive

    async def __call__(self, request: HttpRequest, resource: Resource, base_url: str) -> Transfer:
        """The answer to a resource of `LEVELS`. `base_url`: of the door, without a slash at its end.

        Raises `HttpRefusal` 400 and 406, and what the session raises when the database cannot be read.
        """
        content_type = choose_metadata(parse_accept(request.accept))
        query = read_query(LEVELS[resource.kind], resource.study, resource.series, request.query)
        document, more = await asyncio.to_thread(self._search, query, base_url)
        headers = {"Content-Type": content_type, "Content-Length": str(len(document))}
        warnings = [*query.warnings, *([CUT] if more and query.capped else [])]
        if warnings:
            headers["Warning"] = ", ".join(f"299 {base_url}: {text}" for text in warnings)
        return Transfer(200, headers, body_of(document))

    def _search(self, query: Query, base_url: str) -> tuple[bytes, bool]:
        with self._reading() as session:
            page = search(session, query)
            speaking = first_instances(session, query.level, page) if query.extras else []
        return results_json(query, page, base_url, self._extras(page, speaking, base_url)), page.more

    def _extras(
        self, page: Page, speaking: Sequence[StoredInstance | None], base_url: str
    ) -> Iterator[bytes]:
        """One at a time: the JSON of a multi-frame instance has megabytes."""
        for row, one in zip(page.rows, speaking, strict=True):
            yield self._extra(one, f"{base_url}/studies/{row[0]}") if one is not None else b""

    def _extra(self, stored: StoredInstance, study_url: str) -> bytes:
        try:
            (document,) = read_metadata(self._archive, [stored])
        except SegmentDamaged as error:  # a search still finds what else there is
            said = {"action": "image_unreadable", "study": study_url.rpartition("/")[2]}
            log.warning("nothing can be read of %s: %s", stored.ref.SOPInstanceUID, error, extra=said)
            return b""
        return addressed(document, stored, study_url)
