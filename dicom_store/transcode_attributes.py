"""The attributes that change with the pixels (PS3.3 C.7.6.1.1.5, C.7.6.3): layout, colour, lossy history."""

from __future__ import annotations

import struct
from collections.abc import Mapping

from dicom_store.conversions import JPEG_BASELINE, JPEG_EXTENDED
from dicom_store.transcode_elements import Edits, Element, element
from dicom_store.transcode_frames import (
    ALLOCATED,
    OFFSET_TABLE,
    OFFSET_TABLE_LENGTHS,
    PHOTOMETRIC,
    PIXEL_DATA,
    PLANAR,
    TOTAL_LENGTH,
    PixelModule,
    text,
)

_IMAGE_TYPE, _LOSSY, _RATIO, _METHOD = 0x00080008, 0x00282110, 0x00282112, 0x00282114
# DCT sources are lossy whether the file says so or not.
_METHODS: Mapping[str, str] = {JPEG_BASELINE: "ISO_10918_1", JPEG_EXTENDED: "ISO_10918_1"}


def description(before: PixelModule, after: PixelModule) -> Edits:
    """Elements of the pixel module that change, and those that spoke of the old encapsulation."""
    edits: Edits = {OFFSET_TABLE: [], OFFSET_TABLE_LENGTHS: [], TOTAL_LENGTH: []}
    if after.PhotometricInterpretation != before.PhotometricInterpretation:
        edits[PHOTOMETRIC] = [element(PHOTOMETRIC, b"CS", after.PhotometricInterpretation.encode("ascii"))]
    if after.PlanarConfiguration != before.PlanarConfiguration:
        edits[PLANAR] = [element(PLANAR, b"US", struct.pack("<H", after.PlanarConfiguration))]
    if after.BitsAllocated != before.BitsAllocated:
        edits[ALLOCATED] = [element(ALLOCATED, b"US", struct.pack("<H", after.BitsAllocated))]
    return edits


def lossy_source(syntax: str, elements: Mapping[int, Element], native_bytes: int) -> Edits:
    """What a lossy source must go on saying once its codestream is gone (PS3.3 C.7.6.1.1.5)."""
    if syntax not in _METHODS or text(elements, _LOSSY) == "01":
        return {}
    return _history(elements, _METHODS[syntax], native_bytes / max(1, len(elements[PIXEL_DATA].value)))


def lossy_target(elements: Mapping[int, Element], module: PixelModule, encoded_bytes: int) -> Edits:
    """What an image says once it was compressed lossily: one more step, and that it is derived."""
    ratio = module.frame_bytes * module.NumberOfFrames / max(1, encoded_bytes)
    edits = _history(elements, "ISO_10918_1", ratio)
    image_type = text(elements, _IMAGE_TYPE)
    if image_type:
        derived = "\\".join(["DERIVED", *image_type.split("\\")[1:]])
        edits[_IMAGE_TYPE] = [element(_IMAGE_TYPE, b"CS", derived.encode("ascii", "replace"))]
    return edits


def _history(elements: Mapping[int, Element], method: str, ratio: float) -> Edits:
    """One more lossy step behind the earlier ones."""
    ratios = [value for value in (text(elements, _RATIO), f"{ratio:.4g}") if value]
    methods = [value for value in (text(elements, _METHOD), method) if value]
    return {
        _LOSSY: [element(_LOSSY, b"CS", b"01")],
        _RATIO: [element(_RATIO, b"DS", "\\".join(ratios).encode("ascii", "replace"))],
        _METHOD: [element(_METHOD, b"CS", "\\".join(methods).encode("ascii", "replace"))],
    }
