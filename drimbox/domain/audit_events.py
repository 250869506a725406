"""Rows of the trace become audit messages: alike ones are gathered, then everybody gets a part (PS3.15 A.5.3).

Gathered are rows of the same rule, actor and minute that agree in what the rule names: a study that arrives is a few
messages, not one per instance. The message tells when the last of them happened, how many there were, and the ids of
their rows: whoever reads both, or meets a message twice, can tell.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from drimbox.domain.audit_message import (
    NOT_KNOWN,
    AuditMessage,
    AuditSource,
    Code,
    Participant,
    ParticipantObject,
    utc_stamp,
)
from drimbox.domain.audit_rules import ALERT, ITI_57, SUCCESS, Occurrence, Rule, Scene, rule_of
from drimbox.domain.syslog_message import DICOM, IHE

# RoleIDCode (CID 402)
DESTINATION, SOURCE = Code("110152", "DCM", "Destination Role ID"), Code("110153", "DCM", "Source Role ID")
SOURCE_MEDIA = Code("110155", "DCM", "Source Media")
URI_MEDIA = Code("110037", "DCM", "URI")  # CID 405
# ParticipantObjectIDTypeCode (CID 404, A.5.1.2.4, ITI TF-2 3.41.5)
PATIENT_NUMBER = Code("2", "RFC-3881", "Patient Number")
STUDY_UID, NODE_ID = Code("110180", "DCM", "Study Instance UID"), Code("110182", "DCM", "Node ID")
SUBMISSION_SET = Code(
    "urn:uuid:a54d6aa5-d40d-43f9-88c5-b4633d873bdd", "IHE XDS Metadata", "submission set classificationNode"
)
# What the trace says besides, as ParticipantObjectDetail: key there -> type here. `True`: numbers are added up.
TOLD: Mapping[str, tuple[str, bool]] = {
    "code": ("Refusal", False),
    "status": ("HTTP Status", False),
    "kos": ("KOS SOP Instance UID", False),
    "series": ("Series Instance UID", False),
    "frames": ("Frames", False),
    "syntaxes": ("Transfer Syntax UIDs", False),
    "bytes": ("Bytes", True),
    "document": ("Document ID", False),
    "operation": ("Operation", False),
    "message": ("Message ID", False),
    "note": ("Rejection Note SOP Instance UID", False),
    "entry": ("DocumentEntry UUID", False),
    "acr": ("Authentication Level", False),
    "jti": ("Token ID", False),
    "token": ("Token Digest", False),
    "binding": ("Token Binding", False),
    "repeated": ("Repeated", True),
}
_ADDRESS = re.compile(r"[0-9A-Za-z.:%_-]+")


@dataclass(frozen=True, slots=True)
class Stage:
    """Where it plays: us, and the addresses of the DMP's repository (ITI-41) and registry (ITI-57)."""

    source: AuditSource
    repository_url: str
    registry_url: str


@dataclass(frozen=True, slots=True)
class Report:
    """A message and what it reports: the rows of the trace; `message_id`: MSGID of its syslog message."""

    message: AuditMessage
    message_id: str
    rows: tuple[int, ...]


Gathered = tuple[Rule, list[Occurrence]]


def gather(occurrences: Iterable[Occurrence]) -> list[Gathered]:
    """The audit events among rows in the order of their ids, each with the rows that it gathers."""
    groups: dict[tuple[object, ...], Gathered] = {}
    for one in occurrences:
        rule = rule_of(one)
        if rule is not None:
            groups.setdefault(_likeness(rule, one), (rule, []))[1].append(one)
    return list(groups.values())


def report(gathered: Gathered, stage: Stage) -> Report:
    """The audit message of one event."""
    rule, ones = gathered
    last = ones[-1]
    message = AuditMessage(
        event=rule.event,
        action=rule.action,
        types=(rule.type,) if rule.type else (),
        at=_end(last),
        outcome=rule.outcome,
        why="" if rule.outcome == SUCCESS else _why(ones),
        participants=tuple(_PARTS[rule.scene](rule, last, stage)),
        source=stage.source,
        objects=tuple(_objects(rule, ones, stage)),
    )
    is_of_ihe = rule.type is not None and rule.type.scheme == "IHE Transactions"
    return Report(message, IHE if is_of_ihe else DICOM, tuple(one.id for one in ones))


