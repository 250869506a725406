"""Pictures: the parameters of PS3.18 8.3.5, the greys of PS3.3 C.11, the proportions of the image."""

from __future__ import annotations

import io
from urllib.parse import parse_qs

import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset

from dicom_store.conversions import JPEG_BASELINE, JPEG_LS_LOSSLESS, TranscodeFailed
from dicom_store.render_params import RenderParams, Viewport, Window, parse_render_params
from dicom_store.rendering import render, windowed
from dicom_store.status import HttpRefusal
from dicom_store.transcode import transcode
from fixtures.pixels import Layout, as_file, data_set, pixel_file, pixels

PNG = RenderParams(media_type="image/png")


def shown(file: bytes, params: RenderParams = PNG, frame: int | None = None) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(render(file, frame, params))))


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", RenderParams()),
        ("viewport=512,256", RenderParams(viewport=Viewport(512, 256))),
        ("viewport=64,64,10,20,-30.5,40", RenderParams(viewport=Viewport(64, 64, 10, 20, -30.5, 40))),
        ("viewport=64,64,,,100,100", RenderParams(viewport=Viewport(64, 64, 0, 0, 100, 100))),
        ("window=40,400,linear", RenderParams(window=Window(40, 400))),
        ("window=-500.5,1500,LINEAR_EXACT", RenderParams(window=Window(-500.5, 1500, "LINEAR_EXACT"))),
        ("window=0,.5,sigmoid", RenderParams(window=Window(0, 0.5, "SIGMOID"))),
        ("quality=7&annotation=patient&other=1", RenderParams(quality=7)),
    ],
)
def test_parameters_are_read(query: str, expected: RenderParams) -> None:
    assert parse_render_params(parse_qs(query)) == expected


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("viewport=512", "vw,vh"),
        ("viewport=0,10", "whole numbers from 1"),
        ("viewport=9000,10", "whole numbers from 1"),
        ("viewport=1.5,10", "whole numbers from 1"),
        ("viewport=10,10,-1,0,5,5", "must not be negative"),
        ("viewport=10,10,a,0,5,5", "not a decimal number"),
        ("viewport=10,10&viewport=20,20", "more than once"),
        ("window=40,400", "center,width,function"),
        ("window=40,400,cubic", "the function must be"),
        ("window=nan,400,linear", "not a decimal number"),
        ("window=40,0.5,linear", "width is too small"),
        ("window=40,-1,sigmoid", "width is too small"),
        ("quality=0", "from 1 to 100"),
        ("quality=101", "from 1 to 100"),
        ("quality=1e1", "not a decimal number"),
        ("quality=1" + "0" * 50, "not a decimal number"),
    ],
)
def test_nonsense_is_refused(query: str, words: str) -> None:
    with pytest.raises(HttpRefusal) as refused:
        parse_render_params(parse_qs(query))
    assert (refused.value.status, refused.value.slug) == (400, "rendering-parameters")
    assert words in refused.value.detail


def test_every_fault_is_named() -> None:
    with pytest.raises(HttpRefusal) as refused:
        parse_render_params(parse_qs("viewport=1&window=1&quality=0"))
    assert all(name in refused.value.detail for name in ("viewport:", "window:", "quality:"))


@pytest.mark.parametrize(
    ("window", "value", "expected"),
    [  # PS3.3 C.11.2.1.2.1, the examples for center 2048, width 4096 and 1
        (Window(2048, 4096), 0, 0.0),
        (Window(2048, 4096), 4095, 1.0),
        (Window(2048, 1), 2047, 0.0),
        (Window(2048, 1), 2048, 1.0),
        (Window(0, 100, "LINEAR_EXACT"), -50, 0.0),
        (Window(0, 100, "LINEAR_EXACT"), 0, 0.5),
        (Window(0, 100, "SIGMOID"), 0, 0.5),
        (Window(0, 100, "SIGMOID"), 1e9, 1.0),
    ],
)
def test_windows_are_those_of_the_standard(window: Window, value: float, expected: float) -> None:
    assert windowed(np.array([float(value)]), window)[0] == pytest.approx(expected, abs=1e-9)


def windowed_ct() -> Dataset:
    ds = data_set(Layout(signed=True))
    ds.RescaleSlope, ds.RescaleIntercept = "1", "-24"
    ds.WindowCenter, ds.WindowWidth = [40, 300], [400, 1500]
    return ds


def test_the_first_window_of_the_file_is_used() -> None:
    values = pixels(Layout(signed=True))[0].astype(float) - 24
    expected = windowed(values, Window(40, 400)) * 255 + 0.5
    assert np.array_equal(shown(as_file(windowed_ct())), expected.astype(np.uint8))


def test_the_window_asked_wins() -> None:
    asked = RenderParams(media_type="image/png", window=Window(0, 2000, "LINEAR_EXACT"))
    values = pixels(Layout(signed=True))[0].astype(float) - 24
    assert np.array_equal(
        shown(as_file(windowed_ct()), asked), (windowed(values, asked.window) * 255 + 0.5).astype(int)
    )


def test_monochrome1_is_inverted() -> None:
    ds = windowed_ct()
    bright = shown(as_file(ds))
    ds.PhotometricInterpretation = "MONOCHROME1"
    assert np.array_equal(shown(as_file(ds)), 255 - bright)


