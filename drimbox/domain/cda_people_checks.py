"""What the rows of `cda_rules` look at in the patient, professionals and structures: (XPath, message) per breach.

Messages never repeat patient data.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from drimbox.domain.cda_checks import Finding, Terms
from drimbox.domain.cda_fields import (
    INS_ARC,
    NAME,
    PATIENT_ROLE,
    SERVICE_EVENT,
    Element,
    attribute,
    every,
    first,
    identifier,
    ins_ids,
    patient,
)
from drimbox.domain.identifiers import INS_AUTHORITIES, InvalidIdentifier, parse_ins
from drimbox.domain.imaging_codes import STRUCT_ID_NAT
from drimbox.domain.value_sets import ADMINISTRATIVE_GENDERS

_PERFORMER = "c:performer/c:assignedEntity"
_ORGANIZATION = "c:representedOrganization/c:id"
_STRUCTURES = (
    f"c:author/c:assignedAuthor/{_ORGANIZATION}",
    "c:custodian/c:assignedCustodian/c:representedCustodianOrganization/c:id",
    f"c:legalAuthenticator/c:assignedEntity/{_ORGANIZATION}",
    f"{SERVICE_EVENT}/{_PERFORMER}/{_ORGANIZATION}",
)
# Struct_IdNat by its first digit (cda-and-xds 2.3): 1 FINESS, 2 SIREN, 3 SIRET, 4 RPPS and rank, 0 ADELI cabinet
_STRUCT_ID = re.compile(r"1[0-9][0-9AB][0-9]{7}|2[0-9]{9}|3[0-9]{14}|4[0-9]{12,16}|0[0-9][0-9AB][0-9]{6,12}")


def one_patient(root: Element, _terms: Terms) -> Iterator[Finding]:
    """Exactly one recordTarget."""
    count = len(every(root, PATIENT_ROLE))
    if count != 1:
        yield PATIENT_ROLE, f"{count} patients: an imaging report has exactly one"


def ins_valid(root: Element, _terms: Terms) -> Iterator[Finding]:
    """Every id under an INS authority is an INS, key included."""
    for element in ins_ids(root):
        try:
            parse_ins(attribute(element, "extension"), attribute(element, "root"))
        except InvalidIdentifier as error:
            yield f"{PATIENT_ROLE}/c:id", str(error)


def ins_single(root: Element, _terms: Terms) -> Iterator[Finding]:
    """One INS: two that differ are two patients."""
    if len({(attribute(e, "root"), attribute(e, "extension")) for e in ins_ids(root)}) > 1:
        yield f"{PATIENT_ROLE}/c:id", "several INS that differ"


def ins_authority_accepted(root: Element, terms: Terms) -> Iterator[Finding]:
    """Identities of test and of production do not mix."""
    for element in ins_ids(root):
        authority = attribute(element, "root")
        if authority not in terms.ins_authorities:
            yield f"{PATIENT_ROLE}/c:id/@root", f"the INS authority {authority} is not accepted here"


def ins_authority_known(root: Element, _terms: Terms) -> Iterator[Finding]:
    """An id under the arc of the INS that is none of its four authorities is left aside."""
    for element in every(root, f"{PATIENT_ROLE}/c:id"):
        authority = attribute(element, "root")
        if authority.startswith(INS_ARC) and authority not in INS_AUTHORITIES:
            yield f"{PATIENT_ROLE}/c:id/@root", "an authority of the INS that is not one of its four"


def ins_traits(root: Element, _terms: Terms) -> Iterator[Finding]:
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


def ins_present(root: Element, _terms: Terms) -> Iterator[Finding]:
    """Without INS the document can be read, not published."""
    if not ins_ids(root):
        yield f"{PATIENT_ROLE}/c:id", "the patient has no INS"


def birth_given(root: Element, _terms: Terms) -> Iterator[Finding]:
    """The first birth given name has qualifier BR."""
    if not any(attribute(e, "qualifier") == "BR" for e in every(root, f"{NAME}/c:given")):
        yield f"{NAME}/c:given[@qualifier='BR']", "no first birth given name: the first of the list is taken"


def spouse_name(root: Element, _terms: Terms) -> Iterator[Finding]:
    """SP is an older form of the used name, never a birth name."""
    if any(attribute(e, "qualifier") == "SP" for e in every(root, f"{NAME}/c:family")):
        yield f"{NAME}/c:family[@qualifier='SP']", "qualifier SP is read as a used name"


def sex(root: Element, _terms: Terms) -> Iterator[Finding]:
    """The administrative sex is in its value set."""
    where = f"{PATIENT_ROLE}/c:patient/c:administrativeGenderCode"
    for element in every(root, where):
        value = attribute(element, "code")
        if value and ADMINISTRATIVE_GENDERS.refuses(value):
            yield f"{where}/@code", "not a code of administrative sex"


def local_id(root: Element, _terms: Terms) -> Iterator[Finding]:
    """An IPP makes the cross-check with the images possible."""
    if every(root, PATIENT_ROLE) and not patient(root).local_ids:
        yield f"{PATIENT_ROLE}/c:id", "the patient has no local identifier (IPP)"


def author_time(root: Element, _terms: Terms) -> Iterator[Finding]:
    """author/time has a value: nullFlavor is refused by StructMin."""
    for author in every(root, "c:author"):
        if not attribute(first(author, "c:time"), "value"):
            yield "c:author/c:time/@value", "an author without time"


def author_id(root: Element, _terms: Terms) -> Iterator[Finding]:
    """An author has an identifier."""
    for author in every(root, "c:author/c:assignedAuthor"):
        if not any(identifier(e) for e in every(author, "c:id")):
            yield "c:author/c:assignedAuthor/c:id", "an author without identifier"


def signature_time(root: Element, _terms: Terms) -> Iterator[Finding]:
    """legalAuthenticator/time has a value."""
    for signed in every(root, "c:legalAuthenticator"):
        if not attribute(first(signed, "c:time"), "value"):
            yield "c:legalAuthenticator/c:time/@value", "a signature without time"


def performer(root: Element, _terms: Terms) -> Iterator[Finding]:
    """Somebody performed the principal act; older senders do not say who."""
    principal = first(root, SERVICE_EVENT)
    entities = [] if principal is None else every(principal, f"{_PERFORMER}/c:id")
    if principal is not None and not any(identifier(e) for e in entities):
        yield f"{SERVICE_EVENT}/{_PERFORMER}/c:id", "the principal act does not say who performed it"


def structure_ids(root: Element, _terms: Terms) -> Iterator[Finding]:
    """A Struct_IdNat has the length that its first digit announces; another one passes through."""
    for path in _STRUCTURES:
        for found in map(identifier, every(root, path)):
            if found and found.root == STRUCT_ID_NAT and not _STRUCT_ID.fullmatch(found.extension):
                yield f"{path}/@extension", "a malformed identifier of a structure (Struct_IdNat)"
