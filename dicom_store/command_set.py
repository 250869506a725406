"""DIMSE command sets (PS3.7 6.3.1, E.1): implicit VR little endian elements of group 0000, by struct."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from enum import IntEnum
from typing import Any

COMMAND_BYTES = 64 * 1024  # of a command set: far more than any has
NO_DATA_SET = 0x0101  # CommandDataSetType (PS3.7 E.1)
DATA_SET = 0x0000  # any other value
RESPONSE = 0x8000  # bit of CommandField
ERROR_COMMENT_CHARACTERS = 64  # LO (PS3.7 C.4.2)

_HEADER = struct.Struct("<HHL")
_SHORT = struct.Struct("<H")
_LONG = struct.Struct("<L")


class CommandField(IntEnum):
    """CommandField of the requests (PS3.7 E.1); a response has the bit `RESPONSE` too."""

    C_STORE = 0x0001
    C_GET = 0x0010
    C_FIND = 0x0020
    C_MOVE = 0x0021
    C_ECHO = 0x0030
    N_EVENT_REPORT = 0x0100
    N_GET = 0x0110
    N_SET = 0x0120
    N_ACTION = 0x0130
    N_CREATE = 0x0140
    N_DELETE = 0x0150
    C_CANCEL = 0x0FFF


class Status(IntEnum):
    """Statuses that any service may answer (PS3.7 C)."""

    SUCCESS = 0x0000
    PROCESSING_FAILURE = 0x0110
    SOP_CLASS_NOT_SUPPORTED = 0x0122
    UNRECOGNIZED_OPERATION = 0x0211
    RESOURCE_LIMITATION = 0x0213


# Element of group 0000 → keyword, VR (PS3.7 E.1).
ELEMENTS: Mapping[int, tuple[str, str]] = {
    0x0000: ("CommandGroupLength", "UL"),
    0x0002: ("AffectedSOPClassUID", "UI"),
    0x0003: ("RequestedSOPClassUID", "UI"),
    0x0100: ("CommandField", "US"),
    0x0110: ("MessageID", "US"),
    0x0120: ("MessageIDBeingRespondedTo", "US"),
    0x0600: ("MoveDestination", "AE"),
    0x0700: ("Priority", "US"),
    0x0800: ("CommandDataSetType", "US"),
    0x0900: ("Status", "US"),
    0x0901: ("OffendingElement", "AT"),
    0x0902: ("ErrorComment", "LO"),
    0x0903: ("ErrorID", "US"),
    0x1000: ("AffectedSOPInstanceUID", "UI"),
    0x1001: ("RequestedSOPInstanceUID", "UI"),
    0x1002: ("EventTypeID", "US"),
    0x1005: ("AttributeIdentifierList", "AT"),
    0x1008: ("ActionTypeID", "US"),
    0x1020: ("NumberOfRemainingSuboperations", "US"),
    0x1021: ("NumberOfCompletedSuboperations", "US"),
    0x1022: ("NumberOfFailedSuboperations", "US"),
    0x1023: ("NumberOfWarningSuboperations", "US"),
    0x1030: ("MoveOriginatorApplicationEntityTitle", "AE"),
    0x1031: ("MoveOriginatorMessageID", "US"),
}
_TAGS = {keyword: (element, vr) for element, (keyword, vr) in ELEMENTS.items()}


class CommandSetInvalid(Exception):
    """Bytes that are no command set; the text never quotes them."""


def decode(encoded: bytes | bytearray) -> dict[str, Any]:
    """Elements by keyword: integers, text without padding, tags as lists of integers; unknown ones are skipped.

    An element without value is as if absent. Raises `CommandSetInvalid`: another group, an element twice, a length
    beyond the end or not that of its VR, no CommandField, no CommandDataSetType, no message ID where one is due.
    """
    elements: dict[str, Any] = {}
    at, end = 0, len(encoded)
    while at < end:
        if end - at < _HEADER.size:
            raise CommandSetInvalid("a command element is cut")
        group, element, length = _HEADER.unpack_from(encoded, at)
        at += _HEADER.size
        if group or length > end - at:
            raise CommandSetInvalid("a command element of another group, or longer than its command set")
        known = ELEMENTS.get(element)
        if known is not None and length:
            keyword, vr = known
            if keyword in elements:
                raise CommandSetInvalid(f"{keyword} twice")
            elements[keyword] = _value(keyword, vr, encoded[at : at + length])
        at += length
    _require_frame(elements)
    return elements


def _value(keyword: str, vr: str, raw: bytes | bytearray) -> Any:
    if vr == "US" and len(raw) == 2:
        return _SHORT.unpack(raw)[0]
    if vr in ("UI", "LO", "AE"):
        return raw.decode("ascii", "replace").strip("\0 ")
    if vr == "UL" and len(raw) == 4:
        return _LONG.unpack(raw)[0]
    if vr == "AT" and len(raw) % 4 == 0:
        pairs = struct.iter_unpack("<HH", raw)
        return [group << 16 | element for group, element in pairs]
    raise CommandSetInvalid(f"{keyword} has not the length of its VR")


def _require_frame(elements: Mapping[str, Any]) -> None:
    field = elements.get("CommandField")
    if field is None or "CommandDataSetType" not in elements:
        raise CommandSetInvalid("CommandField or CommandDataSetType is missing")
    answers = field & RESPONSE or field == CommandField.C_CANCEL
    if ("MessageIDBeingRespondedTo" if answers else "MessageID") not in elements:
        raise CommandSetInvalid("the message ID is missing")


def encode(elements: Mapping[str, Any]) -> bytes:
    """A command set with its group length, in ascending order. `elements`: values as `decode` gives them."""
    rows = sorted((*_TAGS[keyword], value) for keyword, value in elements.items())
    parts = [_element(element, vr, value) for element, vr, value in rows if element]
    body = b"".join(parts)
    return _element(0x0000, "UL", len(body)) + body


def _element(element: int, vr: str, value: Any) -> bytes:
    if vr == "US":
        raw = _SHORT.pack(value)
    elif vr == "UL":
        raw = _LONG.pack(value)
    elif vr == "AT":
        raw = b"".join(struct.pack("<HH", tag >> 16, tag & 0xFFFF) for tag in value)
    else:
        raw = str(value).encode("ascii", "replace")
        raw += (b"\0" if vr == "UI" else b" ") * (len(raw) % 2)
    return _HEADER.pack(0, element, len(raw)) + raw


def has_data_set(elements: Mapping[str, Any]) -> bool:
    """Whether a data set follows (CommandDataSetType, PS3.7 E.1)."""
    return bool(elements["CommandDataSetType"] != NO_DATA_SET)


def response(request: Mapping[str, Any], status: int, comment: str = "") -> dict[str, Any]:
    """What every response says (PS3.7 9.3, 10.3), and the affected UIDs when the request named them.

    `comment`: ErrorComment, cut to its 64 characters; none when empty.
    """
    elements: dict[str, Any] = {
        "CommandField": request["CommandField"] | RESPONSE,
        "MessageIDBeingRespondedTo": request["MessageID"],
        "CommandDataSetType": NO_DATA_SET,
        "Status": status,
    }
    for keyword in ("AffectedSOPClassUID", "AffectedSOPInstanceUID"):
        if keyword in request:
            elements[keyword] = request[keyword]
    if comment:
        elements["ErrorComment"] = error_comment(comment)
    return elements


def error_comment(reason: str) -> str:
    """A reason as ErrorComment may hold it: ASCII, 64 characters at most (PS3.7 C.4.2)."""
    return reason.encode("ascii", "replace").decode("ascii")[:ERROR_COMMENT_CHARACTERS]
