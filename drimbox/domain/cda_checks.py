"""What the rows of `cda_rules` look at in the document itself: (XPath, message) per breach.

Messages never repeat patient data.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from lxml import etree

from drimbox.domain.cda_document import HL7_V3
from drimbox.domain.cda_fields import (
    BODY_TEXT,
    NAME,
    PATIENT_ROLE,
    SERVICE_EVENT,
    STRUCTURED_BODY,
    Element,
    attribute,
    code,
    every,
    first,
    identifier,
    text_of,
)
from drimbox.domain.identifiers import INS_AUTHORITIES, is_oid
from drimbox.domain.imaging_codes import (
    CI_SIS_TEMPLATE,
    HL7_FRANCE_TEMPLATE,
    IMAGING_REPORT,
    LOINC,
    STRUCTURED_TEMPLATE,
    XDS_SD_TEMPLATE,
)
from drimbox.domain.timestamp import InvalidTimestamp, parse_timestamp
from drimbox.domain.value_sets import CONFIDENTIALITY, VISIBILITY_CODES
from drimbox.domain.xds.vocabulary import BASE_CONFIDENTIALITY


@dataclass(frozen=True, slots=True)
class Terms:
    """On what terms a report is read.

    `time_zone`: IANA name for times without offset; `ins_authorities`: the OIDs of INS that may be published here
    (test and production must not mix, cda-and-xds 4.6); `for_publication`: what only forbids publication is an
    error (a withdrawal, or a report accepted earlier, is read without).
    """

    time_zone: str
    ins_authorities: Collection[str] = frozenset(INS_AUTHORITIES)
    for_publication: bool = True


Finding = tuple[str, str]
Check = Callable[[Element, Terms], Iterator[Finding]]

_UUID = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
_VERSION = re.compile(r"[0-9]{1,9}")
_PLAIN = re.compile(r"[A-Za-z0-9._/-]{1,20}")
_MOJIBAKE = re.compile(r"Ã[\u0080-\u00bf]|â€™")  # UTF-8 read as Latin-1 (or Windows-1252), then written again
_OTHER_DOCUMENTS = {"55115-0": "an imaging order (IMG-DA-IMG)", "11502-2": "a biology report"}
_UNIQUE_ID_MAX = 128  # characters of an XDS uniqueId
_CONFIDENTIALITY = "c:confidentialityCode"
_TIMES = (
    "c:author/c:time",
    "c:legalAuthenticator/c:time",
    f"{PATIENT_ROLE}/c:patient/c:birthTime",
    f"{SERVICE_EVENT}/c:effectiveTime/c:low",
    f"{SERVICE_EVENT}/c:effectiveTime/c:high",
)
_ENCODED_TWICE = ("c:title", f"{NAME}/c:family", f"{NAME}/c:given")
# ClinicalDocument of CDA R2, in the order of its schema
_HEADER = """
    realmCode typeId templateId id code title effectiveTime confidentialityCode languageCode setId versionNumber
    copyTime recordTarget author dataEnterer informant custodian informationRecipient legalAuthenticator
    authenticator participant inFulfillmentOf documentationOf relatedDocument authorization componentOf component
    """.split()  # noqa: SIM905 a table
_PLACES = {f"{{{HL7_V3}}}{name}": place for place, name in enumerate(_HEADER)}


def absent(path: str, name: str, message: str) -> Check:
    """A check that some element at `path` exists and, if `name` is given, that its attribute is filled."""

    def check(root: Element, _terms: Terms) -> Iterator[Finding]:
        found = every(root, path)
        if not (any(attribute(e, name) for e in found) if name else found):
            yield f"{path}/@{name}" if name else path, message

    return check


def shown(value: str) -> str:
    """`value` when it looks like a code or an OID; anything else might be somebody's name."""
    return value if _PLAIN.fullmatch(value) else "another value"


def auto_presentable(root: Element, _terms: Terms) -> Iterator[Finding]:
    """The CDA stands in a stylesheet, which is kept and never executed."""
    if root.getparent() is not None:
        yield "/xsl:stylesheet", "the document is carried by a stylesheet"


def header_elements(root: Element, _terms: Terms) -> Iterator[Finding]:
    """The children of ClinicalDocument are those of CDA R2."""
    for child in root.iterchildren(f"{{{HL7_V3}}}*"):
        if child.tag not in _PLACES:
            yield f"c:{shown(etree.QName(child).localname)}", "an element that ClinicalDocument does not have"


def header_order(root: Element, _terms: Terms) -> Iterator[Finding]:
    """They stand in the order of the schema; by name they are found all the same."""
    last = 0
    for child in root.iterchildren(f"{{{HL7_V3}}}*"):
        place = _PLACES.get(str(child.tag), last)
        if place < last:
            yield f"c:{_HEADER[place]}", f"stands after {_HEADER[last]}"
        last = max(place, last)


def templates(root: Element, _terms: Terms) -> Iterator[Finding]:
    """HL7 France and CI-SIS always; XDS-SD at level 1 only, the model of the report at level 3 only."""
    declared = {attribute(e, "root") for e in every(root, "c:templateId")}
    structured = first(root, STRUCTURED_BODY) is not None
    expected = {HL7_FRANCE_TEMPLATE, CI_SIS_TEMPLATE, STRUCTURED_TEMPLATE if structured else XDS_SD_TEMPLATE}
    for template in sorted(expected - declared):
        yield "c:templateId/@root", f"the template {template} is not declared"
    if not structured and STRUCTURED_TEMPLATE in declared:
        yield "c:templateId/@root", f"the template {STRUCTURED_TEMPLATE} is of level 3, the body is not"


