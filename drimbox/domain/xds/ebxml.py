"""The syntax of a submission: `Lot` to SubmitObjectsRequest, in the child order of rim.xsd (Slots first).

Which attribute travels where is in the tables ENTRY_SLOTS, ENTRY_CODES and the like, which `ebxml_reader`
shares. No `submissionTime` slot on entries, classifiedObject = the entry's own id: the samples differ
(cda-and-xds 3.3, drim-m-data 5.4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lxml import etree

from drimbox.domain.xds import vocabulary as v
from drimbox.domain.xds.metadata import Association, Author, Coded, DocumentEntry, Lot, SubmissionSet
from drimbox.domain.xml_input import xml_text

# attribute of the dataclass, slot name; in the order of the accepted sample (drim-m-data 5.3)
ENTRY_SLOTS: tuple[tuple[str, str], ...] = (
    ("creation_time", "creationTime"),
    ("language_code", "languageCode"),
    ("legal_authenticator", "legalAuthenticator"),
    ("service_start_time", "serviceStartTime"),
    ("service_stop_time", "serviceStopTime"),
    ("source_patient_id", "sourcePatientId"),
    ("hash", "hash"),
    ("size", "size"),
    ("uri", "URI"),
    ("repository_unique_id", "repositoryUniqueId"),
    ("source_patient_info", "sourcePatientInfo"),
    ("reference_id_list", v.REFERENCE_ID_LIST),
)
# attribute of the dataclass, classificationScheme
ENTRY_CODES: tuple[tuple[str, str], ...] = (
    ("class_code", v.DOCUMENT_CLASS),
    ("type_code", v.DOCUMENT_TYPE),
    ("confidentiality_codes", v.DOCUMENT_CONFIDENTIALITY),
    ("format_code", v.DOCUMENT_FORMAT),
    ("healthcare_facility_type_code", v.DOCUMENT_FACILITY_TYPE),
    ("practice_setting_code", v.DOCUMENT_PRACTICE_SETTING),
    ("event_codes", v.DOCUMENT_EVENT_CODE),
)
REPEATED = frozenset({"source_patient_info", "reference_id_list", "confidentiality_codes", "event_codes"})
# attribute of the dataclass, identificationScheme, name of the ExternalIdentifier
ENTRY_IDENTIFIERS: tuple[tuple[str, str, str], ...] = (
    ("patient_id", v.DOCUMENT_PATIENT_ID, "XDSDocumentEntry.patientId"),
    ("unique_id", v.DOCUMENT_UNIQUE_ID, "XDSDocumentEntry.uniqueId"),
)
SET_IDENTIFIERS: tuple[tuple[str, str, str], ...] = (
    ("patient_id", v.SUBMISSION_SET_PATIENT_ID, "XDSSubmissionSet.patientId"),
    ("source_id", v.SUBMISSION_SET_SOURCE_ID, "XDSSubmissionSet.sourceId"),
    ("unique_id", v.SUBMISSION_SET_UNIQUE_ID, "XDSSubmissionSet.uniqueId"),
)
AUTHOR_SLOTS: tuple[tuple[str, str], ...] = (
    ("institutions", "authorInstitution"),
    ("roles", "authorRole"),
    ("specialties", "authorSpecialty"),
)
_LANG = "{http://www.w3.org/XML/1998/namespace}lang"


@dataclass(slots=True)
class _Owner:
    """An object under construction: its element and the counters that make the ids of its parts unique."""

    node: etree._Element
    id: str
    classifications: int = 0
    identifiers: int = 0


def submit_objects_request(lot: Lot) -> bytes:
    """`lcm:SubmitObjectsRequest`, UTF-8, no XML declaration: the same bytes stand alone or in an envelope."""
    root = etree.Element(f"{{{v.LCM}}}SubmitObjectsRequest", nsmap=v.NSMAP_LCM)
    objects = etree.SubElement(root, rim("RegistryObjectList"))
    _submission_set(objects, lot.submission_set)
    for entry in lot.entries:
        _entry(objects, entry)
    for association in lot.associations:
        _association(objects, association)
    return etree.tostring(root, encoding="UTF-8", xml_declaration=False)


def rim(name: str) -> str:
    """The qualified name of a rim element."""
    return f"{{{v.RIM}}}{name}"


def add_slot(parent: etree._Element, name: str, values: Sequence[str]) -> None:
    """Append a rim:Slot with one rim:Value per value."""
    slot = etree.SubElement(parent, rim("Slot"), name=name)
    value_list = etree.SubElement(slot, rim("ValueList"))
    for value in values:
        etree.SubElement(value_list, rim("Value")).text = xml_text(value)


def _submission_set(parent: etree._Element, submission: SubmissionSet) -> None:
    owner = _Owner(etree.SubElement(parent, rim("RegistryPackage"), id=submission.id), submission.id)
    if submission.submission_time:
        add_slot(owner.node, "submissionTime", [submission.submission_time])
    _texts(owner.node, submission.title, submission.comments)
    for author in submission.authors:
        _author(owner, v.SUBMISSION_SET_AUTHOR, author)
    if submission.content_type_code is not None:
        _coded(owner, v.SUBMISSION_SET_CONTENT_TYPE, submission.content_type_code)
    _classification(owner, classificationNode=v.SUBMISSION_SET_NODE)
    for attribute, scheme, name in SET_IDENTIFIERS:
        _identifier(owner, scheme, name, getattr(submission, attribute))


def _entry(parent: etree._Element, entry: DocumentEntry) -> None:
    node = etree.SubElement(parent, rim("ExtrinsicObject"), id=entry.id, mimeType=entry.mime_type)
    node.set("objectType", v.STABLE_DOCUMENT)
    if entry.status:
        node.set("status", entry.status)
    owner = _Owner(node, entry.id)
    for attribute, name in ENTRY_SLOTS:
        values = _values(entry, attribute)
        if values:
            add_slot(node, name, [str(value) for value in values])
    _texts(node, entry.title, entry.comments)
    for author in entry.authors:
        _author(owner, v.DOCUMENT_AUTHOR, author)
    for attribute, scheme in ENTRY_CODES:
        for coded in _values(entry, attribute):
            assert isinstance(coded, Coded)
            _coded(owner, scheme, coded)
    for attribute, scheme, name in ENTRY_IDENTIFIERS:
        _identifier(owner, scheme, name, getattr(entry, attribute))


def _values(entry: DocumentEntry, attribute: str) -> tuple[object, ...]:
    value = getattr(entry, attribute)
    if attribute in REPEATED:
        return tuple(value)
    return () if value in (None, "") else (value,)


def _association(parent: etree._Element, association: Association) -> None:
    node = etree.SubElement(parent, rim("Association"), id=association.id)
    node.set("associationType", association.type)
    node.set("sourceObject", association.source)
    node.set("targetObject", association.target)
    for name, value in association.slots:
        add_slot(node, name, [value])


def _author(owner: _Owner, scheme: str, author: Author) -> None:
    # nodeRepresentation is required, empty, on an author (ITI TF-3 4.2.3.1.4)
    node = _classification(owner, classificationScheme=scheme, nodeRepresentation="")
    add_slot(node, "authorPerson", [author.person])
    for attribute, name in AUTHOR_SLOTS:
        if values := getattr(author, attribute):
            add_slot(node, name, values)


def _coded(owner: _Owner, scheme: str, coded: Coded) -> None:
    node = _classification(owner, classificationScheme=scheme, nodeRepresentation=coded.code)
    add_slot(node, "codingScheme", [coded.scheme])
    _texts(node, coded.display, "")


def _classification(owner: _Owner, **attributes: str) -> etree._Element:
    owner.classifications += 1
    node = etree.SubElement(owner.node, rim("Classification"), id=f"{owner.id}-cla{owner.classifications}")
    node.set("classifiedObject", owner.id)
    for name, value in attributes.items():
        node.set(name, xml_text(value))
    return node


def _identifier(owner: _Owner, scheme: str, name: str, value: str) -> None:
    owner.identifiers += 1
    node = etree.SubElement(owner.node, rim("ExternalIdentifier"), id=f"{owner.id}-ei{owner.identifiers}")
    node.set("registryObject", owner.id)
    node.set("identificationScheme", scheme)
    node.set("value", xml_text(value))
    _texts(node, name, "")


def _texts(parent: etree._Element, name: str, description: str) -> None:
    for tag, text in (("Name", name), ("Description", description)):
        if text:
            holder = etree.SubElement(parent, rim(tag))
            string = etree.SubElement(holder, rim("LocalizedString"), charset="UTF8", value=xml_text(text))
            string.set(_LANG, "FR")
