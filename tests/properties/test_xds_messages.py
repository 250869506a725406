"""Whatever the text: what is written is well-formed and read back; whatever the bytes: a reader says so."""

from __future__ import annotations

import contextlib
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree

from drimbox.domain.mtom import Attachment, package
from drimbox.domain.soap import NotSoap, SoapAnswer, read_answer
from drimbox.domain.xds.ebxml import submit_objects_request
from drimbox.domain.xds.ebxml_reader import NotALot, read_lot
from drimbox.domain.xds.hl7_types import clean
from drimbox.domain.xds.metadata import Association, Author, Coded, DocumentEntry, Lot, SubmissionSet
from drimbox.domain.xds.rules import check_lot

# text that survives XML attribute and element normalisation as it is
plain = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=20)
anything = st.text(st.characters(codec="utf-8"), max_size=20)


def coded(text: st.SearchStrategy[str]) -> st.SearchStrategy[Coded]:
    return st.builds(Coded, text, text, text)


def lots(text: st.SearchStrategy[str]) -> st.SearchStrategy[Lot]:
    authors = st.lists(
        st.builds(Author, text, st.lists(text, min_size=1, max_size=2).map(tuple)), max_size=2
    ).map(tuple)
    entry = st.builds(
        DocumentEntry,
        id=text,
        mime_type=text,
        unique_id=text,
        patient_id=text,
        creation_time=text,
        source_patient_info=st.lists(text, max_size=3).map(tuple),
        size=st.none() | st.integers(min_value=0, max_value=2**40),
        reference_id_list=st.lists(text, max_size=3).map(tuple),
        title=text,
        authors=authors,
        type_code=st.none() | coded(text),
        confidentiality_codes=st.lists(coded(text), max_size=3).map(tuple),
        event_codes=st.lists(coded(text), max_size=3).map(tuple),
    )
    submission = st.builds(
        SubmissionSet, id=text, unique_id=text, source_id=text, patient_id=text, title=text, authors=authors
    )
    link = st.builds(Association, text, text, text, text, st.just((("SubmissionSetStatus", "Original"),)))
    return st.builds(
        Lot, submission, st.lists(entry, max_size=2).map(tuple), st.lists(link, max_size=2).map(tuple)
    )


@given(lots(plain))
@settings(max_examples=60, deadline=None)
def test_round_trip(lot: Lot) -> None:
    assert read_lot(submit_objects_request(lot)) == lot


@given(lots(anything))
@settings(max_examples=60, deadline=None)
def test_any_text_makes_well_formed_xml_and_the_rules_never_fail(lot: Lot) -> None:
    usable = replace(lot, submission_set=replace(lot.submission_set, id="S"))
    with contextlib.suppress(
        ValueError
    ):  # lxml refuses control characters in an id: `ids` is the rule for it
        etree.fromstring(submit_objects_request(usable))
    assert isinstance(check_lot(lot), tuple)


@given(st.text(), st.binary(max_size=400))
@settings(max_examples=200, deadline=None)
def test_any_answer_is_soap_or_said_not_to_be(content_type: str, body: bytes) -> None:
    with contextlib.suppress(NotSoap):
        assert isinstance(read_answer(content_type, body), SoapAnswer)


@given(st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_any_bytes_are_a_lot_or_said_not_to_be(data: bytes) -> None:
    with contextlib.suppress(NotALot):
        assert isinstance(read_lot(data), Lot)


@given(st.lists(st.binary(max_size=300), max_size=3))
@settings(max_examples=60, deadline=None)
def test_parts_come_out_byte_for_byte(contents: list[bytes]) -> None:
    boundary = "drimbox-5d0ab8f2a55b4a0e"
    parts = [Attachment(f"part{n}@drimbox", content) for n, content in enumerate(contents)]
    _, body = package(b"<e/>", parts, boundary=boundary, action="urn:x")
    pieces = body.split(f"--{boundary}".encode())[2:-1]
    assert [piece.partition(b"\r\n\r\n")[2][:-2] for piece in pieces] == contents


@given(st.text())
def test_cleaned_text_holds_no_delimiter(text: str) -> None:
    assert not set(clean(text)) & set("^&|~\\\r\n\t\x00")
    assert clean(clean(text)) == clean(text)
