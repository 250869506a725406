"""Reconciler and publisher on real stores, with a scripted DMP and a clock of our own: every turn of a lot's life."""

from __future__ import annotations

import uuid
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from drimbox.domain.lifecycle import Event
from drimbox.domain.xds.outcome import Exchange, NoAnswer, NotFound, NotSent, Refused
from drimbox.domain.xds.publication import FrozenLot
from drimbox.domain.xds.response import ErrorKind, RegistryError
from drimbox.flow import exams, trace
from drimbox.flow.keep_report import Arrival
from fixtures.images import SeriesSpec, StudySpec, study_datasets
from fixtures.reports import ReportSpec, make_cda

STUDY = "1.2.250.1.999.1.901"  # of the default report
SPEC = StudySpec(
    study_instance_uid=STUDY, accession="ACN901", patient_id="IPP901", series=(SeriesSpec("CT", 3),)
)
EXCHANGE = Exchange("urn:uuid:1", 200, "", b"<answer/>")


def entry_of(unique_id: str) -> str:
    """The entryUUID that our DMP gives to a document."""
    return f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, unique_id)}"


def refused(code: str, kind: ErrorKind) -> Refused:
    return Refused(EXCHANGE, (RegistryError(code, "said the DMP"),), kind)


def test_what_arrived_and_is_not_judged_yet_is_a_reason(box: Any) -> None:
    """Published and without a reason means: what is public is what should be."""
    box.bring(2)
    box.work()
    assert box.exam()["reason"] is None
    box.image(list(study_datasets(SPEC))[2])
    exam = box.exam()
    assert (exam["rule"], exam["manifest"]["status"]) == ("not-judged-yet", "published")
    box.later(61)
    box.work()
    assert (box.exam()["rule"], box.exam()["reason"]) == (None, None)


def test_one_exam_is_published_once(box: Any) -> None:
    box.bring()
    box.work()
    exam = box.exam()
    assert (exam["manifest"]["status"], exam["reason"]) == ("published", None)
    assert exam["manifest"]["entry_uuid"] == entry_of(exam["manifest"]["sop_instance_uid"])
    box.later(3600)
    box.work()
    assert len(box.dmp.published) == 1


def test_reconciling_twice_is_harmless(box: Any) -> None:
    box.bring()
    for _ in range(3):
        box.reconciling.run(STUDY)
    assert box.events().count("PREPARED") == 1


def test_a_lot_that_waits_is_replaced_by_a_fuller_one(box: Any) -> None:
    """Nothing of a PREPARED lot can have reached the DMP: it is dropped, the newer one is sent."""
    box.bring(images=2)
    box.reconciling.run_due()
    box.image(list(study_datasets(SPEC))[2])
    box.later(61)
    box.work()
    assert box.events().count("SUPERSEDED") == 1
    (lot,) = box.dmp.published
    assert lot.kos_uid == box.exam()["manifest"]["sop_instance_uid"]
    assert len(box.exam()["history"]) == 1


def test_a_late_image_waits_until_the_lot_before_it_is_settled(box: Any) -> None:
    box.bring(images=2)
    box.dmp.answers = [NoAnswer(EXCHANGE, "silence")]
    box.work()
    assert box.exam()["manifest"]["status"] == "doubtful"
    box.image(list(study_datasets(SPEC))[2])
    box.later(61)
    box.reconciling.run_due()
    assert box.exam()["rule"] == "in-flight"
    box.work()  # the lookup finds it, then the replacement goes
    assert [step["status"] for step in box.exam()["history"]] == ["replaced", "published"]
    first, second = box.dmp.published
    assert first.kos_uid != second.kos_uid
    assert entry_of(first.kos_uid).encode() in second.submit_objects_request


def test_a_resend_is_the_very_same_lot(box: Any) -> None:
    box.bring()
    box.dmp.answers = [
        NoAnswer(EXCHANGE, "cut"),
        NotSent(EXCHANGE, "refused"),
        refused("XDSRegistryBusy", ErrorKind.TRANSIENT),
    ]
    box.dmp.lookups = [NotFound(EXCHANGE)]
    for _ in range(8):
        box.work()
        box.later(101)
    assert len(box.dmp.published) == 4
    assert len({lot.submit_objects_request for lot in box.dmp.published}) == 1
    assert len({lot.kos for lot in box.dmp.published}) == 1
    assert box.exam()["manifest"]["status"] == "published"


