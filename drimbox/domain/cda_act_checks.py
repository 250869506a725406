"""What the rows of `cda_rules` look at in orders, acts and body: (XPath, message) per breach.

Messages never repeat patient data.
"""

from __future__ import annotations

import binascii
from collections.abc import Iterator

from dicom_store.paths import InvalidUID, check_uid
from drimbox.domain.cda_checks import Finding, shown
from drimbox.domain.cda_document import PS3_20
from drimbox.domain.cda_fields import (
    SERVICE_EVENT,
    Element,
    act_codes,
    attribute,
    code,
    every,
    first,
    identifier,
    is_misplaced_region,
    qualified,
    regions,
    study_ids,
    text_of,
)
from drimbox.domain.imaging_codes import MODALITIES, MODALITY_ALIASES, MODALITY_QUALIFIER, REGIONS

MAX_STUDIES = 100
_STUDY_LITERAL = "studyInstanceUID"  # what older senders write as extension
_ORDER = "c:inFulfillmentOf/c:order"
_TEXT = "c:component/c:nonXMLBody/c:text"
_STRUCTURE = f"{SERVICE_EVENT}/c:performer/c:assignedEntity/c:representedOrganization"


def order_id(root: Element, _zone: str) -> Iterator[Finding]:
    """order/id is the placer order number, its root the OID of the ordering domain."""
    for order in every(root, _ORDER):
        if identifier(first(order, "c:id")) is None:
            yield f"{_ORDER}/c:id", "an order without placer order number"


def accession_namespace(root: Element, _zone: str) -> Iterator[Finding]:
    """accessionNumber belongs to urn:dicom-org:ps3-20; elsewhere it would be silently lost."""
    for order in every(root, _ORDER):
        for child in order.iterchildren("{*}accessionNumber"):
            if child.tag != f"{{{PS3_20}}}accessionNumber":
                yield f"{_ORDER}/*:accessionNumber", f"the accession number is not in the namespace {PS3_20}"


def accession_number(root: Element, _zone: str) -> Iterator[Finding]:
    """Every order has an accession number with its issuer."""
    for order in every(root, _ORDER):
        found = [identifier(e) for e in every(order, "ps:accessionNumber")]
        if not any(i and i.extension for i in found):
            yield f"{_ORDER}/ps:accessionNumber", "an order without accession number or without its issuer"


def accession_single(root: Element, _zone: str) -> Iterator[Finding]:
    """At most one accession number per order."""
    for order in every(root, _ORDER):
        if len(every(order, "ps:accessionNumber")) > 1:
            yield f"{_ORDER}/ps:accessionNumber", "several accession numbers in one order"


def _acts(root: Element) -> list[Element]:
    """The serviceEvents that are studies."""
    return [e for e in every(root, SERVICE_EVENT) if study_ids(e)]


def study_uid_present(root: Element, _zone: str) -> Iterator[Finding]:
    """At least one act says which study it documents; no schematron checks it."""
    if not _acts(root):
        yield f"{SERVICE_EVENT}/c:id/@root", "no act has a Study Instance UID"


def studies_bounded(root: Element, _zone: str) -> Iterator[Finding]:
    """A report of more studies than a department does in a day is an attack or a mistake."""
    count = sum(len(study_ids(event)) for event in _acts(root))
    if count > MAX_STUDIES:
        yield f"{SERVICE_EVENT}/c:id", f"{count} studies in one report, at most {MAX_STUDIES} are read"


def study_uid_valid(root: Element, _zone: str) -> Iterator[Finding]:
    """serviceEvent/id/@root is a UID of PS3.5 9.1."""
    for event in _acts(root):
        for element in study_ids(event):
            try:
                check_uid(attribute(element, "root"))
            except InvalidUID:
                yield f"{SERVICE_EVENT}/c:id/@root", "the Study Instance UID is not a UID"


def study_uid_extension(root: Element, _zone: str) -> Iterator[Finding]:
    """No extension, or the literal that older senders write."""
    for event in _acts(root):
        for element in study_ids(event):
            if attribute(element, "extension") not in {"", _STUDY_LITERAL}:
                yield f"{SERVICE_EVENT}/c:id/@extension", "a Study Instance UID has no extension"


