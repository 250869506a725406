"""One X.509 certificate, read whole before it is judged: what cannot be read is refused once, here."""

from __future__ import annotations

from datetime import datetime
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes

_Extension = TypeVar("_Extension", bound=x509.ExtensionType)

STRONG = (hashes.SHA256, hashes.SHA384, hashes.SHA512)
_LAZY = (
    "version",
    "subject",
    "issuer",
    "not_valid_before_utc",
    "not_valid_after_utc",
    "extensions",
    "signature_hash_algorithm",
)
ENVIRONMENT = x509.ObjectIdentifier("1.2.250.1.71.1.2.5")


class Unreadable(Exception):
    """A certificate or a part of it that cannot be read."""


def load(der: bytes) -> x509.Certificate:
    """The certificate; its lazily decoded parts are all tried. Raises `Unreadable`."""
    try:
        certificate = x509.load_der_x509_certificate(der)
        certificate.public_key()
        for part in _LAZY:
            getattr(certificate, part)
    except (
        ValueError,
        TypeError,
        UnsupportedAlgorithm,
        x509.DuplicateExtension,
        x509.InvalidVersion,
        x509.UnsupportedGeneralNameType,
    ) as error:
        raise Unreadable(type(error).__name__) from error
    return certificate


def issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """Does the authority's key hold the certificate's signature, and the issuer carry its name?"""
    try:
        certificate.verify_directly_issued_by(authority)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def validity_fault(certificate: x509.Certificate, at: datetime) -> str | None:
    """Why the certificate is out of its validity at the aware instant `at`."""
    if at < certificate.not_valid_before_utc:
        return f"not yet valid: valid from {certificate.not_valid_before_utc:%Y-%m-%dT%H:%M:%SZ}"
    if at > certificate.not_valid_after_utc:
        return f"expired: valid until {certificate.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}"
    return None


def extension(certificate: x509.Certificate, kind: type[_Extension]) -> _Extension | None:
    """The value of the certificate's extension of that kind."""
    return next((e.value for e in certificate.extensions if isinstance(e.value, kind)), None)
