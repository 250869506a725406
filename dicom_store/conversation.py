"""One association of the DICOM door by pynetdicom: its events become calls of a `Sink`.

The reference of our own engine. It holds a data set in memory until it is whole.
"""

from __future__ import annotations

import logging
import uuid
from typing import Any

from pydicom.dataset import Dataset
from pynetdicom import evt
from pynetdicom.dimse_messages import C_STORE_RQ
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.pdu import P_DATA_TF

from dicom_store.admission import Rejection, Terms, prefer_explicit
from dicom_store.command_set import COMMAND_BYTES, NO_DATA_SET, CommandField, Status, error_comment
from dicom_store.connections import Connections, Place
from dicom_store.failure import log_failure
from dicom_store.reference_services import action_handler
from dicom_store.sink import Peer, Sink, StoreCommand
from dicom_store.status import ANSWERS, Outcome
from dicom_store.store_operation import StoreOperation, missing_from

log = logging.getLogger(__name__)

_ANSWERED = frozenset(CommandField) - {CommandField.C_CANCEL}  # requests that get a response


class Conversation:
    """One association: its peer, its sink, and the bound on what it may make us hold.

    `on_pdu`, `on_message` and `on_close` run in pynetdicom's reading thread, the others in the association's.
    """

    def __init__(
        self,
        association: Any,
        terms: Terms,
        place: Place,
        connections: Connections,
        certificate_sha256: str | None = None,
    ) -> None:
        self._association = association
        self._terms = terms
        self._place = place
        self._connections = connections
        self._certificate = certificate_sha256
        self._max_bytes = terms.max_instance_bytes + COMMAND_BYTES
        self._received = 0  # bytes of the message being received
        self._unanswered = False  # a request is complete and has no answer yet
        self._sink: Sink | None = None
        self._id = uuid.uuid4().hex
        place.stop = association.abort
        handlers = {
            evt.EVT_REQUESTED: self.on_requested,
            evt.EVT_PDU_RECV: self.on_pdu,
            evt.EVT_DIMSE_RECV: self.on_message,
            evt.EVT_C_ECHO: self.on_echo,
            evt.EVT_C_STORE: self.on_store,
            evt.EVT_N_ACTION: self.on_action,
            evt.EVT_ACCEPTED: self.on_change,
            evt.EVT_REJECTED: self.on_rejected,
            evt.EVT_RELEASED: self.on_change,
            evt.EVT_ABORTED: self.on_change,
            evt.EVT_CONN_CLOSE: self.on_close,
        }
        for event, handler in handlers.items():
            association.bind(event, handler)

    @property
    def peer(self) -> Peer:
        """Known once the association is requested."""
        requestor = self._association.requestor
        return Peer(str(requestor.ae_title).strip(), str(requestor.address), self._id, self._certificate)

    def close(self, bytes_read: int) -> None:
        """The connection is over after `bytes_read`: close the sink, say what was cut short."""
        if self._sink is not None:
            self._sink.close()
        if self._association.requestor.primitive is None and bytes_read:
            self._terms.on_refused(self.peer, "not DICOM: no association was requested")
        elif self._received:
            self._terms.on_refused(self.peer, "the connection ended within a message")

    def on_requested(self, _event: Any) -> None:
        """Before pynetdicom negotiates, which is told to let everybody in: who asks, and the places that there are."""
        try:
            rejection = self._judged(self._association.requestor.primitive)
            if rejection is not None:
                self._association.acse.send_reject(*rejection.code)
                self._rejected(rejection.said_of(self.peer))
                self._association.kill()
        except Exception as error:  # noqa: BLE001 - pynetdicom would log it, and let the peer in
            self._association.abort()
            log_failure(log, "an association failed", error, action="association_failed")
            self._terms.on_refused(self.peer, "association aborted: a failure of the appliance")

    def _judged(self, asked: Any) -> Rejection | None:
        """Also puts our preference of syntaxes into the request."""
        self._association.requestor.ae_title = asked.calling_ae_title
        rejection = self._terms.judge(1, str(asked.called_ae_title).strip(), self.peer)
        if rejection is not None:
            return rejection
        prefer_explicit(asked.presentation_context_definition_list)
        return self._connections.admit(self._place)

    def on_rejected(self, _event: Any) -> None:
        """pynetdicom rejected what our own rules admit."""
        self._rejected("it is not acceptable to pynetdicom")

    def _rejected(self, words: str) -> None:
        self._say(evt.EVT_REJECTED.description)
        self._terms.on_refused(self.peer, f"association rejected: {words}")

    def on_change(self, event: Any) -> None:
        """Log what becomes of the association."""
        self._say(event.event.description)

    def _say(self, what: str) -> None:
        """Those of this machine, which looks at its own health, quietly."""
        peer = self.peer
        level = logging.DEBUG if self._is_of_this_machine() else logging.INFO
        log.log(level, "%s: calling AE %s at %s", what, peer.ae_title, peer.address)

    def _is_of_this_machine(self) -> bool:
        """Whether it comes from the address that the door listens on, or by loopback."""
        association = self._association
        return association.requestor.address in ("127.0.0.1", "::1", association.acceptor.address)

    def on_close(self, _event: Any) -> None:
        """Wake an association that waits for a request which cannot come any more: it holds a place."""
        if self._association.requestor.primitive is None:
            self._association.dul.to_user_queue.put(None)

    def on_pdu(self, event: Any) -> None:
        """Abort who sends more than one instance may have, or sends on without waiting for the answer."""
        if not isinstance(event.pdu, P_DATA_TF):
            return
        self._received += len(event.pdu)
        if self._received > self._max_bytes:
            self._abort("a message longer than allowed")
        elif self._unanswered:
            # one operation at a time: no asynchronous window was negotiated (PS3.7 D.3.3.3)
            self._abort("a message before the answer to the last")

    def on_message(self, event: Any) -> None:
        """A message is complete. pynetdicom would leave an incomplete C-STORE-RQ without any answer."""
        self._received = 0
        command = event.message.command_set
        self._unanswered = command.CommandField in _ANSWERED
        if isinstance(event.message, C_STORE_RQ):
            said = {one: command.get(one) for one in ("AffectedSOPClassUID", "AffectedSOPInstanceUID")}
            missing = missing_from(said, command.CommandDataSetType != NO_DATA_SET)
            if missing:
                self._answer_incomplete(event.message, missing)

    def on_echo(self, _event: Any) -> int:
        """C-ECHO: success."""
        self._unanswered = False
        return 0x0000

    def on_store(self, event: Any) -> Dataset | int:
        """C-STORE: one operation of the sink; whatever happens, the peer gets a status."""
        if not self._terms.takes_storage(str(event.context.abstract_syntax)):
            self._unanswered = False
            return int(Status.SOP_CLASS_NOT_SUPPORTED)
        command = StoreCommand(
            sop_class_uid=str(event.request.AffectedSOPClassUID),
            sop_instance_uid=str(event.request.AffectedSOPInstanceUID),
            transfer_syntax=str(event.context.transfer_syntax),
            peer=self.peer,
        )
        operation = StoreOperation(self._opened, command)
        operation.more(event.request.DataSet.getbuffer())
        outcome, reason = operation.complete()
        self._unanswered = False
        return _status(ANSWERS[outcome].dimse, reason)

    def on_action(self, event: Any) -> tuple[Dataset | int, None]:
        """N-ACTION: the service of its SOP class answers."""
        answer = action_handler(self._terms.services, lambda: self.peer)(event)
        self._unanswered = False
        return answer

    def _opened(self) -> Sink:
        if self._sink is None:
            self._sink = self._terms.open_sink(self.peer)
        return self._sink

    def _answer_incomplete(self, message: Any, missing: str) -> None:
        answer = C_STORE()
        answer.MessageIDBeingRespondedTo = message.command_set.MessageID
        answer.Status = ANSWERS[Outcome.UID_MISSING].dimse
        answer.ErrorComment = error_comment(f"{missing} missing")
        self._association.dimse.send_msg(answer, message.context_id)
        self._unanswered = False
        self._terms.on_refused(self.peer, f"C-STORE without {missing}")

    def _abort(self, reason: str) -> None:
        log.warning("association aborted: %s, from %s", reason, self.peer.address)
        self._received = 0
        self._terms.on_refused(self.peer, f"association aborted: {reason}")
        self._association.abort()


def _status(code: int, reason: str) -> Dataset | int:
    if not reason:
        return code
    status = Dataset()
    status.Status = code
    status.ErrorComment = error_comment(reason)
    return status
