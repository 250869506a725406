"""Values of match parameters → conditions, by VR (PS3.4 C.2.2.2). Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from dicom_store.paths import InvalidUID, check_uid

_MAX_VALUES = 1000  # of one list
_MAX_PATTERNS = 32  # with wildcards, of one list: each is tried on every row
_MAX_CHARACTERS = 1024  # of a value that is no list

_INTEGER = re.compile(r"[+-]?[0-9]{1,10}", re.ASCII)
_DATE = re.compile(r"[0-9]{8}", re.ASCII)
_TIME = re.compile(r"[0-9]{2}(?:[0-9]{2}(?:[0-9]{2}(?:\.[0-9]{1,6})?)?)?", re.ASCII)
_LIST = re.compile(r"[,\\]")
_LATEST = "235959.999999"


@dataclass(frozen=True, slots=True)
class OneOf:
    """Equal to one of these."""

    values: tuple[str, ...] | tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Like:
    """Wildcards `*` and `?`, whatever the case. `name`: a person name, of which any component group may match."""

    pattern: str
    name: bool


@dataclass(frozen=True, slots=True)
class Between:
    """From `first` to `last`, both included; "" = open."""

    first: str
    last: str


Condition = OneOf | Like | Between


def _uids(value: str) -> Iterator[Condition]:
    values = tuple(text.strip() for text in _LIST.split(value))
    try:
        yield OneOf(tuple(check_uid(text) for text in _bounded(values)))
    except InvalidUID as error:
        raise ValueError("not a UID") from error


def _codes(value: str) -> Iterator[Condition]:
    """One condition for all values without wildcards: an engine takes only so many beside each other."""
    texts = [text for one in _bounded(tuple(_LIST.split(value))) if (text := _short(one).strip())]
    patterns = [text for text in texts if _is_pattern(text)]
    if not texts or len(patterns) > _MAX_PATTERNS:
        raise ValueError("no value" if not texts else f"more than {_MAX_PATTERNS} values with wildcards")
    plain = tuple(text for text in texts if not _is_pattern(text))
    if plain:
        yield OneOf(plain)
    yield from (Like(pattern, False) for pattern in patterns)


def _text(value: str) -> Iterator[Condition]:
    value = _short(value).strip()
    yield Like(value, False) if _is_pattern(value) else OneOf((value,))


def _is_pattern(text: str) -> bool:
    return "*" in text or "?" in text


def _name(value: str) -> Iterator[Condition]:
    yield Like(_short(value).strip().rstrip("^"), True)


def _dates(value: str) -> Iterator[Condition]:
    first, last = _range(value, _DATE, "not a date YYYYMMDD, nor a range of dates")
    yield Between(first, last)


def _times(value: str) -> Iterator[Condition]:
    """A time of less precision stands for all that it covers."""
    first, last = _range(value, _TIME, "not a time HHMMSS.FFFFFF, nor a range of times")
    yield Between(first, last and last + _LATEST[len(last) :])


def _range(value: str, one: re.Pattern[str], fault: str) -> tuple[str, str]:
    first, dash, last = _short(value).strip().partition("-")
    first, last = first.strip(), last.strip()
    if not dash:
        last = first
    if not (first or last) or not all(one.fullmatch(end) for end in (first, last) if end):
        raise ValueError(fault)
    return first, last


def _number(value: str) -> Iterator[Condition]:
    text = value.strip()
    if not _INTEGER.fullmatch(text) or not -(1 << 31) <= int(text) < 1 << 31:
        raise ValueError("not a whole number")
    yield OneOf((int(text),))


def _bounded(values: tuple[str, ...]) -> tuple[str, ...]:
    if len(values) > _MAX_VALUES:
        raise ValueError(f"more than {_MAX_VALUES} values")
    return values


def _short(value: str) -> str:
    if len(value) > _MAX_CHARACTERS:
        raise ValueError(f"longer than {_MAX_CHARACTERS} characters")
    return value


# Each raises ValueError for what is malformed.
CONDITIONS: Mapping[str, Callable[[str], Iterator[Condition]]] = {
    "UI": _uids,
    "CS": _codes,
    "LO": _text,
    "SH": _text,
    "PN": _name,
    "DA": _dates,
    "TM": _times,
    "IS": _number,
    "US": _number,
}
