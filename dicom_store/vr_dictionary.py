"""The value representation of an element that does not say it (PS3.5 7.1.3, PS3.6). Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache

from pydicom.datadict import DicomDictionary, RepeatersDictionary, mask_match

# What implicit VR makes of an attribute that may have several (PS3.5 A.1); US or SS: see `vr_of`.
_CHOSEN: Mapping[str, bytes] = {"OB or OW": b"OW", "US or OW": b"OW", "US or SS or OW": b"OW", "NONE": b"UN"}
_SIGNED_OR_NOT = b"US or SS"


def vr_of(tag: int, length: int, signed: Callable[[], bool]) -> bytes:
    """Its VR in PS3.6; LO for a private creator, UN for what is private or unknown (PS3.5 7.8.1, 6.2.2).

    `length` of the value in bytes, `signed`: whether PixelRepresentation says so; asked where it matters.
    """
    if tag >> 16 & 1:
        return b"LO" if 0x10 <= tag & 0xFFFF <= 0xFF else b"UN"
    vr = _public_vr(tag)
    if vr == _SIGNED_OR_NOT:
        return b"SS" if signed() else b"US"
    if tag == 0x00283006 and length == 2:
        return b"US"  # LUTData of one entry (PS3.3 C.11.1.1.1)
    return vr


@lru_cache(8192)
def _public_vr(tag: int) -> bytes:
    entry = DicomDictionary.get(tag) or RepeatersDictionary.get(mask_match(tag) or "")
    name = str(entry[0]) if entry else "UN"
    return _CHOSEN.get(name) or name.encode("ascii")
