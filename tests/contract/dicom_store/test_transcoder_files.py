"""Files of other people's encoders, and what other people's decoders make of ours."""

from __future__ import annotations

import io
import shutil
import subprocess
import warnings
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.pixels import pixel_array

from dicom_store.conversions import (
    EXPLICIT_VR_LITTLE_ENDIAN,
    JPEG_2000_LOSSLESS,
    JPEG_BASELINE,
    JPEG_LOSSLESS_SV1,
    JPEG_LS_LOSSLESS,
    TranscodeFailed,
)
from dicom_store.transcode import transcode
from fixtures.pixels import Layout, pixel_file, pixels

LOSSLESS = [EXPLICIT_VR_LITTLE_ENDIAN, JPEG_LOSSLESS_SV1, JPEG_LS_LOSSLESS, JPEG_2000_LOSSLESS]
# dcmtk's decoder of each target, RGB left as it is
DECODERS = {
    JPEG_LOSSLESS_SV1: ["dcmdjpeg", "+cn"],
    JPEG_LS_LOSSLESS: ["dcmdjpls"],
    JPEG_BASELINE: ["dcmdjpeg"],
}
WHOLE = (
    *("CT_small.dcm", "MR_small.dcm", "MR_small_bigendian.dcm", "MR_small_implicit.dcm", "MR_small_RLE.dcm"),
    *("MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm", "MR_small_padded.dcm", "JPEG2000.dcm"),
    *("693_J2KI.dcm", "J2K_pixelrep_mismatch.dcm", "GDCMJ2K_TextGBR.dcm", "SC_rgb_gdcm_KY.dcm"),
    *("SC_rgb_jls_lossy_line.dcm", "SC_rgb_jls_lossy_sample.dcm", "SC_rgb_jpeg_gdcm.dcm", "SC_rgb_rle.dcm"),
    *("SC_rgb_rle_16bit_2frame.dcm", "SC_jpeg_no_color_transform.dcm", "SC_jpeg_no_color_transform_2.dcm"),
    *("SC_rgb_dcmtk_+eb+cr.dcm", "SC_rgb_dcmtk_+eb+cy+n1.dcm", "SC_rgb_dcmtk_+eb+cy+np.dcm"),
    *("SC_rgb_dcmtk_+eb+cy+s2.dcm", "SC_rgb_dcmtk_+eb+cy+s4.dcm", "SC_rgb_jpeg_lossy_gdcm.dcm"),
    *("SC_rgb_jpeg_app14_dcmd.dcm", "ExplVR_BigEnd.dcm", "image_dfl.dcm"),
)
NATIVE_ONLY = (
    "rtdose.dcm",
    "rtdose_rle.dcm",
    "SC_rgb_rle_32bit_2frame.dcm",
    "liver_1frame.dcm",
    "liver_expb_1frame.dcm",
)
WITHOUT_PIXELS = (
    "rtplan.dcm",
    "reportsi.dcm",
    "test-SR.dcm",
    "waveform_ecg.dcm",
    "priv_SQ.dcm",
    "UN_sequence.dcm",
)


def bundled(name: str) -> bytes:
    path = get_testdata_file(name, download=False)
    if path is None:
        pytest.skip(f"pydicom does not bring {name}")
    return Path(path).read_bytes()


