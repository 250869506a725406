"""A certificate as plain values, and which offer of IGC Santé it is: facts of trust-and-identity 5.1 to 5.3."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

TEST, PRODUCTION = "test", "production"
MIN_RSA_BITS = 2048
# 5.2: DER OCTET STRING of the private extension 1.2.250.1.71.1.2.5; bit 0x80 = test
ENVIRONMENT_OCTETS: Mapping[bytes, str] = {b"\x04\x01\x83": TEST, b"\x04\x01\x03": PRODUCTION}
# 5.1: OU of the authorities themselves
AUTHORITY_UNITS: Mapping[str, str] = {"IGC-SANTE TEST": TEST, "IGC-SANTE": PRODUCTION}
# 5.2: policies, where the extension is not there
POLICIES: Mapping[str, str] = {
    "1.2.250.1.213.1.7.2.1.1.1.1": TEST,
    "1.2.250.1.213.1.7.1.1.2.5.1": PRODUCTION,
    "1.2.250.1.213.1.7.1.1.2.3.1": PRODUCTION,
}


@dataclass(frozen=True, slots=True)
class CertificateFacts:
    """A certificate as plain values.

    `subject`, `issuer`: (short name, value) in the order of the DER; `subject_name`, `issuer_name`: as text, CN first.
    `key_usages`, `extended_usages`: X.509 names (digitalSignature, clientAuth), of an unknown extended usage its OID.
    `hosts`: DNS names and addresses of subjectAltName; `mails`: its rfc822 names. `environment_octets`: the private
    extension of IGC Santé, None = absent. Instants are aware. `key_bits`: 0 when not known.
    `public_key`: SubjectPublicKeyInfo, DER.
    """

    subject: tuple[tuple[str, str], ...]
    issuer: tuple[tuple[str, str], ...]
    subject_name: str
    issuer_name: str
    serial: int
    sha256: str
    not_before: datetime
    not_after: datetime
    key_usages: frozenset[str] = frozenset()
    extended_usages: frozenset[str] = frozenset()
    hosts: tuple[str, ...] = ()
    mails: tuple[str, ...] = ()
    policies: frozenset[str] = frozenset()
    environment_octets: bytes | None = None
    is_authority: bool = False
    key_type: str = "RSA"
    key_bits: int = MIN_RSA_BITS
    public_key: bytes = b""

    def values(self, short_name: str) -> tuple[str, ...]:
        """The subject's values of one attribute (CN, OU...)."""
        return tuple(value for name, value in self.subject if name == short_name)

    @property
    def environment(self) -> str | None:
        """`test` or `production` of IGC Santé; None: nothing says that it is one of its certificates."""
        if self.environment_octets is not None:
            return ENVIRONMENT_OCTETS.get(self.environment_octets)
        said = [POLICIES[policy] for policy in sorted(self.policies) if policy in POLICIES]
        if self.is_authority:
            said += [AUTHORITY_UNITS[unit] for unit in self.values("OU") if unit in AUTHORITY_UNITS]
        return said[0] if said else None

    @property
    def is_self_issued(self) -> bool:
        """Whether it bears one and the same name twice."""
        return self.subject == self.issuer


class Kind(StrEnum):
    """The offers of IGC Santé (5.2), and what else a certificate may be."""

    AUTHORITY = "authority"
    SERV_SSL = "SERV SSL"
    ORG_AUTH_CLI = "ORG AUTH_CLI"
    SERV_SMIME = "SERV S/MIME"
    ORG_SIGN = "ORG SIGN"
    PERSON_SIGN = "person's signature"
    ORG_CONF = "ORG CONF"
    OTHER = "other"


IN_WORDS: Mapping[Kind, str] = {
    Kind.AUTHORITY: "an authority's certificate",
    Kind.SERV_SSL: "a SERV SSL certificate",
    Kind.ORG_AUTH_CLI: "an ORG AUTH_CLI certificate",
    Kind.SERV_SMIME: "a SERV S/MIME certificate",
    Kind.ORG_SIGN: "an ORG SIGN certificate",
    Kind.PERSON_SIGN: "a person's signature certificate",
    Kind.ORG_CONF: "an ORG CONF certificate",
    Kind.OTHER: "a certificate of no known kind",
}
_SIGNS = frozenset({"digitalSignature", "nonRepudiation"})
_KINDS: tuple[tuple[Kind, Callable[[CertificateFacts], bool]], ...] = (
    (Kind.AUTHORITY, lambda one: one.is_authority),
    (Kind.SERV_SSL, lambda one: "serverAuth" in one.extended_usages),
    (Kind.ORG_AUTH_CLI, lambda one: "clientAuth" in one.extended_usages),
    (Kind.SERV_SMIME, lambda one: one.key_usages >= _SIGNS and bool(one.mails)),
    (Kind.ORG_SIGN, lambda one: one.key_usages >= _SIGNS),
    (Kind.PERSON_SIGN, lambda one: "nonRepudiation" in one.key_usages),
    (
        Kind.ORG_CONF,
        lambda one: one.key_usages & {"keyEncipherment", "digitalSignature"} == {"keyEncipherment"},
    ),
)


def kind_of(facts: CertificateFacts) -> Kind:
    """What its usages make of it: the first row that holds (5.2)."""
    return next((kind for kind, holds in _KINDS if holds(facts)), Kind.OTHER)
