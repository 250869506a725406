"""Where the data set of a message goes while it comes, in constant memory: to a sink, to a service, or nowhere."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from dicom_store.admission import Context, Room
from dicom_store.command_set import DATA_SET, RESPONSE, Status, response
from dicom_store.failure import log_failure
from dicom_store.receive_loop import Wire
from dicom_store.sink import Association, Peer, Service
from dicom_store.status import ANSWERS
from dicom_store.store_operation import StoreOperation
from dicom_store.upper_layer import Abort

log = logging.getLogger(__name__)

PIECE_BYTES = 1024 * 1024
EARLY_BYTES = 16 * 1024  # of the first piece: enough for a header, so that it is read while the pixels come
PDU_BYTES = 96 * 1024  # of the following ones: hashed while the next PDU comes
SERVICE_BYTES = 8 * 1024 * 1024  # of the data set of a rare service: 50,000 references of 64 characters


@dataclass(frozen=True, slots=True)
class Reply:
    """What is answered. `refused`: to be told to `on_refused` once it is sent."""

    command: Mapping[str, Any]
    data_set: bytes | None = None
    refused: str = ""


class Intake(Protocol):
    """Takes the data set of one message, fragment by fragment."""

    def receive(self, wire: Wire, size: int) -> None:
        """Read a fragment of `size` bytes. Raises `Abort` when it is too much, and what `wire` raises."""

    def pdu_ended(self) -> None:
        """The PDU at hand has no more."""

    def finish(self) -> Reply | None:
        """The message is whole: what to answer, None = nothing."""

    def abandon(self) -> None:
        """The message will never be whole."""


class Bounded:
    """Counts what came. `maximum`: bytes of a data set."""

    def __init__(self, maximum: int) -> None:
        self._left = maximum

    def count(self, size: int) -> None:
        """`size` bytes more. Raises `Abort`."""
        self._left -= size
        if self._left < 0:
            raise Abort("a message longer than allowed")


class StoreIntake:
    """C-STORE: pieces to the sink, early and then whenever `piece`, the buffer, is full."""

    def __init__(
        self, request: Mapping[str, Any], operation: StoreOperation, piece: memoryview, maximum: int
    ) -> None:
        self._request = request
        self._operation = operation
        self._bound = Bounded(maximum)
        self._piece = piece
        self._filled = 0
        self._begun = False

    def receive(self, wire: Wire, size: int) -> None:
        """Read into the buffer; nothing is kept any more once the instance is refused."""
        self._bound.count(size)
        while size:
            if self._operation.refused:
                return wire.skip(size)
            end = min(self._filled + size, len(self._piece))
            wire.into(self._piece[self._filled : end])
            size -= end - self._filled
            self._filled = end
            if end == len(self._piece):
                self._hand_over()
                wire.again()
        return None

    def pdu_ended(self) -> None:
        """Hand over what there is, the first piece early."""
        if self._filled >= (PDU_BYTES if self._begun else EARLY_BYTES):
            self._hand_over()

    def _hand_over(self) -> None:
        self._begun = True
        self._operation.more(self._piece[: self._filled])
        self._filled = 0

    def finish(self) -> Reply:
        """The outcome as status, with the reason as ErrorComment."""
        if self._filled:
            self._hand_over()
        outcome, reason = self._operation.complete()
        return Reply(response(self._request, ANSWERS[outcome].dimse, reason))

    def abandon(self) -> None:
        """Nothing of the instance remains."""
        self._operation.abandon()


class Skipping:
    """Nobody wants this data set: `reply` follows it, None = nothing does."""

    def __init__(self, reply: Reply | None, maximum: int) -> None:
        self._reply = reply
        self._bound = Bounded(maximum)

    def receive(self, wire: Wire, size: int) -> None:
        """Read and forget."""
        self._bound.count(size)
        wire.skip(size)

    def pdu_ended(self) -> None:
        """Nothing is held."""

    def finish(self) -> Reply | None:
        """The reply that was known from the start."""
        return self._reply

    def abandon(self) -> None:
        """Nothing was kept."""


class ServiceIntake:
    """A rare service: its data set in memory, bounded; then its own answer.

    `room`: what those of all associations share; without any left, 0x0213 is answered (PS3.7 C.5).
    """

    def __init__(
        self,
        request: Mapping[str, Any],
        context: Context,
        service: Service,
        peer: Peer,
        association: Association,
        room: Room,
    ) -> None:
        self._request = request
        self._context = context
        self._service = service
        self._peer = peer
        self._association = association
        self._bound = Bounded(SERVICE_BYTES)
        self._room = room
        self._held = 0
        self._crowded = False
        self._data_set = bytearray()

    def receive(self, wire: Wire, size: int) -> None:
        """Read into memory, while there is room."""
        self._bound.count(size)
        self._crowded = self._crowded or not self._room.take(size)
        if self._crowded:
            self._let_go()
            return wire.skip(size)
        self._held += size
        self._data_set += wire.take(size)
        return None

    def pdu_ended(self) -> None:
        """Only the whole is handed over."""

    def finish(self) -> Reply:
        """What the service answers; a failure of it is answered and logged."""
        if self._crowded:
            return Reply(response(self._request, Status.RESOURCE_LIMITATION))
        try:
            return answer_of(
                self._service, self._request, bytes(self._data_set), self._context.transfer_syntax, self._peer,
                self._association,
            )  # fmt: skip
        finally:
            self._let_go()

    def abandon(self) -> None:
        """The service was told nothing."""
        self._let_go()

    def _let_go(self) -> None:
        self._room.give_back(self._held)
        self._held, self._data_set = 0, bytearray()


def answer_of(
    service: Service,
    request: Mapping[str, Any],
    data_set: bytes,
    transfer_syntax: str,
    peer: Peer,
    association: Association,
) -> Reply:
    """Ask a service. Whatever it raises is answered 0x0110 (PS3.7 C.5.19) and logged without its text."""
    try:
        answer = service.handle(request, data_set, transfer_syntax, peer, association)
    except Exception as error:  # noqa: BLE001 - the door: an answer to the peer and a log, never silence
        log_failure(log, "a service failed", error, action="service_failed")
        return Reply(response(request, Status.PROCESSING_FAILURE))
    frame = {
        "CommandField": request["CommandField"] | RESPONSE,
        "MessageIDBeingRespondedTo": request["MessageID"],
        "Status": answer.status,
    }
    if answer.data_set is not None:
        frame["CommandDataSetType"] = DATA_SET
        return Reply({**answer.elements, **frame}, answer.data_set)
    return Reply({**response(request, answer.status), **answer.elements, **frame})
