"""The beginning of a DICOM file (PS3.10 7.1): preamble, prefix, file meta; then the data set as received."""

from __future__ import annotations

import struct
from io import BytesIO

from pydicom.filereader import dcmread

from dicom_store.instance import InstanceHeader
from dicom_store.scanner import Buffer

IMPLEMENTATION_CLASS_UID = "2.25.329359049293460223891689012542539406456"
IMPLEMENTATION_VERSION_NAME = "DRIMBOX_1"

_PREAMBLE = bytes(128) + b"DICM"
_BEGINNING = b"DICM" + struct.pack("<HH2sH", 0x0002, 0x0000, b"UL", 4)
_META_START = 144  # after preamble, prefix and group length


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


def data_set_offset(file: Buffer) -> int:
    """Where the data set begins in a file that begins as `file_start` made it, in bytes. Raises ValueError."""
    if bytes(file[128:140]) != _BEGINNING:
        raise ValueError("not the beginning of a DICOM file")
    return _META_START + int(struct.unpack("<I", file[140:_META_START])[0])


def said_by_meta(file: Buffer) -> tuple[str, str, str]:
    """(transfer syntax, SOP class, SOP instance) of a DICOM file of ours: UIDs. Raises ValueError."""
    meta = dcmread(BytesIO(bytes(file[: data_set_offset(file)]))).file_meta
    return (
        str(meta.TransferSyntaxUID),
        str(meta.MediaStorageSOPClassUID),
        str(meta.MediaStorageSOPInstanceUID),
    )


def _text(number: int, vr: bytes, text: str) -> bytes:
    value = text.encode("ascii")
    value += (b"\0" if vr == b"UI" else b" ") * (len(value) % 2)
    return struct.pack("<HH2sH", 0x0002, number, vr, len(value)) + value
