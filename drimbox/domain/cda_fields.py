"""Elements of a CDA header to the value types of `report` (cda-and-xds 2.1-2.4): by path and qualifier.

Nothing here judges: an absent or unreadable optional value is empty or None, and `cda_rules` names it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from lxml import etree

from drimbox.domain.cda_document import HL7_V3, NS
from drimbox.domain.identifiers import INS_AUTHORITIES, Identifier, Ins, InvalidIdentifier, parse_ins
from drimbox.domain.imaging_codes import (
    CATALOG_SERIES,
    CATALOG_STUDY,
    CCAM_SYSTEMS,
    DCM,
    MODALITY_ALIASES,
    MODALITY_QUALIFIER,
    REGION_QUALIFIER,
    SNOMED_CT,
)
from drimbox.domain.report import Code, Order, Organization, Patient, Professional, StudyAct, Timestamp
from drimbox.domain.timestamp import InvalidTimestamp, parse_timestamp
from drimbox.domain.value_sets import MODALITIES, REGIONS

Element = etree._Element
_CCAM_CODE = re.compile(r"[A-Z]{4}[0-9]{3}")
PATIENT_ROLE = "c:recordTarget/c:patientRole"
NAME = f"{PATIENT_ROLE}/c:patient/c:name"
SERVICE_EVENT = "c:documentationOf/c:serviceEvent"
BODY_TEXT = "c:component/c:nonXMLBody/c:text"
STRUCTURED_BODY = "c:component/c:structuredBody"
INS_ARC = "1.2.250.1.213.1.4."  # an id under it that is no INS authority of today is no IPP either


def first(element: Element | None, path: str) -> Element | None:
    """The first element at `path`, None when there is none (or nothing to look into)."""
    return None if element is None else element.find(path, NS)


def every(element: Element, path: str) -> list[Element]:
    """All elements at `path`, in document order."""
    return element.findall(path, NS)


def text_of(element: Element | None) -> str:
    """The text of an element and its children, white space collapsed."""
    return "" if element is None else " ".join("".join(map(str, element.itertext("*"))).split())


def attribute(element: Element | None, name: str) -> str:
    """An attribute without surrounding blanks; empty when absent."""
    return "" if element is None else (element.get(name) or "").strip()


def identifier(element: Element | None) -> Identifier | None:
    """An II; None without root (nullFlavor)."""
    root = attribute(element, "root")
    return Identifier(root, attribute(element, "extension")) if root else None


def code(element: Element | None) -> Code | None:
    """A CD or CE; None without code (nullFlavor)."""
    value = attribute(element, "code")
    display = " ".join(attribute(element, "displayName").split())
    return Code(value, attribute(element, "codeSystem"), display) if value else None


def timestamp(element: Element | None, time_zone: str) -> Timestamp | None:
    """A TS; None when absent or unreadable."""
    value = attribute(element, "value")
    try:
        return parse_timestamp(value, time_zone) if value else None
    except InvalidTimestamp:
        return None  # the rule `time-invalid` reports it


def ins_ids(root: Element) -> list[Element]:
    """The patient ids under an INS authority, in document order."""
    return [e for e in every(root, f"{PATIENT_ROLE}/c:id") if attribute(e, "root") in INS_AUTHORITIES]


def patient(root: Element) -> Patient:
    """recordTarget (cda-and-xds 2.2). The first birth given name falls back on the list of them."""
    person = first(root, f"{PATIENT_ROLE}/c:patient")
    name = first(person, "c:name")
    given_list = _named(name, "given", "")
    return Patient(
        ins=_ins(root),
        local_ids=_local_ids(root),
        birth_family=_named(name, "family", "BR"),
        birth_given=_named(name, "given", "BR") or given_list.partition(" ")[0],
        birth_given_list=given_list,
        used_family=_named(name, "family", "CL") or _named(name, "family", "SP"),
        used_given=_named(name, "given", "CL"),
        sex=attribute(first(person, "c:administrativeGenderCode"), "code"),
        birth_date=_birth_date(person),
        birth_place=text_of(first(person, "c:birthplace/c:place/c:addr/c:county")),
    )


def _ins(root: Element) -> Ins | None:
    for element in ins_ids(root):
        try:
            return parse_ins(attribute(element, "extension"), attribute(element, "root"))
        except InvalidIdentifier:
            continue  # the rule `ins-invalid` reports it and stops the document
    return None


def _local_ids(root: Element) -> tuple[Identifier, ...]:
    found = (identifier(e) for e in every(root, f"{PATIENT_ROLE}/c:id"))
    return tuple(i for i in found if i and i.extension and not i.root.startswith(INS_ARC))


def _named(name: Element | None, part: str, qualifier: str) -> str:
    parts = [] if name is None else every(name, f"c:{part}")
    return " ".join(filter(None, (text_of(e) for e in parts if attribute(e, "qualifier") == qualifier)))


def _birth_date(person: Element | None) -> str:
    birth = timestamp(first(person, "c:birthTime"), "UTC")
    return birth.digits[:8] if birth else ""


def professional(holder: Element, path: str, time_zone: str) -> Professional | None:
    """An author, legalAuthenticator or performer; its assignedAuthor or assignedEntity is at `path`."""
    entity = first(holder, path)
    if entity is None:
        return None
    ids = (identifier(e) for e in every(entity, "c:id"))
    device = first(entity, "c:assignedAuthoringDevice")
    name = first(entity, "c:assignedPerson/c:name")
    return Professional(
        id=next((i for i in ids if i and i.extension), None),
        family=text_of(first(name, "c:family")) or text_of(first(device, "c:softwareName")),
        given=text_of(first(name, "c:given")) or text_of(first(device, "c:manufacturerModelName")),
        specialty=code(first(entity, "c:code")),
        role=attribute(first(holder, "c:functionCode"), "displayName"),
        time=timestamp(first(holder, "c:time"), time_zone),
        organization=organization(first(entity, "c:representedOrganization")),
    )


def organization(element: Element | None) -> Organization | None:
    """representedOrganization; None when it names nothing."""
    found = Organization(
        id=identifier(first(element, "c:id")),
        name=text_of(first(element, "c:name")),
        practice_setting=code(first(element, "c:standardIndustryClassCode")),
    )
    return found if found.id or found.name else None


def orders(root: Element) -> tuple[Order, ...]:
    """inFulfillmentOf/order: placer order number and accession numbers of urn:dicom-org:ps3-20."""
    return tuple(
        Order(
            placer=identifier(first(order, "c:id")),
            accessions=tuple(
                i for i in map(identifier, every(order, "ps:accessionNumber")) if i and i.extension
            ),
        )
        for order in every(root, "c:inFulfillmentOf/c:order")
    )


def study_ids(event: Element) -> list[Element]:
    """The ids of a serviceEvent that name something; none for screening and urgency acts."""
    return [e for e in every(event, "c:id") if attribute(e, "root")]


def studies(root: Element, time_zone: str) -> tuple[StudyAct, ...]:
    """One act per Study Instance UID; several acts on one study are one act with all their codes."""
    found: dict[str, StudyAct] = {}
    for event in every(root, SERVICE_EVENT):
        for element in study_ids(event):
            act = _study(event, attribute(element, "root"), time_zone)
            known = found.get(act.StudyInstanceUID)
            found[act.StudyInstanceUID] = _merged(known, act) if known else act
    return tuple(found.values())


def other_acts(root: Element) -> tuple[Code, ...]:
    """The acts that are no study (screening, urgency): their codes are context, nothing more."""
    acts = (code(first(e, "c:code")) for e in every(root, SERVICE_EVENT) if not study_ids(e))
    return tuple(c for c in acts if c)


def catalog_studies(root: Element) -> list[Element]:
    """The studies of the object catalogs of a level 3 body (113014 of DCM); none at level 1."""
    body = first(root, STRUCTURED_BODY)
    acts = () if body is None else body.iter(f"{{{HL7_V3}}}act")
    return [act for act in acts if _is_dcm(act, CATALOG_STUDY)]


def catalog_series(study: Element) -> list[Element]:
    """The series of a study of the catalog (113015 of DCM)."""
    return [act for act in every(study, "c:entryRelationship/c:act") if _is_dcm(act, CATALOG_SERIES)]


def _is_dcm(act: Element, value: str) -> bool:
    found = code(first(act, "c:code"))
    return found is not None and (found.code, found.system) == (value, DCM)


def _study(event: Element, study_instance_uid: str, time_zone: str) -> StudyAct:
    performer = first(event, "c:performer")
    return StudyAct(
        StudyInstanceUID=study_instance_uid,
        act=code(first(event, "c:code")),
        ccam=next((c for c in act_codes(event) if is_ccam(c)), None),
        modalities=_distinct(modalities(event)),
        regions=_distinct(c for c in regions(event) if c.code in REGIONS),
        start=timestamp(first(event, "c:effectiveTime/c:low"), time_zone),
        stop=timestamp(first(event, "c:effectiveTime/c:high"), time_zone),
        performer=None if performer is None else professional(performer, "c:assignedEntity", time_zone),
    )


def _merged(known: StudyAct, more: StudyAct) -> StudyAct:
    return StudyAct(
        StudyInstanceUID=known.StudyInstanceUID,
        act=known.act or more.act,
        ccam=known.ccam or more.ccam,
        modalities=_distinct(known.modalities + more.modalities),
        regions=_distinct(known.regions + more.regions),
        start=known.start or more.start,
        stop=known.stop or more.stop,
        performer=known.performer or more.performer,
    )


def _distinct(codes: Iterable[Code]) -> tuple[Code, ...]:
    found: dict[str, Code] = {}
    for candidate in codes:
        found.setdefault(candidate.code, candidate)
    return tuple(found.values())


def act_codes(event: Element) -> Iterator[Code]:
    """serviceEvent/code and its translations, whatever they mean."""
    for element in [*every(event, "c:code"), *every(event, "c:code/c:translation")]:
        found = code(element)
        if found:
            yield found


def is_ccam(candidate: Code) -> bool:
    """Four letters and three digits under one of the two OIDs of the CCAM (cda-and-xds section 6)."""
    return candidate.system in CCAM_SYSTEMS and bool(_CCAM_CODE.fullmatch(candidate.code))


def is_misplaced_region(candidate: Code) -> bool:
    """A SNOMED number under the OID of the CCAM: older senders put the region there."""
    return candidate.system in CCAM_SYSTEMS and candidate.code.isdigit()


def qualified(event: Element, qualifier: str) -> list[Code]:
    """The translations that carry a qualifier of this name (121139 modality, 39111-0 region)."""
    found = []
    for translation in every(event, "c:code/c:translation"):
        names = {attribute(e, "code") for e in every(translation, "c:qualifier/c:name")}
        value = code(translation)
        if qualifier in names and value:
            found.append(value)
    return found


def modalities(event: Element) -> list[Code]:
    """Modalities of the value set, aliases resolved (RM is MR), always under the OID of DCM."""
    resolved = (
        Code(MODALITY_ALIASES.get(c.code, c.code), DCM, c.display)
        for c in qualified(event, MODALITY_QUALIFIER)
    )
    return [c for c in resolved if c.code in MODALITIES]


def regions(event: Element) -> list[Code]:
    """Regions as received, those under the CCAM OID included, always under the OID of SNOMED CT."""
    found = [*qualified(event, REGION_QUALIFIER), *filter(is_misplaced_region, act_codes(event))]
    return [Code(c.code, SNOMED_CT, c.display) for c in found]
