"""One frozen settings object per room, read once from TOML; unknown keys refused, all faults together.

No default for an OID, an institution, an AE title, a password or an address that leaves the machine: absent
means refuse to start. Secrets are given by file path, or as `credential:NAME`.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from drimbox.domain.accounts import parse_hash
from drimbox.domain.hl7v2_grammar import TOLERANCES
from drimbox.domain.identifiers import INS_AUTHORITIES, is_oid

# systemd.exec(5), CREDENTIALS; where it is not set, as for an operator's commands, nothing is ever found there
CREDENTIALS_DIRECTORY = "CREDENTIALS_DIRECTORY"
NO_CREDENTIALS = Path("/nonexistent/credentials")
_CREDENTIAL = "credential:"
_VARIABLE = re.compile(r"DRIMBOX_([A-Z]+)__([A-Z0-9_]+)")  # DRIMBOX_DICOM__PORT: dicom.port


def _credential_path(value: object) -> object:
    """`credential:NAME` is the file of that name among the credentials that the service manager gave this process."""
    if not isinstance(value, str) or not value.startswith(_CREDENTIAL):
        return value
    name = value.removeprefix(_CREDENTIAL)
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", name):
        raise ValueError(f"{_CREDENTIAL}NAME: letters, digits, dots, hyphens and underscores")
    return Path(os.environ.get(CREDENTIALS_DIRECTORY) or NO_CREDENTIALS) / name


PemFile = Annotated[Path, BeforeValidator(_credential_path)]
Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(gt=0)]


class ConfigurationError(Exception):
    """The configuration cannot be used; `faults` lists every fault, one sentence each."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


class _Room(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)


def _require_networks(value: tuple[str, ...]) -> tuple[str, ...]:
    for address in value:
        ip_network(address, strict=False)
    return value


def _require_fingerprint(value: str) -> str:
    plain = value.replace(":", "").lower()
    if plain and not re.fullmatch(r"[0-9a-f]{64}", plain):
        raise ValueError("must be a SHA-256 of 64 hexadecimal digits")
    return plain


def _require_fingerprints(value: tuple[str, ...]) -> tuple[str, ...]:
    if "" in value:
        raise ValueError("must be SHA-256 of 64 hexadecimal digits each")
    return tuple(map(_require_fingerprint, value))


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class NodeSettings(_Room):
    """This node among those that share the database and the storage root."""

    name: str = Field(
        default="",
        pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,62})?$",
        description="Name of this node, another one for each: of its leases, duties, signs of life and files;"
        " empty = the host name",
    )


class StorageSettings(_Room):
    """Where the bytes are kept."""

    root: Path = Field(description="Directory of the image segments and of the stored documents")
    minimum_free_bytes: int = Field(
        default=512 * 1024 * 1024,
        ge=0,
        description="Below this free space new data is refused (0xA700, 507, AR)",
    )


class DatabaseSettings(_Room):
    """Where the facts are kept."""

    url: str = Field(
        description="SQLAlchemy URL: sqlite:////var/lib/drimbox/drimbox.sqlite or postgresql+psycopg://…; never with"
        " a password"
    )
    password: PemFile | None = Field(
        default=None,
        description="File (or credential:NAME) that holds the password of the PostgreSQL account, one line",
    )
    busy_timeout: Seconds = Field(default=30, description="Seconds to wait for a lock before giving up")

    @field_validator("url")
    @classmethod
    def _without_password(cls, value: str) -> str:
        try:
            address = make_url(value)
        except (ArgumentError, ValueError):  # its words quote the value
            raise ValueError("not a database address") from None
        if address.password is not None or "password" in address.query:
            raise ValueError("a password in the address: put it into the file of database.password")
        return value


# PS3.5 6.2: the default repertoire without backslash; padding does not count
AeTitle = Annotated[str, Field(min_length=1, max_length=16, pattern=r"^[ -\[\]-~]*$")]


class DicomPeerSettings(_Room):
    """A peer that we call: `[[dicom.peers]]`."""

    ae_title: AeTitle = Field(description="Its AE title")
    host: str = Field(min_length=1, description="Its address or name")
    port: Port = Field(description="Its DICOM port")


