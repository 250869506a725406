"""The rows of the ledger as plain objects; `adapters/ledger.py` maps them to tables.

Times are aware datetimes in UTC. `state` is assigned by `flow/trace.py` only (checked by tests/house).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from drimbox.domain.lifecycle import ReportState, StudyState, SubmissionState


@dataclass(eq=False)
class Exam:
    """One study. `revision` grows with every arrival, so that a decision made on old facts is dropped."""

    study_instance_uid: str
    changed_at: datetime
    state: str = StudyState.RECEIVING
    rule: str | None = None
    reason: str | None = None
    revision: int = 0
    last_instance_at: datetime | None = None
    reconcile_at: datetime | None = None
    judged: str | None = (
        None  # mark of the judgement "nothing to do" (revision and policy), None = judge again
    )
    withdrawn_by: str | None = None  # "order" or "operator": nothing of it may be public
    held_key: str | None = None  # content that waits for an operator's word
    approved_key: str | None = None  # content that an operator approved


@dataclass(eq=False)
class ReceivedReport:
    """A report that was accepted. `cda` is a digest in the document store."""

    id: str
    document_id: str
    set_id: str
    version: int
    operation: str
    cda: str
    received_at: datetime
    door: str
    flags: list[str]
    destined_to_dmp: bool
    patient_class: str
    sender: dict[str, str]
    patient_ins: str | None = None
    patient_oid: str | None = None
    visit: str | None = None  # PV1-19 as root^extension
    author_structure: str | None = None  # of the CDA's first author
    state: str = ReportState.CURRENT
    replaced_by: str | None = None


@dataclass(eq=False)
class ReportStudy:
    """A report documents a study (one report may document several)."""

    report_id: str
    study_instance_uid: str


@dataclass(eq=False)
class ReportParent:
    """A report replaces a document, known here or not."""

    report_id: str
    document_id: str


@dataclass(eq=False)
class Message:
    """Everything that entered by a report door, accepted or not, and what was answered.

    `content`, `document`: digests of the bytes as received and of the CDA inside them; `answer`: the acknowledgement
    as sent; `violations`: rule, severity, message, where and clause of each. `purged_at`: the bytes are gone since.
    """

    id: str
    received_at: datetime
    door: str
    peer: str
    control_id: str
    content: str
    verdict: str
    code: str | None = None
    reason: str | None = None
    report_id: str | None = None
    sender: str | None = None  # name of its profile
    kind: str = ""  # MSH-9.1^MSH-9.2, or CDA
    document: str | None = None
    document_id: str | None = None
    answer: str | None = None
    violations: list[dict[str, str]] = field(default_factory=list)
    studies: list[str] = field(default_factory=list)
    replay_of: str | None = None
    purged_at: datetime | None = None


@dataclass(eq=False)
class Visit:
    """What an ADT message said of a visit: `feeding` is ZFA-9, IO = the patient opposes (hl7-mss 1.12)."""

    visit: str
    feeding: str
    said_at: datetime
    message_id: str


@dataclass(eq=False)
class Receipt:
    """A business acknowledgement (ZAM^Z01) that a sender asked for; `status`: Y or N once it is known."""

    id: str
    report_id: str
    operation: str  # of the message: NW, RO or CA
    control_id: str  # its MSH-10
    sender: str
    created_at: datetime
    due_at: datetime | None
    status: str | None = None
    error: str | None = None
    attempts: int = 0
    delivered_at: datetime | None = None
    given_up_at: datetime | None = None
    last_error: str | None = None


@dataclass(eq=False)
class Commitment:
    """A request for storage commitment (PS3.4 J); `asked`: [SOP class, SOP instance] of each, [] once it is answered.

    `key`: SHA-256 of them; `results`: a `commitment.Reason` for each, None until they are judged.
    """

    id: str
    transaction_uid: str
    ae_title: str  # of who asked, and where the answer goes
    key: str
    duplicate: bool = False  # the Transaction UID was in use for other instances, or by somebody else
    address: str = ""
    received_at: datetime | None = None  # the last time that it was asked
    asked: list[list[str]] = field(default_factory=list)
    due_at: datetime | None = None
    results: list[int] | None = None
    attempts: int = 0
    delivered_at: datetime | None = None
    given_up_at: datetime | None = None
    last_error: str | None = None


@dataclass(eq=False)
class Submission:
    """One lot made for the DMP: frozen bytes (digests in the document store), mutable state.

    `kind`: publish (TD2.1a), replace (TD2.1b: of `replaces_id`, known to the DMP as `target_entry`), or unpublish
    (TD3.3c of the same; it has no documents). `revision`: that of the exam when the lot was last judged right; it
    is sent only while they are equal. `origin`: made here, or imported from an archive.
    """

    id: str
    study_instance_uid: str
    kind: str
    content_key: str
    submission_set_uid: str
    request: str
    vihf: str
    patient_ins: str
    patient_oid: str
    revision: int
    created_at: datetime
    since: datetime
    state: str = SubmissionState.PREPARED
    kos_uid: str | None = None
    signature_uid: str | None = None
    kos: str | None = None
    signature: str | None = None
    report_id: str | None = None
    replaces_id: str | None = None
    target_entry: str | None = None
    origin: str = "made"
    cause: str | None = None
    entry_uuid: str | None = None
    attempts: int = 0
    ending: str | None = None  # how the last attempt ended, and how often in a row (`domain/retry.py`)
    endings: int = 0
    due_at: datetime | None = None
    lease_owner: str | None = None
    lease_until: datetime | None = None
    last_error: str | None = None


@dataclass(eq=False)
class Gate:
    """A queue that stands still: nothing is sent before `until`, then one message tries whether it may go on."""

    name: str
    since: datetime
    until: datetime
    reason: str


@dataclass(eq=False)
class TraceEntry:
    """What happened, to what, by whom. `detail` never holds patient data."""

    at: datetime
    event: str
    actor: str
    study_instance_uid: str | None = None
    submission_id: str | None = None
    before: str | None = None
    after: str | None = None
    detail: dict[str, Any] = field(default_factory=dict)
    id: int | None = None


class Note(NamedTuple):
    """A row of the trace that comes by the thousand, so that no `TraceEntry` is made; the same columns.

    `before`, `after`: states, None when none changes; `detail` never holds patient data.
    """

    at: datetime
    event: str
    actor: str
    study_instance_uid: str | None
    detail: dict[str, Any]
    before: str | None = None
    after: str | None = None


@dataclass(eq=False)
class AuditCursor:
    """How far the trace was passed on to an audit record repository (`flow/forward_audit.py`).

    `missing`: ranges of ids below `last_id` that no row had (first, last, ISO 8601 instant when that was first seen).
    `failures`: in a row, since `failing_since`.
    """

    name: str
    last_id: int
    missing: list[tuple[int, int, str]] = field(default_factory=list)
    lease_owner: str | None = None
    lease_until: datetime | None = None
    failures: int = 0
    failing_since: datetime | None = None
    last_error: str | None = None
    due_at: datetime | None = None


@dataclass(eq=False)
class Heartbeat:
    """The last sign of life of a process of a node (`flow/heartbeats.py`). `detail` never holds patient data."""

    node: str
    process: str
    at: datetime
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Duty:
    """Who does a chore for all nodes (`flow/duties.py`), by the clock of the database."""

    name: str
    holder: str
    until: datetime


Record = (
    Exam
    | ReceivedReport
    | ReportStudy
    | ReportParent
    | Message
    | Visit
    | Receipt
    | Commitment
    | Submission
    | Gate
    | TraceEntry
    | AuditCursor
    | Heartbeat
)