def test_a_duplicate_is_confirmed_by_the_registry(box: Any) -> None:
    box.bring()
    box.dmp.answers = [refused("XDSDuplicateUniqueIdInRegistry", ErrorKind.DUPLICATE)]
    box.work()
    assert "FOUND" in box.events()
    assert box.exam()["manifest"]["status"] == "published"


def test_a_second_duplicate_is_parked_never_dropped(box: Any) -> None:
    """The DMP holds something under our identifiers and does not show it: an operator decides."""
    box.bring()
    box.dmp.answers = [refused("XDSNonIdenticalHash", ErrorKind.DUPLICATE)] * 2
    box.dmp.lookups = [NotFound(EXCHANGE)]
    for _ in range(5):
        box.work()
        box.later(101)
    assert box.exam()["manifest"]["status"] == "parked"
    assert "XDSNonIdenticalHash" in box.exam()["reason"]
    box.image(list(study_datasets(SPEC))[2])
    box.later(61)
    box.work()
    assert "SUPERSEDED" not in box.events()
    exams.release_exam(box.transactions, STUDY, now=box.now, actor="operator")
    box.work()
    assert box.exam()["history"][0]["status"] in ("published", "replaced")


def test_a_refusal_that_lasts_is_said_and_a_corrected_exam_replaces_it(box: Any) -> None:
    box.bring(images=2)
    box.dmp.answers = [refused("XDSRegistryMetadataError", ErrorKind.PERMANENT_DATA)]
    box.work()
    exam = box.exam()
    assert (exam["manifest"]["status"], exam["rule"]) == ("refused", "refused")
    assert "said the DMP" in exam["reason"]
    box.later(86400)
    box.work()
    assert len(box.dmp.published) == 1  # never by itself
    box.image(list(study_datasets(SPEC))[2])
    box.later(61)
    box.work()
    assert box.exam()["manifest"]["status"] == "published"
    assert len({lot.submission_set_uid for lot in box.dmp.published}) == 2


def test_three_tries_then_refused(box: Any) -> None:
    box.bring()
    box.dmp.answers = [refused("XDSRegistryError", ErrorKind.TRANSIENT_ONCE)] * 9
    for _ in range(8):
        box.work()
        box.later(101)
    assert len(box.dmp.published) == 3
    assert box.exam()["manifest"]["status"] == "refused"


def test_an_operator_spares_a_lot_the_rest_of_its_wait(box: Any) -> None:
    box.bring()
    box.dmp.answers = [NotSent(EXCHANGE, "no connection")]
    box.work()
    box.work()
    assert len(box.dmp.published) == 1
    exams.release_exam(box.transactions, STUDY, now=box.now, actor="operator")
    box.work()
    assert len(box.dmp.published) == 2
    assert box.exam()["manifest"]["status"] == "published"
    assert "HURRIED" in box.events()


def test_tries_of_another_kind_do_not_count(box: Any) -> None:
    """Days of an unreachable DMP do not use up the tries of an internal error of it."""
    box.bring()
    box.dmp.answers = [NotSent(EXCHANGE, "unreachable")] * 9 + [
        refused("XDSRegistryError", ErrorKind.TRANSIENT_ONCE)
    ]
    for _ in range(14):
        box.work()
        box.later(101)
    assert box.exam()["manifest"]["status"] == "published"


def test_a_dead_worker_of_this_node_leaves_a_doubt_at_once(box: Any) -> None:
    box.bring()
    box.reconciling.run_due()
    with box.transactions.writing() as transaction:  # claimed, then killed before the answer
        lot = transaction.ledger.claimable(box.now)
        assert lot is not None
        trace.move_submission(transaction, lot, Event.CLAIMED, at=box.now, actor="worker:node-a")
        lot.lease_owner, lot.lease_until = "node-a", box.now + timedelta(seconds=60)
        transaction.commit()
    other = box.publisher("node-b")
    assert other.expire_leases_of_this_node() == 0
    assert other.run_due() == 0
    assert box.publishing.expire_leases_of_this_node() == 1
    box.work()
    assert box.dmp.published == []
    assert box.exam()["manifest"]["status"] == "published"


