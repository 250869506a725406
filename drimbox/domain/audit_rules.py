"""Which rows of the trace are audit events, and which ones: a table (trust-and-identity 7.2, PS3.15 A.5.3, DCM codes).

For an event name the first rule whose `when` holds; an event that may also happen for another reason has rows for
those reasons alone. What is not audited is listed too, with the reason, so that nothing is forgotten in silence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from drimbox.domain.audit_message import Code


def _dcm(value: str, meaning: str) -> Code:
    return Code(value, "DCM", meaning)


def _ihe(value: str, meaning: str) -> Code:
    return Code(value, "IHE Transactions", meaning)


ACCESSED = _dcm("110103", "DICOM Instances Accessed")
TRANSFERRED = _dcm("110104", "DICOM Instances Transferred")
DELETED = _dcm("110105", "DICOM Study Deleted")
EXPORT, IMPORT = _dcm("110106", "Export"), _dcm("110107", "Import")
ALERT = _dcm("110113", "Security Alert")
# Types of security alert (CID 403)
NODE, SECURITY = _dcm("110126", "Node Authentication"), _dcm("110129", "Security Configuration")
RESTRICTED = _dcm("110132", "Use of Restricted Function")
RAD_8, RAD_66 = _ihe("RAD-8", "Modality Images Stored"), _ihe("RAD-66", "Rejection Note Stored")
RAD_107 = _ihe("RAD-107", "WADO-RS Retrieve")
ITI_41 = _ihe("ITI-41", "Provide and Register Document Set-b")
ITI_57 = _ihe("ITI-57", "Update Document Set")
SUCCESS, MINOR, SERIOUS = "0", "4", "8"


@dataclass(frozen=True, slots=True)
class Lot:
    """The submission that a row of the trace is about. `kind`: publish, replace or unpublish."""

    kind: str
    submission_set_uid: str


@dataclass(frozen=True, slots=True)
class Occurrence:
    """A row of the trace with what belongs to it. `patient`: INS as CX of the exam, None = not known."""

    id: int
    at: datetime
    event: str
    actor: str
    study: str | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)
    lot: Lot | None = None
    patient: str | None = None


class Scene(StrEnum):
    """Who plays which part (`audit_events.py` puts them on the stage)."""

    ARRIVAL = "arrival"  # a peer sends to us
    RETRIEVAL = "retrieval"  # we send to a peer, who asked for it
    EXPORT = "export"  # we send to the DMP
    IMPORT = "import"  # a document comes in by a door
    HANDLING = "handling"  # somebody changes what we hold
    ALERT = "alert"  # we report of a peer, or of ourselves


@dataclass(frozen=True, slots=True)
class Rule:
    """One row. `type`: EventTypeCode; `gather`: rows alike in these are one message, None = never."""

    event: Code
    action: str
    type: Code | None
    outcome: str
    scene: Scene
    clause: str
    gather: tuple[str, ...] | None = None
    when: Callable[[Occurrence], bool] = lambda _one: True


def _is_withdrawal(one: Occurrence) -> bool:
    return one.lot is not None and one.lot.kind == "unpublish"


def _is_submission(one: Occurrence) -> bool:
    return one.lot is not None


def _is_of_operator(one: Occurrence) -> bool:
    return one.actor == "operator"


def _is_token_refused(one: Occurrence) -> bool:
    return str(one.detail.get("code", "")).startswith("token-")


def _is_peer_refused(one: Occurrence) -> bool:
    return one.detail.get("code") == "peer-not-member"


def _is_not_now(one: Occurrence) -> bool:
    status = one.detail.get("status")
    return isinstance(status, int) and status >= 500


def _did_purge(one: Occurrence) -> bool:
    return bool(one.detail.get("purged"))


def _leads_to(state: str) -> Callable[[Occurrence], bool]:
    return lambda one: one.detail.get("after") == state


_PER_STUDY = ("study",)
_PER_RETRIEVAL = ("study", "subject", "kos", "code", "client_id", "certificate", "why")
_SENT = "A.5.3.7; 7.2 WADO-RS out"
_STORED = "A.5.3.7; 7.2 C-STORE in"
_PUBLISHED = "A.5.3.4; 7.2 ITI-41 submission"
_UPDATED = "A.5.3.4; 7.2 ITI-57: Export, action R"
_REFUSED_PEER = "A.5.3.11; 7.2 TLS refused, token refused, peer not listed"
_CONFIGURED = "A.5.3.11; 7.2 configuration changed, whitelist state"
_OPERATED = "A.5.3.11; 7.2 use of a restricted function"


def _exports(outcome: str) -> tuple[Rule, ...]:
    """What became of a submission: of a withdrawal, of another one."""
    return (
        Rule(EXPORT, "R", ITI_57, outcome, Scene.EXPORT, _UPDATED, when=_is_withdrawal),
        Rule(EXPORT, "R", ITI_41, outcome, Scene.EXPORT, _PUBLISHED, when=_is_submission),
    )


def _sent(outcome: str, when: Callable[[Occurrence], bool] = lambda _one: True) -> Rule:
    return Rule(TRANSFERRED, "R", RAD_107, outcome, Scene.RETRIEVAL, _SENT, _PER_RETRIEVAL, when)


def _alert(
    type_: Code, outcome: str, clause: str, when: Callable[[Occurrence], bool] = lambda _one: True
) -> Rule:
    return Rule(ALERT, "E", type_, outcome, Scene.ALERT, clause, when=when)


def _repelled(type_: Code, when: Callable[[Occurrence], bool]) -> Rule:
    return Rule(ALERT, "E", type_, MINOR, Scene.ALERT, _REFUSED_PEER, _PER_RETRIEVAL, when)


_BY_OPERATOR = (_alert(RESTRICTED, SUCCESS, _OPERATED, _is_of_operator),)

RULES: Mapping[str, tuple[Rule, ...]] = {
    # images in
    "INSTANCE_STORED": (Rule(TRANSFERRED, "C", RAD_8, SUCCESS, Scene.ARRIVAL, _STORED, _PER_STUDY),),
    "INSTANCE_REPEATED": (Rule(TRANSFERRED, "R", RAD_8, SUCCESS, Scene.ARRIVAL, _STORED, _PER_STUDY),),
    "INSTANCE_REFUSED": (
        Rule(TRANSFERRED, "C", RAD_8, SERIOUS, Scene.ARRIVAL, _STORED, ("study", "code", "reason")),
    ),
    # A rejection hides instances, not the study: 110103 "being … deleted", not 110105 (A.5.3.6)
    "INSTANCES_REJECTED": (
        Rule(ACCESSED, "D", RAD_66, SUCCESS, Scene.HANDLING, "A.5.3.6; 7.2 correction, RAD-66"),
    ),
    # images out
    "RETRIEVAL_AUTHORISED": (_sent(SUCCESS),),
    "RETRIEVAL_SERVED": (_sent(SUCCESS),),
    "RETRIEVAL_CUT": (_sent(MINOR),),
    "RETRIEVAL_REFUSED": (
        _repelled(RESTRICTED, _is_token_refused),
        _repelled(NODE, _is_peer_refused),
        _sent(MINOR, _is_not_now),
        _sent(SERIOUS),
    ),
    # reports in
    "REPORT_RECEIVED": (
        Rule(
            IMPORT, "C", None, SUCCESS, Scene.IMPORT, "A.5.3.5; 7.2 Import", ("document", "operation", "row")
        ),
    ),
    "REPORT_REFUSED": (Rule(IMPORT, "C", None, SERIOUS, Scene.IMPORT, "A.5.3.5; 7.2 Import"),),
    "IMPORTED": (Rule(IMPORT, "C", None, SUCCESS, Scene.IMPORT, "A.5.3.5; 7.2 Import (XDM)"),),
    # to the DMP: what left, or may have left
    "REGISTERED": _exports(SUCCESS),
    "FOUND": _exports(SUCCESS),
    "REFUSED": _exports(SERIOUS),
    "NO_ANSWER": _exports(MINOR),
    "LEASE_EXPIRED": _exports(MINOR),
    # deletions
    "PURGED": (
        Rule(ACCESSED, "D", None, SUCCESS, Scene.HANDLING, "A.5.3.6; 7.2 purge (manifests, not images)"),
    ),
    # images that are gone, or were found spoilt
    "IMAGES_FORGOTTEN": (Rule(DELETED, "D", None, SUCCESS, Scene.HANDLING, "A.5.3.8; 7.2 study deleted"),),
    "SEGMENT_COMPACTED": (
        Rule(ACCESSED, "D", None, SUCCESS, Scene.HANDLING, "A.5.3.6; 7.2 rejected images", when=_did_purge),
    ),
    "INSTANCE_EXPORTED": (
        Rule(ACCESSED, "R", None, SUCCESS, Scene.HANDLING, "A.5.3.6; 7.2 taken out by an operator"),
    ),
    "STORAGE_DAMAGED": (_alert(SECURITY, SERIOUS, "A.5.3.11; 7.2 kept images are damaged or missing"),),
    # security
    "ASSOCIATION_REFUSED": (_alert(NODE, MINOR, _REFUSED_PEER),),
    "CONNECTION_REFUSED": (_alert(NODE, MINOR, _REFUSED_PEER),),
    "REQUEST_REFUSED": (_alert(NODE, MINOR, _REFUSED_PEER),),
    "HEALTH_FORBIDDEN": (_alert(NODE, MINOR, _REFUSED_PEER),),
    "WHITELIST_STATE": (
        _alert(SECURITY, SERIOUS, _CONFIGURED, _leads_to("ABSENT")),
        _alert(SECURITY, MINOR, _CONFIGURED, _leads_to("STALE")),
        _alert(SECURITY, SUCCESS, _CONFIGURED),
    ),
    "QUEUE_STOPPED": (_alert(SECURITY, SERIOUS, _CONFIGURED),),
    "QUEUE_RESUMED": (_alert(SECURITY, SUCCESS, _CONFIGURED),),
    "THINNER_APPROVED": _BY_OPERATOR,
    "WITHDRAWAL_ASKED": _BY_OPERATOR,
    "RESTORATION_ASKED": _BY_OPERATOR,
    "RELEASED": _BY_OPERATOR,
}

_OWN = "our own bookkeeping: no data moved, nobody from outside took part"
_TOLD = "said by the event that caused it"
_QUERY = "a registry query (110112): the trace does not hold the query, which A.5.3.10 demands"
_RIS = "the sender's own order or patient record: audited there"
_COMMIT = "storage commitment moves no data: what arrived was audited as it came"
_KEPT = "no exam is named: every one is copied to, or from, the operator's own medium"
NOT_AUDITED: Mapping[str, str] = {
    "STUDY_QUIET": _OWN,
    "PREPARED": _OWN,
    "WAITING": _OWN,
    "CLAIMED": _OWN,
    "SUPERSEDED": _OWN,
    "ATTEMPTS_SPENT": _OWN,
    "NOT_SENT": "nothing left",
    "NOT_FOUND": _QUERY,
    "IDENTIFIED": _QUERY,
    "LOOKUP_FAILED": _QUERY,
    "GONE_AT_DMP": _QUERY,
    "REPLACED": _TOLD,
    "WITHDRAWN": _TOLD,
    "REPORT_REPLACED": _TOLD,
    "REPORT_WITHDRAWN": _TOLD,
    "REPORT_REPEATED": "the same message again: nothing came in",
    "ORDER_RECEIVED": _RIS,
    "CONSENT_RECEIVED": _RIS,
    "RECEIPT_SENT": _OWN,
    "RECEIPT_GIVEN_UP": _OWN,
    "HURRIED": _OWN,
    "STORAGE_VERIFIED": _OWN,
    "BACKUP_MADE": _KEPT,
    "BACKUP_RESTORED": _KEPT,
    "DMP_DISAGREES": _QUERY,
    "DMP_COMPARED": _QUERY,
    "COMMITMENT_ASKED": _COMMIT,
    "COMMITMENT_JUDGED": _COMMIT,
    "COMMITMENT_REPORTED": _COMMIT,
    "COMMITMENT_GIVEN_UP": _COMMIT,
    "HEALTH_CHANGED": _OWN,
    "HEALTH_LIST_REFRESHED": _OWN,
    "HEALTH_LIST_REFUSED": _OWN,
    "HEALTH_LIST_STALE": _OWN,
    "HEALTH_LIST_FRESH": _OWN,
    "HEALTH_LIST_DAMAGED": _OWN,
    "HEALTH_LIST_UNSAVED": _OWN,
    "CERTIFICATE_ENDS": _OWN,
    "CERTIFICATE_UNUSABLE": _OWN,
    "INBOX_PURGED": "no exam is named: retention of messages, in the trace and the logs",
}


def rule_of(one: Occurrence) -> Rule | None:
    """The rule of a row of the trace; None when it is no audit event."""
    return next((rule for rule in RULES.get(one.event, ()) if rule.when(one)), None)