class DicomSenderSettings(_Room):
    """Who may send images: `[[dicom.senders]]`, several rows of one AE title where it calls from several places."""

    ae_title: AeTitle = Field(description="Its AE title")
    addresses: tuple[str, ...] = Field(
        default=(), description="Addresses or networks (CIDR) that it calls from; empty = any"
    )
    certificate_sha256: tuple[str, ...] = Field(
        default=(),
        description="SHA-256 of its TLS client certificates, hexadecimal; it may then never speak in clear; empty = any",
    )

    _networks = field_validator("addresses")(_require_networks)
    _fingerprints = field_validator("certificate_sha256")(_require_fingerprints)


class DicomSettings(_Room):
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


class SenderSettings(_Room):
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

    _networks = field_validator("addresses")(_require_networks)
    _fingerprint = field_validator("certificate_sha256")(_require_fingerprint)

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


class MllpSettings(_Room):
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


class InboxSettings(_Room):
    """The messages that entered by the report doors."""

    keep_days: int = Field(
        default=365,
        ge=0,
        description="Days after which the bytes of a message are deleted; verdict, answer and accepted CDA stay; "
        "0 = for ever",
    )


class AccountSettings(_Room):
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

    _networks = field_validator("addresses")(_require_networks)
    _fingerprint = field_validator("certificate_sha256")(_require_fingerprint)

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


class WebSettings(_Room):
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

    _networks = field_validator("proxies")(_require_networks)

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
        if not self.internal_certificate and not _is_loopback(self.internal_host):
            raise ValueError("web: internal_host is not a loopback address: internal_certificate is required")
        return self


class OrganisationSettings(_Room):
    """Who publishes: the structure whose certificate signs."""

    name: str = Field(min_length=1, description="Name of the structure, as authorInstitution says it")
    structure_id: str = Field(
        min_length=2, description="Struct_IdNat (1+FINESS, 3+SIRET…): OU of the certificates"
    )
    legal_entity_id: str = Field(
        default="",
        description="Struct_IdNat of the legal entity, where the DMP certificates are its own (mode EJ/EG); empty ="
        " structure_id",
    )
    sector: str = Field(
        default="SA08",
        description="Secteur_Activite of the VIHF when the report names none (1.2.250.1.71.4.2.4)",
    )
    uid_root: str = Field(description="OID under which submission sets are identified; also the XDS sourceId")
    device_id: str = Field(min_length=1, description="Identifier of this appliance as author (XCN.1)")
    manufacturer: str = Field(default="DRIMBox", description="Manufacturer (0008,0070) of the manifests")

    @field_validator("uid_root")
    @classmethod
    def _oid(cls, value: str) -> str:
        if not is_oid(value) or len(value) > 40:
            raise ValueError("must be an OID of at most 40 characters")
        return value


class PolicySettings(_Room):
    """Rules that a department may tune."""

    ins_authorities: tuple[str, ...] = Field(
        description="OIDs of INS accepted here: .8 .9 in production, .10 .11 in test"
    )
    ipp_authority: str = Field(
        default="",
        description="OID of the IPP domain of the PACS; empty = any local identifier of the report",
    )
    settle_after: Seconds = Field(
        default=60, description="Seconds without a new instance before a study is published"
    )
    thinner_alarm: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Share of the published instances that may vanish without a known cause; more waits for an operator",
    )
    orphan_replacement: bool = Field(
        default=True,
        description="A report that replaces one never seen here is taken as a new one; false = refused (AE 207/900)",
    )
    idempotent_delete: bool = Field(
        default=False, description="The withdrawal of an unknown report is answered AA; false = AE 207/906"
    )
    same_author: bool = Field(
        default=False,
        description="Only the structure that made a report may replace or withdraw it (AE 207/901); "
        "false = a warning",
    )
    publish_without_destdmp: bool = Field(
        default=False, description="Publish the manifest of a report with DESTDMP = N too"
    )
    consent_from_adt: bool = Field(
        default=False,
        description="Read the patient's opposition (ZFA-9 = IO) from ADT messages: it blocks the visit's exams",
    )
    time_zone: str = Field(default="Europe/Paris", description="Zone of dates without offset")

    @field_validator("ins_authorities")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [oid for oid in value if oid not in INS_AUTHORITIES]
        if unknown or not value:
            raise ValueError(f"unknown or no INS authority: {', '.join(unknown) or '(empty)'}")
        return value


