"""Acknowledgements, field by field (hl7-mss 1.8)."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from drimbox.domain.acknowledge import MessageHeader, MessageRefused, acknowledge
from drimbox.domain.hl7v2 import peek_header, read_message
from drimbox.domain.hl7v2_grammar import APPLICATION_CONDITIONS, ERROR_CONDITIONS
from drimbox.domain.hl7v2_syntax import split_message
from fixtures.reports import ReportSpec, make_cda, make_mdm, make_omi, make_oru, replacement_of

NOW = datetime(2026, 9, 14, 10, 15, 1, tzinfo=UTC)
ORU = make_oru(make_cda())
HEADER = peek_header(ORU)


def lines(ack: bytes) -> list[list[str]]:
    text = ack.decode("utf-8")
    assert text.endswith("\r")
    assert "\n" not in text
    return [segment.split("|") for segment in text.removesuffix("\r").split("\r")]


def accept(header: MessageHeader) -> list[list[str]]:
    return lines(acknowledge(header, code="AA", now=NOW, control_id="DBX-1"))


def test_acceptance_as_in_the_facts() -> None:
    ack = acknowledge(HEADER, code="AA", now=NOW, control_id="DBX-900001")
    assert ack == (
        b"MSH|^~\\&|DRIMBOX|CENTRE-DEMO|RIS-DEMO|CENTRE-DEMO|20260914101501||ACK^R01^ACK|DBX-900001|T|2.5"
        b"|||||FRA|UNICODE UTF-8\r"
        b"MSA|AA|RIS-000901\r"
    )


def test_mdm_echoes_its_event_and_version() -> None:
    msh = accept(peek_header(make_mdm(make_cda())))[0]
    assert (msh[8], msh[11]) == ("ACK^T02^ACK", "2.6")


def test_an_order_is_acknowledged_as_such() -> None:
    msh, msa = accept(peek_header(make_omi(control_id="001")))
    assert (msh[8], msh[11], msa) == ("ACK^O23^ACK", "2.5.1", ["MSA", "AA", "001"])
    assert msh[17] == "UNICODE UTF-8"


def test_applications_and_facilities_are_swapped() -> None:
    msh = accept(
        peek_header(ORU.replace(b"|RIS-DEMO|CENTRE-DEMO|DRIMBOX|CENTRE-DEMO|", b"|A&1.2&ISO|B|C|D|"))
    )[0]
    assert msh[2:6] == ["C", "D", "A&1.2&ISO", "B"]


def test_ours_are_named_when_the_sender_named_nobody() -> None:
    ack = acknowledge(
        MessageHeader.unknown(), code="AE", now=NOW, control_id="X", application="A&B", facility="F"
    )
    msh, msa = lines(ack)
    assert msh[2:6] == ["A\\T\\B", "F", "", ""]
    assert (msh[8], msh[10], msh[11]) == ("ACK", "P", "2.5")
    assert msa == ["MSA", "AE"]


def refuse(**changes: object) -> list[list[str]]:
    values: dict[str, object] = {
        "ack": "AE",
        "error": 102,
        "location": "OBX^1^5",
        "reason": "why",
        "header": HEADER,
    }
    return lines(MessageRefused(**(values | changes)).answer(now=NOW, control_id="DBX-2"))  # type: ignore[arg-type]


def test_refusal() -> None:
    msh, msa, err = refuse(code="cda-root")
    assert msh[8] == "ACK^R01^ACK"
    assert msa == ["MSA", "AE", "RIS-000901"]
    assert err == [
        "ERR",
        "",
        "OBX^1^5",
        "102^Data type error^messageErrorCondition",
        "E",
        "",
        "",
        "cda-root",
        "why",
    ]


def test_application_errors_have_their_own_code() -> None:
    err = refuse(error=207, application_error=900, location="TXA^1^13")[2]
    assert err[3] == "207^Application error^messageErrorCondition"
    assert err[5] == f"900^{APPLICATION_CONDITIONS[900]}^applicationErrorCondition"


def test_temporary_trouble_is_ar() -> None:
    _, msa, err = lines(MessageRefused.unavailable(HEADER).answer(now=NOW, control_id="X"))
    assert msa[1] == "AR"
    assert err[3].startswith("207^")
    assert err[5] == ""
    assert "again" in err[8]


def test_reasons_are_escaped_and_short() -> None:
    err = refuse(reason="a|b^c&d\\e\r\nf" + "x" * 5000)[2]
    assert err[8].startswith("a\\F\\b\\S\\c\\T\\d\\E\\e  f")
    assert len(err[8]) < 1100


def test_what_is_echoed_can_end_neither_a_segment_nor_a_frame() -> None:
    header = peek_header(ORU.replace(b"RIS-000901", b"RIS\x1c\n\x0b901" + b"9" * 1000))
    ack = acknowledge(header, code="AA", now=NOW, control_id="X")
    assert not set(ack) & {0x0B, 0x1C, 0x0A}
    assert lines(ack)[1][2].startswith("RIS901")
    assert len(lines(ack)[1][2]) <= 255


def test_other_delimiters_are_used_in_the_answer() -> None:
    ack = acknowledge(
        peek_header(ORU.translate(bytes.maketrans(b"|^~\\&", b"#@*!%"))), code="AA", now=NOW, control_id="X"
    )
    assert ack.startswith(b"MSH#@*!%#DRIMBOX#")
    assert b"ACK@R01@ACK" in ack


@pytest.mark.parametrize("mark", list("-._#:;,*"))
def test_delimiters_that_our_own_words_hold(mark: str) -> None:
    """`UNICODE UTF-8` and `2.5` hold characters that a sender may have taken as delimiters."""
    message = f"MSH{mark}^~\\&{mark}A{mark}B{mark}C{mark}D{mark}{mark}{mark}ORU^R01{mark}RIS901{mark}T{mark}3"
    header = peek_header(message.encode())
    ack = acknowledge(header, code="AE", now=NOW, control_id="X", error=203, location="MSH^1^12", reason="no")
    msh, msa, err = split_message(ack).segments
    assert (msh.component(9), msh.component(18), msh.component(12)) == ("ACK", "UNICODE UTF-8", "3")
    assert (msa.component(1), msa.component(2), err.component(3)) == ("AE", "RIS901", "203")


def test_the_refusals_of_the_facts() -> None:
    """The three negative answers of hl7-mss 1.11 B, down to ERR-2."""
    spec = replacement_of(ReportSpec(), "1.2.250.1.999.7.9.2")
    message = make_mdm(make_cda(spec), spec, order_control="RO", control_id="RIS-000140")
    with pytest.raises(MessageRefused) as refused:
        read_message(message.replace(b"|1.2.250.1.999.7.9.1||||AU", b"|||||AU"))
    header = peek_header(message)
    conflict = MessageRefused.of_report(header, "900", "the document to replace was replaced already")
    for refusal, code, begin in (
        (refused.value, "AE", "ERR||TXA^1^13|101^Required field missing^messageErrorCondition|E|"),
        (
            conflict,
            "AE",
            "ERR||TXA^1^13|207^Application error^messageErrorCondition|E|900^Version du document incorrecte "
            "lors d'une demande de remplacement/suppression^applicationErrorCondition|",
        ),
        (MessageRefused.unavailable(header), "AR", "ERR|||207^Application error^messageErrorCondition|E||||"),
    ):
        msh, msa, err = refusal.answer(now=NOW, control_id="DBX-1").decode("utf-8").rstrip("\r").split("\r")
        assert "|ACK^T10^ACK|DBX-1|T|2.6|||||FRA|UNICODE UTF-8" in msh
        assert msa == f"MSA|{code}|RIS-000140"
        assert err.startswith(begin.rstrip("|"))


def test_an_acknowledgement_is_never_acknowledged() -> None:
    with pytest.raises(MessageRefused) as refused:
        read_message(acknowledge(HEADER, code="AA", now=NOW, control_id="X"))
    with pytest.raises(ValueError, match="never"):
        refused.value.answer(now=NOW, control_id="Y")


@pytest.mark.parametrize(
    ("code", "error", "application", "location"),
    [
        ("cda-doctype", 102, None, "OBX^1^5"),
        ("cda-not-xml", 102, None, "OBX^1^5"),
        ("study-uid-missing", 207, 906, "OBX^1^5"),
        ("ins-traits-incomplete", 207, 905, "OBX^1^5"),
        ("ins-missing", 207, 903, "OBX^1^5"),
        ("904", 207, 904, "PID^1^3"),
        ("900", 207, 900, "OBX^1^5"),
        ("999", 207, 906, "OBX^1^5"),
        ("document-id-mismatch", 207, 906, "TXA^1^12"),
    ],
)
def test_refusals_of_the_document(code: str, error: int, application: int | None, location: str) -> None:
    found = MessageRefused.of_report(HEADER, code, "why")
    assert (found.ack, found.error, found.application_error, found.location) == (
        "AE",
        error,
        application,
        location,
    )
    assert found.code == code


@pytest.mark.parametrize(
    ("message", "code", "location"),
    [
        (make_mdm(make_cda()), "906", "TXA^1^12"),
        (make_mdm(make_cda(), event="T10"), "900", "TXA^1^13"),
        (make_mdm(make_cda(), event="T10"), "906", "TXA^1^12"),
        (make_mdm(make_cda(), event="T04"), "900", "TXA^1^12"),
        (make_mdm(make_cda(), event="T04"), "906", "TXA^1^12"),
        (make_mdm(make_cda(), event="T04"), "904", "PID^1^3"),
        (make_mdm(make_cda(), event="T10"), "study-uid-missing", "OBX^1^5"),
        (make_omi(), "906", "IPC^1^3"),
        (make_omi(), "904", "PID^1^3"),
    ],
)
def test_refusals_point_at_what_they_are_about(message: bytes, code: str, location: str) -> None:
    header = peek_header(message)
    assert MessageRefused.of_report(header, code, "why").location == location
    assert MessageRefused.of_report(header, code, "why", location="PID^1^5").location == "PID^1^5"


def test_a_version_conflict_as_in_the_facts() -> None:
    header = peek_header(make_mdm(make_cda(), event="T10"))
    msh, msa, err = lines(
        MessageRefused.of_report(header, "900", "why").answer(now=NOW, control_id="DBX-900004")
    )
    assert (msh[8], msa[1], err[2]) == ("ACK^T10^ACK", "AE", "TXA^1^13")
    assert err[3] == "207^Application error^messageErrorCondition"
    assert err[5] == f"900^{APPLICATION_CONDITIONS[900]}^applicationErrorCondition"


def test_every_code_has_a_label() -> None:
    assert set(range(900, 907)) == set(APPLICATION_CONDITIONS)
    for error in ERROR_CONDITIONS:
        assert refuse(error=error)[2][3].startswith(f"{error}^")
