"""Who signed: leaf to intermediate to root by pinned authorities, and the leaf's content (3.5 steps 9 and 10).

The chain is fixed (trust-and-identity 5.1, 5.5): no path is built and no certificate of the file is an authority.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from cryptography import x509
from cryptography.x509.oid import NameOID

from whitelist.certificate import ENVIRONMENT, STRONG, extension, issued_by, validity_fault
from whitelist.document import FORMS, NAMESPACES, ROOT
from whitelist.finding import Finding

# The private extension 1.2.250.1.71.1.2.5 of IGC Santé, DER OCTET STRING (5.2): bit 0x80 = test.
ENVIRONMENT_VALUES: Mapping[str, bytes] = {"test": b"\x04\x01\x83", "production": b"\x04\x01\x03"}
_OTHER_ENVIRONMENT = {"test": "production", "production": "test"}


@dataclass(frozen=True, slots=True)
class Anchors:
    """What a list is judged by: pinned authorities, the signer's names, and the stated policies.

    `root`, `intermediate`: configuration, never those of a file. `signer_cn`, `signer_ou`: exact (2.4). `policies`:
    dotted OIDs of which the leaf has one. `namespaces`, `document_root`: accepted form (a root that no list has raises
    ValueError); `other_namespaces`: another namespace is a warning. `skew`: of clocks. `crl_grace`: how long a CRL
    serves after its nextUpdate, with a warning (5.4). `crl_policy` "prefer": a CRL that was never had is a warning;
    "require": it makes a list unusable.
    """

    root: x509.Certificate
    intermediate: x509.Certificate
    signer_cn: str
    signer_ou: str
    policies: frozenset[str]
    environment: Literal["test", "production"]
    namespaces: tuple[str, ...] = NAMESPACES
    skew: timedelta = timedelta(minutes=5)
    crl_grace: timedelta = timedelta(days=7)
    crl_policy: Literal["require", "prefer"] = "require"
    document_root: str = ROOT
    other_namespaces: bool = False

    def __post_init__(self) -> None:
        if self.document_root not in FORMS:
            raise ValueError(f"no list has the root {self.document_root!r}: {', '.join(FORMS)}")


@dataclass(frozen=True, slots=True)
class Crls:
    """The last good CRL of each pinned authority; None when there never was one.

    `of_intermediate` lists the leaves that the intermediate revoked, `of_root` the intermediates.
    """

    of_intermediate: x509.CertificateRevocationList | None
    of_root: x509.CertificateRevocationList | None


def check_chain(leaf: x509.Certificate, anchors: Anchors, at: datetime) -> Finding:
    """Step 9: issued by the pinned authorities, all valid at `at` (aware), of the right kind and environment."""
    finding = Finding()
    _check_issue(finding, "the signer's certificate", leaf, anchors.intermediate)
    _check_issue(finding, "the intermediate", anchors.intermediate, anchors.root)
    finding.expect(issued_by(anchors.root, anchors.root), "the root did not sign itself")
    for name, certificate in (
        ("the signer's certificate", leaf),
        ("the intermediate", anchors.intermediate),
        ("the root", anchors.root),
    ):
        fault = validity_fault(certificate, at)
        finding.expect(fault is None, f"{name} is {fault}")
    _check_authority(finding, "the intermediate", anchors.intermediate, below=0)
    _check_authority(finding, "the root", anchors.root, below=1)
    _check_leaf(finding, leaf, anchors)
    finding.notes.append(f"issued by {anchors.intermediate.subject.rfc4514_string()}")
    return finding


def check_signer(leaf: x509.Certificate, anchors: Anchors) -> Finding:
    """Step 10: one CN and one OU, exactly those configured (drim-m-data 2.4)."""
    finding = Finding()
    for oid, name, wanted in (
        (NameOID.COMMON_NAME, "CN", anchors.signer_cn),
        (NameOID.ORGANIZATIONAL_UNIT_NAME, "OU", anchors.signer_ou),
    ):
        values = [str(attribute.value) for attribute in leaf.subject.get_attributes_for_oid(oid)]
        finding.expect(
            values == [wanted], f"{name} of the signer is {' + '.join(values) or 'absent'}, not {wanted}"
        )
    finding.notes.append(f"CN={anchors.signer_cn}, OU={anchors.signer_ou}")
    return finding


def _check_issue(
    finding: Finding, name: str, certificate: x509.Certificate, authority: x509.Certificate
) -> None:
    issued = issued_by(certificate, authority)
    finding.expect(issued, f"{name} is not issued by the pinned {authority.subject.rfc4514_string()}")
    strong = isinstance(certificate.signature_hash_algorithm, STRONG)
    finding.expect(strong, f"{name} is signed with a weak or unknown hash")


def _check_authority(finding: Finding, name: str, certificate: x509.Certificate, below: int) -> None:
    """`below`: how many authorities stand between it and the leaf."""
    constraints = extension(certificate, x509.BasicConstraints)
    if finding.expect(constraints is not None and constraints.ca, f"{name} is no authority") and constraints:
        length = constraints.path_length
        finding.expect(length is None or length >= below, f"{name} may not have {below} authorities below it")
    usage = extension(certificate, x509.KeyUsage)
    finding.expect(usage is not None and usage.key_cert_sign, f"{name} may not sign certificates")


def _check_leaf(finding: Finding, leaf: x509.Certificate, anchors: Anchors) -> None:
    constraints = extension(leaf, x509.BasicConstraints)
    finding.expect(constraints is None or not constraints.ca, "the signer's certificate is an authority's")
    usage = extension(leaf, x509.KeyUsage)
    finding.expect(usage is not None and usage.digital_signature, "keyUsage lacks digitalSignature")
    finding.expect(usage is not None and usage.content_commitment, "keyUsage lacks nonRepudiation")
    unknown = [e.oid.dotted_string for e in leaf.extensions if e.critical and _unrecognized(e.value)]
    finding.expect(not unknown, f"unknown critical extensions: {', '.join(unknown)}")
    policies = {p.policy_identifier.dotted_string for p in extension(leaf, x509.CertificatePolicies) or ()}
    finding.expect(
        not policies.isdisjoint(anchors.policies), f"the policies {sorted(policies)} are not those expected"
    )
    _check_environment(finding, leaf, anchors.environment)


def _check_environment(
    finding: Finding, leaf: x509.Certificate, environment: Literal["test", "production"]
) -> None:
    value = next((e.value for e in leaf.extensions if e.oid == ENVIRONMENT), None)
    octets = value.value if isinstance(value, x509.UnrecognizedExtension) else b""
    other = octets == ENVIRONMENT_VALUES[_OTHER_ENVIRONMENT[environment]]
    said = f"of the {_OTHER_ENVIRONMENT[environment]} environment" if other else "of no known environment"
    finding.expect(octets == ENVIRONMENT_VALUES[environment], f"the signer's certificate is {said}")


def _unrecognized(value: x509.ExtensionType) -> bool:
    return isinstance(value, x509.UnrecognizedExtension)
