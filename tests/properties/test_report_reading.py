"""Framing does not depend on how the bytes arrive; times round-trip; no bytes make the readers fail otherwise."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dicom_store.paths import check_uid
from drimbox.domain.cda import read_cda
from drimbox.domain.hl7v2 import ExamOrder, MessageRefused, VisitConsent, peek_header, read_message
from drimbox.domain.hl7v2_grammar import FEEDINGS, ORDER_CONTROLS, TOLERANCES
from drimbox.domain.timestamp import InvalidTimestamp, parse_timestamp
from drimbox.entrypoints.mllp import Deframer
from fixtures.reports import frame, make_adt, make_cda, make_mdm, make_omi, make_oru

NOW = datetime(2026, 9, 14, tzinfo=UTC)
CDA = make_cda()
MESSAGES = (make_oru(CDA), make_mdm(CDA), make_omi(), make_adt(feeding="IO"))
contents = st.lists(st.binary(max_size=40).filter(lambda m: b"\x1c\r" not in m))


@given(contents, st.lists(st.integers(min_value=0, max_value=400)))
def test_pieces_do_not_matter(messages: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(map(frame, messages))
    edges = sorted({0, len(stream), *(c for c in cuts if c < len(stream))})
    deframer = Deframer(100)
    received = [m for a, b in pairwise(edges) for m in deframer.feed(stream[a:b])]
    assert received == messages
    assert not deframer.inside


offsets = st.integers(min_value=-14 * 60, max_value=14 * 60).map(lambda m: timezone(timedelta(minutes=m)))
moments = st.datetimes(min_value=datetime(1000, 1, 1), max_value=datetime(9000, 1, 1), timezones=offsets)  # noqa: DTZ001


@given(moments)
def test_a_written_time_is_read_as_the_same_instant(moment: datetime) -> None:
    written = moment.strftime("%Y%m%d%H%M%S.%f%z")
    read = parse_timestamp(written, "Europe/Paris")
    assert read.at == moment
    assert read.digits == moment.strftime("%Y%m%d%H%M%S")


@given(st.text(alphabet="0123456789.+-Z: "))
@example("20261025023000")  # twice in Paris
@example("20260329023000")  # never in Paris
def test_a_time_is_read_or_refused(text: str) -> None:
    try:
        read = parse_timestamp(text, "Europe/Paris")
    except InvalidTimestamp:
        return
    assert read.at.utcoffset() is not None
    assert text.strip().startswith(read.digits)


mutations = st.lists(
    st.tuples(
        st.integers(min_value=0, max_value=20_000),
        st.binary(max_size=6),
        st.integers(min_value=0, max_value=30),
    ),
    min_size=1,
    max_size=5,
)


def mutated(data: bytes, changes: list[tuple[int, bytes, int]]) -> bytes:
    for place, insert, removed in changes:
        at = place % len(data)
        data = data[:at] + insert + data[at + removed :] or b"x"
    return data


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(MESSAGES), mutations)
def test_a_damaged_message_is_read_or_refused_with_an_answer(
    message: bytes, changes: list[tuple[int, bytes, int]]
) -> None:
    damaged = mutated(message, changes)
    try:
        read = read_message(damaged, adt=True)
    except MessageRefused as refusal:
        if not refusal.header.is_acknowledgement:
            answer = refusal.answer(now=NOW, control_id="X")
            assert answer.startswith(b"MSH")
            assert peek_header(answer).is_acknowledgement
        return
    assert {w.rule for w in read.warnings} <= set(TOLERANCES)
    if isinstance(read, VisitConsent):
        assert read.feeding in FEEDINGS
        assert read.visit.extension or read.feeding != "IO"
    elif isinstance(read, ExamOrder):
        assert read.control in ORDER_CONTROLS
        assert check_uid(read.study_instance_uid)
        assert read.accession.extension
    else:
        assert read.operation == "NW"


@settings(max_examples=300, deadline=None)
@given(mutations)
def test_a_damaged_document_is_read_or_refused(changes: list[tuple[int, bytes, int]]) -> None:
    reading = read_cda(mutated(CDA, changes), time_zone="Europe/Paris")
    assert (reading.report is None) == any(v.severity == "error" for v in reading.violations)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes(data: bytes) -> None:
    assert read_cda(data, time_zone="Europe/Paris").report is None
    with pytest.raises(MessageRefused):
        read_message(data)
    with pytest.raises(MessageRefused):
        read_message(b"MSH|^~\\&|" + data)