def seen(file: bytes) -> np.ndarray:
    """Pixels by pydicom, colours as RGB."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the files are what they are
        ds = dcmread(io.BytesIO(file))
        return np.asarray(pixel_array(ds))


def other(tmp_path: Path, target: str, file: bytes) -> np.ndarray | None:
    """Pixels by dcmtk; None where it has no decoder."""
    command = DECODERS.get(target)
    if command is None or shutil.which(command[0]) is None:
        return None
    (tmp_path / "in.dcm").write_bytes(file)
    subprocess.run([*command, tmp_path / "in.dcm", tmp_path / "out.dcm"], check=True, capture_output=True)
    return seen((tmp_path / "out.dcm").read_bytes())


@pytest.mark.parametrize("name", WHOLE)
def test_a_bundled_file_in_every_lossless_form(tmp_path: Path, name: str) -> None:
    source = bundled(name)
    expected = seen(source)
    for target in LOSSLESS:
        converted = transcode(source, target)
        assert np.array_equal(seen(converted), expected), target
        by_dcmtk = other(tmp_path, target, converted)
        native = dcmread(io.BytesIO(converted)).file_meta.TransferSyntaxUID != target
        assert by_dcmtk is None or native or np.array_equal(by_dcmtk, expected), target


@pytest.mark.parametrize("name", NATIVE_ONLY)
def test_pixels_that_have_no_compressed_form(name: str) -> None:
    source = bundled(name)
    assert np.array_equal(seen(transcode(source, EXPLICIT_VR_LITTLE_ENDIAN)), seen(source))
    with pytest.raises(TranscodeFailed, match="BitsAllocated"):
        transcode(source, JPEG_LS_LOSSLESS)


@pytest.mark.parametrize("name", WITHOUT_PIXELS)
def test_files_without_pixels_keep_every_value(name: str) -> None:
    source = bundled(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = dcmread(io.BytesIO(source))
        native = before.file_meta.TransferSyntaxUID.is_encapsulated is False
        after = dcmread(io.BytesIO(transcode(source, EXPLICIT_VR_LITTLE_ENDIAN)))
        assert {e.tag for e in after} == {e.tag for e in before if e.tag.element}
        assert all(after[e.tag].value == e.value for e in before if e.tag.element and e.VR != "UN")
    if native:
        with pytest.raises(TranscodeFailed, match="no pixel data"):
            transcode(source, JPEG_LS_LOSSLESS)


@pytest.mark.parametrize(
    ("command", "layout"),
    [
        (["dcmcjpeg", "+e1"], Layout()),
        (["dcmcjpeg", "+e1"], Layout(signed=True)),
        (["dcmcjpeg", "+el"], Layout(stored=16)),
        (["dcmcjpeg", "+el", "+sv", "6"], Layout(frames=2)),
        (["dcmcjpeg", "+e1"], Layout(allocated=8, stored=8, photometric="RGB")),
        (["dcmcjpls"], Layout(signed=True)),
        (["dcmcjpls"], Layout(rows=33, columns=37, allocated=8, stored=8, photometric="RGB")),
        (["dcmcjpls", "+in"], Layout(allocated=8, stored=8, photometric="RGB")),
        (["dcmcrle"], Layout(signed=True, frames=2)),
        (["dcmcrle"], Layout(rows=33, columns=37, allocated=8, stored=8, photometric="RGB")),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_dcmtk_encoded_losslessly(tmp_path: Path, command: list[str], layout: Layout) -> None:
    expected = pixels(layout) if layout.frames > 1 else pixels(layout)[0]
    encoded = by_dcmtk(tmp_path, command, layout)
    for target in LOSSLESS:
        assert np.array_equal(seen(transcode(encoded, target)), expected), target


@pytest.mark.parametrize(
    ("command", "layout"),
    [
        (["dcmcjpeg", "+ee"], Layout(stored=12)),
        (["dcmcjpeg", "+eb"], Layout(allocated=8, stored=8)),
        (["dcmcjpls", "+en"], Layout(stored=12)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_dcmtk_encoded_lossily_is_what_dcmtk_decodes(
    tmp_path: Path, command: list[str], layout: Layout
) -> None:
    encoded = by_dcmtk(tmp_path, command, layout)
    decoder = "dcmdjpls" if "pls" in command[0] else "dcmdjpeg"
    subprocess.run(
        [decoder, tmp_path / "encoded.dcm", tmp_path / "decoded.dcm"], check=True, capture_output=True
    )
    expected = seen((tmp_path / "decoded.dcm").read_bytes())
    for target in LOSSLESS:
        converted = transcode(encoded, target)
        assert np.array_equal(seen(converted), expected), target
        assert dcmread(io.BytesIO(converted)).LossyImageCompression == "01"


def by_dcmtk(tmp_path: Path, command: list[str], layout: Layout) -> bytes:
    if shutil.which(command[0]) is None:
        pytest.skip("dcmtk is not installed: apt-get install dcmtk")
    (tmp_path / "native.dcm").write_bytes(pixel_file(layout))
    done = subprocess.run(
        [*command, "+un", tmp_path / "native.dcm", tmp_path / "encoded.dcm"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return (tmp_path / "encoded.dcm").read_bytes()


@pytest.mark.parametrize("photometric", ["RGB", "MONOCHROME2"])
def test_our_lossy_jpeg_is_read_by_others(tmp_path: Path, photometric: str) -> None:
    layout = Layout(rows=64, columns=64, allocated=8, stored=8, photometric=photometric)
    converted = transcode(pixel_file(layout), JPEG_BASELINE, lossy_quality=90)
    ours = seen(transcode(converted, EXPLICIT_VR_LITTLE_ENDIAN)).astype(int)
    theirs = other(tmp_path, JPEG_BASELINE, converted)
    if theirs is None:
        pytest.skip("dcmtk is not installed: apt-get install dcmtk")
    assert np.abs(ours - theirs).max() <= 2
    assert np.abs(ours - pixels(layout)[0]).mean() < 12


@pytest.mark.parametrize("name", ["MR_truncated.dcm", "rtplan_truncated.dcm", "badVR.dcm", "rtdose_expb.dcm"])
def test_bundled_files_that_are_refused(name: str) -> None:
    with pytest.raises(TranscodeFailed):
        transcode(bundled(name), JPEG_LS_LOSSLESS)


def test_dciodvfy_finds_nothing_new(tmp_path: Path) -> None:
    if shutil.which("dciodvfy") is None:
        pytest.skip("dicom3tools is not installed: apt-get install dicom3tools")

    def complaints(file: bytes) -> set[str]:
        (tmp_path / "checked.dcm").write_bytes(file)
        done = subprocess.run(["dciodvfy", tmp_path / "checked.dcm"], capture_output=True, text=True)
        return {line for line in done.stderr.splitlines() if line.startswith("Error")}

    source = bundled("CT_small.dcm")
    for target in LOSSLESS[1:]:
        assert complaints(transcode(source, target)) <= complaints(source)
    assert isinstance(dcmread(tmp_path / "checked.dcm"), Dataset)
