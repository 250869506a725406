"""Who may associate, and for what: rejections (PS3.8 9.3.4), presentation contexts and user information (PS3.7 D.3).

A-ASSOCIATE-RQ and -AC are decoded, negotiated and encoded by pynetdicom; both engines of the door ask here.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from pynetdicom import build_context
from pynetdicom._globals import APPLICATION_CONTEXT_NAME
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    AsynchronousOperationsWindowNegotiation,
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
    MaximumLengthNotification,
    SCP_SCU_RoleSelectionNegotiation,
)
from pynetdicom.presentation import negotiate_unrestricted
from pynetdicom.sop_class import Verification

from dicom_store.association_items import known_items
from dicom_store.header import EXPLICIT_VR_BIG_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN
from dicom_store.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicom_store.senders import Misfit, Sender, misfit
from dicom_store.sink import Peer, Service, Sink
from dicom_store.upper_layer import MAXIMUM_PDU, PDU_HEADER, PduType, invalid

SERVICES_BYTES = 32 * 1024 * 1024  # of requests to the rare services, of all associations
LEAST_PDU = 128  # a peer that takes less cannot take our answers
SERVICE_SYNTAXES = [EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_BIG_ENDIAN]
_FIXED = struct.Struct(">H2x16s16s32x")  # protocol version, called, calling (PS3.8 Table 9-11)


class Rejection(Enum):
    """Result, source, reason/diagnostic of an A-ASSOCIATE-RJ (PS3.8 Table 9-21), and what it means here."""

    PROTOCOL = 1, 2, 2, "the protocol version is not 1"
    CALLED = 1, 1, 7, "the called AE title is not ours"
    CALLING = 1, 1, 3, "the calling AE title is not known"
    ADDRESS = 1, 1, 3, "the calling AE title is not known at this address"
    CLEAR = 1, 1, 3, "the calling AE title is known over TLS only"
    CERTIFICATE = 1, 1, 3, "the calling AE title is not known with certificate {certificate}"
    CONTEXT_NAME = 1, 1, 2, "the application context is not DICOM's"
    LIMIT = 2, 3, 2, "too many associations"
    PEER_LIMIT = 2, 3, 2, "too many associations of this address"

    @property
    def code(self) -> tuple[int, int, int]:
        """Result, source, reason."""
        return self.value[:3]

    def said_of(self, peer: Peer) -> str:
        """Why, for logs and trace; of a certificate its SHA-256 alone."""
        return self.value[3].replace("{certificate}", str(peer.certificate_sha256))


_OF_MISFIT = {
    Misfit.TITLE: Rejection.CALLING,
    Misfit.ADDRESS: Rejection.ADDRESS,
    Misfit.CLEAR: Rejection.CLEAR,
    Misfit.CERTIFICATE: Rejection.CERTIFICATE,
}


class Room:
    """Bytes that may be held at once, all associations together."""

    def __init__(self, size: int) -> None:
        self._left = size
        self._lock = threading.Lock()

    def take(self, size: int) -> bool:
        """Whether there is as much left; then it is taken."""
        with self._lock:
            fits = size <= self._left
            self._left -= size if fits else 0
            return fits

    def give_back(self, size: int) -> None:
        """It is free again."""
        with self._lock:
            self._left += size


@dataclass(frozen=True)
class Terms:
    """What a door offers and bounds. `calling_ae_titles`, `senders`: who may call (`senders.misfit`); empty = nobody.

    `idle_timeout`: seconds of silence and for each PDU; `artim`: for an A-ASSOCIATE-RQ; `pause`: before a rejection,
    which pynetdicom as requestor takes for a failed connection when it comes at once; `closing`: for the peer to close
    after our last PDU. `services`: beside Storage and Verification, by SOP class UID; their requests are
    held in `service_room`. `on_refused`: see `scp.DicomDoor`.
    """

    ae_title: str
    calling_ae_titles: frozenset[str]
    idle_timeout: float
    artim: float
    max_instance_bytes: int
    open_sink: Callable[[Peer], Sink]
    on_refused: Callable[[Peer, str], None] = lambda _peer, _reason: None
    services: Mapping[str, Service] = field(default_factory=dict)
    service_room: Room = field(default_factory=lambda: Room(SERVICES_BYTES))
    pause: float = 0.05
    closing: float = 2.0
    senders: tuple[Sender, ...] = ()

    def judge(self, version: int, called: str, peer: Peer) -> Rejection | None:
        """What the fixed fields of a request already decide: nothing more of a stranger's is decoded."""
        if not version & 1:
            return Rejection.PROTOCOL
        if called != self.ae_title:
            return Rejection.CALLED
        found = misfit(self.calling_ae_titles, self.senders, peer)
        return _OF_MISFIT[found] if found else None

    def takes_storage(self, abstract_syntax: str) -> bool:
        """Whether a context may carry C-STORE: neither Verification nor one of the services."""
        return abstract_syntax != str(Verification) and abstract_syntax not in self.services


def fixed_fields(body: bytes | bytearray) -> tuple[int, str, str]:
    """Protocol version, called and calling AE title of an A-ASSOCIATE-RQ (PS3.8 9.3.2) of at least 68 bytes."""
    version, called, calling = _FIXED.unpack_from(body)
    return version, _title(called), _title(calling)


def _title(raw: bytes) -> str:
    text = raw.decode("ascii", "replace").strip("\0 ")
    return "".join(one if one.isprintable() else "?" for one in text)