def test_without_a_window_the_whole_range_is_shown() -> None:
    picture = shown(pixel_file(Layout(signed=True)))
    assert (picture.min(), picture.max()) == (0, 255)


def test_a_voi_lookup_table_is_applied() -> None:
    ds = data_set(Layout(allocated=8, stored=8))
    item = Dataset()
    item.LUTDescriptor, item.LUTData = [256, 0, 16], (np.arange(255, -1, -1) * 257).astype("<u2").tobytes()
    ds.VOILUTSequence = [item]
    assert np.array_equal(shown(as_file(ds)), 255 - pixels(Layout(allocated=8, stored=8))[0])


def test_windows_of_single_frames_of_an_enhanced_image() -> None:
    ds = data_set(Layout(frames=2))
    groups = []
    for center in (500, 3000):
        voi, group = Dataset(), Dataset()
        voi.WindowCenter, voi.WindowWidth = center, 100
        group.FrameVOILUTSequence = [voi]
        groups.append(group)
    ds.PerFrameFunctionalGroupsSequence = groups
    expected = windowed(pixels(Layout(frames=2))[1].astype(float), Window(3000, 100)) * 255 + 0.5
    assert np.array_equal(shown(as_file(ds), frame=2), expected.astype(np.uint8))
    assert not np.array_equal(shown(as_file(ds)), shown(as_file(ds), frame=2))


@pytest.mark.parametrize("planar", [0, 1])
def test_colours_stay(planar: int) -> None:
    layout = Layout(allocated=8, stored=8, photometric="RGB", planar=planar)
    assert np.array_equal(shown(pixel_file(layout)), pixels(layout)[0])


def test_palettes_and_ybr_become_rgb() -> None:
    palette = shown(pixel_file(Layout(allocated=8, stored=8, photometric="PALETTE COLOR")))
    grey = pixels(Layout(allocated=8, stored=8))[0]
    assert np.array_equal(palette, np.stack([grey] * 3, axis=-1))
    assert shown(pixel_file(Layout(allocated=8, stored=8, photometric="YBR_FULL"))).shape == (40, 36, 3)


@pytest.mark.parametrize("target", [JPEG_LS_LOSSLESS, JPEG_BASELINE])
def test_compressed_files_are_rendered_too(target: str) -> None:
    native = pixel_file(Layout(allocated=8, stored=8, frames=2))
    difference = shown(transcode(native, target), frame=2).astype(int) - shown(native, frame=2)
    assert np.abs(difference).mean() < (1 if target == JPEG_LS_LOSSLESS else 8)


@pytest.mark.parametrize(
    ("viewport", "size"),
    [
        (Viewport(72, 80), (72, 80)),
        (Viewport(1000, 80), (72, 80)),
        (Viewport(18, 1000), (18, 20)),
        (Viewport(50, 50, 0, 0, 10, 20), (25, 50)),
        (Viewport(36, 36, 18, 0, 100, 18), (36, 36)),
    ],
)
def test_proportions_are_kept(viewport: Viewport, size: tuple[int, int]) -> None:
    picture = shown(pixel_file(Layout()), RenderParams(media_type="image/png", viewport=viewport))
    assert (picture.shape[1], picture.shape[0]) == size


def test_pixels_that_are_not_square() -> None:
    ds = data_set(Layout(rows=40, columns=40))
    ds.PixelSpacing = [2, 1]
    picture = shown(as_file(ds), RenderParams(media_type="image/png", viewport=Viewport(100, 100)))
    assert picture.shape == (100, 50)


def test_negative_sides_flip() -> None:
    whole = shown(pixel_file(Layout()))
    flipped = RenderParams(media_type="image/png", viewport=Viewport(36, 40, 0, 0, -36, -40))
    assert np.array_equal(shown(pixel_file(Layout()), flipped), whole[::-1, ::-1])


def test_jpeg_obeys_the_quality() -> None:
    small, large = (render(pixel_file(Layout()), 1, RenderParams(quality=q)) for q in (10, 95))
    assert small[:3] == b"\xff\xd8\xff"
    assert len(small) < len(large)


def _no_pixels(ds: Dataset) -> None:
    del ds.PixelData


@pytest.mark.parametrize(
    ("words", "change", "frame", "viewport"),
    [
        ("no such frame", None, 2, None),
        ("region is outside", None, 1, Viewport(10, 10, 500, 0, 10, 10)),
        ("no pixel data", _no_pixels, 1, None),
        ("too large", lambda ds: (setattr(ds, "Rows", 60000), setattr(ds, "Columns", 60000)), 1, None),
        ("cannot be rendered", lambda ds: setattr(ds, "PhotometricInterpretation", "HSV"), 1, None),
        ("shorter than", lambda ds: setattr(ds, "Rows", 41), 1, None),
    ],
)
def test_what_cannot_be_rendered_is_said(words, change, frame, viewport) -> None:  # type: ignore[no-untyped-def]
    ds = data_set(Layout())
    if change:
        change(ds)
    with pytest.raises(TranscodeFailed, match=words):
        render(as_file(ds), frame, RenderParams(viewport=viewport))
