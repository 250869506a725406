"""One value of a data set as DICOM JSON (PS3.18 F.2.3): a row for each value representation. Pure.

Every writer takes the raw value, the codecs of its texts and the byte order (`<` or `>`), and gives the member
that follows `"vr"`, comma included: `,"Value":[...]` or `,"InlineBinary":"..."`; "" for an empty value (F.2.5).
A writer raises ValueError for a length that its value representation cannot have.
"""

from __future__ import annotations

import math
import re
import struct
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from json.encoder import encode_basestring as _quoted

from dicom_store.header import decode_text

INLINE_BINARY_BYTES = 1024  # longer binary values are bulk data
INLINE_BYTES = 64 * 1024  # so are longer texts and numbers

_PADDING = "\0 "
_EXACT_INTEGER = 1 << 53  # what every JSON reader holds exactly
_IS_LIMIT = 1 << 31  # PS3.5 6.2: -2^31..2^31-1
_INTEGER = re.compile(r"[+-]?[0-9]{1,12}")
_JSON_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?")
_DECIMAL = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_DECIMAL_CHARACTERS = 64  # of a DS that is still read as a number; the standard allows 16
_PN_GROUPS = ("Alphabetic", "Ideographic", "Phonetic")

Writer = Callable[[bytes, Sequence[str], str], str]


@dataclass(frozen=True, slots=True)
class ValueRepresentation:
    """A row: its name, how a value is written, up to which length in bytes, and the size of what is byte-swapped."""

    name: str
    write: Writer
    inline: int
    word: int = 1


def _listed(values: Iterable[str]) -> str:
    return f',"Value":[{",".join(values)}]'


def _several(text: str, one: Callable[[str], str]) -> str:
    """Values separated by backslashes; an empty one among them is null (F.2.5)."""
    text = text.rstrip(_PADDING)
    if "\\" not in text:
        value = one(text) if text else "null"
        return "" if value == "null" else f',"Value":[{value}]'
    values = (value.rstrip(_PADDING) for value in text.split("\\"))
    return _listed(one(value) if value else "null" for value in values)


def _codes(raw: bytes, _encodings: Sequence[str], _order: str) -> str:
    return _several(raw.decode("latin-1"), _quoted)


def _code(raw: bytes, _encodings: Sequence[str], _order: str) -> str:
    text = raw.decode("latin-1").rstrip(_PADDING)
    return f',"Value":[{_quoted(text)}]' if text else ""


def _texts(raw: bytes, encodings: Sequence[str], _order: str) -> str:
    return _several(decode_text(raw, encodings), _quoted)


def _text(raw: bytes, encodings: Sequence[str], _order: str) -> str:
    text = decode_text(raw, encodings).rstrip(_PADDING)
    return f',"Value":[{_quoted(text)}]' if text else ""


def _names(raw: bytes, encodings: Sequence[str], _order: str) -> str:
    return _several(decode_text(raw, encodings), _name)


def _name(text: str) -> str:
    """A person name (F.2.2): its component groups, the empty ones left out."""
    groups = zip(_PN_GROUPS, text.split("=", 2), strict=False)
    members = ",".join(f'"{group}":{_quoted(value)}' for group, value in groups if value)
    return f"{{{members}}}" if members else "null"


def _integer_strings(raw: bytes, _encodings: Sequence[str], _order: str) -> str:
    return _several(raw.decode("latin-1"), _integer_string)


def _integer_string(text: str) -> str:
    text = text.strip(_PADDING)
    if _INTEGER.fullmatch(text) and -_IS_LIMIT <= (number := int(text)) < _IS_LIMIT:
        return str(number)
    return _quoted(text) if text else "null"


def _decimal_strings(raw: bytes, _encodings: Sequence[str], _order: str) -> str:
    return _several(raw.decode("latin-1"), _decimal_string)


