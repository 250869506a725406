"""Reading ebRIM back, leniently: Slots wherever they are, classifications by the object that holds them.

The ANS samples put Slots after Classifications and let three classifications name a neighbour
(drim-m-data 5.4); a registry answers with its own extra slots. What is unknown is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lxml import etree

from drimbox.domain.xds import vocabulary as v
from drimbox.domain.xds.ebxml import (
    AUTHOR_SLOTS,
    ENTRY_CODES,
    ENTRY_IDENTIFIERS,
    ENTRY_SLOTS,
    REPEATED,
    SET_IDENTIFIERS,
    rim,
)
from drimbox.domain.xds.metadata import Association, Author, Coded, DocumentEntry, Lot, SubmissionSet
from drimbox.domain.xml_input import UnreadableXml, parse_xml

MAX_REQUEST_BYTES = 8 * 1024 * 1024


class NotALot(ValueError):
    """The XML holds no submission, or not exactly one submission set."""


def read_lot(data: bytes) -> Lot:
    """Read a SubmitObjectsRequest, alone or inside an envelope.

    Raises `NotALot` when it is unreadable, or has not exactly one submission set.
    """
    try:
        root = parse_xml(data, max_bytes=MAX_REQUEST_BYTES)
    except UnreadableXml as error:
        raise NotALot(str(error)) from error
    request = next(root.iter(f"{{{v.LCM}}}SubmitObjectsRequest"), None)
    if request is None:
        raise NotALot("no SubmitObjectsRequest")
    return lot_of(request)


def lot_of(request: etree._Element) -> Lot:
    """The lot of an lcm:SubmitObjectsRequest element. Raises `NotALot`: not exactly one submission set."""
    packages = list(request.iter(rim("RegistryPackage")))
    if len(packages) != 1:
        raise NotALot(f"{len(packages)} registry packages instead of one submission set")
    return Lot(
        submission_set=_submission_set(packages[0]),
        entries=tuple(read_entry(node) for node in request.iter(rim("ExtrinsicObject"))),
        associations=tuple(_association(node) for node in request.iter(rim("Association"))),
    )


def read_entry(node: etree._Element) -> DocumentEntry:
    """One rim:ExtrinsicObject, of a submission or of a registry's answer (then `id` is the entryUUID)."""
    slots = _slots(node)
    fields: dict[str, Any] = {attribute: "" for attribute, _, _ in ENTRY_IDENTIFIERS}
    for attribute, name in ENTRY_SLOTS:
        values = slots.get(name, ())
        fields[attribute] = values if attribute in REPEATED else (values[0] if values else "")
    fields["size"] = int(fields["size"]) if fields["size"].isdecimal() else None
    for attribute, scheme in ENTRY_CODES:
        codes = _codes(node, scheme)
        fields[attribute] = codes if attribute in REPEATED else (codes[0] if codes else None)
    fields.update(_identifiers(node, ENTRY_IDENTIFIERS))
    return DocumentEntry(
        id=node.get("id", ""),
        mime_type=node.get("mimeType", ""),
        status=node.get("status", ""),
        title=_text(node, "Name"),
        comments=_text(node, "Description"),
        authors=_authors(node, v.DOCUMENT_AUTHOR),
        **fields,
    )


def _submission_set(node: etree._Element) -> SubmissionSet:
    fields = dict.fromkeys((attribute for attribute, _, _ in SET_IDENTIFIERS), "")
    fields.update(_identifiers(node, SET_IDENTIFIERS))
    content_types = _codes(node, v.SUBMISSION_SET_CONTENT_TYPE)
    return SubmissionSet(
        id=node.get("id", ""),
        submission_time="".join(_slots(node).get("submissionTime", ())[:1]),
        title=_text(node, "Name"),
        comments=_text(node, "Description"),
        authors=_authors(node, v.SUBMISSION_SET_AUTHOR),
        content_type_code=content_types[0] if content_types else None,
        **fields,
    )


def _association(node: etree._Element) -> Association:
    return Association(
        id=node.get("id", ""),
        type=node.get("associationType", ""),
        source=node.get("sourceObject", ""),
        target=node.get("targetObject", ""),
        slots=tuple((name, value) for name, values in _slots(node).items() for value in values),
    )


def _slots(node: etree._Element) -> Mapping[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for slot in node.iterchildren(rim("Slot")):
        values = tuple((value.text or "").strip() for value in slot.iter(rim("Value")))
        found[slot.get("name", "")] = found.get(slot.get("name", ""), ()) + values
    return found


def _classifications(node: etree._Element, scheme: str) -> list[etree._Element]:
    return [c for c in node.iterchildren(rim("Classification")) if c.get("classificationScheme") == scheme]


def _codes(node: etree._Element, scheme: str) -> tuple[Coded, ...]:
    return tuple(
        Coded(
            code=found.get("nodeRepresentation", ""),
            scheme="".join(_slots(found).get("codingScheme", ())[:1]),
            display=_text(found, "Name"),
        )
        for found in _classifications(node, scheme)
    )


def _authors(node: etree._Element, scheme: str) -> tuple[Author, ...]:
    authors = []
    for found in _classifications(node, scheme):
        slots = _slots(found)
        others = {attribute: slots.get(name, ()) for attribute, name in AUTHOR_SLOTS}
        authors.append(Author(person="".join(slots.get("authorPerson", ())[:1]), **others))
    return tuple(authors)


def _identifiers(node: etree._Element, table: Sequence[tuple[str, str, str]]) -> dict[str, str]:
    schemes = {scheme: attribute for attribute, scheme, _ in table}
    return {
        schemes[found.get("identificationScheme", "")]: found.get("value", "")
        for found in node.iterchildren(rim("ExternalIdentifier"))
        if found.get("identificationScheme", "") in schemes
    }


def _text(node: etree._Element, tag: str) -> str:
    string = node.find(f"{rim(tag)}/{rim('LocalizedString')}")
    return "" if string is None else string.get("value", "")
