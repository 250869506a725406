"""dicom_json.instance_json: every value representation, every encoding, and bytes that nobody should send."""

from __future__ import annotations

import json
import struct
import tracemalloc
import zlib
from base64 import b64decode
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from dicom_store import dicom_json
from dicom_store.dicom_json import instance_json
from dicom_store.header import DEFLATED, HeaderRefused, read_header

EXPLICIT, IMPLICIT, BIG_ENDIAN = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"
DEFLATE, JPEG_LS = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.80"
LONG = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"})
UNDEFINED = 0xFFFFFFFF
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD


def element(tag: int, vr: str, value: bytes, length: int | None = None, order: str = "<") -> bytes:
    """Explicit VR; `length` says something else than the truth."""
    size = len(value) if length is None else length
    head = struct.pack(order + "HH", tag >> 16, tag & 0xFFFF) + vr.encode()
    return (
        head
        + struct.pack(order + ("HI" if vr in LONG else "H"), *((0, size) if vr in LONG else (size,)))
        + value
    )


def implicit(tag: int, value: bytes, length: int | None = None) -> bytes:
    return struct.pack("<HHI", tag >> 16, tag & 0xFFFF, len(value) if length is None else length) + value


def item(content: bytes, *, undefined: bool = False) -> bytes:
    return (
        implicit(ITEM, content, UNDEFINED) + implicit(ITEM_END, b"") if undefined else implicit(ITEM, content)
    )


def read(data: bytes, syntax: str = EXPLICIT, offset: int = 0) -> dict[str, Any]:
    text = instance_json(data, syntax, offset)
    parsed: dict[str, Any] = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert list(parsed) == sorted(parsed)
    return parsed


def one(tag: int, vr: str, value: bytes, charset: str = "") -> dict[str, Any]:
    """The JSON of a data set of one element, after its character set."""
    label = charset.encode() + b" " * (len(charset) % 2)
    found = read((element(0x00080005, "CS", label) if charset else b"") + element(tag, vr, value))
    assert found["00080005"] == {"vr": "CS", "Value": ["ISO_IR 192"]}
    made: dict[str, Any] = found[f"{tag:08X}"]
    assert made["vr"] == vr
    return made


def floats(code: str, *numbers: float) -> bytes:
    return struct.pack(f"<{len(numbers)}{code}", *numbers)


@pytest.mark.parametrize(
    ("vr", "raw", "values"),
    [
        ("AE", b"PACS", ["PACS"]),
        ("AS", b"033Y", ["033Y"]),
        ("AT", b"\x10\x00\x20\x00\x28\x00\xff\x0a", ["00100020", "00280AFF"]),
        ("CS", b"ORIGINAL\\PRIMARY ", ["ORIGINAL", "PRIMARY"]),
        ("DA", b"20260102", ["20260102"]),
        ("DS", b"1.50\\-2\\.5\\+3\\1e2\\05 ", [1.5, -2, 0.5, 3, 100.0, 5]),
        ("DS", b"1e999 ", ["1e999"]),
        ("DS", b"NaN ", ["NaN"]),
        ("DS", b"1,5 ", ["1,5"]),
        ("DS", b"0" * 70, ["0" * 70]),
        ("DT", b"20260102101112.5", ["20260102101112.5"]),
        ("FL", floats("f", 0.5, -2), [0.5, -2.0]),
        ("FL", floats("f", float("nan"), float("inf")), ["nan", "inf"]),
        ("FD", floats("d", 0.1, float("-inf")), [0.1, "-inf"]),
        ("IS", b"7\\ -3 \\+5", [7, -3, 5]),
        ("IS", b"2147483648", ["2147483648"]),
        ("IS", b"1.0 ", ["1.0"]),
        ("LO", b"a\\b ", ["a", "b"]),
        ("LT", b" two\r\nlines \\ here  ", [" two\r\nlines \\ here"]),
        ("PN", b"A^B", [{"Alphabetic": "A^B"}]),
        ("PN", b"A=B=C\\D ", [{"Alphabetic": "A", "Ideographic": "B", "Phonetic": "C"}, {"Alphabetic": "D"}]),
        ("PN", b"==P ", [{"Phonetic": "P"}]),
        ("SH", b'say "so"', ['say "so"']),
        ("SL", struct.pack("<2i", -1, 2), [-1, 2]),
        ("SS", struct.pack("<h", -2), [-2]),
        ("ST", b"a\\b ", ["a\\b"]),
        ("SV", struct.pack("<2q", -1, 2**60), [-1, str(2**60)]),
        ("TM", b"101112.000", ["101112.000"]),
        ("UC", b"long\\er ", ["long", "er"]),
        ("UI", b"1.2.3\0", ["1.2.3"]),
        ("UI", b"1.2\\1.34", ["1.2", "1.34"]),
        ("UL", struct.pack("<I", 4_000_000_000), [4_000_000_000]),
        ("UR", b"https://x.test/a\\b ", ["https://x.test/a\\b"]),
        ("US", struct.pack("<3H", 1, 2, 65535), [1, 2, 65535]),
        ("UT", b"tab\there", ["tab\there"]),
        ("UV", struct.pack("<2Q", 2**53 - 1, 2**64 - 1), [2**53 - 1, str(2**64 - 1)]),
    ],
)  # fmt: skip
def test_values(vr: str, raw: bytes, values: list[Any]) -> None:
    assert one(0x00400001, vr, raw) == {"vr": vr, "Value": values}


