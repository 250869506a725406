"""`drimbox dicom`: the DICOM doors. Instances go to an `InstanceIntake` for each association."""

from __future__ import annotations

import ssl
from contextlib import ExitStack

import structlog

from dicom_store import commitment
from dicom_store.scp import DicomDoor
from dicom_store.sink import Peer, Service
from drimbox.bootstrap import Foundation, utc_now
from drimbox.entrypoints.commitments import CommitmentDesk, make_door_committing
from drimbox.entrypoints.intake import InstanceIntake, recover
from drimbox.entrypoints.mllp_tls import server_context
from drimbox.entrypoints.waiting import wait_for_stop
from drimbox.flow.refuse_peer import trace_refused_peer
from drimbox.settings import DicomSettings

log = structlog.get_logger(__name__)


def open_dicom_doors(foundation: Foundation, desk: Service) -> list[DicomDoor]:
    """The doors, not started: in clear, and over TLS where it has a port. `desk`: of storage commitment.

    Bytes without a row left by a crash are dropped first.
    """
    recover(foundation)
    room = foundation.settings.dicom

    def on_refused(peer: Peer, reason: str) -> None:
        who = f"{peer.ae_title}@{peer.address}"
        trace_refused_peer(foundation.transactions, "dicom", who, reason, now=utc_now(), log=log.error)

    def door(port: int, secured: bool) -> DicomDoor:
        return DicomDoor(
            room.host,
            port,
            room.ae_title,
            room.calling_ae_titles,
            max_associations=room.max_associations,
            max_associations_per_address=room.max_associations_per_address,
            idle_timeout=room.idle_timeout,
            max_instance_bytes=room.max_instance_bytes,
            open_sink=lambda peer: InstanceIntake(foundation, f"pacs:{peer.ae_title}@{peer.address}"),
            on_refused=on_refused,
            services={commitment.SOP_CLASS: desk},
            tls=(lambda: _context(room)) if secured else None,
        )

    return [door(room.port, False), *([door(room.tls_port, True)] if room.tls_port else [])]


def _context(room: DicomSettings) -> ssl.SSLContext:
    certificate, key, authority = room.tls_certificate, room.tls_key, room.tls_client_authority
    assert certificate and key and authority  # the settings demand them with a tls_port
    return server_context(certificate, key, authority)


def serve_dicom(foundation: Foundation) -> None:
    """Serve until SIGTERM, SIGINT or the death of the supervisor. Raises `OSError` for a port that is taken."""
    desk = CommitmentDesk(make_door_committing(foundation), foundation.settings.dicom.ae_title)
    with ExitStack() as ending:
        ending.callback(desk.stop)
        for door in open_dicom_doors(foundation, desk):
            ending.callback(door.stop)
            door.start()
            log.info("dicom_listening", host=foundation.settings.dicom.host, port=door.port)
        desk.start()
        wait_for_stop()
