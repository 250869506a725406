"""A DICOM file in another transfer syntax (PS3.5 8, 10, A): the pixels re-encoded, everything else as it was.

Runs in worker processes (`transcode_worker`), because codecs crash on what hostile files hold.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from dicom_store.conversions import (
    EXPLICIT_VR_LITTLE_ENDIAN,
    JPEG_2000,
    JPEG_2000_LOSSLESS,
    NATIVE,
    RLE_LOSSLESS,
    TranscodeFailed,
    can,
)
from dicom_store.transcode_attributes import description, lossy_source, lossy_target
from dicom_store.transcode_codecs import TARGETS, canonical, decode, encode
from dicom_store.transcode_elements import (
    UNDEFINED_LENGTH,
    Edits,
    Element,
    Piece,
    Unreadable,
    head,
    items,
    spliced,
    split,
)
from dicom_store.transcode_file import File, file_start, read_file
from dicom_store.transcode_frames import (
    DOUBLE_FLOAT_PIXEL_DATA,
    FLOAT_PIXEL_DATA,
    PIXEL_DATA,
    PixelModule,
    Samples,
    as_decoded,
    check_codable,
    check_size,
    encapsulated,
    encoded_frames,
    native_bytes,
    native_frame,
    read_pixel_module,
)

MAX_DECODED_BYTES = 2 << 30
# What a codec or a parser may raise for bytes that are not what they claim to be.
FAULTS = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)

_ICON = 0x00880200
# What is legal in the first is legal in the second (PS3.5 A.4.4): only the file meta changes.
_SAME_CODESTREAMS = frozenset({(JPEG_2000_LOSSLESS, JPEG_2000)})
_ENCAPSULATED_INSIDE = tuple(
    struct.pack("<HH2sHI", 0x7FE0, 0x0010, vr, 0, UNDEFINED_LENGTH) for vr in (b"OB", b"OW")
)


def transcode(
    data: bytes, target: str, *, lossy_quality: int = 90, max_decoded: int = MAX_DECODED_BYTES
) -> bytes:
    """The Part 10 file `data` in the transfer syntax `target`, one of `conversions.can`.

    Lossless targets are pixel-exact, proven frame by frame. `lossy_quality`: 1..100 of JPEG; `max_decoded`: bytes
    of decoded pixel data, or inflated data set, beyond which it is refused. Raises `TranscodeFailed`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return b"".join(_transcoded(data, target, lossy_quality, max_decoded))
    except Unreadable as error:
        raise TranscodeFailed(str(error)) from error
    except FAULTS as error:
        raise TranscodeFailed(f"the file cannot be converted ({type(error).__name__})") from error


def _transcoded(data: bytes, target: str, quality: int, limit: int) -> Iterable[Piece]:
    file = read_file(data, limit)
    if file.syntax == target:
        return [data]
    if not can(file.syntax, target):
        raise TranscodeFailed("that conversion is not made here")
    edits = {} if (file.syntax, target) in _SAME_CODESTREAMS else _edits(file, target, quality, limit)
    return [file_start(file.meta, target), *spliced(list(file.elements.values()), edits)]


def _edits(file: File, target: str, quality: int, limit: int) -> Edits:
    """Elements that change."""
    elements = file.elements
    has_float = FLOAT_PIXEL_DATA in elements or DOUBLE_FLOAT_PIXEL_DATA in elements
    if PIXEL_DATA not in elements:
        if target != EXPLICIT_VR_LITTLE_ENDIAN:
            raise TranscodeFailed(
                "float pixel data is native only" if has_float else "there is no pixel data"
            )
        return {}
    edits = _icon_edits(file) if file.syntax not in NATIVE else {}
    if target == EXPLICIT_VR_LITTLE_ENDIAN and file.syntax in NATIVE:
        return edits
    module = read_pixel_module(elements)
    check_size(module, limit)
    if target == EXPLICIT_VR_LITTLE_ENDIAN:
        return edits | _native_edits(file.syntax, elements, module)
    return edits | _compressed_edits(file.syntax, elements, module, target, quality)


