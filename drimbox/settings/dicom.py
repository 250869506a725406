"""The DICOM door, who may send to it, and whom it calls back."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, field_validator, model_validator

from drimbox.settings.room import PemFile, Port, Room, Seconds, require_fingerprints, require_networks

# PS3.5 6.2: the default repertoire without backslash; padding does not count
AeTitle = Annotated[str, Field(min_length=1, max_length=16, pattern=r"^[ -\[\]-~]*$")]


class DicomPeerSettings(Room):
    """A peer that we call: `[[dicom.peers]]`."""

    ae_title: AeTitle = Field(description="Its AE title")
    host: str = Field(min_length=1, description="Its address or name")
    port: Port = Field(description="Its DICOM port")


class DicomSenderSettings(Room):
    """Who may send images: `[[dicom.senders]]`, several rows of one AE title where it calls from several places."""

    ae_title: AeTitle = Field(description="Its AE title")
    addresses: tuple[str, ...] = Field(
        default=(), description="Addresses or networks (CIDR) that it calls from; empty = any"
    )
    certificate_sha256: tuple[str, ...] = Field(
        default=(),
        description="SHA-256 of its TLS client certificates, hexadecimal; it may then never speak in clear; empty = any",
    )

    _networks = field_validator("addresses")(require_networks)
    _fingerprints = field_validator("certificate_sha256")(require_fingerprints)


class DicomSettings(Room):
    """The DICOM door (DIMSE)."""

    host: str = Field(default="127.0.0.1", description="Address to listen on")
    port: Port = Field(default=11112, description="Port to listen on")
    ae_title: AeTitle = Field(description="Our AE title; calls to any other are refused")
    calling_ae_titles: tuple[AeTitle, ...] = Field(
        description="AE titles that may call us from anywhere; empty = only those of [[dicom.senders]]"
    )
    senders: tuple[DicomSenderSettings, ...] = Field(
        default=(),
        description="AE titles that may call us only as one of their rows says, also when they are in calling_ae_titles",
    )
    max_associations: int = Field(default=20, ge=1, description="Associations open at once")
    idle_timeout: Seconds = Field(
        default=60, description="Seconds of silence before an association is aborted"
    )
    max_instance_bytes: int = Field(
        default=4 * 1024**3, ge=1024, description="Largest data set accepted, in bytes"
    )
    max_associations_per_address: int = Field(
        default=0, ge=0, description="Associations that one address may have open; 0 = as many as all"
    )
    peers: tuple[DicomPeerSettings, ...] = Field(
        default=(),
        description="Where senders are called back: storage commitment whose association has ended",
    )
    tls_port: int = Field(
        default=0, ge=0, le=65535, description="Port of DICOM over mutual TLS (PS3.15 B); 0 = no such door"
    )
    tls_certificate: PemFile | None = Field(
        default=None, description="PEM: our certificate for DICOM over TLS, with its chain"
    )
    tls_key: PemFile | None = Field(default=None, description="PEM: private key of that certificate")
    tls_client_authority: PemFile | None = Field(
        default=None, description="PEM: authorities of the peers' client certificates"
    )

    @model_validator(mode="after")
    def _whole(self) -> Self:
        names = ("tls_certificate", "tls_key", "tls_client_authority")
        missing = [name for name in names if getattr(self, name) is None]
        faults = [f"tls_port needs {', '.join(missing)}"] if self.tls_port and missing else []
        if len({peer.ae_title for peer in self.peers}) < len(self.peers):
            faults.append("two peers of the same ae_title")
        faults += [
            f"senders.{number} ({sender.ae_title}) has a certificate_sha256, and there is no tls_port"
            for number, sender in enumerate(self.senders)
            if sender.certificate_sha256 and not self.tls_port
        ]
        if faults:
            raise ValueError("; ".join(faults))
        return self
