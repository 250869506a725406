"""ZAM^Z01: the message field by field, the code taken from the DMP's words, and the answer that comes back."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from drimbox.domain.exam import RULES
from drimbox.domain.zam import (
    REASONS,
    NotAcknowledged,
    Parties,
    Verdict,
    build_zam,
    control_id_of,
    dmp_error_code,
    read_acknowledgement,
)

NOW = datetime(2026, 11, 21, 12, 30, 5, tzinfo=UTC)
PARTIES = Parties("DRIMBOX", "CIM-DEMO", "RIS-DEMO", "CIM-DEMO")
CONTROL_ID = control_id_of("receipt-1")


def zam(verdict: Verdict | None = None, about: str = "RIS-000101", parties: Parties = PARTIES) -> list[str]:
    message = build_zam(
        verdict or Verdict("Y"), about=about, receipt_id="receipt-1", parties=parties, now=NOW
    )
    assert message.endswith(b"\r")
    return message.decode("utf-8").split("\r")[:-1]


def answer(code: str = "AA", control_id: str = CONTROL_ID, *more: str, kind: str = "ACK^Z01^ACK") -> bytes:
    segments = [f"MSH|^~\\&|RIS-DEMO|CIM-DEMO|DRIMBOX|CIM-DEMO|20261121||{kind}|R1|P|2.6"]
    segments += [f"MSA|{code}|{control_id}", *more]
    return "".join(f"{segment}\r" for segment in segments).encode("utf-8")


def test_a_positive_receipt() -> None:
    assert zam() == [
        f"MSH|^~\\&|DRIMBOX|CIM-DEMO|RIS-DEMO|CIM-DEMO|20261121123005+0000||ZAM^Z01^ZAM_Z01|{CONTROL_ID}|P|2.6"
        "|||||FRA|UNICODE UTF-8|||2.1^CISIS_CDA_HL7_V2",
        "EVN||20261121123005+0000",
        "OBX|1|CWE|ACK_RECEPTION_DMP^Accusé de réception DMP^AckMetierZAM|RIS-000101"
        "|Y^^expandedYes-NoIndicator||||||F",
    ]


def test_a_refusal_of_the_dmp_carries_its_code() -> None:
    *_, obx, err = zam(Verdict("N", "refused", "XDSRegistryMetadataError"))
    assert obx.split("|")[5] == "N^^expandedYes-NoIndicator"
    assert err == (
        "ERR|||207^Application error^messageErrorCondition|E|XDSRegistryMetadataError^^DMP_ERROR_CODE||refused"
        "|the DMP refused the manifest of the exam"
    )


@pytest.mark.parametrize("slug", REASONS)
def test_a_reason_of_ours_is_no_code_of_the_dmp(slug: str) -> None:
    *_, err = zam(Verdict("N", slug))
    fields = err.split("|")
    assert fields[5] == "906^Autre^applicationErrorCondition"
    assert (fields[7], fields[8]) == (slug, REASONS[slug])


def test_every_rule_that_withdraws_has_its_words() -> None:
    assert {rule.slug for rule in RULES if rule.withdraws} <= set(REASONS)


def test_nothing_that_was_sent_to_us_ends_a_field_or_a_segment() -> None:
    parties = Parties("A|B", "C\rD", "E^F", "G&H~I\\")
    msh, _, obx = zam(about="one|two^three", parties=parties)
    assert msh.split("|")[2:6] == [r"A\F\B", "C D", r"E\S\F", r"G\T\H\R\I\E" + "\\"]
    assert obx.split("|")[4] == r"one\F\two^three"


def test_msh_10_is_stable_short_and_its_own() -> None:
    assert control_id_of("receipt-1") == CONTROL_ID
    assert len(CONTROL_ID) == 20
    assert control_id_of("receipt-2") != CONTROL_ID


@pytest.mark.parametrize(
    "verdict", [Verdict("Y"), Verdict("N", "superseded"), Verdict("N", "refused", "XDSRegistryError")]
)
def test_a_verdict_is_kept_as_it_was(verdict: Verdict) -> None:
    assert Verdict.kept(verdict.status, verdict.error) == verdict


def test_empty_names_and_msh_11_come_from_the_technical_acknowledgement() -> None:
    ack = "MSH|^~\\&|DRIMBOX|HERE^1.2^ISO|RIS^1.2^ISO|CIM-DEMO|20261121||ACK^R01^ACK|1|T|2.5\rMSA|AA|1\r"
    assert Parties("", "", "", "").completed(ack) == Parties("DRIMBOX", "HERE", "RIS", "CIM-DEMO", "T")
    assert Parties("BOX", "F", "R", "G").completed(ack) == Parties("BOX", "F", "R", "G", "T")
    assert PARTIES.completed(None) == PARTIES


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("XDSRegistryMetadataError: typeCode: unknown; XDSRegistryError", "XDSRegistryMetadataError"),
        ("XDSUnknownPatientId", "XDSUnknownPatientId"),
        ("urn:oasis:names:tc:ebxml-regrep:ErrorType:XDSRegistryError: x", "XDSRegistryError"),
        ("Sender.InvalidSecurity: no", "Sender.InvalidSecurity"),
        ("HTTP 413", ""),
        ("the registry does not hold it", ""),
        ("no error code given", ""),
        ("", ""),
        (None, ""),
    ],
)
def test_the_code_in_the_words_of_the_dmp(words: str | None, code: str) -> None:
    assert dmp_error_code(words) == code


@pytest.mark.parametrize(
    ("code", "meaning"),
    [("AA", "AA"), ("AE", "AE"), ("AR", "AR"), ("CA", "AA"), ("CE", "AE"), ("CR", "AR")],
)
def test_an_answer(code: str, meaning: str) -> None:
    assert read_acknowledgement(answer(code), CONTROL_ID).code == meaning


def test_a_refusal_keeps_its_codes_and_not_its_words() -> None:
    err = "ERR||OBX^1^4|103^Table value^HL70357|E|906^Autre^HL70533||JEANNE MARTIN|patient JEANNE MARTIN"
    reply = read_acknowledgement(answer("AE", CONTROL_ID, err, "ERR|||101"), CONTROL_ID)
    assert (reply.code, reply.reason) == ("AE", "AE 103/906 101")


def test_line_feeds_are_read() -> None:
    assert read_acknowledgement(answer().replace(b"\r", b"\n"), CONTROL_ID).code == "AA"


@pytest.mark.parametrize("code", ["AE", "AR"])
def test_a_refusal_may_not_know_our_msh_10(code: str) -> None:
    assert read_acknowledgement(answer(code, ""), CONTROL_ID).code == code


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "no HL7v2 message"),
        (b"HTTP/1.1 400 Bad Request\r\n", "no HL7v2 message"),
        (answer(kind="ORU^R01^ORU_R01"), "no acknowledgement"),
        (answer().split(b"MSA")[0], "no acknowledgement"),
        (answer(""), "neither AA, AE nor AR"),
        (answer("OK"), "neither AA, AE nor AR"),
        (answer("AA", "another"), "another message"),
        (answer("AA", ""), "another message"),
        (answer("AR", "another"), "another message"),
    ],
)
def test_what_is_no_answer_to_our_message(data: bytes, reason: str) -> None:
    with pytest.raises(NotAcknowledged, match=reason):
        read_acknowledgement(data, CONTROL_ID)
