"""Rows of the trace as DICOM Audit Messages: the table, who takes part, what is named, sizes, hostile texts.

The second opinion is the strict receiver of the simulators (`syslog_checks`), written from the standard alone.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drimbox.domain import audit_rules
from drimbox.domain.audit_events import Report, Stage, gather, report
from drimbox.domain.audit_message import LARGEST, AuditSource, to_xml
from drimbox.domain.audit_rules import NOT_AUDITED, RULES, Lot, Occurrence, rule_of
from drimbox.domain.lifecycle import Event
from drimbox.domain.syslog_message import framed, syslog_message
from drimbox.simulators.syslog_checks import Checked, check

FLOW = Path(audit_rules.__file__).resolve().parent.parent / "flow"
AT = datetime(2026, 10, 1, 12, 0, 0, 250_000, tzinfo=UTC)
STUDY, SOP = "1.2.250.1.999.1.901", "1.2.250.1.999.1.901.1.1"
CX = "279035121518989^^^&1.2.250.1.213.1.4.10&ISO^NH"
STAGE = Stage(
    AuditSource("DRIMBOX-1", "1750803447", "drimbox.centre.example", "DRIMBOX"),
    "https://dmp.example/repository",
    "https://dmp.example/registry",
)
SET = Lot("publish", "1.2.3.77")


def row(event: str, actor: str = "pacs:CT1@10.0.0.7", number: int = 1, **given: Any) -> Occurrence:
    fields = {"study": STUDY, "patient": CX, "detail": {}, "lot": None, "at": AT} | given
    return Occurrence(
        number,
        fields["at"],
        event,
        actor,
        fields["study"],
        fields["detail"],
        fields["lot"],
        fields["patient"],
    )


def told(*rows: Occurrence) -> list[tuple[Report, Checked]]:
    reports = [report(event, STAGE) for event in gather(rows)]
    return [
        (one, check(syslog_message(to_xml(one.message), one.message.at, STAGE.source.host, one.message_id)))
        for one in reports
    ]


def one_of(*rows: Occurrence) -> Checked:
    ((_, checked),) = told(*rows)
    assert checked.faults == ()
    return checked


def roles(checked: Checked) -> dict[str, str]:
    return {who["RoleIDCode"]: who["UserID"] for who in checked.participants}


def requestors(checked: Checked) -> list[str]:
    return [who["UserID"] for who in checked.participants if who["UserIsRequestor"] == "true"]


# --- the table


def _names(node: ast.expr, names: dict[str, str]) -> Iterator[str]:
    for part in ast.walk(node):
        if isinstance(part, ast.Constant) and isinstance(part.value, str) and part.value.isupper():
            yield part.value
        elif isinstance(part, ast.Name) and part.id in names:
            yield names[part.id]


def _traced(path: Path) -> Iterator[str]:
    """Names of events that a file gives to `trace.note`, as texts or as constants of the file."""
    tree = ast.parse(path.read_text("utf-8"))
    names = {
        target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name) and isinstance(node.value.value, str)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "trace.note":
            yield from _names(node.args[1], names)
        elif isinstance(node, ast.Assign) and "EVENTS" in ast.unparse(node.targets[0]):
            yield from (
                part.value
                for part in ast.walk(node.value)
                if isinstance(part, ast.Constant) and part.value.isupper()
            )


def test_every_event_of_the_trace_is_audited_or_said_not_to_be() -> None:
    traced = {name for path in FLOW.glob("*.py") for name in _traced(path)} | set(Event)
    traced -= {"REPORT_"}  # the beginning of REPORT_REPLACED and REPORT_WITHDRAWN
    assert len(traced) > 35
    assert traced - set(RULES) - set(NOT_AUDITED) == set()
    assert set(RULES) & set(NOT_AUDITED) == set()


@pytest.mark.parametrize("event", sorted(NOT_AUDITED))
def test_what_is_not_audited_makes_no_message(event: str) -> None:
    assert told(row(event, lot=SET)) == []


def detail_for(event: str) -> dict[str, Any]:
    return {
        "reason": "because",
        "sop": SOP,
        "kos": "2.25.7",
        "after": "ABSENT",
        "before": "CURRENT",
        "bytes": 5,
        "purged": [SOP],
    }


EXPECTED = {
    "INSTANCE_STORED": ("110104", "C", "0", "RAD-8"),
    "INSTANCE_REPEATED": ("110104", "R", "0", "RAD-8"),
    "INSTANCE_REFUSED": ("110104", "C", "8", "RAD-8"),
    "INSTANCES_REJECTED": ("110103", "D", "0", "RAD-66"),
    "RETRIEVAL_AUTHORISED": ("110104", "R", "0", "RAD-107"),
    "RETRIEVAL_SERVED": ("110104", "R", "0", "RAD-107"),
    "RETRIEVAL_CUT": ("110104", "R", "4", "RAD-107"),
    "RETRIEVAL_REFUSED": ("110104", "R", "8", "RAD-107"),
    "REPORT_RECEIVED": ("110107", "C", "0", None),
    "REPORT_REFUSED": ("110107", "C", "8", None),
    "IMPORTED": ("110107", "C", "0", None),
    "REGISTERED": ("110106", "R", "0", "ITI-41"),
    "FOUND": ("110106", "R", "0", "ITI-41"),
    "REFUSED": ("110106", "R", "8", "ITI-41"),
    "NO_ANSWER": ("110106", "R", "4", "ITI-41"),
    "LEASE_EXPIRED": ("110106", "R", "4", "ITI-41"),
    "PURGED": ("110103", "D", "0", None),
    "IMAGES_FORGOTTEN": ("110105", "D", "0", None),
    "SEGMENT_COMPACTED": ("110103", "D", "0", None),
    "INSTANCE_EXPORTED": ("110103", "R", "0", None),
    "STORAGE_DAMAGED": ("110113", "E", "8", "110129"),
    "ASSOCIATION_REFUSED": ("110113", "E", "4", "110126"),
    "CONNECTION_REFUSED": ("110113", "E", "4", "110126"),
    "REQUEST_REFUSED": ("110113", "E", "4", "110126"),
    "HEALTH_FORBIDDEN": ("110113", "E", "4", "110126"),
    "WHITELIST_STATE": ("110113", "E", "8", "110129"),
    "QUEUE_STOPPED": ("110113", "E", "8", "110129"),
    "QUEUE_RESUMED": ("110113", "E", "0", "110129"),
    "THINNER_APPROVED": ("110113", "E", "0", "110132"),
    "WITHDRAWAL_ASKED": ("110113", "E", "0", "110132"),
    "RESTORATION_ASKED": ("110113", "E", "0", "110132"),
    "RELEASED": ("110113", "E", "0", "110132"),
}  # fmt: skip


def test_the_expectations_are_complete() -> None:
    assert set(EXPECTED) == set(RULES)


@pytest.mark.parametrize("event", sorted(EXPECTED))
def test_an_event_is_told_as_the_table_says(event: str) -> None:
    by_operator = EXPECTED[event][3] == "110132"
    checked = one_of(
        row(event, "operator" if by_operator else "ris:10.0.0.9", lot=SET, detail=detail_for(event))
    )
    types = checked.types[0] if checked.types else None
    assert (checked.event, checked.action, checked.outcome, types) == EXPECTED[event]
    is_of_ihe = types is not None and not types.startswith("11")
    assert checked.message_id == ("IHE+RFC-3881" if is_of_ihe else "DICOM+RFC3881")
    assert b"EventOutcomeDescription" in checked.raw or checked.outcome == "0"


@pytest.mark.parametrize(
    ("code", "status", "expected"),
    [
        ("token-missing", 401, ("110113", "4", ("110132",))),
        ("token-binding", 401, ("110113", "4", ("110132",))),
        ("peer-not-member", 403, ("110113", "4", ("110126",))),
        ("psc-unavailable", 503, ("110104", "4", ("RAD-107",))),
        ("kos-unpublished", 410, ("110104", "8", ("RAD-107",))),
        ("instance-not-shared", 404, ("110104", "8", ("RAD-107",))),
    ],
)
def test_a_refused_retrieval_by_its_reason(code: str, status: int, expected: tuple[Any, ...]) -> None:
    checked = one_of(row("RETRIEVAL_REFUSED", "partner:192.0.2.4", detail={"code": code, "status": status}))
    assert (checked.event, checked.outcome, checked.types) == expected
    assert (checked.details["Refusal"], checked.details["HTTP Status"]) == (code, str(status))


@pytest.mark.parametrize(
    ("after", "outcome"), [("ABSENT", "8"), ("STALE", "4"), ("CURRENT", "0"), ("NEVER", "0")]
)
def test_the_whitelist_state_says_how_bad_it_is(after: str, outcome: str) -> None:
    detail = {"before": "CURRENT", "after": after, "reason": "the list leaves us out"}
    checked = one_of(row("WHITELIST_STATE", "worker:node-a", study=None, detail=detail))
    assert checked.outcome == outcome
    assert (
        checked.details["Alert Description"] == f"WHITELIST_STATE: CURRENT to {after}: the list leaves us out"
    )
    assert checked.objects[0]["ParticipantObjectID"] == STAGE.source.host


@pytest.mark.parametrize("event", ["WITHDRAWAL_ASKED", "RESTORATION_ASKED", "RELEASED"])
def test_only_a_person_uses_a_restricted_function(event: str) -> None:
    assert told(row(event, "ris:10.0.0.9")) == []
    assert requestors(one_of(row(event, "operator"))) == [f"operator@{STAGE.source.host}"]


def test_a_withdrawal_is_an_update_sent_to_the_registry() -> None:
    checked = one_of(row("REGISTERED", "worker:node-a", lot=Lot("unpublish", "1.2.3.78")))
    assert checked.types == ("ITI-57",)
    assert roles(checked) == {"110153": "DRIMBOX-1", "110152": "https://dmp.example/registry"}
    assert [one["ParticipantObjectID"] for one in checked.objects] == [CX, "1.2.3.78", STUDY]


# --- who


def test_a_modality_sends_to_us() -> None:
    checked = one_of(row("INSTANCE_STORED", detail={"sop": SOP}))
    assert roles(checked) == {"110153": "CT1", "110152": "DRIMBOX-1"}
    assert requestors(checked) == ["CT1"]
    sender, receiver = checked.participants
    assert (sender["AlternativeUserID"], receiver["AlternativeUserID"]) == (
        "AETITLES=CT1",
        "AETITLES=DRIMBOX",
    )
    assert (sender["NetworkAccessPointID"], sender["NetworkAccessPointTypeCode"]) == ("10.0.0.7", "2")
    assert (receiver["NetworkAccessPointID"], receiver["NetworkAccessPointTypeCode"]) == (
        STAGE.source.host,
        "1",
    )


def test_the_professional_asked_for_the_images() -> None:
    detail = {
        "subject": "899700218896", "structure": "CLINIQUE PARTENAIRE", "client_id": "drimbox-partenaire",
        "certificate": "CN=drimbox-partenaire,O=CLINIQUE", "kos": "2.25.7", "instances": 12, "bytes": 4096,
        "syntaxes": ["1.2.840.10008.1.2.4.80"], "jti": "j-1", "ms": 1500.0,
    }  # fmt: skip
    checked = one_of(row("RETRIEVAL_SERVED", "partner:2001:db8::7", detail=detail))
    assert requestors(checked) == ["899700218896"]
    assert roles(checked) == {
        "110153": "DRIMBOX-1",
        "110152": "CN=drimbox-partenaire,O=CLINIQUE",
        "": "899700218896",
    }
    partner = checked.participants[1]
    assert (partner["AlternativeUserID"], partner["UserName"]) == (
        "drimbox-partenaire",
        "CLINIQUE PARTENAIRE",
    )
    assert (partner["NetworkAccessPointID"], partner["NetworkAccessPointTypeCode"]) == ("2001:db8::7", "2")
    assert checked.details["KOS SOP Instance UID"] == "2.25.7"
    assert checked.details["Transfer Syntax UIDs"] == "1.2.840.10008.1.2.4.80"
    assert (checked.details["Bytes"], checked.details["Token ID"], checked.instances) == ("4096", "j-1", 12)
    assert b'EventDateTime="2026-10-01T12:00:01.750Z"' in checked.raw  # when it was over


def test_a_retrieval_without_a_token_was_asked_for_by_the_node() -> None:
    detail = {"code": "busy", "status": 503}
    assert requestors(one_of(row("RETRIEVAL_REFUSED", "partner:192.0.2.4", detail=detail))) == ["192.0.2.4"]


def test_a_report_comes_from_the_ris_or_from_the_operator() -> None:
    detail = {"document": "1.2.3^4", "operation": "NW", "door": "mllp"}
    checked = one_of(row("REPORT_RECEIVED", "ris:10.0.0.9", detail=detail))
    assert roles(checked) == {"110152": "DRIMBOX-1", "110153": "10.0.0.9", "110155": "mllp:10.0.0.9"}
    assert requestors(checked) == ["10.0.0.9"]
    replayed = one_of(row("REPORT_RECEIVED", "operator", detail=detail))
    assert requestors(replayed) == [f"operator@{STAGE.source.host}"]


def test_a_peer_that_was_refused_is_no_requestor() -> None:
    checked = one_of(
        row(
            "CONNECTION_REFUSED",
            "mllps:203.0.113.9",
            study=None,
            detail={"reason": "no client certificate", "repeated": 7},
        )
    )
    assert requestors(checked) == ["DRIMBOX-1"]
    assert [who["UserID"] for who in checked.participants] == ["DRIMBOX-1", "203.0.113.9"]
    assert checked.objects[0]["ParticipantObjectID"] == "203.0.113.9"
    assert checked.details["Alert Description"] == "CONNECTION_REFUSED: no client certificate"
    assert checked.details["Repeated"] == "7"


def test_many_strangers_told_together_have_no_address() -> None:
    checked = one_of(
        row("CONNECTION_REFUSED", "mllp:(others)", study=None, detail={"reason": "unknown sender"})
    )
    assert "NetworkAccessPointID" not in checked.participants[1]
    assert checked.objects[0]["ParticipantObjectID"] == STAGE.source.host


# --- what


def test_the_patient_is_the_ins_or_openly_nobody() -> None:
    known, unknown = one_of(row("INSTANCE_STORED")), one_of(row("INSTANCE_STORED", patient=None))
    assert known.objects[0]["ParticipantObjectID"] == CX
    assert unknown.objects[0]["ParticipantObjectID"] == "<none>"


def test_a_study_that_arrives_is_one_message() -> None:
    rows = [
        row(
            "INSTANCE_STORED",
            number=number,
            at=AT + timedelta(milliseconds=number),
            detail={"sop": f"1.2.{number}"},
        )
        for number in range(10, 40)
    ]
    checked = one_of(*rows)
    assert (checked.instances, checked.details["Events"], checked.details["Trace"]) == (30, "30", "10-39")
    assert checked.details["First"] == "2026-10-01T12:00:00.260Z"
    assert b'EventDateTime="2026-10-01T12:00:00.289Z"' in checked.raw
    assert all(f'UID="1.2.{number}"'.encode() in checked.raw for number in range(10, 40))


def test_many_instances_are_counted_and_none_is_named() -> None:
    rows = [row("INSTANCE_STORED", number=number, detail={"sop": f"1.2.{number}"}) for number in range(51)]
    checked = one_of(*rows)
    assert checked.instances == 51
    assert b"<Instance " not in checked.raw


@pytest.mark.parametrize(
    "other",
    [
        row("INSTANCE_STORED", number=2, study="1.2.3"),
        row("INSTANCE_STORED", "pacs:CT2@10.0.0.7", number=2),
        row("INSTANCE_STORED", number=2, at=AT + timedelta(minutes=1)),
        row("INSTANCE_STORED", number=2, patient=None),
        row("INSTANCE_REPEATED", number=2),
    ],
)
def test_what_differs_is_told_apart(other: Occurrence) -> None:
    assert len(told(row("INSTANCE_STORED"), other)) == 2


def test_retrievals_of_one_study_add_up_and_say_what_they_agree_in() -> None:
    def served(number: int, sop: str) -> Occurrence:
        detail = {
            "subject": "8997",
            "kos": "2.25.7",
            "sop": sop,
            "instances": 1,
            "bytes": 100,
            "acr": "eidas1",
        }
        return row("RETRIEVAL_SERVED", "partner:192.0.2.4", number, detail=detail)

    checked = one_of(served(1, "1.2.1"), served(2, "1.2.2"))
    assert (checked.instances, checked.details["Bytes"], checked.details["Authentication Level"]) == (
        2,
        "200",
        "eidas1",
    )


def test_a_report_of_several_studies_is_one_import() -> None:
    detail = {"document": "1.2.3^4", "operation": "NW", "door": "mllp"}
    rows = [row("REPORT_RECEIVED", "ris:10.0.0.9", n, study=f"1.2.{n}", detail=detail) for n in range(3)]
    checked = one_of(*rows)
    assert [one["ParticipantObjectID"] for one in checked.objects] == [CX, "1.2.0", "1.2.1", "1.2.2"]
    assert checked.details["Studies"] == "3"


def test_rejected_instances_are_named() -> None:
    detail = {"note": "2.25.9", "hidden": ["1.2.1", "1.2.2"], "count": 2, "code": "113037"}
    checked = one_of(row("INSTANCES_REJECTED", detail=detail))
    assert (checked.instances, checked.details["Rejection Note SOP Instance UID"]) == (2, "2.25.9")
    assert b'<Instance UID="1.2.2"/>' in checked.raw
    cut = one_of(row("INSTANCES_REJECTED", detail=detail | {"count": 500}))
    assert (cut.instances, b"<Instance " in cut.raw) == (500, False)


def test_events_stay_in_the_order_of_the_trace() -> None:
    rows = [
        row("REGISTERED", "worker:a", 1, lot=SET),
        row("INSTANCE_STORED", number=2),
        row("QUEUE_STOPPED", "worker:a", 3),
    ]
    assert [checked.event for _, checked in told(*rows)] == ["110106", "110104", "110113"]
    assert [one.rows for one, _ in told(*rows)] == [(1,), (2,), (3,)]


# --- bounds

HOSTILE = st.text(st.characters(codec=None), max_size=600)


@settings(max_examples=60, deadline=None)
@given(
    event=st.sampled_from(sorted(RULES)), actor=HOSTILE, value=HOSTILE, study=HOSTILE, seeded=st.booleans()
)
def test_nothing_that_a_peer_says_breaks_a_message(
    event: str, actor: str, value: str, study: str, seeded: bool
) -> None:
    detail = dict.fromkeys(
        ("reason", "code", "kos", "subject", "certificate", "structure", "door", "jti"), value
    )
    by_operator = EXPECTED[event][3] == "110132"
    rows = [
        row(
            event,
            "operator" if by_operator else f"pacs:{actor}@{value}",
            n,
            study=f"{study}{n}",
            detail=detail,
            lot=SET,
        )
        for n in range(30 if seeded else 1)
    ]
    for _, checked in told(*rows):
        assert checked.faults == ()
        assert len(checked.raw) <= LARGEST + 400


def test_the_worst_that_can_be_said_stays_within_32_kib() -> None:
    text = "<" * 600
    detail = dict.fromkeys(
        ("document", "operation", "row", "code", "kos", "series", "certificate", "structure"), text
    )
    rows = [
        row("REPORT_RECEIVED", f"ris:{text}@{text}", n, study=f"{n}{text}", patient=text, detail=detail)
        for n in range(40)
    ]
    ((reported, checked),) = told(*rows)
    assert checked.faults == ()
    assert len(to_xml(reported.message)) <= LARGEST
    assert checked.details["Studies"] == "40"


# --- syslog


def test_the_header_and_the_frame() -> None:
    message = syslog_message("<é/>".encode(), AT, "nœud 1", "DICOM+RFC3881")
    assert message == (
        b"<85>1 2026-10-01T12:00:00.250Z n_ud_1 drimbox - DICOM+RFC3881 - \xef\xbb\xbf<\xc3\xa9/>"
    )
    assert framed(message) == f"{len(message)} ".encode() + message


def test_the_same_rows_are_the_same_octets() -> None:
    first, again = told(row("INSTANCE_STORED")), told(row("INSTANCE_STORED"))
    assert first[0][1].raw == again[0][1].raw


def test_rules_name_their_clause() -> None:
    for rules in RULES.values():
        assert all(rule.clause.startswith("A.5.3.") for rule in rules)
    assert rule_of(row("no such event")) is None
