"""The beginning of a DICOM file (PS3.10 7.1): preamble, prefix, file meta; then the data set as received."""

from __future__ import annotations

import struct

from dicom_store.instance import InstanceHeader

IMPLEMENTATION_CLASS_UID = "2.25.329359049293460223891689012542539406456"
IMPLEMENTATION_VERSION_NAME = "DRIMBOX_1"

_PREAMBLE = bytes(128) + b"DICM"


def file_start(header: InstanceHeader, source_ae_title: str = "") -> bytes:
    """Preamble, `DICM` and file meta of an instance. `source_ae_title`: who sent it, "" = not recorded."""
    elements = [
        struct.pack("<HH2sHI", 0x0002, 0x0001, b"OB", 0, 2) + b"\x00\x01",
        _text(0x0002, b"UI", header.SOPClassUID),
        _text(0x0003, b"UI", header.SOPInstanceUID),
        _text(0x0010, b"UI", header.TransferSyntaxUID),
        _text(0x0012, b"UI", IMPLEMENTATION_CLASS_UID),
        _text(0x0013, b"SH", IMPLEMENTATION_VERSION_NAME),
    ]
    if source_ae_title:
        elements.append(_text(0x0016, b"AE", source_ae_title))
    meta = b"".join(elements)
    return _PREAMBLE + struct.pack("<HH2sHI", 0x0002, 0x0000, b"UL", 4, len(meta)) + meta


def _text(number: int, vr: bytes, text: str) -> bytes:
    value = text.encode("ascii")
    value += (b"\0" if vr == b"UI" else b" ") * (len(value) % 2)
    return struct.pack("<HH2sH", 0x0002, number, vr, len(value)) + value
