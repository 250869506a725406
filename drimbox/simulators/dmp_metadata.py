"""The DMP's own reading of ebRIM: submission set, document entries, associations. Reads, does not judge.

Names are those of ITI TF-3 4.2; UUIDs are the table of cda-and-xds 3.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lxml import etree

from drimbox.simulators.dmp_answers import RIM

SCHEMES: Mapping[str, str] = {
    "urn:uuid:a7058bb9-b4e4-4307-ba5b-e3f0ab85e12d": "author",
    "urn:uuid:aa543740-bdda-424e-8c96-df4873be8500": "contentTypeCode",
    "urn:uuid:93606bcf-9494-43ec-9b4e-a7748d1a838d": "author",
    "urn:uuid:41a5887f-8865-4c09-adf7-e362475b143a": "classCode",
    "urn:uuid:f4f85eac-e6cb-4883-b524-f2705394840f": "confidentialityCode",
    "urn:uuid:2c6b8cb7-8b2a-4051-b291-b1ae6a575ef4": "eventCodeList",
    "urn:uuid:a09d5840-386c-46f2-b5ad-9c3699a4309d": "formatCode",
    "urn:uuid:f33fb8ac-18af-42cc-ae0e-ed0b0bdb91e1": "healthcareFacilityTypeCode",
    "urn:uuid:cccf5598-8b07-4b77-a05e-ae952c785ead": "practiceSettingCode",
    "urn:uuid:f0306f51-975f-434e-a61c-c59651d33983": "typeCode",
    "urn:uuid:6b5aea1a-874d-4603-a4bc-96a0a7b38446": "patientId",
    "urn:uuid:554ac39e-e3fe-47fe-b233-965d2a147832": "sourceId",
    "urn:uuid:96fdda7c-d067-4183-912e-bf5ee74998a8": "uniqueId",
    "urn:uuid:58a6f841-87b3-4a3e-92fd-a8ffeff98427": "patientId",
    "urn:uuid:2e82c1f6-a085-4c72-9da3-8640a32e42ab": "uniqueId",
}
SUBMISSION_SET_NODE = "urn:uuid:a54d6aa5-d40d-43f9-88c5-b4633d873bdd"
STABLE_DOCUMENT = "urn:uuid:7edca82f-054d-47f2-a032-9b2a5b5186c1"
HAS_MEMBER = "urn:oasis:names:tc:ebxml-regrep:AssociationType:HasMember"
REPLACES = "urn:ihe:iti:2007:AssociationType:RPLC"
SIGNS = "urn:ihe:iti:2007:AssociationType:signs"
UPDATE_STATUS = "urn:ihe:iti:2010:AssociationType:UpdateAvailabilityStatus"
REFERENCE_IDS = "urn:ihe:iti:xds:2013:referenceIdList"

Slots = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Code:
    """A coded classification: nodeRepresentation, codingScheme slot, display name."""

    code: str
    scheme: str
    display: str


@dataclass(frozen=True)
class RegistryObject:
    """A RegistryPackage or an ExtrinsicObject.

    codes: attribute -> codes, in order. authors: the slots of each author classification.
    identifiers: attribute -> value. nodes: classificationNode values. element: where it was read.
    """

    id: str
    mime_type: str
    object_type: str
    title: str
    slots: Slots
    codes: Mapping[str, tuple[Code, ...]]
    authors: tuple[Slots, ...]
    identifiers: Mapping[str, str]
    nodes: tuple[str, ...]
    element: etree._Element

    def slot(self, name: str) -> str:
        """The first value of a slot, empty when absent."""
        return next(iter(self.slots.get(name, ())), "")

    def code(self, attribute: str) -> tuple[str, str]:
        """(code, scheme) of the first classification of that attribute, empty strings when absent."""
        return next(((c.code, c.scheme) for c in self.codes.get(attribute, ())), ("", ""))

    def identifier(self, attribute: str) -> str:
        """The value of an ExternalIdentifier, empty when absent."""
        return self.identifiers.get(attribute, "")


@dataclass(frozen=True)
class Association:
    """An association: type URN, source and target ids, slots."""

    type: str
    source: str
    target: str
    slots: Slots


@dataclass(frozen=True)
class Submission:
    """The RegistryObjectList of a SubmitObjectsRequest and, for ITI-41, the bytes per ihe:Document id."""

    packages: tuple[RegistryObject, ...]
    entries: tuple[RegistryObject, ...]
    associations: tuple[Association, ...]
    documents: Mapping[str, bytes]

    @property
    def submission_set(self) -> RegistryObject:
        """The one RegistryPackage (structural rules come first). Raises ValueError for none or several."""
        (package,) = self.packages
        return package

    def of_type(self, association_type: str) -> tuple[Association, ...]:
        """The associations of that type."""
        return tuple(a for a in self.associations if a.type == association_type)

    @property
    def manifests(self) -> tuple[RegistryObject, ...]:
        """The entries of KOS manifests."""
        return tuple(e for e in self.entries if e.code("typeCode")[0] == "IMG-KOS")

    @property
    def signatures(self) -> tuple[RegistryObject, ...]:
        """The entries of signature documents."""
        return tuple(e for e in self.entries if e.code("typeCode")[0] == "E1762")


def read_submission(objects: etree._Element, documents: Mapping[str, bytes]) -> Submission:
    """Read a rim:RegistryObjectList; `documents` are the bytes after XOP decoding, by ihe:Document id."""
    return Submission(
        tuple(_registry_object(e) for e in objects.findall(f"{{{RIM}}}RegistryPackage")),
        tuple(_registry_object(e) for e in objects.findall(f"{{{RIM}}}ExtrinsicObject")),
        tuple(_association(e) for e in objects.findall(f"{{{RIM}}}Association")),
        documents,
    )


def slots_of(element: etree._Element) -> dict[str, tuple[str, ...]]:
    """name -> values of the slots of an element."""
    return {
        slot.get("name", ""): tuple(v.text or "" for v in slot.iter(f"{{{RIM}}}Value"))
        for slot in element.findall(f"{{{RIM}}}Slot")
    }


def _registry_object(element: etree._Element) -> RegistryObject:
    classifications = element.findall(f"{{{RIM}}}Classification")
    named = [(SCHEMES.get(c.get("classificationScheme", ""), ""), c) for c in classifications]
    codes: dict[str, tuple[Code, ...]] = {}
    for name, classification in named:
        if name not in ("", "author"):
            codes[name] = (*codes.get(name, ()), _code(classification))
    return RegistryObject(
        id=element.get("id", ""),
        mime_type=element.get("mimeType", ""),
        object_type=element.get("objectType", ""),
        title=_name(element),
        slots=slots_of(element),
        codes=codes,
        authors=tuple(slots_of(c) for name, c in named if name == "author"),
        identifiers=_identifiers(element),
        nodes=tuple(c.get("classificationNode", "") for c in classifications if c.get("classificationNode")),
        element=element,
    )


def _identifiers(element: etree._Element) -> dict[str, str]:
    found = element.findall(f"{{{RIM}}}ExternalIdentifier")
    return {SCHEMES.get(e.get("identificationScheme", ""), ""): e.get("value", "") for e in found}


def _code(classification: etree._Element) -> Code:
    scheme = next(iter(slots_of(classification).get("codingScheme", ())), "")
    return Code(classification.get("nodeRepresentation", ""), scheme, _name(classification))


def _name(element: etree._Element) -> str:
    found = element.find(f"{{{RIM}}}Name/{{{RIM}}}LocalizedString")
    return "" if found is None else found.get("value", "")


def _association(element: etree._Element) -> Association:
    return Association(
        element.get("associationType", ""),
        element.get("sourceObject", ""),
        element.get("targetObject", ""),
        slots_of(element),
    )
