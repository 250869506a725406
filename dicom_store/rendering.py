"""One frame of a DICOM file as a picture to look at (PS3.18 8.3.5): modality, VOI, then 8 bits.

Runs in worker processes. Overlays, annotations and presentation states are not applied.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi, convert_color_space

from dicom_store.conversions import NATIVE, RLE_LOSSLESS, TranscodeFailed
from dicom_store.render_params import RenderParams, Viewport, Window
from dicom_store.transcode import FAULTS, MAX_DECODED_BYTES
from dicom_store.transcode_codecs import canonical, decode
from dicom_store.transcode_elements import Element
from dicom_store.transcode_file import File, file_start, read_file
from dicom_store.transcode_frames import (
    PIXEL_DATA,
    PixelModule,
    Samples,
    check_codable,
    encoded_frame,
    native_frame,
    read_pixel_module,
)

Values = NDArray[np.float64]
_EXPLICIT = "1.2.840.10008.1.2.1"
_FIRST_PIXELS = 0x7FE00000
_MAX_PICTURE = 64_000_000  # pixels of one frame rendered
_FORMATS = {"image/jpeg": "JPEG", "image/png": "PNG"}
_BITS = 8


def render(data: bytes, frame: int | None, params: RenderParams) -> bytes:
    """Frame `frame` (from 1; None = RepresentativeFrameNumber, or the first) as `params.media_type`.

    Raises `TranscodeFailed`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _rendered(data, frame, params)
    except FAULTS as error:
        raise TranscodeFailed(f"the image cannot be rendered ({type(error).__name__})") from error


def _rendered(data: bytes, frame: int | None, params: RenderParams) -> bytes:
    file = read_file(data, MAX_DECODED_BYTES)
    if PIXEL_DATA not in file.elements:
        raise TranscodeFailed("there is no pixel data to render")
    module, attributes = read_pixel_module(file.elements), _attributes(file)
    number = frame or int(attributes.get("RepresentativeFrameNumber") or 1)
    if not 1 <= number <= module.NumberOfFrames:
        raise TranscodeFailed("there is no such frame")
    if module.Rows * module.Columns > _MAX_PICTURE:
        raise TranscodeFailed("the image is too large to be rendered")
    samples, photometric = _frame(file.syntax, file.elements, module, number - 1)
    picture = Image.fromarray(_eight_bits(samples, photometric, attributes, number - 1, params.window))
    return _encoded(_fitted(picture, params.viewport, _pixel_aspect(attributes)), params)


def _attributes(file: File) -> Dataset:
    """Everything but the pixels, read by pydicom."""
    content = b"".join(element.raw for tag, element in file.elements.items() if tag < _FIRST_PIXELS)
    return dcmread(io.BytesIO(file_start(file.meta, _EXPLICIT) + content))


def _frame(
    syntax: str, elements: Mapping[int, Element], module: PixelModule, index: int
) -> tuple[Samples, str]:
    if module.BitsAllocated not in (8, 16, 32):
        raise TranscodeFailed("BitsAllocated must be 8, 16 or 32 to be rendered")
    if syntax in NATIVE:
        photometric = module.PhotometricInterpretation.replace("_422", "")
        samples = native_frame(module, elements[PIXEL_DATA].value, index)
    else:
        if syntax != RLE_LOSSLESS:
            check_codable(module)
        samples, photometric = decode(syntax, encoded_frame(elements, module, index), module)
    return canonical(samples, module.BitsStored), photometric


def _eight_bits(
    samples: Samples, photometric: str, attributes: Dataset, index: int, window: Window | None
) -> NDArray[np.uint8]:
    if photometric == "PALETTE COLOR":
        coloured = apply_color_lut(samples, attributes)
        palette: NDArray[np.uint8] = (coloured >> 8 * (coloured.dtype.itemsize - 1)).astype(np.uint8)
        return palette
    if photometric == "YBR_FULL":
        samples, photometric = convert_color_space(samples.copy(), "YBR_FULL", "RGB"), "RGB"
    if photometric == "RGB":
        return (samples >> max(0, int(attributes.BitsStored) - _BITS)).astype(np.uint8)
    if photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise TranscodeFailed("PhotometricInterpretation cannot be rendered")
    grey = _grey(samples, attributes, index, window)
    return 255 - grey if photometric == "MONOCHROME1" else grey


def _grey(samples: Samples, attributes: Dataset, index: int, window: Window | None) -> NDArray[np.uint8]:
    """Modality LUT or rescale, then the window asked, the VOI of the file, or the range of the frame."""
    look = _look(attributes, index)
    values = apply_modality_lut(samples, look)
    if window is None and look.get("VOILUTSequence"):
        bits = int(look.VOILUTSequence[0].LUTDescriptor[2])
        looked_up: NDArray[np.uint8] = (apply_voi(values, look) >> max(0, bits - _BITS)).astype(np.uint8)
        return looked_up
    window = window or _stored_window(look) or _whole_range(values, samples, attributes)
    return (windowed(values.astype(np.float64), window) * 255 + 0.5).astype(np.uint8)


