"""One association of the DICOM door by an engine of our own: the acceptor of PS3.8 9.2, in one thread.

Once accepted, its messages are a `Dialogue`.
"""

from __future__ import annotations

import logging
import socket
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import NoReturn

from dicom_store import admission, upper_layer
from dicom_store.admission import Rejection, Terms
from dicom_store.connections import Connections, Place
from dicom_store.dialogue import Dialogue
from dicom_store.failure import log_failure
from dicom_store.receive_loop import ConnectionEnded, TooSlow, Wire
from dicom_store.sink import Peer
from dicom_store.upper_layer import SERVICE_PROVIDER, SERVICE_USER, TABLE, Abort, Action, Event, Reason, State

log = logging.getLogger(__name__)

WITHIN = "the connection ended within a message"
LOOPBACK = ("127.0.0.1", "::1")
NO_DICOM = "not DICOM: no association was requested"


@dataclass(eq=False)
class _Ending(Exception):
    """How it ends. `pdu`: our last; `said`: for the log; `refused`: for `on_refused`."""

    pdu: bytes | None = None
    said: str = ""
    refused: str = ""


class Association:
    """One connection's association. `place`: of the connection among those of the door."""

    def __init__(
        self,
        connection: socket.socket,
        place: Place,
        connections: Connections,
        terms: Terms,
        certificate_sha256: str | None = None,
    ) -> None:
        self._connection = connection
        self._place = place
        self._connections = connections
        self._terms = terms
        self._peer = Peer("", place.address, uuid.uuid4().hex, certificate_sha256)
        self._wire = Wire(connection, terms.idle_timeout)
        self._phase = State.AWAITING_REQUEST
        self._dialogue: Dialogue | None = None
        self._stopping = False
        self._actions: Mapping[Action, Callable[[int, Abort], None]] = {
            Action.READ_REQUEST: self._request,
            Action.TAKE_DATA: self._data,
            Action.TAKE_RELEASE: self._release,
            Action.ABORT_AS_USER: self._abort_as_user,
            Action.ABORT_AS_PROVIDER: self._abort_as_provider,
            Action.CLOSE: self._peer_aborts,
            Action.ABORTED: self._peer_aborts,
        }

    def run(self) -> None:
        """Until the connection is over; the socket is left to the caller to close."""
        ending = self._live()
        self._connections.rest(self._place)
        with suppress(ConnectionEnded, TooSlow):  # who is gone needs no last word
            if ending.pdu is not None:
                self._wire.send(ending.pdu)
        self._close()
        if ending.said:
            self._say(ending.said)
        if ending.refused:
            self._terms.on_refused(self._peer, ending.refused)
        if ending.pdu is not None and not self._stopping:
            self._wire.drain(self._terms.closing)

    def stop(self) -> None:
        """By another thread: abort; an instance that has come whole is stored and answered first."""
        self._stopping = True
        with suppress(OSError):  # it has just ended by itself
            # not SSLSocket's own shutdown, which takes the TLS layer away under its thread
            socket.socket.shutdown(self._connection, socket.SHUT_RD)

    def _live(self) -> _Ending:
        try:
            while True:
                self._pdu()
        except _Ending as ending:
            return ending
        except Abort as abort:
            return self._abort(abort)
        except TooSlow:
            return self._too_slow()
        except ConnectionEnded:
            return self._cut()
        except Exception as error:  # noqa: BLE001 - the door: an answer to the peer, a log and a row, never silence
            log_failure(log, "an association failed", error, action="association_failed")
            pdu = upper_layer.abort_pdu(SERVICE_PROVIDER, Reason.NOT_SPECIFIED)
            return _Ending(pdu, "Association aborted", "association aborted: a failure of the appliance")

    def _close(self) -> None:
        try:
            if self._dialogue is not None:
                self._dialogue.close()
        except Exception as error:  # noqa: BLE001 - what was acknowledged is safe without: a log, and the end goes on
            log_failure(log, "the end of an association failed", error, action="association_failed")

    def _pdu(self) -> None:
        dialogue = self._dialogue
        if dialogue is None:
            kind, length = self._wire.header(seconds=self._terms.artim)
        else:
            dialogue.idle()
            kind, length = self._wire.header(silence=not dialogue.within_message)
        event, abort = upper_layer.event_of(kind, length)
        action, then = TABLE[self._phase, event]
        self._actions[action](length, abort)
        if event is not Event.REQUEST_CAME:
            self._phase = then

    def _data(self, length: int, _abort: Abort) -> None:
        if self._dialogue is not None:
            self._dialogue.data(length)

    # --- negotiation -----------------------------------------------------------------------------------------

    def _request(self, length: int, _abort: Abort) -> None:
        body = self._wire.take(length)
        version, called, calling = admission.fixed_fields(body)
        self._peer = replace(self._peer, ae_title=calling)
        rejection = self._terms.judge(version, called, self._peer)
        if rejection is not None:
            self._reject(rejection)
        primitive = admission.read_request(body)
        self._phase = State.AWAITING_OUR_WORD
        if not admission.is_dicom(primitive):
            self._reject(Rejection.CONTEXT_NAME)
        agreement = admission.agree(primitive, self._terms)
        self._place.stop = self.stop
        rejection = self._connections.admit(self._place)
        if rejection is not None:
            self._reject(rejection)
        self._phase = TABLE[self._phase, Event.WE_ACCEPT][1]
        self._dialogue = Dialogue(self._wire, agreement, self._terms, self._peer)
        self._wire.send(agreement.pdu)
        self._say("Association request accepted")

    def _reject(self, rejection: Rejection) -> NoReturn:
        time.sleep(self._terms.pause)
        raise _Ending(
            upper_layer.reject_pdu(*rejection.code),
            "Association request rejected",
            f"association rejected: {rejection.said_of(self._peer)}",
        )

    # --- endings ---------------------------------------------------------------------------------------------

    @property
    def _within(self) -> str:
        return WITHIN if self._dialogue is not None and self._dialogue.within_message else ""

    def _release(self, length: int, _abort: Abort) -> None:
        self._wire.skip(length)
        raise _Ending(upper_layer.release_pdu(), "Association released", self._within)

    def _abort_as_user(self, _length: int, abort: Abort) -> None:
        raise Abort(abort.text)

    def _abort_as_provider(self, _length: int, abort: Abort) -> None:
        raise abort

    def _peer_aborts(self, _length: int, _abort: Abort) -> None:
        raise ConnectionEnded

    def _abort(self, abort: Abort) -> _Ending:
        log.warning("association aborted: %s, from %s", abort.text, self._peer.address)
        if self._phase is State.AWAITING_REQUEST:  # AA-1, whatever came
            refused = f"association aborted: {abort.text}" if self._peer.ae_title else NO_DICOM
            return _Ending(upper_layer.abort_pdu(SERVICE_USER, Reason.NOT_SPECIFIED), refused=refused)
        pdu = upper_layer.abort_pdu(abort.source, abort.reason)
        return _Ending(pdu, "Association aborted", f"association aborted: {abort.text}")

    def _too_slow(self) -> _Ending:
        if self._dialogue is None:
            return self._cut()  # ARTIM: closed without a word
        pdu = upper_layer.abort_pdu(SERVICE_USER, Reason.NOT_SPECIFIED)
        return _Ending(pdu, "Association aborted", self._within)

    def _cut(self) -> _Ending:
        if self._dialogue is None:
            return _Ending(refused=NO_DICOM if self._wire.total else "")
        pdu = upper_layer.abort_pdu(SERVICE_USER, Reason.NOT_SPECIFIED) if self._stopping else None
        return _Ending(pdu, "Association aborted", self._within)

    def _say(self, what: str) -> None:
        """Log what becomes of it; those of this machine, which looks at its own health, quietly."""
        address = self._peer.address
        quiet = address in (*LOOPBACK, own_address(self._connection))
        log.log(
            logging.DEBUG if quiet else logging.INFO,
            "%s: calling AE %s at %s",
            what,
            self._peer.ae_title,
            address,
        )


def own_address(connection: socket.socket) -> str:
    """Address on which a connection reached us; empty when it has none."""
    with suppress(OSError):  # it is closed
        name = connection.getsockname()
        return str(name[0]) if isinstance(name, tuple) else ""
    return ""