def _likeness(rule: Rule, one: Occurrence) -> tuple[object, ...]:
    if rule.gather is None:
        return (one.id,)
    values = (one.study if name == "study" else repr(one.detail.get(name)) for name in rule.gather)
    minute = one.at.replace(second=0, microsecond=0)
    return (one.event, rule.type, rule.outcome, one.actor, one.patient, minute, *values)


def _end(one: Occurrence) -> datetime:
    """When it was over (A.5.3.7): a retrieval has its beginning and how long it took."""
    lasted = one.detail.get("ms")
    return one.at + timedelta(milliseconds=lasted) if isinstance(lasted, int | float) else one.at


# --- who


def _us(stage: Stage, role: Code | None, *, requestor: bool, dicom: bool = False) -> Participant:
    source = stage.source
    title = f"AETITLES={source.ae_title}" if dicom else ""  # A.5.2.2
    return Participant(source.source_id, requestor, role, title, "DRIMBox", source.host)


def _peer(one: Occurrence, role: Code | None, *, requestor: bool) -> Participant | None:
    """The node named by an actor of the form `door:address` or `door:AE@address`; None for our own processes."""
    door, _, who = one.actor.partition(":")
    if not who or door == "worker":
        return None
    title, _, address = who.rpartition("@")
    known = one.detail.get("certificate") or title or address
    is_dicom = door in ("pacs", "dicom") and title  # A.5.2.2
    alternative = f"AETITLES={title}" if is_dicom else _text(one.detail.get("client_id")) or title
    place = address if _ADDRESS.fullmatch(address) else ""
    return Participant(str(known), requestor, role, alternative, _text(one.detail.get("structure")), place)


def _operator(one: Occurrence, stage: Stage, role: Code | None = None) -> Participant | None:
    """A person at the console: loginName@domain-name (A.5.2.1)."""
    if one.actor != "operator":
        return None
    return Participant(f"operator@{stage.source.host}", True, role, address=stage.source.host)


def _arrival(rule: Rule, one: Occurrence, stage: Stage) -> Iterable[Participant]:
    sender = _peer(one, SOURCE, requestor=True) or Participant(one.actor, True, SOURCE)
    return sender, _us(stage, DESTINATION, requestor=False, dicom=True)


def _retrieval(rule: Rule, one: Occurrence, stage: Stage) -> Iterable[Participant]:
    """The professional asked for it, when the token was read; else the node that did."""
    subject = _text(one.detail.get("subject"))
    yield _us(stage, SOURCE, requestor=False)
    yield _peer(one, DESTINATION, requestor=not subject) or Participant(one.actor, not subject, DESTINATION)
    if subject:
        yield Participant(subject, True)


def _export(rule: Rule, one: Occurrence, stage: Stage) -> Iterable[Participant]:
    url = stage.registry_url if rule.type == ITI_57 else stage.repository_url
    yield _us(stage, SOURCE, requestor=True)
    yield Participant(url, False, DESTINATION, address=urlsplit(url).hostname or "")


def _import(rule: Rule, one: Occurrence, stage: Stage) -> Iterable[Participant]:
    """Source media is mandatory (A.5.3.5): the door, as a URI."""
    sender = _peer(one, SOURCE, requestor=True)
    operator = _operator(one, stage, DESTINATION)
    yield _us(stage, DESTINATION, requestor=sender is None and operator is None)
    yield from (who for who in (operator, sender) if who is not None)
    door = _text(one.detail.get("door")) or "archive"
    yield Participant(f"{door}:{sender.address if sender else ''}", False, SOURCE_MEDIA, media=URI_MEDIA)


def _handling(rule: Rule, one: Occurrence, stage: Stage) -> Iterable[Participant]:
    author = _peer(one, None, requestor=True) or _operator(one, stage)
    if author is not None:
        yield author
    yield _us(stage, None, requestor=author is None, dicom=True)


def _alert(rule: Rule, one: Occurrence, stage: Stage) -> Iterable[Participant]:
    """Reporting: this process and, at the console, a person; performing: the peer, never the requestor (A.5.3.11)."""
    operator, peer = _operator(one, stage), _peer(one, None, requestor=False)
    yield _us(stage, None, requestor=operator is None)
    yield from (who for who in (operator, peer) if who is not None)