def test_a_lease_that_ran_out_is_a_doubt_for_any_node(box: Any) -> None:
    box.bring()
    box.reconciling.run_due()
    with box.transactions.writing() as transaction:
        lot = transaction.ledger.claimable(box.now)
        assert lot is not None
        trace.move_submission(transaction, lot, Event.CLAIMED, at=box.now, actor="worker:node-a")
        lot.lease_owner, lot.lease_until = "node-a", box.now + timedelta(seconds=60)
        transaction.commit()
    box.later(61)
    assert box.publisher("node-b").run_due() == 1  # the lookup
    assert "LEASE_EXPIRED" in box.events()


def test_an_answer_that_comes_after_the_lease_is_left_to_the_registry(box: Any) -> None:
    box.bring()
    box.reconciling.run_due()
    other = box.publisher("node-b")

    class Slow(type(box.dmp)):
        def publish(self, lot: FrozenLot) -> Any:
            box.later(61)
            other.run_due()  # declares the doubt and settles it by lookup
            return NotSent(EXCHANGE, "late and wrong")

    box.publisher("node-a", Slow()).run_due()
    assert box.exam()["manifest"]["status"] == "published"
    assert "NOT_SENT" not in box.events()


@pytest.mark.parametrize("lost", ["cda", "lot"])
def test_a_damaged_document_is_said_and_holds_up_nobody(box: Any, tmp_path: Path, lost: str) -> None:
    box.bring()
    if lost == "lot":
        box.reconciling.run_due()
    for path in (tmp_path / "documents").rglob("*"):
        if path.is_file():
            path.write_bytes(b"damaged")
    box.work()
    with box.transactions.reading() as transaction:
        exam = transaction.ledger.exam(STUDY)
        assert exam is not None
        assert "was changed on disk" in (exam.reason or "")
    assert box.dmp.published == []


def test_a_second_report_of_another_patient_stops_everything(box: Any) -> None:
    box.bring()
    other = ReportSpec(document_id="1.2.250.1.999.7.9.2", ins="162018885045327")
    box.reception.document(Arrival(make_cda(other), "http", "test", box.now))
    box.work()
    assert box.exam()["rule"] == "reports-disagree"
    assert box.dmp.published == []


def test_an_image_of_another_patient_stops_the_lot_that_waits(box: Any) -> None:
    """At once, not only when the study is quiet again."""
    box.bring()
    box.reconciling.run_due()
    (stranger, *_) = study_datasets(
        replace(SPEC, patient_id="IPP999", sop_uid_pattern="{study}.9.{series}.{instance}")
    )
    box.image(stranger)
    assert box.publishing.run_due() == 0
    box.later(61)
    box.work()
    assert box.exam()["rule"] == "several-patients"
    assert box.dmp.published == []


def test_an_arrival_that_changes_nothing_lets_the_lot_go(box: Any) -> None:
    box.bring()
    box.reconciling.run_due()
    second = ReportSpec(document_id="1.2.250.1.999.7.9.2")
    box.reception.document(Arrival(make_cda(second), "http", "test", box.now))
    box.work()
    assert "SUPERSEDED" not in box.events()
    assert box.exam()["manifest"]["status"] == "published"


def test_what_arrives_after_a_lot_was_prepared_is_judged_before_it_leaves(box: Any) -> None:
    """The lot is ready, then a report names another patient: the publisher waits, the lot is dropped."""
    box.bring()
    box.reconciling.run_due()
    other = ReportSpec(document_id="1.2.250.1.999.7.9.2", ins="162018885045327")
    box.reception.document(Arrival(make_cda(other), "http", "test", box.now))
    assert box.publishing.run_due() == 0
    box.work()
    assert box.dmp.published == []
    assert "SUPERSEDED" in box.events()
    assert box.exam()["manifest"]["status"] == "none"


def test_the_clock_may_jump_back(box: Any) -> None:
    """A clock set back delays, and never publishes twice."""
    box.bring()
    box.reconciling.run_due()
    box.later(-7200)
    box.work()
    box.later(7200 + 120)
    box.work()
    assert box.exam()["manifest"]["status"] == "published"
    assert len(box.dmp.published) == 1
