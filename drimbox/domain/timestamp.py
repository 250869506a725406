"""HL7 TS to an aware instant: offset given wins, else the configured zone (cda-and-xds 3.5 and section 6)."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo

from drimbox.domain.report import Timestamp

_TS = re.compile(
    r"(?P<digits>[0-9]{4}(?:[0-9]{2}){0,5})"
    r"(?:\.(?P<fraction>[0-9]{1,9}))?"
    r"(?P<offset>Z|[+-][0-9]{2}(?::?[0-9]{2})?)?"
)
_FULL = 14  # digits of YYYYMMDDhhmmss
_EARLIEST = "00000101000000"  # what partial precision stands for: its first instant


class InvalidTimestamp(ValueError):
    """The text is not an HL7 TS; the message does not repeat it."""


def parse_timestamp(value: str, time_zone: str) -> Timestamp:
    """Read `YYYY[MM[DD[hh[mm[ss[.f]]]]]][+hhmm]`; `time_zone` is an IANA name, used when no offset is given.

    `digits` keeps the precision as written; `at` is the first instant of that precision, microseconds kept.
    Raises `InvalidTimestamp`.
    """
    match = _TS.fullmatch(value.strip())
    if match is None:
        raise InvalidTimestamp("not an HL7 timestamp")
    digits, fraction = match["digits"], match["fraction"] or ""
    if fraction and len(digits) != _FULL:
        raise InvalidTimestamp("a fraction without seconds")
    zone = _offset(match["offset"]) if match["offset"] else ZoneInfo(time_zone)
    try:
        moment = datetime.strptime(digits + _EARLIEST[len(digits) :], "%Y%m%d%H%M%S")  # noqa: DTZ007 zone below
    except ValueError as error:
        raise InvalidTimestamp("no such date or time") from error
    return Timestamp(digits, moment.replace(microsecond=int(f"{fraction:0<6}"[:6]), tzinfo=zone))


def _offset(text: str) -> tzinfo:
    if text == "Z":
        return timezone.utc  # noqa: UP017 same object, one name for both branches
    hours, minutes = int(text[1:3]), int(text[3:].removeprefix(":") or 0)
    if hours > 14 or minutes > 59:
        raise InvalidTimestamp("no such offset from UTC")
    sign = -1 if text[0] == "-" else 1
    return timezone(sign * timedelta(hours=hours, minutes=minutes))