def test_a_decimal_keeps_its_digits() -> None:
    assert b'"Value":[1.10,0.000]' in instance_json(element(0x00281050, "DS", b"1.10\\0.000"), EXPLICIT, 0)


@pytest.mark.parametrize(
    "vr", sorted(LONG - {"SQ"} | {"CS", "PN", "IS", "DS", "AT", "US", "FL", "FD", "LO", "UI"})
)
def test_an_empty_value_is_no_value(vr: str) -> None:
    assert one(0x00291001, vr, b"") == {"vr": vr}


@pytest.mark.parametrize("vr", ["CS", "LO", "PN", "IS", "DS", "ST", "UT"])
def test_padding_alone_is_no_value(vr: str) -> None:
    assert one(0x00400001, vr, b"  \0 ") == {"vr": vr}


@pytest.mark.parametrize("vr", ["CS", "LO", "PN", "IS", "DS"])
def test_an_empty_value_among_others_is_null(vr: str) -> None:
    values = one(0x00400001, vr, b"1\\\\3 ")["Value"]
    assert values[1] is None
    assert len(values) == 3
    assert one(0x00400001, vr, b"\\ ")["Value"] == [None, None]


def test_a_name_of_nothing_but_delimiters_is_no_value() -> None:
    assert one(0x00100010, "PN", b"==") == {"vr": "PN"}


@pytest.mark.parametrize("vr", ["OB", "OD", "OF", "OL", "OV", "OW", "UN"])
def test_binary_is_inline_up_to_1024_bytes(vr: str) -> None:
    raw = bytes(n % 256 for n in range(1024))
    short = one(0x00290010 if vr != "UN" else 0x00291010, vr, raw)
    assert b64decode(short["InlineBinary"]) == raw
    data = element(0x00080060, "CS", b"CT") + element(0x00291010, vr, bytes(1026))
    start = len(data) - 1026
    assert read(data, offset=500)["00291010"] == {"vr": vr, "BulkDataURI": f"bulkdata/{500 + start}-1026"}


@pytest.mark.parametrize("vr", ["UT", "UC", "UR", "UV"])
def test_long_texts_and_numbers_are_bulk_data(vr: str) -> None:
    assert "Value" in one(0x00400001, vr, b"1" * 65536)
    assert read(element(0x00400001, vr, b"1" * 65544))["00400001"] == {
        "vr": vr,
        "BulkDataURI": "bulkdata/12-65544",
    }


@pytest.mark.parametrize("tag", [0x7FE00008, 0x7FE00009, 0x7FE00010])
def test_pixel_data_is_bulk_data_however_short(tag: int) -> None:
    assert read(element(tag, "OW", b"\1\2"), offset=300)[f"{tag:08X}"] == {
        "vr": "OW",
        "BulkDataURI": "bulkdata/312-2",
    }
    assert read(element(tag, "OW", b""))[f"{tag:08X}"] == {"vr": "OW"}


@pytest.mark.parametrize("rest", [b"", element(0xFFFCFFFC, "OB", b"\0\0")])
def test_encapsulated_pixel_data_goes_from_the_offset_table_to_the_delimiter(rest: bytes) -> None:
    table, fragments = item(b"\0\0\0\0"), item(b"ab" * 900) + item(implicit(SEQUENCE_END, b""))
    value = table + fragments + implicit(SEQUENCE_END, b"")
    data = element(0x00280010, "US", b"\1\0") + element(0x7FE00010, "OB", value, UNDEFINED)
    found = read(data + rest, JPEG_LS, 400)
    assert found["7FE00010"] == {"vr": "OB", "BulkDataURI": f"bulkdata/{400 + 10 + 12}-{len(value)}"}
    assert ("FFFCFFFC" in found) == bool(rest)


