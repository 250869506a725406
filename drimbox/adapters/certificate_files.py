"""Certificates of PEM files as facts; whatever cannot be read of one is said once, here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from drimbox.adapters.key_files import UnusableCredential
from drimbox.domain.certificate_facts import CertificateFacts
from whitelist.certificate import ENVIRONMENT

MAX_BYTES = 4 * 1024 * 1024  # a bundle of every authority of a system is a tenth of that
Extension = TypeVar("Extension", bound=x509.ExtensionType)
_KEY_USAGES = {
    "digital_signature": "digitalSignature",
    "content_commitment": "nonRepudiation",
    "key_encipherment": "keyEncipherment",
    "data_encipherment": "dataEncipherment",
    "key_agreement": "keyAgreement",
    "key_cert_sign": "keyCertSign",
    "crl_sign": "cRLSign",
}
_EXTENDED = {
    ExtendedKeyUsageOID.SERVER_AUTH: "serverAuth",
    ExtendedKeyUsageOID.CLIENT_AUTH: "clientAuth",
    ExtendedKeyUsageOID.EMAIL_PROTECTION: "emailProtection",
}
_SHORT = {
    NameOID.COMMON_NAME: "CN",
    NameOID.ORGANIZATIONAL_UNIT_NAME: "OU",
    NameOID.ORGANIZATION_NAME: "O",
    NameOID.STATE_OR_PROVINCE_NAME: "ST",
    NameOID.LOCALITY_NAME: "L",
    NameOID.COUNTRY_NAME: "C",
}
_MALFORMED = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)


def distinguished_name(name: x509.Name) -> str:
    """RFC 4514 attributes, last RDN first, `, ` between (reference-drimbox 4.3, 4.12)."""
    rdns = ["+".join(attribute.rfc4514_string() for attribute in rdn) for rdn in name.rdns]
    return ", ".join(reversed(rdns))


def read_certificates(path: Path) -> list[x509.Certificate]:
    """Every certificate of a PEM file, one at least. Raises `UnusableCredential`."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UnusableCredential([f"{path}: {error.strerror}"]) from error
    if len(content) > MAX_BYTES:
        raise UnusableCredential([f"{path}: longer than {MAX_BYTES} bytes"])
    try:
        return x509.load_pem_x509_certificates(content)
    except ValueError as error:
        raise UnusableCredential([f"{path}: no PEM certificate"]) from error


def read_facts(path: Path) -> Sequence[CertificateFacts]:
    """The facts of every certificate of a PEM file. Raises `UnusableCredential`."""
    certificates = read_certificates(path)
    try:
        return tuple(map(facts_of, certificates))
    except _MALFORMED as error:
        raise UnusableCredential([f"{path}: a malformed certificate ({type(error).__name__})"]) from error


def facts_of(certificate: x509.Certificate) -> CertificateFacts:
    """The certificate as plain values. Raises ValueError and its like for one that is malformed."""
    names = _extension(certificate, x509.SubjectAlternativeName)
    policies = _extension(certificate, x509.CertificatePolicies)
    constraints = _extension(certificate, x509.BasicConstraints)
    kind, bits = _key(certificate)
    return CertificateFacts(
        subject=_pairs(certificate.subject),
        issuer=_pairs(certificate.issuer),
        subject_name=distinguished_name(certificate.subject),
        issuer_name=distinguished_name(certificate.issuer),
        serial=certificate.serial_number,
        sha256=certificate.fingerprint(hashes.SHA256()).hex(),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        key_usages=_key_usages(certificate),
        extended_usages=_extended_usages(certificate),
        hosts=_hosts(names) if names else (),
        mails=tuple(names.get_values_for_type(x509.RFC822Name)) if names else (),
        policies=frozenset(one.policy_identifier.dotted_string for one in policies or ()),
        environment_octets=_environment(certificate),
        is_authority=constraints is not None and constraints.ca,
        key_type=kind,
        key_bits=bits,
        public_key=spki(certificate.public_key()),
    )


def spki(key: CertificatePublicKeyTypes) -> bytes:
    """SubjectPublicKeyInfo, DER: what a certificate and its private key have in common."""
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _pairs(name: x509.Name) -> tuple[tuple[str, str], ...]:
    return tuple((_SHORT.get(one.oid, one.oid.dotted_string), str(one.value)) for one in name)


def _hosts(names: x509.SubjectAlternativeName) -> tuple[str, ...]:
    addresses = map(str, names.get_values_for_type(x509.IPAddress))
    return (*names.get_values_for_type(x509.DNSName), *addresses)


def _key_usages(certificate: x509.Certificate) -> frozenset[str]:
    usage = _extension(certificate, x509.KeyUsage)
    return frozenset(name for bit, name in _KEY_USAGES.items() if usage is not None and getattr(usage, bit))


def _extended_usages(certificate: x509.Certificate) -> frozenset[str]:
    usages = _extension(certificate, x509.ExtendedKeyUsage) or ()
    return frozenset(_EXTENDED.get(one, one.dotted_string) for one in usages)


def _environment(certificate: x509.Certificate) -> bytes | None:
    values = (one.value for one in certificate.extensions if one.oid == ENVIRONMENT)
    return next((one.value for one in values if isinstance(one, x509.UnrecognizedExtension)), None)


def _key(certificate: x509.Certificate) -> tuple[str, int]:
    key = certificate.public_key()
    if isinstance(key, rsa.RSAPublicKey):
        return "RSA", key.key_size
    return ("EC", key.key_size) if isinstance(key, ec.EllipticCurvePublicKey) else (type(key).__name__, 0)


def _extension(certificate: x509.Certificate, kind: type[Extension]) -> Extension | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
