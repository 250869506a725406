"""Is this certificate one of IGC Santé's, of the right kind, in force? Every fault is listed.

Facts: trust-and-identity 5.2 (profiles), 5.4 (revocation), 5.5 (fixed chain, no path building).
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import NameOID

from drimbox.simulators.certificates import ENVIRONMENT_OID, KINDS, TEST_OCTET, key_usage
from drimbox.simulators.pki import Pki


def certificate_faults(certificate: x509.Certificate, kind: str, pki: Pki, now: datetime) -> list[str]:
    """Every reason why it is no sound certificate of `kind` issued by the test ACI; empty = sound."""
    return [*_chain_faults(certificate, pki, now), *_profile_faults(certificate, kind)]


def structure_of(certificate: x509.Certificate) -> str:
    """The structure id: OU of the subject (type digit + identifier), empty when there is none."""
    found = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)
    return str(found[0].value) if found else ""


def _chain_faults(certificate: x509.Certificate, pki: Pki, now: datetime) -> Iterator[str]:
    if not _issued_by(certificate, pki.certificate("aci")):
        yield "not issued by the organisation authority"
    elif certificate.serial_number in pki.revoked():
        yield "revoked"
    if now < certificate.not_valid_before_utc:
        yield "not yet valid"
    if now >= certificate.not_valid_after_utc:
        yield "expired"


def _issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def _profile_faults(certificate: x509.Certificate, kind: str) -> Iterator[str]:
    row = KINDS[kind]
    try:
        extensions = certificate.extensions
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        yield "its extensions cannot be read"
        return
    if _value(extensions, x509.KeyUsage) != key_usage(row.key_usages):
        yield f"keyUsage is not that of {kind}"
    if _value(extensions, x509.ExtendedKeyUsage) != x509.ExtendedKeyUsage(row.extended):
        yield f"extendedKeyUsage is not that of {kind}"
    constraints = _value(extensions, x509.BasicConstraints)
    if isinstance(constraints, x509.BasicConstraints) and constraints.ca:
        yield "an authority, not an end entity"
    if not any(e.oid == ENVIRONMENT_OID and _octets(e.value) == TEST_OCTET for e in extensions):
        yield "not marked as a test certificate (1.2.250.1.71.1.2.5)"


def _value(extensions: x509.Extensions, kind: type[x509.ExtensionType]) -> x509.ExtensionType | None:
    return next((extension.value for extension in extensions if isinstance(extension.value, kind)), None)


def _octets(value: x509.ExtensionType) -> bytes:
    return value.value if isinstance(value, x509.UnrecognizedExtension) else b""
