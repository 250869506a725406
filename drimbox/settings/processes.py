"""The worker, what it forwards, the keys and the logs of every process."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from drimbox.settings.room import PemFile, Port, Room, Seconds


class WorkerSettings(Room):
    """The process that reconciles and publishes."""

    poll_interval: Seconds = Field(default=1, description="Seconds between two looks for work")
    publishers: int = Field(default=4, ge=1, le=32, description="Submissions sent at once")


class AuditSettings(Room):
    """An audit record repository that the trace is passed on to: DICOM audit messages, syslog over TLS."""

    host: str = Field(
        default="",
        description="Name or address of the audit record repository, as its certificate says; empty = off",
    )
    port: Port = Field(default=6514, description="Its port (RFC 5425)")
    authority: PemFile | None = Field(
        default=None, description="PEM: authorities of its certificate; required with host"
    )
    certificate: PemFile | None = Field(
        default=None, description="PEM: our client certificate; not set = none is shown"
    )
    key: PemFile | None = Field(default=None, description="PEM: its private key")
    source_id: str = Field(default="", description="AuditSourceID; empty = organisation.device_id")
    enterprise_site_id: str = Field(
        default="", description="AuditEnterpriseSiteID; empty = organisation.structure_id"
    )
    interval: Seconds = Field(default=5, description="Seconds between two looks at the trace")
    connect_timeout: float = Field(default=10, gt=0, le=30, description="Seconds to connect")
    answer_timeout: float = Field(
        default=30, gt=0, le=60, description="Seconds for a delivery and its confirmation"
    )

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.host and self.authority is None:
            raise ValueError("audit: authority is required with host")
        if (self.certificate is None) != (self.key is None):
            raise ValueError("audit: certificate and key go together")
        return self


class KeysSettings(Room):
    """Private keys at rest."""

    passphrase: PemFile | None = Field(
        default=None,
        description="File (or credential:NAME) that holds the passphrase of the private keys, one line; set = a key that"
        " is not encrypted is refused",
    )


class LogSettings(Room):
    """Structured logs on standard error; never patient data."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least level written"
    )
    format: Literal["json", "console"] = Field(
        default="json", description="json for machines, console for people"
    )
