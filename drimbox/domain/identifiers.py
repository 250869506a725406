"""Identifiers of the French health space: parsed once, then trusted types."""

from __future__ import annotations

import re
from dataclasses import dataclass

# Assigning authorities of the INS (cda-and-xds 2.2; StructMin lists these four) and the label that the KOS
# carries in IssuerOfPatientID (drim-m-data 6.1: only .10 and its label are in the data; the others follow it).
INS_AUTHORITIES: dict[str, str] = {
    "1.2.250.1.213.1.4.8": "ASIP-SANTE-INS-NIR",
    "1.2.250.1.213.1.4.9": "ASIP-SANTE-INS-NIA",
    "1.2.250.1.213.1.4.10": "ASIP-SANTE-INS-NIR",
    "1.2.250.1.213.1.4.11": "ASIP-SANTE-INS-NIR",
}
_INS = re.compile(r"[0-9]{6}[0-9AB][0-9]{8}")  # the seventh: department 2A or 2B
_OID = re.compile(r"[0-2](?:\.(?:0|[1-9][0-9]*))+")
_CORSICA = {"2A": "19", "2B": "18"}


class InvalidIdentifier(ValueError):
    """The text is not an identifier of the expected kind; the message says which rule it breaks."""


@dataclass(frozen=True, slots=True)
class Identifier:
    """An HL7 II: `root` is an OID (or UUID where the sender uses one), `extension` may be empty."""

    root: str
    extension: str = ""

    def __str__(self) -> str:
        return f"{self.root}^{self.extension}" if self.extension else self.root


@dataclass(frozen=True, slots=True)
class Ins:
    """A matricule INS (15 characters, key included) and the OID of its assigning authority."""

    value: str
    oid: str

    @property
    def issuer(self) -> str:
        """Label of the authority for IssuerOfPatientID (0010,0021)."""
        return INS_AUTHORITIES[self.oid]

    @property
    def cx(self) -> str:
        """XDS patientId: `<INS>^^^&<OID>&ISO^NH` (cda-and-xds 3.4)."""
        return f"{self.value}^^^&{self.oid}&ISO^NH"


def parse_ins(value: str, oid: str) -> Ins:
    """Return the INS, or raise `InvalidIdentifier` (authority, 15 characters, mod-97 key; hl7-mss 1.3)."""
    if oid not in INS_AUTHORITIES:
        raise InvalidIdentifier(f"{oid} is not an INS authority")
    if not _INS.fullmatch(value):
        raise InvalidIdentifier("an INS has 15 characters: 13 of matricule, 2 of key")
    digits = value[:5] + _CORSICA.get(value[5:7], value[5:7]) + value[7:13]
    if not digits.isdigit() or 97 - int(digits) % 97 != int(value[13:]):
        raise InvalidIdentifier("the key of the INS does not match its matricule")
    return Ins(value, oid)


def is_oid(value: str) -> bool:
    """True for a dotted OID without leading zeros, of any arc length (drim-m-data 1: long arcs exist)."""
    return bool(_OID.fullmatch(value))
