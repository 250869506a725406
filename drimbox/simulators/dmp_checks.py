"""The strict rules of the simulated DMP on a submission's metadata. Every violation is reported.

One rule finds (location, fault) pairs; the tables at the end say which error it answers, by which clause.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from drimbox.simulators.dmp_answers import RegistryError
from drimbox.simulators.dmp_metadata import (
    HAS_MEMBER,
    REFERENCE_IDS,
    REPLACES,
    SIGNS,
    UPDATE_STATUS,
    Association,
    RegistryObject,
    Submission,
)
from drimbox.simulators.dmp_tables import (
    ENTRY_ATTRIBUTES,
    EVENT_SCHEMES,
    KINDS,
    MOVES,
    PERSON,
    SET_ATTRIBUTES,
    SPECIALTY,
    STRUCTURE,
    TRAITS,
    Attribute,
)

Faults = Iterator[tuple[str, str]]


@dataclass(frozen=True)
class Rule:
    """One rule on a whole submission: the error it answers, its clause, the (location, fault) it finds."""

    code: str
    clause: str
    find: Callable[[Submission], Faults]


def check(submission: Submission, rules: tuple[Rule, ...]) -> list[RegistryError]:
    """Every violation of `rules` by `submission`."""
    return [
        RegistryError(rule.code, f"{fault} ({rule.clause})", location)
        for rule in rules
        for location, fault in rule.find(submission)
    ]


def attribute_faults(item: RegistryObject, rows: tuple[Attribute, ...]) -> Faults:
    """The (location, fault) of every attribute that is missing, repeated or of the wrong form."""
    for row in rows:
        values = _values(item, row)
        where = f"{item.id}/{row.name}"
        if not row.least <= len(values) <= row.most:
            yield where, f"{row.name} occurs {len(values)} times ({row.clause})"
        elif any(not re.fullmatch(row.form, value) for value in values):
            yield where, f"{row.name} has not the form expected ({row.clause})"


def _values(item: RegistryObject, row: Attribute) -> tuple[str, ...]:
    if row.carrier == "slot":
        return item.slots.get(row.name, ())
    if row.carrier == "code":
        return tuple(f"{c.code}@{c.scheme}" for c in item.codes.get(row.name, ()))
    return (item.identifiers[row.name],) if row.name in item.identifiers else ()


def _objects(submission: Submission) -> tuple[RegistryObject, ...]:
    return (*submission.packages, *submission.entries)


def _set_attributes(submission: Submission) -> Faults:
    yield from attribute_faults(submission.submission_set, SET_ATTRIBUTES)


def _entry_attributes(submission: Submission) -> Faults:
    for entry in submission.entries:
        yield from attribute_faults(entry, ENTRY_ATTRIBUTES)
        if not 0 < len(entry.title) <= 128:
            yield f"{entry.id}/title", "title is empty or longer than 128 characters"


def _authors(submission: Submission) -> Faults:
    forms = {"authorPerson": PERSON, "authorInstitution": STRUCTURE, "authorSpecialty": SPECIALTY}
    for item in _objects(submission):
        if not item.authors:
            yield f"{item.id}/author", "author is absent"
        for author in item.authors:
            missing = {"authorPerson", "authorInstitution"} - set(author)
            wrong = [n for n, form in forms.items() for v in author.get(n, ()) if not re.fullmatch(form, v)]
            for name in sorted(missing | set(wrong)):
                yield f"{item.id}/{name}", f"{name} is absent or has not the form expected"


def _displays(submission: Submission) -> Faults:
    for item in _objects(submission):
        for name, codes in item.codes.items():
            if any(not code.display for code in codes):
                yield f"{item.id}/{name}", f"{name} has no display name"


def _kinds(submission: Submission) -> Faults:
    for entry in submission.entries:
        kind = KINDS.get(entry.code("typeCode")[0])
        if kind is None:
            yield f"{entry.id}/typeCode", "typeCode is neither IMG-KOS nor E1762"
            continue
        found = {"mimeType": entry.mime_type, "languageCode": entry.slot("languageCode")}
        wanted = {"mimeType": kind.mime_type, "languageCode": kind.language}
        wrong = [name for name in wanted if found[name] != wanted[name]]
        wrong += [name for name, code in kind.codes.items() if entry.code(name) != code]
        for name in wrong:
            yield f"{entry.id}/{name}", f"{name} is not that of {entry.code('typeCode')[0]} ({kind.clause})"


def _confidentiality(submission: Submission) -> Faults:
    for entry in submission.entries:
        codes = [c.code for c in entry.codes.get("confidentialityCode", ())]
        kind = KINDS.get(entry.code("typeCode")[0])
        if sum(code in ("N", "R", "V") for code in codes) != 1 or len(set(codes)) != len(codes):
            yield f"{entry.id}/confidentialityCode", "not exactly one of N, R, V, or a code repeated"
        elif kind and kind.confidentiality and set(codes) != kind.confidentiality:
            yield f"{entry.id}/confidentialityCode", "a signature has N, MASQUE_PS and INVISIBLE_PATIENT"


def _manifest_entries(submission: Submission) -> Faults:
    for entry in submission.manifests:
        traits = entry.slots.get("sourcePatientInfo", ())
        if any(not any(value.startswith(trait) for value in traits) for trait in TRAITS):
            yield f"{entry.id}/sourcePatientInfo", "PID-5, PID-7 or PID-8 is absent"
        references = entry.slots.get(REFERENCE_IDS, ())
        if not any(value.endswith(":studyInstanceUID") for value in references):
            yield f"{entry.id}/{REFERENCE_IDS}", "no studyInstanceUID among the reference ids"
        if any(code.scheme not in EVENT_SCHEMES for code in entry.codes.get("eventCodeList", ())):
            yield f"{entry.id}/eventCodeList", "a codingScheme is neither of modality, region nor act"


def _patients(submission: Submission) -> Faults:
    patient = submission.submission_set.identifier("patientId")
    for entry in submission.entries:
        if entry.identifier("patientId") != patient:
            yield f"{entry.id}/patientId", "not the patient of the submission set"


def _unique_ids(submission: Submission) -> Faults:
    seen: set[str] = set()
    for item in _objects(submission):
        unique_id = item.identifier("uniqueId")
        if unique_id in seen:
            yield f"{item.id}/uniqueId", "the uniqueId occurs twice in the message"
        seen.add(unique_id)


def _composition(submission: Submission) -> Faults:
    if not submission.manifests:
        yield "RegistryObjectList", "the lot holds no IMG-KOS"
    if len(submission.signatures) != 1:
        yield "RegistryObjectList", f"{len(submission.signatures)} signature documents instead of one"


def _members(submission: Submission) -> Faults:
    own = submission.submission_set.id
    members = submission.of_type(HAS_MEMBER)
    for entry in submission.entries:
        if sum(a.source == own and a.target == entry.id for a in members) != 1:
            yield entry.id, "not exactly one HasMember from the submission set"
    for association in members:
        if association.slots.get("SubmissionSetStatus") != ("Original",):
            yield association.target, "HasMember without SubmissionSetStatus Original"
        if association.source != own or association.target not in {e.id for e in submission.entries}:
            yield association.target, "HasMember between objects that the message does not hold"


def _signs(submission: Submission) -> Faults:
    own = submission.submission_set.id
    found = [(a.source, a.target) for a in submission.of_type(SIGNS)]
    if found != [(entry.id, own) for entry in submission.signatures]:
        yield own, "not exactly one `signs` association from the signature to the submission set"


def _replacements(submission: Submission) -> Faults:
    manifests = [entry.id for entry in submission.manifests]
    replacements = submission.of_type(REPLACES)
    for association in replacements:
        if association.source not in manifests:
            yield association.source, "RPLC does not start from a manifest of the message"
        if not association.target.startswith("urn:uuid:"):
            yield association.target, "RPLC does not target an entryUUID"
    if len({a.target for a in replacements}) != len(replacements):
        yield "RegistryObjectList", "two RPLC target the same entry"


def _only(*types: str) -> Callable[[Submission], Faults]:
    def find(submission: Submission) -> Faults:
        for association in submission.associations:
            if association.type not in types:
                yield association.source, f"association {association.type} is not allowed here"

    return find


def _no_entries(submission: Submission) -> Faults:
    for entry in submission.entries:
        yield entry.id, "a status update submits no document entry"


def _updates(submission: Submission) -> Faults:
    updates = submission.of_type(UPDATE_STATUS)
    if not updates:
        yield "RegistryObjectList", "no UpdateAvailabilityStatus"
    for association in updates:
        if association.source != submission.submission_set.id:
            yield association.source, "sourceObject is not the submission set"
        if move_of(association) not in MOVES:
            yield (
                association.target,
                "OriginalStatus and NewStatus are not Approved or Archived, then Deleted",
            )


def move_of(association: Association) -> tuple[str, str]:
    """(OriginalStatus, NewStatus) of an UpdateAvailabilityStatus, empty strings when absent or repeated."""
    values = [association.slots.get(name, ()) for name in ("OriginalStatus", "NewStatus")]
    original, new = (value[0] if len(value) == 1 else "" for value in values)
    return original, new


_SET_RULES = (
    Rule("XDSRegistryMetadataError", "submission set", _set_attributes),
    Rule("XDSRegistryMetadataError", "cda-and-xds 3.4", _authors),
    Rule("XDSRegistryMetadataError", "ITI TF-3 4.2.3.1.2", _displays),
    Rule("XDSRegistryDuplicateUniqueIdInMessage", "ITI TF-3 4.2.4", _unique_ids),
)
PROVIDE_RULES = (
    *_SET_RULES,
    Rule("XDSRegistryMetadataError", "document entry", _entry_attributes),
    Rule("XDSRegistryMetadataError", "document kind", _kinds),
    Rule("XDSRegistryMetadataError", "cda-and-xds 3.7", _confidentiality),
    Rule("XDSRegistryMetadataError", "drim-m-data 5.3", _manifest_entries),
    Rule("XDSPatientIdDoesNotMatch", "cda-and-xds 3.2", _patients),
    Rule("XDSRegistryMetadataError", "drim-m-data 5.5", _composition),
    Rule("XDSRegistryMetadataError", "drim-m-data 5.5", _members),
    Rule("XDSRegistryMetadataError", "drim-m-data 5.5", _signs),
    Rule("XDSRegistryMetadataError", "dmp-kos-xds 2.4", _replacements),
    Rule("XDSRegistryMetadataError", "dmp-kos-xds 2.4", _only(HAS_MEMBER, SIGNS, REPLACES)),
)
UPDATE_RULES = (
    *_SET_RULES,
    Rule("XDSMetadataUpdateError", "dmp-kos-xds 2.5", _no_entries),
    Rule("XDSMetadataUpdateError", "dmp-kos-xds 2.5", _updates),
    Rule("XDSMetadataUpdateError", "dmp-kos-xds 2.5", _only(UPDATE_STATUS)),
)
