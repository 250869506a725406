"""GDCM's codecs on one frame, around what they get wrong.

Buffers come as `str` with surrogates. 8-bit JPEG aborts the process unless BitsStored = BitsAllocated, so that is
what it is always told. Encoding needs pixel data of even length: an odd frame is given twice, the first is taken.
"""

from __future__ import annotations

import gdcm  # type: ignore[import-untyped]

from dicom_store.conversions import TranscodeFailed
from dicom_store.transcode_frames import PixelModule


def gdcm_decode(syntax: str, codestream: bytes, module: PixelModule) -> bytes:
    """Samples of one codestream, components as they are coded, colour by pixel. Raises `TranscodeFailed`."""
    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(codestream)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    _describe(image, module, syntax, frames=1)
    image.SetDataElement(element)
    return _bytes(image.GetBuffer())


def gdcm_encode(syntax: str, samples: bytes, module: PixelModule) -> bytes:
    """Codestream of one frame given colour by pixel. Raises `TranscodeFailed`."""
    frames = 1 + len(samples) % 2
    writer = gdcm.ImageWriter()  # owns the image, must outlive it
    image = writer.GetImage()
    _describe(image, module, gdcm.TransferSyntax.ExplicitVRLittleEndian, frames=frames)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetByteStringValue(samples * frames)
    image.SetDataElement(element)
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(syntax)))
    change.SetInput(image)
    if not change.Change():
        raise TranscodeFailed("the codec refused the frame")
    fragments = change.GetOutput().GetDataElement().GetSequenceOfFragments()
    if fragments is None or fragments.GetNumberOfFragments() != frames:
        raise TranscodeFailed("the codec gave no codestream")
    return _bytes(fragments.GetFragment(0).GetByteValue().GetBuffer())


def _describe(image: gdcm.Image, module: PixelModule, syntax: str | int, *, frames: int) -> None:
    image.SetNumberOfDimensions(3 if frames > 1 else 2)
    image.SetDimensions((module.Columns, module.Rows, frames))
    photometric = gdcm.PhotometricInterpretation.GetPIType(module.PhotometricInterpretation)
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(photometric))
    if module.SamplesPerPixel > 1:
        image.SetPlanarConfiguration(0)
    kind = gdcm.TransferSyntax.GetTSType(syntax) if isinstance(syntax, str) else syntax
    image.SetTransferSyntax(gdcm.TransferSyntax(kind))
    image.SetPixelFormat(
        gdcm.PixelFormat(
            module.SamplesPerPixel,
            module.BitsAllocated,
            module.BitsAllocated,
            module.BitsAllocated - 1,
            module.PixelRepresentation,
        )
    )


def _bytes(buffer: str | None) -> bytes:
    if not buffer:
        raise TranscodeFailed("the codec could not decode a frame")
    return buffer.encode("utf-8", "surrogateescape")