def document_id(root: Element, _terms: Terms) -> Iterator[Finding]:
    """An OID or a UUID."""
    found = identifier(first(root, "c:id"))
    if found and not (is_oid(found.root) or _UUID.fullmatch(found.root)):
        yield "c:id/@root", "the document id is neither an OID nor a UUID"


def document_id_length(root: Element, _terms: Terms) -> Iterator[Finding]:
    """Short enough for an XDS uniqueId."""
    found = identifier(first(root, "c:id"))
    if found and len(str(found)) > _UNIQUE_ID_MAX:
        yield "c:id", f"the document id is over {_UNIQUE_ID_MAX} characters"


def document_code(root: Element, _terms: Terms) -> Iterator[Finding]:
    """18748-4 of LOINC; an order or another document must not become a study."""
    found = code(first(root, "c:code"))
    if found and (found.code, found.system) != (IMAGING_REPORT, LOINC):
        known = _OTHER_DOCUMENTS.get(found.code, f"{shown(found.code)} of {shown(found.system)}")
        yield "c:code", f"not an imaging report ({IMAGING_REPORT} of LOINC) but {known}"


def effective_time(root: Element, terms: Terms) -> Iterator[Finding]:
    """effectiveTime is a TS."""
    return _unreadable(root, "c:effectiveTime", terms)


def other_times(root: Element, terms: Terms) -> Iterator[Finding]:
    """The other times are TS where they have a value."""
    for path in _TIMES:
        yield from _unreadable(root, path, terms)


def _unreadable(root: Element, path: str, terms: Terms) -> Iterator[Finding]:
    for element in every(root, path):
        value = attribute(element, "value")
        try:
            if value:
                parse_timestamp(value, terms.time_zone)
        except InvalidTimestamp as error:
            yield f"{path}/@value", str(error)


def visibility_code(root: Element, _terms: Terms) -> Iterator[Finding]:
    """MASQUE_PS and its kind come by HL7v2, never inside the CDA."""
    for element in every(root, _CONFIDENTIALITY):
        if attribute(element, "code") in VISIBILITY_CODES:
            yield _CONFIDENTIALITY, f"{attribute(element, 'code')} is metadata of the DMP, not of a CDA"


def confidentiality_code(root: Element, _terms: Terms) -> Iterator[Finding]:
    """A value of 2.16.840.1.113883.1.11.10228."""
    for element in every(root, _CONFIDENTIALITY):
        value = attribute(element, "code")
        if value and CONFIDENTIALITY.refuses(value) and value not in VISIBILITY_CODES:
            yield f"{_CONFIDENTIALITY}/@code", f"{shown(value)} is not a confidentiality code"


def confidentiality_restricted(root: Element, _terms: Terms) -> Iterator[Finding]:
    """R and V: the guide says such a document should not be shared."""
    if attribute(first(root, _CONFIDENTIALITY), "code") in {"R", "V"}:
        yield f"{_CONFIDENTIALITY}/@code", "a restricted document should not be shared"


def confidentiality_for_dmp(root: Element, _terms: Terms) -> Iterator[Finding]:
    """L, M and U are codes of a CDA that the DMP does not take."""
    value = attribute(first(root, _CONFIDENTIALITY), "code")
    if value in CONFIDENTIALITY and value not in BASE_CONFIDENTIALITY:
        yield f"{_CONFIDENTIALITY}/@code", f"the DMP does not take the confidentiality code {value}"


def is_version(text: str) -> bool:
    """A number of at most nine digits."""
    return bool(_VERSION.fullmatch(text))


def version(root: Element, _terms: Terms) -> Iterator[Finding]:
    """versionNumber is a number; 1 is assumed otherwise."""
    if not is_version(attribute(first(root, "c:versionNumber"), "value")):
        yield "c:versionNumber/@value", "no version number: 1 is assumed"


def title(root: Element, _terms: Terms) -> Iterator[Finding]:
    """The title has text."""
    if not text_of(first(root, "c:title")):
        yield "c:title", "the document has no title"


def double_encoding(root: Element, _terms: Terms) -> Iterator[Finding]:
    """Accents that were encoded twice: well-formed, readable, ugly."""
    places = [(path, text_of(e)) for path in _ENCODED_TWICE for e in every(root, path)]
    places.append(("c:code/@displayName", attribute(first(root, "c:code"), "displayName")))
    for where, text in places:
        if _MOJIBAKE.search(text):
            yield where, "accents are encoded twice: the sender wrote UTF-8 read as Latin-1"


def related_documents(root: Element, _terms: Terms) -> Iterator[Finding]:
    """relatedDocument is RPLC and says which document it replaces."""
    for related in every(root, "c:relatedDocument"):
        if attribute(related, "typeCode") != "RPLC":
            yield "c:relatedDocument/@typeCode", "not RPLC: the relation is left aside"
        elif identifier(first(related, "c:parentDocument/c:id")) is None:
            yield "c:relatedDocument/c:parentDocument/c:id", "no id of the document that is replaced"


def one_body(root: Element, _terms: Terms) -> Iterator[Finding]:
    """One body: which of two is the report cannot be decided."""
    count = len(every(root, "c:component/c:nonXMLBody")) + len(every(root, STRUCTURED_BODY))
    if count > 1:
        yield "c:component", f"{count} bodies: a document has exactly one"


def body_present(root: Element, _terms: Terms) -> Iterator[Finding]:
    """A body: nonXMLBody or structuredBody."""
    if first(root, STRUCTURED_BODY) is None and first(root, BODY_TEXT) is None:
        yield "c:component", "the document has no body"
