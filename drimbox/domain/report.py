"""An imaging report (CDA R2, IMG-CR-IMG level 1 or 3) as facts (cda-and-xds section 2)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from drimbox.domain.identifiers import Identifier, Ins


@dataclass(frozen=True, slots=True)
class Code:
    """A coded value; `system` is the OID of the code system."""

    code: str
    system: str
    display: str = ""


@dataclass(frozen=True, slots=True)
class Timestamp:
    """An HL7 TS: `digits` as written without offset and fraction, `at` aware (Europe/Paris if none was given).

    A date-only value keeps 8 digits; it is never shifted (cda-and-xds 3.5).
    """

    digits: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Patient:
    """recordTarget: INS and its traits, other identifiers (IPP), used names (cda-and-xds 2.2)."""

    ins: Ins | None
    local_ids: tuple[Identifier, ...]
    birth_family: str
    birth_given: str
    birth_given_list: str
    used_family: str
    used_given: str
    sex: str
    birth_date: str
    birth_place: str  # INSEE (COG) code


@dataclass(frozen=True, slots=True)
class Organization:
    """A structure: Struct_IdNat under 1.2.250.1.71.4.2.2, name, practice setting where given."""

    id: Identifier | None
    name: str
    practice_setting: Code | None = None


@dataclass(frozen=True, slots=True)
class Professional:
    """Author, legal authenticator or performer: PS_IdNat under 1.2.250.1.71.4.2.1."""

    id: Identifier | None
    family: str
    given: str
    specialty: Code | None
    role: str
    time: Timestamp | None
    organization: Organization | None


@dataclass(frozen=True, slots=True)
class Order:
    """inFulfillmentOf/order: placer order number and accession numbers, each with its issuer as root."""

    placer: Identifier | None
    accessions: tuple[Identifier, ...]


@dataclass(frozen=True, slots=True)
class StudyAct:
    """One study of a serviceEvent. Acts without a Study Instance UID are not studies (screening, urgency)."""

    StudyInstanceUID: str
    act: Code | None
    ccam: Code | None
    modalities: tuple[Code, ...]
    regions: tuple[Code, ...]
    start: Timestamp | None
    stop: Timestamp | None
    performer: Professional | None


@dataclass(frozen=True, slots=True)
class Report:
    """The header of a report. `id` is the XDS uniqueId of the CDA; `replaces` its RPLC parents."""

    id: Identifier
    set_id: str
    version: int
    replaces: tuple[Identifier, ...]
    code: Code
    exam_codes: tuple[Code, ...]  # code/translation: the act's name in the KOS text
    title: str
    effective_time: Timestamp
    confidentiality: Code
    language: str
    level: int  # 1 or 3
    patient: Patient
    authors: tuple[Professional, ...]
    legal_authenticator: Professional | None
    orders: tuple[Order, ...]
    studies: tuple[StudyAct, ...]
    facility: Code | None
    practice_setting: Code | None
    context: tuple[Code, ...] = ()  # acts that are no study: screening, urgency

    def study(self, study_instance_uid: str) -> StudyAct:
        """The act of one study; raises KeyError when the report does not document it."""
        for act in self.studies:
            if act.StudyInstanceUID == study_instance_uid:
                return act
        raise KeyError(study_instance_uid)