@pytest.mark.parametrize("lost", [1, 8, 9, 20])
def test_torn_pixel_data_is_what_there_is(lost: int) -> None:
    value = item(b"") + item(b"ab" * 8) + implicit(SEQUENCE_END, b"")
    torn = element(0x7FE00010, "OB", value, UNDEFINED)[:-lost]
    assert read(torn, JPEG_LS)["7FE00010"] == {"vr": "OB", "BulkDataURI": f"bulkdata/12-{len(value) - lost}"}
    native = element(0x7FE00010, "OW", bytes(100))[:-lost]
    assert read(native)["7FE00010"] == {"vr": "OW", "BulkDataURI": f"bulkdata/12-{100 - lost}"}


def test_what_is_left_out() -> None:
    data = b"".join(
        (
            element(0x00020010, "UI", b"1.2 "),
            element(0x00080000, "UL", b"\4\0\0\0"),
            element(0x00080060, "CS", b"CT"),
            element(0x00090000, "UL", b"\4\0\0\0"),
        )
    )
    assert list(read(data)) == ["00080005", "00080060"]


# --- texts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("charset", "raw", "text"),
    [
        ("", b"plain", "plain"),
        ("", "é".encode("latin-1"), "é"),
        ("ISO_IR 100", "contrôle".encode("latin-1"), "contrôle"),
        ("ISO_IR 101", "Łódź".encode("iso8859-2"), "Łódź"),
        ("ISO_IR 144", "Привет".encode("iso8859-5"), "Привет"),
        ("ISO_IR 192", "Łódź 山田 😀".encode(), "Łódź 山田 😀"),
        ("GB18030", "王小东".encode("gb18030"), "王小东"),
        ("ISO 2022 IR 6\\ISO 2022 IR 87", b"A \x1b$B;3ED\x1b(B B", "A 山田 B"),
        ("NOBODY KNOWS", "é".encode("latin-1"), "é"),
        ("ISO_IR 192", b"bad \xff byte", "bad \ufffd byte"),
        ("ISO_IR 192\\ISO_IR 100", "é".encode(), "é"),
    ],
)
@pytest.mark.parametrize("vr", ["LO", "LT", "PN", "SH", "ST", "UC", "UT"])
def test_texts_are_decoded(vr: str, charset: str, raw: bytes, text: str) -> None:
    (value,) = one(0x00400001, vr, raw, charset)["Value"]
    assert value == ({"Alphabetic": text} if vr == "PN" else text)


def test_a_name_in_three_scripts() -> None:
    raw = b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B"
    assert one(0x00100010, "PN", raw, "\\ISO 2022 IR 87")["Value"] == [
        {"Alphabetic": "Yamada^Tarou", "Ideographic": "山田^太郎", "Phonetic": "やまだ^たろう"}
    ]


def test_an_item_may_have_its_own_character_set() -> None:
    latin = element(0x00080104, "LO", "é".encode("latin-1"))
    own = element(0x00080005, "CS", b"ISO_IR 192") + element(0x00080104, "LO", "é".encode())
    data = element(0x00080005, "CS", b"ISO_IR 100")
    data += element(0x00081032, "SQ", item(latin) + item(own, undefined=True) + item(latin), None)
    data += element(0x00081030, "LO", "é".encode("latin-1"))
    found = read(data)
    assert [i["00080104"]["Value"] for i in found["00081032"]["Value"]] == [["é"]] * 3
    assert "00080005" not in found["00081032"]["Value"][0]
    assert found["00081032"]["Value"][1]["00080005"]["Value"] == ["ISO_IR 192"]
    assert found["00081030"]["Value"] == ["é"]


def test_no_text_looks_like_bulk_data() -> None:
    made = instance_json(element(0x00081030, "LO", b'","BulkDataURI":"bulkdata/1-2"'), EXPLICIT, 0)
    assert b'"BulkDataURI":"bulkdata/' not in made
    assert json.loads(made)["00081030"]["Value"] == ['","BulkDataURI":"bulkdata/1-2"']


