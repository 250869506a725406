"""HL7 v2 data types as XDS metadata carries them: CX, CXi, XCN, XON, DTM (cda-and-xds 3.4-3.6). Pure text."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from drimbox.domain.identifiers import Identifier
from drimbox.domain.report import Patient, Professional, Timestamp
from drimbox.domain.xds.vocabulary import PS_ID_NAT, STRUCT_ID_NAT

# No escape mechanism is agreed for the HL7 delimiters in XDS metadata: they become blanks (cda-and-xds 3.4).
_DELIMITERS = re.compile(r"[\^&|~\\\x00-\x1f\x7f]+")
# Sex: CDA administrativeGenderCode -> PID-8.
_SEX = {"UN": "U"}

CX = re.compile(r"[^\^&|~\\]+\^\^\^&[0-9.]+&ISO\^(?P<type>[A-Z]+)")
CXI = re.compile(r"(?P<id>[^\^&|~\\]+)\^\^\^(?:&(?P<authority>[^\^&]+)&ISO)?\^(?P<type>[^\^&]+)")
XCN = re.compile(r"[^\^&]+\^[^\^&]+\^[^\^&]*\^{6}&1\.2\.250\.1\.71\.4\.2\.1&ISO\^[DU]\^{3}(?:IDNPS|EI|RI)")
XON = re.compile(r"[^\^&]+\^{5}&1\.2\.250\.1\.71\.4\.2\.2&ISO\^IDNST\^{3}[^\^&]+")
DTM = re.compile(r"\d{4}(?:\d{2}(?:\d{2}(?:\d{2}(?:\d{2}(?:\d{2})?)?)?)?)?")


def clean(text: str) -> str:
    """The text without HL7 delimiters and control characters, blanks squeezed."""
    return " ".join(_DELIMITERS.sub(" ", text).split())


def cx(identifier: Identifier, kind: str) -> str:
    """CX: `<extension>^^^&<root>&ISO^<kind>` with kind PI or NH."""
    return f"{clean(identifier.extension)}^^^&{identifier.root}&ISO^{kind}"


def cxi(value: str, authority: str, kind: str) -> str:
    """CXi of referenceIdList: `<value>^^^&<authority>&ISO^<kind>`; no authority: `<value>^^^^<kind>`."""
    issuer = f"&{authority}&ISO" if authority else ""
    return f"{clean(value)}^^^{issuer}^{kind}"


def xcn_person(person: Professional) -> str:
    """XCN of a professional; XCN.13 is EI when the PS_IdNat names a structure (`.../...`), else IDNPS."""
    if person.id is None:
        return ""
    number = clean(person.id.extension)
    kind = "EI" if "/" in number else "IDNPS"
    return f"{number}^{clean(person.family)}^{clean(person.given)}^^^^^^&{PS_ID_NAT}&ISO^D^^^{kind}"


def xcn_device(device_id: str, name: str, model: str, kind: str) -> str:
    """XCN of a system as author: name type U, XCN.13 `kind` (EI in DATA, RI in the ANS mapping)."""
    return f"{clean(device_id)}^{clean(name)}^{clean(model)}^^^^^^&{PS_ID_NAT}&ISO^U^^^{kind}"


def xon(name: str, structure_id: str) -> str:
    """XON of a structure by its Struct_IdNat."""
    return f"{clean(name)}^^^^^&{STRUCT_ID_NAT}&ISO^IDNST^^^{clean(structure_id)}"


def source_patient_info(patient: Patient) -> tuple[str, ...]:
    """PID-5 (birth names), PID-7, PID-8, PID-11 (birth place): those known, (drim-m-data 5.3)."""
    name = f"{clean(patient.birth_family)}^{clean(patient.birth_given)}^^^^^L"
    values = (
        ("PID-5", name if patient.birth_family else ""),
        ("PID-7", clean(patient.birth_date)),
        ("PID-8", _SEX.get(patient.sex, clean(patient.sex))),
        ("PID-11", f"^^^^^^BDL^^{clean(patient.birth_place)}" if patient.birth_place else ""),
    )
    return tuple(f"{field}|{value}" for field, value in values if value)


def dtm(at: datetime, *, utc: bool, time_zone: str) -> str:
    """DTM to the second of an aware instant: digits in UTC, or of `time_zone` (cda-and-xds 3.5)."""
    return at.astimezone(UTC if utc else ZoneInfo(time_zone)).strftime("%Y%m%d%H%M%S")


def dtm_of(timestamp: Timestamp | None, *, utc: bool) -> str:
    """DTM of a CDA time, its precision kept; a date alone is never shifted; not UTC: digits as written."""
    if timestamp is None:
        return ""
    digits = timestamp.digits
    if not utc or len(digits) <= 8:
        return digits
    return timestamp.at.astimezone(UTC).strftime("%Y%m%d%H%M%S")[: len(digits)]
