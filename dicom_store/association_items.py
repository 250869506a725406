"""The items of an A-ASSOCIATE-RQ that are read here (PS3.8 9.3.2, D.1; PS3.7 D.3.3); the others are skipped. Pure.

Items of unrecognized types are to be skipped (PS3.8 9.3.1), which pynetdicom's decoder does not. Identity, extended
negotiation and what the peer runs get no answer here: their values, perhaps a password, are not even decoded.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping

from dicom_store.upper_layer import invalid

FIXED_BYTES = 68  # version, titles, reserved (PS3.8 Table 9-11)
_ITEM = struct.Struct(">BxH")  # type, length

# Item → bytes before its sub-items, types of the sub-items that are read.
_READ: Mapping[int, tuple[int, frozenset[int]]] = {
    0x10: (0, frozenset()),  # application context
    0x20: (4, frozenset({0x30, 0x40})),  # presentation context: abstract syntax, transfer syntaxes
    0x50: (0, frozenset({0x51, 0x53, 0x54})),  # user information: maximum length, asynchronous window, roles
}


def known_items(body: bytes | bytearray) -> bytes:
    """The body of an A-ASSOCIATE-RQ with nothing but what is read. Raises `Abort` for an item that is cut."""
    kept = [bytes(body[:FIXED_BYTES])]
    for kind, value in _items(bytes(body[FIXED_BYTES:])):
        if kind in _READ:
            before, within = _READ[kind]
            parts = [_item(*one) for one in _items(value[before:]) if one[0] in within] if within else [value]
            kept.append(_item(kind, value[:before] + b"".join(parts)))
    return b"".join(kept)


def _items(encoded: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(encoded):
        if len(encoded) - at < _ITEM.size:
            raise invalid("an A-ASSOCIATE-RQ with an item that is cut")
        kind, length = _ITEM.unpack_from(encoded, at)
        at += _ITEM.size
        if length > len(encoded) - at:
            raise invalid("an A-ASSOCIATE-RQ with an item longer than what it is in")
        yield kind, encoded[at : at + length]
        at += length


def _item(kind: int, value: bytes) -> bytes:
    return _ITEM.pack(kind, len(value)) + value