def windowed(values: Values, window: Window) -> Values:
    """0..1 by the functions of PS3.3 C.11.2.1.2 and C.11.2.1.3."""
    center, width = window.center, window.width
    if window.function == "SIGMOID":
        result: Values = 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -700, 700)))
        return result
    if window.function == "LINEAR_EXACT":
        return np.clip((values - center) / width + 0.5, 0, 1)
    if width <= 1:
        return (values > center - 0.5).astype(np.float64)
    return np.clip((values - (center - 0.5)) / (width - 1) + 0.5, 0, 1)


def _stored_window(look: Dataset) -> Window | None:
    center, width = _first(look.get("WindowCenter")), _first(look.get("WindowWidth"))
    if center is None or width is None or width <= 0:
        return None
    function = look.get("VOILUTFunction")
    return Window(center, width, function if function in ("SIGMOID", "LINEAR_EXACT") else "LINEAR")


def _first(value: object) -> float | None:
    several = isinstance(value, list | tuple) or (hasattr(value, "__iter__") and not isinstance(value, str))
    first = next(iter(value), None) if several else value  # type: ignore[call-overload]
    return None if first in (None, "") else float(first)  # type: ignore[arg-type]


def _whole_range(values: NDArray[np.generic], samples: Samples, attributes: Dataset) -> Window:
    padding = attributes.get("PixelPaddingValue")
    kept = values[samples != padding] if isinstance(padding, int) else values
    shown = (kept if kept.size else values).astype(np.float64)
    low, high = float(shown.min()), float(shown.max())
    return Window((low + high) / 2, max(high - low, 1.0), "LINEAR_EXACT")


_MACROS = ("PixelValueTransformationSequence", "FrameVOILUTSequence")


def _look(attributes: Dataset, index: int) -> Dataset:
    """What decides of the greys of a frame: per frame, shared by all frames (PS3.3 C.7.6.16), or of the image."""
    look = Dataset()
    look.set_original_encoding(is_implicit_vr=False, is_little_endian=True)  # of OW lookup tables
    for source in (attributes, *_functional_groups(attributes, index)):
        for keyword in (
            *("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "VOILUTSequence"),
            *("WindowCenter", "WindowWidth", "VOILUTFunction", "PixelRepresentation"),
        ):
            if keyword in source:
                look[keyword] = source[keyword]
    return look


def _functional_groups(attributes: Dataset, index: int) -> Iterator[Dataset]:
    shared = attributes.get("SharedFunctionalGroupsSequence") or []
    frames = attributes.get("PerFrameFunctionalGroupsSequence") or []
    for group in (*shared[:1], *frames[index : index + 1]):
        for macro in _MACROS:
            yield from (group.get(macro) or [])[:1]


def _pixel_aspect(attributes: Dataset) -> float:
    """Height of a pixel divided by its width."""
    for keyword in ("PixelAspectRatio", "PixelSpacing", "ImagerPixelSpacing"):
        pair = attributes.get(keyword)
        if pair and len(pair) == 2 and float(pair[0]) > 0 and float(pair[1]) > 0:
            return min(max(float(pair[0]) / float(pair[1]), 0.05), 20.0)
    return 1.0


def _fitted(picture: Image.Image, viewport: Viewport | None, aspect: float) -> Image.Image:
    """The region asked, as large as the viewport allows, its proportions kept."""
    if viewport is None:
        return picture
    box = _region(viewport, picture.size)
    if viewport.region_width < 0:
        picture, box = _flipped(picture, box, Image.Transpose.FLIP_LEFT_RIGHT)
    if viewport.region_height < 0:
        picture, box = _flipped(picture, box, Image.Transpose.FLIP_TOP_BOTTOM)
    width, height = box[2] - box[0], (box[3] - box[1]) * aspect
    scale = min(viewport.width / width, viewport.height / height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return picture.resize(size, Image.Resampling.BICUBIC, box=box)


_Box = tuple[float, float, float, float]


def _region(viewport: Viewport, size: tuple[int, int]) -> _Box:
    left, top = viewport.x, viewport.y
    right = min(size[0], left + (abs(viewport.region_width) or size[0]))
    bottom = min(size[1], top + (abs(viewport.region_height) or size[1]))
    if right - left < 1 or bottom - top < 1:
        raise TranscodeFailed("the region is outside of the image")
    return left, top, right, bottom


def _flipped(picture: Image.Image, box: _Box, how: Image.Transpose) -> tuple[Image.Image, _Box]:
    left, top, right, bottom = box
    if how is Image.Transpose.FLIP_LEFT_RIGHT:
        return picture.transpose(how), (picture.width - right, top, picture.width - left, bottom)
    return picture.transpose(how), (left, picture.height - bottom, right, picture.height - top)


def _encoded(picture: Image.Image, params: RenderParams) -> bytes:
    out = io.BytesIO()
    options = {"quality": params.quality} if params.media_type == "image/jpeg" else {}
    picture.save(out, _FORMATS[params.media_type], **options)
    return out.getvalue()
