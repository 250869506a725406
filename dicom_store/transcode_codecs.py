"""One frame ↔ one codestream, per transfer syntax, by the codec that does it right.

JPEG: GDCM. JPEG-LS: CharLS (pyjpegls). JPEG 2000: OpenJPEG (pylibjpeg-openjpeg). RLE: pydicom. JPEG baseline
out: Pillow. What was encoded losslessly is decoded again, by another library where there is one, and compared.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import jpeg_ls  # type: ignore[import-untyped]
import numpy as np
from openjpeg.utils import decode_pixel_data, encode_array
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.pixels import convert_color_space, get_decoder
from pydicom.uid import RLELossless

from dicom_store.conversions import (
    JPEG_2000,
    JPEG_2000_LOSSLESS,
    JPEG_BASELINE,
    JPEG_EXTENDED,
    JPEG_LOSSLESS,
    JPEG_LOSSLESS_SV1,
    JPEG_LS_LOSSLESS,
    JPEG_LS_NEAR_LOSSLESS,
    RLE_LOSSLESS,
    TranscodeFailed,
)
from dicom_store.transcode_frames import PixelModule, Samples
from dicom_store.transcode_gdcm import gdcm_decode, gdcm_encode
from dicom_store.transcode_markers import CodestreamHeader, read_j2k_header, read_jpeg_header

_YBR = ("YBR_FULL", "YBR_FULL_422")
_J2K_MINIMUM = 32  # rows and columns: OpenJPEG halves five times
_RGB_IDS = (b"RGB", b"rgb")


def canonical(samples: Samples, bits: int) -> Samples:
    """Samples with the bits above `bits` as the sign, or 0 (PS3.5 8.1.1: those of a file mean nothing)."""
    shift = 8 * samples.dtype.itemsize - bits
    return samples if shift <= 0 else (samples << shift) >> shift


def decode(syntax: str, codestream: bytes, module: PixelModule) -> tuple[Samples, str]:
    """One frame: samples (rows, columns[, 3]) in `module.dtype`, and the PhotometricInterpretation they have.

    Raises `TranscodeFailed`; codecs raise ValueError and RuntimeError besides.
    """
    return _DECODERS[syntax](syntax, codestream, module)


def _check(header: CodestreamHeader, module: PixelModule) -> None:
    said = (module.Rows, module.Columns, module.SamplesPerPixel)
    if (header.rows, header.columns, header.components) != said:
        raise TranscodeFailed("a frame has other dimensions than the data set says")
    if not 1 <= header.precision <= module.BitsAllocated:
        raise TranscodeFailed("a frame has more bits than BitsAllocated")


def _shaped(buffer: bytes | bytearray, dtype: np.dtype[np.integer], module: PixelModule) -> Samples:
    size = dtype.itemsize * module.Rows * module.Columns * module.SamplesPerPixel
    if not size <= len(buffer) <= size + 1:  # GDCM pads
        raise TranscodeFailed("a frame was not decoded to its size")
    return np.frombuffer(buffer, dtype, size // dtype.itemsize).reshape(module.shape)


def _decode_rle(syntax: str, codestream: bytes, module: PixelModule) -> tuple[Samples, str]:
    samples, _ = get_decoder(RLELossless).as_array(
        encapsulate([codestream], has_bot=False),
        raw=True,
        correct_unused_bits=False,
        decoding_plugin="pydicom",
        pixel_keyword="PixelData",
        rows=module.Rows,
        columns=module.Columns,
        number_of_frames=1,
        samples_per_pixel=module.SamplesPerPixel,
        photometric_interpretation=module.PhotometricInterpretation,
        planar_configuration=module.PlanarConfiguration,
        bits_allocated=module.BitsAllocated,
        bits_stored=module.BitsStored,
        pixel_representation=module.PixelRepresentation,
    )
    return np.ascontiguousarray(samples), module.PhotometricInterpretation


def _decode_jpeg(syntax: str, codestream: bytes, module: PixelModule) -> tuple[Samples, str]:
    header = read_jpeg_header(codestream)
    _check(header, module)
    samples = _shaped(gdcm_decode(syntax, codestream, module), module.dtype, module)
    stated = module.PhotometricInterpretation
    if module.SamplesPerPixel == 1:
        return canonical(samples, module.BitsStored), stated
    if syntax in (JPEG_LOSSLESS, JPEG_LOSSLESS_SV1):
        return samples, "YBR_FULL" if stated in _YBR else "RGB"
    return _as_rgb(samples, header, stated), "RGB"


def _as_rgb(samples: Samples, header: CodestreamHeader, stated: str) -> Samples:
    """Components of a DCT codestream as RGB: its marks tell more than the data set (as pydicom reads them)."""
    coded_rgb = header.component_ids in _RGB_IDS or (stated not in _YBR and not header.jfif)
    rgb: Samples = samples if coded_rgb else convert_color_space(samples.copy(), "YBR_FULL", "RGB")
    return rgb


def _decode_jpeg_ls(syntax: str, codestream: bytes, module: PixelModule) -> tuple[Samples, str]:
    header = read_jpeg_header(codestream)
    _check(header, module)
    buffer, info = jpeg_ls.decode_pixel_data(codestream)
    signed, width = module.PixelRepresentation, 1 if header.precision <= 8 else 2
    samples = _shaped(bytes(buffer), np.dtype(f"<{'i' if signed else 'u'}{width}"), module)
    if module.SamplesPerPixel > 1 and info["interleave_mode"] == 0:
        planes = samples.reshape(module.SamplesPerPixel, module.Rows, module.Columns)
        samples = np.ascontiguousarray(planes.transpose(1, 2, 0))
    if signed:  # JPEG-LS knows no sign
        samples = canonical(samples, header.precision)
    return samples.astype(module.dtype), _full(module.PhotometricInterpretation)


def _decode_j2k(syntax: str, codestream: bytes, module: PixelModule) -> tuple[Samples, str]:
    header = read_j2k_header(codestream)
    _check(header, module)
    signed, width = module.PixelRepresentation, 1 if header.precision <= 8 else 2
    if header.precision > 16:
        raise TranscodeFailed("more than 16 bits per sample")
    buffer = decode_pixel_data(codestream, version=2)
    samples = _shaped(bytes(buffer), np.dtype(f"<{'i' if signed else 'u'}{width}"), module)
    if header.signed != bool(signed):  # some writers forget the sign; the bits are right
        samples = canonical(samples, header.precision)
    transformed = module.PhotometricInterpretation in ("YBR_RCT", "YBR_ICT")
    return samples.astype(module.dtype), "RGB" if transformed else _full(module.PhotometricInterpretation)


def _full(photometric: str) -> str:
    return "YBR_FULL" if photometric == "YBR_FULL_422" else photometric


_Decoder = Callable[[str, bytes, PixelModule], tuple[Samples, str]]
_DECODERS: Mapping[str, _Decoder] = {
    RLE_LOSSLESS: _decode_rle,
    **dict.fromkeys((JPEG_BASELINE, JPEG_EXTENDED, JPEG_LOSSLESS, JPEG_LOSSLESS_SV1), _decode_jpeg),
    **dict.fromkeys((JPEG_LS_LOSSLESS, JPEG_LS_NEAR_LOSSLESS), _decode_jpeg_ls),
    **dict.fromkeys((JPEG_2000_LOSSLESS, JPEG_2000), _decode_j2k),
}


@dataclass(frozen=True, slots=True)
class Target:
    """How one transfer syntax is written. `declared`: PhotometricInterpretation that encoding changes, as what.

    `narrow`: samples of at most 8 bits are declared with BitsAllocated 8, which decoders give back.
    """

    encode: Callable[[Samples, PixelModule, int], bytes]
    check: Callable[[bytes, Samples, PixelModule], bool]
    declared: Mapping[str, str] = field(default_factory=dict)
    narrow: bool = False
    lossy: bool = False

    def declares(self, module: PixelModule) -> str:
        """PhotometricInterpretation of the encoded image."""
        return self.declared.get(module.PhotometricInterpretation, module.PhotometricInterpretation)


def encode(target: str, samples: Samples, module: PixelModule, quality: int) -> bytes:
    """The codestream of one frame, proven: decoded again it gives the same samples (lossy: the same shape).

    `samples`: canonical; `module`: theirs, BitsAllocated as they leave. Raises `TranscodeFailed`.
    """
    row = TARGETS[target]
    codestream = row.encode(np.ascontiguousarray(samples), module, quality)
    if not row.check(codestream, samples, module):
        raise TranscodeFailed("the encoded frame is not the same image when decoded")
    return codestream


def _encode_jpeg_lossless(samples: Samples, module: PixelModule, quality: int) -> bytes:
    return gdcm_encode(JPEG_LOSSLESS_SV1, samples.tobytes(), module)


def _same_by_gdcm(syntax: str, codestream: bytes, samples: Samples, module: PixelModule) -> bool:
    decoded = _shaped(gdcm_decode(syntax, codestream, module), module.dtype, module)
    return np.array_equal(decoded, samples)


def _check_jpeg_lossless(codestream: bytes, samples: Samples, module: PixelModule) -> bool:
    read_jpeg_header(codestream)
    return _same_by_gdcm(JPEG_LOSSLESS_SV1, codestream, samples, module)


def _encode_jpeg_ls(samples: Samples, module: PixelModule, quality: int) -> bytes:
    unsigned = samples.view(f"<u{samples.dtype.itemsize}") & ((1 << module.BitsStored) - 1)
    encoded = jpeg_ls.encode_pixel_data(
        unsigned.astype(f"<u{samples.dtype.itemsize}").tobytes(),
        rows=module.Rows,
        columns=module.Columns,
        samples_per_pixel=module.SamplesPerPixel,
        bits_stored=max(module.BitsStored, 2),  # ITU-T T.87 C.2.2: precision 2 to 16
        planar_configuration=0,
        lossy_error=0,
    )
    return bytes(encoded)


def _check_jpeg_ls(codestream: bytes, samples: Samples, module: PixelModule) -> bool:
    if module.BitsStored < 8:  # GDCM does not read these
        return np.array_equal(_decode_jpeg_ls(JPEG_LS_LOSSLESS, codestream, module)[0], samples)
    decoded = _shaped(gdcm_decode(JPEG_LS_LOSSLESS, codestream, module), module.dtype, module)
    return np.array_equal(canonical(decoded, module.BitsStored), samples)


def _encode_j2k(samples: Samples, module: PixelModule, quality: int) -> bytes:
    if min(module.Rows, module.Columns) < _J2K_MINIMUM:
        raise TranscodeFailed("so small an image has no JPEG 2000 form here")
    colour = {"RGB": 1, "YBR_FULL": 3}.get(module.PhotometricInterpretation, 2)
    encoded: bytes = encode_array(
        samples, bits_stored=module.BitsStored, photometric_interpretation=colour, use_mct=colour == 1
    )
    return encoded


def _check_j2k(codestream: bytes, samples: Samples, module: PixelModule) -> bool:
    return _same_by_gdcm(JPEG_2000_LOSSLESS, codestream, samples, module)


_MODES = {"MONOCHROME1": "L", "MONOCHROME2": "L", "RGB": "RGB", "YBR_FULL": "YCbCr"}


def _encode_jpeg_baseline(samples: Samples, module: PixelModule, quality: int) -> bytes:
    mode = _MODES.get(module.PhotometricInterpretation)
    if mode is None or (module.BitsStored, module.PixelRepresentation) != (8, 0):
        raise TranscodeFailed("JPEG baseline takes unsigned 8-bit grey or colour only")
    image = Image.frombytes(mode, (module.Columns, module.Rows), samples.tobytes())
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality, **({} if mode == "L" else {"subsampling": "4:2:2"}))
    return out.getvalue()


def _check_jpeg_baseline(codestream: bytes, samples: Samples, module: PixelModule) -> bool:
    return _decode_jpeg(JPEG_BASELINE, codestream, module)[0].shape == samples.shape


_SUBSAMPLED = dict.fromkeys(("RGB", "YBR_FULL"), "YBR_FULL_422")
_J2K = Target(_encode_j2k, _check_j2k, declared={"RGB": "YBR_RCT"}, narrow=True)
TARGETS: Mapping[str, Target] = {
    JPEG_LOSSLESS_SV1: Target(_encode_jpeg_lossless, _check_jpeg_lossless),
    JPEG_LS_LOSSLESS: Target(_encode_jpeg_ls, _check_jpeg_ls, narrow=True),
    JPEG_2000_LOSSLESS: _J2K,
    JPEG_2000: _J2K,
    JPEG_BASELINE: Target(_encode_jpeg_baseline, _check_jpeg_baseline, declared=_SUBSAMPLED, lossy=True),
}