def decoded_frames(
    syntax: str, elements: Mapping[int, Element], module: PixelModule
) -> Iterator[tuple[Samples, str]]:
    """Frames as samples, each with its PhotometricInterpretation; unused bits of native and RLE data as stored."""
    if syntax in NATIVE:
        full = module.PhotometricInterpretation.replace("_422", "")
        for index in range(module.NumberOfFrames):
            yield native_frame(module, elements[PIXEL_DATA].value, index), full
        return
    if not elements[PIXEL_DATA].undefined:
        raise TranscodeFailed("native pixel data in an encapsulated transfer syntax")
    if syntax != RLE_LOSSLESS:
        check_codable(module)
    for codestream in encoded_frames(elements, module):
        yield decode(syntax, codestream, module)


def _native_edits(syntax: str, elements: Mapping[int, Element], module: PixelModule) -> Edits:
    if module.BitsAllocated == 1:
        raise TranscodeFailed("1-bit pixel data is native only")
    frames, photometric = [], module.PhotometricInterpretation
    for samples, found in decoded_frames(syntax, elements, module):
        photometric = found
        frames.append(native_bytes(samples, module.PlanarConfiguration))
    size = sum(map(len, frames))
    vr = b"OW" if module.BitsAllocated > 8 else b"OB"
    value: list[Piece] = [head(PIXEL_DATA, vr, size + size % 2), *frames, b"\0" * (size % 2)]
    return (
        description(module, replace(module, PhotometricInterpretation=photometric))
        | lossy_source(syntax, elements, size)
        | {PIXEL_DATA: value}
    )


def _compressed_edits(
    syntax: str, elements: Mapping[int, Element], module: PixelModule, target: str, quality: int
) -> Edits:
    check_codable(module)
    _refuse_embedded_overlays(elements)
    row = TARGETS[target]
    leaving = replace(module, BitsAllocated=8) if row.narrow and module.BitsStored <= 8 else module
    codestreams, decoded = [], leaving
    for samples, photometric in decoded_frames(syntax, elements, module):
        decoded = as_decoded(leaving, photometric)
        exact = canonical(samples, module.BitsStored).astype(decoded.dtype)
        codestreams.append(encode(target, exact, decoded, quality))
    lossy = lossy_target(elements, module, sum(map(len, codestreams))) if row.lossy else {}
    native_size = module.frame_bytes * module.NumberOfFrames
    return (
        description(module, replace(decoded, PhotometricInterpretation=row.declares(decoded)))
        | (lossy or lossy_source(syntax, elements, native_size))
        | {PIXEL_DATA: [head(PIXEL_DATA, b"OB", UNDEFINED_LENGTH), *encapsulated(codestreams)]}
    )


def _refuse_embedded_overlays(elements: Mapping[int, Element]) -> None:
    """Overlays in unused bits of the pixels (retired, PS3.3 C.9.2) would be lost."""
    for group in range(0x6000, 0x6020, 2):
        if group << 16 | 0x0102 in elements and group << 16 | 0x3000 not in elements:
            raise TranscodeFailed("an overlay is embedded in the pixel data")


def _icon_edits(file: File) -> Edits:
    """An icon encapsulated in the old transfer syntax becomes native; elsewhere in sequences it is refused."""
    edits: Edits = {}
    for found in file.elements.values():
        if found.vr not in (b"SQ", b"UN") or not any(
            mark in bytes(found.raw) for mark in _ENCAPSULATED_INSIDE
        ):
            continue
        if found.tag != _ICON or found.vr != b"SQ":
            raise TranscodeFailed("encapsulated pixel data inside a sequence")
        edits[_ICON] = list(_native_icon(file.syntax, found))
    return edits


def _native_icon(syntax: str, icon: Element) -> Iterator[Piece]:
    yield head(_ICON, b"SQ", UNDEFINED_LENGTH)
    for item in items(icon):
        elements = {found.tag: found for found in split(item)}
        edits: Edits = {}
        if PIXEL_DATA in elements and elements[PIXEL_DATA].undefined:
            module = read_pixel_module(elements)
            check_size(module, 16 << 20)
            edits = _native_edits(syntax, elements, module)
        content = b"".join(spliced(list(elements.values()), edits))
        yield struct.pack("<HHI", 0xFFFE, 0xE000, len(content)) + content
    yield struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
