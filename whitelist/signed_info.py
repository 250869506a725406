"""SignedInfo against its template, and the transforms of the document reference (3.5 steps 4 and 5)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from lxml import etree

from whitelist.algorithms import (
    CANONICALIZATIONS,
    DIGESTS,
    DS,
    ENVELOPED,
    FILTER2,
    METHODS,
    SIGNED_PROPERTIES,
    XPATH,
    Method,
    read_base64,
)
from whitelist.finding import Finding
from whitelist.tree import text_of

_Row = TypeVar("_Row")

# The three ways to say "the document without its signature" (XMLDSig signers, recent DSS, older DSS):
# algorithm -> (tag of the parameter, its attributes, its text where group 1 is a prefix bound to DS).
Parameter = tuple[str, Mapping[str, str], re.Pattern[str]]
REMOVALS: Mapping[str, Parameter | None] = {
    ENVELOPED: None,
    FILTER2: (f"{{{FILTER2}}}XPath", {"Filter": "subtract"}, re.compile(r"/descendant::([\w.-]+):Signature")),
    XPATH: (f"{{{DS}}}XPath", {}, re.compile(r"not\(ancestor-or-self::([\w.-]+):Signature\)")),
}


@dataclass(frozen=True, slots=True)
class Reference:
    """One ds:Reference; `digest` (hashlib name) and `value` are None when they are refused."""

    element: etree._Element
    uri: str
    digest: str | None
    value: bytes | None


@dataclass(frozen=True, slots=True)
class SignedInfo:
    """What SignedInfo says; None where it says what is refused. `properties` is None in a plain XML-DSig."""

    element: etree._Element
    exclusive: bool | None
    method: Method | None
    document: Reference | None
    properties: Reference | None


def read_signed_info(signature: etree._Element) -> tuple[SignedInfo | None, Finding]:
    """Step 4: C14N, method and digests of the tables; references exactly {document [, SignedProperties]}."""
    finding = Finding()
    _check_children(finding, signature, _SIGNATURE)
    infos = signature.findall(f"{{{DS}}}SignedInfo")
    if len(infos) != 1:
        return None, finding
    info = infos[0]
    _check_children(finding, info, _SIGNED_INFO)
    exclusive = _row(finding, info.find(f"{{{DS}}}CanonicalizationMethod"), CANONICALIZATIONS)
    method = _row(finding, info.find(f"{{{DS}}}SignatureMethod"), METHODS)
    document, properties = _references(finding, info.findall(f"{{{DS}}}Reference"))
    if method is not None:
        form = "plain XML-DSig" if properties is None else "XAdES"
        finding.notes.append(f"{form}, {method.kind} with {method.hash.name}")
    return SignedInfo(info, exclusive, method, document, properties), finding


def read_transforms(reference: Reference) -> tuple[bool | None, Finding]:
    """Step 5: the removal of the signature, then one canonicalization; gives whether that is exclusive."""
    finding = Finding()
    transforms = _transforms(finding, reference)
    if not finding.expect(
        len(transforms) == 2, f"{len(transforms)} transforms of the document, exactly two expected"
    ):
        return None, finding
    _check_removal(finding, transforms[0])
    exclusive = _row(finding, transforms[1], CANONICALIZATIONS)
    finding.notes.append(f"{_short(transforms[0])}, then {_short(transforms[1])}")
    return (None if finding.faults else exclusive), finding


def properties_canonicalization(reference: Reference) -> tuple[bool | None, Finding]:
    """Of step 7: the SignedProperties have one transform, a canonicalization."""
    finding = Finding()
    transforms = _transforms(finding, reference)
    if not finding.expect(
        len(transforms) == 1, f"{len(transforms)} transforms of SignedProperties, one expected"
    ):
        return None, finding
    return _row(finding, transforms[0], CANONICALIZATIONS), finding


# Children of an element: local name in DS -> (least, most).
_SIGNATURE = {"SignedInfo": (1, 1), "SignatureValue": (1, 1), "KeyInfo": (0, 1), "Object": (0, 100)}
_SIGNED_INFO = {"CanonicalizationMethod": (1, 1), "SignatureMethod": (1, 1), "Reference": (1, 2)}
_REFERENCE = {"Transforms": (1, 1), "DigestMethod": (1, 1), "DigestValue": (1, 1)}


def _check_children(
    finding: Finding, element: etree._Element, template: Mapping[str, tuple[int, int]]
) -> None:
    tags = [child.tag for child in element]
    name = etree.QName(element).localname
    for local, (least, most) in template.items():
        count = tags.count(f"{{{DS}}}{local}")
        finding.expect(least <= count <= most, f"{count} {local} in {name}, {_between(least, most)} expected")
    known = {f"{{{DS}}}{local}" for local in template}
    finding.expect(known.issuperset(tags), f"{name} holds something else than {', '.join(template)}")


def _between(least: int, most: int) -> str:
    return str(least) if least == most else f"{least} to {most}"


def _row(finding: Finding, element: etree._Element | None, table: Mapping[str, _Row]) -> _Row | None:
    """The row of the element's Algorithm; parameters inside (InclusiveNamespaces, HMACOutputLength) are refused."""
    if element is None:
        return None
    name, algorithm = etree.QName(element).localname, element.get("Algorithm", "")
    finding.expect(len(element) == 0, f"{name} has parameters")
    finding.expect(algorithm in table, f"{name} {algorithm!r} is refused")
    return table.get(algorithm) if len(element) == 0 else None