@dataclass(frozen=True, slots=True)
class Context:
    """An accepted presentation context. `serves`: we are its SCP (PS3.7 D.3.3.4)."""

    context_id: int
    abstract_syntax: str
    transfer_syntax: str
    serves: bool


@dataclass(frozen=True)
class Agreement:
    """What was negotiated. `maximum`: length that the peer takes, 0 = any; `pdu`: the A-ASSOCIATE-AC."""

    contexts: Mapping[int, Context]
    maximum: int
    pdu: bytes


def read_request(body: bytes | bytearray) -> Any:
    """The A-ASSOCIATE primitive of the body of an A-ASSOCIATE-RQ, of the items that are read. Raises `Abort`."""
    known, request = known_items(body), A_ASSOCIATE_RQ()
    try:
        request.decode(PDU_HEADER.pack(PduType.A_ASSOCIATE_RQ, len(known)) + known)
        primitive = request.to_primitive()
        contexts = primitive.presentation_context_definition_list
        numbers = {context.context_id for context in contexts}
        sound = all(context.abstract_syntax and context.transfer_syntax for context in contexts)
        # of twice the same identifier nobody could say what it means
        sound = sound and len(numbers) == len(contexts) and _maximum(primitive) >= 0
    except Exception as error:  # whatever pynetdicom raises of bytes that are no request
        raise invalid("an A-ASSOCIATE-RQ that cannot be read") from error
    if not sound:
        raise invalid("an A-ASSOCIATE-RQ whose items cannot be")
    return primitive


def is_dicom(primitive: Any) -> bool:
    """Whether the application context is DICOM's (PS3.7 A.2.1)."""
    return str(primitive.application_context_name) == str(APPLICATION_CONTEXT_NAME)


def _maximum(primitive: Any) -> int:
    """MaximumLengthReceived of the peer (PS3.8 D.1.1); -1 when it is too small to be served, 0 when there is none."""
    for item in primitive.user_information:
        if isinstance(item, MaximumLengthNotification):
            return (
                int(item.maximum_length_received) if not 0 < item.maximum_length_received < LEAST_PDU else -1
            )
    return 0


def prefer_explicit(contexts: Iterable[Any]) -> None:
    """Put Explicit VR LE before Implicit VR LE and Explicit VR BE where a context proposes both.

    Neither of these two may be served by DICOMweb (PS3.18 8.7.3.5), so this saves a conversion later.
    """
    for context in contexts:
        proposed = list(context.transfer_syntax)
        if (
            proposed[0] in (IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_BIG_ENDIAN)
            and EXPLICIT_VR_LITTLE_ENDIAN in proposed
        ):
            context.transfer_syntax = sorted(proposed, key=lambda uid: uid != EXPLICIT_VR_LITTLE_ENDIAN)


def offered(services: Collection[str]) -> list[Any]:
    """Presentation contexts beside those of Storage."""
    return [build_context(Verification), *(build_context(uid, SERVICE_SYNTAXES) for uid in services)]


def agree(primitive: Any, terms: Terms) -> Agreement:
    """Accept a request that was read: every storage SOP class, Verification, the services of `terms`.

    Roles are answered where they were proposed (PS3.7 D.3.3.4), an asynchronous window by 1/1 (D.3.3.3). User
    identity and extended negotiation get no answer, which says that they are not supported (D.3.3.5 to D.3.3.7).
    """
    proposed = primitive.presentation_context_definition_list
    prefer_explicit(proposed)
    asked = primitive.user_information
    roles = {
        one.sop_class_uid: (one.scu_role, one.scp_role)
        for one in asked
        # neither of both proposes nothing, and could not be answered
        if isinstance(one, SCP_SCU_RoleSelectionNegotiation) and (one.scu_role or one.scp_role)
    }
    results, role_answers = negotiate_unrestricted(proposed, offered(terms.services), roles)
    contexts = {
        one.context_id: Context(
            one.context_id, str(one.abstract_syntax), str(one.transfer_syntax[0]), bool(one.as_scp)
        )
        for one in results
        if one.result == 0
    }
    information = [*_who_we_are(), *role_answers]
    if any(isinstance(one, AsynchronousOperationsWindowNegotiation) for one in asked):
        information.append(_one_at_a_time())
    return Agreement(contexts, _maximum(primitive), _accept_pdu(primitive, results, information))


def _who_we_are() -> list[Any]:
    length = MaximumLengthNotification()
    length.maximum_length_received = MAXIMUM_PDU
    implementation = ImplementationClassUIDNotification()
    implementation.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    version = ImplementationVersionNameNotification()
    version.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    return [length, implementation, version]


def _one_at_a_time() -> Any:
    window = AsynchronousOperationsWindowNegotiation()
    window.maximum_number_operations_invoked = window.maximum_number_operations_performed = 1
    return window


def _accept_pdu(request: Any, results: list[Any], information: list[Any]) -> bytes:
    answer = A_ASSOCIATE()
    answer.application_context_name = APPLICATION_CONTEXT_NAME
    answer.calling_ae_title = request.calling_ae_title
    answer.called_ae_title = request.called_ae_title
    answer.result, answer.result_source = 0, 1
    answer.presentation_context_definition_results_list = results
    answer.user_information = information
    return bytes(A_ASSOCIATE_AC(answer).encode())
