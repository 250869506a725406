"""A DICOM Audit Message: what it says, and its XML (PS3.15 A.5.1, the schema; A.5.2, what each field holds).

Nothing that a peer says can break the document: every text is cut to a length, cleaned of what XML 1.0 has no
character for, and escaped by lxml. A message is at most 32 KiB (A.6: what every receiver takes): lists are left out
before it would be longer, their counts never.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from ipaddress import ip_address

from lxml import etree

LARGEST = 32_768  # octets of the XML (PS3.15 A.6)
LONGEST_NAME, LONGEST_TEXT = 128, 256  # octets of UTF-8 of an identity, of a description
MOST_INSTANCES, MOST_OBJECTS, MOST_DETAILS = 50, 20, 16
NOT_KNOWN = "<none>"  # of a mandatory identifier that is not known: no value that could be taken for one
_NO_CHARACTER = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0, 2.2
_OWN_MEANING = "4"  # AuditSourceTypeCode: application server process (A.5.1.2.1)


@dataclass(frozen=True, slots=True)
class Code:
    """A coded value: csd-code, codeSystemName, originalText (DICOM's Code Meaning)."""

    value: str
    scheme: str
    meaning: str


@dataclass(frozen=True, slots=True)
class AuditSource:
    """Who reports: the appliance, by the names that its logs and its peers know.

    `source_id`: AuditSourceID; `site_id`: AuditEnterpriseSiteID or empty; `host`: the one name or address of this
    node in every message (A.5.2.4); `ae_title`: ours.
    """

    source_id: str
    site_id: str
    host: str
    ae_title: str


@dataclass(frozen=True, slots=True)
class Participant:
    """Who took part (ActiveParticipant). `address`: name or IP address of its node; `media`: type of a medium."""

    user_id: str
    requestor: bool
    role: Code | None = None
    alternative_id: str = ""
    name: str = ""
    address: str = ""
    media: Code | None = None


@dataclass(frozen=True, slots=True)
class ParticipantObject:
    """What it was done to (ParticipantObjectIdentification).

    `kind`: 1 person, 2 system object; `role`: A.5.1.2.2; `details`: (type, value); `instances`: how many SOP
    instances, None = not said; `instance_uids`: which, when they are few.
    """

    id: str
    id_type: Code
    kind: str
    role: str
    name: str = ""
    details: tuple[tuple[str, str], ...] = ()
    instances: int | None = None
    instance_uids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AuditMessage:
    """One event. `types`: EventTypeCode; `outcome`: 0, 4, 8 or 12; `why`: EventOutcomeDescription or empty."""

    event: Code
    action: str
    types: tuple[Code, ...]
    at: datetime
    outcome: str
    why: str
    participants: tuple[Participant, ...]
    source: AuditSource
    objects: tuple[ParticipantObject, ...]


def to_xml(message: AuditMessage) -> bytes:
    """The message as UTF-8, without XML declaration, at most `LARGEST` octets."""
    without_uids = tuple(replace(one, instance_uids=()) for one in message.objects)
    without_details = tuple(replace(one, details=one.details[:2]) for one in without_uids)
    for objects in (message.objects, without_uids, without_details, without_details[:3]):
        root = _audit_message(replace(message, objects=objects))
        xml: bytes = etree.tostring(root, encoding="UTF-8", xml_declaration=False)
        if len(xml) <= LARGEST:
            return xml
    raise ValueError(f"an audit message of {len(xml)} octets")  # the limits of each text exclude it


def utc_stamp(at: datetime) -> str:
    """Date and time in UTC with milliseconds (A.5.2.5 asks for the zone; RFC 5424 6.2.3 takes the same form)."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _audit_message(message: AuditMessage) -> etree._Element:
    root = etree.Element("AuditMessage")
    event = _child(
        root,
        "EventIdentification",
        EventActionCode=message.action,
        EventDateTime=utc_stamp(message.at),
        EventOutcomeIndicator=message.outcome,
    )
    _coded(event, "EventID", message.event)
    for code in message.types:
        _coded(event, "EventTypeCode", code)
    if message.why:
        _child(event, "EventOutcomeDescription").text = _clean(message.why, LONGEST_TEXT)
    for participant in message.participants:
        _add_participant(root, participant)
    source = {"AuditEnterpriseSiteID": message.source.site_id} if message.source.site_id else {}
    reporter = _child(root, "AuditSourceIdentification", AuditSourceID=message.source.source_id, **source)
    _child(reporter, "AuditSourceTypeCode", **{"csd-code": _OWN_MEANING})
    for one in message.objects[:MOST_OBJECTS]:
        _add_object(root, one)
    return root


def _add_participant(root: etree._Element, participant: Participant) -> None:
    optional = {"AlternativeUserID": participant.alternative_id, "UserName": participant.name}
    if participant.address:
        optional["NetworkAccessPointID"] = participant.address
        optional["NetworkAccessPointTypeCode"] = "2" if _is_address(participant.address) else "1"
    element = _child(
        root,
        "ActiveParticipant",
        UserID=participant.user_id or NOT_KNOWN,
        UserIsRequestor="true" if participant.requestor else "false",
        **{name: value for name, value in optional.items() if value},
    )
    if participant.role is not None:
        _coded(element, "RoleIDCode", participant.role)
    if participant.media is not None:
        _coded(_child(element, "MediaIdentifier"), "MediaType", participant.media)


def _add_object(root: etree._Element, one: ParticipantObject) -> None:
    element = _child(
        root,
        "ParticipantObjectIdentification",
        ParticipantObjectID=one.id or NOT_KNOWN,
        ParticipantObjectTypeCode=one.kind,
        ParticipantObjectTypeCodeRole=one.role,
    )
    _coded(element, "ParticipantObjectIDTypeCode", one.id_type)
    _child(element, "ParticipantObjectName").text = _clean(one.name, LONGEST_NAME)
    for kind, value in one.details[:MOST_DETAILS]:
        encoded = b64encode(_clean(value, LONGEST_TEXT).encode("utf-8")).decode("ascii")
        _child(element, "ParticipantObjectDetail", type=kind, value=encoded)
    if one.instances is not None:
        _add_instances(element, one.instances, one.instance_uids)


def _add_instances(element: etree._Element, count: int, uids: Sequence[str]) -> None:
    """All instances are named, or none: a part of them would be taken for the whole."""
    description = _child(element, "ParticipantObjectDescription")
    instances = _child(description, "SOPClass", NumberOfInstances=str(count))
    if len(uids) <= MOST_INSTANCES:
        for uid in uids:
            _child(instances, "Instance", UID=uid)


def _coded(parent: etree._Element, name: str, code: Code) -> None:
    _child(
        parent,
        name,
        **{"csd-code": code.value, "codeSystemName": code.scheme, "originalText": code.meaning},
    )


def _child(parent: etree._Element, name: str, **attributes: str) -> etree._Element:
    limits = {"value": 2 * LONGEST_TEXT}  # base64 of a text that was cut already
    cleaned = {key: _clean(value, limits.get(key, LONGEST_NAME)) for key, value in attributes.items()}
    return etree.SubElement(parent, name, cleaned)


def _clean(text: str, longest: int) -> str:
    """An XML token of at most `longest` octets of UTF-8."""
    token = " ".join(_NO_CHARACTER.sub("\ufffd", text).split())
    octets = token.encode("utf-8")
    if len(octets) <= longest:
        return token
    return octets[: longest - 3].decode("utf-8", "ignore").rstrip() + "…"


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
