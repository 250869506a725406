"""What a strict RIS checks in a business acknowledgement (ZAM^Z01): its own parser, one row per field, its answer.

Sources: hl7-mss 1.3, 1.5 and 1.8. A message is taken only when no check fails.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime

_ORDER = re.compile(r"MSH (?:SFT )?EVN OBX (?:ERR )?")  # Z01: one OBX, no X.400 address
_NAME, _TEXT = r".{1,180}", r".{1,199}"
_INSTANT = r"[12]\d{3}(0[1-9]|1[0-2])([0-2]\d|3[01])([01]\d|2[0-3])[0-5]\d[0-5]\d([+-]\d{4})?"
_ESCAPES = {"F": "|", "S": "^", "T": "&", "R": "~", "E": "\\"}


@dataclass(frozen=True)
class Check:
    """A component that must match; `error`: code of table 0357 when it does not; `negative`: only when N."""

    place: str  # SEG-field.component
    pattern: str
    error: int = 103
    negative: bool = False


CHECKS = (
    Check("MSH-2.1", r"\^~\\&", 102),
    *(Check(f"MSH-{field}.1", _NAME, 101) for field in (3, 4, 5, 6)),
    Check("MSH-7.1", _INSTANT, 102),
    Check("MSH-9.1", "ZAM", 200),
    Check("MSH-9.2", "Z01", 201),
    Check("MSH-9.3", "ZAM_Z01", 201),
    Check("MSH-10.1", r"[!-~]{1,20}", 101),
    Check("MSH-11.1", "[PTD]", 202),
    Check("MSH-12.1", r"2\.6", 203),
    Check("MSH-17.1", "FRA"),
    Check("MSH-18.1", "UNICODE UTF-8"),
    Check("MSH-21.1", r"2\.1"),
    Check("MSH-21.2", "CISIS_CDA_HL7_V2"),
    Check("EVN-2.1", _INSTANT, 102),
    Check("OBX-1.1", "1"),
    Check("OBX-2.1", "CWE"),
    Check("OBX-3.1", "ACK_RECEPTION_DMP"),
    Check("OBX-3.2", _TEXT, 101),
    Check("OBX-3.3", "AckMetierZAM"),
    Check("OBX-4.1", _TEXT, 101),
    Check("OBX-5.1", "[YN]"),
    Check("OBX-5.3", "expandedYes-NoIndicator|HL70136"),
    Check("OBX-11.1", "F"),
    Check("ERR-3.1", "207", negative=True),
    Check("ERR-3.3", "messageErrorCondition", negative=True),
    Check("ERR-4.1", "E", negative=True),
    Check("ERR-5.1", r"[\w.-]{1,64}", 101, negative=True),
    Check("ERR-5.3", "DMP_ERROR_CODE|applicationErrorCondition", negative=True),
    Check("ERR-8.1", _TEXT, 101, negative=True),
)


def read_message(message: bytes) -> dict[str, list[str]]:
    """Fields of the first segment of each name, numbered as HL7 does; what is no UTF-8 shows as U+FFFD."""
    read: dict[str, list[str]] = {}
    for line in message.decode("utf-8", "replace").split("\r"):
        fields = line.split("|")
        read.setdefault(fields[0], ["MSH", "|", *fields[1:]] if fields[0] == "MSH" else fields)
    return read


def at(read: dict[str, list[str]], place: str) -> str:
    """A component, escapes resolved, empty when absent; MSH-2 is whole."""
    segment, _, rest = place.partition("-")
    field, _, component = rest.partition(".")
    fields = read.get(segment, [])
    text = fields[int(field)] if int(field) < len(fields) else ""
    parts = [text] if place.startswith("MSH-2.") else text.split("^")
    found = parts[int(component) - 1] if int(component) <= len(parts) else ""
    if place.startswith("MSH-2."):
        return found
    return re.sub(r"\\([FSTRE])\\", lambda match: _ESCAPES[match[1]], found)


def faults_of(message: bytes, read: dict[str, list[str]]) -> tuple[str, ...]:
    text = message.decode("utf-8", "replace")
    names = [line[:3] for line in text.split("\r")[:-1]]
    whole = [] if text.endswith("\r") and "\n" not in text and "\ufffd" not in text else ["MSH-18.1 102"]
    if not _ORDER.fullmatch("".join(f"{name} " for name in names)) or max(Counter(names).values()) > 1:
        whole.append("MSH-0.0 100")
    negative = at(read, "OBX-5.1") == "N"
    if ("ERR" in read) != negative:
        whole.append("ERR-0.0 100")
    checks = [check for check in CHECKS if negative or not check.negative]
    return (
        *whole,
        *(
            f"{check.place} {check.error}"
            for check in checks
            if not re.fullmatch(check.pattern, at(read, check.place))
        ),
    )


def answer_to(read: dict[str, list[str]], code: str, faults: tuple[str, ...]) -> bytes:
    """ACK^Z01^ACK, sender and receiver swapped."""
    names = "|".join(read["MSH"][field] for field in (5, 6, 3, 4)) if len(read.get("MSH", [])) > 6 else "|||"
    now = datetime.now(UTC).strftime("%Y%m%d%H%M%S")
    segments = [
        f"MSH|^~\\&|{names}|{now}||ACK^Z01^ACK|RIS{now}|P|2.6|||||FRA|UNICODE UTF-8",
        f"MSA|{code}|{at(read, 'MSH-10.1')}",
    ]
    for fault in faults:
        place, _, error = fault.partition(" ")
        segment, _, field = place.partition(".")[0].partition("-")
        segments.append(f"ERR||{segment}^1^{field}|{error}^^messageErrorCondition|E")
    if code == "AR" and not faults:
        segments.append("ERR|||207^^messageErrorCondition|E")
    return "".join(f"{segment}\r" for segment in segments).encode("utf-8")
