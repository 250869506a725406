"""The HTTP doors and the accounts of the department."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from drimbox.domain.accounts import parse_hash
from drimbox.settings.room import (
    PemFile,
    Port,
    Room,
    Seconds,
    is_loopback,
    require_fingerprint,
    require_networks,
)


class AccountSettings(Room):
    """One viewer or PACS of the department that may use the internal DICOMweb door: `[[web.accounts]]`."""

    name: str = Field(
        min_length=1, max_length=64, pattern="^[^:]*$", description="Its name, also that of HTTP Basic"
    )
    addresses: tuple[str, ...] = Field(
        min_length=1, description="Addresses or networks (CIDR) that it calls from"
    )
    password_scrypt: str = Field(
        default="", description="Hash of its password, as `drimbox account NAME` prints it"
    )
    certificate_sha256: str = Field(
        default="",
        description="SHA-256 of its TLS client certificate, hexadecimal; with a password, both must hold",
    )
    may: tuple[Literal["read", "store"], ...] = Field(
        default=("read",), description="read = search and retrieve; store = STOW-RS"
    )

    _networks = field_validator("addresses")(require_networks)
    _fingerprint = field_validator("certificate_sha256")(require_fingerprint)

    @field_validator("password_scrypt")
    @classmethod
    def _readable(cls, value: str) -> str:
        if value:
            parse_hash(value)
        return value

    @model_validator(mode="after")
    def _known_by_something(self) -> Self:
        if not (self.password_scrypt or self.certificate_sha256):
            raise ValueError(f"account {self.name}: give password_scrypt or certificate_sha256")
        return self


class WebSettings(Room):
    """The HTTP doors: a public listener in TLS for the partners, an internal one for the department."""

    public_url: str = Field(
        description="Address that partners use, path included: https://db.example.fr/dicom-web-rs"
    )
    public_host: str = Field(default="127.0.0.1", description="Address that the public listener binds")
    public_port: Port = Field(default=8443, description="Port of the public listener")
    certificate: PemFile | None = Field(
        default=None,
        description="PEM: server certificate of the public listener, then its chain; required without proxies",
    )
    key: PemFile | None = Field(default=None, description="PEM: private key of that certificate")
    client_authority: PemFile | None = Field(
        default=None,
        description="PEM: authorities of the partners' client certificates; required without proxies",
    )
    proxies: tuple[str, ...] = Field(
        default=(),
        description="Addresses or networks (CIDR) of the proxies where the public TLS ends: the listener then speaks"
        " plain HTTP, to them alone",
    )
    proxy_certificate_header: str = Field(
        default="X-Client-Certificate",
        pattern=r"^[A-Za-z0-9-]{1,64}$",
        description="Header in which a declared proxy gives the client certificate that it verified (PEM, escaped)",
    )
    internal_host: str = Field(default="127.0.0.1", description="Address that the internal listener binds")
    internal_port: Port = Field(default=8080, description="Port of the internal listener")
    internal_url: str = Field(
        default="",
        description="Address by which the department reaches the internal listener, for the links in answers; empty ="
        " what each request names",
    )
    internal_certificate: PemFile | None = Field(
        default=None,
        description="PEM: server certificate of the internal listener; required when it is not on loopback",
    )
    internal_key: PemFile | None = Field(default=None, description="PEM: private key of that certificate")
    internal_client_authority: PemFile | None = Field(
        default=None, description="PEM: authorities of the accounts' client certificates"
    )
    accounts: tuple[AccountSettings, ...] = Field(
        default=(),
        description="Who may use the internal DICOMweb door, one [[web.accounts]] each; nobody else",
    )
    max_report_bytes: int = Field(
        default=64 * 1024 * 1024, ge=1024, description="Largest body of POST /reports, in bytes"
    )
    max_streams: int = Field(
        default=64, ge=1, description="Retrievals served at once; more are answered 503 busy"
    )
    processes: int = Field(default=2, ge=1, le=32, description="Processes that serve both listeners")
    stall_timeout: Seconds = Field(
        default=60, description="Seconds in which a reader must take 512 KiB, or it loses its place"
    )
    prefer: Literal["stored", "quality"] = Field(
        default="stored",
        description="stored = an acceptable instance leaves as it is kept; quality = in the syntax of highest q",
    )
    allow_lossy: bool = Field(
        default=False,
        description="Lossy compression for a client that gives it the strictly highest q; false = never",
    )
    lossy_quality: int = Field(default=90, ge=50, le=100, description="Quality of that compression")
    transcoders: int = Field(
        default=1, ge=1, le=32, description="Conversions at once in each of the processes"
    )
    transcoding_timeout: Seconds = Field(default=60, description="Seconds that one conversion may last")
    transcoding_memory_bytes: int = Field(
        default=4 * 1024**3, ge=256 * 1024**2, description="Memory that one conversion may take, in bytes"
    )
    transcoding_cache_bytes: int = Field(
        default=2 * 1024**3, ge=0, description="Converted instances kept at most, in bytes"
    )
    replaced_grace: float = Field(
        default=0, ge=0, description="Seconds during which a replaced manifest still serves (404 afterwards)"
    )

    _networks = field_validator("proxies")(require_networks)

    @field_validator("public_url")
    @classmethod
    def _https(cls, value: str) -> str:
        if not value.startswith("https://"):
            raise ValueError("must be an https:// address")
        return value.rstrip("/")

    @field_validator("internal_url")
    @classmethod
    def _http(cls, value: str) -> str:
        if value and not value.startswith(("https://", "http://")):
            raise ValueError("must be an https:// or http:// address")
        return value.rstrip("/")

    @model_validator(mode="after")
    def _tls_somewhere(self) -> Self:
        if not self.proxies and not (self.certificate and self.key and self.client_authority):
            raise ValueError(
                "web: certificate, key and client_authority are required unless proxies are declared"
            )
        names = [account.name for account in self.accounts]
        if len(set(names)) < len(names):
            raise ValueError("web: two accounts have one name")
        shows = [account.name for account in self.accounts if account.certificate_sha256]
        if shows and not self.internal_client_authority:
            raise ValueError(
                f"web: account {shows[0]} has a certificate: internal_client_authority is required"
            )
        if bool(self.internal_certificate) != bool(self.internal_key):
            raise ValueError("web: internal_certificate and internal_key go together")
        if not self.internal_certificate and not is_loopback(self.internal_host):
            raise ValueError("web: internal_host is not a loopback address: internal_certificate is required")
        return self
