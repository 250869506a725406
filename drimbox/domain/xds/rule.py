"""What a rule row is, and the checks of single values that the tables share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar

from drimbox.domain.identifiers import INS_AUTHORITIES, is_oid
from drimbox.domain.violations import Violation
from drimbox.domain.xds import hl7_types
from drimbox.domain.xds.metadata import Author, Coded

Subject = TypeVar("Subject")
_DTM_FORMATS = {4: "%Y", 6: "%Y%m", 8: "%Y%m%d", 10: "%Y%m%d%H", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}
_SCHEMES_THAT_ARE_NO_OID = ("URN", "ASTM")  # TRE_A10, TRE_A12 (cda-and-xds 3.8)
MAX_VALUE = 256  # rim.xsd, LongName
MAX_OID = 64  # ITI TF-3 4.2.3.1.7


@dataclass(frozen=True, slots=True)
class Rule(Generic[Subject]):
    """One rule: `where` it looks, its `clause`, and `broken`, which yields a message for every breach."""

    slug: str
    where: str
    clause: str
    broken: Callable[[Subject], Iterator[str]]


def judge(subject: Subject, rules: Iterable[Rule[Subject]], prefix: str) -> Iterator[Violation]:
    """Every violation of `rules` by `subject`; `prefix` names the object in `where`."""
    for rule in rules:
        for message in rule.broken(subject):
            yield Violation(rule.slug, message, f"{prefix}.{rule.where}", rule.clause)


def patient_id_faults(value: str) -> Iterator[str]:
    """XDS patientId: `<INS>^^^&<INS authority>&ISO^NH`, nothing more."""
    if not hl7_types.CX.fullmatch(value) or not value.endswith("^NH"):
        yield "not a CX of an INS (<INS>^^^&<OID>&ISO^NH)"
    elif value.split("&")[1] not in INS_AUTHORITIES:
        yield f"{value.split('&')[1]} is not an INS authority"


def oid_faults(value: str) -> Iterator[str]:
    """An OID of at most 64 characters."""
    if not is_oid(value):
        yield "not an OID" if value else "missing"
    elif len(value) > MAX_OID:
        yield f"{len(value)} characters, at most {MAX_OID}"


def dtm_faults(value: str) -> Iterator[str]:
    """DTM: 4, 6, 8, 10, 12 or 14 digits that are a real time, without offset."""
    if not hl7_types.DTM.fullmatch(value):
        yield "not 4, 6, 8, 10, 12 or 14 digits"
        return
    try:
        datetime.strptime(value, _DTM_FORMATS[len(value)])  # noqa: DTZ007  # only whether the date exists
    except ValueError:
        yield "no such date or time"


def author_faults(authors: Iterable[Author]) -> Iterator[str]:
    """Each author has an XCN, and institutions as XON."""
    for author in authors:
        if not hl7_types.XCN.fullmatch(author.person):
            yield "authorPerson is not an XCN (id^name^given^^^^^^&1.2.250.1.71.4.2.1&ISO^D|U^^^IDNPS|EI|RI)"
        if not author.institutions:
            yield "authorInstitution missing"
        if not all(hl7_types.XON.fullmatch(institution) for institution in author.institutions):
            yield "authorInstitution is not an XON (name^^^^^&1.2.250.1.71.4.2.2&ISO^IDNST^^^id)"


def coded_faults(coded: Coded) -> Iterator[str]:
    """A code has a code, a codingScheme that is an OID (or URN, ASTM), a label."""
    if not coded.code:
        yield "empty code"
    if not is_oid(coded.scheme) and coded.scheme not in _SCHEMES_THAT_ARE_NO_OID:
        yield f"code {coded.code}: codingScheme {coded.scheme or '(empty)'} is not an OID"
    if not coded.display:
        yield f"code {coded.code}: no label"


def length_faults(values: Iterable[str], limit: int) -> Iterator[str]:
    """No value is longer than `limit`."""
    for value in values:
        if len(value) > limit:
            yield f"{len(value)} characters, at most {limit}"
