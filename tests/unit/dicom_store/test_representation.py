"""representation: in which transfer syntax an instance leaves, as tables of rules."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dicom_store.negotiation import Form, ServingPolicy, parse_accept
from dicom_store.representation import InstanceFacts, check_frames, choose_syntax, plan
from dicom_store.status import HttpRefusal
from dicom_store.study import InstanceRef
from dicom_store.transfer_syntax import DEFAULTS, MESH, SYNTAXES, Kind, has_pixels

ROOT = "1.2.840.10008.1.2"
IMPLICIT, EXPLICIT, DEFLATED, BIG_ENDIAN, RLE = (ROOT + s for s in ("", ".1", ".1.99", ".2", ".5"))
JPEG, EXTENDED, JPEG_57, LOSSLESS, JPEG_LS, J2K_90, J2K = (
    f"{ROOT}.4.{n}" for n in (50, 51, 57, 70, 80, 90, 91)
)
MPEG2, MPEG2_HL, H264, H264_BD = (f"{ROOT}.4.{n}" for n in (100, 101, 102, 103))
CT, SR, KOS = (f"1.2.840.10008.5.1.4.1.1.{n}" for n in ("2", "88.11", "88.59"))
DICOM = 'multipart/related; type="application/dicom"'
STORED, QUALITY = ServingPolicy(), ServingPolicy("quality")
LOSSY, QUALITY_LOSSY = ServingPolicy(allow_lossy=True), ServingPolicy("quality", allow_lossy=True)

# drim-m-data 3.3, in the order of the table
PROFILES = {
    "lossless": (".9", ".8", "0.6", "0.5", "0.5", "0.5", "0.5", "0.5", "0.5", "0.4"),
    "lossy": ("0.6", "0.5", "0.5", "0.9", "0.9", "0.5", "0.5", "0.5", "0.5", "0.4"),
    "min/max simulator": ("1.0", "1.0", "0.5", "0.1", "0.1", "0.5", "0.5", "0.5", "0.5", "0.5"),
    "min/max validator": ("1", "0.5", "0.5", "0", "0.0", "0.5", "0.5", "0.5", "0.5", "1.0"),
}
TEN = (LOSSLESS, JPEG_LS, J2K, JPEG, EXTENDED, MPEG2, MPEG2_HL, H264, H264_BD, EXPLICIT)


def dicom(syntax: str, q: str = "1", form: str = DICOM) -> str:
    return f"{form};transfer-syntax={syntax};q={q}"


def form_a(profile: str) -> list[str]:
    elements = [dicom(s, q) + ";boundary=**," for s, q in zip(TEN, PROFILES[profile], strict=True)]
    return ["".join(elements)]


def form_b(profile: str) -> list[str]:
    return [dicom(s, q) + ";boundary=myboundary" for s, q in zip(TEN, PROFILES[profile], strict=True)]


def form_c(profile: str) -> list[str]:
    return [
        f"transfer-syntax={s};q={q};boundary=myboundary" for s, q in zip(TEN, PROFILES[profile], strict=True)
    ]


def can(stored: str, target: str) -> bool:
    """A transcoder that decodes all but video, and encodes the usual ones."""
    readable = stored in SYNTAXES and SYNTAXES[stored].kind is not Kind.VIDEO
    return readable and target in (EXPLICIT, DEFLATED, RLE, JPEG, EXTENDED, LOSSLESS, JPEG_LS, J2K_90, J2K)


def cannot(_stored: str, _target: str) -> bool:
    return False


def anything(_stored: str, _target: str) -> bool:
    return True


def chosen(
    accept: list[str],
    stored: str,
    policy: ServingPolicy = STORED,
    pixels: bool = True,
    able: Callable[[str, str], bool] = can,
    bits: int | None = None,
) -> str | None:
    return choose_syntax(parse_accept(accept), Form.MULTIPART, stored, pixels, able, policy, bits)


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("form", [form_a, form_b, form_c])
@pytest.mark.parametrize("stored", sorted(MESH))
def test_of_the_ten_the_stored_one_leaves_unless_refused(
    form: Callable[[str], list[str]], profile: str, stored: str
) -> None:
    refused = profile == "min/max validator" and stored in (JPEG, EXTENDED)
    assert chosen(form(profile), stored) == (LOSSLESS if refused else stored)


@pytest.mark.parametrize(
    ("profile", "best"),
    [
        ("lossless", LOSSLESS),
        ("lossy", LOSSLESS),
        ("min/max simulator", LOSSLESS),
        ("min/max validator", LOSSLESS),
    ],
)
def test_what_is_not_listed_leaves_in_the_best_lossless_one(profile: str, best: str) -> None:
    for stored in (J2K_90, JPEG_57, ROOT + ".4.81", ROOT + ".4.201"):
        assert chosen(form_a(profile), stored) == best


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("stored", [IMPLICIT, BIG_ENDIAN, DEFLATED, RLE])
def test_what_the_mesh_does_not_know_leaves_as_explicit(profile: str, stored: str) -> None:
    assert chosen(form_b(profile), stored) == EXPLICIT


@pytest.mark.parametrize(
    "name", ["OK_Series.txt", "OK_Instances.txt", "OK_Instances_v2.txt", "OK_Frames.txt"]
)
def test_official_requests(official: Path, name: str) -> None:
    lines = (official / "wado" / name).read_text("utf-8").splitlines()
    accept = [line.partition(":")[2] for line in lines if line.lower().startswith("accept:")]
    for stored in MESH:
        assert chosen(accept, stored) == stored
        assert plan(parse_accept(accept), [facts(stored)], True, can).form is Form.MULTIPART
    assert chosen(accept, IMPLICIT) == EXPLICIT
    for stored in (JPEG_57, J2K_90):
        assert chosen(accept, stored) == LOSSLESS
        assert chosen(accept, stored, able=cannot) is None


@pytest.mark.parametrize(
    ("accept", "stored", "policy", "sent"),
    [
        # as stored
        (["*/*"], JPEG, STORED, JPEG),
        ([], H264, STORED, H264),
        (["*/*"], IMPLICIT, STORED, EXPLICIT),
        ([dicom("*")], J2K, STORED, J2K),
        ([dicom("*")], IMPLICIT, STORED, EXPLICIT),
        ([dicom("*")], BIG_ENDIAN, STORED, EXPLICIT),
        ([dicom("*")], DEFLATED, STORED, EXPLICIT),
        ([dicom("*")], RLE, STORED, EXPLICIT),
        ([dicom(RLE)], RLE, STORED, RLE),
        ([dicom(RLE, "0"), dicom("*")], RLE, STORED, EXPLICIT),
        ([dicom(RLE, "0"), dicom(LOSSLESS), dicom(EXPLICIT, "0.1")], RLE, STORED, EXPLICIT),
        ([dicom(RLE, "0.1"), dicom(EXPLICIT)], RLE, STORED, RLE),
        ([dicom(DEFLATED)], DEFLATED, STORED, DEFLATED),
        ([dicom(IMPLICIT)], IMPLICIT, STORED, None),  # PS3.18 8.7.3: shall not be used
        ([dicom(BIG_ENDIAN), dicom(LOSSLESS, "0.1")], BIG_ENDIAN, STORED, LOSSLESS),
        (["*/*"], "1.2.3.4", STORED, "1.2.3.4"),
        ([DICOM], "1.2.3.4", STORED, None),
        # none named: Explicit VR LE
        ([DICOM], EXPLICIT, STORED, EXPLICIT),
        ([DICOM], JPEG, STORED, EXPLICIT),
        ([DICOM], JPEG_LS, STORED, EXPLICIT),
        # but for pixels that only exist in lossy form (8.7.3)
        ([DICOM], H264, STORED, H264),
        ([DICOM, dicom(H264, "0")], H264, STORED, None),
        ([DICOM, dicom("*", "0")], H264, STORED, None),
        ([dicom(EXPLICIT)], H264, STORED, None),
        # not acceptable as stored: the best that can be made
        ([dicom(LOSSLESS, "0.5"), dicom(JPEG_LS, "0.6")], EXPLICIT, STORED, JPEG_LS),
        ([dicom(LOSSLESS, "0.5"), dicom(JPEG_LS, "0.5")], EXPLICIT, STORED, LOSSLESS),
        ([dicom(JPEG_LS, "0.5"), dicom(LOSSLESS, "0.5")], EXPLICIT, STORED, JPEG_LS),
        ([dicom(J2K)], EXPLICIT, STORED, J2K),  # reversibly
        ([dicom(JPEG, "0"), dicom("*")], JPEG, STORED, EXPLICIT),
        (["image/jls;transfer-syntax=" + JPEG_LS, dicom(JPEG, "0"), dicom("*")], JPEG, STORED, EXPLICIT),
        ([dicom(ROOT + ".4.92"), dicom(LOSSLESS, "0.1")], EXPLICIT, STORED, LOSSLESS),
        ([dicom("1.2.3.4"), dicom(LOSSLESS, "0.1")], EXPLICIT, STORED, LOSSLESS),
        ([dicom(LOSSLESS, "0")], EXPLICIT, STORED, None),
        # video is never made, nor undone
        ([dicom(H264), dicom(EXPLICIT, "0.1")], JPEG, STORED, EXPLICIT),
        ([dicom(H264)], MPEG2, STORED, None),
        (["*/*"], MPEG2, QUALITY, MPEG2),
        # quality
        (form_a("lossless"), EXPLICIT, QUALITY, LOSSLESS),
        (form_a("lossless"), IMPLICIT, QUALITY, LOSSLESS),
        (form_a("lossless"), H264, QUALITY, H264),
        (form_a("min/max simulator"), JPEG_LS, QUALITY, JPEG_LS),  # the stored one wins a tie
        (form_a("min/max validator"), EXPLICIT, QUALITY, EXPLICIT),
        ([dicom("*")], JPEG_LS, QUALITY, JPEG_LS),
        (["*/*", "image/jpeg;transfer-syntax=" + LOSSLESS], JPEG_LS, QUALITY, JPEG_LS),
        # lossy: only if allowed, and liked better than all that is not
        ([dicom(JPEG)], EXPLICIT, STORED, None),
        ([dicom(JPEG)], EXPLICIT, LOSSY, JPEG),
        ([dicom(JPEG), dicom(LOSSLESS, "0.9")], JPEG_LS, STORED, LOSSLESS),
        ([dicom(JPEG), dicom(LOSSLESS, "0.9")], JPEG_LS, LOSSY, JPEG),
        ([dicom(JPEG), dicom(LOSSLESS)], JPEG_LS, LOSSY, LOSSLESS),
        ([dicom(JPEG), dicom(H264)], JPEG_LS, LOSSY, None),
        ([dicom(JPEG), "*/*"], IMPLICIT, LOSSY, EXPLICIT),
        (form_a("lossy"), JPEG_LS, LOSSY, JPEG_LS),
        (form_a("lossy"), JPEG_57, LOSSY, JPEG),
        (form_a("lossy"), JPEG_LS, QUALITY, LOSSLESS),
        (form_a("lossy"), JPEG_LS, QUALITY_LOSSY, JPEG),
        (form_a("lossless"), JPEG_LS, QUALITY_LOSSY, LOSSLESS),
    ],
)
def test_rules(accept: list[str], stored: str, policy: ServingPolicy, sent: str | None) -> None:
    assert chosen(accept, stored, policy) == sent


@pytest.mark.parametrize(
    ("bits", "sent"), [(8, JPEG), (16, EXTENDED), (32, EXPLICIT), (1, EXPLICIT), (None, JPEG)]
)
def test_only_what_carries_the_depth(bits: int | None, sent: str) -> None:
    assert chosen(form_a("lossy"), JPEG_57, LOSSY, bits=bits) == sent


@pytest.mark.parametrize(
    ("accept", "stored", "sent"),
    [
        ([dicom(LOSSLESS)], EXPLICIT, None),
        ([dicom(LOSSLESS), dicom(EXPLICIT, "0.1")], IMPLICIT, EXPLICIT),
        ([dicom(LOSSLESS), dicom(EXPLICIT, "0.1")], EXPLICIT, EXPLICIT),
        ([dicom(LOSSLESS), dicom(EXPLICIT, "0.1")], J2K, EXPLICIT),
        ([dicom(LOSSLESS)], J2K, None),
        (["*/*"], EXPLICIT, EXPLICIT),
    ],
)
@pytest.mark.parametrize("policy", [STORED, QUALITY, QUALITY_LOSSY])
def test_without_pixels_there_is_nothing_to_compress(
    accept: list[str], stored: str, sent: str | None, policy: ServingPolicy
) -> None:
    assert chosen(accept, stored, policy, pixels=False, able=anything) == sent


def facts(syntax: str = EXPLICIT, sop_class: str = CT) -> InstanceFacts:
    return InstanceFacts(syntax, sop_class)


@pytest.mark.parametrize(
    ("accept", "stored", "form", "sent"),
    [
        (["application/dicom"], EXPLICIT, Form.SINGLE, EXPLICIT),
        (["application/dicom"], JPEG, Form.SINGLE, EXPLICIT),
        (["application/dicom; transfer-syntax=*"], JPEG, Form.SINGLE, JPEG),
        (["*/*"], JPEG, Form.MULTIPART, JPEG),
        (["application/*"], JPEG, Form.SINGLE, JPEG),
        (["multipart/*, application/*"], JPEG, Form.MULTIPART, JPEG),
        (["application/*, multipart/*"], JPEG, Form.SINGLE, JPEG),
        ([f"{DICOM}, application/dicom"], EXPLICIT, Form.MULTIPART, EXPLICIT),
        ([f"application/dicom, {DICOM}"], EXPLICIT, Form.SINGLE, EXPLICIT),
        ([f"{DICOM};q=0.5, application/dicom"], EXPLICIT, Form.SINGLE, EXPLICIT),
        ([f"{DICOM};q=0.5, application/dicom;q=0.4"], EXPLICIT, Form.MULTIPART, EXPLICIT),
        (["application/dicom;q=0, */*;q=0.1"], JPEG, Form.MULTIPART, JPEG),
        # rather as stored than converted
        ([f"application/dicom, {dicom('*', '0.5')}"], JPEG, Form.MULTIPART, JPEG),
    ],
)
def test_form_for_one_instance(accept: list[str], stored: str, form: Form, sent: str) -> None:
    made = plan(parse_accept(accept), [facts(stored)], True, can)
    assert (made.form, made.syntaxes) == (form, (sent,))


def test_quality_rather_than_as_stored() -> None:
    acceptable = parse_accept([f"application/dicom, {dicom('*', '0.5')}"])
    made = plan(acceptable, [facts(JPEG_LS)], True, can, QUALITY)
    assert (made.form, made.syntaxes) == (Form.SINGLE, (EXPLICIT,))


def test_each_instance_of_a_study_in_its_own_syntax() -> None:
    study = [
        facts(JPEG_LS),
        facts(IMPLICIT),
        facts(JPEG_57),
        facts(EXPLICIT, SR),
        facts(H264),
        facts(JPEG_LS),
    ]
    made = plan(parse_accept(form_a("lossless")), study, False, can)
    assert made.form is Form.MULTIPART
    assert made.syntaxes == (JPEG_LS, EXPLICIT, LOSSLESS, EXPLICIT, H264, JPEG_LS)


def test_a_study_does_not_fit_in_a_single_part() -> None:
    with pytest.raises(HttpRefusal) as refused:
        plan(parse_accept(["application/dicom"]), [facts(), facts()], False, can)
    assert refused.value.status == 406
    assert 'multipart/related; type="application/dicom"' in refused.value.detail
    assert "or application/dicom" not in refused.value.detail


def test_one_instance_that_cannot_leave_refuses_all() -> None:
    with pytest.raises(HttpRefusal) as refused:
        plan(parse_accept([dicom(LOSSLESS)]), [facts(), facts(EXPLICIT, KOS)], False, can)
    assert (refused.value.status, refused.value.slug) == (406, "not-acceptable")
    assert refused.value.detail == f"Could be had: {DICOM}; transfer-syntax={EXPLICIT}."


def test_a_refusal_says_what_could_be_had() -> None:
    with pytest.raises(HttpRefusal) as refused:
        plan(parse_accept([dicom(JPEG)]), [facts(), facts(J2K_90)], False, can)
    could = ", ".join([EXPLICIT, DEFLATED, RLE, LOSSLESS, JPEG_LS, J2K_90, J2K])
    assert refused.value.detail == f"Could be had: {DICOM}; transfer-syntax={could}."


def test_a_refusal_tells_instances_apart_that_have_nothing_in_common() -> None:
    with pytest.raises(HttpRefusal) as refused:
        plan(parse_accept([dicom(JPEG)]), [facts(EXPLICIT, SR), facts(H264)], True, can)
    forms = f"{DICOM} or application/dicom"
    assert refused.value.detail == f"Could be had: {forms}; transfer-syntax={EXPLICIT}; and {H264}."


def test_a_refusal_is_bounded() -> None:
    study = [facts(f"1.2.3.{n}") for n in range(2000)]
    with pytest.raises(HttpRefusal) as refused:
        plan(parse_accept([dicom(JPEG)]), study, False, cannot)
    assert len(refused.value.detail) < 1000


def test_a_refusal_offers_only_what_carries_the_depth() -> None:
    deep = InstanceFacts(IMPLICIT, CT, 32)
    with pytest.raises(HttpRefusal) as refused:
        plan(parse_accept([dicom(LOSSLESS)]), [deep], False, can)
    assert refused.value.detail == f"Could be had: {DICOM}; transfer-syntax={EXPLICIT}, {DEFLATED}, {RLE}."


def test_the_transcoder_is_asked_once_per_situation() -> None:
    asked: list[tuple[str, str]] = []

    def counting(stored: str, target: str) -> bool:
        asked.append((stored, target))
        return can(stored, target)

    study = [facts(JPEG_57)] * 2000
    made = plan(parse_accept(form_a("lossless")), study, False, counting)
    assert made.syntaxes == (LOSSLESS,) * 2000
    assert len(asked) <= 12


def test_nothing_to_send_is_no_refusal() -> None:
    assert plan(parse_accept([dicom(JPEG)]), [], False, can).syntaxes == ()


@pytest.mark.parametrize(
    ("sop_class", "pixels"),
    [
        (CT, True),
        (SR, False),
        (KOS, False),
        ("1.2.840.10008.5.1.4.1.1.104.1", False),  # PDF
        ("1.2.840.10008.5.1.4.1.1.11.1", False),  # GSPS
        ("1.2.840.10008.5.1.4.1.1.9.1.1", False),  # ECG
        ("1.2.840.10008.5.1.4.1.1.481.1", True),  # RT Image
        ("1.2.840.10008.5.1.4.1.1.481.2", True),  # RT Dose
        ("1.2.840.10008.5.1.4.1.1.481.3", False),  # RT Structure Set
        ("1.2.840.10008.5.1.4.1.1.66.4", True),  # Segmentation
        ("1.2.840.10008.5.1.4.1.1.77.1.4.1", True),  # video
        ("1.2.3.4", True),
    ],
)
def test_pixels_by_sop_class(sop_class: str, pixels: bool) -> None:
    assert has_pixels(sop_class) is pixels
    made = plan(parse_accept([dicom(LOSSLESS), dicom(EXPLICIT, "0.1")]), [facts(J2K, sop_class)], False, can)
    assert made.syntaxes == ((LOSSLESS if pixels else EXPLICIT),)


def test_tables() -> None:
    assert set(TEN) == MESH
    assert DEFAULTS["image/jpeg"] == LOSSLESS
    assert DEFAULTS["application/octet-stream"] == EXPLICIT
    assert set(DEFAULTS) == {row.media_type for row in SYNTAXES.values()}


@pytest.mark.parametrize(
    ("frames", "count", "status"),
    [
        ("1", None, None),
        ("1", 1, None),
        ("2", 1, 404),
        ("1", 3, 406),
        ("1,2", 3, 406),
        ("4", 3, 404),
        ("1,1", 1, 406),
    ],
)
def test_frames_as_instances(frames: str, count: int | None, status: int | None) -> None:
    ref = InstanceRef("1.2.3", CT, EXPLICIT, NumberOfFrames=count)
    if status is None:
        check_frames(frames, ref)
        return
    with pytest.raises(HttpRefusal) as refused:
        check_frames(frames, ref)
    assert refused.value.status == status


SYNTAX = st.sampled_from([*SYNTAXES, "1.2.3.4"])
ELEMENT = st.tuples(
    st.sampled_from([DICOM, "application/dicom", 'multipart/related; type="*/*"', "*/*", "application/*"]),
    st.one_of(SYNTAX, st.sampled_from(["*", ""])),
    st.sampled_from(["0", "0.0", "0.1", "0.5", "1", "1.0"]),
)
POLICY = st.sampled_from([STORED, QUALITY, LOSSY, QUALITY_LOSSY])


@given(
    st.lists(ELEMENT, min_size=1, max_size=12),
    SYNTAX,
    st.booleans(),
    POLICY,
    st.booleans(),
    st.sampled_from([can, cannot, anything]),
)
@settings(max_examples=500, deadline=None)
def test_what_is_refused_never_leaves(
    elements: list[tuple[str, str, str]],
    stored: str,
    pixels: bool,
    policy: ServingPolicy,
    alone: bool,
    able: Callable[[str, str], bool],
) -> None:
    accept = [f"{t}; transfer-syntax={s};q={q}" if s else f"{t};q={q}" for t, s, q in elements]
    one = InstanceFacts(stored, CT, has_pixels=pixels)
    try:
        made = plan(parse_accept(accept), [one], alone, able, policy)
    except HttpRefusal as refusal:
        assert refusal.status == 406
        assert len(refusal.detail) < 4000
        return
    (sent,) = made.syntaxes
    exact = "application/dicom" if made.form is Form.SINGLE else DICOM
    assert not any((t, s, float(q)) == (exact, sent, 0) for t, s, q in elements)
    assert any(float(q) > 0 for _, _, q in elements)
    assert sent not in (IMPLICIT, BIG_ENDIAN)
    assert sent == stored or (able(stored, sent) and SYNTAXES[sent].kind is not Kind.VIDEO)
    assert sent == stored or policy.allow_lossy or SYNTAXES[sent].kind is not Kind.LOSSY
    assert sent in (stored, EXPLICIT) or pixels
    assert alone or made.form is Form.MULTIPART
    assert plan(parse_accept([", ".join(accept)]), [one], alone, able, policy) == made
