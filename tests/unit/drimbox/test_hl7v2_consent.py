"""The consent of a visit in ADT messages: what is read, what is refused (hl7-mss 1.12)."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from drimbox.domain.acknowledge import acknowledge
from drimbox.domain.hl7v2 import MessageRefused, VisitConsent, read_message
from drimbox.domain.identifiers import Identifier
from fixtures.reports import make_adt, make_cda, make_oru

ADT = make_adt()


def read(message: bytes) -> VisitConsent:
    found = read_message(message, adt=True)
    assert isinstance(found, VisitConsent)
    return found


def edited(old: str, new: str, message: bytes = ADT) -> bytes:
    assert old.encode() in message
    return message.replace(old.encode(), new.encode())


def without(name: str, message: bytes = ADT) -> bytes:
    parts = message.removesuffix(b"\r").split(b"\r")
    return b"".join(part + b"\r" for part in parts if not part.startswith(name.encode()))


def test_a_visit() -> None:
    found = read(ADT)
    assert found.visit == Identifier("1.2.250.1.999.7.1", "V260901")
    assert found.feeding == "INO"
    assert found.ins_ids == (Identifier("1.2.250.1.213.1.4.10", "279035121518989"),)
    assert found.local_ids == (Identifier("1.2.250.1.999.7.1", "IPP901"),)
    assert (found.header.trigger_event, found.header.version) == ("A01", "2.5")
    assert found.warnings == ()


@pytest.mark.parametrize("feeding", ["INO", "IO", "NA", ""])
def test_what_may_be_said(feeding: str) -> None:
    assert read(make_adt(feeding=feeding)).feeding == feeding


def test_nothing_is_said_without_zfa() -> None:
    assert read(make_adt(feeding=None)).feeding == ""


@pytest.mark.parametrize(
    ("event", "structure"),
    [("A01", "ADT_A01"), ("A03", "ADT_A03"), ("A04", "ADT_A01"), ("A05", "ADT_A05"), ("A08", "ADT_A01")],
)
def test_events(event: str, structure: str) -> None:
    message = make_adt(event=event, feeding="IO")
    assert f"ADT^{event}^{structure}".encode() in message
    found = read(message)
    assert (found.feeding, found.warnings) == ("IO", ())


def test_the_visit_is_the_one_of_the_report() -> None:
    report = read_message(make_oru(make_cda()))
    assert not isinstance(report, VisitConsent)
    assert getattr(report, "visit", None) == read(ADT).visit


def test_other_segments_may_stand_anywhere() -> None:
    message = edited("PV1|", "PD1|||\rROL|1\rNK1|1\rPV1|")
    message = edited("ZFA|", "OBX|1|NM|3142-7^Poids^LN||62\rAL1|1\rZFP|1\rZFA|", message) + b"ZFM|1\rIN1|1\r"
    assert read(message).feeding == "INO"


REFUSED = {
    "unknown feeding": (make_adt(feeding="OUI"), 103, "ZFA^1^9"),
    "lower case": (make_adt(feeding="io"), 103, "ZFA^1^9"),
    "HL7 null": (make_adt(feeding='""'), 103, "ZFA^1^9"),
    "an opposition to nothing": (
        edited("V260901^^^RIS-DEMO", "^^^RIS-DEMO", make_adt(feeding="IO")), 101, "PV1^1^19",
    ),
    "no visit segment": (without("PV1"), 100, "PV1"),
    "no event segment": (without("EVN"), 100, "EVN"),
    "no patient": (without("PID"), 100, "PID"),
    "no patient id": (ADT.replace(ADT.split(b"PID|||")[1].split(b"|")[0], b""), 101, "PID^1^3"),
    "two consents": (ADT + b"ZFA|ACTIF||||||||IO\r", 100, ""),
    "version": (edited("2.5^FRA^2.11", "2.3"), 203, "MSH^1^12"),
    "processing id": (edited("|T|2.5^FRA", "|X|2.5^FRA"), 202, "MSH^1^11"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_the_exact_code(case: str) -> None:
    message, error, location = REFUSED[case]
    with pytest.raises(MessageRefused) as refused:
        read_message(message, adt=True)
    found = refused.value
    assert (found.ack, found.error, found.application_error, found.location) == ("AE", error, None, location)


def test_a_visit_without_number_that_opposes_nothing() -> None:
    assert read(edited("V260901^^^RIS-DEMO", "^^^RIS-DEMO")).visit.extension == ""


def test_the_version_is_echoed_whole() -> None:
    answer = acknowledge(read(ADT).header, code="AA", now=datetime(2026, 9, 14, tzinfo=UTC), control_id="X")
    assert b"|ACK^A01^ACK|X|T|2.5^FRA^2.11|||||FRA|UNICODE UTF-8\r" in answer


def test_defects_are_named() -> None:
    rules = {w.rule for w in read(edited("2.11^IHE_FRANCE-2.11-PAM", "2.10^IHE_FRANCE-2.11-PAM")).warnings}
    assert rules == {"profile-version"}
    assert {w.rule for w in read(edited("2.11^IHE_FRANCE-2.11-PAM", "")).warnings} == {"profile"}
    assert {w.rule for w in read(ADT.replace(b"\r", b"\n")).warnings} == {"terminator"}
