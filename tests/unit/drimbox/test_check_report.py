"""A report in a file, checked as the door would read it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from drimbox.domain.violations import Violation, errors
from drimbox.flow.check_report import SeveralMessages, check_report
from fixtures.reports import ReportSpec, frame, make_cda, make_mdm, make_omi, make_oru

SPEC = ReportSpec()
ORU = make_oru(make_cda(SPEC), SPEC)


def found(data: bytes) -> tuple[Violation, ...]:
    return check_report(data, time_zone="Europe/Paris").violations


@pytest.mark.parametrize(
    "data",
    [ORU, frame(ORU), b"\r\n" + frame(ORU) + b"\n", ORU.replace(b"\r", b"\n"), ORU.replace(b"\r", b"\r\n")],
    ids=["cr", "framed", "frame in a text file", "lf", "crlf"],
)
def test_a_good_message_however_its_file_ends_lines(data: bytes) -> None:
    checked = check_report(data, time_zone="Europe/Paris")
    assert checked.kind == "ORU^R01"
    assert checked.violations == ()


def test_line_ends_of_a_frame_are_those_of_the_wire() -> None:
    assert [v.rule for v in found(frame(ORU.replace(b"\r", b"\n")))] == ["terminator"]


def test_several_messages_are_not_guessed_at() -> None:
    with pytest.raises(SeveralMessages, match="2 framed messages"):
        found(frame(ORU) + frame(ORU))


def test_a_good_cda() -> None:
    checked = check_report(make_cda(), time_zone="Europe/Paris")
    assert (checked.kind, errors(checked.violations)) == ("CDA", ())


def test_an_order() -> None:
    checked = check_report(make_omi(), time_zone="Europe/Paris")
    assert (checked.kind, errors(checked.violations)) == ("OMI^O23", ())


def test_a_refused_message_says_where_why_and_how_it_is_answered() -> None:
    (violation,) = errors(found(ORU.replace(b"|T|2.5|", b"|T|2.9|")))
    assert (violation.rule, violation.where, violation.clause) == ("hl7-203", "MSH^1^12", "hl7-mss 1.8")
    assert violation.message.endswith("(answered AE 203)")


def test_a_message_that_belongs_elsewhere_has_the_clause_of_its_row() -> None:
    (violation,) = errors(found(ORU.replace(b"ORU^R01^ORU_R01", b"ZAM^Z01^ZAM_Z01")))
    assert (violation.rule, violation.clause) == ("zam-dmp-receipt", "hl7-mss 1.1, flow 3")


def test_every_violation_of_the_cda_inside_a_message() -> None:
    spec = replace(SPEC, orders=(), acts=(replace(SPEC.acts[0], studies=()),))
    rules = {v.rule for v in errors(found(make_oru(make_cda(spec), spec)))}
    assert rules == {v.rule for v in errors(found(make_cda(spec)))}
    assert len(rules) > 1


def test_a_message_that_names_another_patient_than_its_cda() -> None:
    (violation,) = errors(found(make_mdm(make_cda(SPEC), replace(SPEC, ins_oid="1.2.250.1.213.1.4.8"))))
    assert (violation.rule, violation.where) == ("904", "PID^1^3")


@pytest.mark.parametrize("make", [make_cda, lambda spec: make_oru(make_cda(spec), spec)])
@pytest.mark.parametrize(
    ("spec", "rules"),
    [
        (replace(SPEC, birth_place=""), {"905", "ins-traits-incomplete"}),
        (replace(SPEC, ins=""), {"903", "ins-missing"}),
    ],
)
def test_an_identity_that_cannot_be_published(make: Any, spec: ReportSpec, rules: set[str]) -> None:
    assert {v.rule for v in errors(found(make(spec)))} & rules


@pytest.mark.parametrize("data", [b"", b"\x0b\x1c\r", b"hello", b"MSH", b"<a/>", b"\x0b", bytes(100)])
def test_anything_has_an_answer(data: bytes) -> None:
    assert errors(found(data))
