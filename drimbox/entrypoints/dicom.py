"""`drimbox dicom`: the DICOM door. Translates one C-STORE to one `receive_instance`."""

from __future__ import annotations

import structlog

from dicom_store.archive import ImageWriter
from dicom_store.conversation import Peer, StoreRequest
from dicom_store.header import read_header
from dicom_store.paths import InvalidUID, check_uid
from dicom_store.scp import DicomDoor
from dicom_store.status import Outcome, StoreRefused
from drimbox.bootstrap import Foundation, utc_now
from drimbox.domain.errors import Unavailable
from drimbox.entrypoints.waiting import wait_for_stop
from drimbox.flow.receive_instance import receive_instance, refuse_instance
from drimbox.flow.refuse_peer import trace_refused_peer

log = structlog.get_logger(__name__)


class AssociationSink:
    """What one association stores into: its own segments."""

    def __init__(self, foundation: Foundation, peer: Peer) -> None:
        self._foundation = foundation
        self._actor = f"pacs:{peer.ae_title}@{peer.address}"
        self._writer: ImageWriter = foundation.archive.writer()

    def store(self, request: StoreRequest) -> Outcome:
        """Keep one instance durably. Raises `StoreRefused` with the outcome to answer."""
        study = None
        try:
            header = read_header(
                request.data_set, request.transfer_syntax, request.sop_class_uid, request.sop_instance_uid
            )
            study = header.StudyInstanceUID
            outcome = receive_instance(
                self._foundation.transactions,
                self._writer,
                header,
                request.data_set,
                note=self._foundation.archive.note_of(header, request.data_set),
                digest=self._foundation.archive.digest(request.data_set),
                now=utc_now(),
                actor=self._actor,
                settle_after=self._foundation.settings.policy.settle_after,
            )
        except StoreRefused as refusal:
            self._trace(refusal, study, request.sop_instance_uid)
            raise
        except (Unavailable, OSError) as error:
            log.exception("instance_not_stored", study=study, reason=str(error))
            raise StoreRefused(
                Outcome.OUT_OF_RESOURCES, "the appliance cannot store now: try again"
            ) from error
        log.info("instance_received", study=study, outcome=str(outcome), peer=self._actor)
        return outcome

    def close(self) -> None:
        """The association ended: its segments are complete."""
        self._writer.close()

    def _trace(self, refusal: StoreRefused, study: str | None, sop: str) -> None:
        log.warning("instance_refused", study=study, outcome=str(refusal.outcome), reason=refusal.reason)
        try:
            refuse_instance(
                self._foundation.transactions,
                refusal,
                study=study,
                sop=_safe(sop),
                now=utc_now(),
                actor=self._actor,
            )
        except Unavailable as error:
            log.exception("refusal_not_traced", study=study, reason=str(error))


def _safe(uid: str) -> str:
    try:
        return check_uid(uid)
    except InvalidUID:
        return "(not a UID)"


def open_dicom_door(foundation: Foundation) -> DicomDoor:
    """The door, not started: bytes without a row left by a crash are dropped first."""
    _recover(foundation)
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


def _recover(foundation: Foundation) -> None:
    with foundation.database.reading() as session:
        for recovered in foundation.archive.recover(session):
            say = log.error if recovered.damaged else log.warning
            say(
                "segment_damaged" if recovered.damaged else "segment_recovered",
                segment=recovered.segment,
                bytes=recovered.dropped_bytes,
                count=recovered.dropped_records,
                reason=recovered.damaged or None,
            )


def serve_dicom(foundation: Foundation) -> None:
    """Serve until SIGTERM, SIGINT or the death of the supervisor."""
    door = open_dicom_door(foundation)
    door.start()
    log.info("dicom_listening", host=foundation.settings.dicom.host, port=foundation.settings.dicom.port)
    wait_for_stop()
    door.stop()
