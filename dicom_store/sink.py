"""The contract between an association and what stores: data sets arrive in pieces, and count when they are complete."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from dicom_store.status import Outcome


@dataclass(frozen=True, slots=True)
class Peer:
    """Who speaks. `association`: unique to the association.

    `certificate_sha256`: of the DER of its TLS client certificate, lower hexadecimal; None without one.
    """

    ae_title: str
    address: str
    association: str
    certificate_sha256: str | None = None


@dataclass(frozen=True, slots=True)
class StoreCommand:
    """What a C-STORE-RQ (or a part of a STOW-RS request) says of the data set that follows: its own UIDs may differ."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax: str
    peer: Peer


class Arrival(Protocol):
    """One instance on its way. One of `complete` and `abandon` is called once, also after a refusal."""

    def more(self, piece: memoryview) -> None:
        """The next bytes of the data set exactly as sent, valid during the call. Raises `StoreRefused`, OSError."""

    def complete(self) -> Outcome:
        """It is whole: durable and committed when this returns. Raises `StoreRefused` (traced)."""

    def abandon(self) -> None:
        """It will never be whole, or was refused: nothing of it remains."""


class Sink(Protocol):
    """Where the instances of one association go; called by one thread at a time."""

    def begin(self, command: StoreCommand) -> Arrival:
        """An instance is announced. Raises `StoreRefused` (traced)."""

    def close(self) -> None:
        """The association has ended, by whatever way."""


@dataclass(frozen=True, slots=True)
class ServiceAnswer:
    """The response to a rare request. `elements`: of its command set beside those of every response (PS3.7 10.3)."""

    status: int
    elements: Mapping[str, Any]
    data_set: bytes | None = None


class Association(Protocol):
    """What a service may do with the association that asked."""

    def report(self, sop_class_uid: str, sop_instance_uid: str, event_type: int, data_set: bytes) -> bool:
        """N-EVENT-REPORT by us once it is idle; whether the peer answered success. False when it has ended."""


class Service(Protocol):
    """One SOP class beside Storage and Verification: N-ACTION of Storage Commitment (PS3.4 J)."""

    def handle(
        self,
        command: Mapping[str, Any],
        data_set: bytes,
        transfer_syntax: str,
        peer: Peer,
        association: Association,
    ) -> ServiceAnswer:
        """Answer a request. `command`: elements of the command set by keyword; `data_set`: at most 8 MiB, in the
        transfer syntax of its context. What it raises is answered 0x0110 (processing failure) and logged.
        """