# --- sequences -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("undefined", [False, True])
def test_sequences(undefined: bool) -> None:
    inner = element(0x00080100, "SH", b"CODE")
    deep = element(0x0040A730, "SQ", item(inner, undefined=undefined))
    value = item(deep, undefined=undefined) + item(b"", undefined=undefined)
    end = implicit(SEQUENCE_END, b"") if undefined else b""
    data = element(0x0040A730, "SQ", value + end, UNDEFINED if undefined else None)
    data += element(0x0040A731, "SQ", end, UNDEFINED if undefined else None) + element(
        0x00420010, "ST", b"ok"
    )
    code = {"00080100": {"vr": "SH", "Value": ["CODE"]}}
    found = read(data)
    assert found["0040A730"] == {"vr": "SQ", "Value": [{"0040A730": {"vr": "SQ", "Value": [code]}}, {}]}
    assert found["0040A731"] == {"vr": "SQ"}
    assert found["00420010"]["Value"] == ["ok"]


def test_bulk_data_in_items_is_addressed_in_the_file() -> None:
    data = element(0x00080060, "CS", b"CT")
    data += element(0x00880200, "SQ", item(element(0x7FE00010, "OW", b"\7\7\7\7")))
    (icon,) = read(data, offset=1000)["00880200"]["Value"]
    place = 1000 + data.index(b"\7\7\7\7")
    assert icon["7FE00010"]["BulkDataURI"] == f"bulkdata/{place}-4"


@pytest.mark.parametrize("length", [None, UNDEFINED])
def test_un_with_a_known_tag_is_what_it_is(length: int | None) -> None:
    code = item(implicit(0x00080100, b"CODE"))
    data = element(0x0040A730, "UN", code + (implicit(SEQUENCE_END, b"") if length else b""), length)
    assert read(data)["0040A730"]["Value"] == [{"00080100": {"vr": "SH", "Value": ["CODE"]}}]
    assert read(element(0x00280010, "UN", b"\2\0"))["00280010"] == {"vr": "US", "Value": [2]}


# --- other encodings ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tag", "raw", "expected"),
    [
        (0x00080060, b"CT", {"vr": "CS", "Value": ["CT"]}),
        (0x00280010, b"\2\0", {"vr": "US", "Value": [2]}),
        (0x00280106, b"\xff\xff", {"vr": "US", "Value": [65535]}),
        (0x00283006, b"\1\0\2\0", {"vr": "OW", "InlineBinary": "AQACAA=="}),
        (0x00283006, b"\1\0", {"vr": "US", "Value": [1]}),
        (0x60003000, b"\1\0", {"vr": "OW", "InlineBinary": "AQA="}),
        (0x60020010, b"\2\0", {"vr": "US", "Value": [2]}),
        (0x54001010, b"\1\0", {"vr": "OW", "InlineBinary": "AQA="}),
        (0x7FE00010, b"\1\0", {"vr": "OW", "BulkDataURI": "bulkdata/8-2"}),
        (0x00090010, b"ME", {"vr": "LO", "Value": ["ME"]}),
        (0x00091001, b"ME", {"vr": "UN", "InlineBinary": "TUU="}),
        (0x00400FFF, b"ME", {"vr": "UN", "InlineBinary": "TUU="}),
    ],
)
def test_implicit_vr_is_that_of_the_dictionary(tag: int, raw: bytes, expected: dict[str, Any]) -> None:
    assert read(implicit(tag, raw), IMPLICIT)[f"{tag:08X}"] == expected


def test_signed_pixels_have_signed_values() -> None:
    signed, unsigned = (implicit(0x00280103, flag) for flag in (b"\1\0", b"\0\0"))
    mapped = implicit(0x00221450, item(implicit(0x00221452, b"\xff\xff")))  # comes before (0028,0103)
    of_item = implicit(0x00283010, item(unsigned + implicit(0x00283002, b"\1\0\xff\xff\x10\0")))
    data = mapped + signed + implicit(0x00280106, b"\xff\xff") + of_item
    found = read(data, IMPLICIT)
    assert found["00280106"] == {"vr": "SS", "Value": [-1]}
    assert found["00221450"]["Value"][0]["00221452"]["vr"] == "SS"
    assert found["00283010"]["Value"][0]["00283002"] == {"vr": "US", "Value": [1, 65535, 16]}


def test_a_private_sequence_of_undefined_length_in_implicit_vr() -> None:
    value = item(implicit(0x00091002, b"ab"), undefined=True) + implicit(SEQUENCE_END, b"")
    found = read(implicit(0x00091001, value, UNDEFINED) + implicit(0x00100020, b"ID"), IMPLICIT)
    assert found["00091001"] == {"vr": "SQ", "Value": [{"00091002": {"vr": "UN", "InlineBinary": "YWI="}}]}
    assert found["00100020"]["Value"] == ["ID"]


