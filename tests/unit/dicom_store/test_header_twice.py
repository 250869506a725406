"""An attribute that is there twice, or late: what the index says of an instance is what every reader of it shows."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import pytest
from pydicom.filereader import read_dataset

from dicom_store.dicom_json import instance_json
from dicom_store.header import HeaderRefused, read_beginning, read_header
from dicom_store.incoming import Incoming, everything
from dicom_store.scanner import PREFIX_BYTES
from dicom_store.segment_writer import SegmentWriter
from dicom_store.series_template import Templates
from dicom_store.sink import Peer, StoreCommand
from dicom_store.status import Outcome, StoreRefused

EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
CT = "1.2.840.10008.5.1.4.1.1.2"
KEY_OBJECTS = "1.2.840.10008.5.1.4.1.1.88.59"
SOP = "1.2.3.4.5.1"
PATIENT, STUDY, DESCRIPTION = 0x00100020, 0x0020000D, 0x00081030
Element = tuple[int, bytes, bytes]


def element(tag: int, vr: bytes, value: bytes) -> bytes:
    head = (tag >> 16).to_bytes(2, "little") + (tag & 0xFFFF).to_bytes(2, "little")
    if vr in (b"OW", b"UN", b"SQ"):
        return head + vr + b"\0\0" + len(value).to_bytes(4, "little") + value
    return head + vr + len(value).to_bytes(2, "little") + value


def implicit(tag: int, _vr: bytes, value: bytes) -> bytes:
    head = (tag >> 16).to_bytes(2, "little") + (tag & 0xFFFF).to_bytes(2, "little")
    return head + len(value).to_bytes(4, "little") + value


ELEMENTS: list[Element] = [
    (0x00080016, b"UI", CT.encode() + b"\0"),
    (0x00080018, b"UI", SOP.encode() + b"\0"),
    (DESCRIPTION, b"LO", b"ONE "),
    (PATIENT, b"LO", b"IPP101"),
    (STUDY, b"UI", b"1.2.3.4\0"),
    (0x0020000E, b"UI", b"1.2.3.4.5\0"),
    (0x00280010, b"US", b"\x02\0"),
    (0x00280100, b"US", b"\x10\0"),
    (0x00280101, b"US", b"\x10\0"),
]
PIXELS: Element = (0x7FE00010, b"OW", bytes(64))


def encoded(
    *more: Element, syntax: str = EXPLICIT, without: int = 0, first: tuple[Element, ...] = ()
) -> bytes:
    """A data set; `more` just before the pixels, `first` before everything."""
    kept = [one for one in ELEMENTS if one[0] != without]
    write = implicit if syntax == IMPLICIT else element
    return b"".join(write(*one) for one in (*first, *kept, *more, PIXELS))


def read(data: bytes, syntax: str = EXPLICIT) -> Any:
    return read_header(data, syntax, CT, SOP)


def shown(data: bytes, syntax: str = EXPLICIT) -> Any:
    """As a viewer reads it."""
    return read_dataset(BytesIO(data), syntax == IMPLICIT, True)


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
@pytest.mark.parametrize(
    "second", [(PATIENT, b"LO", b"IPP999"), (STUDY, b"UI", b"1.2.3.9\0"), (DESCRIPTION, b"LO", b"TWO ")]
)
def test_two_values_of_one_attribute_are_refused(second: Element, syntax: str) -> None:
    for data in (encoded(second, syntax=syntax), encoded(syntax=syntax, first=(second,))):
        with pytest.raises(HeaderRefused) as refused:
            read(data, syntax)
        assert refused.value.outcome is Outcome.NOT_UNDERSTOOD


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
def test_the_same_value_twice_says_nothing_else(syntax: str) -> None:
    twice = next(one for one in ELEMENTS if one[0] == PATIENT)
    assert read(encoded(twice, syntax=syntax), syntax) == read(encoded(syntax=syntax), syntax)


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
def test_an_attribute_that_comes_late_is_read_as_readers_read_it(syntax: str) -> None:
    data = encoded((PATIENT, b"LO", b"IPP999"), syntax=syntax, without=PATIENT)
    assert read(data, syntax).PatientID == shown(data, syntax).PatientID == "IPP999"


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
def test_no_beginning_is_final_before_what_comes_late(syntax: str) -> None:
    data = encoded((PATIENT, b"LO", b"IPP999"), syntax=syntax, without=PATIENT)
    whole = read(data, syntax)
    told = [read_beginning(data[:length], syntax, CT, SOP) for length in range(len(data) + 1)]
    assert {one for one in told if one is not None} == {(whole, True)}


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
def test_what_comes_late_behind_another_disorder_is_read(syntax: str) -> None:
    disorder = (0x00280103, b"US", b"\0\0"), (0x00280102, b"US", b"\x0f\0"), (PATIENT, b"LO", b"IPP999")
    data = encoded(*disorder, syntax=syntax, without=PATIENT)
    assert read(data, syntax).PatientID == shown(data, syntax).PatientID == "IPP999"
    with pytest.raises(HeaderRefused):
        read(encoded(*disorder, syntax=syntax), syntax)


def test_what_comes_out_of_order_and_is_none_of_ours_refuses_nothing() -> None:
    assert read(encoded((0x00091001, b"UN", b"ab"), (0x00091001, b"UN", b"cd"))) == read(encoded())


def test_a_late_contradiction_in_a_long_data_set() -> None:
    """The beginning of 16 MiB is looked at."""
    blob = (0x00290010, b"UN", bytes(PREFIX_BYTES))
    with pytest.raises(HeaderRefused):
        read_beginning(encoded((PATIENT, b"LO", b"IPP999"), blob)[:PREFIX_BYTES], EXPLICIT, CT, SOP)


# --- behind all that the header is read from ----------------------------------------------------------------

BEHIND: Element = (0x00401001, b"SH", b"RP1 ")


def behind(*more: Element, after_pixels: bool, without: int = 0) -> bytes:
    """`more` behind the last attribute of the header, or behind the pixels."""
    if after_pixels:
        return encoded(without=without) + b"".join(element(*one) for one in more)
    return encoded(BEHIND, *more, without=without)


@pytest.mark.parametrize("after_pixels", [False, True])
@pytest.mark.parametrize("without", [0, PATIENT])
def test_another_patient_behind_the_header_is_refused(without: int, after_pixels: bool) -> None:
    data = behind((PATIENT, b"LO", b"IPP999"), after_pixels=after_pixels, without=without)
    assert read(data).PatientID == ("" if without else "IPP101")  # it cannot be seen from there
    with pytest.raises(HeaderRefused) as refused:
        instance_json(data, EXPLICIT, 0, strict=True)
    assert refused.value.outcome is Outcome.NOT_UNDERSTOOD
    assert b"IPP" in instance_json(data, EXPLICIT, 0)  # of what was kept before, the first counts


@pytest.mark.parametrize("after_pixels", [False, True])
def test_the_same_patient_behind_the_header_and_another_description(after_pixels: bool) -> None:
    same = behind((PATIENT, b"LO", b"IPP101"), after_pixels=after_pixels)
    assert b"IPP101" in instance_json(same, EXPLICIT, 0, strict=True)
    late = behind((DESCRIPTION, b"LO", b"ONE "), after_pixels=after_pixels, without=DESCRIPTION)
    assert b"ONE" in instance_json(late, EXPLICIT, 0, strict=True)


# --- notes: what they say of other instances is read to the end ---------------------------------------------


def sequence(tag: int, *items: bytes) -> Element:
    inside = b"".join(b"\xfe\xff\x00\xe0" + len(item).to_bytes(4, "little") + item for item in items)
    return tag, b"SQ", inside


def rejection(*late: Element, study: bytes = b"1.2.3.4\0") -> bytes:
    """A rejection note of the study 1.2.3.4."""
    title = element(0x00080100, b"SH", b"113001") + element(0x00080102, b"SH", b"DCM ")
    one = element(0x00081150, b"UI", CT.encode() + b"\0") + element(0x00081155, b"UI", b"1.2.3.4.5.2\0")
    series = element(*sequence(0x00081199, one)) + element(0x0020000E, b"UI", b"1.2.3.4.5\0")
    of_study = element(*sequence(0x00081115, series)) + element(0x0020000D, b"UI", study)
    elements = [
        (0x00080016, b"UI", KEY_OBJECTS.encode()),
        (0x00080018, b"UI", SOP.encode() + b"\0"),
        (STUDY, b"UI", b"1.2.3.4\0"),
        (0x0020000E, b"UI", b"1.2.3.4.6\0"),
        sequence(0x0040A043, title),
        sequence(0x0040A375, of_study),
        *late,
    ]
    return b"".join(element(*one) for one in elements)


class Nowhere:
    """A writer for what is short: nothing is written before it is kept."""

    source_ae_title = ""
    templates = Templates()
    is_lone = True

    def segment(self, study_instance_uid: str) -> SegmentWriter:
        raise AssertionError(study_instance_uid)


def note_of(data: bytes) -> Any:
    command = StoreCommand(KEY_OBJECTS, SOP, EXPLICIT, Peer("CT1", "192.0.2.7", "association-1"))
    incoming = Incoming(Nowhere(), command, everything, memoryview(bytearray(len(data))))
    incoming.more(memoryview(data))
    incoming.whole()
    return incoming.note()


def test_a_rejection_note_of_its_own_study() -> None:
    note = note_of(rejection())
    assert (note.StudyInstanceUID, [one.SOPInstanceUID for one in note.references]) == (
        "1.2.3.4",
        ["1.2.3.4.5.2"],
    )


@pytest.mark.parametrize("late", [(STUDY, b"UI", b"1.2.3.9\0"), (0x00080018, b"UI", b"1.2.3.9.1\0")])
def test_a_rejection_note_that_says_late_that_it_is_another(late: Element) -> None:
    """It would hide images of an exam that nobody looked at, beyond what the request may store into."""
    study = b"1.2.3.9\0" if late[0] == STUDY else b"1.2.3.4\0"
    with pytest.raises(StoreRefused) as refused:
        note_of(rejection(late, study=study))
    assert refused.value.outcome is Outcome.NOT_UNDERSTOOD
