"""negotiation: the Accept headers in use, as tables."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from dicom_store.negotiation import DEFAULT_TRANSFER_SYNTAX, Form, parse_accept

EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
JPEG, LOSSLESS, JPEG_LS, J2K = (f"1.2.840.10008.1.2.4.{n}" for n in (50, 70, 80, 91))
DICOM = 'multipart/related; type="application/dicom"'


@pytest.mark.parametrize(
    ("accept", "stored", "served"),
    [
        # no header, or an empty one, is */*
        ([], JPEG, True),
        ([""], JPEG, True),
        (["*/*"], JPEG, True),
        (["*/*"], IMPLICIT, True),
        (["*/*;q=0"], EXPLICIT, False),
        (["multipart/*"], J2K, True),
        # the default transfer syntax is Explicit VR LE (PS3.18)
        ([DICOM], EXPLICIT, True),
        ([DICOM], JPEG, False),
        (["multipart/related"], EXPLICIT, True),
        (["multipart/related"], IMPLICIT, False),
        # as stored
        ([f"{DICOM}; transfer-syntax=*"], JPEG, True),
        ([f"{DICOM}; transfer-syntax=*"], IMPLICIT, True),
        # spellings
        (["multipart/related;type=application/dicom;transfer-syntax=" + JPEG], JPEG, True),
        (['MULTIPART/Related ; TYPE = "application/dicom" ; Transfer-Syntax = "' + JPEG + '"'], JPEG, True),
        ([f"{DICOM};transfer-syntax={JPEG};q=0.5;boundary=**,"], JPEG, True),
        ([f"{DICOM};transfer-syntax={JPEG};q=0.0;boundary=**"], JPEG, False),
        ([f"{DICOM};transfer-syntax={JPEG};q=0"], JPEG, False),
        ([f"transfer-syntax={JPEG};q=0.9;boundary=myboundary"], JPEG, True),
        ([f"{DICOM};transfer-syntax={JPEG}", f"{DICOM};transfer-syntax={J2K}"], J2K, True),
        ([",, ,"], EXPLICIT, True),
        # a named transfer syntax outranks the wildcard
        ([f"{DICOM};transfer-syntax=*, {DICOM};transfer-syntax={JPEG};q=0"], JPEG, False),
        ([f"{DICOM};transfer-syntax=*, {DICOM};transfer-syntax={JPEG};q=0"], J2K, True),
        # other representations
        (["application/dicom+json"], EXPLICIT, False),
        (["image/jpeg, text/html"], EXPLICIT, False),
        (['multipart/related; type="application/octet-stream"'], EXPLICIT, False),
        (["application/dicom+json, */*;q=0.1"], EXPLICIT, True),
        # malformed elements are left out, the others count
        ([f"{DICOM};transfer-syntax=x, {DICOM};transfer-syntax={JPEG}"], JPEG, True),
        ([f"{DICOM};transfer-syntax={JPEG};q=high"], JPEG, False),
        ([f"{DICOM};transfer-syntax={JPEG};q=2"], JPEG, False),
        (['multipart/related; type="application/dicom'], EXPLICIT, False),
        (["application/dicom"], EXPLICIT, False),  # several instances do not fit in a single part
        (["application/*"], JPEG, True),
    ],
)
def test_choose(accept: list[str], stored: str, served: bool) -> None:
    assert parse_accept(accept).choose(stored) == (stored if served else None)


@pytest.mark.parametrize(
    ("accept", "stored", "form"),
    [
        (["application/dicom"], EXPLICIT, Form.SINGLE),
        (["application/dicom"], JPEG, None),
        (["application/dicom; transfer-syntax=*"], JPEG, Form.SINGLE),
        (["*/*"], JPEG, Form.MULTIPART),
        (["application/*"], JPEG, Form.SINGLE),
        ([f"{DICOM}, application/dicom"], EXPLICIT, Form.MULTIPART),
        ([f"{DICOM};q=0.5, application/dicom"], EXPLICIT, Form.SINGLE),
        ([f"{DICOM};q=0.5, application/dicom;q=0.4"], EXPLICIT, Form.MULTIPART),
        (["application/dicom;q=0, */*;q=0.1"], EXPLICIT, Form.MULTIPART),
        ([f"{DICOM};q=0"], EXPLICIT, None),
    ],
)
def test_form_for_one_instance(accept: list[str], stored: str, form: Form | None) -> None:
    assert parse_accept(accept).choose_form(stored) is form


@pytest.mark.parametrize(
    ("quality", "value"),
    [
        ("1", 1),
        ("1.0", 1),
        ("0.85", 0.85),
        (".2", 0.2),
        ("0.9", 0.9),
        ("0.4", 0.4),
        ("0", 0),
        ("0.0", 0),
        ("1.000", 1),
    ],
)
def test_quality_as_people_write_it(quality: str, value: float) -> None:
    assert parse_accept([f"{DICOM};q={quality}"]).quality(DEFAULT_TRANSFER_SYNTAX, Form.MULTIPART) == value


def test_ranked_by_quality_then_order() -> None:
    accept = [
        f"{DICOM};transfer-syntax={s};q={q}"
        for s, q in [(JPEG, 0.5), (LOSSLESS, 0.9), (J2K, 0.5), (EXPLICIT, 0)]
    ]
    assert [r.transfer_syntax for r in parse_accept(accept).ranges] == [LOSSLESS, JPEG, J2K, EXPLICIT]


def accept_lines(request: Path) -> list[str]:
    lines = request.read_text("utf-8").splitlines()
    return [line.partition(":")[2] for line in lines if line.lower().startswith("accept:")]


@pytest.mark.parametrize(
    "name", ["OK_Series.txt", "OK_Instances.txt", "OK_Instances_v2.txt", "OK_Frames.txt"]
)
def test_requests_of_the_official_client(official: Path, name: str) -> None:
    acceptable = parse_accept(accept_lines(official / "wado" / name))
    assert len(acceptable.ranges) == 10
    for syntax in (JPEG, LOSSLESS, JPEG_LS, J2K, EXPLICIT, "1.2.840.10008.1.2.4.103"):
        assert acceptable.choose(syntax) == syntax
    for syntax in (IMPLICIT, "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.2"):
        assert acceptable.choose(syntax) is None


def test_official_lossy_profile_is_ranked(official: Path) -> None:
    ranges = parse_accept(accept_lines(official / "wado" / "OK_Instances_v2.txt")).ranges
    assert [r.transfer_syntax for r in ranges[:3]] == [JPEG, "1.2.840.10008.1.2.4.51", LOSSLESS]
    assert ranges[-1].transfer_syntax == EXPLICIT


@pytest.mark.parametrize("unit", [',"', ";", ",", '"', "a=", '\\"'])
def test_a_hostile_header_is_read_in_linear_time(unit: str) -> None:
    started = time.monotonic()
    parse_accept([unit * 20_000])
    assert time.monotonic() - started < 2
