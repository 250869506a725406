"""The image pixel module (PS3.3 C.7.6.3) of a data set, and its frames, still encoded or native.

Everything is checked against Rows, Columns, NumberOfFrames and the bits before a pixel is decoded.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from pydicom.encaps import generate_frames, get_frame

from dicom_store.conversions import TranscodeFailed
from dicom_store.transcode_elements import Element

Samples = NDArray[np.integer]

PIXEL_DATA, FLOAT_PIXEL_DATA, DOUBLE_FLOAT_PIXEL_DATA = 0x7FE00010, 0x7FE00008, 0x7FE00009
OFFSET_TABLE, OFFSET_TABLE_LENGTHS, TOTAL_LENGTH = 0x7FE00001, 0x7FE00002, 0x7FE00003
PHOTOMETRIC, PLANAR, ALLOCATED = 0x00280004, 0x00280006, 0x00280100
_SAMPLES: Mapping[str, int] = {  # PhotometricInterpretation known here: its SamplesPerPixel
    **dict.fromkeys(("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR"), 1),
    **dict.fromkeys(("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT"), 3),
}


@dataclass(frozen=True, slots=True)
class PixelModule:
    """The attributes of PS3.3 C.7.6.3 that say how pixels are laid out; names are their keywords."""

    Rows: int
    Columns: int
    SamplesPerPixel: int
    NumberOfFrames: int
    PhotometricInterpretation: str
    PlanarConfiguration: int
    BitsAllocated: int
    BitsStored: int
    HighBit: int
    PixelRepresentation: int

    @property
    def dtype(self) -> np.dtype[np.integer]:
        """Of one sample, little endian."""
        return np.dtype(f"<{'i' if self.PixelRepresentation else 'u'}{self.BitsAllocated // 8}")

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one frame, colour by pixel."""
        plane = (self.Rows, self.Columns)
        return plane if self.SamplesPerPixel == 1 else (*plane, self.SamplesPerPixel)

    @property
    def frame_bytes(self) -> int:
        """Of one native frame, chroma not subsampled."""
        return (self.Rows * self.Columns * self.SamplesPerPixel * self.BitsAllocated + 7) // 8


def read_pixel_module(elements: Mapping[int, Element]) -> PixelModule:
    """The pixel module of a data set. Raises `TranscodeFailed` when it is not there or contradicts itself."""
    allocated = _unsigned(elements, ALLOCATED, "BitsAllocated")
    stored = _unsigned(elements, 0x00280101, "BitsStored", allocated)
    module = PixelModule(
        Rows=_unsigned(elements, 0x00280010, "Rows"),
        Columns=_unsigned(elements, 0x00280011, "Columns"),
        SamplesPerPixel=_unsigned(elements, 0x00280002, "SamplesPerPixel", 1),
        NumberOfFrames=_frames(elements),
        PhotometricInterpretation=text(elements, PHOTOMETRIC),
        PlanarConfiguration=_unsigned(elements, PLANAR, "PlanarConfiguration", 0),
        BitsAllocated=allocated,
        BitsStored=stored,
        HighBit=_unsigned(elements, 0x00280102, "HighBit", stored - 1 if stored else 0),
        PixelRepresentation=_unsigned(elements, 0x00280103, "PixelRepresentation", 0),
    )
    faults = list(_faults(module))
    if faults:
        raise TranscodeFailed("; ".join(faults))
    return module


def _faults(module: PixelModule) -> Iterator[str]:
    if not (module.Rows and module.Columns and module.NumberOfFrames > 0):
        yield "Rows, Columns and NumberOfFrames must be positive"
    if module.BitsAllocated not in (1, 8, 16, 32, 64):
        yield "BitsAllocated must be 1, 8, 16, 32 or 64"
    elif not 1 <= module.BitsStored <= module.BitsAllocated:
        yield "BitsStored must be at least 1 and not above BitsAllocated"
    if module.PixelRepresentation not in (0, 1) or module.PlanarConfiguration not in (0, 1):
        yield "PixelRepresentation and PlanarConfiguration must be 0 or 1"


def check_codable(module: PixelModule) -> None:
    """What the codecs here take beyond native data. Raises `TranscodeFailed` with every reason."""
    reasons = []
    if _SAMPLES.get(module.PhotometricInterpretation) != module.SamplesPerPixel:
        reasons.append("PhotometricInterpretation is not supported with that SamplesPerPixel")
    if module.BitsAllocated not in (8, 16):
        reasons.append("BitsAllocated other than 8 or 16 has no compressed form here")
    if module.HighBit != module.BitsStored - 1:
        reasons.append("HighBit is not BitsStored - 1")
    if reasons:
        raise TranscodeFailed("; ".join(reasons))


def check_size(module: PixelModule, limit: int) -> None:
    """Refuses what would not fit in `limit` bytes once decoded. Raises `TranscodeFailed`."""
    if module.frame_bytes * module.NumberOfFrames > limit:
        raise TranscodeFailed("the decoded pixel data is larger than allowed")


