"""Tables of the simulated DMP's rules on metadata: form of every attribute, what each kind of entry must say.

Rows carry the clause they come from: cda-and-xds 3.2 to 3.11, drim-m-data 5.2 to 5.5, dmp-kos-xds 2.3 to 2.5.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from drimbox.simulators.dmp_metadata import REFERENCE_IDS
from drimbox.simulators.dmp_security import PATIENT_CX

APPROVED = "urn:oasis:names:tc:ebxml-regrep:StatusType:Approved"
ARCHIVED = "urn:asip:ci-sis:2010:StatusType:Archived"
DELETED = "urn:asip:ci-sis:2010:StatusType:Deleted"
STATUSES: Mapping[str, str] = {
    APPROVED: "Approved",
    "urn:oasis:names:tc:ebxml-regrep:StatusType:Deprecated": "Deprecated",
    ARCHIVED: "Archived",
    DELETED: "Deleted",
}
# What a structure may do without the professional (TD3.3c only; dmp-kos-xds 2.5, 2.8).
MOVES = frozenset({(APPROVED, DELETED), (ARCHIVED, DELETED)})

DTM = (
    r"(19|20)\d\d((0[1-9]|1[0-2])((0[1-9]|[12]\d|3[01])"
    r"(([01]\d|2[0-3])([0-5]\d([0-5]\d)?)?)?)?)?"
)
OID = r"(?=.{1,64}\Z)[0-2](\.(0|[1-9]\d*))+"
PERSON = (
    r"[^^]+\^[^^]*\^[^^]*\^{6}&1\.2\.250\.1\.71\.4\.2\.1&ISO"
    r"\^(D\^\^\^(IDNPS|EI)|U\^\^\^(EI|RI))"
)
STRUCTURE = r"[^^]*\^{5}&1\.2\.250\.1\.71\.4\.2\.2&ISO\^IDNST\^\^\^[^^]+"
SPECIALTY = r"[^^]+\^[^^]+\^[0-9.]+"
REFERENCE = (
    r"[^^]+\^\^\^(&[0-9.]+&ISO)?\^"
    r"urn:ihe:iti:xds:(2013:accession|2013:order|2016:studyInstanceUID)"
)


@dataclass(frozen=True)
class Attribute:
    """One XDS attribute: how it is carried, how often, the form of each value, the clause.

    A code is matched as `code@codingScheme`.
    """

    name: str
    carrier: Literal["slot", "code", "identifier"]
    least: int
    most: int
    form: str
    clause: str = "cda-and-xds 3.3"


SET_ATTRIBUTES = (
    Attribute("submissionTime", "slot", 1, 1, r"\d{14}", "cda-and-xds 3.2"),
    Attribute("contentTypeCode", "code", 1, 1, r"[^@]+@1\.2\.250\.1\.[0-9.]+", "cda-and-xds 3.2"),
    Attribute("patientId", "identifier", 1, 1, PATIENT_CX, "cda-and-xds 3.4"),
    Attribute("sourceId", "identifier", 1, 1, OID, "cda-and-xds 3.2"),
    Attribute("uniqueId", "identifier", 1, 1, OID, "cda-and-xds 3.2"),
)
ENTRY_ATTRIBUTES = (
    Attribute("creationTime", "slot", 1, 1, DTM, "cda-and-xds 3.5"),
    Attribute("languageCode", "slot", 1, 1, r"[a-z]{2,3}(-[A-Z]{2})?"),
    Attribute("legalAuthenticator", "slot", 1, 1, PERSON, "cda-and-xds 3.4"),
    Attribute("serviceStartTime", "slot", 1, 1, DTM, "cda-and-xds 3.5"),
    Attribute("serviceStopTime", "slot", 0, 1, DTM, "cda-and-xds 3.5"),
    Attribute("sourcePatientId", "slot", 1, 1, r"[^^]+\^\^\^&[0-9.]+&ISO\^(PI|NH)", "cda-and-xds 3.4"),
    Attribute("sourcePatientInfo", "slot", 0, 9, r"PID-\d+\|.+", "cda-and-xds 3.4"),
    Attribute("hash", "slot", 1, 1, r"[0-9A-Fa-f]{40}"),
    Attribute("size", "slot", 1, 1, r"[1-9]\d*"),
    Attribute(REFERENCE_IDS, "slot", 0, 99, REFERENCE, "cda-and-xds 3.6"),
    Attribute("classCode", "code", 1, 1, r"[^@]+@\S+"),
    Attribute("typeCode", "code", 1, 1, r"[^@]+@\S+"),
    Attribute("formatCode", "code", 1, 1, r"[^@]+@\S+"),
    Attribute(
        "healthcareFacilityTypeCode", "code", 1, 1, r"SA\d\d@1\.2\.250\.1\.71\.4\.2\.4", "cda-and-xds 3.8"
    ),
    Attribute(
        "practiceSettingCode", "code", 1, 1, r"[A-Z_]+@1\.2\.250\.1\.213\.1\.1\.4\.9", "cda-and-xds 3.8"
    ),
    Attribute(
        "confidentialityCode",
        "code",
        1,
        4,
        r"[NRV]@2\.16\.840\.1\.113883\.5\.25"
        r"|(MASQUE_PS|INVISIBLE_PATIENT|INVISIBLE_REPRESENTANTS_LEGAUX)@1\.2\.250\.1\.213\.1\.1\.4\.13",
        "cda-and-xds 3.7",
    ),
    Attribute("eventCodeList", "code", 0, 99, r"[^@]+@[0-9.]+", "cda-and-xds 3.6"),
    Attribute("patientId", "identifier", 1, 1, PATIENT_CX, "cda-and-xds 3.4"),
    Attribute("uniqueId", "identifier", 1, 1, OID),
)


@dataclass(frozen=True)
class Kind:
    """What an entry of one typeCode must say besides: (code, scheme) per attribute, media, language."""

    mime_type: str
    language: str
    codes: Mapping[str, tuple[str, str]]
    confidentiality: frozenset[str] = frozenset()
    clause: str = "drim-m-data 5.3"


KINDS: Mapping[str, Kind] = {
    "IMG-KOS": Kind(
        "application/dicom",
        "fr-FR",
        {
            "typeCode": ("IMG-KOS", "1.2.250.1.213.1.1.4.12"),
            "classCode": ("31", "1.2.250.1.213.1.1.4.1"),
            "formatCode": ("1.2.840.10008.5.1.4.1.1.88.59", "1.2.840.10008.2.6.1"),
        },
    ),
    "E1762": Kind(
        "text/xml",
        "art",
        {
            "typeCode": ("E1762", "ASTM"),
            "classCode": ("urn:oid:1.3.6.1.4.1.19376.1.2.1.1.1", "URN"),
            "formatCode": ("http://www.w3.org/2000/09/xmldsig#", "URN"),
            "eventCodeList": ("1.2.840.10065.1.12.1.14", "1.2.840.10065.1.12"),
        },
        frozenset({"N", "MASQUE_PS", "INVISIBLE_PATIENT"}),
        "drim-m-data 5.5",
    ),
}
EVENT_SCHEMES = frozenset(
    {
        "1.2.840.10008.2.16.4",  # modality, DCM
        "2.16.840.1.113883.6.96",  # region, SNOMED CT
        "1.2.250.1.213.1.1.5.618",  # modality, value set
        "1.2.250.1.213.1.1.5.695",  # region, value set
        "1.2.250.1.213.2.5",  # act, CCAM
    }
)
TRAITS = ("PID-5|", "PID-7|", "PID-8|")
