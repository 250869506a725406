"""The errors of a long manifest without judging two thousand alike references one by one.

A manifest of a regular layout is thinned: of references that are alike (same series or class, same attributes) one
stays, and every rule is applied to what stays. What is left out was read here, byte by byte: its form is
regular, no instance is listed twice, evidence and content tree name the same instances with the same classes. At
anything else, and at any error, the whole manifest is judged: the answer is that of `check_manifest`.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from drimbox.domain.kos_content import KOS_CLASS
from drimbox.domain.kos_rules import check_manifest
from drimbox.domain.kos_tree import MAX_DEPTH
from drimbox.domain.violations import Violation, errors

_ITEM = struct.Struct("<HHI")
_ELEMENT = struct.Struct("<HH2sH")
_NESTED = struct.Struct("<I4sI")  # length of a sequence; tag and length of its first item
_LENGTH = struct.Struct("<I")
_LONG_VR = frozenset({b"OB", b"OW", b"SQ", b"UC", b"UN", b"UR", b"UT"})
_SHORT_VR = frozenset({b"CS", b"DA", b"IS", b"LO", b"LT", b"PN", b"SH", b"TM", b"UI"})
_KEY_OBJECT = KOS_CLASS.encode("ascii")
_SOPS, _SERIES, _RELATION = 0x00081199, 0x00081115, 0x0040A010
_EVIDENCE, _CONTENT, _OWN = 0x0040A375, 0x0040A730, 0x00080018

_SOPS_HEAD, _ITEM_HEAD = b"\x08\x00\x99\x11SQ\0\0", b"\xfe\xff\x00\xe0"
# An item of Referenced SOP Sequence: class, instance, each as (length, value, padding), and what may follow.
_HEAD = (
    rb"\x08\x00\x50\x11UI(..)([0-9.]+)(\x00?)"
    rb"\x08\x00\x55\x11UI(..)((?:0|[1-9]\d*)(?:\.(?:0|[1-9]\d*))+)(\x00?)"
)
_ANY_REFERENCE = re.compile(_HEAD, re.DOTALL)
_REFERENCE = re.compile(_HEAD + rb"(?:\x20\x00\x13\x00IS(..)(-?\d{1,11} ?))?", re.DOTALL)
_LENGTHS = {number.to_bytes(2, "little"): number for number in range(0, 66, 2)}  # of a UID or an IS, padded
# What follows the reference in an item of the content tree.
_RELATED = re.compile(
    rb"\x40\x00\x10\xa0CS\x08\x00CONTAINS"
    rb"\x40\x00\x40\xa0CS(?:\x06\x00IMAGE |\x08\x00WAVEFORM|\x0a\x00COMPOSITE )"
)


class _Irregular(Exception):
    """The bytes are not laid out as our own manifests are: no defect by itself."""


def manifest_errors(data: bytes) -> tuple[Violation, ...]:
    """The errors that `check_manifest` finds in a Part 10 file, sooner for a long manifest without any."""
    try:
        thinned = thin(data)
    except (_Irregular, struct.error):
        return errors(check_manifest(data))
    return errors(check_manifest(data)) if errors(check_manifest(thinned)) else ()


def thin(data: bytes) -> bytes:
    """The manifest with one reference of those alike. Raises `_Irregular`, `struct.error`: judge it whole."""
    if data[132:138] != b"\x02\x00\x00\x00UL":
        raise _Irregular
    start = 144 + _LENGTH.unpack_from(data, 140)[0]
    root = {one.tag: one for one in _elements(data, start, len(data))}
    if not {_OWN, _EVIDENCE, _CONTENT} <= root.keys() or max(root) != _CONTENT:
        raise _Irregular
    evidence, content = _read_evidence(data, root[_EVIDENCE]), _read_content(data, root[_CONTENT])
    listed = _by_instance([ref for series in evidence for ref in series.references])
    referenced = _by_instance([ref for ref in content if ref.instance])
    if {uid: ref.sop_class for uid, ref in listed.items()} != {
        uid: ref.sop_class for uid, ref in referenced.items()
    }:
        raise _Irregular
    if data[root[_OWN].start : root[_OWN].end].rstrip(b"\0") in listed:
        raise _Irregular
    kept = _representatives(evidence, content)
    series = [_thinned_series(data, one, kept) for one in evidence]
    study = _with_items(data, *_only_item(data, root[_EVIDENCE]), _SERIES, series)
    items = [data[ref.start : ref.end] for ref in content if not ref.instance or ref.instance in kept]
    thinned = b"".join(
        (
            data[: root[_EVIDENCE].at],
            _sequence_of(data, root[_EVIDENCE], [study]),
            data[root[_EVIDENCE].end : root[_CONTENT].at],
            _sequence_of(data, root[_CONTENT], items),
        )
    )
    _require_regular(thinned, start, len(thinned))
    return thinned


@dataclass(frozen=True, slots=True)
class _Element:
    """An element at `at`, its value from `start` to `end`."""

    tag: int
    vr: bytes
    at: int
    start: int
    end: int


class _Reference(NamedTuple):
    """An item that references one instance, its value from `start` to `end`; `shape`: equal for those alike.

    An empty shape is never alike another: such an item always stays.
    """

    start: int
    end: int
    sop_class: bytes
    instance: bytes
    shape: tuple[bytes | None, ...]


@dataclass(frozen=True, slots=True)
class _Series:
    """An item of Referenced Series Sequence, its value from `start` to `end`."""

    start: int
    end: int
    references: Sequence[_Reference]


def _elements(data: bytes, position: int, end: int) -> Iterator[_Element]:
    """The elements of an item: known VR, ascending tags, defined lengths, not one byte left over."""
    previous = -1
    while position < end:
        group, number, vr, length = _ELEMENT.unpack_from(data, position)
        tag, start = group << 16 | number, position + 8
        if vr in _LONG_VR:
            length, start = _LENGTH.unpack_from(data, start)[0], start + 4
        elif vr not in _SHORT_VR:
            raise _Irregular
        if tag <= previous or start + length > end:
            raise _Irregular
        yield _Element(tag, vr, position, start, start + length)
        previous, position = tag, start + length


def _items(data: bytes, sequence: _Element) -> Iterator[tuple[int, int]]:
    """(start, end) of the value of each item of a sequence."""
    if sequence.vr != b"SQ":
        raise _Irregular
    position = sequence.start
    while position < sequence.end:
        group, number, length = _ITEM.unpack_from(data, position)
        start, position = position + 8, position + 8 + length
        if (group, number) != (0xFFFE, 0xE000) or position > sequence.end:
            raise _Irregular
        yield start, position


def _require_regular(data: bytes, start: int, end: int, depth: int = MAX_DEPTH) -> None:
    """Every element ends within its item: none reaches into what was left out."""
    if depth == 0:
        raise _Irregular
    for element in _elements(data, start, end):
        if element.vr == b"SQ":
            for place in _items(data, element):
                _require_regular(data, *place, depth - 1)


def _only_item(data: bytes, sequence: _Element) -> tuple[int, int]:
    items = list(_items(data, sequence))
    if len(items) != 1:
        raise _Irregular
    return items[0]


def _sequence(data: bytes, start: int, end: int, tag: int) -> _Element:
    """The sequence of that tag in an item."""
    for one in _elements(data, start, end):
        if one.tag == tag:
            return one
    raise _Irregular


def _read_evidence(data: bytes, evidence: _Element) -> list[_Series]:
    series = _sequence(data, *_only_item(data, evidence), _SERIES)
    found = []
    for start, end in _items(data, series):
        sops = _sequence(data, start, end, _SOPS)
        found.append(_Series(start, end, [_reference(data, *place) for place in _items(data, sops)]))
    return found


def _read_content(data: bytes, content: _Element) -> list[_Reference]:
    """The items of the content tree; those that reference no instance have none."""
    return [_content_item(data, *place) for place in _items(data, content)]


def _content_item(data: bytes, start: int, end: int) -> _Reference:
    if not data.startswith(_SOPS_HEAD, start):
        if any(one.tag == _SOPS for one in _elements(data, start, end)):
            raise _Irregular
        return _Reference(start, end, b"", b"", ())
    sequence, head, item = _NESTED.unpack_from(data, start + 8)
    after = start + 20 + item
    if sequence != item + 8 or head != _ITEM_HEAD or after > end:
        raise _Irregular
    ref = _reference(data, start + 20, after)
    related = _RELATED.fullmatch(data, after, end)
    shape = (*ref.shape, related[0]) if related and ref.shape else ()
    return _Reference(start, end, ref.sop_class, ref.instance, shape)


def _reference(data: bytes, start: int, end: int) -> _Reference:
    """An item of Referenced SOP Sequence; its shape is empty when more than InstanceNumber follows the UIDs."""
    shape: tuple[bytes | None, ...] = ()
    match = _REFERENCE.fullmatch(data, start, end)
    if match is None:
        match = _ANY_REFERENCE.match(data, start, end)
        if match is None:
            raise _Irregular
        class_length, sop_class, class_padding, length, instance, padding = match.groups()
    else:
        class_length, sop_class, class_padding, length, instance, padding, said, number = match.groups()
        shape = (sop_class, said)
        if said is not None and _LENGTHS.get(said) != len(number):
            raise _Irregular
    wrong = _LENGTHS.get(class_length) != len(sop_class) + len(class_padding)
    if wrong or _LENGTHS.get(length) != len(instance) + len(padding) or len(instance) > 64:
        raise _Irregular
    return _Reference(start, end, sop_class, instance, shape)


def _by_instance(references: Sequence[_Reference]) -> dict[bytes, _Reference]:
    found = {ref.instance: ref for ref in references}
    if len(found) != len(references):
        raise _Irregular
    return found


def _representatives(evidence: Sequence[_Series], content: Sequence[_Reference]) -> set[bytes]:
    """One instance of each series and of each shape; every one without shape, and every key object."""
    firsts: dict[tuple[bool, tuple[bytes | None, ...]], bytes] = {}
    kept = {series.references[0].instance for series in evidence if series.references}
    for number, references in enumerate((*(series.references for series in evidence), content)):
        in_content = number == len(evidence)
        for ref in references:
            if not ref.shape or ref.sop_class == _KEY_OBJECT:
                kept.add(ref.instance)
            firsts.setdefault((in_content, ref.shape), ref.instance)
    return kept | set(firsts.values())


def _thinned_series(data: bytes, series: _Series, kept: set[bytes]) -> bytes:
    items = [data[ref.start : ref.end] for ref in series.references if ref.instance in kept]
    return _with_items(data, series.start, series.end, _SOPS, items)


def _with_items(data: bytes, start: int, end: int, tag: int, items: Sequence[bytes]) -> bytes:
    """The value of an item whose sequence of that tag has these items instead of its own."""
    sequence = _sequence(data, start, end, tag)
    return data[start : sequence.at] + _sequence_of(data, sequence, items) + data[sequence.end : end]


def _sequence_of(data: bytes, sequence: _Element, items: Sequence[bytes]) -> bytes:
    value = b"".join(_ITEM.pack(0xFFFE, 0xE000, len(one)) + one for one in items)
    return data[sequence.at : sequence.at + 8] + _LENGTH.pack(len(value)) + value
