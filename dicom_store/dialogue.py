"""The DIMSE messages of one association (PS3.7 6.3, 9, 10; PS3.8 E): in fragments of any split, one at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dicom_store.admission import Agreement, Context, Terms
from dicom_store.command_set import (
    COMMAND_BYTES,
    RESPONSE,
    CommandField,
    CommandSetInvalid,
    Status,
    decode,
    encode,
    has_data_set,
    response,
)
from dicom_store.data_set_intake import PIECE_BYTES, Intake, Reply, ServiceIntake, Skipping, StoreIntake
from dicom_store.receive_loop import Wire
from dicom_store.reports import Asker, Reports
from dicom_store.sink import Peer, Sink, StoreCommand
from dicom_store.status import ANSWERS, Outcome
from dicom_store.store_operation import StoreOperation, missing_from
from dicom_store.upper_layer import (
    COMMAND,
    LAST,
    PDV_HEADER,
    Abort,
    PduType,
    invalid,
    message_pdus,
    unexpected,
)

EMPTY_FRAGMENTS = 64  # of a message; they cost time and say nothing


class Dialogue:
    """What is said on an association that was accepted. `wire`: its bytes."""

    def __init__(self, wire: Wire, agreement: Agreement, terms: Terms, peer: Peer) -> None:
        self._wire = wire
        self._agreement = agreement
        self._terms = terms
        self._peer = peer
        self._sink: Sink | None = None
        self._piece: memoryview | None = None
        contexts = agreement.contexts.values()
        served = any(one.abstract_syntax in terms.services for one in contexts)
        self._reports = Reports(terms.idle_timeout) if served else None
        self._reply: Reply | None = None
        self._replying = 0  # context of that reply
        self._serves: Mapping[int, Callable[[Context, Mapping[str, Any]], Intake]] = {
            CommandField.C_STORE: self._store,
            CommandField.C_ECHO: self._echo,
            CommandField.C_CANCEL: self._nothing,
            CommandField.N_EVENT_REPORT | RESPONSE: self._reported,
        }
        self._forget()

    def _forget(self) -> None:
        self._context: Context | None = None  # of the message that comes
        self._command = bytearray()
        self._intake: Intake | None = None
        self._empty = 0

    @property
    def within_message(self) -> bool:
        """Whether a message has begun and is not whole."""
        return self._context is not None

    def idle(self) -> None:
        """Between messages: send the reports that were asked, until the peer says something."""
        if self._reports is not None and not self.within_message:
            while self._wire.wait(self._reports.wake):
                for context_id, command, data_set in self._reports.due():
                    self._send(context_id, command, data_set)

    def data(self, length: int) -> None:
        """The `length` bytes of a P-DATA-TF. Raises `Abort`, and what the wire raises."""
        while length:
            if length < PDV_HEADER.size:
                raise invalid("a PDV that is cut")
            size, context_id, control = self._wire.pdv_header()
            size -= PDV_HEADER.size - 4
            length -= PDV_HEADER.size + size
            if size < 0 or length < 0:
                raise invalid("a PDV of a length that its PDU does not have")
            self._fragment(context_id, control, size)
        if self._intake is not None:
            self._intake.pdu_ended()
        if self._reply is not None:
            self._answer(self._reply)

    def close(self) -> None:
        """The association has ended, by whatever way."""
        try:
            if self._intake is not None:
                self._intake.abandon()
        finally:
            self._forget()
            self._piece = None  # a megabyte, which would wait for the next collection of cycles
            if self._reports is not None:
                self._reports.close()
            if self._sink is not None:
                self._sink.close()

    def _fragment(self, context_id: int, control: int, size: int) -> None:
        context = self._agreement.contexts.get(context_id)
        if context is None:
            raise invalid("a presentation context that was not accepted")
        if self._reply is not None:
            raise Abort("a message before the answer to the last")
        if self._context is None:
            self._context = context
        elif self._context is not context:
            raise unexpected("a fragment of another presentation context within a message")
        self._empty += size == 0
        if self._empty > EMPTY_FRAGMENTS:
            raise invalid("empty fragments without end")
        if control & COMMAND:
            self._command_fragment(context, size, last=bool(control & LAST))
        else:
            self._data_fragment(context, size, last=bool(control & LAST))

    def _command_fragment(self, context: Context, size: int, *, last: bool) -> None:
        if self._intake is not None:
            raise unexpected("a command within a data set")
        if len(self._command) + size > COMMAND_BYTES:
            raise Abort("a command longer than allowed")
        self._command += self._wire.take(size)
        if not last:
            return
        try:
            command = decode(self._command)
        except CommandSetInvalid as error:
            raise Abort(f"a command that cannot be read: {error}") from error
        self._intake = self._intake_of(context, command)
        self._wire.again()
        if not has_data_set(command):
            self._finish(context, self._intake)

    def _data_fragment(self, context: Context, size: int, *, last: bool) -> None:
        if self._intake is None:
            raise unexpected("a data set without a command")
        self._intake.receive(self._wire, size)
        if last:
            self._finish(context, self._intake)

    def _finish(self, context: Context, intake: Intake) -> None:
        self._reply, self._replying = intake.finish(), context.context_id
        self._forget()

    def _answer(self, reply: Reply) -> None:
        awaiting = self._reports is not None and self._reports.outstanding
        if not awaiting and self._wire.ahead() == PduType.P_DATA_TF:
            # one operation at a time: no asynchronous window was negotiated (PS3.7 D.3.3.3)
            raise Abort("a message before the answer to the last")
        self._reply = None
        try:
            self._send(self._replying, reply.command, reply.data_set)
        finally:  # refused also when the peer does not wait for the answer
            if reply.refused:
                self._terms.on_refused(self._peer, reply.refused)

    def _send(self, context_id: int, command: Mapping[str, Any], data_set: bytes | None) -> None:
        self._wire.send(message_pdus(context_id, encode(command), data_set, self._agreement.maximum))

    # --- what a message is -----------------------------------------------------------------------------------

    def _intake_of(self, context: Context, command: Mapping[str, Any]) -> Intake:
        """Where the data set of a message goes, which also gives its answer."""
        field = command["CommandField"]
        serve = self._serves.get(field)
        if serve is not None:
            return serve(context, command)
        if field & RESPONSE:
            raise Abort("a response to nothing")
        return self._rare(context, command)

    def _store(self, context: Context, command: Mapping[str, Any]) -> Intake:
        missing = missing_from(command, has_data_set(command))
        if missing:
            reply = response(command, ANSWERS[Outcome.UID_MISSING].dimse, f"{missing} missing")
            return self._skip(Reply(reply, refused=f"C-STORE without {missing}"))
        if not self._terms.takes_storage(context.abstract_syntax) or not context.serves:
            return self._skip(Reply(response(command, Status.SOP_CLASS_NOT_SUPPORTED)))
        wanted = StoreCommand(
            command["AffectedSOPClassUID"],
            command["AffectedSOPInstanceUID"],
            context.transfer_syntax,
            self._peer,
        )
        if self._piece is None:
            self._piece = memoryview(bytearray(PIECE_BYTES))
        operation = StoreOperation(self._opened, wanted)
        return StoreIntake(command, operation, self._piece, self._terms.max_instance_bytes)

    def _opened(self) -> Sink:
        if self._sink is None:
            self._sink = self._terms.open_sink(self._peer)
        return self._sink

    def _echo(self, _context: Context, command: Mapping[str, Any]) -> Intake:
        return self._skip(Reply(response(command, Status.SUCCESS)))

    def _nothing(self, _context: Context, _command: Mapping[str, Any]) -> Intake:
        """C-CANCEL-RQ has no response, and nothing that could be cancelled is served (PS3.7 9.3.2.3)."""
        return self._skip(None)

    def _reported(self, _context: Context, command: Mapping[str, Any]) -> Intake:
        if self._reports is not None:
            self._reports.answered(command["MessageIDBeingRespondedTo"], command.get("Status"))
        return self._skip(None)

    def _rare(self, context: Context, command: Mapping[str, Any]) -> Intake:
        """N-ACTION and the like to the service of the context; another SOP class, another operation: refused."""
        service = self._terms.services.get(context.abstract_syntax)
        if service is None:
            return self._skip(Reply(response(command, Status.UNRECOGNIZED_OPERATION)))
        named = command.get("RequestedSOPClassUID", command.get("AffectedSOPClassUID"))
        if named != context.abstract_syntax or self._reports is None:
            return self._skip(Reply(response(command, Status.SOP_CLASS_NOT_SUPPORTED)))
        asker = Asker(self._reports, context)
        return ServiceIntake(command, context, service, self._peer, asker, self._terms.service_room)

    def _skip(self, reply: Reply | None) -> Intake:
        return Skipping(reply, self._terms.max_instance_bytes)
