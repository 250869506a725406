"""`drimbox dicom`: the DICOM door. Translates one C-STORE to one `receive_instance`."""

from __future__ import annotations

import structlog

from dicom_store.conversation import Peer, StoreRequest
from dicom_store.header import read_header
from dicom_store.scp import DicomDoor
from dicom_store.status import Outcome, StoreRefused
from drimbox.bootstrap import Foundation, utc_now
from drimbox.entrypoints.intake import InstanceIntake, recover
from drimbox.entrypoints.waiting import wait_for_stop
from drimbox.flow.refuse_peer import trace_refused_peer

log = structlog.get_logger(__name__)


class AssociationSink:
    """What one association stores into."""

    def __init__(self, foundation: Foundation, peer: Peer) -> None:
        self._intake = InstanceIntake(foundation, f"pacs:{peer.ae_title}@{peer.address}")

    def store(self, request: StoreRequest) -> Outcome:
        """Keep one instance durably. Raises `StoreRefused` with the outcome to answer."""
        try:
            header = read_header(
                request.data_set, request.transfer_syntax, request.sop_class_uid, request.sop_instance_uid
            )
        except StoreRefused as refusal:
            self._intake.refused(refusal, request.sop_instance_uid)
            raise
        return self._intake.keep(header, request.data_set)

    def close(self) -> None:
        """The association ended: its segments are complete."""
        self._intake.close()


def open_dicom_door(foundation: Foundation) -> DicomDoor:
    """The door, not started: bytes without a row left by a crash are dropped first."""
    recover(foundation)
    room = foundation.settings.dicom

    def on_refused(peer: Peer, reason: str) -> None:
        who = f"{peer.ae_title}@{peer.address}"
        trace_refused_peer(foundation.transactions, "dicom", who, reason, now=utc_now(), log=log.error)

    return DicomDoor(
        room.host,
        room.port,
        room.ae_title,
        room.calling_ae_titles,
        max_associations=room.max_associations,
        idle_timeout=room.idle_timeout,
        max_instance_bytes=room.max_instance_bytes,
        open_sink=lambda peer: AssociationSink(foundation, peer),
        on_refused=on_refused,
    )


def serve_dicom(foundation: Foundation) -> None:
    """Serve until SIGTERM, SIGINT or the death of the supervisor."""
    door = open_dicom_door(foundation)
    door.start()
    log.info("dicom_listening", host=foundation.settings.dicom.host, port=foundation.settings.dicom.port)
    wait_for_stop()
    door.stop()
