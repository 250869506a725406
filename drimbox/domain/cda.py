"""An imaging report (IMG-CR-IMG, CDA R2 level 1 or 3) read as facts, with every rule that it breaks."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TypeVar

from drimbox.domain import cda_fields as fields
from drimbox.domain.cda_checks import Terms, is_version
from drimbox.domain.cda_document import MAX_BYTES, NotADocument, open_document
from drimbox.domain.cda_fields import Element
from drimbox.domain.cda_rules import check_report
from drimbox.domain.identifiers import INS_AUTHORITIES, Identifier
from drimbox.domain.imaging_codes import STRUCTURED_TEMPLATE
from drimbox.domain.report import Code, Report, Timestamp
from drimbox.domain.violations import Violation, errors

Value = TypeVar("Value", Identifier, Code, Timestamp)


@dataclass(frozen=True, slots=True)
class CdaReading:
    """`report` is None exactly when an error is among `violations`; warnings stand beside a report."""

    report: Report | None
    violations: tuple[Violation, ...]


def read_cda(
    data: bytes,
    *,
    time_zone: str,
    max_bytes: int = MAX_BYTES,
    ins_authorities: Collection[str] = frozenset(INS_AUTHORITIES),
    for_publication: bool = True,
) -> CdaReading:
    """Read a report from its bytes as received (cda-and-xds sections 2, 4.6 and 6).

    `time_zone`: IANA name given to times without offset; `ins_authorities`: OIDs of INS accepted here;
    `for_publication`: False for what is not to be published (a withdrawal) or was accepted before: the rules of
    "accept for publication" are warnings then. Never raises for what a sender may have written: whatever is wrong is
    a violation, and no violation repeats patient data.
    """
    terms = Terms(time_zone, ins_authorities, for_publication)
    root, violations = _checked(data, terms, max_bytes)
    if root is None or errors(violations):
        return CdaReading(None, violations)
    return CdaReading(_report(root, time_zone), violations)


def check_cda(
    data: bytes,
    *,
    time_zone: str,
    max_bytes: int = MAX_BYTES,
    ins_authorities: Collection[str] = frozenset(INS_AUTHORITIES),
    for_publication: bool = True,
) -> tuple[Violation, ...]:
    """Every rule that the bytes break, in the order of the table, and nothing else; parameters as `read_cda`."""
    return _checked(data, Terms(time_zone, ins_authorities, for_publication), max_bytes)[1]


def _checked(data: bytes, terms: Terms, max_bytes: int) -> tuple[Element | None, tuple[Violation, ...]]:
    try:
        root = open_document(data, max_bytes)
    except NotADocument as refusal:
        clause = "cda-and-xds section 6"
        return None, (Violation(refusal.rule, str(refusal), "ClinicalDocument", clause),)
    return root, tuple(check_report(root, terms))


def _report(root: Element, time_zone: str) -> Report:
    """The facts of a document without errors: id, code, effectiveTime and confidentialityCode are there."""
    authors = (fields.professional(e, "c:assignedAuthor", time_zone) for e in fields.every(root, "c:author"))
    signed = fields.first(root, "c:legalAuthenticator")
    facility = "c:componentOf/c:encompassingEncounter/c:location/c:healthCareFacility/c:code"
    return Report(
        id=_required(fields.identifier(fields.first(root, "c:id"))),
        set_id=str(fields.identifier(fields.first(root, "c:setId")) or ""),
        version=_version(root),
        replaces=replaced(root),
        code=_required(fields.code(fields.first(root, "c:code"))),
        exam_codes=_codes(fields.every(root, "c:code/c:translation")),
        title=fields.text_of(fields.first(root, "c:title")),
        effective_time=_required(fields.timestamp(fields.first(root, "c:effectiveTime"), time_zone)),
        confidentiality=_required(fields.code(fields.first(root, "c:confidentialityCode"))),
        language=fields.attribute(fields.first(root, "c:languageCode"), "code"),
        level=_level(root),
        patient=fields.patient(root),
        authors=tuple(a for a in authors if a),
        legal_authenticator=None
        if signed is None
        else fields.professional(signed, "c:assignedEntity", time_zone),
        orders=fields.orders(root),
        studies=fields.studies(root, time_zone),
        facility=fields.code(fields.first(root, facility)),
        practice_setting=_practice_setting(root),
        context=fields.other_acts(root),
    )


def replaced(root: Element) -> tuple[Identifier, ...]:
    """relatedDocument[@typeCode='RPLC']/parentDocument/id, an OID or a UUID (cda-and-xds 3.11)."""
    parents = fields.every(root, "c:relatedDocument[@typeCode='RPLC']/c:parentDocument/c:id")
    return tuple(i for i in map(fields.identifier, parents) if i)


def _required(value: Value | None) -> Value:
    assert value is not None, "the rules refuse a document without it"
    return value


def _codes(elements: list[Element]) -> tuple[Code, ...]:
    return tuple(c for c in map(fields.code, elements) if c)


def _version(root: Element) -> int:
    text = fields.attribute(fields.first(root, "c:versionNumber"), "value")
    return int(text) if is_version(text) else 1  # the rule `version-missing` reports it


def _level(root: Element) -> int:
    if fields.first(root, "c:component/c:structuredBody") is not None:
        return 3
    templates = {fields.attribute(e, "root") for e in fields.every(root, "c:templateId")}
    body = fields.first(root, "c:component/c:nonXMLBody")
    return 3 if body is None and STRUCTURED_TEMPLATE in templates else 1


def _practice_setting(root: Element) -> Code | None:
    path = f"{fields.SERVICE_EVENT}/c:performer/c:assignedEntity/c:representedOrganization"
    found = _codes(fields.every(root, f"{path}/c:standardIndustryClassCode"))
    return found[0] if found else None
