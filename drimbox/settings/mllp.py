"""The HL7v2 doors and who may send reports."""

from __future__ import annotations

from typing import Self

from pydantic import Field, field_validator, model_validator

from drimbox.domain.hl7v2_grammar import TOLERANCES
from drimbox.settings.room import PemFile, Port, Room, Seconds, require_fingerprint, require_networks


class SenderSettings(Room):
    """One sender of reports: `[[mllp.senders]]`."""

    name: str = Field(min_length=1, max_length=64, description="How logs, trace and inbox name it")
    addresses: tuple[str, ...] = Field(
        min_length=1, description="Addresses or networks (CIDR) that it calls from"
    )
    application: str = Field(default="", description="MSH-3 that it must sign with; empty = any")
    facility: str = Field(default="", description="MSH-4 that it must sign with; empty = any")
    certificate_sha256: str = Field(
        default="",
        description="SHA-256 of its TLS client certificate, hexadecimal; it may then never speak in clear",
    )
    not_tolerated: tuple[str, ...] = Field(
        default=(), description="Defects for which its messages are refused (README, section Reports)"
    )
    orphan_replacement: bool | None = Field(
        default=None, description="Instead of policy.orphan_replacement for this sender"
    )
    idempotent_delete: bool | None = Field(
        default=None, description="Instead of policy.idempotent_delete for this sender"
    )
    same_author: bool | None = Field(
        default=None, description="Instead of policy.same_author for this sender"
    )
    receipts: str = Field(
        default="", description="host:port of its own MLLP door, where business acknowledgements go"
    )

    _networks = field_validator("addresses")(require_networks)
    _fingerprint = field_validator("certificate_sha256")(require_fingerprint)

    @field_validator("not_tolerated")
    @classmethod
    def _known_defects(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := [slug for slug in value if slug not in TOLERANCES]:
            raise ValueError(f"no such defect: {', '.join(unknown)}")
        return value

    @field_validator("receipts")
    @classmethod
    def _host_and_port(cls, value: str) -> str:
        host, _, port = value.rpartition(":")
        if value and not (host and port.isdecimal() and 0 < int(port) < 65536):
            raise ValueError("must be host:port")
        return value


class MllpSettings(Room):
    """The HL7v2 doors: MLLP, and MLLP over mutual TLS on a port of its own."""

    host: str = Field(default="127.0.0.1", description="Address to listen on")
    port: Port = Field(default=2575, description="Port to listen on")
    senders: tuple[SenderSettings, ...] = Field(
        description="Who may send reports, one [[mllp.senders]] each; nobody else is answered"
    )
    tls_port: int = Field(
        default=0, ge=0, le=65535, description="Port of MLLP over mutual TLS; 0 = no such door"
    )
    tls_certificate: PemFile | None = Field(
        default=None, description="PEM: server certificate of that door, then its chain"
    )
    tls_key: PemFile | None = Field(default=None, description="PEM: private key of that certificate")
    tls_client_authority: PemFile | None = Field(
        default=None, description="PEM: authorities of the senders' client certificates"
    )
    max_message_bytes: int = Field(
        default=64 * 1024 * 1024, ge=1024, description="Largest message accepted, in bytes"
    )
    max_connections: int = Field(default=50, ge=1, description="Connections open at once")
    idle_timeout: Seconds = Field(default=300, description="Seconds of silence before a connection is closed")
    message_timeout: Seconds = Field(
        default=120, description="Seconds from the first to the last byte of a message"
    )
    application: str = Field(
        default="DRIMBOX", description="MSH-3 of our acknowledgements when the sender named nobody"
    )
    facility: str = Field(
        default="", description="MSH-4 of our acknowledgements when the sender named nobody"
    )
    business_acknowledgement: bool = Field(
        default=False,
        description="Answer ACK_RECEPTION = Y with a ZAM^Z01 to the sender's `receipts` once the DMP has answered",
    )

    @model_validator(mode="after")
    def _whole_tls(self) -> Self:
        names = ("tls_certificate", "tls_key", "tls_client_authority")
        missing = [name for name in names if getattr(self, name) is None]
        if self.tls_port and missing:
            raise ValueError(f"tls_port needs {', '.join(missing)}")
        if len({sender.name for sender in self.senders}) < len(self.senders):
            raise ValueError("two senders of the same name")
        return self
