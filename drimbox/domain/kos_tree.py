"""A KOS file as a tree of plain values, for the rules and for the reader.

The tree keeps what the file says (VR, order of values, every item) without the parser's own opinion of it,
so that each deviation is ours to report. Values are text, decoded by Specific Character Set, unpadded.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from io import BytesIO
from typing import Any

from pydicom import Dataset, dcmread
from pydicom.charset import python_encoding
from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.dataelem import RawDataElement
from pydicom.errors import InvalidDicomError
from pydicom.values import convert_SQ

from dicom_store.rejection import UNREADABLE

# Implicit and explicit VR little endian (drim-m-data 6.4), and the retired big endian one.
TRANSFER_SYNTAXES = frozenset({"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"})
MAX_DEPTH = 16  # nested sequences; a manifest has 4
_CHARSET = 0x00080005
_SINGLE_VALUE = frozenset({"LT", "ST", "UT", "UR"})  # a backslash is no delimiter there, PS3.5 6.2
_TEXT = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT"})  # coded by Specific Character Set
_BINARY = {"US": "H", "SS": "h", "UL": "L", "SL": "l", "FL": "f", "FD": "d"}

_PARSER_FAILURES = (InvalidDicomError, *UNREADABLE)


class NotAManifest(ValueError):
    """The bytes are no manifest that can be used; the message says why, without patient data."""


@dataclass(frozen=True, slots=True)
class Element:
    """One attribute: text `values` (empty when it has none) or, for a sequence, `items`.

    `vr` as written, or of the dictionary in implicit VR. `undecodable`: bytes outside the character set.
    """

    tag: int
    keyword: str
    vr: str
    values: tuple[str, ...] = ()
    items: tuple[Item, ...] = ()
    undecodable: bool = False


@dataclass(frozen=True, slots=True)
class Item:
    """A data set or a sequence item, by DICOM keyword (`(gggg,eeee)` for a tag without one)."""

    elements: Mapping[str, Element] = field(default_factory=dict)

    def __contains__(self, keyword: str) -> bool:
        return keyword in self.elements

    def text(self, keyword: str) -> str:
        """First value, or "" when the attribute is absent or empty."""
        return next(iter(self.values(keyword)), "")

    def values(self, keyword: str) -> tuple[str, ...]:
        """Every value; none when the attribute is absent."""
        return self.elements[keyword].values if keyword in self.elements else ()

    def items(self, keyword: str) -> tuple[Item, ...]:
        """The items of a sequence; none when it is absent."""
        return self.elements[keyword].items if keyword in self.elements else ()


@dataclass(frozen=True, slots=True)
class KosFile:
    """The file meta group and the data set of a Part 10 file."""

    meta: Item
    root: Item


def parse_kos(data: bytes) -> KosFile:
    """The tree of a Part 10 file of any SOP class, in a native transfer syntax.

    Raises `NotAManifest` when it is none, or deflated (a few bytes may inflate to gigabytes).
    """
    try:
        if _transfer_syntax(data) not in TRANSFER_SYNTAXES:
            raise NotAManifest("the transfer syntax is none of a manifest")
        dataset = dcmread(BytesIO(data))
        root = _tree(dataset, "ascii", dataset.original_encoding, MAX_DEPTH)
        meta = _tree(dataset.file_meta, "ascii", (False, True), MAX_DEPTH)
    except NotAManifest:
        raise
    except _PARSER_FAILURES as error:
        raise NotAManifest(f"not a readable DICOM file ({type(error).__name__})") from error
    return KosFile(meta, root)


def _transfer_syntax(data: bytes) -> str:
    """Transfer Syntax UID of the file meta group, read without the data set behind it."""
    if data[132:140] != b"\x02\x00\x00\x00UL\x04\x00":
        raise NotAManifest("no file meta group length (PS3.10 7.1)")
    end = 144 + int.from_bytes(data[140:144], "little")
    meta = _tree(dcmread(BytesIO(data[:end])).file_meta, "ascii", (False, True), MAX_DEPTH)
    return meta.text("TransferSyntaxUID")


def _tree(dataset: Dataset, charset: str, encoding: tuple[bool, bool], depth: int) -> Item:
    """`encoding` = (implicit VR, little endian) of the file, for sequences that are still raw bytes."""
    if depth == 0:
        raise NotAManifest(f"sequences nested deeper than {MAX_DEPTH}")
    if _CHARSET in dataset:
        charset = _codec(dataset.get_item(_CHARSET))
    elements = (_element(dataset.get_item(tag), charset, encoding, depth) for tag in sorted(dataset.keys()))
    return Item({element.keyword: element for element in elements})


def _element(raw: Any, charset: str, encoding: tuple[bool, bool], depth: int) -> Element:
    tag = int(raw.tag)
    vr = raw.VR or _dictionary_vr(tag)
    keyword = _keyword(tag)
    if vr == "SQ":
        items = tuple(_tree(one, charset, encoding, depth - 1) for one in _sequence(raw, encoding))
        return Element(tag, keyword, vr, items=items)
    values, undecodable = _values(raw.value, vr, charset, little_endian=encoding[1])
    return Element(tag, keyword, vr, values, undecodable=undecodable)


def _sequence(raw: Any, encoding: tuple[bool, bool]) -> Sequence[Dataset]:
    if isinstance(raw, RawDataElement) and isinstance(raw.value, bytes):
        return list(convert_SQ(raw.value, *encoding))
    return list(raw.value or ())


def _values(value: object, vr: str, charset: str, *, little_endian: bool) -> tuple[tuple[str, ...], bool]:
    if not isinstance(value, bytes):
        return ((str(value),) if value else ()), False
    if vr in _BINARY:
        code = _BINARY[vr]
        whole = value[: len(value) - len(value) % struct.calcsize("=" + code)]
        return tuple(str(one) for (one,) in struct.iter_unpack("<>"[not little_endian] + code, whole)), False
    text, undecodable = _decode(value, charset if vr in _TEXT else "ascii")
    text = text.rstrip("\0 ")
    if not text.strip():
        return (), undecodable
    pieces = [text] if vr in _SINGLE_VALUE else text.split("\\")
    return tuple(piece.strip(" ") for piece in pieces), undecodable


def _decode(value: bytes, charset: str) -> tuple[str, bool]:
    try:
        return value.decode(charset), False
    except UnicodeDecodeError:
        return value.decode("latin-1"), True


def _codec(raw: Any) -> str:
    """Python codec of the first character set; ASCII when none is given or DICOM does not define it."""
    value = raw.value if isinstance(raw.value, bytes) else str(raw.value or "").encode("ascii", "replace")
    name = value.decode("ascii", "replace").split("\\")[0].strip("\0 ")
    return str(python_encoding.get(name, "ascii")) if name else "ascii"


@lru_cache(maxsize=4096)
def _keyword(tag: int) -> str:
    return str(keyword_for_tag(tag)) or f"({tag >> 16:04x},{tag & 0xFFFF:04x})"


@lru_cache(maxsize=4096)
def _dictionary_vr(tag: int) -> str:
    try:
        return str(dictionary_VR(tag)).split(" ", maxsplit=1)[0]
    except KeyError:
        return "UN"
