"""`drimbox mllp`: the HL7v2 door. Translates one framed message to one `Reception.message`."""

from __future__ import annotations

import structlog

from drimbox.bootstrap import Foundation, make_reception, utc_now
from drimbox.entrypoints.mllp import MllpDoor
from drimbox.entrypoints.waiting import wait_for_stop
from drimbox.flow.keep_report import Arrival
from drimbox.flow.refuse_peer import trace_refused_peer

log = structlog.get_logger(__name__)


def open_hl7_door(foundation: Foundation) -> MllpDoor:
    """The door, not started."""
    room = foundation.settings.mllp
    reception = make_reception(foundation)

    def handle(message: bytes, peer: str) -> bytes | None:
        answer = reception.message(Arrival(message, "mllp", peer, utc_now()))
        log.info("message_answered", peer=peer, bytes=len(message))
        return answer

    def on_fault(peer: str, reason: str) -> None:
        trace_refused_peer(foundation.transactions, "mllp", peer, reason, now=utc_now(), log=log.error)

    return MllpDoor(
        room.host,
        room.port,
        handle,
        max_message_bytes=room.max_message_bytes,
        max_connections=room.max_connections,
        idle_timeout=room.idle_timeout,
        on_fault=on_fault,
    )


def serve_hl7(foundation: Foundation) -> None:
    """Serve until SIGTERM, SIGINT or the death of the supervisor."""
    door = open_hl7_door(foundation)
    door.start()
    log.info("mllp_listening", host=foundation.settings.mllp.host, port=door.port)
    wait_for_stop()
    door.stop()
