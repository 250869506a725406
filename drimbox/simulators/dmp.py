"""The simulated DMP as a WSGI application: repository (ITI-41) and registry (ITI-18, ITI-57) services.

Strict where the real one is strict, durable, and on demand as faulty as a network can make it. Every request
is kept with its raw body before it is answered. Facts: dmp-kos-xds 2 and 3, the contract's control port.
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Literal, Protocol

from lxml import etree

from drimbox.simulators.dmp_answers import (
    WSA,
    RegistryError,
    RegistryFailure,
    SoapFault,
    as_mtom,
    as_soap,
    envelope,
    fault_element,
)
from drimbox.simulators.dmp_messages import Request, UnsupportedMediaType, malformed
from drimbox.simulators.dmp_schemas import Schemas
from drimbox.simulators.dmp_security import check_addressing, check_client, message_id, read_vihf
from drimbox.simulators.dmp_services import SERVICES, Operation, Service
from drimbox.simulators.dmp_state import DmpState, RequestRecord
from drimbox.simulators.dmp_transactions import Context, is_replacement
from drimbox.simulators.http_connection import CutConnection
from drimbox.simulators.pki import Pki

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

BODY_LIMIT = 64 * 1024 * 1024
GARBAGE = b"\x00\xffthis is no SOAP message <<<\r\n"


class FaultSource(Protocol):
    """Where the armed faults are taken from (`faults.Faults`)."""

    def take(self, where: str, *kinds: str) -> str | None:
        """Consume the next fault of `where`, None when nothing is armed."""


@dataclass(frozen=True)
class Call:
    """One HTTP request: where it was posted, by whom (DER), what, when."""

    path: str
    content_type: str
    body: bytes
    peer: bytes | None
    at: datetime


@dataclass(frozen=True)
class Reply:
    """An HTTP answer, and the outcome that is recorded with the request."""

    status: str
    content_type: str
    body: bytes
    outcome: str


class DmpSimulator:
    """WSGI application of the two services under `/si-dmp-server/v2/services`.

    pki: whom it trusts. state: what it holds. faults: taken once per request from place `dmp`.
    clock: aware now. schemas: directory of the XDS and ebRS schemas for a second opinion. accept_sha1: allow
    the algorithms of the 2023 sample. mtom_answers: how the repository packs its answers. hold: seconds that
    the fault `timeout` keeps a request without an answer, cut short when the server stops.
    """

    def __init__(
        self,
        pki: Pki,
        state: DmpState,
        faults: FaultSource,
        clock: Callable[[], datetime],
        *,
        schemas: Path | None = None,
        accept_sha1: bool = False,
        mtom_answers: Literal["alternate", "always", "never"] = "alternate",
        hold: float = 120,
        new_uuid: Callable[[], str] = lambda: str(uuid.uuid4()),
    ) -> None:
        self._pki, self._state, self._faults, self._clock = pki, state, faults, clock
        self._schemas = Schemas(schemas) if schemas else None
        self._accept_sha1, self._hold, self._new_uuid = accept_sha1, hold, new_uuid
        self._packing = {
            "alternate": itertools.cycle((False, True)),
            "always": itertools.repeat(True),
            "never": itertools.repeat(False),
        }[mtom_answers]

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request. Raises CutConnection when an armed fault wants no answer."""
        path = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
        refusal = _http_refusal(environ, path)
        if refusal is not None:
            reply = _plain(refusal, refusal)
        else:
            body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
            peer = environ.get("drimbox.peer_certificate")
            call = Call(path, environ.get("CONTENT_TYPE", ""), body, peer, self._clock())
            reply = self._answer(call, environ.get("drimbox.stopping") or Event())
        headers = [("Content-Type", reply.content_type), ("Content-Length", str(len(reply.body)))]
        start_response(reply.status, headers)
        return [reply.body]

    def _answer(self, call: Call, stopping: Event) -> Reply:
        service = SERVICES[call.path]
        fault, _, code = (self._faults.take("dmp") or "").partition(":")
        request = _readable(service, call)
        with self._state.exclusive():
            reply = self._reply(service, call, request, fault, code)
            self._record(service, call, request, reply.outcome)
        if fault == "timeout":
            stopping.wait(self._hold)
        if fault in _SILENT:
            raise CutConnection
        return reply

    def _reply(
        self,
        service: Service,
        call: Call,
        request: Request | SoapFault | UnsupportedMediaType,
        fault: str,
        code: str,
    ) -> Reply:
        if fault in _BLUNT:
            return _BLUNT[fault]
        if isinstance(request, UnsupportedMediaType):
            return _plain("415 Unsupported Media Type", str(request))
        reply = self._soap_reply(service, call, request, _injected(fault, code))
        if fault == "drop_before_answer":
            return Reply(reply.status, reply.content_type, reply.body, f"{reply.outcome} (connection cut)")
        return reply

    def _soap_reply(
        self,
        service: Service,
        call: Call,
        request: Request | SoapFault,
        injected: SoapFault | RegistryFailure | None,
    ) -> Reply:
        relates_to = message_id(request) if isinstance(request, Request) else None
        operation = _operation(service, request)
        status, action, outcome = "200 OK", operation.response_action, "Success"
        try:
            if injected is not None:
                raise injected
            payload = self._process(operation, service, call, request)
        except RegistryFailure as failure:
            payload, outcome = operation.failure(failure.errors), f"Failure {failure}"
        except SoapFault as error:
            payload, outcome = fault_element(error), f"Fault {error.subcode}"
            status, action = "500 Internal Server Error", _fault_action(error)
        message = envelope(payload, action, relates_to)
        content_type, body = as_mtom(message) if service.mtom and next(self._packing) else as_soap(message)
        return Reply(status, content_type, body, outcome)

    def _process(
        self, operation: Operation, service: Service, call: Call, request: Request | SoapFault
    ) -> etree._Element:
        check_client(call.peer, self._pki, call.at)
        if isinstance(request, SoapFault):
            raise request
        check_addressing(request, operation.action, call.path)
        if request.payload.tag not in service.operations:
            raise malformed(f"the body {request.payload.tag} is not an operation of this service")
        vihf = read_vihf(request, self._pki, call.at, accept_sha1=self._accept_sha1)
        context = Context(self._state, self._pki, call.at, self._new_uuid, self._accept_sha1, self._schemas)
        return operation.run(context, request, vihf)

    def _record(
        self, service: Service, call: Call, request: Request | SoapFault | UnsupportedMediaType, outcome: str
    ) -> None:
        identity, label = None, service.label
        if isinstance(request, Request):
            identity, label = message_id(request), _operation(service, request).label
            if label == "TD2.1a" and is_replacement(request):
                label = "TD2.1b"
        self._state.record(RequestRecord(label, call.at, identity, outcome, call.content_type, call.body))


