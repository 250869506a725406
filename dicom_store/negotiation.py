"""Accept header → media ranges → the quality of any representation (RFC 9110 12.5.1, PS3.18 8.7; drim-m-data 3.3).

The forms in use are read: one comma list with a trailing comma, repeated lines, elements without a media type,
single part and multipart, quoted or not. Parameters may follow `q`; `boundary` is a hint that no server heeds.
What is sent in answer is decided in `representation` and `frame_representation`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum
from functools import cached_property, lru_cache
from typing import Literal

from dicom_store.paths import InvalidUID, check_uid
from dicom_store.status import HttpRefusal
from dicom_store.transfer_syntax import DEFAULTS, DICOM, EXPLICIT_VR_LE

DEFAULT_TRANSFER_SYNTAX = EXPLICIT_VR_LE  # PS3.18 8.7.3: of instances, when none is named
AS_STORED = "*"

MAX_CHARACTERS = 64 * 1024  # of all Accept lines of a request
MAX_ELEMENTS = 256
_MAX_REMEMBERED = 4096  # characters of a header whose reading is kept
_ANYTHING = "*/*"

_QUALITY = re.compile(r"0?\.[0-9]+|0\.?|1(?:\.0*)?")
_MEDIA_TYPE = re.compile(r"(?:\*/\*|[\w!#$&^.+-]+/(?:\*|[\w!#$&^.+-]+))", re.ASCII)
# Runs without a separator outside quoted strings; a quote that never ends runs to the end. One pass, no way back.
_ELEMENTS = re.compile(r'(?:[^",]++|"(?:\\.|[^"\\])*+"?)++', re.DOTALL)
_PARTS = re.compile(r'(?:[^";]++|"(?:\\.|[^"\\])*+"?)++', re.DOTALL)
# Names of the first editions of WADO-RS, that viewers still send.
_ALIASES: Mapping[str, str] = {
    "*": _ANYTHING,
    "image/x-jls": "image/jls",
    "image/x-dicom-rle": "image/dicom-rle",
}
_KNOWN = ("type", "transfer-syntax", "q")


@dataclass(frozen=True, slots=True)
class ServingPolicy:
    """What is preferred among acceptable transfer syntaxes.

    `prefer`: "stored" sends as stored whatever is acceptable so, "quality" converts to the one the client likes
    best; `allow_lossy`: whether a client may have a lossy conversion by asking for it above all else.
    """

    prefer: Literal["stored", "quality"] = "stored"
    allow_lossy: bool = False


class Form(Enum):
    """How instances are put in an answer."""

    MULTIPART = 'multipart/related; type="application/dicom"'
    SINGLE = "application/dicom"


class Rank(IntEnum):
    """How closely a media range describes (RFC 9110 12.5.1): the highest that covers a representation counts."""

    ANYTHING = 0  # */*
    FAMILY = 1  # image/*
    ANY_MULTIPART = 2  # multipart/*
    ANY_RELATED = 3  # multipart/related, or with type="*/*"
    RELATED_FAMILY = 4  # multipart/related; type="image/*"
    EXACT = 5  # image/jls, or multipart/related; type="image/jls"


@dataclass(frozen=True, slots=True)
class MediaRange:
    """One media range in one form. `media_type`: of the part or parts, lower case, `*/*` and `image/*` are patterns.

    `transfer_syntax`: a UID, `AS_STORED`, or None = the default of the media type; `quality`: 0..1, 0 = refused;
    `order`: place in the header.
    """

    form: Form
    rank: Rank
    media_type: str
    transfer_syntax: str | None
    quality: float
    order: int


_Group = Mapping[str | None, MediaRange]


@dataclass(frozen=True)
class Acceptable:
    """What a client accepts: `ranges` by falling quality, then in the order written; quality 0 comes last."""

    ranges: tuple[MediaRange, ...]

    def match(
        self, media_type: str, transfer_syntax: str | None, form: Form = Form.MULTIPART
    ) -> MediaRange | None:
        """The range that decides about a representation, None = none covers it; its quality may be 0.

        `transfer_syntax` None: whatever it may be. A range without transfer syntax covers the default one, and
        all of them where it refuses (quality 0).
        """
        for rank, pattern in _patterns(media_type):
            group = self._groups.get((form, rank, pattern))
            found = group and _covering(group, media_type, transfer_syntax)
            if found:
                return found
        return None

    def quality(self, transfer_syntax: str, form: Form = Form.MULTIPART, media_type: str = DICOM) -> float:
        """Quality of a representation, 0 = refused."""
        found = self.match(media_type, transfer_syntax, form)
        return found.quality if found else 0.0

    @cached_property
    def named(self) -> tuple[str, ...]:
        """Transfer syntaxes named, each once, the one of the highest quality first."""
        written = (r.transfer_syntax for r in self.ranges)
        return tuple(dict.fromkeys(s for s in written if s is not None and s != AS_STORED))

    @cached_property
    def _groups(self) -> Mapping[tuple[Form, Rank, str], _Group]:
        groups: dict[tuple[Form, Rank, str], dict[str | None, MediaRange]] = {}
        for media_range in self.ranges:
            group = groups.setdefault((media_range.form, media_range.rank, media_range.media_type), {})
            # the ranges come by falling quality: the first counts, unless the same is also refused
            if media_range.transfer_syntax not in group or media_range.quality == 0:
                group[media_range.transfer_syntax] = media_range
        return groups


def parse_accept(lines: Sequence[str]) -> Acceptable:
    """Read the Accept header lines of a request. No line, or only empty ones, is read as `*/*`.

    Elements that are malformed are left out (PS3.18 8.7.7): nothing left = nothing acceptable. Raises
    `HttpRefusal` 400 for a header of more than `MAX_CHARACTERS` or `MAX_ELEMENTS`.
    """
    size = sum(map(len, lines)) + len(lines)
    if size > MAX_CHARACTERS:
        raise _too_long()
    key = tuple(lines)
    return _remembered(key) if size <= _MAX_REMEMBERED else _parse(key)


def _parse(lines: tuple[str, ...]) -> Acceptable:
    # RFC 9110 5.3: lines are one list
    elements = [element for run in _ELEMENTS.findall(",".join(lines)) if (element := run.strip())]
    if len(elements) > MAX_ELEMENTS:
        raise _too_long()
    ranges = [r for order, element in enumerate(elements or [_ANYTHING]) for r in _ranges(element, order)]
    return Acceptable(tuple(sorted(ranges, key=lambda r: (-r.quality, r.order))))


_remembered = lru_cache(maxsize=256)(_parse)


def _too_long() -> HttpRefusal:
    detail = f"The Accept header has over {MAX_ELEMENTS} elements or {MAX_CHARACTERS} characters."
    return HttpRefusal(400, "accept-invalid", "Bad request", detail)


def _ranges(element: str, order: int) -> Iterator[MediaRange]:
    media_type, *rest = [piece.strip() for piece in _PARTS.findall(element)] or [""]
    if "=" in media_type:  # form C: only parameters, as the ANS validator accepts
        media_type, rest = "", [media_type, *rest]
    parameters = _parameters(rest)
    if parameters is None or not (media_type or {"type", "transfer-syntax"} & parameters.keys()):
        return
    media_type, root_type = media_type.lower(), parameters.get("type", "").lower()
    syntax, quality = parameters.get("transfer-syntax"), float(parameters.get("q", 1))
    if syntax is None and "*" in (root_type if media_type in ("", "multipart/related") else media_type):
        syntax = AS_STORED  # a wildcard that names none means any
    for shift, (form, rank, pattern) in enumerate(_forms(media_type, root_type)):
        yield MediaRange(form, rank, pattern, syntax, quality, 2 * order + shift)


def _forms(media_type: str, root_type: str) -> Sequence[tuple[Form, Rank, str]]:
    """What a media range speaks of, the form preferred first; nothing for one that is malformed or multipart/mixed."""
    media_type = _ALIASES.get(media_type, media_type)
    if media_type == "":
        return _related(root_type or DICOM)
    if media_type == "multipart/related":
        return _related(root_type)
    if media_type == "multipart/*":
        return [(Form.MULTIPART, Rank.ANY_MULTIPART, _ANYTHING)]
    if media_type == _ANYTHING:
        return [(Form.MULTIPART, Rank.ANYTHING, _ANYTHING), (Form.SINGLE, Rank.ANYTHING, _ANYTHING)]
    if media_type.startswith("multipart/") or not _MEDIA_TYPE.fullmatch(media_type):
        return []
    if media_type.endswith("/*"):
        return [(Form.SINGLE, Rank.FAMILY, media_type), (Form.MULTIPART, Rank.FAMILY, media_type)]
    return [(Form.SINGLE, Rank.EXACT, media_type)]


def _related(root_type: str) -> Sequence[tuple[Form, Rank, str]]:
    root_type = _ALIASES.get(root_type, root_type)
    if root_type in ("", _ANYTHING):
        return [(Form.MULTIPART, Rank.ANY_RELATED, _ANYTHING)]
    if not _MEDIA_TYPE.fullmatch(root_type):
        return []
    rank = Rank.RELATED_FAMILY if root_type.endswith("/*") else Rank.EXACT
    return [(Form.MULTIPART, rank, root_type)]


@lru_cache(maxsize=64)
def _patterns(media_type: str) -> Sequence[tuple[Rank, str]]:
    """Where ranges that cover a media type are found, the closest first."""
    family = media_type.partition("/")[0] + "/*"
    return (
        (Rank.EXACT, media_type),
        (Rank.RELATED_FAMILY, family),
        (Rank.ANY_RELATED, _ANYTHING),
        (Rank.ANY_MULTIPART, _ANYTHING),
        (Rank.FAMILY, family),
        (Rank.ANYTHING, _ANYTHING),
    )


def _covering(group: _Group, media_type: str, transfer_syntax: str | None) -> MediaRange | None:
    """Among the ranges of one pattern: the syntax by name, the default one unnamed, any, a refusal of all."""
    if transfer_syntax is None:
        return min(group.values(), key=lambda r: (-r.quality, r.order))
    unnamed = group.get(None)
    if transfer_syntax == DEFAULTS.get(media_type, EXPLICIT_VR_LE):
        return group.get(transfer_syntax) or unnamed or group.get(AS_STORED)
    refused = unnamed if unnamed and unnamed.quality == 0 else None
    return group.get(transfer_syntax) or group.get(AS_STORED) or refused


def _parameters(pieces: Sequence[str]) -> Mapping[str, str] | None:
    """The parameters known here, by name in lower case; None when one of them is malformed or comes twice."""
    parameters: dict[str, str] = {}
    for name, value in map(_parameter, pieces):
        if name not in _KNOWN:
            continue
        if name in parameters or not _well_formed(name, value):
            return None
        parameters[name] = value
    return parameters


def _parameter(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    value = value.strip()
    if len(value) >= 2 and value[0] == value[-1] == '"':
        value = re.sub(r"\\(.)", r"\1", value[1:-1])
    return name.strip().lower(), value.strip()


def _well_formed(name: str, value: str) -> bool:
    if name == "q":
        return _QUALITY.fullmatch(value) is not None
    return name == "type" or value == AS_STORED or _is_uid(value)


def _is_uid(text: str) -> bool:
    try:
        return bool(check_uid(text))
    except InvalidUID:
        return False
