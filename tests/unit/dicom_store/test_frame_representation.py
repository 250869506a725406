"""frame_representation: frames, bulk data, metadata and rendered images for the Accept headers of real clients."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dicom_store.frame_representation import (
    FrameForm,
    choose_bulk_data,
    choose_frames,
    choose_metadata,
    choose_rendered,
)
from dicom_store.negotiation import Form, parse_accept
from dicom_store.status import HttpRefusal
from dicom_store.transfer_syntax import SYNTAXES, Kind

ROOT = "1.2.840.10008.1.2"
IMPLICIT, EXPLICIT, DEFLATED, RLE = (ROOT + s for s in ("", ".1", ".1.99", ".5"))
JPEG, JPEG_57, LOSSLESS, JPEG_LS, NEAR, J2K_90, J2K, MPEG2, H264, HTJ2K, HTJ2K_RPCL = (
    f"{ROOT}.4.{n}" for n in (50, 57, 70, 80, 81, 90, 91, 100, 102, 201, 202)
)
OCTETS = "application/octet-stream"


def can(stored: str, target: str) -> bool:
    readable = stored in SYNTAXES and SYNTAXES[stored].kind is not Kind.VIDEO
    return readable and target in (EXPLICIT, JPEG, LOSSLESS, JPEG_LS, J2K_90, J2K)


def related(media_type: str, syntax: str = "", q: str = "1") -> str:
    return (
        f'multipart/related; type="{media_type}"'
        + (f"; transfer-syntax={syntax}" if syntax else "")
        + f";q={q}"
    )


MULTI, SINGLE = True, False
FRAMES = [
    # */* and dicomweb-client's default: as stored, in the media type of the syntax
    ("", JPEG_LS, MULTI, "image/jls", JPEG_LS),
    ("*/*", J2K, MULTI, "image/jp2", J2K),
    ("*/*", EXPLICIT, MULTI, OCTETS, EXPLICIT),
    ("*/*", IMPLICIT, MULTI, OCTETS, EXPLICIT),
    ("*/*", DEFLATED, MULTI, OCTETS, EXPLICIT),
    ("*/*", RLE, MULTI, OCTETS, EXPLICIT),
    ("*/*", H264, MULTI, "video/mp4", H264),
    ("*/*", MPEG2, MULTI, "video/mpeg", MPEG2),
    (related("*/*"), JPEG, MULTI, "image/jpeg", JPEG),
    # viewers: octets of any syntax
    (related(OCTETS, "*"), JPEG_LS, MULTI, OCTETS, JPEG_LS),
    (related(OCTETS, "*"), EXPLICIT, MULTI, OCTETS, EXPLICIT),
    (related(OCTETS, "*"), RLE, MULTI, OCTETS, EXPLICIT),
    (f"{OCTETS}; transfer-syntax=*", J2K, SINGLE, OCTETS, J2K),
    # octets without a syntax are native, but for pixels that only exist in lossy form
    (related(OCTETS), JPEG_LS, MULTI, OCTETS, EXPLICIT),
    (related(OCTETS), JPEG, MULTI, OCTETS, EXPLICIT),
    (OCTETS, IMPLICIT, SINGLE, OCTETS, EXPLICIT),
    (related(OCTETS), MPEG2, MULTI, OCTETS, MPEG2),
    # the media type of the stored frames
    (related("image/jls"), JPEG_LS, MULTI, "image/jls", JPEG_LS),
    (related("image/x-jls"), JPEG_LS, MULTI, "image/jls", JPEG_LS),
    (related("image/dicom-rle"), RLE, MULTI, "image/dicom-rle", RLE),
    (related("image/jpeg"), JPEG, MULTI, "image/jpeg", JPEG),
    (related("image/jp2"), J2K, MULTI, "image/jp2", J2K),
    (related("image/jls"), NEAR, MULTI, "image/jls", NEAR),
    ("image/jpeg", LOSSLESS, SINGLE, "image/jpeg", LOSSLESS),
    (related("image/jpeg", JPEG), JPEG, MULTI, "image/jpeg", JPEG),
    (related("image/*"), J2K_90, MULTI, "image/jp2", J2K_90),
    (related("image/jphc"), HTJ2K_RPCL, MULTI, "image/jphc", HTJ2K_RPCL),
    # one that has to be made
    (related("image/jpeg"), JPEG_57, MULTI, "image/jpeg", LOSSLESS),
    (related("image/jpeg"), EXPLICIT, MULTI, "image/jpeg", LOSSLESS),
    (related("image/jls"), J2K, MULTI, "image/jls", JPEG_LS),
    (related("image/*"), EXPLICIT, MULTI, "image/jpeg", LOSSLESS),
    (related(OCTETS, LOSSLESS), EXPLICIT, MULTI, OCTETS, LOSSLESS),
    (
        f"{related('image/jls', q='0.5')}, {related('image/jp2', J2K, '0.6')}",
        EXPLICIT,
        MULTI,
        "image/jp2",
        J2K,
    ),
    (f"{related('image/jls')}, {related('image/jp2')}", EXPLICIT, MULTI, "image/jls", JPEG_LS),
    (related("image/jpeg", "*"), EXPLICIT, MULTI, "image/jpeg", LOSSLESS),
    (related("image/jls", "*"), J2K, MULTI, "image/jls", JPEG_LS),
    (
        f"{related(OCTETS, DEFLATED)}, {related(OCTETS, q='0.1')}, image/jls",
        DEFLATED,
        MULTI,
        OCTETS,
        EXPLICIT,
    ),
    (f"{OCTETS};q=0, {related(OCTETS, q='0')}, */*", EXPLICIT, MULTI, "image/jpeg", LOSSLESS),
    # as stored before quality, form by order
    (f"{related(OCTETS)}, {related('image/jls', q='0.1')}", JPEG_LS, MULTI, "image/jls", JPEG_LS),
    (f"image/jls, {related('image/jls')}", JPEG_LS, SINGLE, "image/jls", JPEG_LS),
    (f"image/jls;q=0.9, {related('image/jls')}", JPEG_LS, MULTI, "image/jls", JPEG_LS),
    # a refusal counts
    (f"{related('image/jls', q='0')}, */*;q=0.1", JPEG_LS, MULTI, OCTETS, JPEG_LS),
    (f"{related('image/jpeg')}, {related('image/jpeg', JPEG, '0')}", JPEG, MULTI, "image/jpeg", LOSSLESS),
]


@pytest.mark.parametrize(("accept", "stored", "multipart", "media_type", "syntax"), FRAMES)
def test_frames(accept: str, stored: str, multipart: bool, media_type: str, syntax: str) -> None:
    assert choose_frames(parse_accept([accept]), stored, can) == FrameForm(multipart, media_type, syntax)


@pytest.mark.parametrize(
    ("accept", "stored"),
    [
        ("application/dicom", EXPLICIT),
        (related("application/dicom"), EXPLICIT),
        (related("image/jpeg", JPEG), EXPLICIT),  # never a lossy conversion
        (related("video/mp4"), EXPLICIT),
        (related("image/jls"), H264),
        (related("image/jls", q="0"), JPEG_LS),
        (related(OCTETS, JPEG_LS), H264),
        ("image/png", EXPLICIT),
        (related("image/jp2", "*"), H264),
        ("*/*;q=0", EXPLICIT),
    ],
)
def test_frames_that_cannot_be_had(accept: str, stored: str) -> None:
    with pytest.raises(HttpRefusal) as refused:
        choose_frames(parse_accept([accept]), stored, can)
    assert (refused.value.status, refused.value.slug) == (406, "not-acceptable")
    assert f"{SYNTAXES[stored].media_type};transfer-syntax={stored}" in refused.value.detail


def test_frames_too_deep_for_a_codec() -> None:
    with pytest.raises(HttpRefusal) as refused:
        choose_frames(parse_accept(["image/jls"]), EXPLICIT, can, bits_allocated=32)
    assert refused.value.detail == f"Could be had: {OCTETS};transfer-syntax={EXPLICIT}."


def test_several_frames_do_not_fit_in_a_single_part() -> None:
    with pytest.raises(HttpRefusal):
        choose_frames(parse_accept(["image/jls"]), JPEG_LS, can, alone=False)
    assert choose_frames(parse_accept(["image/*"]), JPEG_LS, can, alone=False).multipart


@pytest.mark.parametrize(
    ("accept", "served"),
    [
        ("", True),
        ("*/*", True),
        ("application/*", True),
        ("application/dicom+json", True),
        ("application/json", True),
        ("application/dicom+json, application/json", True),  # dicomweb-client
        ('application/dicom+json; charset="utf-8"; transfer-syntax=1.2.840.10008.1.2.1', True),
        ("text/html;q=0.9, */*;q=0.1", True),
        ('multipart/related; type="application/dicom+xml", application/dicom+json;q=0.1', True),
        ('multipart/related; type="application/dicom+xml"', False),
        ("application/dicom", False),
        ("application/dicom+json;q=0, */*", False),
        ("application/json;q=0", False),
        ("image/*", False),
    ],
)
def test_metadata(accept: str, served: bool) -> None:
    if served:
        assert choose_metadata(parse_accept([accept])) == "application/dicom+json"
        return
    with pytest.raises(HttpRefusal) as refused:
        choose_metadata(parse_accept([accept]))
    assert refused.value.detail == "Could be had: application/dicom+json."


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        ("", "image/jpeg"),
        ("*/*", "image/jpeg"),
        ("image/*", "image/jpeg"),
        ("image/png", "image/png"),
        ("image/png, image/jpeg", "image/png"),
        ("image/jpeg, image/png", "image/jpeg"),
        ("image/png;q=0.5, image/jpeg;q=0.6", "image/jpeg"),
        ("image/png;q=0.5, image/*;q=0.4", "image/png"),
        ("image/jpeg;q=0, */*", "image/png"),
        ("image/jpeg;transfer-syntax=1.2.840.10008.1.2.4.50", "image/jpeg"),
        ("image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8", "image/jpeg"),  # a browser
        ("image/gif", None),
        ("application/dicom", None),
        ("image/jpeg;q=0", None),
    ],
)
def test_rendered(accept: str, media_type: str | None) -> None:
    if media_type:
        assert choose_rendered(parse_accept([accept])) == media_type
        return
    with pytest.raises(HttpRefusal) as refused:
        choose_rendered(parse_accept([accept]))
    assert refused.value.detail == "Could be had: image/jpeg, image/png."


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        ("*/*", Form.MULTIPART),
        ("application/*", Form.SINGLE),
        (OCTETS, Form.SINGLE),
        (related(OCTETS), Form.MULTIPART),
        (related("*/*"), Form.MULTIPART),
        (related(OCTETS, "*"), Form.MULTIPART),
        (f"{OCTETS}; transfer-syntax={JPEG}", Form.SINGLE),
        (f"{OCTETS};q=0.5, {related(OCTETS)}", Form.MULTIPART),
        (f"{OCTETS}, {related(OCTETS)}", Form.SINGLE),
        ("image/jpeg", None),
        (f"{OCTETS};q=0", None),
    ],
)
def test_bulk_data(accept: str, form: Form | None) -> None:
    if form:
        assert choose_bulk_data(parse_accept([accept])) is form
        return
    with pytest.raises(HttpRefusal):
        choose_bulk_data(parse_accept([accept]))


MEDIA = st.sampled_from([OCTETS, *sorted({row.media_type for row in SYNTAXES.values()}), "image/*"])
ELEMENT = st.tuples(
    st.booleans(), MEDIA, st.sampled_from(["", "*", *SYNTAXES]), st.sampled_from(["0", "0.1", "0.5", "1"])
)


@given(st.lists(ELEMENT, min_size=1, max_size=10), st.sampled_from([*SYNTAXES, "1.2.3.4"]), st.booleans())
@settings(max_examples=400, deadline=None)
def test_what_is_refused_never_leaves_as_frames(
    elements: list[tuple[bool, str, str, str]], stored: str, alone: bool
) -> None:
    accept = [
        (f'multipart/related; type="{media}"' if multi else media)
        + (f";transfer-syntax={s}" if s else "")
        + f";q={q}"
        for multi, media, s, q in elements
    ]
    try:
        made = choose_frames(parse_accept(accept), stored, can, alone)
    except HttpRefusal as refusal:
        assert refusal.status == 406
        return
    what = (made.multipart, made.media_type, made.transfer_syntax)
    assert not any((*element[:3], float(element[3])) == (*what, 0) for element in elements)
    assert made.transfer_syntax == stored or can(stored, made.transfer_syntax)
    assert made.media_type in (
        OCTETS,
        SYNTAXES[made.transfer_syntax].media_type if made.transfer_syntax in SYNTAXES else "",
    )
    assert alone or made.multipart
    kind = SYNTAXES[made.transfer_syntax].kind if made.transfer_syntax in SYNTAXES else Kind.OPAQUE
    assert made.transfer_syntax == stored or kind in (Kind.NATIVE, Kind.LOSSLESS, Kind.EITHER)
