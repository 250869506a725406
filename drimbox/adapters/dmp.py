"""The door to the DMP: publish (TD2.1a/b), look up (TD3.1b), withdraw (TD3.3c).

One call is one attempt: a fresh VIHF, MessageID and boundary around bytes that never change. It always
returns; what may come of it is in `domain.xds.outcome`.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Protocol

from drimbox.adapters.https import HttpAnswer, Limits, NothingHeard, NothingSent, mutual_tls, request
from drimbox.domain import soap
from drimbox.domain.mtom import Attachment, package
from drimbox.domain.signer import Signer
from drimbox.domain.soap import Addressing, NotSoap, SoapAnswer, read_answer
from drimbox.domain.vihf import VihfIdentity, VihfRefused, VihfSettings, build_assertion
from drimbox.domain.xds import vocabulary as v
from drimbox.domain.xds.metadata import DocumentEntry
from drimbox.domain.xds.outcome import (
    Answer,
    Exchange,
    Found,
    Lookup,
    NoAnswer,
    NotFound,
    NotSent,
    Refused,
    Registered,
)
from drimbox.domain.xds.publication import KOS_ID, SIGNATURE_ID
from drimbox.domain.xds.requests import get_documents_request, provide_and_register_request
from drimbox.domain.xds.response import (
    HTTP_KINDS,
    RegistryAnswer,
    RegistryError,
    UnreadableResponse,
    fault_error,
    kind_of,
    read_registry_answer,
)

MAX_ANSWER_BYTES = 8 * 1024 * 1024
KOS_CONTENT_ID = "kos@drimbox"
SIGNATURE_CONTENT_ID = "signature@drimbox"


class Sendable(Protocol):
    """What `withdraw` needs of a frozen unpublication."""

    @property
    def submit_objects_request(self) -> bytes: ...
    @property
    def vihf(self) -> VihfIdentity: ...


class SendableLot(Sendable, Protocol):
    """What `publish` needs of a frozen lot: its bytes and the identity to act under."""

    @property
    def kos(self) -> bytes: ...
    @property
    def signature(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class DmpEndpoint:
    """Where the DMP is and how we reach it. Times in seconds; credentials are PEM, followed as they change."""

    repository_url: str
    registry_url: str
    authority: Path
    client_certificate: Path
    client_key: Path
    connect_timeout: float
    answer_timeout: float
    max_answer_bytes: int = MAX_ANSWER_BYTES
    passphrase: Path | None = None

    def __post_init__(self) -> None:
        for url in (self.repository_url, self.registry_url):
            if not url.startswith("https://"):
                raise ValueError(f"{url} is not an https:// address")


@dataclass(frozen=True, slots=True)
class _Message:
    """One request: where, which action, whose, what."""

    url: str
    action: str
    identity: VihfIdentity
    body: bytes
    attachments: tuple[Attachment, ...] = ()


@dataclass(frozen=True, slots=True)
class Dmp:
    """The DMP. Safe to share between threads: nothing is kept between calls.

    `signer`: gives the one to sign a message with; `clock`: aware now;
    `new_id`: fresh UUID text, unguessable (it also makes the MIME boundary).
    """

    endpoint: DmpEndpoint
    signer: Callable[[], Signer]
    vihf: VihfSettings
    clock: Callable[[], datetime]
    new_id: Callable[[], str]

    def publish(self, lot: SendableLot) -> Answer:
        """TD2.1a, or TD2.1b when the lot replaces: ITI-41 with KOS and signature as MTOM parts."""
        attachments = (Attachment(KOS_CONTENT_ID, lot.kos), Attachment(SIGNATURE_CONTENT_ID, lot.signature))
        documents = [(KOS_ID, KOS_CONTENT_ID), (SIGNATURE_ID, SIGNATURE_CONTENT_ID)]
        body = provide_and_register_request(lot.submit_objects_request, documents)
        return self._submit(_Message(self.endpoint.repository_url, v.ITI_41, lot.vihf, body, attachments))

    def withdraw(self, withdrawal: Sendable) -> Answer:
        """TD3.3c: ITI-57 with the change of status."""
        return self._submit(
            _Message(self.endpoint.registry_url, v.ITI_57, withdrawal.vihf, withdrawal.submit_objects_request)
        )

    def find(self, unique_id: str, identity: VihfIdentity) -> Lookup:
        """TD3.1b: ITI-18 GetDocuments by uniqueId, under the identity that publishes or withdraws."""
        heard = self._ask(
            _Message(self.endpoint.registry_url, v.ITI_18, identity, get_documents_request(unique_id))
        )
        if not isinstance(heard, _Heard):
            return heard
        documents = _documents(heard.answer, unique_id)
        if documents:
            return Found(heard.exchange, documents)
        if heard.answer.documents:
            return NoAnswer(heard.exchange, "the registry answered with other documents")
        return NotFound(heard.exchange)

    def _submit(self, message: _Message) -> Answer:
        heard = self._ask(message)
        return Registered(heard.exchange, heard.answer.warnings) if isinstance(heard, _Heard) else heard

    def _ask(self, message: _Message) -> _Heard | Refused | NotSent | NoAnswer:
        message_id = f"urn:uuid:{self.new_id()}"
        exchange = Exchange(message_id)
        try:
            content_type, body = self._wrap(message, message_id)
            headers = {"Content-Type": content_type, "Accept": "multipart/related, application/soap+xml"}
            answer = request(
                "POST", message.url, body, headers, context=self._context(), limits=self._limits()
            )
        except (VihfRefused, _Unready, NothingSent) as error:
            return NotSent(exchange, str(error))
        except NothingHeard as error:
            return NoAnswer(exchange, str(error))
        return _understood(
            answer,
            replace(
                exchange, http_status=answer.status, content_type=answer.content_type, answer=answer.body
            ),
        )

    def _wrap(self, message: _Message, message_id: str) -> tuple[str, bytes]:
        assertion = build_assertion(
            message.identity,
            self.vihf,
            assertion_id=f"_{self.new_id()}",
            now=self.clock(),
            signer=self.signer(),
        )
        addressing = Addressing(message_id, message.url, message.action)
        envelope = soap.envelope(addressing, assertion=assertion, body=message.body)
        if not message.attachments:
            return soap.content_type(message.action), envelope
        boundary = f"drimbox-{self.new_id()}"
        return package(envelope, message.attachments, boundary=boundary, action=message.action)

    def _context(self) -> ssl.SSLContext:
        endpoint = self.endpoint
        try:
            files = (endpoint.authority, endpoint.client_certificate, endpoint.client_key)
            return mutual_tls(
                *files, now=self.clock(), passphrase=endpoint.passphrase, setting="dmp.client_certificate"
            )
        except OSError as error:  # ssl.SSLError is one
            raise _Unready(f"TLS credentials cannot be used: {error.strerror or error}") from error

    def _limits(self) -> Limits:
        endpoint = self.endpoint
        return Limits(endpoint.connect_timeout, endpoint.answer_timeout, endpoint.max_answer_bytes)


class _Unready(Exception):
    """Our own credentials cannot be read."""


@dataclass(frozen=True, slots=True)
class _Heard:
    """A registry's Success to our own message."""

    exchange: Exchange
    answer: RegistryAnswer


