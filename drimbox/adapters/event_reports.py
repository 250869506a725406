"""Answers to storage commitment on associations of ours: N-EVENT-REPORT to the address of who asked (PS3.4 J.3.3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dicom_store import commitment
from dicom_store.commitment import CommitmentResult
from dicom_store.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from drimbox.flow.commit_storage import NotDelivered


@dataclass(frozen=True, slots=True)
class EventReports:
    """Opens one association for each answer. `timeout`: seconds to connect, for the peer's acceptance and answer."""

    ae_title: str
    timeout: float = 30.0

    def deliver(self, address: tuple[str, int], ae_title: str, result: CommitmentResult) -> None:
        """Report to the AE at (host, port). Raises `NotDelivered` unless it answers success."""
        association = self._associate(address, ae_title)
        try:
            status = self._report(association, result)
        finally:
            if association.is_established:
                association.release()
            association.join(self.timeout)
        if status is None:
            raise NotDelivered("the peer did not answer the N-EVENT-REPORT")
        if status != 0:
            raise NotDelivered(f"the peer answered the N-EVENT-REPORT with {status:04X}")

    def _associate(self, address: tuple[str, int], ae_title: str) -> Any:
        from pynetdicom import AE, build_role  # much, and seldom needed: not for every command

        entity = AE(self.ae_title)
        entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
        entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
        entity.connection_timeout = entity.acse_timeout = self.timeout
        entity.dimse_timeout = entity.network_timeout = self.timeout
        entity.add_requested_context(commitment.SOP_CLASS, list(commitment.TRANSFER_SYNTAXES))
        # we open it, and are the SCP all the same (PS3.4 J.3.4, PS3.7 D.3.3.4)
        role = build_role(commitment.SOP_CLASS, scp_role=True)
        association = entity.associate(*address, ae_title=ae_title, ext_neg=[role])
        if association.is_established:
            return association
        if association.is_rejected:
            raise NotDelivered("the peer rejected the association")
        raise NotDelivered("no association with the peer")

    def _report(self, association: Any, result: CommitmentResult) -> int | None:
        """The status that the peer answered; None without an answer."""
        information = result.event_information(self.ae_title)
        try:
            status, _ = association.send_n_event_report(
                information, result.event_type, commitment.SOP_CLASS, commitment.SOP_INSTANCE
            )
        except ValueError as error:
            raise NotDelivered("the peer takes no reports of Storage Commitment") from error
        except RuntimeError as error:
            raise NotDelivered("the association ended before the report") from error
        return None if "Status" not in status else int(status.Status)
