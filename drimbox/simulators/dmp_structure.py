"""Form of a RegistryObjectList before its meaning: order of children, ids, what classifies what.

Clauses: ebRIM 3.0 (rim.xsd order), ITI TF-3 4.2.1; cda-and-xds 3.3 (Slot*, Name, Description, VersionInfo,
Classification*, ExternalIdentifier*).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from lxml import etree

from drimbox.simulators.dmp_answers import RIM
from drimbox.simulators.dmp_metadata import SCHEMES, STABLE_DOCUMENT, SUBMISSION_SET_NODE

_OBJECT = ("Slot", "Name", "Description", "VersionInfo", "Classification", "ExternalIdentifier")
CHILDREN: Mapping[str, tuple[str, ...]] = {
    "RegistryObjectList": ("RegistryPackage", "ExtrinsicObject", "Association"),
    "RegistryPackage": _OBJECT,
    "ExtrinsicObject": _OBJECT,
    "Association": _OBJECT,
    "Classification": _OBJECT,
    "ExternalIdentifier": _OBJECT,
    "Slot": ("ValueList",),
    "ValueList": ("Value",),
    "Name": ("LocalizedString",),
    "Description": ("LocalizedString",),
    "VersionInfo": (),
    "LocalizedString": (),
    "Value": (),
}
REQUIRED: Mapping[str, tuple[str, ...]] = {
    "RegistryPackage": ("id",),
    "ExtrinsicObject": ("id", "mimeType", "objectType"),
    "Association": ("id", "associationType", "sourceObject", "targetObject"),
    "Classification": ("id", "classifiedObject"),
    "ExternalIdentifier": ("id", "registryObject", "identificationScheme", "value"),
    "Slot": ("name",),
}
_OWNER = {"Classification": "classifiedObject", "ExternalIdentifier": "registryObject"}
_FREE_ORDER = frozenset({"RegistryObjectList"})


def structure_faults(objects: etree._Element) -> list[tuple[str, str]]:
    """Every (location, fault) of a rim:RegistryObjectList."""
    return [
        fault
        for check in (_children, _attributes, _owners, _identities, _packages, _slots)
        for fault in check(objects)
    ]


def _elements(objects: etree._Element) -> Iterator[etree._Element]:
    return (e for e in objects.iter() if isinstance(e.tag, str))


def _where(element: etree._Element) -> str:
    own = element.get("id") or element.get("name") or ""
    return f"{_name(element)}[{own}]" if own else _name(element)


def _name(element: etree._Element) -> str:
    name = etree.QName(element)
    return name.localname if name.namespace == RIM else f"{{{name.namespace}}}{name.localname}"


def _children(objects: etree._Element) -> Iterator[tuple[str, str]]:
    for element in _elements(objects):
        allowed = CHILDREN.get(_name(element), ())
        names = [_name(child) for child in element if isinstance(child.tag, str)]
        unknown = [name for name in names if name not in allowed]
        if unknown:
            yield _where(element), f"element {unknown[0]} is not allowed here"
        ranks = [allowed.index(name) for name in names if name in allowed]
        if ranks != sorted(ranks) and _name(element) not in _FREE_ORDER:
            yield _where(element), f"children out of order, ebRIM wants {', '.join(allowed)}"


def _attributes(objects: etree._Element) -> Iterator[tuple[str, str]]:
    for element in _elements(objects):
        for attribute in REQUIRED.get(_name(element), ()):
            if not element.get(attribute):
                yield _where(element), f"attribute {attribute} is absent"
    for entry in objects.findall(f"{{{RIM}}}ExtrinsicObject"):
        if entry.get("objectType") != STABLE_DOCUMENT:
            yield _where(entry), "objectType is not that of a stable document entry"


def _owners(objects: etree._Element) -> Iterator[tuple[str, str]]:
    for element in _elements(objects):
        owner, attribute = element.getparent(), _OWNER.get(_name(element))
        if attribute and owner is not None and element.get(attribute) != owner.get("id"):
            yield _where(element), f"{attribute} is not the id of the object it belongs to"
        scheme = element.get("classificationScheme") or element.get("identificationScheme")
        if scheme is not None and scheme not in SCHEMES:
            yield _where(element), f"unknown scheme {scheme}"


def _identities(objects: etree._Element) -> Iterator[tuple[str, str]]:
    counts = Counter(element.get("id") for element in _elements(objects) if element.get("id"))
    for identity, count in counts.items():
        if count > 1:
            yield str(identity), "the id is used more than once"


def _packages(objects: etree._Element) -> Iterator[tuple[str, str]]:
    packages = objects.findall(f"{{{RIM}}}RegistryPackage")
    if len(packages) != 1:
        yield "RegistryObjectList", f"{len(packages)} RegistryPackage instead of one submission set"
    for package in packages:
        nodes = [c.get("classificationNode") for c in package.findall(f"{{{RIM}}}Classification")]
        if nodes.count(SUBMISSION_SET_NODE) != 1:
            yield _where(package), "not classified once as an XDSSubmissionSet"


def _slots(objects: etree._Element) -> Iterator[tuple[str, str]]:
    for element in _elements(objects):
        names = Counter(slot.get("name") for slot in element.findall(f"{{{RIM}}}Slot"))
        for name, count in names.items():
            if count > 1:
                yield _where(element), f"slot {name} is repeated"
        if _name(element) == "Slot" and element.find(f"{{{RIM}}}ValueList/{{{RIM}}}Value") is None:
            yield _where(element), "the slot has no value"
