"""The decision table of hl7-mss 1.8: each row answers with its codes, and no row speaks before the ones above it."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations

import pytest

from drimbox.domain.hl7v2 import MessageRefused, ReportMessage, read_message
from drimbox.domain.hl7v2_form import STEPS
from drimbox.domain.hl7v2_grammar import APPLICATION_CONDITIONS, DECISIONS, ERROR_CONDITIONS
from fixtures.reports import ReportSpec, make_cda, make_mdm, replacement_of

SPEC = replacement_of(ReportSpec(), "1.2.250.1.999.7.9.2")
CDA = make_cda(SPEC)
MDM = make_mdm(CDA, SPEC, order_control="RO")
Break = Callable[[bytes], bytes]


def put(segment: str, number: int, value: str) -> Break:
    """One field of the first segment of that name replaced."""

    def change(message: bytes) -> bytes:
        parts = message.removesuffix(b"\r").split(b"\r")
        index = next(i for i, part in enumerate(parts) if part.startswith(segment.encode()))
        fields = parts[index].split(b"|")
        fields[number - 1 if segment == "MSH" else number] = value.encode("utf-8")
        parts[index] = b"|".join(fields)
        return b"".join(part + b"\r" for part in parts)

    return change


def swap(old: bytes, new: bytes) -> Break:
    def change(message: bytes) -> bytes:
        assert old in message
        return message.replace(old, new)

    return change


@dataclass(frozen=True)
class Row:
    """A fault of the row `decision`, and its exact answer: ERR-3, ERR-5, ERR-2."""

    decision: str
    damage: Break
    error: int
    location: str
    application: int | None = None


PAYLOAD = base64.b64encode(CDA)
# In the order of the facts. Every fault can be combined with all that follow it.
ROWS = (
    Row("readable", swap(b"MSH|^~\\&|", b"MSH|^^\\&|"), 100, ""),
    Row("header", put("MSH", 21, "1.1^CISIS_CDA_HL7_LPS"), 207, "MSH^1^21", 906),  # routing reads both
    Row("header", put("MSH", 9, "SIU^S12^SIU_S12"), 200, "MSH^1^9"),
    Row("header", put("MSH", 9, "MDM^T01^MDM_T01"), 201, "MSH^1^9"),
    Row("header", put("MSH", 11, "X"), 202, "MSH^1^11"),
    Row("header", put("MSH", 12, "2.5"), 203, "MSH^1^12"),
    Row("characters", put("MSH", 18, "GB18030"), 103, "MSH^1^18"),
    Row("characters", swap("médicale".encode(), b"m\xe9dicale"), 102, "MSH^1^18"),
    Row("segments", swap(b"EVN||20260914101500\r", b""), 100, "EVN"),
    Row("fields", put("TXA", 13, ""), 101, "TXA^1^13"),
    Row("coherence", put("ORC", 1, "CA"), 207, "OBX^1^11", 906),
    Row("document", swap(PAYLOAD, base64.b64encode(b"plain text")), 102, "OBX^1^5"),
    Row("values", swap(b"||Y^^expandedYes", b"||O^^expandedYes"), 103, "OBX^7^5"),
)
NAMES = [f"{row.decision}-{row.error}" for row in ROWS]


def refusal(message: bytes) -> MessageRefused:
    with pytest.raises(MessageRefused) as refused:
        read_message(message)
    return refused.value


def test_without_fault_it_is_read() -> None:
    found = read_message(MDM)
    assert isinstance(found, ReportMessage)
    assert (found.operation, found.warnings) == ("RO", ())


@pytest.mark.parametrize("row", ROWS, ids=NAMES)
def test_each_row_answers(row: Row) -> None:
    found = refusal(row.damage(MDM))
    assert (found.ack, found.error, found.application_error, found.location) == (
        "AE",
        row.error,
        row.application,
        row.location,
    )


@pytest.mark.parametrize(("first", "second"), list(combinations(range(len(ROWS)), 2)))
def test_the_first_of_two_faults_is_the_one_answered(first: int, second: int) -> None:
    found = refusal(ROWS[first].damage(ROWS[second].damage(MDM)))
    assert (found.error, found.location) == (ROWS[first].error, ROWS[first].location)


def test_the_header_is_empty_where_it_cannot_be_read() -> None:
    assert refusal(ROWS[0].damage(MDM)).header.control_id == ""


def test_rows_stay_within_their_codes() -> None:
    table = {slug: (errors, application) for slug, _, _, errors, application in DECISIONS}
    for row in ROWS:
        errors, application = table[row.decision]
        assert row.error in errors
        assert row.application is None or row.application in application


def test_the_order_is_that_of_the_facts() -> None:
    order = [slug for slug, *_ in DECISIONS]
    steps = [slug for slug, _ in STEPS]
    assert order[1 : 1 + len(steps)] == steps
    assert list(dict.fromkeys(row.decision for row in ROWS)) == order[1 : order.index("agreement")]
    assert order[-4:] == ["agreement", "states", "room", "kept"]


def test_the_table_uses_codes_that_exist() -> None:
    for _, check, answer, errors, application in DECISIONS:
        assert check
        assert answer in ("", "AE", "AR", "AA")
        assert set(errors) <= set(ERROR_CONDITIONS)
        assert set(application) <= set(APPLICATION_CONDITIONS)
