"""A credential on disk before the rules of its role: every fault and every warning at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import rsa

from drimbox.adapters.certificate_files import read_certificates, read_facts, spki
from drimbox.adapters.key_files import UnusableCredential, read_private_key
from drimbox.domain.certificate_facts import MIN_RSA_BITS, CertificateFacts
from drimbox.domain.certificate_roles import AUTHORITIES, Expected, Finding, Role, Severity, judge

NOTHING = Expected()


@dataclass(frozen=True, slots=True)
class Judgement:
    """Why a credential cannot serve, and what is said of one that can; both empty = nothing to say."""

    faults: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def judge_credential(
    certificate: Path,
    key: Path | None,
    role: Role,
    now: datetime,
    expected: Expected = NOTHING,
    *,
    passphrase: Path | None = None,
) -> Judgement:
    """Every fault and warning of one credential at `now` (aware).

    The first certificate of the file is judged, with `key` unless that is None; of a bundle of authorities, every one.
    `passphrase`: the file of that of the private keys (keys.passphrase).
    """
    try:
        found: Sequence[CertificateFacts] = read_facts(certificate)
        faults = []
    except UnusableCredential as error:
        found, faults = (), list(error.faults)
    findings = _findings(found, role, expected, now)
    faults += [words for one, words in findings if one.rule.severity is Severity.FAULT]
    if key is not None:
        faults += _key_faults(key, found[0] if found else None, passphrase)
    return Judgement(tuple(faults), tuple(w for one, w in findings if one.rule.severity is Severity.WARNING))


def credential_faults(
    certificate: Path,
    key: Path | None,
    role: Role,
    now: datetime,
    expected: Expected = NOTHING,
    *,
    passphrase: Path | None = None,
) -> list[str]:
    """The faults of `judge_credential` alone: why this credential must not be taken into use."""
    return list(judge_credential(certificate, key, role, now, expected, passphrase=passphrase).faults)


def issue_fault(certificate: Path, authority: Path) -> str:
    """Why the first certificate of the file was not issued by that of `authority`; nothing when it was.

    Raises `UnusableCredential` when one of them cannot be read.
    """
    (below, *_), (above, *_) = read_certificates(certificate), read_certificates(authority)
    try:
        below.verify_directly_issued_by(above)
    except (InvalidSignature, ValueError, TypeError, UnsupportedAlgorithm):
        return f"it was not issued by the certificate in {authority}"
    return ""


def _findings(
    found: Sequence[CertificateFacts], role: Role, expected: Expected, now: datetime
) -> list[tuple[Finding, str]]:
    """What the rules find, in words; in a bundle they name the authority."""
    judged = found if role in AUTHORITIES else found[:1]
    return [
        (finding, f"{_name(facts)}: {finding.words}" if len(judged) > 1 else finding.words)
        for facts in judged
        for finding in judge(facts, role, expected, now)
    ]


def _name(facts: CertificateFacts) -> str:
    return " ".join(facts.values("CN")) or facts.subject_name


def _key_faults(path: Path, certificate: CertificateFacts | None, passphrase: Path | None) -> Iterator[str]:
    try:
        key = read_private_key(path, passphrase)
    except UnusableCredential as error:
        yield from error.faults
        return
    if not isinstance(key, rsa.RSAPrivateKey):
        yield "the key is not an RSA key"
    elif key.key_size < MIN_RSA_BITS:
        yield f"the RSA key has {key.key_size} bits, at least {MIN_RSA_BITS} are required"
    elif certificate is not None and spki(key.public_key()) != certificate.public_key:
        yield "the key does not match the certificate"
