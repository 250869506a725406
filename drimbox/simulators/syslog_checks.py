"""What a strict audit record repository checks of one syslog message: header, XML, and the event's own table.

Written from RFC 5424 and PS3.15 A.5.1.1 (schema) and A.5.3 (messages); shares nothing with the sender. Each check that
fails is one text; a sound message has none.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from lxml import etree

LARGEST = 32_768
_STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,6})?(?:Z|[+-]\d\d:\d\d)"
_HEADER = re.compile(
    rb"<(?P<pri>\d{1,3})>1 (?P<stamp>\S+) (?P<host>[!-~]{1,255}) (?P<app>[!-~]{1,48}) (?P<process>[!-~]{1,128})"
    rb" (?P<id>[!-~]{1,32}) (?P<data>\S+)(?: (?P<text>.*))?",
    re.DOTALL,
)
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Shape:
    """One element of the schema: required and optional attributes, children as a pattern over their names."""

    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    children: str = ""


_CODED = Shape(("csd-code", "codeSystemName", "originalText"), ("displayName",))
SHAPES: Mapping[str, Shape] = {
    "AuditMessage": Shape(
        children="EventIdentification (ActiveParticipant )+AuditSourceIdentification "
        "(ParticipantObjectIdentification )*"
    ),
    "EventIdentification": Shape(
        ("EventDateTime", "EventOutcomeIndicator"),
        ("EventActionCode",),
        "EventID (EventTypeCode )*(EventOutcomeDescription )?",
    ),
    "EventOutcomeDescription": Shape(),
    "ActiveParticipant": Shape(
        ("UserID", "UserIsRequestor"),
        ("AlternativeUserID", "UserName", "NetworkAccessPointID", "NetworkAccessPointTypeCode"),
        "(RoleIDCode )*(MediaIdentifier )?",
    ),
    "MediaIdentifier": Shape(children="MediaType "),
    "AuditSourceIdentification": Shape(
        ("AuditSourceID",), ("AuditEnterpriseSiteID",), "(AuditSourceTypeCode )*"
    ),
    "AuditSourceTypeCode": Shape(("csd-code",), ("codeSystemName", "displayName", "originalText")),
    "ParticipantObjectIdentification": Shape(
        ("ParticipantObjectID",),
        (
            "ParticipantObjectTypeCode",
            "ParticipantObjectTypeCodeRole",
            "ParticipantObjectDataLifeCycle",
            "ParticipantObjectSensitivity",
        ),
        "ParticipantObjectIDTypeCode (ParticipantObjectName |ParticipantObjectQuery )"
        "(ParticipantObjectDetail )*(ParticipantObjectDescription )*",
    ),
    "ParticipantObjectName": Shape(),
    "ParticipantObjectQuery": Shape(),
    "ParticipantObjectDetail": Shape(("type", "value")),
    "ParticipantObjectDescription": Shape(
        children="(MPPS )*(Accession )*(SOPClass )*(ParticipantObjectContainsStudy )?(Encrypted )?(Anonymized )?"
    ),
    "SOPClass": Shape(("NumberOfInstances",), ("UID",), "(Instance )*"),
    "Instance": Shape(("UID",)),
} | dict.fromkeys(
    ("EventID", "EventTypeCode", "RoleIDCode", "MediaType", "ParticipantObjectIDTypeCode"), _CODED
)
_NUMBERS = "|".join(str(number) for number in range(1, 27))
VALUES: Mapping[str, str] = {
    "EventActionCode": "[CRUDE]",
    "EventDateTime": _STAMP,
    "EventOutcomeIndicator": "0|4|8|12",
    "UserID": ".+",
    "UserIsRequestor": "true|false",
    "NetworkAccessPointID": ".+",
    "NetworkAccessPointTypeCode": "[1-5]",
    "ParticipantObjectID": ".+",
    "ParticipantObjectTypeCode": "[1-4]",
    "ParticipantObjectTypeCodeRole": _NUMBERS,
    "AuditSourceID": ".+",
    "NumberOfInstances": "[0-9]+",
    "UID": r"[0-2](\.(0|[1-9][0-9]*))+",
    "csd-code": ".+",
    "codeSystemName": ".+",
    "originalText": ".+",
}


@dataclass(frozen=True)
class Table:
    """One message of A.5.3: actions, roles that must take part once, objects that must be named."""

    actions: str
    roles: tuple[str, ...] = ()
    types: str = ".*"
    patient: bool = False
    study: bool = False


_ALERTS = "11012[6-9]|11013[0-9]|11014[0-2]"  # CID 403
TABLES: Mapping[str, Table] = {
    "110103": Table("[CRUD]", patient=True, study=True),
    "110104": Table("[CRU]", ("110152", "110153"), patient=True, study=True),
    "110105": Table("D", patient=True, study=True),
    "110106": Table("R", ("110153",), patient=True),
    "110107": Table("C", ("110155",), patient=True),
    "110113": Table("E", types=_ALERTS),
}


@dataclass(frozen=True)
class Checked:
    """A message as it was understood, and everything that is wrong with it."""

    raw: bytes
    message_id: str = ""
    event: str = ""
    types: tuple[str, ...] = ()
    action: str = ""
    outcome: str = ""
    participants: tuple[Mapping[str, str], ...] = ()
    objects: tuple[Mapping[str, str], ...] = ()
    details: Mapping[str, str] = field(default_factory=dict)
    instances: int | None = None
    faults: tuple[str, ...] = ()


def check(raw: bytes) -> Checked:
    """Read and check one SYSLOG-MSG; never raises for what it holds."""
    header = _HEADER.fullmatch(raw)
    if header is None:
        return Checked(raw, faults=("not a message of RFC 5424",))
    faults = list(_header_faults(header))
    text = (header["text"] or b"").removeprefix(_BOM)
    message_id = header["id"].decode("ascii")
    try:
        root = _parse(text)
    except ValueError as error:
        return Checked(raw, message_id, faults=(*faults, str(error)))
    faults += (fault for element in root.iter() for fault in _element_faults(element))
    if not faults:
        faults += _event_faults(root)
    return _understood(raw, message_id, root, tuple(faults))


def _header_faults(header: re.Match[bytes]) -> Iterator[str]:
    text = header["text"] or b""
    if header["pri"] != b"85":
        yield "PRI is not facility 10, severity 5 (A.6)"
    if not re.fullmatch(_STAMP, header["stamp"].decode("ascii", "replace")):
        yield "TIMESTAMP is not that of RFC 5424 6.2.3"
    if header["id"] not in (b"DICOM+RFC3881", b"IHE+RFC-3881"):
        yield "MSGID is not that of an audit message"
    if header["data"] != b"-":
        yield "STRUCTURED-DATA is not nil"
    if not text.startswith(_BOM):
        yield "MSG does not begin with the BOM (RFC 5424 6.4)"
    if len(text) > LARGEST + len(_BOM):
        yield f"MSG is longer than {LARGEST} octets (A.6)"


def _parse(text: bytes) -> etree._Element:
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)
    try:
        root = etree.fromstring(text, parser)
    except etree.XMLSyntaxError as error:
        raise ValueError("MSG is not XML") from error
    if b"<!DOCTYPE" in text:
        raise ValueError("a DOCTYPE is not taken")
    if root.tag != "AuditMessage":
        raise ValueError("the root is not AuditMessage")
    return root


def _element_faults(element: etree._Element) -> Iterator[str]:
    name = str(element.tag)
    shape = SHAPES.get(name)
    if shape is None:
        yield f"{name} is not in the schema"
        return
    attributes = set(map(str, element.keys()))
    yield from (f"{name}@{one} is missing" for one in sorted(set(shape.required) - attributes))
    yield from (
        f"{name}@{one} is not in the schema"
        for one in sorted(attributes - set(shape.required) - set(shape.optional))
    )
    children = "".join(str(child.tag) + " " for child in element)
    if not re.fullmatch(shape.children, children):
        yield f"the children of {name} are not those of the schema: {children or 'none'}"
    for key, value in ((str(key), str(value)) for key, value in element.items()):
        if key in VALUES and not re.fullmatch(VALUES[key], value):
            yield f"{name}@{key} has no value of the schema"
    if name == "EventIdentification":
        yield from _instant_faults(element.get("EventDateTime", ""))
    if name == "ParticipantObjectDetail":
        yield from _base64_faults(element.get("value", ""))


def _instant_faults(value: str) -> Iterator[str]:
    try:
        datetime.fromisoformat(value)
    except ValueError:
        yield "EventDateTime is no instant"


def _base64_faults(value: str) -> Iterator[str]:
    try:
        base64.b64decode(value, validate=True)
    except ValueError:
        yield "ParticipantObjectDetail@value is not base64"


def _event_faults(root: etree._Element) -> Iterator[str]:
    event = root.find("EventIdentification/EventID")
    code = "" if event is None else str(event.get("csd-code"))
    table = TABLES.get(code)
    if table is None or event is None or event.get("codeSystemName") != "DCM":
        yield f"EventID {code} is none that is known here"
        return
    if sum(one.get("UserIsRequestor") == "true" for one in root.iter("ActiveParticipant")) > 1:
        yield "more than one requestor (A.5.2)"
    if not re.fullmatch(table.actions, _of(root, "EventIdentification", "EventActionCode")):
        yield f"EventActionCode is not one of {code}"
    types = [str(one.get("csd-code")) for one in root.iter("EventTypeCode")]
    if table.types != ".*" and not any(re.fullmatch(table.types, one) for one in types):
        yield f"EventTypeCode is not one of {code}"
    roles = [str(one.get("csd-code")) for one in root.iter("RoleIDCode")]
    yield from (
        f"{role} takes part {roles.count(role)} times" for role in table.roles if roles.count(role) != 1
    )
    yield from _object_faults(root, table, code)


def _object_faults(root: etree._Element, table: Table, code: str) -> Iterator[str]:
    kinds = [str(one.get("csd-code")) for one in root.iter("ParticipantObjectIDTypeCode")]
    if table.patient and kinds.count("2") != 1:
        yield "no patient, or several"
    if table.study and "110180" not in kinds:
        yield "no study"
    for medium in root.iterfind("ActiveParticipant/RoleIDCode[@csd-code='110155']"):
        parent = medium.getparent()
        if parent is None or parent.find("MediaIdentifier/MediaType") is None:
            yield "a medium without its type"
    for one in root.iter("ParticipantObjectIdentification"):
        described = any(detail.get("type") == "Alert Description" for detail in one)
        if code == "110113" and not described:
            yield "an alert without its description"


def _understood(raw: bytes, message_id: str, root: etree._Element, faults: tuple[str, ...]) -> Checked:
    details = {
        str(one.get("type")): base64.b64decode(str(one.get("value", ""))).decode("utf-8", "replace")
        for one in root.iter("ParticipantObjectDetail")
        if not list(_base64_faults(str(one.get("value", ""))))
    }
    counted = [str(one.get("NumberOfInstances")) for one in root.iter("SOPClass")]
    counts = [int(count) for count in counted if re.fullmatch("[0-9]{1,9}", count)]
    return Checked(
        raw,
        message_id,
        _of(root, "EventIdentification/EventID", "csd-code"),
        tuple(str(one.get("csd-code")) for one in root.iter("EventTypeCode")),
        _of(root, "EventIdentification", "EventActionCode"),
        _of(root, "EventIdentification", "EventOutcomeIndicator"),
        tuple(_flat(one, "RoleIDCode") for one in root.iter("ActiveParticipant")),
        tuple(
            _flat(one, "ParticipantObjectIDTypeCode") for one in root.iter("ParticipantObjectIdentification")
        ),
        details,
        sum(counts) if counts else None,
        faults,
    )


def _flat(element: etree._Element, coded: str) -> Mapping[str, str]:
    return {str(name): str(value) for name, value in element.items()} | {
        coded: _of(element, coded, "csd-code")
    }


def _of(root: etree._Element, path: str, attribute: str) -> str:
    found = root.find(path)
    return "" if found is None else str(found.get(attribute, ""))
