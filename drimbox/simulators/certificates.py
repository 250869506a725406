"""X.509 building for the test PKI: the table of certificate kinds, one signer for all of them, CRLs.

Profiles: trust-and-identity 5.2 (offers of IGC Santé), DN rules 5.3.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, NameOID

TEST_POLICY = x509.ObjectIdentifier("1.2.250.1.213.1.7.2.1.1.1.1")
ENVIRONMENT_OID = x509.ObjectIdentifier("1.2.250.1.71.1.2.5")
TEST_OCTET = b"\x04\x01\x83"
PRODUCTION_OCTET = b"\x04\x01\x03"


@dataclass(frozen=True)
class Kind:
    """One row of the profile table: usages, SAN or not, path length, name of the CRL that covers it."""

    key_usages: frozenset[str]
    extended: tuple[x509.ObjectIdentifier, ...] = ()
    san: bool = False
    authority: bool = False
    path_length: int | None = None
    crl: str | None = "aci"


KINDS: dict[str, Kind] = {
    "ROOT": Kind(frozenset({"key_cert_sign", "crl_sign"}), authority=True, crl=None),
    "ACI": Kind(frozenset({"key_cert_sign", "crl_sign"}), authority=True, path_length=0, crl="root"),
    "AUTH_CLI": Kind(frozenset({"digital_signature"}), (ExtendedKeyUsageOID.CLIENT_AUTH,)),
    "SIGN": Kind(
        frozenset({"digital_signature", "content_commitment"}), (ExtendedKeyUsageOID.EMAIL_PROTECTION,)
    ),
    "SERV_SSL": Kind(
        frozenset({"digital_signature", "key_encipherment"}),
        (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH),
        san=True,
    ),
}
_AUTHORITY_CN = {
    "root": "SIMULATION TEST AC RACINE IGC-SANTE ELEMENTAIRE",
    "aci": "SIMULATION TEST AC IGC-SANTE ELEMENTAIRE ORGANISATIONS",
}
_KEY_USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


@dataclass(frozen=True)
class Template:
    """What a certificate should say: subject, validity, kind, and the faults wanted in it."""

    name: x509.Name
    not_before: datetime
    not_after: datetime
    kind: str
    wrong_key_usage: bool = False
    production: bool = False


@dataclass(frozen=True)
class Urls:
    """URL prefixes written in certificates: of the CRLs, of the authorities' certificates."""

    crl: str
    authority: str


def subject(cn: str, ou: str, organisation: str, state: str = "Paris (75)") -> x509.Name:
    """DN of a leaf: C, ST, O (truncated at 40), OU = type digit + structure id, CN (5.3)."""
    rows = (
        (NameOID.COUNTRY_NAME, "FR"),
        (NameOID.STATE_OR_PROVINCE_NAME, state),
        (NameOID.ORGANIZATION_NAME, organisation[:40]),
        (NameOID.ORGANIZATIONAL_UNIT_NAME, ou),
        (NameOID.COMMON_NAME, cn),
    )
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in rows])


def authority_name(name: str) -> x509.Name:
    """DN of `root` or `aci`, in the order of IGC Santé (trust-and-identity 5.1)."""
    rows = (
        (NameOID.COUNTRY_NAME, "FR"),
        (NameOID.ORGANIZATION_NAME, "ASIP-SANTE"),
        (NameOID.ORGANIZATIONAL_UNIT_NAME, "0002 187512751"),
        (NameOID.ORGANIZATIONAL_UNIT_NAME, "IGC-SANTE TEST"),
        (NameOID.COMMON_NAME, _AUTHORITY_CN[name]),
    )
    return x509.Name([x509.NameAttribute(key, value) for key, value in rows])


def key_usage(names: Iterable[str]) -> x509.KeyUsage:
    """The KeyUsage extension with exactly these usages."""
    wanted = frozenset(names)
    return x509.KeyUsage(**{name: name in wanted for name in _KEY_USAGES})


def sign_certificate(
    template: Template,
    public_key: rsa.RSAPublicKey,
    issuer: x509.Certificate | None,
    issuer_key: rsa.RSAPrivateKey,
    urls: Urls,
) -> x509.Certificate:
    """A certificate of the template's kind, RSA-SHA256; self-signed when there is no issuer."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(template.name)
        .issuer_name(issuer.subject if issuer else template.name)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(template.not_before)
        .not_valid_after(template.not_after)
    )
    for extension, critical in _extensions(template, public_key, issuer_key.public_key(), urls):
        builder = builder.add_extension(extension, critical)
    return builder.sign(issuer_key, hashes.SHA256())


def _extensions(
    template: Template, public_key: rsa.RSAPublicKey, issuer_key: rsa.RSAPublicKey, urls: Urls
) -> Iterable[tuple[x509.ExtensionType, bool]]:
    kind = KINDS[template.kind]
    usages = frozenset({"key_encipherment"}) if template.wrong_key_usage else kind.key_usages
    yield x509.BasicConstraints(kind.authority, kind.path_length), kind.authority
    yield key_usage(usages), True
    yield x509.SubjectKeyIdentifier.from_public_key(public_key), False
    yield x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), False
    if kind.extended:
        yield x509.ExtendedKeyUsage(kind.extended), False
    if kind.crl:
        yield _distribution(f"{urls.crl}/{kind.crl}.crl"), False
        yield _issuer_access(f"{urls.authority}/{kind.crl}.cer"), False
    if not kind.authority:
        octet = PRODUCTION_OCTET if template.production else TEST_OCTET
        yield x509.CertificatePolicies([x509.PolicyInformation(TEST_POLICY, None)]), False
        yield x509.UnrecognizedExtension(ENVIRONMENT_OID, octet), False
    if kind.san:
        yield _alternative_names(template.name), False


def _distribution(url: str) -> x509.CRLDistributionPoints:
    point = x509.DistributionPoint([x509.UniformResourceIdentifier(url)], None, None, None)
    return x509.CRLDistributionPoints([point])


def _issuer_access(url: str) -> x509.AuthorityInformationAccess:
    method = AuthorityInformationAccessOID.CA_ISSUERS
    return x509.AuthorityInformationAccess(
        [x509.AccessDescription(method, x509.UniformResourceIdentifier(url))]
    )


def _alternative_names(name: x509.Name) -> x509.SubjectAlternativeName:
    cn = str(name.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)
    hosts = dict.fromkeys(("localhost", cn))
    loopback = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    return x509.SubjectAlternativeName([*map(x509.DNSName, hosts), loopback])


@dataclass(frozen=True)
class CrlDates:
    """When a CRL was made, when the next one is due, and its number."""

    this_update: datetime
    next_update: datetime
    number: int


def make_crl(
    issuer: x509.Certificate, key: rsa.RSAPrivateKey, serials: Iterable[int], dates: CrlDates
) -> x509.CertificateRevocationList:
    """A version 2 CRL, SHA-256, numbered, without reason codes (trust-and-identity 5.4)."""
    builder = x509.CertificateRevocationListBuilder().issuer_name(issuer.subject)
    builder = builder.last_update(dates.this_update).next_update(dates.next_update)
    builder = builder.add_extension(x509.CRLNumber(dates.number), False)
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), False
    )
    revoked_at = dates.this_update - timedelta(hours=1)
    for serial in serials:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(revoked_at)
        builder = builder.add_revoked_certificate(entry.build())
    return builder.sign(key, hashes.SHA256())