def modality_alias(root: Element, _zone: str) -> Iterator[Finding]:
    """RM is read as MR."""
    for event in _acts(root):
        for found in qualified(event, MODALITY_QUALIFIER):
            if found.code in MODALITY_ALIASES:
                yield f"{SERVICE_EVENT}/c:code", f"{found.code} is read as {MODALITY_ALIASES[found.code]}"


def modality_known(root: Element, _zone: str) -> Iterator[Finding]:
    """The modality is in its value set; another one is left aside."""
    for event in _acts(root):
        for found in qualified(event, MODALITY_QUALIFIER):
            if MODALITY_ALIASES.get(found.code, found.code) not in MODALITIES:
                yield f"{SERVICE_EVENT}/c:code", f"modality {shown(found.code)} is left aside"


def modality_present(root: Element, _zone: str) -> Iterator[Finding]:
    """A study has a modality; the images' is taken otherwise."""
    for event in _acts(root):
        if not qualified(event, MODALITY_QUALIFIER):
            yield f"{SERVICE_EVENT}/c:code/c:translation", "no modality: that of the images is taken"


def region_misplaced(root: Element, _zone: str) -> Iterator[Finding]:
    """A SNOMED number under the OID of the CCAM."""
    for event in _acts(root):
        if any(map(is_misplaced_region, act_codes(event))):
            yield f"{SERVICE_EVENT}/c:code", "a SNOMED number under the OID of the CCAM is read as the region"


def region_known(root: Element, _zone: str) -> Iterator[Finding]:
    """The region is in its value set; another one is left aside."""
    for event in _acts(root):
        for found in regions(event):
            if found.code not in REGIONS:
                yield f"{SERVICE_EVENT}/c:code", f"region {shown(found.code)} is left aside"


def start_present(root: Element, _zone: str) -> Iterator[Finding]:
    """A study has a start."""
    for event in _acts(root):
        if not attribute(first(event, "c:effectiveTime/c:low"), "value"):
            yield f"{SERVICE_EVENT}/c:effectiveTime/c:low", "a study without start"


def performing_structure(root: Element, _zone: str) -> Iterator[Finding]:
    """The structure is mandatory for a DRIMBox (comment of the CI-SIS example)."""
    if not any(identifier(e) for e in every(root, f"{_STRUCTURE}/c:id")):
        yield f"{_STRUCTURE}/c:id", "no performing structure"


def practice_setting(root: Element, _zone: str) -> Iterator[Finding]:
    """The practice setting of the performing structure."""
    if not any(code(e) for e in every(root, f"{_STRUCTURE}/c:standardIndustryClassCode")):
        yield f"{_STRUCTURE}/c:standardIndustryClassCode", "no practice setting"


def body_present(root: Element, _zone: str) -> Iterator[Finding]:
    """A body: nonXMLBody or structuredBody."""
    if first(root, "c:component/c:structuredBody") is None and first(root, _TEXT) is None:
        yield "c:component", "the document has no body"


def body_media_type(root: Element, _zone: str) -> Iterator[Finding]:
    """Level 1 carries a PDF."""
    text = first(root, _TEXT)
    if text is not None and attribute(text, "mediaType") != "application/pdf":
        yield f"{_TEXT}/@mediaType", "the media type is not application/pdf"


def body_representation(root: Element, _zone: str) -> Iterator[Finding]:
    """Level 1 is in base64."""
    text = first(root, _TEXT)
    if text is not None and attribute(text, "representation") != "B64":
        yield f"{_TEXT}/@representation", "the representation is not B64"


def body_content(root: Element, _zone: str) -> Iterator[Finding]:
    """ASCII white space aside, strict base64 of something that begins as a PDF does."""
    text = first(root, _TEXT)
    if text is None:
        return
    compact = text_of(text).replace(" ", "")
    try:
        content = binascii.a2b_base64(compact, strict_mode=True)
    except ValueError:
        yield _TEXT, "the body is not base64"
        return
    if not content.startswith(b"%PDF-"):
        yield _TEXT, "the body is not a PDF"
