"""negotiation: the Accept headers in use, as tables."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dicom_store.negotiation import MAX_CHARACTERS, MAX_ELEMENTS, Form, parse_accept
from dicom_store.status import HttpRefusal
from dicom_store.transfer_syntax import MESH

EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
JPEG, EXTENDED, LOSSLESS, JPEG_LS, J2K = (f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 70, 80, 91))
DICOM = 'multipart/related; type="application/dicom"'
MULTIPART, SINGLE = Form.MULTIPART, Form.SINGLE
OCTETS = "application/octet-stream"


def dicom(syntax: str, q: str = "", form: str = DICOM) -> str:
    return f"{form};transfer-syntax={syntax}" + (f";q={q}" if q else "")


# header lines → quality of a transfer syntax in multipart/related; type="application/dicom"
QUALITIES = [
    # no header, or an empty one, is */*
    ([], JPEG, 1),
    ([""], JPEG, 1),
    ([",, ,"], EXPLICIT, 1),
    (["*/*"], JPEG, 1),
    (["*"], JPEG, 1),
    (["*/*;q=0"], EXPLICIT, 0),
    (["*/*;q=0.4"], EXPLICIT, 0.4),
    (["multipart/*"], J2K, 1),
    (["application/*"], JPEG, 1),
    (['multipart/related; type="*/*"'], JPEG, 1),
    (["multipart/related; type=application/*"], JPEG, 1),
    # none named: Explicit VR LE (PS3.18 8.7.3)
    ([DICOM], EXPLICIT, 1),
    ([DICOM], JPEG, 0),
    (["multipart/related"], EXPLICIT, 1),
    (["multipart/related"], JPEG, 0),
    # any
    ([dicom("*")], JPEG, 1),
    ([dicom('"*"', "0.3")], IMPLICIT, 0.3),
    # spellings
    (["multipart/related;type=application/dicom;transfer-syntax=" + JPEG], JPEG, 1),
    (['MULTIPART/Related ; TYPE = "Application/DICOM" ; Transfer-Syntax = "' + JPEG + '"'], JPEG, 1),
    (['multipart/related; type="application\\/dicom"'], EXPLICIT, 1),
    ([f"{DICOM};q=0.5;transfer-syntax={JPEG}"], JPEG, 0.5),
    ([f"{DICOM}; Q=0.5 ;boundary=**; transfer-syntax={JPEG} ;x=1;;"], JPEG, 0.5),
    ([f'{DICOM};boundary="a,b;q=0";charset=utf-8;transfer-syntax={JPEG}'], JPEG, 1),
    ([f"{DICOM};start=<a@b>;token;transfer-syntax={JPEG}"], JPEG, 1),
    # form A: one list, trailing comma, boundary after q
    ([f"{dicom(LOSSLESS, '0.9')};boundary=**,{dicom(JPEG_LS, '0.8')};boundary=**,"], JPEG_LS, 0.8),
    ([f"{dicom(LOSSLESS, '0.9')};boundary=**,{dicom(JPEG_LS, '0.8')};boundary=**,"], JPEG, 0),
    # form B: several lines
    ([f"{dicom(JPEG, '0.5')};boundary=myboundary", f"{dicom(J2K, '.4')};boundary=myboundary"], J2K, 0.4),
    # form C: no media type
    ([f"transfer-syntax={JPEG};q=0.9;boundary=myboundary"], JPEG, 0.9),
    (["type=application/dicom;q=0.5"], EXPLICIT, 0.5),
    ([f";transfer-syntax={JPEG}"], JPEG, 1),
    (["q=0.5"], EXPLICIT, 0),
    (["boundary=**"], EXPLICIT, 0),
    (["a=b, ;, ;;, ="], EXPLICIT, 0),
    # the most specific range decides (RFC 9110 12.5.1)
    ([dicom("*"), dicom(JPEG, "0")], JPEG, 0),
    ([dicom("*"), dicom(JPEG, "0")], J2K, 1),
    (["*/*", dicom(JPEG, "0")], JPEG, 0),
    (["*/*;q=0", dicom(JPEG, "0.2")], JPEG, 0.2),
    (["*/*;q=0.1", dicom("*", "0.2")], JPEG, 0.2),
    (["multipart/*;q=0.1", "*/*"], JPEG, 0.1),
    (["application/*;q=0.1", "multipart/*;q=0.2"], JPEG, 0.2),
    (['multipart/related;type="application/*";q=0.1', "multipart/related;q=0.2"], JPEG, 0.1),
    # unnamed: refuses the whole media type, but what is named otherwise; accepts the default only
    ([f"{DICOM};q=0", "*/*"], JPEG, 0),
    ([f"{DICOM};q=0", dicom(JPEG, "0.5")], JPEG, 0.5),
    ([f"{DICOM};q=0", dicom("*", "0.5")], EXPLICIT, 0),
    ([f"{DICOM};q=0", dicom("*", "0.5")], JPEG, 0.5),
    ([f"{DICOM};q=0.7", dicom("*", "0.5")], EXPLICIT, 0.7),
    ([f"{DICOM};q=0.7", dicom(EXPLICIT, "0")], EXPLICIT, 0),
    ([DICOM, "*/*;q=0.1"], JPEG, 0.1),
    # the same twice: a refusal counts, else the highest
    ([dicom(JPEG, "0"), dicom(JPEG, "0.9")], JPEG, 0),
    ([dicom(JPEG, "0.3"), dicom(JPEG, "0.9")], JPEG, 0.9),
    # other representations
    (["application/dicom+json"], EXPLICIT, 0),
    (["image/jpeg, text/html"], EXPLICIT, 0),
    ([f'multipart/related; type="{OCTETS}"'], EXPLICIT, 0),
    (['multipart/related; type="application/dicom+xml"'], EXPLICIT, 0),
    (["multipart/mixed; type=application/dicom"], EXPLICIT, 0),
    (["application/dicom"], EXPLICIT, 0),
    (["application/dicom+json, */*;q=0.1"], EXPLICIT, 0.1),
    (["text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2"], JPEG, 0.2),
    # malformed elements are left out, the others count
    ([f"{dicom('x')}, {dicom(JPEG)}"], JPEG, 1),
    ([dicom("1.2.03")], EXPLICIT, 0),
    ([dicom(JPEG, "high")], JPEG, 0),
    ([dicom(JPEG, "2")], JPEG, 0),
    ([dicom(JPEG, "-0.1")], JPEG, 0),
    ([dicom(JPEG, "0.5") + ";q=0.6"], JPEG, 0),
    ([f"{dicom(JPEG)};transfer-syntax={J2K}"], JPEG, 0),
    (["*/dicom"], EXPLICIT, 0),
    (['multipart/related; type="application/dicom'], EXPLICIT, 0),
    (['multipart/related; type="application/dicom; transfer-syntax=*"'], EXPLICIT, 0),
]


@pytest.mark.parametrize(("accept", "syntax", "quality"), QUALITIES)
def test_quality(accept: list[str], syntax: str, quality: float) -> None:
    assert parse_accept(accept).quality(syntax, MULTIPART) == quality


@pytest.mark.parametrize(
    ("accept", "media_type", "syntax", "form", "quality"),
    [
        ("application/dicom", "application/dicom", EXPLICIT, SINGLE, 1),
        ("application/dicom", "application/dicom", JPEG, SINGLE, 0),
        ("*/*;q=0.5", "application/dicom", JPEG, SINGLE, 0.5),
        ("multipart/*", "application/dicom", JPEG, SINGLE, 0),
        (f'multipart/related;type="{OCTETS}";transfer-syntax=*', OCTETS, JPEG, MULTIPART, 1),
        (f'multipart/related;type="{OCTETS}"', OCTETS, JPEG, MULTIPART, 0),
        (f'multipart/related;type="{OCTETS}"', OCTETS, EXPLICIT, MULTIPART, 1),
        ("image/jpeg", "image/jpeg", LOSSLESS, SINGLE, 1),  # the default of table 8.7.3-5
        ("image/jpeg", "image/jpeg", JPEG, SINGLE, 0),
        (f"image/jpeg;transfer-syntax={JPEG};q=0.2", "image/jpeg", JPEG, SINGLE, 0.2),
        ("multipart/related;type=image/jls", "image/jls", JPEG_LS, MULTIPART, 1),
        ("multipart/related;type=image/x-jls", "image/jls", JPEG_LS, MULTIPART, 1),
        ('multipart/related;type="image/*"', "image/jls", JPEG_LS, MULTIPART, 1),
        ("image/*", "image/jls", JPEG_LS, MULTIPART, 1),
        ("image/*", "application/dicom", JPEG_LS, MULTIPART, 0),
        ("video/*;q=0.1", "video/mp4", "1.2.840.10008.1.2.4.103", SINGLE, 0.1),
        ("image/*, image/jls;q=0", "image/jls", JPEG_LS, SINGLE, 0),
    ],
)
def test_other_media_types(accept: str, media_type: str, syntax: str, form: Form, quality: float) -> None:
    assert parse_accept([accept]).quality(syntax, form, media_type) == quality


@pytest.mark.parametrize(
    ("written", "quality"),
    [
        ("1", 1),
        ("1.", 1),
        ("1.0", 1),
        ("1.000", 1),
        ("0.85", 0.85),
        (".2", 0.2),
        (".5", 0.5),
        ("0.1", 0.1),
        ("0.4", 0.4),
        ("0.9", 0.9),
        ("0.001", 0.001),
        ('"0.5"', 0.5),
        ("0", 0),
        ("0.", 0),
        ("0.0", 0),
        ("0.000", 0),
    ],
)
def test_quality_as_people_write_it(written: str, quality: float) -> None:
    found = parse_accept([dicom(EXPLICIT, written)]).match("application/dicom", EXPLICIT)
    assert found is not None
    assert found.quality == quality


@pytest.mark.parametrize("written", ["", "1.1", "01", "1e0", "0.5x", "nan", "inf", "½", "٠.٥", "1.0.0", "+1"])
def test_malformed_quality_leaves_the_element_out(written: str) -> None:
    assert parse_accept([f"{dicom(EXPLICIT)};q={written}"]).match("application/dicom", EXPLICIT) is None


def test_ranked_by_quality_then_order() -> None:
    accept = [dicom(s, q) for s, q in [(JPEG, "0.5"), (LOSSLESS, "0.9"), (J2K, "0.5"), (EXPLICIT, "0")]]
    acceptable = parse_accept(accept)
    assert [r.transfer_syntax for r in acceptable.ranges] == [LOSSLESS, JPEG, J2K, EXPLICIT]
    assert acceptable.named == (LOSSLESS, JPEG, J2K, EXPLICIT)


@pytest.mark.parametrize(
    "accept",
    [
        [",".join(["a/b"] * (MAX_ELEMENTS + 1))],
        ["a/b"] * (MAX_ELEMENTS + 1),
        ["x" * (MAX_CHARACTERS + 1)],
        ["x" * 1000] * 66,
    ],
)
def test_a_header_without_measure_is_refused(accept: list[str]) -> None:
    with pytest.raises(HttpRefusal) as refused:
        parse_accept(accept)
    assert (refused.value.status, refused.value.slug) == (400, "accept-invalid")


def test_a_long_header_is_still_read() -> None:
    accept = [",".join([dicom(f"1.2.{n}") for n in range(MAX_ELEMENTS - 1)]), dicom(JPEG)]
    assert parse_accept(accept).quality(JPEG) == 1


@pytest.mark.parametrize("unit", [',"', ";", ",", '"', "a=", '\\"', '"\\', '";', "=", '"\\,'])
@pytest.mark.parametrize("before", ["", '"', "multipart/related;type="])
def test_a_hostile_header_is_read_in_linear_time(before: str, unit: str) -> None:
    started = time.process_time()
    try:
        found = parse_accept([before + unit * (60_000 // len(unit))]).ranges
    except HttpRefusal as refusal:
        assert refusal.slug == "accept-invalid"
    else:
        assert len(found) <= 2 * MAX_ELEMENTS
    assert time.process_time() - started < 2


def accept_lines(request: Path) -> list[str]:
    lines = request.read_text("utf-8").splitlines()
    return [line.partition(":")[2] for line in lines if line.lower().startswith("accept:")]


@pytest.mark.parametrize(
    "name", ["OK_Series.txt", "OK_Instances.txt", "OK_Instances_v2.txt", "OK_Frames.txt"]
)
def test_requests_of_the_official_client(official: Path, name: str) -> None:
    acceptable = parse_accept(accept_lines(official / "wado" / name))
    assert set(acceptable.named) == MESH
    assert len(acceptable.ranges) == 10
    assert all(acceptable.quality(syntax) > 0 for syntax in MESH)
    assert {acceptable.quality(s) for s in (IMPLICIT, "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.2")} == {0}


def test_official_lossy_profile_is_ranked(official: Path) -> None:
    ranges = parse_accept(accept_lines(official / "wado" / "OK_Instances_v2.txt")).ranges
    assert [r.transfer_syntax for r in ranges[:3]] == [JPEG, EXTENDED, LOSSLESS]
    assert ranges[-1].transfer_syntax == EXPLICIT


PIECES = st.sampled_from(
    [
        *("multipart/related", "application/dicom", "*/*", "image/*", "*", "type=", "transfer-syntax="),
        *("q=", "0", "0.5", "1", ";", ";", ",", ",", '"', "\\", " ", "=", "**", "boundary=", EXPLICIT, JPEG),
        *("\x00", "é", "/"),
    ]
)


@given(st.lists(st.lists(PIECES, max_size=20).map("".join), max_size=4))
@settings(max_examples=300, deadline=None)
def test_anything_is_read_and_lines_are_one_list(lines: list[str]) -> None:
    try:
        acceptable = parse_accept(lines)
    except HttpRefusal as refusal:
        assert refusal.status == 400
        return
    assert all(0 <= r.quality <= 1 for r in acceptable.ranges)
    assert parse_accept([",".join(lines)]) == acceptable
    assert parse_accept([", ".join(lines), ""]).ranges == acceptable.ranges