def test_big_endian() -> None:
    def big(tag: int, vr: str, value: bytes) -> bytes:
        return element(tag, vr, value, order=">")

    data = b"".join(
        (
            big(0x00280009, "AT", b"\x00\x18\x10\x63"),
            big(0x00280010, "US", b"\0\2"),
            big(0x00281408, "OW", b"\1\2\3\4"),
            big(0x00420011, "OB", bytes(1026)),
            big(0x7FE00010, "OW", bytes(4)),
        )
    )
    found = read(data, BIG_ENDIAN)
    assert found["00280009"]["Value"] == ["00181063"]
    assert found["00280010"]["Value"] == [2]
    assert b64decode(found["00281408"]["InlineBinary"]) == b"\2\1\4\3"  # words in little endian
    assert "BulkDataURI" in found["00420011"]
    assert found["7FE00010"] == {"vr": "OW"}


@pytest.mark.parametrize("syntax", sorted(DEFLATED))
def test_deflated(syntax: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = element(0x00080060, "CS", b"CT") + element(0x7FE00010, "OW", bytes(4000))
    press = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    deflated = press.compress(data) + press.flush()
    expected = {"vr": "CS", "Value": ["CT"]}
    for limit in (1_000_000, 100):  # with the pixels, and without most of them
        monkeypatch.setattr(dicom_json, "PREFIX_BYTES", limit)
        found = read(deflated, syntax)
        assert (found["00080060"], found["7FE00010"]) == (expected, {"vr": "OW"})


def test_every_encoding_says_the_same(data_set: Dataset, encode: Callable[..., bytes]) -> None:
    found = read(encode(data_set))
    implicit_vr = read(encode(data_set, implicit_vr=True), IMPLICIT)
    big_endian = read(encode(data_set, big_endian=True), BIG_ENDIAN)
    for made in (found, implicit_vr, big_endian):
        del made["7FE00010"]
    assert found == implicit_vr == big_endian
    assert found["00081030"]["Value"] == ["Scanner thoracique, contrôle"]


def test_the_data_set_may_be_a_memory_view(data_set: Dataset, encode: Callable[..., bytes]) -> None:
    data = encode(data_set)
    assert instance_json(memoryview(bytearray(data)), EXPLICIT, 7) == instance_json(data, EXPLICIT, 7)


# --- what should not be sent ---------------------------------------------------------------------------------------


AFTER = element(0x00420010, "ST", b"ok")


def test_tags_out_of_order_and_twice() -> None:
    first = element(0x00100020, "LO", b"ONE ") + element(0x00080060, "CS", b"CT")
    found = read(first + element(0x00100020, "LO", b"TWO "))
    assert found["00100020"]["Value"] == ["ONE"]
    assert found["00080060"]["Value"] == ["CT"]


def test_a_vr_of_the_future_and_implicit_vr_in_explicit() -> None:
    found = read(element(0x00091001, "ZZ", b"ab") + implicit(0x00100020, b"ID") + AFTER)
    assert found["00091001"] == {"vr": "UN", "InlineBinary": "YWI="}
    assert found["00100020"] == {"vr": "LO", "Value": ["ID"]}
    assert found["00420010"]["Value"] == ["ok"]


@pytest.mark.parametrize(("vr", "raw"), [("US", b"\1"), ("FD", b"1234"), ("AT", b"\1\2"), ("UL", b"123456")])
def test_a_value_of_an_impossible_length_is_left_out(vr: str, raw: bytes) -> None:
    found = read(element(0x00400001, vr, raw) + AFTER)
    assert list(found) == ["00080005", "00420010"]


@pytest.mark.parametrize(
    "content",
    [b"nonsense", item(b"")[:-1], implicit(0x00100020, b"ID"), item(element(0x00100020, "LO", b"ID", 90))],
)
def test_a_broken_sequence_is_left_out(content: bytes) -> None:
    found = read(element(0x0040A730, "SQ", content) + AFTER)
    assert list(found) == ["00080005", "00420010"]


def test_where_the_end_is_not_known_the_rest_is_left_out() -> None:
    before = element(0x00080060, "CS", b"CT")
    broken = element(0x0040A730, "SQ", item(b"nonsense"), UNDEFINED)
    assert list(read(before + broken + AFTER)) == ["00080005", "00080060"]
    assert list(read(before + element(0x00100020, "LO", b"ID", 900) + AFTER)) == ["00080005", "00080060"]
    assert list(read(before + AFTER[:6])) == ["00080005", "00080060"]


def test_endless_nesting_is_left_out() -> None:
    deep = (element(0x0040A730, "SQ", b"", UNDEFINED) + implicit(ITEM, b"", UNDEFINED)) * 20_000
    assert list(read(element(0x00080060, "CS", b"CT") + deep)) == ["00080005", "00080060"]
    nested = b""
    for _ in range(90):
        nested = element(0x0040A730, "SQ", item(nested))
    assert "00420010" in read(nested + AFTER)


def test_more_than_is_prepared_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicom_json, "COST_BYTES", 1000)
    many = b"".join(element(0x00091000 + n, "UN", b"") for n in range(500))
    assert 10 < len(read(many)) < 40
    long = element(0x00080060, "CS", b"CT") + element(0x00400001, "UT", b"x" * 2000) + AFTER
    assert list(read(long)) == ["00080005", "00080060", "00400001"]