def native_frame(module: PixelModule, value: memoryview, index: int) -> Samples:
    """Frame `index` (from 0) of native pixel data, colour by pixel; 4:2:2 becomes 4:4:4 by repetition.

    Raises `TranscodeFailed` when the value is shorter than that.
    """
    subsampled = module.PhotometricInterpretation == "YBR_FULL_422"
    size = module.frame_bytes * 2 // 3 if subsampled else module.frame_bytes
    start = index * size
    if start + size > len(value) or (subsampled and module.Columns % 2):
        raise TranscodeFailed("the pixel data is shorter than Rows, Columns and NumberOfFrames say")
    samples = np.frombuffer(value[start : start + size], module.dtype)
    if subsampled:
        return _full_chroma(samples).reshape(module.shape)
    if module.SamplesPerPixel > 1 and module.PlanarConfiguration == 1:
        planes = samples.reshape(module.SamplesPerPixel, module.Rows, module.Columns)
        return np.ascontiguousarray(planes.transpose(1, 2, 0))
    return samples.reshape(module.shape)


def native_bytes(samples: Samples, planar_configuration: int) -> bytes:
    """A decoded frame as it is stored natively.

    Colours are laid out as the source says: who asks for frames alone knows the metadata of the stored instance.
    """
    if samples.ndim == 3 and planar_configuration == 1:
        samples = samples.transpose(2, 0, 1)
    return samples.tobytes()


def _full_chroma(samples: Samples) -> Samples:
    """Y1 Y2 Cb Cr (PS3.3 C.7.6.3.1.2) → Y1 Cb Cr Y2 Cb Cr."""
    return np.ascontiguousarray(samples.reshape(-1, 4)[:, [0, 2, 3, 1, 2, 3]])


def encoded_frames(elements: Mapping[int, Element], module: PixelModule) -> Iterator[bytes]:
    """The codestream of each frame of encapsulated pixel data.

    Raises `TranscodeFailed` when there are not NumberOfFrames, ValueError when they cannot be told apart.
    """
    count = 0
    value = bytes(elements[PIXEL_DATA].value)
    for count, frame in enumerate(
        generate_frames(value, number_of_frames=module.NumberOfFrames, extended_offsets=_extended(elements)),
        1,
    ):
        if count > module.NumberOfFrames:
            break
        yield frame
    if count != module.NumberOfFrames:
        raise TranscodeFailed("the number of encoded frames is not NumberOfFrames")


def encoded_frame(elements: Mapping[int, Element], module: PixelModule, index: int) -> bytes:
    """The codestream of one frame, `index` from 0. Raises ValueError when it cannot be found."""
    frame: bytes = get_frame(
        bytes(elements[PIXEL_DATA].value),
        index,
        number_of_frames=module.NumberOfFrames,
        extended_offsets=_extended(elements),
    )
    return frame


def _extended(elements: Mapping[int, Element]) -> tuple[bytes, bytes] | None:
    if OFFSET_TABLE not in elements or OFFSET_TABLE_LENGTHS not in elements:
        return None
    return bytes(elements[OFFSET_TABLE].value), bytes(elements[OFFSET_TABLE_LENGTHS].value)


def encapsulated(fragments: Sequence[bytes]) -> list[bytes | memoryview]:
    """Value of encapsulated pixel data: basic offset table, one fragment per frame, delimiter (PS3.5 A.4).

    Raises `TranscodeFailed` beyond the 4 GB that a basic offset table can say.
    """
    padded = [len(fragment) + len(fragment) % 2 for fragment in fragments]
    offsets, position = [], 0
    for size in padded:
        offsets.append(position)
        position += 8 + size
    if position > 0xFFFFFFFE:
        raise TranscodeFailed("the encoded pixel data is larger than a basic offset table can say")
    pieces: list[bytes | memoryview] = [
        struct.pack("<HHI", 0xFFFE, 0xE000, 4 * len(offsets)),
        struct.pack(f"<{len(offsets)}I", *offsets),
    ]
    for fragment, size in zip(fragments, padded, strict=True):
        pieces += (struct.pack("<HHI", 0xFFFE, 0xE000, size), fragment, b"\0" * (size - len(fragment)))
    return [*pieces, struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)]


def as_decoded(module: PixelModule, photometric: str) -> PixelModule:
    """The module of decoded frames: colour by pixel, in that PhotometricInterpretation."""
    return replace(module, PhotometricInterpretation=photometric, PlanarConfiguration=0)


def text(elements: Mapping[int, Element], tag: int) -> str:
    """A CS, DS or IS as text, "" when absent."""
    return (
        bytes(elements[tag].value[:1024]).decode("ascii", "replace").strip("\0 ") if tag in elements else ""
    )


def _frames(elements: Mapping[int, Element]) -> int:
    number = text(elements, 0x00280008).split("\\")[0].strip() or "1"
    if not (number.isascii() and number.isdigit() and len(number) < 10):
        raise TranscodeFailed("NumberOfFrames is not a number")
    return int(number)


def _unsigned(elements: Mapping[int, Element], tag: int, keyword: str, default: int | None = None) -> int:
    if tag not in elements or not len(elements[tag].value):
        if default is None:
            raise TranscodeFailed(f"{keyword} is missing")
        return default
    value = elements[tag].value
    if len(value) < 2 or elements[tag].vr not in (b"US", b"SS", b"UN"):
        raise TranscodeFailed(f"{keyword} is not a number")
    return int.from_bytes(value[:2], "little")
