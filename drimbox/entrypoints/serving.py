"""What one process of `drimbox web` serves with: the gate, the images, the conversions; opened after the fork."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

import structlog

from dicom_store.converting import Converting
from dicom_store.negotiation import ServingPolicy
from dicom_store.transcoder import Transcoder
from dicom_store.wado_rs import WadoRs
from drimbox.adapters.psc import Psc
from drimbox.adapters.retrieval_journal import RetrievalJournal
from drimbox.adapters.serving_queries import Standings
from drimbox.bootstrap import Foundation, make_psc, utc_now
from drimbox.domain.token_claims import TokenRules
from drimbox.entrypoints.measuring import ServeMeter
from drimbox.flow.authorise import Gate
from drimbox.flow.freshness import Freshness
from drimbox.flow.partners import Partners
from drimbox.flow.retrieval_log import RetrievalLog
from drimbox.flow.shared_facts import FactsKept, SharedReading
from drimbox.membership import make_mesh
from drimbox.settings.whole import Settings
from whitelist.view import View

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Serving:
    """The parts of one process."""

    foundation: Foundation
    mesh: View
    gate: Gate
    conversions: Converting
    images: WadoRs

    @property
    def settings(self) -> Settings:
        """The settings of every room."""
        return self.foundation.settings


@asynccontextmanager
async def open_serving(foundation: Foundation) -> AsyncIterator[Serving]:
    """The parts, in a running event loop; at the end every complete audit record is written."""
    settings = foundation.settings
    room = settings.web
    mesh, psc = make_mesh(settings), make_psc(settings)
    gate = make_gate(foundation, mesh, psc)
    transcoder = Transcoder(
        settings.storage.root / "transcoded",
        workers=room.transcoders,
        cache_bytes=room.transcoding_cache_bytes,
        timeout=room.transcoding_timeout,
        memory_bytes=room.transcoding_memory_bytes,
        minimum_free_bytes=settings.storage.minimum_free_bytes,
    )
    conversions = Converting(transcoder, foundation.archive.source, room.lossy_quality)
    policy = ServingPolicy(room.prefer, room.allow_lossy)
    images = WadoRs(foundation.archive.source, conversions, policy)
    gate.records.start()
    try:
        yield Serving(foundation, mesh, gate, conversions, images)
    finally:
        await transcoder.close()
        gate.close()
        psc.close()
        foundation.archive.close()
        foundation.database.close()


def make_gate(foundation: Foundation, mesh: View, psc: Psc) -> Gate:
    """Who decides what a partner may have; `records.start` begins to write their audit records."""
    settings, room = foundation.settings, foundation.settings.psc
    reading = SharedReading(foundation.transactions, foundation.documents, FactsKept())
    journal = RetrievalJournal(settings.storage.root / "audit")
    return Gate(
        Partners(mesh, settings.whitelist.peers, log.warning),
        psc,
        TokenRules(room.issuer, frozenset(room.audiences), room.minimum_acr, room.binding),
        Freshness(Standings(foundation.database), reading, timedelta(seconds=settings.web.replaced_grace)),
        RetrievalLog(
            foundation.transactions, journal, utc_now, log.error, log.info, ServeMeter(foundation.meters).told
        ),
        utc_now,
        log.warning,
    )
