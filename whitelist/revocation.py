"""Is the signer's certificate revoked? The two CRLs of the chain and the policy of trust-and-identity 5.4 (step 11)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from whitelist.certificate import STRONG
from whitelist.chain import Anchors, Crls
from whitelist.finding import Finding

_UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)


@dataclass(frozen=True, slots=True)
class _Question:
    """One CRL and whom it is asked about."""

    name: str
    authority: x509.Certificate
    subject: x509.Certificate
    of_authority: bool


def check_revocation(leaf: x509.Certificate, anchors: Anchors, crls: Crls, at: datetime) -> Finding:
    """Step 11 at the aware instant `at`: neither the leaf nor the intermediate is in the CRL of its authority."""
    finding = Finding()
    questions = (
        (_Question("the intermediate's CRL", anchors.intermediate, leaf, False), crls.of_intermediate),
        (_Question("the root's CRL", anchors.root, anchors.intermediate, True), crls.of_root),
    )
    for question, crl in questions:
        if crl is None:
            said = f"no CRL: {question.name} was never had"
            (finding.doubts if anchors.crl_policy == "prefer" else finding.faults).append(said)
        else:
            _ask(finding, question, crl, anchors, at)
    return finding


def _ask(
    finding: Finding,
    question: _Question,
    crl: x509.CertificateRevocationList,
    anchors: Anchors,
    at: datetime,
) -> None:
    try:
        _check_origin(finding, question, crl)
        _check_scope(finding, question, crl)
        _check_freshness(finding, question.name, crl, anchors, at)
        entry = crl.get_revoked_certificate_by_serial_number(question.subject.serial_number)
    except _UNREADABLE as error:
        finding.faults.append(f"{question.name} cannot be read: {type(error).__name__}")
        return
    if entry is not None:
        since = f"{entry.revocation_date_utc:%Y-%m-%dT%H:%M:%SZ}"
        finding.faults.append(f"{question.subject.subject.rfc4514_string()} is revoked since {since}")


def _check_origin(finding: Finding, question: _Question, crl: x509.CertificateRevocationList) -> None:
    finding.expect(crl.issuer == question.authority.subject, f"{question.name} has another issuer")
    key = question.authority.public_key()
    signed = crl.is_signature_valid(key)  # type: ignore[arg-type]  # authorities have RSA or ECDSA keys, else TypeError
    finding.expect(signed, f"{question.name} is not signed by its authority")
    strong = isinstance(crl.signature_hash_algorithm, STRONG)
    finding.expect(strong, f"{question.name} is signed with a weak or unknown hash")


def _check_scope(finding: Finding, question: _Question, crl: x509.CertificateRevocationList) -> None:
    """A partial CRL (delta, of some reasons, of other certificates) says nothing about the absent (RFC 5280 5.2)."""
    for extension in crl.extensions:
        value = extension.value
        if isinstance(value, x509.IssuingDistributionPoint):
            elsewhere = (
                value.only_contains_user_certs if question.of_authority else value.only_contains_ca_certs
            )
            partial = value.indirect_crl or value.only_some_reasons or value.only_contains_attribute_certs
            finding.expect(not (elsewhere or partial), f"{question.name} is not of these certificates")
        elif isinstance(value, x509.DeltaCRLIndicator) or extension.critical:
            finding.faults.append(f"{question.name} is partial or has an unknown critical extension")


def _check_freshness(
    finding: Finding, name: str, crl: x509.CertificateRevocationList, anchors: Anchors, at: datetime
) -> None:
    finding.expect(crl.last_update_utc <= at + anchors.skew, f"{name} is later than the verification")
    until = crl.next_update_utc
    if until is None:
        finding.faults.append(f"{name} has no nextUpdate")
    elif at > until + anchors.crl_grace:
        finding.faults.append(f"{name} ended on {until:%Y-%m-%dT%H:%M:%SZ}, beyond the grace")
    elif at > until:
        finding.doubts.append(f"{name} ended on {until:%Y-%m-%dT%H:%M:%SZ}, within the grace")
    else:
        finding.notes.append(f"{name} serves until {until:%Y-%m-%dT%H:%M:%SZ}")