def _http_refusal(environ: WSGIEnvironment, path: str) -> str | None:
    """The HTTP status of a request that is none of a service, None otherwise."""
    length = environ.get("CONTENT_LENGTH") or ""
    if path not in SERVICES:
        return "404 Not Found"
    if environ.get("REQUEST_METHOD") != "POST":
        return "405 Method Not Allowed"
    if not length.isdigit():
        return "411 Length Required"
    return "413 Content Too Large" if int(length) > BODY_LIMIT else None


def _readable(service: Service, call: Call) -> Request | SoapFault | UnsupportedMediaType:
    """The request, or the refusal that its form deserves: it is recorded and answered in either case."""
    try:
        return service.read(call.content_type, call.body)
    except (SoapFault, UnsupportedMediaType) as error:
        return error


def _operation(service: Service, request: Request | SoapFault) -> Operation:
    """The operation of the body; the first one of the service when there is none to recognise."""
    known = next(iter(service.operations.values()))
    return service.operations.get(request.payload.tag, known) if isinstance(request, Request) else known


def _injected(fault: str, code: str) -> SoapFault | RegistryFailure | None:
    """The refusal that an armed fault asks for, without effect on the state."""
    if fault == "busy":
        return RegistryFailure([RegistryError("XDSRegistryBusy", "the registry is busy, try again later")])
    if fault == "registry_error":
        return RegistryFailure([RegistryError(code, f"{code} (armed fault)")])
    return SoapFault(code, f"{code} (armed fault)") if fault == "soap_fault" else None


def _fault_action(fault: SoapFault) -> str:
    """wsa:Action of a fault: WS-Addressing 1.0 SOAP Binding 6.2."""
    return f"{WSA}/fault" if fault.subcode.startswith("wsa:") else f"{WSA}/soap/fault"


def _plain(status: str, text: str, outcome: str = "") -> Reply:
    return Reply(status, "text/plain; charset=UTF-8", text.encode(), outcome or f"HTTP {status[:3]}")


_SILENT = frozenset({"timeout", "drop_before_answer"})
_BLUNT: Mapping[str, Reply] = {
    "http_500": _plain("500 Internal Server Error", "internal error"),
    "garbage": Reply("200 OK", "application/soap+xml; charset=UTF-8", GARBAGE, "Garbage"),
    "timeout": _plain("504 Gateway Timeout", "", "No answer"),
}
