"""What the rows of `cda_rules` look at in the document and its patient: (XPath, message) per breach.

Messages never repeat patient data.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from drimbox.domain.cda_fields import (
    NAME,
    PATIENT_ROLE,
    SERVICE_EVENT,
    Element,
    attribute,
    code,
    every,
    first,
    identifier,
    ins_ids,
    patient,
    text_of,
)
from drimbox.domain.identifiers import InvalidIdentifier, is_oid, parse_ins
from drimbox.domain.imaging_codes import (
    CONFIDENTIALITY_CODES,
    IMAGING_REPORT,
    LOINC,
    VISIBILITY_CODES,
)
from drimbox.domain.timestamp import InvalidTimestamp, parse_timestamp

Finding = tuple[str, str]
Check = Callable[[Element, str], Iterator[Finding]]

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


def absent(path: str, name: str, message: str) -> Check:
    """A check that some element at `path` exists and, if `name` is given, that its attribute is filled."""

    def check(root: Element, _zone: str) -> Iterator[Finding]:
        found = every(root, path)
        if not (any(attribute(e, name) for e in found) if name else found):
            yield f"{path}/@{name}" if name else path, message

    return check


def shown(value: str) -> str:
    """`value` when it looks like a code or an OID; anything else might be somebody's name."""
    return value if _PLAIN.fullmatch(value) else "another value"


def document_id(root: Element, _zone: str) -> Iterator[Finding]:
    """An OID or a UUID, and short enough for an XDS uniqueId."""
    found = identifier(first(root, "c:id"))
    if found and not (is_oid(found.root) or _UUID.fullmatch(found.root)):
        yield "c:id/@root", "the document id is neither an OID nor a UUID"
    if found and len(str(found)) > _UNIQUE_ID_MAX:
        yield "c:id", f"the document id is over {_UNIQUE_ID_MAX} characters"


def document_code(root: Element, _zone: str) -> Iterator[Finding]:
    """18748-4 of LOINC; an order or another document must not become a study."""
    found = code(first(root, "c:code"))
    if found and (found.code, found.system) != (IMAGING_REPORT, LOINC):
        known = _OTHER_DOCUMENTS.get(found.code, f"{shown(found.code)} of {shown(found.system)}")
        yield "c:code", f"not an imaging report ({IMAGING_REPORT} of LOINC) but {known}"


def effective_time(root: Element, zone: str) -> Iterator[Finding]:
    """effectiveTime is a TS."""
    return _unreadable(root, "c:effectiveTime", zone)


def other_times(root: Element, zone: str) -> Iterator[Finding]:
    """The other times are TS where they have a value."""
    for path in _TIMES:
        yield from _unreadable(root, path, zone)


def _unreadable(root: Element, path: str, zone: str) -> Iterator[Finding]:
    for element in every(root, path):
        value = attribute(element, "value")
        try:
            if value:
                parse_timestamp(value, zone)
        except InvalidTimestamp as error:
            yield f"{path}/@value", str(error)


def visibility_code(root: Element, _zone: str) -> Iterator[Finding]:
    """MASQUE_PS and its kind come by HL7v2, never inside the CDA."""
    for element in every(root, _CONFIDENTIALITY):
        if attribute(element, "code") in VISIBILITY_CODES:
            yield _CONFIDENTIALITY, f"{attribute(element, 'code')} is metadata of the DMP, not of a CDA"


def confidentiality_code(root: Element, _zone: str) -> Iterator[Finding]:
    """A value of 2.16.840.1.113883.1.11.10228."""
    for element in every(root, _CONFIDENTIALITY):
        value = attribute(element, "code")
        if value and value not in CONFIDENTIALITY_CODES | VISIBILITY_CODES:
            yield f"{_CONFIDENTIALITY}/@code", f"{shown(value)} is not a confidentiality code"


def confidentiality_restricted(root: Element, _zone: str) -> Iterator[Finding]:
    """R and V: the guide says such a document should not be shared."""
    if attribute(first(root, _CONFIDENTIALITY), "code") in {"R", "V"}:
        yield f"{_CONFIDENTIALITY}/@code", "a restricted document should not be shared"


