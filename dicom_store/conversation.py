"""One association of the DICOM door: what pynetdicom tells of it becomes calls of a `Sink` and statuses."""

from __future__ import annotations

import logging
import traceback
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from pydicom.dataset import Dataset
from pynetdicom import evt
from pynetdicom.dimse_messages import C_STORE_RQ
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.pdu import P_DATA_TF

from dicom_store.header import EXPLICIT_VR_BIG_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN
from dicom_store.status import ANSWERS, Outcome, StoreRefused

log = logging.getLogger(__name__)

COMMAND_BYTES = 64 * 1024  # of a command set, beside the data set
ERROR_COMMENT_CHARACTERS = 64  # LO, PS3.7 C.4.2
_NO_DATA_SET = 0x0101  # CommandDataSetType, PS3.7 E.1


@dataclass(frozen=True, slots=True)
class Peer:
    """Who speaks. `association`: unique to the association."""

    ae_title: str
    address: str
    association: str


@dataclass(frozen=True, slots=True)
class StoreRequest:
    """One C-STORE. `data_set`: bytes exactly as sent, valid during the call; the UIDs are the command's."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax: str
    data_set: memoryview
    peer: Peer


class Sink(Protocol):
    """Where the instances of one association go; called by one thread at a time."""

    def store(self, request: StoreRequest) -> Outcome:
        """Keep one instance; durable and committed when it returns. Raises `StoreRefused`."""

    def close(self) -> None:
        """The association has ended, by whatever way."""


class Conversation:
    """One association: its peer, its sink, and the bound on what it may make us hold.

    `on_pdu`, `on_message` and `on_close` run in pynetdicom's reading thread, the others in the association's.
    """

    def __init__(
        self,
        association: Any,
        open_sink: Callable[[Peer], Sink],
        on_refused: Callable[[Peer, str], None],
        max_instance_bytes: int,
    ) -> None:
        self._association = association
        self._open_sink = open_sink
        self._on_refused = on_refused
        self._max_bytes = max_instance_bytes + COMMAND_BYTES
        self._received = 0  # bytes of the message being received
        self._unanswered = False  # a request is complete and has no answer yet
        self._sink: Sink | None = None
        self._id = uuid.uuid4().hex
        handlers = {
            evt.EVT_REQUESTED: _prefer_explicit,
            evt.EVT_PDU_RECV: self.on_pdu,
            evt.EVT_DIMSE_RECV: self.on_message,
            evt.EVT_C_ECHO: self.on_echo,
            evt.EVT_C_STORE: self.on_store,
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
        return Peer(str(requestor.ae_title).strip(), str(requestor.address), self._id)

    def close(self, bytes_read: int) -> None:
        """The connection is over after `bytes_read`: close the sink, say what was cut short."""
        if self._sink is not None:
            self._sink.close()
        if self._association.requestor.primitive is None and bytes_read:
            self._on_refused(self.peer, "not DICOM: no association was requested")
        elif self._received:
            self._on_refused(self.peer, "the connection ended within a message")

    def on_rejected(self, event: Any) -> None:
        """A-ASSOCIATE-RJ was sent (PS3.8 9.3.4): say why."""
        self.on_change(event)
        entity, asked = self._association.ae, self._association.requestor.primitive
        if str(asked.called_ae_title).strip() != entity.ae_title:
            reason = "the called AE title is not ours"
        elif str(asked.calling_ae_title).strip() not in entity.require_calling_aet:
            reason = "the calling AE title is not known"
        else:
            reason = "too many associations, or an application context that is not DICOM's"
        self._on_refused(self.peer, f"association rejected: {reason}")

    def on_change(self, event: Any) -> None:
        """Log what becomes of the association; those of this machine, which looks at its own health, quietly."""
        peer = self.peer
        level = logging.DEBUG if self._is_of_this_machine() else logging.INFO
        log.log(level, "%s: calling AE %s at %s", event.event.description, peer.ae_title, peer.address)

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
        self._unanswered = True
        if isinstance(event.message, C_STORE_RQ):
            command = event.message.command_set
            wanted = ("AffectedSOPClassUID", "AffectedSOPInstanceUID")
            missing = [keyword for keyword in wanted if not command.get(keyword)]
            if command.CommandDataSetType == _NO_DATA_SET:
                missing.append("data set")
            if missing:
                self._answer_incomplete(event.message, f"{', '.join(missing)} missing")

    def on_echo(self, _event: Any) -> int:
        """C-ECHO: success."""
        self._unanswered = False
        return 0x0000

    def on_store(self, event: Any) -> Dataset | int:
        """C-STORE: one call of the sink; whatever happens, the peer gets a status."""
        try:
            outcome, reason = self._store(event), ""
        except StoreRefused as refusal:
            outcome, reason = refusal.outcome, refusal.reason
        except Exception as error:  # noqa: BLE001 - the door: an answer to the peer and a log, never silence
            # no message: it may quote the data set
            where = "".join(traceback.format_tb(error.__traceback__))
            log.error("C-STORE failed: %s\n%s", type(error).__name__, where)  # noqa: TRY400
            outcome, reason = Outcome.FAILED, "processing failure"
        finally:
            self._unanswered = False
        return _status(outcome, reason)

    def _store(self, event: Any) -> Outcome:
        peer = self.peer
        if self._sink is None:
            self._sink = self._open_sink(peer)
        request = StoreRequest(
            sop_class_uid=str(event.request.AffectedSOPClassUID),
            sop_instance_uid=str(event.request.AffectedSOPInstanceUID),
            transfer_syntax=str(event.context.transfer_syntax),
            data_set=event.request.DataSet.getbuffer(),
            peer=peer,
        )
        return self._sink.store(request)

    def _answer_incomplete(self, message: Any, reason: str) -> None:
        answer = C_STORE()
        answer.MessageIDBeingRespondedTo = message.command_set.MessageID
        answer.Status = ANSWERS[Outcome.UID_MISSING].dimse
        answer.ErrorComment = reason[:ERROR_COMMENT_CHARACTERS]
        self._association.dimse.send_msg(answer, message.context_id)
        self._unanswered = False
        self._on_refused(self.peer, f"C-STORE without {reason.removesuffix(' missing')}")

    def _abort(self, reason: str) -> None:
        log.warning("association aborted: %s, from %s", reason, self.peer.address)
        self._received = 0
        self._on_refused(self.peer, f"association aborted: {reason}")
        self._association.abort()


def _prefer_explicit(event: Any) -> None:
    """Put Explicit VR LE before Implicit VR LE and Explicit VR BE where a context proposes both.

    Neither of these two may be served by DICOMweb (PS3.18 8.7.3.5), so this saves a conversion later.
    """
    for context in event.assoc.requestor.primitive.presentation_context_definition_list:
        proposed = list(context.transfer_syntax)
        if (
            proposed[0] in (IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_BIG_ENDIAN)
            and EXPLICIT_VR_LITTLE_ENDIAN in proposed
        ):
            context.transfer_syntax = sorted(proposed, key=lambda uid: uid != EXPLICIT_VR_LITTLE_ENDIAN)


def _status(outcome: Outcome, reason: str) -> Dataset | int:
    code = ANSWERS[outcome].dimse
    if not reason:
        return code
    status = Dataset()
    status.Status = code
    status.ErrorComment = reason.encode("ascii", "replace").decode("ascii")[:ERROR_COMMENT_CHARACTERS]
    return status
