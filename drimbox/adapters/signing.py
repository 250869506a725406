"""Keys and certificates on disk: every fault said at once, then held as a `Signer`.

Which usages a role needs is the table USAGES (trust-and-identity 5.2: profiles of the IGC-Santé ORG and SERV
offers).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

Kind = TypeVar("Kind", bound=x509.ExtensionType)
MIN_RSA_BITS = 2048
_HASHES: Mapping[str, hashes.HashAlgorithm] = {"sha256": hashes.SHA256(), "sha1": hashes.SHA1()}  # noqa: S303


class CredentialKind(StrEnum):
    """What a certificate is for."""

    SIGNATURE = "signature"  # ORG SIGN: VIHF and lot
    CLIENT = "client"  # ORG AUTH_CLI: mutual TLS
    SERVER = "server"  # SERV SSL: our public door
    AUTHORITY = "authority"  # bundle of authorities, no key


@dataclass(frozen=True, slots=True)
class Usage:
    """keyUsage bits (names of `x509.KeyUsage`) and one extended usage that the role needs."""

    key_usages: tuple[str, ...]
    extended: x509.ObjectIdentifier | None = None


USAGES: Mapping[CredentialKind, Usage] = {
    CredentialKind.SIGNATURE: Usage(("digital_signature", "content_commitment")),
    CredentialKind.CLIENT: Usage(("digital_signature",), ExtendedKeyUsageOID.CLIENT_AUTH),
    CredentialKind.SERVER: Usage(("digital_signature",), ExtendedKeyUsageOID.SERVER_AUTH),
    CredentialKind.AUTHORITY: Usage(("key_cert_sign",)),
}
_NAMES = {"digital_signature": "digitalSignature", "content_commitment": "nonRepudiation"}


class UnusableCredential(Exception):
    """A key or certificate cannot serve; `faults` says every reason, never any key material."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults


@dataclass(frozen=True)
class RsaSigner:
    """A `domain.signer.Signer` on an RSA key held in memory."""

    key: rsa.RSAPrivateKey
    x509: x509.Certificate

    @property
    def certificate(self) -> bytes:
        """DER."""
        return self.x509.public_bytes(serialization.Encoding.DER)

    @property
    def subject(self) -> str:
        """`CN=.., OU=.., O=.., ST=.., C=FR`."""
        return distinguished_name(self.x509.subject)

    @property
    def issuer(self) -> str:
        """Written as the subject is."""
        return distinguished_name(self.x509.issuer)

    @property
    def serial(self) -> int:
        """Serial number of the certificate."""
        return self.x509.serial_number

    def sign(self, data: bytes, digest: str) -> bytes:
        """RSA PKCS#1 v1.5; raises KeyError for a digest that is neither sha256 nor sha1."""
        return self.key.sign(data, padding.PKCS1v15(), _HASHES[digest])


def distinguished_name(name: x509.Name) -> str:
    """RFC 4514 attributes, last RDN first, `, ` between (reference-drimbox 4.3, 4.12)."""
    rdns = ["+".join(attribute.rfc4514_string() for attribute in rdn) for rdn in name.rdns]
    return ", ".join(reversed(rdns))


def load_certificate(path: Path) -> x509.Certificate:
    """The first certificate of a PEM file. Raises `UnusableCredential`."""
    return _read_certificates(path)[0]


def load_signer(certificate: Path, key: Path, now: datetime) -> RsaSigner:
    """The ORG SIGN credential as a signer. Raises `UnusableCredential` with every fault."""
    faults = list(check_credential(certificate, key, CredentialKind.SIGNATURE, now))
    if faults:
        raise UnusableCredential(faults)
    loaded = _read_key(key)
    assert isinstance(loaded, rsa.RSAPrivateKey)  # check_credential accepts nothing else
    return RsaSigner(loaded, _read_certificates(certificate)[0])


def check_credential(
    certificate: Path, key: Path | None, kind: CredentialKind, now: datetime
) -> Iterator[str]:
    """Every reason why this credential cannot serve at `now`; nothing yielded = usable.

    The first certificate of the file is judged with `key`; of a bundle of authorities, every one.
    """
    try:
        certificates = _read_certificates(certificate)
    except UnusableCredential as error:
        yield from error.faults
        certificates = []
    for judged in certificates if kind is CredentialKind.AUTHORITY else certificates[:1]:
        yield from _certificate_faults(judged, kind, now)
    if key is not None:
        yield from _key_faults(key, certificates[0] if certificates else None)


def _certificate_faults(certificate: x509.Certificate, kind: CredentialKind, now: datetime) -> Iterator[str]:
    if now < certificate.not_valid_before_utc:
        yield f"the certificate is not valid before {certificate.not_valid_before_utc:%Y-%m-%d}"
    if now > certificate.not_valid_after_utc:
        yield f"the certificate expired on {certificate.not_valid_after_utc:%Y-%m-%d}"
    wanted = USAGES[kind]
    usage = _extension(certificate, x509.KeyUsage)
    missing = [bit for bit in wanted.key_usages if usage is None or not getattr(usage, bit)]
    if missing:
        yield f"keyUsage lacks {' and '.join(_NAMES.get(bit, bit) for bit in missing)} ({kind} certificate)"
    extended = _extension(certificate, x509.ExtendedKeyUsage)
    if wanted.extended is not None and (extended is None or wanted.extended not in extended):
        yield f"extKeyUsage lacks {kind}Auth"
    constraints = _extension(certificate, x509.BasicConstraints)
    if kind is CredentialKind.AUTHORITY and (constraints is None or not constraints.ca):
        yield "a certificate of the bundle is no authority"


def _key_faults(path: Path, certificate: x509.Certificate | None) -> Iterator[str]:
    try:
        key = _read_key(path)
    except UnusableCredential as error:
        yield from error.faults
        return
    if not isinstance(key, rsa.RSAPrivateKey):
        yield "the key is not an RSA key"
    elif key.key_size < MIN_RSA_BITS:
        yield f"the RSA key has {key.key_size} bits, at least {MIN_RSA_BITS} are required"
    elif certificate is not None and key.public_key() != certificate.public_key():
        yield "the key does not match the certificate"


def _extension(certificate: x509.Certificate, kind: type[Kind]) -> Kind | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _read_certificates(path: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except OSError as error:
        raise UnusableCredential([f"{path}: {error.strerror}"]) from error
    except ValueError as error:
        raise UnusableCredential([f"{path}: no PEM certificate"]) from error


def _read_key(path: Path) -> object:
    try:
        return serialization.load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise UnusableCredential([f"{path}: {error.strerror}"]) from error
    except TypeError as error:  # cryptography's word for "a password is needed"
        raise UnusableCredential([f"{path}: the key is encrypted"]) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UnusableCredential([f"{path}: no PEM private key"]) from error
