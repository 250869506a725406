"""STOW-RS of the internal door, bound to the intake of the product: the same calls, rows and refusals as C-STORE."""

from __future__ import annotations

import structlog

from dicom_store.asgi import HttpRequest, Receive
from dicom_store.instance import InstanceHeader
from dicom_store.resources import Resource
from dicom_store.status import Outcome, StoreRefused
from dicom_store.stow_rs import StowRs
from dicom_store.transmit import Transfer
from drimbox.bootstrap import Foundation, utc_now
from drimbox.entrypoints.intake import InstanceIntake
from drimbox.flow.refuse_peer import trace_refused_peer

log = structlog.get_logger(__name__)


class RequestIntake(InstanceIntake):
    """What one request stores into. `study`: the only one that it may bring, None = any."""

    def __init__(self, foundation: Foundation, account: str, address: str, study: str | None) -> None:
        super().__init__(foundation, f"stow:{account}@{address}")
        self._wanted = study
        self._transactions = foundation.transactions
        self._who = f"{account}@{address}"

    def admit(self, header: InstanceHeader) -> None:
        """PS3.18 10.5.1: a request to a study takes no other. Raises `StoreRefused`."""
        if self._wanted not in (None, header.StudyInstanceUID):
            raise StoreRefused(Outcome.UID_MISMATCH, "StudyInstanceUID is not that of the request")

    def broken(self, reason: str) -> None:
        """The request ended before it was whole."""
        log.warning("store_request_broken", peer=self._who, reason=reason)
        trace_refused_peer(self._transactions, "stow", self._who, reason, now=utc_now(), log=log.error)


class DicomWebStore:
    """Answers POST on `studies` and on a study. One object per process."""

    def __init__(self, foundation: Foundation) -> None:
        settings = foundation.settings
        self._foundation = foundation
        self._stow = StowRs(
            max_instance_bytes=settings.dicom.max_instance_bytes,
            stall=settings.web.stall_timeout,
        )

    async def answer(
        self, request: HttpRequest, resource: Resource, receive: Receive, account: str, base_url: str
    ) -> Transfer:
        """Store for an account that may. `base_url`: of the door, absolute. Raises `HttpRefusal`."""
        intake = RequestIntake(self._foundation, account, request.client, resource.study)
        return await self._stow.answer(request, receive, intake, base_url)

    def close(self) -> None:
        """Wait for what is being stored."""
        self._stow.close()