def _references(
    finding: Finding, elements: Sequence[etree._Element]
) -> tuple[Reference | None, Reference | None]:
    document: Reference | None = None
    properties: Reference | None = None
    for element in elements:
        kind, uri = element.get("Type"), element.get("URI")
        reference = _reference(finding, element)
        if uri == "" and kind is None and document is None:
            document = reference
        elif kind == SIGNED_PROPERTIES and (uri or "").startswith("#") and properties is None:
            properties = reference
        else:
            finding.faults.append(f"a reference to {uri!r} of type {kind!r} is refused")
    finding.expect(document is not None, 'no reference to the document (URI="")')
    return document, properties


def _reference(finding: Finding, element: etree._Element) -> Reference:
    _check_children(finding, element, _REFERENCE)
    name = _row(finding, element.find(f"{{{DS}}}DigestMethod"), DIGESTS)
    value = read_base64(text_of(element.find(f"{{{DS}}}DigestValue")))
    finding.expect(bool(value), "a DigestValue is no base64")
    return Reference(element, element.get("URI", ""), name, value or None)


def _transforms(finding: Finding, reference: Reference) -> list[etree._Element]:
    parent = reference.element.find(f"{{{DS}}}Transforms")
    children = [] if parent is None else list(parent)
    finding.expect(
        all(child.tag == f"{{{DS}}}Transform" for child in children), "Transforms holds something else"
    )
    return children


def _check_removal(finding: Finding, transform: etree._Element) -> None:
    algorithm = transform.get("Algorithm", "")
    if not finding.expect(algorithm in REMOVALS, f"the transform {algorithm!r} is refused"):
        return
    parameter = REMOVALS[algorithm]
    if parameter is None:
        finding.expect(len(transform) == 0, f"{_short(transform)} has parameters")
    else:
        finding.expect(
            _says(transform, parameter), f"{_short(transform)} does not remove exactly the signature"
        )


def _says(transform: etree._Element, parameter: Parameter) -> bool:
    tag, attributes, pattern = parameter
    if len(transform) != 1 or transform[0].tag != tag or dict(transform[0].items()) != attributes:
        return False
    match = pattern.fullmatch(text_of(transform[0]))
    # An exclusive canonicalization may not cover the prefix: it must be DS's, whatever was signed.
    return match is not None and transform[0].nsmap.get(match[1]) == DS


def _short(transform: etree._Element) -> str:
    return re.split(r"[/#]", transform.get("Algorithm", "").rstrip("#"))[-1]