class DmpSettings(_Room):
    """The DMP and how we speak to it."""

    repository_url: str = Field(description="Address of the repository service (TD2.1)")
    registry_url: str = Field(description="Address of the registry service (TD3.1b, TD3.3c)")
    authority: PemFile = Field(description="PEM: authorities of the DMP's server certificate")
    client_certificate: PemFile = Field(description="PEM: ORG AUTH_CLI certificate for mutual TLS")
    client_key: PemFile = Field(description="PEM: its private key")
    signature_certificate: PemFile = Field(description="PEM: ORG SIGN certificate for VIHF and lot")
    signature_key: PemFile = Field(description="PEM: its private key")
    compatibility: Literal["sha256", "sha1"] = Field(
        default="sha256", description="Algorithms of VIHF and lot; sha1 reproduces the accepted 2023 sample"
    )
    mode_attribute: Literal["Authentification_Mode", "Authentification_mode"] = Field(
        default="Authentification_Mode", description="Letter case of that VIHF attribute"
    )
    authn_context: str = Field(
        default="urn:oasis:names:tc:SAML:2.0:ac:classes:TLSClient",
        description="AuthnContextClassRef of the VIHF",
    )
    secret_connection_code: str = Field(
        default="",
        description="VIHF confidentiality code of a secret connection (CONNEXION_SECRETE = Y); "
        "empty = such reports are not published",
    )
    author_type: Literal["EI", "RI"] = Field(default="EI", description="XCN.13 of the appliance as author")
    study_reference_authority: str = Field(
        default="",
        description="CX.4 of the studyInstanceUID in referenceIdList (1.2.3.4.5.6 in ANS samples); empty = none",
    )
    event_code_schemes: Literal["code_system", "value_set"] = Field(
        default="code_system",
        description="codingScheme of modality and region: DCM and SNOMED CT, or the JDV OIDs",
    )
    utc: bool = Field(default=True, description="XDS times in UTC; false = local digits, as the ANS samples")
    lps_id: str = Field(description="LPS_ID of the VIHF: identifier of this installation")
    lps_name: str = Field(default="DRIMBox", description="LPS_Nom of the VIHF")
    lps_homologation: str = Field(description="LPS_ID_HOMOLOGATION_DMP of the VIHF")
    connect_timeout: Seconds = Field(default=10, description="Seconds to reach the DMP")
    answer_timeout: Seconds = Field(default=60, description="Seconds for the whole answer")
    lease: Seconds = Field(
        default=180,
        description="Seconds after which a submission in flight is declared doubtful; over connect_timeout + answer_timeout",
    )
    retry_base: Seconds = Field(
        default=30, description="Seconds before the first new attempt; doubles each time"
    )
    retry_cap: Seconds = Field(default=600, description="Longest wait between two attempts, in seconds")

    @model_validator(mode="after")
    def _lease_outlives_the_exchange(self) -> Self:
        if self.lease <= self.connect_timeout + self.answer_timeout:
            raise ValueError("lease must be longer than connect_timeout + answer_timeout")
        return self


class PscSettings(_Room):
    """Pro Santé Connect, for the tokens of the partners."""

    issuer: str = Field(description="`iss` of the tokens: the realm's address")
    discovery_url: str = Field(
        default="", description="Empty: issuer + /.well-known/wallet-openid-configuration"
    )
    authority: PemFile = Field(description="PEM: authorities of Pro Santé Connect's server certificate")
    client_id: str = Field(description="client_id sent with introspection; CN of the certificate")
    client_certificate: PemFile = Field(description="PEM: ORG AUTH_CLI certificate for mutual TLS")
    client_key: PemFile = Field(description="PEM: its private key")
    timeout: Seconds = Field(default=5, description="Seconds for an introspection")
    cache: float = Field(
        default=30, ge=0, le=30, description="Longest time a positive answer is believed, in seconds"
    )
    audiences: tuple[str, ...] = Field(
        default=(),
        description="Values of `aud` or `azp` that a token must have one of; empty = not looked at (tokens are issued"
        " to other DRIMBoxes)",
    )
    minimum_acr: Literal["eidas1", "eidas2", "eidas3"] = Field(
        default="eidas1", description="Lowest level of authentication accepted"
    )
    binding: Literal["require", "if-available"] = Field(
        default="if-available",
        description="Tokens bound to a certificate (`cnf`): require = refused when none reached us; if-available ="
        " then accepted and traced; one that does not match is always refused",
    )


