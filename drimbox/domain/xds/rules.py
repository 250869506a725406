"""The rules that a lot must keep before it leaves, as rows with their clause: `check_lot(lot)`.

Every violation is reported, not the first. Messages quote codes, kinds and lengths, never an identity. One
submission set per lot is the shape of `Lot` itself; what one entry must keep is in `entry_rules`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator

from drimbox.domain.errors import Refused
from drimbox.domain.violations import Violation, errors
from drimbox.domain.xds import vocabulary as v
from drimbox.domain.xds.entry_rules import ENTRY_RULES
from drimbox.domain.xds.metadata import Association, Lot, SubmissionSet
from drimbox.domain.xds.rule import (
    MAX_VALUE,
    Rule,
    author_faults,
    coded_faults,
    dtm_faults,
    judge,
    length_faults,
    oid_faults,
    patient_id_faults,
)

_ENTRY_UUID = re.compile(r"urn:uuid:[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}", re.IGNORECASE)
_ID = re.compile(r"[A-Za-z_][\w.-]*")


class LotRefused(Refused):
    """The facts do not make a lot that may leave. `violations`: every rule broken."""

    def __init__(self, violations: Iterable[Violation]) -> None:
        self.violations = tuple(violations)
        lines = [f"{found.where}: {found.message} ({found.clause})" for found in self.violations]
        super().__init__("lot-invalid", "; ".join(lines))


def check_lot(lot: Lot) -> tuple[Violation, ...]:
    """Every rule that the lot breaks, of this table and of `entry_rules`; empty = it may leave."""
    found = [*judge(lot.submission_set, SET_RULES, "SubmissionSet"), *judge(lot, LOT_RULES, "Lot")]
    for entry in lot.entries:
        found += judge(entry, ENTRY_RULES, entry.id)
    return tuple(found)


def refuse_violations(violations: Iterable[Violation]) -> None:
    """Raise `LotRefused` when one of them is an error."""
    if found := errors(violations):
        raise LotRefused(found)


def _set_unique_id(submission: SubmissionSet) -> Iterator[str]:
    yield from oid_faults(submission.unique_id)


def _set_source_id(submission: SubmissionSet) -> Iterator[str]:
    yield from oid_faults(submission.source_id)


def _set_patient_id(submission: SubmissionSet) -> Iterator[str]:
    yield from patient_id_faults(submission.patient_id)


def _set_time(submission: SubmissionSet) -> Iterator[str]:
    yield from dtm_faults(submission.submission_time)


def _set_authors(submission: SubmissionSet) -> Iterator[str]:
    if len(submission.authors) != 1:
        yield f"{len(submission.authors)} authors, exactly 1 expected"
    yield from author_faults(submission.authors)


def _set_content_type(submission: SubmissionSet) -> Iterator[str]:
    coded = submission.content_type_code
    if coded is None:
        yield "missing"
        return
    yield from coded_faults(coded)
    if coded.scheme == v.TRE_R209 and coded.code not in v.CONTENT_TYPES:
        yield f"{coded.code} is none of the content types of PV1-2"


def _set_lengths(submission: SubmissionSet) -> Iterator[str]:
    yield from length_faults([submission.title], 128)
    people = [text for author in submission.authors for text in (author.person, *author.institutions)]
    yield from length_faults([submission.comments, submission.patient_id, *people], MAX_VALUE)


def _ids(lot: Lot) -> Iterator[str]:
    ids = [lot.submission_set.id, *(e.id for e in lot.entries), *(a.id for a in lot.associations)]
    yield from (f"id {name} given {n} times" for name, n in Counter(ids).items() if n > 1)
    yield from (f"id {name or '(empty)'} is not a name" for name in ids if not _ID.fullmatch(name))


def _unique_ids(lot: Lot) -> Iterator[str]:
    ids = [lot.submission_set.unique_id, *(entry.unique_id for entry in lot.entries)]
    yield from (f"uniqueId {uid} given {n} times" for uid, n in Counter(ids).items() if n > 1)


def _one_patient(lot: Lot) -> Iterator[str]:
    if any(entry.patient_id != lot.submission_set.patient_id for entry in lot.entries):
        yield "patientId differs between the set and its entries"


def _one_purpose(lot: Lot) -> Iterator[str]:
    changes = [a for a in lot.associations if a.type == v.UPDATE_AVAILABILITY_STATUS]
    if not lot.entries and not changes:
        yield "neither a document nor a change of status"
    if lot.entries and changes:
        yield "documents and a change of status in one lot"


def _known_types(lot: Lot) -> Iterator[str]:
    known = (v.HAS_MEMBER, v.RPLC, v.SIGNS, v.UPDATE_AVAILABILITY_STATUS)
    yield from (f"association type {a.type}" for a in lot.associations if a.type not in known)


def _members(lot: Lot) -> Iterator[str]:
    submission = lot.submission_set.id
    members = [a for a in lot.associations if a.type == v.HAS_MEMBER]
    counted = Counter(a.target for a in members if a.source == submission)
    yield from (
        f"{entry.id} is a member {counted[entry.id]} times" for entry in lot.entries if counted[entry.id] != 1
    )
    known = {entry.id for entry in lot.entries}
    yield from (
        f"member {a.target} is not in the lot"
        for a in members
        if a.target not in known or a.source != submission
    )
    yield from (
        f"{a.id} lacks SubmissionSetStatus = Original"
        for a in members
        if a.slots != (("SubmissionSetStatus", "Original"),)
    )


def _replacements(lot: Lot) -> Iterator[str]:
    replacements = [a for a in lot.associations if a.type == v.RPLC]
    known = {entry.id for entry in lot.entries}
    yield from (f"{a.source} is not a document of the lot" for a in replacements if a.source not in known)
    yield from _foreign_targets(replacements)
    repeated = Counter(a.target for a in replacements)
    yield from (f"one entry replaced {n} times" for n in repeated.values() if n > 1)


def _status_changes(lot: Lot) -> Iterator[str]:
    changes = [a for a in lot.associations if a.type == v.UPDATE_AVAILABILITY_STATUS]
    yield from _foreign_targets(changes)
    for change in changes:
        slots = dict(change.slots)
        if change.source != lot.submission_set.id:
            yield f"the source of {change.id} is not the submission set"
        if slots.get("OriginalStatus") not in v.WITHDRAWABLE_STATUSES or slots.get("NewStatus") != v.DELETED:
            yield f"{change.id}: only Approved or Archived to Deleted"


def _foreign_targets(associations: list[Association]) -> Iterator[str]:
    for association in associations:
        if not _ENTRY_UUID.fullmatch(association.target):
            yield f"the target of {association.id} is not an entryUUID (urn:uuid:...)"


def _signed(lot: Lot) -> Iterator[str]:
    signatures = [e for e in lot.entries if e.type_code and e.type_code.code == v.LOT_SIGNATURE]
    if lot.entries and len(signatures) != 1:
        yield f"{len(signatures)} signature documents, exactly 1 expected"
    signs = [(a.source, a.target) for a in lot.associations if a.type == v.SIGNS]
    if signs != [(entry.id, lot.submission_set.id) for entry in signatures]:
        yield "the signature document must sign the submission set, once"


SET_RULES: tuple[Rule[SubmissionSet], ...] = (
    Rule("set-unique-id", "uniqueId", "ITI TF-3 4.2.3.3.12: OID <= 64", _set_unique_id),
    Rule("set-source-id", "sourceId", "ITI TF-3 4.2.3.3.9: OID <= 64", _set_source_id),
    Rule("set-patient-id", "patientId", "cda-and-xds 3.4: CX of an INS", _set_patient_id),
    Rule("submission-time", "submissionTime", "cda-and-xds 3.2, 3.5", _set_time),
    Rule("set-author", "author", "cda-and-xds 3.2, 3.4", _set_authors),
    Rule("content-type", "contentTypeCode", "cda-and-xds 3.2: JDV_J59", _set_content_type),
    Rule("set-length", "attributes", "rim.xsd LongName: 256 characters; title 128", _set_lengths),
)
LOT_RULES: tuple[Rule[Lot], ...] = (
    Rule("ids", "id", "rim.xsd; MTOM Document@id, dmp-kos-xds 2.2", _ids),
    Rule("unique-ids", "uniqueId", "ITI TF-3 4.2.3.2.26: unique for ever", _unique_ids),
    Rule("one-patient", "patientId", "ITI TF-2 3.42.4.1.3.3: XDSPatientIdDoesNotMatch", _one_patient),
    Rule("purpose", "entries", "dmp-kos-xds 2.5: ITI-57 carries no document", _one_purpose),
    Rule("association-type", "associations", "cda-and-xds 3.1", _known_types),
    Rule("members", "HasMember", "ITI TF-3 4.2.1.4: each entry once, Original", _members),
    Rule("replacement", "RPLC", "dmp-kos-xds 2.4: target = entryUUID", _replacements),
    Rule("status-change", "UpdateAvailabilityStatus", "dmp-kos-xds 2.5", _status_changes),
    Rule("signature", "signs", "drim-m-data 5.5", _signed),
)
