"""What reaches the report port, row by row: what is read, what is refused, what to do (hl7-mss 1.1, 1.12, 2)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from drimbox.domain.hl7v2 import (
    ExamOrder,
    MessageHeader,
    MessageRefused,
    ReportMessage,
    VisitConsent,
    read_message,
)
from drimbox.domain.hl7v2_grammar import MESSAGE_TYPES
from drimbox.domain.hl7v2_routes import ROUTES, route
from fixtures.reports import ReportSpec, make_adt, make_cda, make_mdm, make_omi, make_oru

CDA = make_cda()
NOW = datetime(2026, 9, 14, tzinfo=UTC)
TELERADIOLOGY = "1.0^CISIS_TLR_HL7_V2"
LPS = "1.1^CISIS_CDA_HL7_LPS"


def message(kind: str, version: str, profile: str, body: str = "PID|||1^^^A^PI\r") -> bytes:
    """A message of any type, valid as far as its MSH goes."""
    code = kind.split("^", maxsplit=1)[0]
    header = (
        f"MSH|^~\\&|RIS|CENTRE|DRIMBOX|CENTRE|20260914101500||{kind}|M1|T|{version}|||||FRA|UNICODE UTF-8"
    )
    return f"{header}|||{profile}\rEVN|{code}\r{body}".encode()


@dataclass(frozen=True)
class Refusal:
    """`says`: words of the text that tell the sender what to do."""

    data: bytes
    slug: str
    error: int
    location: str
    says: str
    application: int | None = None


TYPE, PROFILE = "MSH^1^9", "MSH^1^21"
REFUSED = {
    "ACK": Refusal(
        message("ACK^R01^ACK", "2.5", "", "MSA|AA|1\r"), "acknowledgement", 200, TYPE, "never answered"
    ),
    "ORM teleradiology": Refusal(
        message("ORM^O01^ORM_O01", "2.5.1", TELERADIOLOGY), "teleradiology-request", 200, PROFILE, "platform"
    ),
    "ORU teleradiology": Refusal(
        make_oru(CDA).replace(b"2.1^CISIS_CDA_HL7_V2", TELERADIOLOGY.encode()),
        "teleradiology-answer", 200, PROFILE, "RIS",
    ),
    "ORU teleradiology without a document": Refusal(
        message("ORU^R01^ORU_R01", "2.5.1", TELERADIOLOGY), "teleradiology-answer", 200, PROFILE, "no report"
    ),
    "OMI teleradiology": Refusal(
        make_omi().replace(b"2.5.1||||||||", b"2.5.1|||||||||" + TELERADIOLOGY.encode()),
        "teleradiology-exam", 200, PROFILE, "without this profile",
    ),
    "any teleradiology": Refusal(
        message("ORR^O02^ORR_O02", "2.5.1", TELERADIOLOGY), "teleradiology", 200, PROFILE, "platform"
    ),
    "LPS": Refusal(
        make_mdm(CDA).replace(b"2.1^CISIS_CDA_HL7_V2", LPS.encode()), "lps-mail", 207, PROFILE, "mail", 906
    ),
    "ZAM Z01": Refusal(message("ZAM^Z01^ZAM_Z01", "2.6", "2.1^CISIS_CDA_HL7_V2"), "zam-dmp-receipt", 200, TYPE, "DMP"),
    "ZAM Z02": Refusal(
        message("ZAM^Z02^ZAM_Z01", "2.6", "2.1^CISIS_CDA_HL7_V2"), "zam-mail-receipt", 200, TYPE, "delivery"
    ),
    "ZAM Z03": Refusal(
        message("ZAM^Z03^ZAM_Z01", "2.6", "2.1^CISIS_CDA_HL7_V2"), "zam-mail-read", 200, TYPE, "reading"
    ),
    "ZAM": Refusal(message("ZAM^Z09^ZAM_Z01", "2.6", ""), "zam", 200, TYPE, "sent the report"),
    "ORM": Refusal(message("ORM^O01^ORM_O01", "2.5", ""), "order-request", 200, TYPE, "OMI^O23"),
    "OUL": Refusal(message("OUL^R22^OUL_R22", "2.5", ""), "results-withdrawn", 200, TYPE, "ORU^R01"),
    "ADT": Refusal(make_adt(), "adt-not-read", 200, TYPE, "policy.consent_from_adt"),
    "ORU event": Refusal(message("ORU^R30^ORU_R30", "2.5", ""), "hl7-201", 201, TYPE, "send R01"),
    "MDM event": Refusal(message("MDM^T01^MDM_T01", "2.6", ""), "hl7-201", 201, TYPE, "T10"),
    "OMI event": Refusal(message("OMI^O22^OMI_O22", "2.5.1", ""), "hl7-201", 201, TYPE, "O23"),
    "another type": Refusal(message("SIU^S12^SIU_S12", "2.5", ""), "hl7-200", 200, TYPE, "ORU, MDM and OMI"),
}  # fmt: skip


def refusal(data: bytes, *, adt: bool = False) -> MessageRefused:
    with pytest.raises(MessageRefused) as refused:
        read_message(data, adt=adt)
    return refused.value


@pytest.mark.parametrize("case", REFUSED)
def test_refused_by_its_row(case: str) -> None:
    expected = REFUSED[case]
    found = refusal(expected.data)
    assert (found.ack, found.error, found.application_error) == ("AE", expected.error, expected.application)
    assert (found.code, found.location) == (expected.slug, expected.location)
    assert expected.says in found.reason


def test_an_event_of_adt_that_is_not_read() -> None:
    found = refusal(make_adt(event="A40"), adt=True)
    assert (found.code, found.error, found.location) == ("adt-event", 201, TYPE)
    assert "A01" in found.reason


READ = {
    "ORU R01": (make_oru(CDA), ReportMessage),
    "MDM T02": (make_mdm(CDA), ReportMessage),
    "MDM T10": (
        make_mdm(CDA, ReportSpec(replaces=("1.2.250.1.999.7.8",)), order_control="RO"),
        ReportMessage,
    ),
    "MDM T04": (make_mdm(CDA, order_control="CA"), ReportMessage),
    "OMI O23": (make_omi(), ExamOrder),
    **{
        f"ADT {event}": (make_adt(event=event), VisitConsent) for event in ("A01", "A03", "A04", "A05", "A08")
    },
}


@pytest.mark.parametrize("case", READ)
def test_read_as_its_row_says(case: str) -> None:
    data, kind = READ[case]
    assert isinstance(read_message(data, adt=True), kind)


def test_every_row_has_its_test() -> None:
    seen = {refused.slug for refused in REFUSED.values()} | {"adt-event", "report", "order", "visit"}
    assert {row.slug for row in ROUTES} == seen


def test_rows_say_what_they_rest_on() -> None:
    for row in ROUTES:
        assert row.clause
        assert bool(row.error) == bool(row.reason)


def test_what_is_routed_has_a_grammar_and_the_reverse() -> None:
    routed = {(row.code, event): row.slug for row in ROUTES if not row.error for event in row.events.split()}
    assert routed == {(t.code, t.event): t.gives for t in MESSAGE_TYPES}


def test_the_last_row_takes_everything() -> None:
    assert ROUTES[-1].fits(MessageHeader.unknown(), adt=True)
    with pytest.raises(MessageRefused):
        route(MessageHeader.unknown())


def test_an_acknowledgement_is_never_answered() -> None:
    found = refusal(REFUSED["ACK"].data)
    assert found.header.is_acknowledgement
    with pytest.raises(ValueError, match="never"):
        found.answer(now=NOW, control_id="X")


def test_the_profile_may_come_in_any_place() -> None:
    found = refusal(make_oru(CDA).replace(b"2.1^CISIS_CDA_HL7_V2", b"2.1^CISIS_CDA_HL7_V2~" + LPS.encode()))
    assert found.code == "lps-mail"