def _decimal_string(text: str) -> str:
    """A number with the very digits of the data set where JSON writes numbers like that."""
    text = text.strip(_PADDING)
    if len(text) <= _DECIMAL_CHARACTERS:
        if _JSON_NUMBER.fullmatch(text):
            return text
        if _DECIMAL.fullmatch(text) and math.isfinite(number := float(text)):
            return repr(number)
    return _quoted(text) if text else "null"


def _numbers(raw: bytes, order: str, code: str, width: int) -> tuple[int | float, ...]:
    count, rest = divmod(len(raw), width)
    if rest:
        raise ValueError("a length that the VR cannot have")
    return struct.unpack(f"{order}{count}{code}", raw)


def _integers(raw: bytes, _encodings: Sequence[str], order: str, *, code: str, width: int) -> str:
    return _listed(map(str, _numbers(raw, order, code, width))) if raw else ""


def _long_integers(raw: bytes, _encodings: Sequence[str], order: str, *, code: str) -> str:
    numbers = _numbers(raw, order, code, 8)
    return _listed(f"{n}" if abs(n) < _EXACT_INTEGER else f'"{n}"' for n in numbers) if raw else ""


def _floats(raw: bytes, _encodings: Sequence[str], order: str, *, code: str, width: int) -> str:
    numbers = _numbers(raw, order, code, width)
    return _listed(repr(n) if math.isfinite(n) else f'"{n}"' for n in numbers) if raw else ""


def _tags(raw: bytes, _encodings: Sequence[str], order: str) -> str:
    numbers = _numbers(raw, order, "H", 2)  # pairs of group and element, each in the byte order
    pairs = zip(numbers[::2], numbers[1::2], strict=True)  # ValueError: half a tag
    return _listed([f'"{group:04X}{element:04X}"' for group, element in pairs]) if raw else ""


def _binary(raw: bytes, _encodings: Sequence[str], order: str, *, word: int) -> str:
    """Base64 of the value in little endian (F.2.7)."""
    if order == ">" and word > 1:
        raw = b"".join(raw[at : at + word][::-1] for at in range(0, len(raw), word))
    return f',"InlineBinary":"{b64encode(raw).decode("ascii")}"' if raw else ""


def _rows() -> Iterable[ValueRepresentation]:
    for name in ("AE", "AS", "CS", "DA", "DT", "TM", "UI"):
        yield ValueRepresentation(name, _codes, INLINE_BYTES)
    for name in ("LO", "SH", "UC"):
        yield ValueRepresentation(name, _texts, INLINE_BYTES)
    for name in ("LT", "ST", "UT"):
        yield ValueRepresentation(name, _text, INLINE_BYTES)
    yield ValueRepresentation("UR", _code, INLINE_BYTES)
    yield ValueRepresentation("PN", _names, INLINE_BYTES)
    yield ValueRepresentation("IS", _integer_strings, INLINE_BYTES)
    yield ValueRepresentation("DS", _decimal_strings, INLINE_BYTES)
    for name, code, width in (("US", "H", 2), ("SS", "h", 2), ("UL", "I", 4), ("SL", "i", 4)):
        yield ValueRepresentation(name, partial(_integers, code=code, width=width), INLINE_BYTES, width)
    for name, code in (("UV", "Q"), ("SV", "q")):
        yield ValueRepresentation(name, partial(_long_integers, code=code), INLINE_BYTES, 8)
    for name, code, width in (("FL", "f", 4), ("FD", "d", 8)):
        yield ValueRepresentation(name, partial(_floats, code=code, width=width), INLINE_BYTES, width)
    yield ValueRepresentation("AT", _tags, INLINE_BYTES, 2)
    for name, word in (("OB", 1), ("UN", 1), ("OW", 2), ("OF", 4), ("OL", 4), ("OD", 8), ("OV", 8)):
        yield ValueRepresentation(name, partial(_binary, word=word), INLINE_BINARY_BYTES, word)


# Every VR of PS3.5 6.2 but SQ, by its two bytes.
ROWS: Mapping[bytes, ValueRepresentation] = {row.name.encode("ascii"): row for row in _rows()}
