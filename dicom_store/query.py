"""A search as values: query parameters in; what to match, to return and to warn of, out (PS3.18 8.3.4, 10.6.1). Pure.

Matching as PS3.4 C.2.2.2: single value, lists of UIDs (also of codes), wildcards, ranges of dates and times,
universal. Wildcards and names take no notice of case. An attribute that is not matched here is ignored, with a
warning: PS3.4 C.2.2.1.3 treats it as universal matching. A parameter that is none, or a value that is malformed,
refuses the whole search, with every fault.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pydicom.datadict import dictionary_has_tag, keyword_for_tag, tag_for_keyword

from dicom_store.query_attributes import GIVEN, KEPT, Attribute, Level, level_of
from dicom_store.query_values import CONDITIONS, Condition
from dicom_store.status import HttpRefusal

# Results of one answer at most. With extras, every result costs the reading of an instance's DICOM JSON.
MOST: Mapping[Level, int] = {Level.STUDY: 1000, Level.SERIES: 1000, Level.INSTANCE: 5000}
MOST_WITH_EXTRAS = 500
_MAX_FIELDS = 256  # asked beside those of the table
_MAX_PATH = 8  # attributes in a dotted path
_MAX_FAULTS = 8  # told in a refusal

_TAG = re.compile(r"[0-9A-Fa-f]{8}")
_NAME = re.compile(r"[A-Za-z0-9.]{1,200}")
_UNSIGNED = re.compile(r"[0-9]{1,9}", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

_EMPTY = "The emptyvaluematching parameter is not supported. Empty Value Matching has not been performed."
_FUZZY = "The fuzzymatching parameter is not supported. Only literal matching has been performed."
_MULTIPLE = (
    "The multiplevaluematching parameter is not supported. Multiple Value Matching has not been performed."
)
# Options that are accepted and not done (8.3.4.2, 8.3.4.5, 8.3.4.6).
_NOT_DONE: Mapping[str, str] = {
    "fuzzymatching": _FUZZY,
    "emptyvaluematching": _EMPTY,
    "multiplevaluematching": _MULTIPLE,
}
_ELSEWHERE = frozenset({"accept", "charset"})  # 8.3.3: read by negotiation; charset: JSON is UTF-8
CUT = (
    "The number of results exceeded the maximum supported by the server. Additional results can be requested."
)


@dataclass(frozen=True, slots=True)
class Match:
    """An attribute fulfils one of these conditions."""

    attribute: Attribute
    any_of: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Query:
    """A search. `study`, `series`: of the path; `returned`: in the order of tags; `extras`: tags of an instance's JSON.

    `capped`: `limit` is ours, not the client's; `warnings`: texts for the Warning header.
    """

    level: Level
    study: str | None
    series: str | None
    matches: tuple[Match, ...]
    returned: tuple[Attribute, ...]
    extras: tuple[int, ...]
    limit: int
    offset: int
    capped: bool
    warnings: tuple[str, ...]


@dataclass(slots=True)
class _Reading:
    """What was read of the parameters so far. `fields`: attributes asked, by tag."""

    matches: list[Match] = field(default_factory=list)
    fields: dict[int, None] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    numbers: dict[str, int] = field(default_factory=dict)
    everything: bool = False


def read_query(
    level: Level, study: str | None, series: str | None, parameters: Sequence[tuple[str, str]]
) -> Query:
    """Read the parameters of a search. Raises `HttpRefusal` 400 with every fault, by name and without values."""
    reading, faults, seen = _Reading(), list[str](), set[str]()
    for name, value in parameters:
        try:
            if name in seen and name != "includefield" and name not in _ELSEWHERE:
                raise ValueError("given twice")
            seen.add(name)
            _READERS.get(name, _read_match)(reading, name, value)
        except ValueError as error:
            faults.append(f"{_shown(name)}: {error}")
    if faults:
        detail = f"The search cannot be done: {'; '.join(faults[:_MAX_FAULTS])}."
        raise HttpRefusal(400, "query-invalid", "Bad request", detail)
    return _query(level, study, series, reading)


def _query(level: Level, study: str | None, series: str | None, reading: _Reading) -> Query:
    within = {Level.STUDY: study, Level.SERIES: series, Level.INSTANCE: None}
    usable = [match for match in reading.matches if match.attribute.level <= level]
    below = [match.attribute.keyword for match in reading.matches if match.attribute.level > level]
    extras = tuple(
        sorted(t for t in reading.fields if t not in KEPT and t not in GIVEN and level_of(t) <= level)
    )
    most = min(MOST[level], MOST_WITH_EXTRAS) if extras else MOST[level]
    limit = reading.numbers.get("limit", most)
    ignored = [*reading.ignored, *below]
    texts = [f"Not matched here, and ignored: {', '.join(dict.fromkeys(ignored))}."] if ignored else []
    return Query(
        level,
        study,
        series,
        tuple(usable),
        tuple(_returned(level, within, reading)),
        extras,
        min(limit, most),
        reading.numbers.get("offset", 0),
        limit > most or "limit" not in reading.numbers,
        (*reading.warnings, *texts),
    )


def _returned(level: Level, within: Mapping[Level, str | None], reading: _Reading) -> Iterator[Attribute]:
    """The attributes of the level; of those above it where the path does not say which they are; those asked."""
    for tag in sorted(KEPT):
        row = KEPT[tag]
        unique = row.vr == "UI" and row.tag in (0x0020000D, 0x0020000E)
        given = row.level == level or unique or within[row.level] is None
        asked = tag in reading.fields or reading.everything
        if row.level <= level and (asked or (given and not row.asked_only)):
            yield row


# --- one parameter -------------------------------------------------------------------------------------------------


def _read_number(reading: _Reading, name: str, value: str) -> None:
    if not _UNSIGNED.fullmatch(value):
        raise ValueError("not a number of results")
    reading.numbers[name] = int(value)


def _read_option(reading: _Reading, name: str, value: str) -> None:
    if value not in ("true", "false"):
        raise ValueError("neither true nor false")
    if value == "true":
        reading.warnings.append(_NOT_DONE[name])


def _read_fields(reading: _Reading, _name: str, value: str) -> None:
    for text in value.split(","):
        if text == "all":
            reading.everything = True
        elif text:
            tag = _path(text)[0]
            reading.fields[tag] = None
            if tag >> 16 & 1 and tag & 0xFF00:  # with its private creator (PS3.18 10.6.3.3)
                reading.fields[tag & 0xFFFF0000 | tag >> 8 & 0xFF] = None
    if len(reading.fields) > _MAX_FIELDS:
        raise ValueError(f"more than {_MAX_FIELDS} attributes")


def _read_elsewhere(_reading: _Reading, _name: str, _value: str) -> None:
    """Not a matter of the search."""


_READERS: Mapping[str, Callable[[_Reading, str, str], None]] = {
    "limit": _read_number,
    "offset": _read_number,
    "includefield": _read_fields,
    **dict.fromkeys(_NOT_DONE, _read_option),
    **dict.fromkeys(_ELSEWHERE, _read_elsewhere),
}


def _read_match(reading: _Reading, name: str, value: str) -> None:
    tags = _path(name)
    if _CONTROL.search(value):
        raise ValueError("control characters")
    row = KEPT.get(tags[0])
    if len(tags) > 1 or row is None or not row.matched:
        if not _is_universal(value):
            reading.ignored.append(".".join(keyword_for_tag(tag) or f"{tag:08X}" for tag in tags))
        reading.fields[tags[0]] = None
        return
    reading.fields[row.tag] = None
    if _is_universal(value):
        return
    conditions = tuple(CONDITIONS[row.vr](value))
    if any(match.attribute is row for match in reading.matches):
        raise ValueError("given twice")
    reading.matches.append(Match(row, conditions))


def _is_universal(value: str) -> bool:
    """PS3.4 C.2.2.2.3; also of wildcards alone: they match what is empty too."""
    return not value.strip("* ")


def _path(name: str) -> tuple[int, ...]:
    """Tags of an attribute, or of a dotted path into sequences. Raises ValueError for what is no attribute."""
    words = name.split(".")
    if not _NAME.fullmatch(name) or len(words) > _MAX_PATH:
        raise ValueError("not a parameter, nor an attribute")
    return tuple(_tag(word) for word in words)


def _tag(word: str) -> int:
    tag = int(word, 16) if _TAG.fullmatch(word) else tag_for_keyword(word)
    private = tag is not None and tag >> 16 & 1 and tag >> 16 > 8
    if not word or tag is None or not (private or dictionary_has_tag(tag)):  # retired rows have no keyword
        raise ValueError("not a parameter, nor an attribute")
    return int(tag)


def _shown(name: str) -> str:
    """A parameter name as it may be repeated in a refusal."""
    return "a name that is none" if not _NAME.fullmatch(name) else name[:64]