_PARTS: Mapping[Scene, Callable[[Rule, Occurrence, Stage], Iterable[Participant]]] = {
    Scene.ARRIVAL: _arrival,
    Scene.RETRIEVAL: _retrieval,
    Scene.EXPORT: _export,
    Scene.IMPORT: _import,
    Scene.HANDLING: _handling,
    Scene.ALERT: _alert,
}


# --- what


def _objects(rule: Rule, ones: Sequence[Occurrence], stage: Stage) -> Iterable[ParticipantObject]:
    last = ones[-1]
    if rule.event == ALERT:
        yield _alert_subject(ones, stage)
        return
    yield ParticipantObject(last.patient or NOT_KNOWN, PATIENT_NUMBER, "1", "1")
    if last.lot is not None:
        yield ParticipantObject(last.lot.submission_set_uid, SUBMISSION_SET, "2", "20", "SubmissionSet")
    studies = list(dict.fromkeys(one.study or NOT_KNOWN for one in ones))
    details = (*_rows(ones), *_told(ones))
    if len(studies) > 1:
        details = (("Studies", str(len(studies))), *details)
    for place, study in enumerate(studies):
        told = details if place == 0 else ()
        counts = [_instances(one) for one in ones if (one.study or NOT_KNOWN) == study]
        known = [count for count in counts if count is not None]
        uids = tuple(uid for one in ones for uid in _uids(one)) if len(studies) == 1 else ()
        total = sum(known) if known else None
        named = uids if len(uids) == total else ()
        yield ParticipantObject(study, STUDY_UID, "2", "3", "DICOM study", told, total, named)


def _alert_subject(ones: Sequence[Occurrence], stage: Stage) -> ParticipantObject:
    """The node that the alert is about: the peer, else ourselves. Its description is mandatory (A.5.3.11)."""
    last = ones[-1]
    peer = _peer(last, None, requestor=False)
    node = (peer.address if peer else "") or stage.source.host
    details = [("Alert Description", _description(ones)), *_rows(ones)]
    if last.study:
        details.append(("Study Instance UID", last.study))
    return ParticipantObject(node, NODE_ID, "2", "13", "Node", (*details, *_told(ones)))


def _description(ones: Sequence[Occurrence]) -> str:
    detail = ones[-1].detail
    change = f"{detail['before']} to {detail['after']}" if {"before", "after"} <= set(detail) else ""
    return ": ".join(part for part in (ones[-1].event, change, _why(ones)) if part)


def _why(ones: Sequence[Occurrence]) -> str:
    """The reason that the trace gives; of several, the last."""
    detail = ones[-1].detail
    return next((_text(detail[name]) for name in ("reason", "why", "code") if detail.get(name)), "")


def _rows(ones: Sequence[Occurrence]) -> list[tuple[str, str]]:
    if len(ones) == 1:
        return [("Trace", str(ones[0].id))]
    span = f"{ones[0].id}-{ones[-1].id}"
    return [("Trace", span), ("Events", str(len(ones))), ("First", utc_stamp(ones[0].at))]


def _told(ones: Sequence[Occurrence]) -> list[tuple[str, str]]:
    """What they agree in, and the sums of what is a quantity."""
    told: list[tuple[str, str]] = []
    for name, (kind, is_quantity) in TOLD.items():
        values = [one.detail[name] for one in ones if one.detail.get(name) not in (None, "", [])]
        if is_quantity:
            numbers = [value for value in values if isinstance(value, int)]
            told += [(kind, str(sum(numbers)))] if numbers else []
        elif len(values) == len(ones) and all(value == values[0] for value in values):
            told.append((kind, _text(values[0])))
    return told


def _instances(one: Occurrence) -> int | None:
    """How many SOP instances a row is about; None when it does not say."""
    for name in ("instances", "count"):
        if isinstance(one.detail.get(name), int):
            return int(one.detail[name])
    return 1 if one.detail.get("sop") else None


def _uids(one: Occurrence) -> Sequence[str]:
    hidden = one.detail.get("hidden")
    if isinstance(hidden, list):
        return [str(uid) for uid in hidden]
    sop = one.detail.get("sop")
    return [sop] if isinstance(sop, str) else []


def _text(value: Any) -> str:
    if value is None:
        return ""
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
