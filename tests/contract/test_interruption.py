"""Out of the whitelist (trust-and-identity 3.6, ABSENT): manifests wait, withdrawals leave, nothing is lost."""

from __future__ import annotations

from typing import Any

from drimbox.domain.xds.outcome import Exchange, NoAnswer
from drimbox.flow import exams
from fixtures.images import SeriesSpec, StudySpec, study_datasets

STUDY = "1.2.250.1.999.1.901"  # of the default report
SPEC = StudySpec(
    study_instance_uid=STUDY, accession="ACN901", patient_id="IPP901", series=(SeriesSpec("CT", 3),)
)
EXCHANGE = Exchange("urn:uuid:1", 200, "", b"<answer/>")


def test_a_manifest_waits_and_leaves_when_it_ends(box: Any) -> None:
    box.in_the_mesh = False
    box.bring()
    box.later(86_400)
    box.work()
    assert box.dmp.published == []
    assert (box.exam()["manifest"]["status"], box.exam()["instances"]) == ("prepared", 2)
    box.in_the_mesh = True
    box.work()
    assert len(box.dmp.published) == 1
    assert box.exam()["manifest"]["status"] == "published"


def test_images_and_reports_are_still_received(box: Any) -> None:
    box.bring()
    box.work()
    box.in_the_mesh = False
    box.image(list(study_datasets(SPEC))[2])
    box.later(61)
    box.work()
    assert (box.exam()["instances"], len(box.dmp.published)) == (3, 1)
    box.in_the_mesh = True
    box.work()
    assert len(box.dmp.published) == 2


def test_a_withdrawal_leaves_all_the_same(box: Any) -> None:
    box.bring()
    box.work()
    box.in_the_mesh = False
    exams.withdraw_exam(box.transactions, STUDY, now=box.now, actor="operator", reason="asked")
    box.work()
    assert len(box.dmp.withdrawn) == 1
    assert box.exam()["manifest"]["status"] == "unpublished"


def test_a_doubt_is_settled_all_the_same(box: Any) -> None:
    box.dmp.answers = [NoAnswer(EXCHANGE, "silence")]
    box.bring()
    box.work()
    box.in_the_mesh = False
    box.later(60)
    box.work()
    assert box.exam()["manifest"]["status"] == "published"
    assert len(box.dmp.asked) > 0
