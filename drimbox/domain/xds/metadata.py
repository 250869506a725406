"""The meaning of a submission: one SubmissionSet, its DocumentEntries, the Associations between them. Frozen.

Attributes bear the names of IHE ITI TF-3 4.2.3. Values are the texts that travel (CX, XCN, XON, DTM); an
absent value is "", None or (). `ebxml` writes and reads them, `rules` judges them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Coded:
    """A code, its codingScheme (an OID, or URN/ASTM), its label."""

    code: str
    scheme: str
    display: str = ""


@dataclass(frozen=True, slots=True)
class Author:
    """One author: person or device (XCN), institutions (XON), roles, specialties (`code^label^oid`)."""

    person: str
    institutions: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    specialties: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DocumentEntry:
    """One document. `id`: symbolic in a submission; the entryUUID in a registry's answer, with `status`."""

    id: str
    mime_type: str
    unique_id: str
    patient_id: str
    creation_time: str = ""
    language_code: str = ""
    legal_authenticator: str = ""
    service_start_time: str = ""
    service_stop_time: str = ""
    source_patient_id: str = ""
    source_patient_info: tuple[str, ...] = ()
    hash: str = ""
    size: int | None = None
    uri: str = ""
    repository_unique_id: str = ""
    reference_id_list: tuple[str, ...] = ()
    title: str = ""
    comments: str = ""
    authors: tuple[Author, ...] = ()
    class_code: Coded | None = None
    type_code: Coded | None = None
    confidentiality_codes: tuple[Coded, ...] = ()
    format_code: Coded | None = None
    healthcare_facility_type_code: Coded | None = None
    practice_setting_code: Coded | None = None
    event_codes: tuple[Coded, ...] = ()
    status: str = ""


@dataclass(frozen=True, slots=True)
class SubmissionSet:
    """The set itself."""

    id: str
    unique_id: str
    source_id: str
    patient_id: str
    submission_time: str = ""
    title: str = ""
    comments: str = ""
    authors: tuple[Author, ...] = ()
    content_type_code: Coded | None = None


@dataclass(frozen=True, slots=True)
class Association:
    """`source` and `target` are ids of the lot or entryUUIDs; `slots` are (name, value) pairs."""

    id: str
    type: str
    source: str
    target: str
    slots: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Lot:
    """What one SubmitObjectsRequest says. The type allows one submission set only (ITI TF-2 3.42.4.1)."""

    submission_set: SubmissionSet
    entries: tuple[DocumentEntry, ...]
    associations: tuple[Association, ...]