def is_version(text: str) -> bool:
    """A number of at most nine digits."""
    return bool(_VERSION.fullmatch(text))


def version(root: Element, _zone: str) -> Iterator[Finding]:
    """versionNumber is a number; 1 is assumed otherwise."""
    if not is_version(attribute(first(root, "c:versionNumber"), "value")):
        yield "c:versionNumber/@value", "no version number: 1 is assumed"


def title(root: Element, _zone: str) -> Iterator[Finding]:
    """The title has text."""
    if not text_of(first(root, "c:title")):
        yield "c:title", "the document has no title"


def double_encoding(root: Element, _zone: str) -> Iterator[Finding]:
    """Accents that were encoded twice: well-formed, readable, ugly."""
    places = [("c:title", text_of(first(root, "c:title")))]
    places.append(("c:code/@displayName", attribute(first(root, "c:code"), "displayName")))
    for where, text in places:
        if _MOJIBAKE.search(text):
            yield where, "accents are encoded twice: the sender wrote UTF-8 read as Latin-1"


def one_patient(root: Element, _zone: str) -> Iterator[Finding]:
    """Exactly one recordTarget."""
    count = len(every(root, PATIENT_ROLE))
    if count != 1:
        yield PATIENT_ROLE, f"{count} patients: an imaging report has exactly one"


def ins_valid(root: Element, _zone: str) -> Iterator[Finding]:
    """Every id under an INS authority is an INS, key included."""
    for element in ins_ids(root):
        try:
            parse_ins(attribute(element, "extension"), attribute(element, "root"))
        except InvalidIdentifier as error:
            yield f"{PATIENT_ROLE}/c:id", str(error)


def ins_single(root: Element, _zone: str) -> Iterator[Finding]:
    """One INS: two that differ are two patients."""
    if len({(attribute(e, "root"), attribute(e, "extension")) for e in ins_ids(root)}) > 1:
        yield f"{PATIENT_ROLE}/c:id", "several INS that differ"


def ins_traits(root: Element, _zone: str) -> Iterator[Finding]:
    """With an INS, birth names, birth date, sex and birth place come together (StructMin)."""
    if not ins_ids(root):
        return
    person = patient(root)
    traits = {
        "c:name/c:family[@qualifier='BR']": person.birth_family,
        "c:name/c:given": person.birth_given,
        "c:birthTime": person.birth_date,
        "c:administrativeGenderCode": person.sex,
        "c:birthplace/c:place/c:addr/c:county": person.birth_place,
    }
    for path, value in traits.items():
        if not value:
            yield f"{PATIENT_ROLE}/c:patient/{path}", "a trait that goes with the INS is missing"


def ins_present(root: Element, _zone: str) -> Iterator[Finding]:
    """Without INS the document can be read, not published."""
    if not ins_ids(root):
        yield f"{PATIENT_ROLE}/c:id", "the patient has no INS"


def birth_given(root: Element, _zone: str) -> Iterator[Finding]:
    """The first birth given name has qualifier BR."""
    if not any(attribute(e, "qualifier") == "BR" for e in every(root, f"{NAME}/c:given")):
        yield f"{NAME}/c:given[@qualifier='BR']", "no first birth given name: the first of the list is taken"


def spouse_name(root: Element, _zone: str) -> Iterator[Finding]:
    """SP is an older form of the used name, never a birth name."""
    if any(attribute(e, "qualifier") == "SP" for e in every(root, f"{NAME}/c:family")):
        yield f"{NAME}/c:family[@qualifier='SP']", "qualifier SP is read as a used name"


def local_id(root: Element, _zone: str) -> Iterator[Finding]:
    """An IPP makes the cross-check with the images possible."""
    if every(root, PATIENT_ROLE) and not patient(root).local_ids:
        yield f"{PATIENT_ROLE}/c:id", "the patient has no local identifier (IPP)"


def author_time(root: Element, _zone: str) -> Iterator[Finding]:
    """author/time has a value: nullFlavor is refused by StructMin."""
    for author in every(root, "c:author"):
        if not attribute(first(author, "c:time"), "value"):
            yield "c:author/c:time/@value", "an author without time"
