"""The three transactions of the simulated DMP: ITI-41 provide, ITI-57 status update, ITI-18 GetDocuments.

All checks first, then the effects, inside the caller's database transaction: both or none.
Facts: dmp-kos-xds 2.3 to 2.6; cda-and-xds 3.11.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime

from lxml import etree

from drimbox.simulators.dmp_answers import (
    LCM,
    QUERY,
    RIM,
    RegistryError,
    RegistryFailure,
    SoapFault,
    query_response,
    registry_response,
)
from drimbox.simulators.dmp_checks import PROVIDE_RULES, UPDATE_RULES, Rule, check, move_of
from drimbox.simulators.dmp_documents import content_errors, read_documents
from drimbox.simulators.dmp_messages import Request, malformed
from drimbox.simulators.dmp_metadata import (
    REFERENCE_IDS,
    REPLACES,
    UPDATE_STATUS,
    Association,
    RegistryObject,
    Submission,
    read_submission,
    slots_of,
)
from drimbox.simulators.dmp_schemas import Schemas
from drimbox.simulators.dmp_security import Vihf
from drimbox.simulators.dmp_state import DmpState, Document
from drimbox.simulators.dmp_structure import structure_faults
from drimbox.simulators.dmp_tables import STATUSES
from drimbox.simulators.pki import Pki

GET_DOCUMENTS = "urn:uuid:5c4f972b-d56b-40ac-a5fc-c8ca9b40b9d4"
REPOSITORY_ID = "1.2.250.1.213.4.1.1.1.2"
_PARAMETERS = {"$XDSDocumentEntryUniqueId": "unique_id", "$XDSDocumentEntryEntryUUID": "entry_uuid"}
_QUOTED_LIST = re.compile(r"\(\s*'(?:[^']|'')*'(?:\s*,\s*'(?:[^']|'')*')*\s*\)\Z")
_QUOTED = re.compile(r"'((?:[^']|'')*)'")


@dataclass(frozen=True)
class Context:
    """What a transaction works with: state (inside its transaction), trust, instant, knobs."""

    state: DmpState
    pki: Pki
    now: datetime
    new_uuid: Callable[[], str]
    accept_sha1: bool
    schemas: Schemas | None


def provide(context: Context, request: Request, vihf: Vihf) -> etree._Element:
    """ITI-41: register the lot, with RPLC when it says so. Raises SoapFault, RegistryFailure."""
    documents = read_documents(request)
    submission = _submission(context, request, documents, PROVIDE_RULES)
    _check_speaker(submission, vihf)
    state = context.state
    errors = content_errors(submission, context.pki, context.now, accept_sha1=context.accept_sha1)
    errors += [*_patient_errors(state, submission), *_duplicate_errors(state, submission)]
    errors += [e for a in submission.of_type(REPLACES) for e in _target_errors(state, a, submission)]
    _refuse(errors)
    _register(context, submission, vihf)
    return registry_response()


def update(context: Context, request: Request, vihf: Vihf) -> etree._Element:
    """ITI-57 UpdateAvailabilityStatus (TD3.3c): Approved to Deleted. Raises SoapFault, RegistryFailure."""
    submission = _submission(context, request, {}, UPDATE_RULES)
    _check_speaker(submission, vihf)
    state = context.state
    errors = [*_patient_errors(state, submission), *_duplicate_errors(state, submission)]
    updates = submission.of_type(UPDATE_STATUS)
    errors += [e for a in updates for e in _update_errors(state, a, submission, vihf)]
    _refuse(errors)
    state.add_submission_set(submission.submission_set.identifier("uniqueId"))
    for association in updates:
        state.set_status(association.target, STATUSES[move_of(association)[1]])
    return registry_response()


def query(context: Context, request: Request, vihf: Vihf) -> etree._Element:
    """ITI-18 GetDocuments by uniqueId or entryUUID, for the patient of the VIHF only.

    Raises SoapFault, RegistryFailure.
    """
    option = request.payload.find(f"{{{QUERY}}}ResponseOption")
    asked = request.payload.find(f"{{{RIM}}}AdhocQuery")
    if option is None or asked is None:
        raise malformed("an AdhocQueryRequest needs a ResponseOption and an AdhocQuery")
    _check_schema(context, request, {}, "XDSRegistryError")
    if not context.state.knows_patient(vihf.patient_id):
        _refuse([RegistryError("XDSUnknownPatientId", "the patient of the VIHF has no DMP")])
    if asked.get("id") != GET_DOCUMENTS:
        _refuse(
            [RegistryError("XDSUnknownStoredQuery", "only GetDocuments is open to this mode", "AdhocQuery")]
        )
    found = [context.state.document(**{name: value}) for name, value in _parameters(asked)]
    kept = {d.entry_uuid: d for d in found if d is not None and d.patient_id == vihf.patient_id}
    shape = _SHAPES.get(option.get("returnType", "RegistryObject"))
    if shape is None:
        raise malformed("returnType is neither ObjectRef nor LeafClass")
    return query_response(shape(document) for document in kept.values())


def is_replacement(request: Request) -> bool:
    """Whether an ITI-41 request carries an RPLC association (TD2.1b rather than TD2.1a)."""
    return any(a.get("associationType") == REPLACES for a in request.payload.iter(f"{{{RIM}}}Association"))


def _submission(
    context: Context, request: Request, documents: dict[str, bytes], rules: tuple[Rule, ...]
) -> Submission:
    """The submission of the payload, once its form and its metadata are found right."""
    lists = list(request.payload.iter(f"{{{RIM}}}RegistryObjectList"))
    if len(lists) != 1 or lists[0].getparent() is not _submit_request(request):
        raise malformed("the payload needs one SubmitObjectsRequest with one RegistryObjectList")
    _check_schema(context, request, documents, "XDSRegistryMetadataError")
    faults = structure_faults(lists[0])
    _refuse([RegistryError("XDSRegistryMetadataError", fault, where) for where, fault in faults])
    submission = read_submission(lists[0], documents)
    _refuse(check(submission, rules))
    return submission


def _submit_request(request: Request) -> etree._Element | None:
    name = f"{{{LCM}}}SubmitObjectsRequest"
    return request.payload if request.payload.tag == name else request.payload.find(name)


def _check_schema(context: Context, request: Request, documents: dict[str, bytes], code: str) -> None:
    if context.schemas is not None:
        faults = context.schemas.faults(request.payload, documents)
        _refuse([RegistryError(code, fault, "XML schema") for fault in faults])


def _refuse(errors: list[RegistryError]) -> None:
    if errors:
        raise RegistryFailure(errors)


def _check_speaker(submission: Submission, vihf: Vihf) -> None:
    """The lot is about the patient of the VIHF, and its author is the structure of the VIHF (2.7, 3.1)."""
    package = submission.submission_set
    if package.identifier("patientId") != vihf.patient_id:
        raise SoapFault("XDSPatientIdDoesNotMatch", "resource-id du VIHF différent du patientId du lot")
    institutions = [v for author in package.authors for v in author.get("authorInstitution", ())]
    if not any(value.split("^")[9] == vihf.structure for value in institutions):
        raise SoapFault(
            "wsse:FailedAuthentication", "Aucun AuthorInstitution ne correspond a l'utilisateur du VIHF"
        )


def _patient_errors(state: DmpState, submission: Submission) -> Iterator[RegistryError]:
    if not state.knows_patient(submission.submission_set.identifier("patientId")):
        yield RegistryError("XDSUnknownPatientId", "the patient has no DMP", "patientId")


def _duplicate_errors(state: DmpState, submission: Submission) -> Iterator[RegistryError]:
    """uniqueId clash (2.4): another hash is an error of its own; the same one is a duplicate."""
    package = submission.submission_set
    if state.knows_submission_set(package.identifier("uniqueId")):
        text = "a submission set of that uniqueId is registered"
        yield RegistryError("XDSDuplicateUniqueIdInRegistry", text, package.id)
    for entry in submission.entries:
        held = state.document(unique_id=entry.identifier("uniqueId"))
        if held is not None and held.sha1 != entry.slot("hash").lower():
            yield RegistryError("XDSNonIdenticalHash", "registered with another hash", entry.id)
        elif held is not None:
            yield RegistryError("XDSDuplicateUniqueIdInRegistry", "registered already", entry.id)


def _target_errors(
    state: DmpState, association: Association, submission: Submission
) -> Iterator[RegistryError]:
    """RPLC: the target exists, is Approved, belongs to the same patient (2.4)."""
    target = state.document(entry_uuid=association.target)
    if target is None:
        text = "the target of RPLC is unknown"
        yield RegistryError("UnresolvedReferenceException", text, association.target)
        return
    if target.status != "Approved":
        text = f"the target of RPLC is {target.status}"
        yield RegistryError("XDSRegistryDeprecatedDocumentError", text, association.target)
    if target.patient_id != submission.submission_set.identifier("patientId"):
        text = "the target of RPLC is another patient's"
        yield RegistryError("XDSPatientIdDoesNotMatch", text, association.target)


def _update_errors(
    state: DmpState, association: Association, submission: Submission, vihf: Vihf
) -> Iterator[RegistryError]:
    """ITI-57: the target exists, is ours, of the same patient, and in OriginalStatus (2.5, 2.8)."""
    target = state.document(entry_uuid=association.target)
    if target is None:
        text = "the document to update is unknown"
        yield RegistryError("UnresolvedReferenceException", text, association.target)
        return
    if target.patient_id != submission.submission_set.identifier("patientId"):
        text = "the document to update is another patient's"
        yield RegistryError("XDSPatientIdDoesNotMatch", text, association.target)
    if target.structure != vihf.structure:
        text = "the document to update is another structure's"
        yield RegistryError("XDSMetadataUpdateError", text, association.target)
    if STATUSES.get(move_of(association)[0]) != target.status:
        text = f"OriginalStatus is not the current status, {target.status}"
        yield RegistryError("XDSMetadataUpdateError", text, association.target)


def _register(context: Context, submission: Submission, vihf: Vihf) -> None:
    state = context.state
    state.add_submission_set(submission.submission_set.identifier("uniqueId"))
    for entry in submission.entries:
        state.add_document(_document(context, submission, entry, vihf))
    unique_ids = {entry.id: entry.identifier("uniqueId") for entry in submission.entries}
    for association in submission.of_type(REPLACES):
        state.set_status(association.target, "Deprecated", unique_ids[association.source])


def _document(context: Context, submission: Submission, entry: RegistryObject, vihf: Vihf) -> Document:
    content = submission.documents[entry.id]
    return Document(
        unique_id=entry.identifier("uniqueId"),
        entry_uuid=f"urn:uuid:{context.new_uuid()}",
        status="Approved",
        patient_id=entry.identifier("patientId"),
        mime_type=entry.mime_type,
        type_code=entry.code("typeCode")[0],
        class_code=entry.code("classCode")[0],
        confidentiality=tuple(c.code for c in entry.codes.get("confidentialityCode", ())),
        event_codes=tuple(c.code for c in entry.codes.get("eventCodeList", ())),
        reference_ids=entry.slots.get(REFERENCE_IDS, ()),
        sha1=hashlib.sha1(content).hexdigest(),
        structure=vihf.structure,
        submission_set=submission.submission_set.identifier("uniqueId"),
        metadata=etree.tostring(entry.element, with_tail=False),
        content=content,
    )


def _parameters(asked: etree._Element) -> list[tuple[str, str]]:
    """(field, value) pairs asked for: exactly one of the two parameters, values as ('a','b') (2.6)."""
    slots = slots_of(asked)
    known = [name for name in slots if name in _PARAMETERS]
    if len(known) != 1:
        text = f"exactly one of {' and '.join(_PARAMETERS)} is needed"
        _refuse([RegistryError("XDSStoredQueryMissingParam", text, "AdhocQuery")])
    values = slots[known[0]]
    if any(not _QUOTED_LIST.match(value) for value in values):
        _refuse([RegistryError("XDSRegistryError", "the value is not a list ('a','b')", known[0])])
    quoted = [found.replace("''", "'") for value in values for found in _QUOTED.findall(value)]
    return [(_PARAMETERS[known[0]], value) for value in quoted]


def _object_ref(document: Document) -> etree._Element:
    return etree.Element(f"{{{RIM}}}ObjectRef", id=document.entry_uuid)


def _leaf_class(document: Document) -> etree._Element:
    """The entry as the registry holds it: ids resolved, status, version, repositoryUniqueId (3.3)."""
    entry = etree.fromstring(document.metadata)
    etree.cleanup_namespaces(entry)  # the submitter's unused prefixes could shadow those of the answer
    entry.attrib.update({"id": document.entry_uuid, "lid": document.entry_uuid})
    entry.set("status", next(urn for urn, name in STATUSES.items() if name == document.status))
    for child in entry:
        for owner in ("classifiedObject", "registryObject"):
            if child.get(owner):
                child.set(owner, document.entry_uuid)
    slot = etree.Element(f"{{{RIM}}}Slot", name="repositoryUniqueId")
    etree.SubElement(etree.SubElement(slot, f"{{{RIM}}}ValueList"), f"{{{RIM}}}Value").text = REPOSITORY_ID
    entry.insert(0, slot)
    if entry.find(f"{{{RIM}}}VersionInfo") is None:
        named = [c for c in entry if etree.QName(c).localname in ("Slot", "Name", "Description")]
        entry.insert(len(named), etree.Element(f"{{{RIM}}}VersionInfo", versionName="1.1"))
    return entry


_SHAPES: dict[str, Callable[[Document], etree._Element]] = {
    "ObjectRef": _object_ref,
    "LeafClass": _leaf_class,
}
