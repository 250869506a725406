"""What a department or a sender chooses: DESTDMP, secret connection, same author, defects not forgiven, who signs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import pytest

from drimbox.domain.report_states import StatePolicy
from drimbox.domain.senders import SenderProfile
from drimbox.flow.keep_report import Arrival
from fixtures.images import SeriesSpec, StudySpec, study_datasets
from fixtures.reports import ReportSpec, make_cda, make_mdm, make_oru, replacement_of

STUDY = "1.2.250.1.999.1.901"  # of the default report
SPEC = StudySpec(
    study_instance_uid=STUDY, accession="ACN901", patient_id="IPP901", series=(SeriesSpec("CT", 2),)
)
ANYWHERE = (ip_network("127.0.0.0/8"),)
RIS = SenderProfile("RIS", ANYWHERE)


@pytest.fixture
def say(box: Any) -> Callable[..., bytes]:
    def send(message: bytes, *senders: SenderProfile) -> bytes:
        arrival = Arrival(message, "mllp", "127.0.0.1", box.now, senders=senders or None)
        return box.reception.message(arrival) or b""

    return send


def images(box: Any) -> None:
    for dataset in study_datasets(SPEC):
        box.image(dataset)
    box.later(61)
    box.work()


def oru(report: ReportSpec | None = None, **how: Any) -> bytes:
    report = report or ReportSpec()
    return make_oru(make_cda(report), report, **how)


def test_a_report_not_destined_to_the_dmp_is_kept_and_not_published(box: Any, say: Any) -> None:
    assert b"MSA|AA" in say(oru(flags={"DESTDMP": False}))
    images(box)
    assert box.exam()["rule"] == "not-for-dmp"
    assert box.dmp.published == []


def test_a_department_may_publish_it_all_the_same(box: Any, say: Any) -> None:
    policy = replace(box.reconciling.policy, publish_without_destdmp=True)
    box.reconciling = replace(box.reconciling, policy=policy)
    say(oru(flags={"DESTDMP": False}))
    images(box)
    assert box.exam()["manifest"]["status"] == "published"


def test_a_secret_connection_waits_for_its_code(box: Any, say: Any) -> None:
    say(oru(flags={"CONNEXION_SECRETE": True}))
    images(box)
    assert box.exam()["rule"] == "secret-connection"
    policy = replace(box.reconciling.policy, secret_connections=True)
    box.reconciling = replace(box.reconciling, policy=policy)
    with box.transactions.writing() as transaction:
        transaction.ledger.judge_all_again(box.now)
        transaction.commit()
    box.work()
    (lot,) = box.dmp.published
    assert lot.vihf.secret_connection


OTHER = {"organization_id": "1750999111", "organization_name": "Autre centre"}


@pytest.mark.parametrize("make", [make_oru, make_mdm])
def test_another_structure_replaces_with_a_word_in_the_trace(
    box: Any, say: Any, make: Callable[..., bytes]
) -> None:
    first = ReportSpec()
    second = replace(replacement_of(first, "1.2.250.1.999.7.9.2"), **OTHER)
    say(make(make_cda(first), first))
    assert b"MSA|AA" in say(make(make_cda(second), second, order_control="RO"))
    images(box)
    warned = [e["detail"]["warnings"] for e in box.trace() if e["event"] == "REPORT_RECEIVED"]
    assert "other-author" in warned[-1]
    assert "other-author" not in warned[0]


@pytest.mark.parametrize(("control", "row"), [("RO", 2), ("CA", 1)])
def test_a_strict_sender_is_refused_another_structure(box: Any, say: Any, control: str, row: int) -> None:
    """hl7-mss 1.6: AE 207 + 901 in the strict mode."""
    strict = replace(RIS, states=StatePolicy(same_author=True))
    first = ReportSpec()
    following = replacement_of(first, "1.2.250.1.999.7.9.2") if row == 2 else first
    say(oru(first), strict)
    answer = say(oru(replace(following, **OTHER), order_control=control), strict)
    assert b"MSA|AE" in answer
    assert b"|207^" in answer
    assert b"|901^" in answer
    assert b"MSA|AA" in say(oru(following, order_control=control, control_id="RIS-2"), strict)


def test_the_finess_with_and_without_its_one_is_the_same_structure(box: Any, say: Any) -> None:
    """drim-m-data 1: the CDA writes 1750803447, the message 750803447."""
    strict = replace(RIS, states=StatePolicy(same_author=True))
    first = ReportSpec()
    say(oru(first), strict)
    assert b"MSA|AA" in say(oru(first, order_control="CA"), strict)


def test_the_choices_of_a_sender_stand_before_those_of_the_department(box: Any, say: Any) -> None:
    orphan = replacement_of(ReportSpec(), "1.2.250.1.999.7.9.2")
    refusing = replace(RIS, states=StatePolicy(orphan_replacement=False))
    assert b"|900^" in say(oru(orphan, order_control="RO"), refusing)
    assert b"MSA|AA" in say(oru(orphan, order_control="RO"), RIS)


def test_a_sender_that_signs_otherwise_is_not_known(box: Any, say: Any) -> None:
    answer = say(oru(), replace(RIS, application="ANOTHER"))
    assert b"MSA|AE" in answer
    assert b"ERR||MSH^1^3|207^" in answer
    assert b"sender-unknown" in answer
    assert b"MSA|AA" in say(oru(), replace(RIS, application="ANOTHER"), replace(RIS, application="RIS-DEMO"))


def test_a_defect_that_a_sender_is_not_forgiven(box: Any, say: Any) -> None:
    wrong = oru().replace(b"2.1^CISIS_CDA_HL7_V2", b"")
    answer = say(wrong, replace(RIS, not_tolerated=frozenset({"profile"})))
    assert b"MSA|AE" in answer
    assert b"ERR||MSH^1^21|199^" in answer
    assert b"|profile|" in answer
    assert b"MSA|AA" in say(wrong, RIS)


def test_every_message_leaves_its_row_with_what_was_answered(box: Any, say: Any) -> None:
    good, bad = say(oru(), RIS), say(b"MSH|^~\\&|A|B\r", RIS)
    with box.transactions.reading() as transaction:
        rows = {row.verdict: row for row in transaction.inbox.messages()}
    taken, refused = rows["AA"], rows["AE"]
    assert (taken.answer or "").encode() == good
    assert (refused.answer or "").encode() == bad
    assert (taken.kind, taken.sender, taken.studies) == ("ORU^R01", "RIS", [STUDY])
    assert box.documents.get(taken.content) == oru()
    assert box.documents.get(taken.document) == make_cda(ReportSpec())
