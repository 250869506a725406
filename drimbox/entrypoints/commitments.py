"""Storage commitment at the DICOM door and in the worker: a request becomes one call of `CommittingStorage`."""

from __future__ import annotations

import queue
import random
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog

from dicom_store import commitment
from dicom_store.commitment import CommitmentResult, RequestRefused, Status, read_request
from dicom_store.segment_care import SegmentCare
from dicom_store.sink import Association, Peer, ServiceAnswer
from dicom_store.verification import Pace, Verifier
from drimbox.adapters.event_reports import EventReports
from drimbox.bootstrap import Foundation, new_id, node_name, utc_now
from drimbox.domain.errors import Unavailable
from drimbox.domain.retry import RetryPolicy
from drimbox.flow.commit_storage import CommittingStorage, SameAssociation

log = structlog.get_logger(__name__)

RETRY = RetryPolicy(30, 600)  # seconds
WAITING = 1000  # requests that wait for their turn in this process; the worker takes up the others


def make_care(foundation: Foundation) -> SegmentCare:
    """The segment files of this appliance, for those who look after them."""
    storage = foundation.settings.storage
    return SegmentCare(storage.root / "images", storage.minimum_free_bytes)


def make_committing(
    foundation: Foundation, peers: Mapping[str, tuple[str, int]], actor: str
) -> CommittingStorage:
    """What answers storage commitment. `peers`: host and port of an AE title, for answers on associations of ours."""
    logger = structlog.get_logger("drimbox.flow.commit_storage")
    return CommittingStorage(
        foundation.transactions,
        Verifier(make_care(foundation), Pace(0)),
        EventReports(foundation.settings.dicom.ae_title),
        peers,
        RETRY,
        actor,
        random.random,
        utc_now,
        new_id,
        logger.info,
        logger.error,
    )


def make_door_committing(foundation: Foundation) -> CommittingStorage:
    """For the DICOM doors."""
    return make_committing(foundation, _places(foundation), f"dicom:{foundation.settings.dicom.ae_title}")


def make_worker_committing(foundation: Foundation) -> CommittingStorage:
    """For the worker, which takes up what the doors did not answer."""
    return make_committing(foundation, _places(foundation), f"worker:{node_name(foundation.settings)}")


def _places(foundation: Foundation) -> dict[str, tuple[str, int]]:
    return {peer.ae_title: (peer.host, peer.port) for peer in foundation.settings.dicom.peers}


@dataclass(frozen=True, slots=True)
class _Turn:
    """A request of this process that waits to be answered, held until then by the row's due time."""

    commitment_id: str
    held: datetime
    same: SameAssociation


class CommitmentDesk:
    """The service of the DICOM door: keeps requests, and answers them one after the other in a thread of its own.

    What it cannot answer (it is stopped, too many wait) the worker takes up when its time has come.
    """

    def __init__(self, committing: CommittingStorage, ae_title: str) -> None:
        self._committing = committing
        self._ae_title = ae_title
        self._turns: queue.Queue[_Turn | None] = queue.Queue(WAITING)
        self._thread = threading.Thread(target=self._work, name="commitment-desk", daemon=True)
        self._stopping = False

    def start(self) -> None:
        """Answer requests from now on."""
        self._thread.start()

    def stop(self, grace: float = 10.0) -> None:
        """Answer no more after the one at hand, which gets `grace` seconds."""
        self._stopping = True
        try:
            self._turns.put_nowait(None)
        except queue.Full:
            log.info("commitments_left_to_the_worker", count=self._turns.qsize())
        if self._thread.is_alive():  # it never began when a door could not be opened
            self._thread.join(grace)

    def handle(
        self,
        command: Mapping[str, Any],
        data_set: bytes,
        transfer_syntax: str,
        peer: Peer,
        association: Association,
    ) -> ServiceAnswer:
        """N-ACTION: success once the request is kept durably; the result follows by N-EVENT-REPORT."""
        try:
            request = read_request(command, data_set, transfer_syntax)
            row, held = self._committing.receive(request, peer.ae_title, peer.address)
        except RequestRefused as refusal:
            log.warning(
                "commitment_refused",
                peer=peer.ae_title,
                status=f"{refusal.status:04X}",
                reason=refusal.reason,
            )
            return _answer(refusal.status, refusal.reason)
        except Unavailable as error:
            log.error("commitment_not_kept", peer=peer.ae_title, reason=str(error))  # noqa: TRY400 expected
            return _answer(Status.RESOURCE_LIMITATION, "the appliance cannot keep the request now")
        same = self._same_association(association, transfer_syntax)
        try:
            self._turns.put_nowait(_Turn(row, held, same))
        except queue.Full:
            log.warning("commitment_left_to_the_worker", peer=peer.ae_title)
        return _answer(Status.SUCCESS)

    def _same_association(
        self, association: Association, transfer_syntax: str
    ) -> Callable[[CommitmentResult], bool]:
        def report(result: CommitmentResult) -> bool:
            information = commitment.encode(result.event_information(self._ae_title), transfer_syntax)
            return association.report(
                commitment.SOP_CLASS, commitment.SOP_INSTANCE, result.event_type, information
            )

        return report

    def _work(self) -> None:
        while not self._stopping:
            turn = self._turns.get()
            if turn is None:
                return
            try:
                self._committing.run(turn.commitment_id, turn.held, turn.same)
            except Unavailable as error:
                log.error("commitment_postponed", reason=str(error))  # noqa: TRY400 expected; the row is still due
            except Exception:  # the desk goes on: the worker takes this one up when its time has come
                log.exception("commitment_failed")


def _answer(status: Status, comment: str = "") -> ServiceAnswer:
    elements: dict[str, Any] = {
        "AffectedSOPClassUID": commitment.SOP_CLASS,
        "AffectedSOPInstanceUID": commitment.SOP_INSTANCE,
    }
    if comment:
        elements["ErrorComment"] = comment[:64]  # LO, PS3.7 C.4.2
    return ServiceAnswer(int(status), elements)
