"""`drimbox dicom`: the DICOM doors. Instances go to an `InstanceIntake` for each association."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from functools import partial

import structlog

from dicom_store import commitment
from dicom_store.connections import Connections
from dicom_store.scp import DicomDoor, stop_doors
from dicom_store.sink import Peer, Service
from drimbox.bootstrap import Foundation, utc_now
from drimbox.domain import measures
from drimbox.entrypoints.commitments import CommitmentDesk, make_door_committing
from drimbox.entrypoints.image_senders import make_image_senders
from drimbox.entrypoints.intake import InstanceIntake, recover
from drimbox.entrypoints.listener_tls import follow_files
from drimbox.entrypoints.memory import keep_large_apart
from drimbox.entrypoints.mllp_refusals import Refusal, Refusals
from drimbox.entrypoints.renewal import Renewal
from drimbox.entrypoints.stop_signal import StopSignal
from drimbox.entrypoints.waiting import wait_for_stop
from drimbox.flow.refuse_peer import trace_refused_peer

log = structlog.get_logger(__name__)


def open_dicom_doors(foundation: Foundation, desk: Service, refusals: Refusals) -> list[DicomDoor]:
    """The doors, not started: in clear, and over TLS where it has a port. `desk`: of storage commitment.

    They share their limits. Bytes without a row left by a crash are dropped first.
    """
    recover(foundation)
    room = foundation.settings.dicom
    connections = Connections(room.max_associations, room.max_associations_per_address)

    foundation.meters.watch(measures.ASSOCIATIONS, lambda: connections.associated)
    turned_away = foundation.meters.tally(measures.PEERS_REFUSED, "dicom")

    def on_refused(peer: Peer, reason: str) -> None:
        turned_away.add()
        refusals.note("dicom", f"{peer.ae_title}@{peer.address}", reason)

    def door(port: int, secured: bool) -> DicomDoor:
        return DicomDoor(
            room.host,
            port,
            room.ae_title,
            room.calling_ae_titles,
            max_associations=room.max_associations,
            connections=connections,
            senders=make_image_senders(room),
            idle_timeout=room.idle_timeout,
            max_instance_bytes=room.max_instance_bytes,
            open_sink=lambda peer: InstanceIntake(foundation, f"pacs:{peer.ae_title}@{peer.address}"),
            on_refused=on_refused,
            services={commitment.SOP_CLASS: desk},
            tls=follow_files(foundation, "dicom.tls_certificate", room) if secured else None,
        )

    return [door(room.port, False), *([door(room.tls_port, True)] if room.tls_port else [])]


def _tell(foundation: Foundation, refusal: Refusal) -> None:
    trace_refused_peer(
        foundation.transactions,
        refusal.door,
        refusal.address,
        refusal.reason,
        now=utc_now(),
        log=log.error,
        repeated=refusal.repeated,
    )


def serve_dicom(foundation: Foundation) -> None:
    """Serve until SIGTERM, SIGINT or the death of the supervisor; SIGHUP renews the credentials.

    Raises `OSError` for a port that is taken, or TLS files that cannot be used; nothing is served then.
    """
    keep_large_apart()  # two for each association
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)  # its words quote what peers send
    stop = StopSignal(Renewal(foundation).run)
    stop.catch()
    desk = CommitmentDesk(make_door_committing(foundation), foundation.settings.dicom.ae_title)
    with ExitStack() as ending:
        ending.callback(desk.stop)
        refusals = Refusals(partial(_tell, foundation), name="dicom")
        refusals.start()
        ending.callback(refusals.stop)  # after the doors: it still has to tell of theirs
        doors = open_dicom_doors(foundation, desk, refusals)
        ending.callback(stop_doors, doors)
        for door in doors:
            door.start()
            log.info("dicom_listening", host=foundation.settings.dicom.host, port=door.port)
        desk.start()
        wait_for_stop(stop, foundation.settings.dicom.host, [door.port for door in doors])
