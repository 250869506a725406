"""The intake of instances that the DICOM door and STOW-RS share: one call of `receive_instance` for each."""

from __future__ import annotations

import structlog

from dicom_store.archive import ImageWriter
from dicom_store.instance import InstanceHeader
from dicom_store.paths import InvalidUID, check_uid
from dicom_store.scanner import Buffer
from dicom_store.status import Outcome, StoreRefused
from drimbox.bootstrap import Foundation, utc_now
from drimbox.domain.errors import Unavailable
from drimbox.flow.receive_instance import receive_instance, refuse_instance

log = structlog.get_logger(__name__)


class InstanceIntake:
    """What one association or one request stores into: its own segments. Not for several threads at a time."""

    def __init__(self, foundation: Foundation, actor: str) -> None:
        self._foundation = foundation
        self._actor = actor
        self._writer: ImageWriter = foundation.archive.writer()

    def keep(self, header: InstanceHeader, data_set: Buffer) -> Outcome:
        """Keep one instance durably. Raises `StoreRefused` with the outcome to answer, traced."""
        study = header.StudyInstanceUID
        try:
            outcome = receive_instance(
                self._foundation.transactions,
                self._writer,
                header,
                data_set,
                note=self._foundation.archive.note_of(header, data_set),
                digest=self._foundation.archive.digest(data_set),
                now=utc_now(),
                actor=self._actor,
                settle_after=self._foundation.settings.policy.settle_after,
            )
        except StoreRefused as refusal:
            self.refused(refusal, header.SOPInstanceUID, study)
            raise
        except (Unavailable, OSError) as error:
            log.exception("instance_not_stored", study=study, reason=str(error))
            raise StoreRefused(
                Outcome.OUT_OF_RESOURCES, "the appliance cannot store now: try again"
            ) from error
        log.info("instance_received", study=study, outcome=str(outcome), peer=self._actor)
        return outcome

    def refused(self, refusal: StoreRefused, sop: str, study: str | None = None) -> None:
        """Log and trace what is not kept. `sop`: as said by the sender, whatever it is."""
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

    def close(self) -> None:
        """No more instances: the segments are complete."""
        self._writer.close()


def _safe(uid: str) -> str:
    try:
        return check_uid(uid)
    except InvalidUID:
        return "(not a UID)"


def recover(foundation: Foundation) -> None:
    """Settle what dead processes left of segments: bytes without a row are dropped, and said."""
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
