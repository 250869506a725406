"""`drimbox mllp`: the HL7v2 doors. Translates one framed message to one `Reception.message`."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from time import perf_counter

import structlog

from drimbox.bootstrap import Foundation, make_reception, make_senders, utc_now
from drimbox.domain import measures
from drimbox.entrypoints.listener_tls import follow_files
from drimbox.entrypoints.measuring import ReportMeter, verdict_of
from drimbox.entrypoints.mllp import Handler, Limits, MllpDoor, origin
from drimbox.entrypoints.mllp_admission import Peer, Places
from drimbox.entrypoints.mllp_refusals import Refusal, Refusals
from drimbox.entrypoints.renewal import Renewal
from drimbox.entrypoints.stop_signal import StopSignal
from drimbox.entrypoints.waiting import wait_for_stop
from drimbox.flow.keep_report import Arrival
from drimbox.flow.refuse_peer import trace_refused_peer

log = structlog.get_logger(__name__)


class Hl7Doors:
    """MLLP, and MLLP over mutual TLS when it has a port: same senders, one set of places. Also a context manager."""

    def __init__(self, foundation: Foundation) -> None:
        room = foundation.settings.mllp
        self.refusals = Refusals(partial(_trace, foundation), noted=partial(_count_refused, foundation))
        places = Places(room.max_connections)
        foundation.meters.watch(measures.REPORT_CONNECTIONS, lambda: places.taken)
        make = partial(
            MllpDoor,
            handle=_handler(foundation),
            senders=make_senders(foundation.settings),
            places=places,
            refusals=self.refusals,
            limits=Limits(room.max_message_bytes, room.idle_timeout, room.message_timeout),
        )
        self.plain = make(room.host, room.port)
        self.secure = None
        if room.tls_port:
            tls = follow_files(foundation, "mllp.tls_certificate", room)
            self.secure = make(room.host, room.tls_port, tls=tls)
        self._host, self._open = room.host, ExitStack()

    def start(self) -> None:
        """Listen. Raises OSError when a port is taken or a TLS file cannot be used; nothing listens then."""
        with ExitStack() as opening:
            self.refusals.start()
            opening.callback(self.refusals.stop)  # after the doors: it still has to tell of theirs
            for door in filter(None, (self.plain, self.secure)):
                door.start()
                opening.callback(door.stop)
                log.info("mllp_listening", door=door.name, host=self._host, port=door.port)
            self._open = opening.pop_all()

    @property
    def ports(self) -> list[int]:
        """The ports that are listened on."""
        return [door.port for door in (self.plain, self.secure) if door is not None]

    def stop(self) -> None:
        """Stop both doors, then tell what is still to be told."""
        self._open.close()

    def __enter__(self) -> Hl7Doors:
        self.start()
        return self

    def __exit__(self, *_failure: object) -> None:
        self.stop()


def serve_hl7(foundation: Foundation) -> None:
    """Serve until SIGTERM, SIGINT or the death of the supervisor; SIGHUP renews the credentials."""
    stop = StopSignal(Renewal(foundation).run)
    stop.catch()
    with Hl7Doors(foundation) as doors:
        wait_for_stop(stop, foundation.settings.mllp.host, doors.ports)


def _handler(foundation: Foundation) -> Handler:
    reception, meter = make_reception(foundation), ReportMeter(foundation.meters)

    def handle(message: bytes, peer: Peer) -> bytes | None:
        started = perf_counter()
        arrival = Arrival(message, peer.door, peer.address, utc_now(), senders=peer.senders)
        try:
            answer = reception.message(arrival)
        except Exception as error:  # noqa: BLE001 a defect of ours: no frame stays without an answer
            log.error("message_failed", door=peer.door, peer=peer.address, reason=origin(error))  # noqa: TRY400
            answer = reception.not_now(arrival)
        verdict, seconds = verdict_of(answer), perf_counter() - started
        meter.answered(peer.door, verdict, len(message), seconds)
        log.info(
            "message_answered",
            door=peer.door,
            peer=peer.address,
            bytes=len(message),
            outcome=verdict,
            seconds=round(seconds, 4),
        )
        return answer

    return handle


def _count_refused(foundation: Foundation, door: str) -> None:
    foundation.meters.tally(measures.PEERS_REFUSED, door).add()


def _trace(foundation: Foundation, refusal: Refusal) -> None:
    trace_refused_peer(
        foundation.transactions,
        refusal.door,
        refusal.address,
        refusal.reason,
        now=utc_now(),
        log=log.error,
        repeated=refusal.repeated,
    )