def _understood(answer: HttpAnswer, exchange: Exchange) -> _Heard | Refused | NoAnswer:
    try:
        message = read_answer(answer.content_type, answer.body)
    except NotSoap as error:
        kind = HTTP_KINDS.get(answer.status)
        if kind is None:
            return NoAnswer(exchange, f"HTTP {answer.status}: {error}")
        return Refused(exchange, (RegistryError(f"HTTP {answer.status}", "", "http"),), kind)
    # A fault may be made before the addressing headers are read, and then names no message; it came on the
    # connection of this one request. Anything else must say that it answers us.
    if message.relates_to != exchange.message_id and not (message.fault and not message.relates_to):
        return NoAnswer(exchange, "the answer relates to another message, or to none")
    return _judged(message, exchange, answer.status)


def _judged(message: SoapAnswer, exchange: Exchange, status: int) -> _Heard | Refused | NoAnswer:
    if message.fault is not None:
        error, kind = fault_error(message.fault)
        return Refused(exchange, (error,), kind)
    assert message.body is not None  # read_answer: a fault or a content
    try:
        answer = read_registry_answer(message.body)
    except UnreadableResponse as error:
        return NoAnswer(exchange, str(error))
    if not answer.success:
        return Refused(exchange, answer.errors, kind_of(answer.errors))
    if status // 100 != 2:
        return NoAnswer(exchange, f"Success under HTTP {status}")
    return _Heard(exchange, answer)


def _documents(answer: RegistryAnswer, unique_id: str) -> tuple[DocumentEntry, ...]:
    """The entries of that uniqueId; a registry that answers ObjectRefs tells no status."""
    listed = tuple(document for document in answer.documents if document.unique_id == unique_id)
    if listed or answer.documents:
        return listed
    return tuple(
        DocumentEntry(id=reference, mime_type="", unique_id=unique_id, patient_id="")
        for reference in answer.references
    )