def test_pixels_cost_no_memory() -> None:
    size = 64 << 20
    data = element(0x00080060, "CS", b"CT") + element(0x7FE00010, "OW", b"", size) + bytes(size)
    encapsulated = element(0x7FE00010, "OB", b"", UNDEFINED) + implicit(ITEM, b"", size) + bytes(size)
    tracemalloc.start()
    native, fragments = read(data), read(encapsulated, JPEG_LS)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert native["7FE00010"]["BulkDataURI"] == f"bulkdata/22-{size}"
    assert fragments["7FE00010"]["BulkDataURI"] == f"bulkdata/12-{size + 8}"
    assert peak < 1 << 20


_PIECES = st.one_of(
    st.binary(max_size=40),
    st.builds(
        element,
        st.sampled_from(
            [0x00080005, 0x00100010, 0x00280103, 0x0040A730, 0x7FE00010, 0x00091001, ITEM, ITEM_END]
        ),
        st.sampled_from(["SQ", "UN", "OB", "LO", "PN", "IS", "DS", "FD", "AT", "ZZ", "\0\0"]),
        st.binary(max_size=40),
        st.sampled_from([None, None, 0, 4, 9, 40, 65535]),
    ),
    st.builds(
        implicit,
        st.sampled_from(
            [0x00080005, 0x00100010, 0x00280106, 0x0040A730, ITEM, ITEM_END, SEQUENCE_END, 0x7FE00010]
        ),
        st.binary(max_size=40),
        st.sampled_from([None, None, 0, 8, 40, UNDEFINED]),
    ),
    st.sampled_from(
        [element(0x0040A730, "SQ", b"", UNDEFINED), implicit(ITEM, b"", UNDEFINED), b"\\", b"\x1b$B"]
    ),
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    pieces=st.lists(_PIECES, max_size=12), syntax=st.sampled_from([EXPLICIT, IMPLICIT, BIG_ENDIAN, JPEG_LS])
)
def test_any_bytes_give_valid_json(pieces: list[bytes], syntax: str) -> None:
    found = read(b"".join(pieces), syntax)
    assert found["00080005"]["Value"] == ["ISO_IR 192"]


@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(
    spoil=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=6),
    end=st.integers(0, 10_000),
    syntax=st.sampled_from([EXPLICIT, IMPLICIT, BIG_ENDIAN, DEFLATE]),
)
def test_what_the_door_takes_has_metadata(
    spoil: list[tuple[int, int]], end: int, syntax: str, data_set: Dataset, encode: Callable[..., bytes]
) -> None:
    """A good data set, spoilt here and there and cut anywhere: valid JSON whenever `read_header` takes it."""
    how = {IMPLICIT: {"implicit_vr": True}, BIG_ENDIAN: {"big_endian": True}}.get(syntax, {})
    data = bytearray(encode(data_set, **how))
    for at, value in spoil:
        data[at % len(data)] = value
    data = data[: end % len(data) + 1] if end % 3 == 0 else data
    if syntax == DEFLATE:
        press = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        data = bytearray(press.compress(bytes(data)) + press.flush())
    try:
        read_header(bytes(data), syntax, "1.2.840.10008.5.1.4.1.1.2", "1.2.3.4.5.6")
    except HeaderRefused:
        return
    assert len(read(bytes(data), syntax)) > 1
