"""A Part 10 file cut at its elements, its data set turned to Explicit VR Little Endian first."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from dicom_store.conversions import TranscodeFailed
from dicom_store.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicom_store.transcode_elements import Edits, Element, element, spliced, split
from dicom_store.transcode_explicit import to_explicit


@dataclass(frozen=True, slots=True)
class File:
    """A Part 10 file: file meta elements, transfer syntax, data set in Explicit VR LE by tag."""

    meta: list[Element]
    syntax: str
    elements: dict[int, Element]


def read_file(data: bytes, limit: int) -> File:
    """Cut a file at its elements. Raises `TranscodeFailed`, ValueError, LookupError, struct.error, zlib.error."""
    view = memoryview(data)
    if len(view) < 144 or bytes(view[128:132]) != b"DICM":
        raise TranscodeFailed("not a DICOM file")
    meta, start = _meta(view)
    syntax = next((bytes(e.value).decode("ascii").strip("\0 ") for e in meta if e.tag == 0x00020010), "")
    elements = {found.tag: found for found in split(to_explicit(view[start:], syntax, limit))}
    return File(meta, syntax, elements)


def _meta(view: memoryview) -> tuple[list[Element], int]:
    """File meta (PS3.10 7.1), by its group length, and where the data set starts."""
    first = next(split(view[132:144]))
    if first.tag != 0x00020000:
        raise TranscodeFailed("no file meta group length")
    end = 144 + int.from_bytes(first.value, "little")
    if end > len(view):
        raise TranscodeFailed("the file meta is cut short")
    return list(split(view[144:end])), end


def file_start(meta: list[Element], target: str) -> bytes:
    """Preamble and file meta of the converted file: what was there, `target`, and who wrote it."""
    ours: Edits = {
        0x00020010: [element(0x00020010, b"UI", target.encode("ascii"))],
        0x00020012: [element(0x00020012, b"UI", IMPLEMENTATION_CLASS_UID.encode("ascii"))],
        0x00020013: [element(0x00020013, b"SH", IMPLEMENTATION_VERSION_NAME.encode("ascii"))],
    }
    body = b"".join(spliced(meta, ours))
    return bytes(128) + b"DICM" + element(0x00020000, b"UL", struct.pack("<I", len(body))) + body
