"""The thirteen steps as functions of one case, in the order of judging (trust-and-identity 3.5)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

from cryptography import x509
from lxml import etree

from whitelist.chain import Anchors, Crls, check_chain, check_signer
from whitelist.document import TrustedList, read_list
from whitelist.errors import Unusable
from whitelist.finding import Finding
from whitelist.revocation import check_revocation
from whitelist.signature import (
    check_properties,
    check_value,
    digest_document,
    find_leaf,
    find_signature,
    read_form,
)
from whitelist.signed_info import SignedInfo, read_signed_info, read_transforms
from whitelist.tree import MAX_OCTETS

_Product = TypeVar("_Product")


@dataclass(slots=True)
class Case:
    """The question, and what the steps hand on: None until the step that gives it held."""

    candidate: bytes
    anchors: Anchors
    crls: Crls
    at: datetime
    previous_signed_at: datetime | None
    previous_generated_at: datetime | None
    transport: str | None
    reload: bool
    failed: set[int] = field(default_factory=set)
    body: bytes | None = None
    root: etree._Element | None = None
    signature: etree._Element | None = None
    leaf: x509.Certificate | None = None
    leaf_finding: Finding | None = None
    info: SignedInfo | None = None
    exclusive: bool | None = None
    octets: bytes | None = None
    signed_at: datetime | None = None
    trusted: TrustedList | None = None


class Unjudged(Exception):
    """A step lacks what an earlier one should have given, or has nothing to judge."""


@dataclass(frozen=True, slots=True)
class Row:
    """One step: number and name of 3.5; `judge` raises `Unjudged`, nothing else."""

    number: int
    title: str
    judge: Callable[[Case], Finding]


def _given(value: _Product | None, number: int) -> _Product:
    if value is None:
        raise Unjudged(f"not judged: step {number} did not hold")
    return value


def _transport(case: Case) -> Finding:
    size = len(case.candidate)
    finding = Finding(unjudged="" if case.transport else "read from a file")
    if finding.expect(1 <= size <= MAX_OCTETS, f"{size} octets, 1 to {MAX_OCTETS} expected"):
        case.body = case.candidate
    finding.notes.append(f"{case.transport}, {size} octets")
    return finding


def _form(case: Case) -> Finding:
    anchors = case.anchors
    case.root, finding = read_form(
        _given(case.body, 1),
        anchors.document_root,
        anchors.namespaces,
        other_namespaces=anchors.other_namespaces,
    )
    return finding


def _one_signature(case: Case) -> Finding:
    case.signature, finding = find_signature(_given(case.root, 2))
    if case.signature is not None:
        case.leaf, case.leaf_finding = find_leaf(case.signature)
    return finding


def _template(case: Case) -> Finding:
    case.info, finding = read_signed_info(_given(case.signature, 3))
    return finding


def _transforms(case: Case) -> Finding:
    info = _given(case.info, 4)
    case.exclusive, finding = read_transforms(_given(info.document, 4))
    return finding


def _document(case: Case) -> Finding:
    info, exclusive = _given(case.info, 4), _given(case.exclusive, 5)
    reference = _given(info.document, 4)
    _given(reference.digest, 4)
    _given(reference.value, 4)
    case.octets, finding = digest_document(_given(case.signature, 3), reference, exclusive=exclusive)
    return finding


def _properties(case: Case) -> Finding:
    info = _given(case.info, 4)
    latest = case.at + case.anchors.skew
    case.signed_at, finding = check_properties(_given(case.signature, 3), info, case.leaf, latest)
    return finding


def _value(case: Case) -> Finding:
    info = _given(case.info, 4)
    leaf_finding = _given(case.leaf_finding, 3)
    if case.leaf is None:
        return leaf_finding
    _given(info.exclusive, 4)
    _given(info.method, 4)
    return check_value(_given(case.signature, 3), info, case.leaf)


def _chain(case: Case) -> Finding:
    return check_chain(_given(case.leaf, 8), case.anchors, case.at)


def _signer_names(case: Case) -> Finding:
    return check_signer(_given(case.leaf, 8), case.anchors)


def _revocation(case: Case) -> Finding:
    if case.reload:
        raise Unjudged("not judged again: the archive was judged when it was accepted")
    return check_revocation(_given(case.leaf, 8), case.anchors, case.crls, case.at)


def _reading(case: Case) -> Finding:
    finding = Finding()
    try:
        case.trusted = read_list(
            _verified(case), root=case.anchors.document_root, other_namespaces=True
        )  # the namespace is step 2's
    except Unusable as error:
        finding.faults.append(f"{error.code}: {error.reason}")
        return finding
    finding.doubts.extend(case.trusted.warnings)
    finding.notes.append(f"{len(case.trusted.domains)} entries")
    return finding


def _no_roll_back(case: Case) -> Finding:
    if case.reload:
        raise Unjudged("not judged again: it is the archive")
    finding, trusted = Finding(), _given(case.trusted, 13)
    _check_not_older(finding, "SigningTime", case.signed_at, case.previous_signed_at)
    _check_not_older(finding, "DateDeGeneration", trusted.generated_at, case.previous_generated_at)
    if not finding.notes:
        finding.notes.append("no list was accepted before")
    return finding


def _check_not_older(finding: Finding, name: str, now: datetime | None, before: datetime | None) -> None:
    if before is None:
        return
    said = "is absent" if now is None else now.isoformat()
    later = now is not None and now >= before
    finding.expect(later, f"{name} {said}, the archive has {before.isoformat()}: a roll-back")
    finding.notes.append(f"{name} is not before the archive's")


def _verified(case: Case) -> bytes:
    """The document's octets, when the whole signature over them held."""
    broken = case.failed & set(range(2, 9))
    if broken:
        raise Unjudged(f"not judged: step {min(broken)} did not hold")
    return _given(case.octets, 6)


# In the order of judging: 12 compares a date that 13 reads.
PROCEDURE = (
    Row(1, "transport and size", _transport),
    Row(2, "form of the document", _form),
    Row(3, "one signature", _one_signature),
    Row(4, "algorithms and references", _template),
    Row(5, "transforms of the document", _transforms),
    Row(6, "digest of the document", _document),
    Row(7, "signed properties", _properties),
    Row(8, "signature value", _value),
    Row(9, "chain to the pinned authorities", _chain),
    Row(10, "name of the signer", _signer_names),
    Row(11, "revocation", _revocation),
    Row(13, "reading", _reading),
    Row(12, "no roll-back", _no_roll_back),
)
