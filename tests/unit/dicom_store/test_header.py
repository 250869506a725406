"""header.read_header: every attribute, every encoding, every refusal, and the scanner against pydicom."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from io import BytesIO

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import config
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence

from dicom_store.header import (
    DEFLATED,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    WANTED,
    HeaderRefused,
    read_header,
)
from dicom_store.instance import InstanceHeader
from dicom_store.scanner import PREFIX_BYTES, Encoding, Unreadable, parse, scan
from dicom_store.status import Outcome

CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
JPEG_2000 = "1.2.840.10008.1.2.4.91"
Encode = Callable[..., bytes]


def read(data: bytes, transfer_syntax: str = EXPLICIT_VR_LITTLE_ENDIAN, **command: str) -> InstanceHeader:
    uids = {"sop_class_uid": CT_IMAGE_STORAGE, "sop_instance_uid": "1.2.3.4.5.6", **command}
    return read_header(data, transfer_syntax, **uids)


def refusal(data: bytes, transfer_syntax: str = EXPLICIT_VR_LITTLE_ENDIAN, **command: str) -> HeaderRefused:
    with pytest.raises(HeaderRefused) as refused:
        read(data, transfer_syntax, **command)
    return refused.value


def expected(transfer_syntax: str) -> InstanceHeader:
    return InstanceHeader(
        SOPClassUID=CT_IMAGE_STORAGE,
        SOPInstanceUID="1.2.3.4.5.6",
        StudyInstanceUID="1.2.3.4",
        SeriesInstanceUID="1.2.3.4.5",
        TransferSyntaxUID=transfer_syntax,
        Modality="CT",
        PatientID="IPP101",
        PatientBirthDate="19800101",
        AccessionNumber="ACN111",
        StudyDate="20260102",
        StudyTime="101112",
        StudyDescription="Scanner thoracique, contrôle",
        SeriesNumber=2,
        SeriesDescription="Axial",
        BodyPartExamined="CHEST",
        InstanceNumber=7,
        NumberOfFrames=3,
        PatientName="PAT^ONE",
        PatientSex="F",
        ReferringPhysicianName="REF^ONE",
        StudyID="S1",
        TimezoneOffsetFromUTC="+0200",
        PerformedProcedureStepStartDate="20260102",
        PerformedProcedureStepStartTime="101000",
        Rows=2,
        Columns=1,
        BitsAllocated=16,
    )


@pytest.mark.parametrize(
    ("transfer_syntax", "how"),
    [
        (EXPLICIT_VR_LITTLE_ENDIAN, {}),
        (IMPLICIT_VR_LITTLE_ENDIAN, {"implicit_vr": True}),
        (EXPLICIT_VR_BIG_ENDIAN, {"big_endian": True}),
        (JPEG_2000, {}),
        ("1.2.3.999", {}),  # a private transfer syntax is read as explicit VR little endian (PS3.5 A.4)
    ],
)
def test_every_attribute_in_every_encoding(
    data_set: Dataset, encode: Encode, transfer_syntax: str, how: dict[str, bool]
) -> None:
    assert read(encode(data_set, **how), transfer_syntax) == expected(transfer_syntax)


@pytest.mark.parametrize("transfer_syntax", sorted(DEFLATED))
def test_deflated(data_set: Dataset, encode: Encode, transfer_syntax: str) -> None:
    press = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    deflated = press.compress(encode(data_set)) + press.flush()
    assert read(deflated, transfer_syntax) == expected(transfer_syntax)


def test_a_deflate_bomb_is_inflated_no_further_than_the_prefix(data_set: Dataset, encode: Encode) -> None:
    press = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    bomb = press.compress(encode(data_set) + bytes(4 * PREFIX_BYTES)) + press.flush()
    assert read(bomb, "1.2.840.10008.1.2.1.99").StudyInstanceUID == "1.2.3.4"


def test_the_data_set_may_be_a_memory_view(data_set: Dataset, encode: Encode) -> None:
    assert read(BytesIO(encode(data_set)).getbuffer()) == expected(EXPLICIT_VR_LITTLE_ENDIAN)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "keyword", ["SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"]
)
@pytest.mark.parametrize("how", ["absent", "empty"])
def test_a_missing_uid_is_named(data_set: Dataset, encode: Encode, keyword: str, how: str) -> None:
    if how == "absent":
        delattr(data_set, keyword)
    else:
        setattr(data_set, keyword, "")
    refused = refusal(encode(data_set))
    assert refused.outcome is Outcome.UID_MISSING
    assert refused.reason == f"{keyword} is missing"


@pytest.mark.parametrize(
    "value", ["../../etc/passwd", "1.2.03", "1.2.", "1" * 65, "1.2.3/4", "1.2\0.3", "é.1"]
)
def test_a_malformed_uid_is_named_and_not_quoted(data_set: Dataset, encode: Encode, value: str) -> None:
    broken = encode(data_set)
    start = broken.index(struct.pack("<HH2s", 0x0020, 0x000D, b"UI"))
    raw = value.encode("latin-1") + b"\0" * (len(value) % 2)
    element = struct.pack("<HH2sH", 0x0020, 0x000D, b"UI", len(raw)) + raw
    refused = refusal(broken[:start] + element + broken[start + 8 + len("1.2.3.4\0") :])
    assert refused.outcome is Outcome.UID_INVALID
    assert refused.reason == "StudyInstanceUID is not a UID"
    assert value not in str(refused)


def test_a_uid_that_is_not_the_commands(data_set: Dataset, encode: Encode) -> None:
    refused = refusal(encode(data_set), sop_instance_uid="1.2.3.4.5.7")
    assert (refused.outcome, refused.reason) == (
        Outcome.UID_MISMATCH,
        "SOPInstanceUID is not that of the command",
    )
    assert refusal(encode(data_set), sop_class_uid="1.2.3").outcome is Outcome.UID_MISMATCH


def test_a_command_uid_that_is_a_path(data_set: Dataset, encode: Encode) -> None:
    refused = refusal(encode(data_set), sop_instance_uid="../../x")
    assert refused.outcome is Outcome.UID_INVALID
    assert "AffectedSOPInstanceUID is not a UID" in refused.reason


def test_every_fault_is_listed(data_set: Dataset, encode: Encode) -> None:
    del data_set.StudyInstanceUID
    del data_set.SeriesInstanceUID
    reason = refusal(encode(data_set), sop_class_uid="1.2.3").reason
    assert "SOPClassUID is not that" in reason
    assert "StudyInstanceUID is missing" in reason
    assert "SeriesInstanceUID is missing" in reason


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x08",
        bytes(200),
        b"GET / HTTP/1.1\r\n\r\n",
        bytes(128) + b"DICM" + bytes(100),
        b"\xff" * 64,
        struct.pack("<HH2sH", 0x0008, 0x0018, b"UI", 60) + b"1.2",
    ],
)
@pytest.mark.parametrize("transfer_syntax", [EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN])
def test_what_is_not_a_data_set(data: bytes, transfer_syntax: str) -> None:
    assert refusal(data, transfer_syntax).outcome in (Outcome.NOT_UNDERSTOOD, Outcome.UID_MISSING)


def test_every_cut_before_the_last_attribute_is_refused(data_set: Dataset, encode: Encode) -> None:
    data = encode(data_set)
    last_uid = data.index(struct.pack("<HH2s", 0x0020, 0x000E, b"UI"))
    for end in range(last_uid):
        assert refusal(data[:end]).outcome in (Outcome.NOT_UNDERSTOOD, Outcome.UID_MISSING)


def test_another_encoding_than_the_one_announced(data_set: Dataset, encode: Encode) -> None:
    assert refusal(encode(data_set, implicit_vr=True)).outcome is Outcome.NOT_UNDERSTOOD
    for announced, actual in [
        (IMPLICIT_VR_LITTLE_ENDIAN, {}),
        (EXPLICIT_VR_LITTLE_ENDIAN, {"big_endian": True}),
        (EXPLICIT_VR_BIG_ENDIAN, {}),
    ]:
        outcome = refusal(encode(data_set, **actual), announced).outcome
        assert outcome in (Outcome.NOT_UNDERSTOOD, Outcome.UID_MISSING)
    assert refusal(encode(data_set), "1.2.840.10008.1.2.1.99").outcome is Outcome.NOT_UNDERSTOOD
    assert refusal(encode(data_set), "../x").outcome is Outcome.NOT_UNDERSTOOD


def test_tags_out_of_order_are_read_by_pydicom(data_set: Dataset, encode: Encode) -> None:
    only_study = Dataset()
    only_study.StudyInstanceUID = data_set.StudyInstanceUID
    del data_set.StudyInstanceUID
    disordered = encode(only_study) + encode(data_set)
    with pytest.raises(Unreadable):
        scan(disordered, Encoding(), WANTED)
    assert read(disordered) == expected(EXPLICIT_VR_LITTLE_ENDIAN)


def test_an_unknown_vr_is_read_by_pydicom(data_set: Dataset, encode: Encode) -> None:
    data = encode(data_set).replace(b"\x08\x00\x60\x00CS", b"\x08\x00\x60\x00ZZ")
    with pytest.raises(Unreadable):
        scan(data, Encoding(), WANTED)
    assert read(data).StudyInstanceUID == "1.2.3.4"


def test_the_scanner_stops_before_the_pixels(data_set: Dataset, encode: Encode) -> None:
    whole = encode(data_set)
    pixels = whole.index(struct.pack("<HH2s", 0x7FE0, 0x0010, b"OW"))
    assert read(whole[: pixels + 8] + b"\xff" * 10) == expected(EXPLICIT_VR_LITTLE_ENDIAN)


def test_what_is_irregular_after_bits_allocated_refuses_nothing(data_set: Dataset, encode: Encode) -> None:
    whole = encode(data_set)
    step = whole.index(struct.pack("<HH2s", 0x0040, 0x0244, b"DA"))
    found = read(whole[:step] + b"\xff" * 10)
    assert (found.Rows, found.Columns, found.BitsAllocated) == (2, 1, 16)
    assert (found.PerformedProcedureStepStartDate, found.PerformedProcedureStepStartTime) == ("", "")


@pytest.mark.parametrize(
    ("charset", "codec", "text"),
    [
        ("ISO_IR 100", "latin-1", "contrôle"),
        ("ISO_IR 192", "utf-8", "contrôle Łódź"),
        ("", "ascii", "plain"),
        ("ISO_IR 144", "iso8859-5", "Привет"),
        ("NOBODY KNOWS", "latin-1", "contrôle"),
    ],
)
def test_text_is_decoded(charset: str, codec: str, text: str, encode: Encode, data_set: Dataset) -> None:
    raw = encode(data_set)
    start, end = raw.index(b"\x08\x00\x30\x10LO"), raw.index(b"\x08\x00\x3e\x10LO")
    value = text.encode(codec) + b" " * (len(text.encode(codec)) % 2)
    element = struct.pack("<HH2sH", 0x0008, 0x1030, b"LO", len(value)) + value
    label = charset.encode() + b" " * (len(charset) % 2)
    charset_element = struct.pack("<HH2sH", 0x0008, 0x0005, b"CS", len(label)) + label
    body = raw[raw.index(b"\x08\x00\x16\x00UI") : start] + element + raw[end:]
    assert read(charset_element + body).StudyDescription == text


def test_invalid_text_is_replaced_and_code_extensions_are_followed(data_set: Dataset, encode: Encode) -> None:
    data_set.SpecificCharacterSet = "ISO_IR 192"
    data_set.PatientName = "PAT^??"
    assert read(encode(data_set).replace(b"PAT^??", b"PAT^\xff\xfe")).PatientName == "PAT^\ufffd\ufffd"
    data_set.SpecificCharacterSet = ["", "ISO 2022 IR 87"]
    data_set.PatientName = "Yamada^Tarou=山田^太郎"
    assert read(encode(data_set)).PatientName == "Yamada^Tarou=山田^太郎"
    data_set.PatientName = "PAT^ONE=?"
    assert read(encode(data_set).replace(b"ONE=?", b"ONE=\x1b")).PatientName == "PAT^ONE=\x1b"
    standing_alone = encode(data_set).replace(b"\\ISO 2022 IR 87 ", b"ISO_IR 192\\GBK  ")
    assert read(standing_alone).StudyDescription.startswith("Scanner")


@pytest.mark.parametrize(
    ("raw", "number"),
    [(b"7 ", 7), (b" -3 ", -3), (b"+5", 5), (b"", None), (b"x1", None), (b"1.5 ", None), (b"1_0 ", None),
     (b"99999999999 ", None), (b"2147483647", 2147483647), (b"2147483648", None), (b"--1 ", None)],
)  # fmt: skip
def test_integers(raw: bytes, number: int | None, data_set: Dataset, encode: Encode) -> None:
    data = encode(data_set)
    start = data.index(b"\x20\x00\x13\x00IS")
    element = struct.pack("<HH2sH", 0x0020, 0x0013, b"IS", len(raw)) + raw
    assert read(data[:start] + element + data[start + 10 :]).InstanceNumber == number


def test_deep_nesting_costs_no_recursion(data_set: Dataset, encode: Encode) -> None:
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    nested = struct.pack("<HH2sHI", 0x0008, 0x1115, b"SQ", 0, 0xFFFFFFFF) + item
    data = encode(data_set)
    start = data.index(b"\x08\x00\x3e\x10LO")
    refused = refusal(data[:start] + nested * 5000 + data[start:])
    assert refused.outcome is Outcome.NOT_UNDERSTOOD


# --- the scanner against pydicom ---------------------------------------------------------------------------

_TEXT = st.text(alphabet="ABCabc 0123^-", max_size=16)
_UID = st.from_regex(r"[1-9](\.(0|[1-9][0-9]{0,4})){1,8}", fullmatch=True)


@st.composite
def data_sets(draw: st.DrawFn, depth: int = 0) -> Dataset:
    made = Dataset()
    for keyword in ("AccessionNumber", "StudyDescription", "SeriesDescription", "PatientID"):
        if draw(st.booleans()):
            setattr(made, keyword, draw(_TEXT))
    if draw(st.booleans()):
        made.BodyPartExamined = draw(st.sampled_from(["", "CHEST", "SKULL"]))
    for keyword in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        if draw(st.booleans()):
            setattr(made, keyword, draw(_UID))
    if draw(st.booleans()):
        block = made.private_block(0x0009, "SOMEBODY", create=True)
        block.add_new(0x01, draw(st.sampled_from(["UN", "OB"])), draw(st.sampled_from([b"", b"ab", b"abcd"])))
    for keyword in ("ReferencedSeriesSequence", "RequestAttributesSequence", "ProcedureCodeSequence"):
        if depth < 2 and draw(st.booleans()):
            sequence = Sequence([draw(data_sets(depth + 1)) for _ in range(draw(st.integers(0, 2)))])
            setattr(made, keyword, sequence)
            made[keyword].is_undefined_length = draw(st.booleans())
            for item in sequence:
                item.is_undefined_length_sequence_item = draw(st.booleans())
    if draw(st.booleans()):
        made.InstanceNumber = draw(st.integers(-5, 5000))
    if draw(st.booleans()):
        made.NumberOfFrames = draw(st.integers(0, 100))
    return made


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    made=data_sets(),
    encoding=st.sampled_from([Encoding(), Encoding(implicit_vr=True), Encoding(big_endian=True)]),
)
def test_scanner_and_pydicom_agree(made: Dataset, encoding: Encoding) -> None:
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = encoding.implicit_vr, not encoding.big_endian
    write_dataset(buffer, made)
    data = bytes(buffer.getvalue())
    scanned = scan(data, encoding, WANTED)
    if scanned:
        assert scanned == parse(data, encoding, WANTED)
    elif data:
        with pytest.raises(Unreadable, match="no attribute"):
            parse(data, encoding, WANTED)


@settings(max_examples=200, deadline=None)
@given(
    junk=st.binary(max_size=300),
    syntax=st.sampled_from([EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN]),
)
def test_any_bytes_are_refused_by_the_proper_exception(junk: bytes, syntax: str) -> None:
    assert config.settings.reading_validation_mode == config.WARN
    refused = refusal(junk, syntax)
    assert refused.outcome in (Outcome.NOT_UNDERSTOOD, Outcome.UID_MISSING, Outcome.UID_INVALID)
