"""Certificate names written as text, compared as the list needs it (trust-and-identity 3.7, 5.3).

The texts come from RFC 4514 writers, OpenSSL, Java and hands: order, spaces, quotes and escapes differ, the name is
the same. What remains is a multiset of (type, value), order left aside.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from enum import StrEnum
from functools import lru_cache
from types import MappingProxyType

from cryptography import x509

from whitelist.errors import Unusable

MAX_CHARACTERS = 4096
#: attribute type → its other spellings: dotted, X.520 long name, OpenSSL, Java
TYPES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "CN": ("2.5.4.3", "COMMONNAME"),
        "SN": ("2.5.4.4", "SURNAME"),
        "SERIALNUMBER": ("2.5.4.5",),
        "C": ("2.5.4.6", "COUNTRYNAME"),
        "L": ("2.5.4.7", "LOCALITYNAME"),
        "ST": ("2.5.4.8", "S", "STATEORPROVINCENAME"),
        "STREET": ("2.5.4.9", "STREETADDRESS"),
        "O": ("2.5.4.10", "ORGANIZATIONNAME"),
        "OU": ("2.5.4.11", "ORGANIZATIONALUNITNAME"),
        "TITLE": ("2.5.4.12", "T"),
        "GIVENNAME": ("2.5.4.42", "G", "GN"),
        "ORGANIZATIONIDENTIFIER": ("2.5.4.97",),
        "EMAILADDRESS": ("1.2.840.113549.1.9.1", "E", "EMAIL"),
        "UID": ("0.9.2342.19200300.100.1.1", "USERID"),
        "DC": ("0.9.2342.19200300.100.1.25", "DOMAINCOMPONENT"),
    }
)
#: OU type digits of IGC Santé: ADELI, FINESS, SIREN, SIRET, RPPS (5.3)
TYPE_DIGITS = "01234"
#: fewer digits than an identifier of a structure has (ADELI 8, FINESS and SIREN 9, SIRET 14) are no identifier
MIN_DIGITS = 8

_TYPE_OF = {spelling: name for name, others in TYPES.items() for spelling in (name, *others)}
_PART = re.compile(r'\\.|[",;+]|[^\\",;+]+|\\', re.DOTALL)
_ATTRIBUTE = re.compile(
    r"\s*(?:[Oo][Ii][Dd]\.)?([A-Za-z][A-Za-z0-9_-]*|[0-9]+(?:\.[0-9]+)+)\s*=(.*)", re.DOTALL
)
_QUOTED = re.compile(r'\s*"((?:[^"\\]|\\.)*)"\s*', re.DOTALL)
_ESCAPED = re.compile(r"((?:\\[0-9a-fA-F]{2})+)|\\(.)", re.DOTALL)


class Match(StrEnum):
    """WEAK: the same name but for the OU, whose digits agree only without a type digit or the words around them."""

    SAME = "same"
    WEAK = "weak"
    DIFFERENT = "different"


def compare(left: str, right: str) -> Match:
    """Compare two names; an empty or unreadable one is DIFFERENT from everything, itself included."""
    try:
        ours, theirs = attributes(left), attributes(right)
    except Unusable:
        return Match.DIFFERENT
    if Counter(a for a in ours if a[0] != "OU") != Counter(a for a in theirs if a[0] != "OU"):
        return Match.DIFFERENT
    return _compare_units([v for t, v in ours if t == "OU"], [v for t, v in theirs if t == "OU"])


def subject_text(certificate: x509.Certificate) -> str:
    """Subject in RFC 4514 form, as the list writes DNCertificatOperateur (drim-m-data 2.1)."""
    return certificate.subject.rfc4514_string()


def values(text: str, attribute_type: str) -> tuple[str, ...]:
    """Normalised values of one attribute type (`TYPES` key); none when the name cannot be read."""
    try:
        return tuple(value for name, value in attributes(text) if name == attribute_type)
    except Unusable:
        return ()


@lru_cache(maxsize=8192)  # a list has some thousands of names at most, compared again and again
def attributes(text: str) -> tuple[tuple[str, str], ...]:
    """(type, value) in the order written: types in capitals, values normalised for comparison.

    Values are unquoted, unescaped, canonically composed, case-folded, white space collapsed (none beside
    parentheses: `Lyon(69)`). Raises `Unusable` (name) when there is nothing of the form `type=value`.
    """
    if len(text) > MAX_CHARACTERS:
        raise Unusable("name", f"a certificate name of {len(text)} characters")
    pieces, closed = _split(text, quoting=True)
    if not closed:  # a quote that never ends is a letter of the value
        pieces, _ = _split(text, quoting=False)
    return tuple((_type(name), _value(value)) for name, value in _pairs(pieces))


def _split(text: str, quoting: bool) -> tuple[list[tuple[str, str]], bool]:
    """(separator before, piece) at each unescaped separator outside quotes; whether every quote was closed."""
    pieces, separator, piece, quoted = [], "", "", False
    for part in _PART.findall(text):
        quoted ^= quoting and part == '"'
        if part in (",", ";", "+") and not quoted:
            pieces.append((separator, piece))
            separator, piece = part, ""
        else:
            piece += part
    return [*pieces, (separator, piece)], not quoted


def _pairs(pieces: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """A piece that begins no attribute belongs to the value before it: its separator was not escaped."""
    pairs: list[tuple[str, str]] = []
    for separator, piece in pieces:
        found = _ATTRIBUTE.fullmatch(piece)
        if found and (separator in ("", ",") or found[1].upper() in _TYPE_OF):
            pairs.append((found[1], found[2]))
        elif pairs:
            pairs[-1] = (pairs[-1][0], f"{pairs[-1][1]}{separator}{piece}")
        else:
            raise Unusable("name", "not a certificate name")
    return pairs


def _type(written: str) -> str:
    return _TYPE_OF.get(written.upper(), written.upper())


def _value(written: str) -> str:
    quoted = _QUOTED.fullmatch(written)
    return _folded(_ESCAPED.sub(_unescaped, quoted[1] if quoted else written))


def _unescaped(found: re.Match[str]) -> str:
    if found[1]:
        return bytes.fromhex(found[1].replace("\\", "")).decode("utf-8", "surrogateescape")
    return found[2]


def _folded(value: str) -> str:
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFD", value).casefold())
    return re.sub(r" ?([()]) ?", r"\1", " ".join(folded.split()))


def _compare_units(ours: list[str], theirs: list[str]) -> Match:
    """OU by OU: first those that are the same but for punctuation, then what is left in the weaker form."""
    left, right = Counter(map(_letters, ours)), Counter(map(_letters, theirs))
    rest, others = list((left - right).elements()), list((right - left).elements())
    if len(rest) != len(others):
        return Match.DIFFERENT
    for unit in rest:
        alike = next(_alike(unit, others), None)
        if alike is None:
            return Match.DIFFERENT
        others.remove(alike)
    return Match.WEAK if rest else Match.SAME


def _letters(value: str) -> str:
    return "".join(filter(str.isalnum, value)) or value


def _alike(unit: str, others: list[str]) -> Iterator[str]:
    return (other for other in others if _same_structure(_digits(unit), _digits(other)))


def _same_structure(ours: str, theirs: str) -> bool:
    """The same digits, or the same once one side lost its type digit."""
    short, long = sorted((ours, theirs), key=len)
    if len(short) < MIN_DIGITS:
        return False
    return short == long or (long[0] in TYPE_DIGITS and short == long[1:])


def _digits(value: str) -> str:
    return re.sub(r"[^0-9]", "", value)