class WhitelistSettings(_Room):
    """The ANS whitelist of the mesh (liste blanche DRIM-M): where it is, whom it is believed from, who we are in it."""

    url: str = Field(description="Address of the signed list (https)")
    authority: PemFile | None = Field(
        default=None,
        description="PEM: authorities of that server's certificate; not set = those of the system",
    )
    environment: Literal["test", "production"] = Field(
        description="Of IGC Santé: a certificate of the other one is refused"
    )
    root: PemFile = Field(description="PEM: root authority (ACR) of the list's signer, pinned")
    intermediate: PemFile = Field(
        description="PEM: intermediate authority (ACI) of the list's signer, pinned"
    )
    root_crl_url: str = Field(description="Address of the root's CRL (http or https: it is signed)")
    intermediate_crl_url: str = Field(description="Address of the intermediate's CRL")
    crl_policy: Literal["require", "prefer"] = Field(
        default="require",
        description="prefer = a list is accepted with a warning when no CRL was ever had; require = it is unusable",
    )
    crl_grace_days: int = Field(
        default=7,
        ge=0,
        le=30,
        description="Days after nextUpdate during which a CRL is still believed, with a warning",
    )
    signer_cn: str = Field(default="Liste Blanche DRIM-M", description="CN of the list's signer")
    signer_ou: str = Field(default="318751275100020", description="OU of the list's signer: the ANS")
    host: str = Field(default="", description="Our `db` host in the list; empty = the host of web.public_url")
    subject: str = Field(
        default="",
        description="DN of our operator certificate, to be warned when the list names another; empty = any",
    )
    peers: Literal["off", "warn", "require"] = Field(
        default="warn",
        description="Certificates of partners against the list: not looked at, a warning, or 403 peer-not-member",
    )
    connect_timeout: Seconds = Field(default=10, description="Seconds to reach the publisher")
    answer_timeout: Seconds = Field(default=60, description="Seconds for the whole list")
    keep_days: int = Field(default=400, ge=30, description="Days that accepted lists are kept")
    proof_certificate: PemFile | None = Field(
        default=None, description="PEM: the editor's own certificate that signs the proofs of verification"
    )
    proof_key: PemFile | None = Field(default=None, description="PEM: its private key")
    proof_mode: Literal["local", "esignsante"] = Field(
        default="local",
        description="esignsante = a configured eSignSanté is asked too; it can only refuse more",
    )
    esignsante_url: str = Field(default="", description="Base address of that eSignSanté (https)")
    esignsante_authority: PemFile | None = Field(
        default=None, description="PEM: authorities of its certificate; not set = those of the system"
    )
    esignsante_configuration: int = Field(default=1, ge=0, description="Its idVerifSignConf")
    esignsante_proof_configuration: int = Field(default=1, ge=0, description="Its idProofConf")
    esignsante_applicant: str = Field(
        default="drimbox", pattern=r"^[a-zA-Z_0-9\-]*$", description="applicantId that we send it"
    )

    @field_validator("url", "esignsante_url")
    @classmethod
    def _https(cls, value: str) -> str:
        if value and not value.startswith("https://"):
            raise ValueError("must be an https:// address")
        return value

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.proof_certificate is None) != (self.proof_key is None):
            raise ValueError("proof_certificate and proof_key go together")
        if self.proof_mode == "esignsante" and not self.esignsante_url:
            raise ValueError("proof_mode = esignsante needs esignsante_url")
        return self


#: every probe that an installation may have: a name of `health.fail_on` that is none would guard nothing
PROBES = frozenset(
    (
        *("database:write", "images:write", "images:free", "whitelist:state", "dicom:echo", "mllp:connect"),
        "dicoms:handshake",
        *("mllps:connect", "worker:heartbeat", "queue:age", "crl:age", "dmp:connect", "psc:connect"),
        *("certificates:web", "certificates:web-internal", "certificates:psc", "certificates:dmp"),
        *(
            "certificates:signature",
            "certificates:proof",
            "certificates:mllps",
            "certificates:audit",
            "certificates:dicom",
        ),
        "probes:list",
    )
)


