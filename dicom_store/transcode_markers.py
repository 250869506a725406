"""What a JPEG, JPEG-LS or JPEG 2000 codestream says of itself, read from its markers before it is decoded."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from dicom_store.conversions import TranscodeFailed

_STANDALONE = frozenset({0x01, *range(0xD0, 0xD9)})
_FRAME = frozenset({0xF7, *range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})  # SOFn, SOF55 (JPEG-LS)
_SCAN, _END_OF_IMAGE, _APP0 = 0xDA, b"\xff\xd9", 0xE0
_J2K, _JP2 = b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0cjP  "


@dataclass(frozen=True, slots=True)
class CodestreamHeader:
    """`precision`: bits per sample; `signed`: JPEG 2000 only; `component_ids`, `jfif`: JPEG only."""

    rows: int
    columns: int
    components: int
    precision: int
    signed: bool = False
    component_ids: bytes = b""
    jfif: bool = False


def read_jpeg_header(codestream: bytes) -> CodestreamHeader:
    """Header of a JPEG or JPEG-LS codestream, which must also have its end. Raises `TranscodeFailed`."""
    if not codestream.startswith(b"\xff\xd8"):
        raise TranscodeFailed("a frame is not a JPEG codestream")
    if not codestream.rstrip(b"\x00\xff").endswith(_END_OF_IMAGE):
        raise TranscodeFailed("a frame is cut short")
    position, jfif = 2, False
    while position + 4 <= len(codestream):
        prefix, marker, length = struct.unpack_from(">BBH", codestream, position)
        if prefix != 0xFF or marker == _SCAN:
            break
        if marker == 0xFF or marker in _STANDALONE:  # fill byte; marker without segment
            position += 1 if marker == 0xFF else 2
            continue
        jfif = jfif or (marker == _APP0 and codestream[position + 4 : position + 8] == b"JFIF")
        if marker in _FRAME:
            return _frame_header(codestream, position + 4, jfif)
        position += 2 + length
    raise TranscodeFailed("a frame has no frame header")


def _frame_header(codestream: bytes, position: int, jfif: bool) -> CodestreamHeader:
    precision, rows, columns, components = struct.unpack_from(">BHHB", codestream, position)
    ids = codestream[position + 6 : position + 6 + 3 * components : 3]
    return CodestreamHeader(rows, columns, components, precision, component_ids=ids, jfif=jfif)


def read_j2k_header(codestream: bytes) -> CodestreamHeader:
    """SIZ of a JPEG 2000 codestream (ITU-T T.800 A.5.1), also of one wrapped in JP2. Raises `TranscodeFailed`."""
    start = codestream.find(_J2K, 0, 4096) if codestream.startswith(_JP2) else 0
    if start < 0 or codestream[start : start + 4] != _J2K or len(codestream) < start + 44:
        raise TranscodeFailed("a frame is not a JPEG 2000 codestream")
    right, bottom, left, top = struct.unpack_from(">4I", codestream, start + 8)
    components, depth = struct.unpack_from(">HB", codestream, start + 40)
    return CodestreamHeader(
        bottom - top, right - left, components, (depth & 0x7F) + 1, signed=bool(depth & 0x80)
    )
