"""A file in another transfer syntax: the same pixels, and every other byte as it was."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.dataelem import DataElement
from pydicom.encaps import encapsulate, generate_frames, parse_basic_offsets
from pydicom.pixels import pixel_array
from pydicom.uid import JPEGLSLossless

from dicom_store.conversions import (
    EXPLICIT_VR_LITTLE_ENDIAN,
    JPEG_2000,
    JPEG_2000_LOSSLESS,
    JPEG_BASELINE,
    JPEG_EXTENDED,
    JPEG_LOSSLESS_SV1,
    JPEG_LS_LOSSLESS,
    LOSSLESS_TARGETS,
    LOSSY_TARGETS,
    SOURCES,
    TranscodeFailed,
    can,
)
from dicom_store.part10 import IMPLEMENTATION_CLASS_UID
from dicom_store.transcode import transcode
from dicom_store.transcode_elements import Element, split
from fixtures.pixels import NATIVE, Layout, as_file, data_set, pixel_file, pixels

COMPRESSED = [JPEG_LOSSLESS_SV1, JPEG_LS_LOSSLESS, JPEG_2000_LOSSLESS, JPEG_2000]
CT = Layout(signed=True)
LAYOUTS = {
    "12 bits": Layout(),
    "12 bits signed": CT,
    "16 bits": Layout(stored=16),
    "16 bits signed": Layout(stored=16, signed=True),
    "13 bits signed": Layout(stored=13, signed=True),
    "10 bits inverted": Layout(stored=10, photometric="MONOCHROME1"),
    "8 bits": Layout(allocated=8, stored=8),
    "8 bits signed": Layout(allocated=8, stored=8, signed=True),
    "6 bits": Layout(allocated=8, stored=6),
    "1 bit in 8": Layout(allocated=8, stored=1),
    "8 bits in 16": Layout(stored=8),
    "8 bits in 16 signed": Layout(stored=8, signed=True),
    "odd size": Layout(rows=33, columns=37, allocated=8, stored=8),
    "odd size, colour": Layout(rows=33, columns=37, allocated=8, stored=8, photometric="RGB"),
    "frames": Layout(frames=3),
    "odd frames": Layout(rows=35, columns=33, frames=3, allocated=8, stored=8),
    "colour": Layout(allocated=8, stored=8, photometric="RGB"),
    "colour by plane": Layout(allocated=8, stored=8, photometric="RGB", planar=1, frames=2),
    "16-bit colour": Layout(stored=16, photometric="RGB"),
    "YBR_FULL": Layout(allocated=8, stored=8, photometric="YBR_FULL"),
    "palette": Layout(allocated=8, stored=8, photometric="PALETTE COLOR"),
    "16-bit palette": Layout(stored=16, photometric="PALETTE COLOR"),
}


def read(file: bytes) -> Dataset:
    return dcmread(io.BytesIO(file))


def samples(file: bytes) -> np.ndarray:
    """Decoded by pydicom, colours as they are declared."""
    ds = read(file)
    return np.asarray(pixel_array(ds, raw=True))


def elements(file: bytes) -> dict[int, Element]:
    start = 144 + struct.unpack_from("<I", file, 140)[0]
    return {found.tag: found for found in split(memoryview(file)[start:])}


@pytest.mark.parametrize("target", COMPRESSED)
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_every_layout_keeps_its_pixels(layout: Layout, target: str) -> None:
    converted = transcode(pixel_file(layout), target)
    expected = pixels(layout) if layout.frames > 1 else pixels(layout)[0]
    assert read(converted).file_meta.TransferSyntaxUID == target
    if target != JPEG_LOSSLESS_SV1 or layout.stored >= 8:  # pydicom by GDCM aborts the process for these
        assert np.array_equal(samples(converted), expected)
    back = transcode(converted, EXPLICIT_VR_LITTLE_ENDIAN)
    assert np.array_equal(samples(back), expected)


@pytest.mark.parametrize("target", [EXPLICIT_VR_LITTLE_ENDIAN, *COMPRESSED])
@pytest.mark.parametrize("encoding", [*NATIVE, "rle"])
@pytest.mark.parametrize("layout", ["12 bits signed", "colour by plane", "odd size", "frames"])
def test_every_encoding_reaches_every_target(layout: str, encoding: str, target: str) -> None:
    source = pixel_file(LAYOUTS[layout], encoding)
    assert np.array_equal(samples(transcode(source, target)), samples(pixel_file(LAYOUTS[layout])))


@pytest.mark.parametrize("target", COMPRESSED)
@pytest.mark.parametrize("source", COMPRESSED)
@pytest.mark.parametrize("layout", ["12 bits signed", "colour"])
def test_from_one_compressed_form_to_another(layout: str, source: str, target: str) -> None:
    native = pixel_file(LAYOUTS[layout])
    assert np.array_equal(samples(transcode(transcode(native, source), target)), samples(native))


@pytest.mark.parametrize("target", COMPRESSED)
def test_everything_around_the_pixels_is_byte_identical(target: str) -> None:
    ds = data_set(CT)
    ds.add_new(0x00090010, "LO", "SYNTHETIC")
    ds.add_new(0x00091001, "UN", b"\x01\x02\x03\x04")
    ds.add_new(0x00091002, "OB", b"\xff" * 6)
    ds.PatientComments = "trois  blancs   "
    ds.add_new(0x00400275, "SQ", [Dataset()])
    ds.RequestAttributesSequence[0].ScheduledProcedureStepID = "S1"
    ds.add_new(0xFFFCFFFC, "OB", b"\0\0")
    source = as_file(ds).replace(b"trois  blancs   ", b"\xff\xfe\0 \x80   blancs  ")
    before, after = elements(source), elements(transcode(source, target))
    changed = {tag for tag in before.keys() | after.keys() if before.get(tag) != after.get(tag)}
    assert changed == {0x7FE00010}


@pytest.mark.parametrize("encoding", ["implicit", "big-endian", "deflated"])
def test_values_survive_a_change_of_encoding(encoding: str) -> None:
    ds = data_set(CT)
    ds.SmallestImagePixelValue, ds.PixelPaddingValue = -2048, -2000
    ds.add_new(0x00090010, "LO", "SYNTHETIC")
    ds.FrameIncrementPointer, ds.WindowCenter, ds.PatientWeight = 0x00181063, "40", "71.5"
    ds.add_new(0x00189087, "FD", 1.5)
    item = Dataset()
    item.CodeValue, item.LUTDescriptor, item.LUTData = "T-D1100", [2, -5, 16], b"\1\0\2\0"
    ds.ModalityLUTSequence = [item, Dataset()]
    ds.ModalityLUTSequence[1].PixelSpacing = [0.5, 0.25]
    expected = read(as_file(ds))
    if encoding == "big-endian":  # pydicom writes OW as it is given
        item.LUTData = b"\0\1\0\2"
    converted = transcode(as_file(ds, NATIVE[encoding]), EXPLICIT_VR_LITTLE_ENDIAN)
    assert read(converted).to_json_dict() == expected.to_json_dict()


def test_implicit_elements_nobody_knows_become_unknown() -> None:
    ds = data_set(CT)
    source = bytearray(as_file(ds, NATIVE["implicit"]))
    # an unknown element, a private sequence of undefined length, a decimal string that is none
    unknown = struct.pack("<HHI", 0x0019, 0x1001, 3) + b"abc"
    sequence = struct.pack("<HHI", 0x0019, 0x1002, 0xFFFFFFFF)
    sequence += (
        struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF) + struct.pack("<HHI", 0x0008, 0x0060, 2) + b"CT"
    )
    sequence += struct.pack("<HHI", 0xFFFE, 0xE00D, 0) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    weight = struct.pack("<HHI", 0x0010, 0x1030, 4) + b"big "
    place = source.index(struct.pack("<HHI", 0x0020, 0x000D, 8))
    source[place:place] = weight + unknown + sequence
    found = elements(transcode(bytes(source), EXPLICIT_VR_LITTLE_ENDIAN))
    assert (found[0x00191001].vr, bytes(found[0x00191001].value)) == (b"UN", b"abc")
    assert found[0x00191002].vr == b"SQ"
    assert b"CT" in bytes(found[0x00191002].value)
    assert bytes(found[0x00101030].value) == b"big "


def test_the_file_meta_says_who_and_what() -> None:
    meta = read(transcode(pixel_file(CT), JPEG_LS_LOSSLESS)).file_meta
    assert meta.TransferSyntaxUID == JPEG_LS_LOSSLESS
    assert (meta.MediaStorageSOPInstanceUID, meta.SourceApplicationEntityTitle) == ("2.25.311", "MODALITY")
    assert meta.ImplementationClassUID == IMPLEMENTATION_CLASS_UID
    assert meta.FileMetaInformationGroupLength == len(
        transcode(pixel_file(CT), JPEG_LS_LOSSLESS)
    ) - 144 - sum(len(e.raw) for e in elements(transcode(pixel_file(CT), JPEG_LS_LOSSLESS)).values())


def test_the_same_syntax_is_the_same_file() -> None:
    assert transcode(pixel_file(CT), EXPLICIT_VR_LITTLE_ENDIAN) == pixel_file(CT)


def test_a_lossless_jpeg_2000_is_a_jpeg_2000() -> None:
    lossless = transcode(pixel_file(LAYOUTS["colour"]), JPEG_2000_LOSSLESS)
    assert elements(transcode(lossless, JPEG_2000)) == elements(lossless)
    assert read(transcode(lossless, JPEG_2000)).file_meta.TransferSyntaxUID == JPEG_2000


@pytest.mark.parametrize(
    ("target", "photometric", "declared"),
    [
        (JPEG_2000_LOSSLESS, "RGB", "YBR_RCT"),
        (JPEG_2000, "RGB", "YBR_RCT"),
        (JPEG_2000_LOSSLESS, "YBR_FULL", "YBR_FULL"),
        (JPEG_LOSSLESS_SV1, "RGB", "RGB"),
        (JPEG_LS_LOSSLESS, "YBR_FULL", "YBR_FULL"),
        (JPEG_BASELINE, "RGB", "YBR_FULL_422"),
        (JPEG_BASELINE, "YBR_FULL", "YBR_FULL_422"),
        (JPEG_BASELINE, "MONOCHROME1", "MONOCHROME1"),
    ],
)
def test_colours_are_declared_as_they_are_coded(target: str, photometric: str, declared: str) -> None:
    source = pixel_file(Layout(allocated=8, stored=8, photometric=photometric))
    converted = transcode(source, target)
    assert read(converted).PhotometricInterpretation == declared
    assert read(converted).get("PlanarConfiguration", 0) == 0
    back = read(transcode(converted, EXPLICIT_VR_LITTLE_ENDIAN))
    rgb = target == JPEG_BASELINE and photometric != "MONOCHROME1"
    assert back.PhotometricInterpretation == ("RGB" if rgb else photometric)


@pytest.mark.parametrize("planar", [0, 1])
def test_decoded_colours_are_laid_out_as_the_metadata_of_the_source_says(planar: int) -> None:
    layout = Layout(allocated=8, stored=8, photometric="RGB", planar=planar, frames=2)
    native = read(transcode(pixel_file(layout, "rle"), EXPLICIT_VR_LITTLE_ENDIAN))
    assert native.PlanarConfiguration == planar
    assert native.PixelData == data_set(layout).PixelData
    assert np.array_equal(native.pixel_array, pixels(layout))


def test_every_frame_is_one_fragment_with_its_offset() -> None:
    value = read(transcode(pixel_file(LAYOUTS["odd frames"]), JPEG_LS_LOSSLESS)).PixelData
    offsets = parse_basic_offsets(value)
    first = 8 + 4 * len(offsets)
    assert len(offsets) == 3
    for offset in offsets:
        tag = struct.unpack_from("<HH", value, first + offset)
        assert tag == (0xFFFE, 0xE000)
        assert value[first + offset + 8 :][:4] == b"\xff\xd8\xff\xf7"


def test_bits_outside_of_a_sample_are_not_pixels() -> None:
    ds = data_set(Layout())
    dirty = np.frombuffer(ds.PixelData, "<u2") | 0xA000
    ds.PixelData = dirty.tobytes()
    assert np.array_equal(samples(transcode(as_file(ds), JPEG_2000_LOSSLESS)), pixels(Layout())[0])


def test_subsampled_native_colours_keep_their_values() -> None:
    ds = data_set(Layout(allocated=8, stored=8, photometric="YBR_FULL"))
    full = np.frombuffer(ds.PixelData, "u1").reshape(-1, 2, 3)
    ds.PixelData = np.stack([full[:, 0, 0], full[:, 1, 0], full[:, 0, 1], full[:, 0, 2]], axis=1).tobytes()
    ds.PhotometricInterpretation = "YBR_FULL_422"
    converted = transcode(as_file(ds), JPEG_LS_LOSSLESS)
    assert read(converted).PhotometricInterpretation == "YBR_FULL"
    again = samples(converted).reshape(-1, 2, 3)
    assert np.array_equal(again[:, :, 0], full[:, :, 0])
    assert np.array_equal(again[:, 0, 1:], full[:, 0, 1:])


def test_lossy_is_said_and_added_to_what_was_said_before() -> None:
    ds = data_set(Layout(allocated=8, stored=8))
    ds.LossyImageCompression, ds.LossyImageCompressionRatio = "01", "7.5"
    ds.LossyImageCompressionMethod = "ISO_15444_1"
    converted = read(transcode(as_file(ds), JPEG_BASELINE, lossy_quality=95))
    assert converted.ImageType == ["DERIVED", "PRIMARY", "OTHER"]
    assert converted.LossyImageCompression == "01"
    assert converted.LossyImageCompressionMethod == ["ISO_15444_1", "ISO_10918_1"]
    assert float(converted.LossyImageCompressionRatio[0]) == 7.5
    error = np.abs(pixel_array(converted).astype(int) - pixels(Layout(allocated=8, stored=8))[0])
    assert error.mean() < 4


def test_a_lossy_source_stays_lossy_in_its_words() -> None:
    lossy = transcode(pixel_file(Layout(allocated=8, stored=8)), JPEG_BASELINE)
    ds = read(lossy)
    said = (ds.LossyImageCompression, ds.LossyImageCompressionRatio, ds.LossyImageCompressionMethod)
    back = read(transcode(lossy, EXPLICIT_VR_LITTLE_ENDIAN))
    assert (
        back.LossyImageCompression,
        back.LossyImageCompressionRatio,
        back.LossyImageCompressionMethod,
    ) == said
    del ds.LossyImageCompression, ds.LossyImageCompressionRatio, ds.LossyImageCompressionMethod
    silent = read(transcode(as_file(ds, JPEG_BASELINE), JPEG_LS_LOSSLESS))
    assert (silent.LossyImageCompression, silent.LossyImageCompressionMethod) == ("01", "ISO_10918_1")


def test_quality_is_heeded() -> None:
    source = pixel_file(Layout(allocated=8, stored=8))
    assert len(transcode(source, JPEG_BASELINE, lossy_quality=20)) < len(
        transcode(source, JPEG_BASELINE, lossy_quality=95)
    )


def test_an_encapsulated_icon_becomes_native() -> None:
    icon = read(transcode(pixel_file(replace(CT, rows=32, columns=32)), JPEG_LS_LOSSLESS))
    ds = read(transcode(pixel_file(CT), JPEG_LS_LOSSLESS))
    item = Dataset()
    for keyword in ("SamplesPerPixel", "PhotometricInterpretation", "Rows", "Columns", "BitsAllocated"):
        setattr(item, keyword, getattr(icon, keyword))
    item.BitsStored, item.HighBit, item.PixelRepresentation = 12, 11, 1
    item.PixelData = encapsulate(list(generate_frames(icon.PixelData, number_of_frames=1)))
    item["PixelData"].VR, item["PixelData"].is_undefined_length = "OB", True
    ds.IconImageSequence = [item]
    converted = read(transcode(as_file(ds, JPEGLSLossless), EXPLICIT_VR_LITTLE_ENDIAN))
    shown = np.frombuffer(converted.IconImageSequence[0].PixelData, "<i2").reshape(32, 32)
    assert np.array_equal(shown, pixels(replace(CT, rows=32, columns=32))[0])
    ds.ReferencedImageSequence = ds.IconImageSequence
    del ds.IconImageSequence
    with pytest.raises(TranscodeFailed, match="inside a sequence"):
        transcode(as_file(ds, JPEGLSLossless), EXPLICIT_VR_LITTLE_ENDIAN)


def test_without_pixels_only_the_encoding_changes() -> None:
    ds = data_set(CT)
    del ds.PixelData
    assert "PixelData" not in read(transcode(as_file(ds, NATIVE["implicit"]), EXPLICIT_VR_LITTLE_ENDIAN))
    with pytest.raises(TranscodeFailed, match="no pixel data"):
        transcode(as_file(ds), JPEG_LS_LOSSLESS)


def _overlay(ds: Dataset) -> None:
    ds.add_new(0x60000102, "US", 12)


def _float(ds: Dataset) -> None:
    ds.FloatPixelData = ds.PixelData
    del ds.PixelData


def _wide(ds: Dataset) -> None:
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.Columns = 32, 32, 31, 18


def _binary(ds: Dataset) -> None:
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 1, 1, 0


BROKEN = {
    "an overlay is embedded": _overlay,
    "float pixel data is native only": _float,
    "BitsAllocated other than 8 or 16": _wide,
    "BitsAllocated other than 8": _binary,
    "HighBit is not BitsStored": lambda ds: setattr(ds, "HighBit", 15),
    "PhotometricInterpretation is not supported": lambda ds: setattr(ds, "PhotometricInterpretation", "HSV"),
    "Rows is missing": lambda ds: delattr(ds, "Rows"),
    "must be positive": lambda ds: setattr(ds, "Rows", 0),
    "shorter than Rows": lambda ds: setattr(ds, "Rows", 41),
    "NumberOfFrames is not a number": lambda ds: ds.__setitem__(
        0x00280008, DataElement(0x00280008, "LO", "1A")
    ),
    "larger than allowed": lambda ds: (setattr(ds, "Rows", 65535), setattr(ds, "NumberOfFrames", 99999)),
    "BitsStored must be": lambda ds: setattr(ds, "BitsStored", 17),
}


@pytest.mark.parametrize("reason", BROKEN)
def test_what_cannot_be_compressed_is_refused_by_name(reason: str) -> None:
    ds = data_set(CT)
    BROKEN[reason](ds)
    with pytest.raises(TranscodeFailed, match=reason):
        transcode(as_file(ds), JPEG_LS_LOSSLESS)


@pytest.mark.parametrize(
    "reason", ["an overlay is embedded", "float pixel data is native only", "BitsAllocated other"]
)
def test_the_same_stays_possible_natively(reason: str) -> None:
    ds = data_set(CT)
    next(change for words, change in BROKEN.items() if words.startswith(reason))(ds)
    expected = {tag: bytes(e.value) for tag, e in elements(as_file(ds)).items()}
    converted = transcode(as_file(ds, NATIVE["implicit"]), EXPLICIT_VR_LITTLE_ENDIAN)
    assert {tag: bytes(e.value) for tag, e in elements(converted).items()} == expected


def test_a_deflated_bomb_is_not_inflated() -> None:
    file = pixel_file(CT, "deflated")
    start = 144 + struct.unpack_from("<I", file, 140)[0]
    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = file[:start] + deflater.compress(bytes(64 << 20)) + deflater.flush()
    with pytest.raises(TranscodeFailed, match="larger than allowed"):
        transcode(bomb, EXPLICIT_VR_LITTLE_ENDIAN, max_decoded=1 << 20)


@pytest.mark.parametrize("target", [JPEG_2000_LOSSLESS, JPEG_2000])
def test_images_too_small_for_jpeg_2000(target: str) -> None:
    with pytest.raises(TranscodeFailed, match="so small"):
        transcode(pixel_file(Layout(rows=31)), target)


def test_nested_too_deep() -> None:
    file = pixel_file(CT)
    opening = struct.pack("<HH2sHI", 0x0040, 0x0275, b"SQ", 0, 0xFFFFFFFF) + struct.pack(
        "<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF
    )
    with pytest.raises(TranscodeFailed, match="too deep"):
        transcode(file + opening * 5000, JPEG_LS_LOSSLESS)


@pytest.mark.parametrize("encoding", ["explicit", "implicit", "big-endian", "deflated"])
def test_a_file_cut_anywhere_is_refused(encoding: str) -> None:
    file = pixel_file(Layout(rows=2, columns=2), encoding)
    for end in range(0, len(file) - 1, 3):
        with pytest.raises(TranscodeFailed):
            transcode(file[:end], JPEG_LS_LOSSLESS)


def test_the_table_of_conversions() -> None:
    assert LOSSY_TARGETS.isdisjoint(LOSSLESS_TARGETS)
    assert all(can(source, EXPLICIT_VR_LITTLE_ENDIAN) for source in SOURCES - {EXPLICIT_VR_LITTLE_ENDIAN})
    assert all(can(EXPLICIT_VR_LITTLE_ENDIAN, target) for target in COMPRESSED)
    assert not any(can(syntax, syntax) for syntax in SOURCES)
    assert not can("1.2.840.10008.1.2.4.102", EXPLICIT_VR_LITTLE_ENDIAN)  # video
    assert not can(EXPLICIT_VR_LITTLE_ENDIAN, "1.2.840.10008.1.2.4.102")
    assert not can(EXPLICIT_VR_LITTLE_ENDIAN, JPEG_EXTENDED)
    assert not can("1.2.3", EXPLICIT_VR_LITTLE_ENDIAN)
    assert can(EXPLICIT_VR_LITTLE_ENDIAN, JPEG_BASELINE)
    assert not can(EXPLICIT_VR_LITTLE_ENDIAN, JPEG_BASELINE, bits_allocated=16)
    assert not can(EXPLICIT_VR_LITTLE_ENDIAN, JPEG_LS_LOSSLESS, bits_allocated=32)


def test_the_web_process_loads_no_codec_with_the_table() -> None:
    import dicom_store.conversions
    import dicom_store.transcoder

    for module in (dicom_store.conversions, dicom_store.transcoder):
        assert not {"np", "gdcm", "Image", "jpeg_ls"} & set(vars(module))