class HealthSettings(_Room):
    """What the health check looks at, and who may ask for it."""

    period: Seconds = Field(default=15, le=300, description="Seconds between two looks at our own parts")
    remote_period: Seconds = Field(
        default=60, le=3600, description="Seconds between two looks at DMP, PSC, certificates and CRLs"
    )
    deadline: Seconds = Field(default=5, le=60, description="Seconds that one look may take")
    fail_on: tuple[str, ...] = Field(
        default=(
            "database:write",
            "images:write",
            "images:free",
            "whitelist:state",
            "certificates:web",
            "certificates:psc",
        ),
        description="Probes whose failure is told as `fail` (503); that of any other is a `warn`",
    )
    not_here: tuple[str, ...] = Field(
        default=(),
        description="Probes that are not run on this node, because what they look at lives on another one",
    )
    queue_age_warn: Seconds = Field(
        default=3600, description="Seconds that something due may wait in the queue before a warning"
    )
    certificate_warn_days: int = Field(
        default=30, ge=1, le=365, description="Days before its end from which a certificate is a warning"
    )
    filter: bool = Field(
        default=False, description="true = only listed addresses get an answer from the health check"
    )
    allowed: tuple[str, ...] = Field(
        default=(), description="Addresses or networks (CIDR) that pass the filter as well"
    )
    list_urls: tuple[str, ...] = Field(
        default=(
            "https://uptime.betterstack.com/ips.txt",
            "https://uptime.betterstack.com/ips-by-cluster.json",
        ),
        min_length=1,
        description="Where BetterStack publishes the addresses of its probes; the first usable one counts",
    )
    list_authority: PemFile | None = Field(
        default=None,
        description="PEM: authorities of that server's certificate; not set = those of the system",
    )
    list_refresh: Seconds = Field(
        default=6 * 3600, ge=60, description="Seconds between two retrievals of the list"
    )
    list_stale: Seconds = Field(
        default=48 * 3600, description="Seconds after which a list that could not be renewed is stale"
    )
    fail_open: bool = Field(
        default=True,
        description="A stale list no longer keeps anybody from the health check (and from nothing else)",
    )

    _networks = field_validator("allowed")(_require_networks)

    @field_validator("fail_on", "not_here")
    @classmethod
    def _known_probes(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := [name for name in value if name not in PROBES]:
            raise ValueError(f"no such probe: {', '.join(unknown)}")
        return value

    @field_validator("list_urls")
    @classmethod
    def _https(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if any(not url.startswith("https://") for url in value):
            raise ValueError("must be https:// addresses")
        return value

    @model_validator(mode="after")
    def _in_time(self) -> Self:
        if self.deadline > self.period:
            raise ValueError("deadline may not be longer than period")
        if both := sorted(set(self.fail_on) & set(self.not_here)):
            raise ValueError(f"in fail_on and in not_here: {', '.join(both)}")
        if self.list_stale < self.list_refresh:
            raise ValueError("list_stale may not be shorter than list_refresh")
        return self


class WorkerSettings(_Room):
    """The process that reconciles and publishes."""

    poll_interval: Seconds = Field(default=1, description="Seconds between two looks for work")
    publishers: int = Field(default=4, ge=1, le=32, description="Submissions sent at once")


class ArchiveSettings(_Room):
    """How long documents and images that nobody needs are kept."""

    keep_days: int = Field(
        default=0,
        ge=0,
        description="Days after which `drimbox archive purge` deletes the documents of lots that were replaced, "
        "unpublished or dropped; 0 = for ever",
    )
    compact_share: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Share of a segment that nobody needs, above which it is written anew without it",
    )
    rejected_keep_days: int = Field(
        default=0, ge=0, description="Days after which rejected images may be deleted; 0 = never"
    )


class RetentionSettings(_Room):
    """How long images stay of exams that must not be public: `drimbox archive retention`."""

    images_days: int = Field(
        default=0,
        ge=0,
        description="Days since the last change of an exam that was withdrawn, rejected or must not be shared after"
        " which its images may be forgotten; 0 = never",
    )
    automatic: bool = Field(
        default=False, description="true = the worker does it every day; false = only the command does"
    )

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.automatic and not self.images_days:
            raise ValueError("automatic needs images_days")
        return self


class AuditSettings(_Room):
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


class ApplicationSettings(_Room):
    """Another application behind the proxy that this DRIMBox uses: `[[deployment.applications]]`."""

    name: str = Field(min_length=1, max_length=64, description="Its name; its instances are one application")
    client_id: str = Field(min_length=1, description="Its Client_ID at Pro Santé Connect")
    certificate: PemFile | None = Field(
        default=None, description="PEM: the certificate that the proxy shows for it, where it is at hand"
    )


class DeploymentSettings(_Room):
    """Where this DRIMBox stands and who operates the proxy e-santé: declared, and checked against what the ANS accepts."""

    proxy: Literal["integrated", "mutualised", "externalised"] = Field(
        default="integrated",
        description="Proxy towards Pro Santé Connect: in this product; one for several installations; another operator's",
    )
    hosting: Literal["data-centre", "establishment", "office", "workstation"] | None = Field(
        default=None,
        description="data-centre = of the editor (SaaS); establishment = on its own information system; office = outside"
        " any data centre; workstation; not set = the deployment is not checked",
    )
    proxy_operator: str = Field(
        default="",
        description="Struct_IdNat of who operates the proxy (1+FINESS, 3+SIRET…); empty = we do, inside",
    )
    proxy_client_certificate: PemFile | None = Field(
        default=None, description="PEM: ORG AUTH_CLI certificate of the proxy, where it is ours"
    )
    applications: tuple[ApplicationSettings, ...] = Field(
        default=(), description="What else uses that proxy, one [[deployment.applications]] each"
    )


class KeysSettings(_Room):
    """Private keys at rest."""

    passphrase: PemFile | None = Field(
        default=None,
        description="File (or credential:NAME) that holds the passphrase of the private keys, one line; set = a key that"
        " is not encrypted is refused",
    )


class LogSettings(_Room):
    """Structured logs on standard error; never patient data."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least level written"
    )
    format: Literal["json", "console"] = Field(
        default="json", description="json for machines, console for people"
    )


class Settings(_Room):
    """Every room's settings."""

    node: NodeSettings = NodeSettings()
    storage: StorageSettings
    database: DatabaseSettings
    dicom: DicomSettings
    mllp: MllpSettings
    inbox: InboxSettings = InboxSettings()
    web: WebSettings
    organisation: OrganisationSettings
    policy: PolicySettings
    dmp: DmpSettings
    psc: PscSettings
    whitelist: WhitelistSettings
    health: HealthSettings = HealthSettings()
    worker: WorkerSettings = WorkerSettings()
    archive: ArchiveSettings = ArchiveSettings()
    retention: RetentionSettings = RetentionSettings()
    audit: AuditSettings = AuditSettings()
    deployment: DeploymentSettings = DeploymentSettings()
    keys: KeysSettings = KeysSettings()
    log: LogSettings = LogSettings()


def parse_settings(text: str, environment: Mapping[str, str] = MappingProxyType({})) -> Settings:
    """Read settings from TOML text; `DRIMBOX_ROOM__KEY` of `environment` stands for that key.

    Raises `ConfigurationError` with every fault at once.
    """
    named: dict[tuple[str, ...], str] = {}
    try:
        document = tomllib.loads(text)
        for name, value in sorted(environment.items()):
            if (found := _VARIABLE.fullmatch(name)) is not None:
                room, key = found[1].lower(), found[2].lower()
                table = document.setdefault(room, {})
                if isinstance(table, dict):  # else the file is wrong there, which is said
                    table[key], named[room, key] = _value(value), name
        return Settings.model_validate(document)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError([f"not TOML: {error}"]) from error
    except ValidationError as error:
        raise ConfigurationError([_sentence(fault, named) for fault in error.errors()]) from error


def load_settings(path: Path) -> Settings:
    """Read settings from a file and the environment. Raises `ConfigurationError`, also when it cannot be read."""
    try:
        return parse_settings(path.read_text("utf-8"), os.environ)
    except OSError as error:
        raise ConfigurationError([f"{path}: {error.strerror}"]) from error


def _value(text: str) -> object:
    """Of a variable: as it stands; a list or a table is written in TOML, on one line. Raises `TOMLDecodeError`."""
    if not text.lstrip().startswith(("[", "{")):
        return text
    return tomllib.loads(f"value = {text.strip()}")["value"]


def _sentence(fault: object, named: Mapping[tuple[str, ...], str]) -> str:
    assert isinstance(fault, dict)
    where = ".".join(str(part) for part in fault["loc"])
    words = {"extra_forbidden": "unknown key", "missing": "missing"}
    variables = [name for place, name in named.items() if place[: len(fault["loc"])] == fault["loc"][:2]]
    said_by = f" (${', $'.join(variables)})" if variables else ""
    return f"{where}{said_by}: {words.get(str(fault['type']), fault['msg'])}"
