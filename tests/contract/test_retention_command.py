"""`drimbox archive retention` on real stores, on both databases: what goes, what stays, and what happens meanwhile."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from typer.testing import CliRunner

from drimbox.bootstrap import utc_now
from drimbox.entrypoints.cli import app
from drimbox.entrypoints.on_duty import SEGMENTS, make_duties, make_guarded_retaining
from drimbox.entrypoints.retention_cli import make_retaining
from drimbox.flow.records import Commitment, ReceivedReport, ReportStudy, Submission
from drimbox.flow.retention import Retaining
from drimbox.settings.room import ConfigurationError
from drimbox.settings.storage import RetentionSettings
from drimbox.settings.whole import parse_settings
from fixtures.configuration import configuration
from fixtures.images import study_datasets
from fixtures.kept_images import KeptImages, exam

DAYS = 30


class Console(KeptImages):
    """The command line on the stores."""

    def run(self, *arguments: object) -> dict[str, Any]:
        command = ["archive", "retention", *map(str, arguments), "--config", str(self.config), "--json"]
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 0, done.output + repr(done.exception)
        return dict(json.loads(done.stdout))

    def rejected(self, number: int, *, days: int = DAYS + 1, rule: str | None = "withdrawn") -> str:
        """An exam that somebody said must not be public, so many days ago."""
        study = self.store_exam(number).study_instance_uid
        at = (utc_now() - timedelta(days=days)).replace(tzinfo=None)
        statement = text(
            "UPDATE exam SET state = 'SETTLED', reconcile_at = NULL, rule = :rule, changed_at = :at,"
            " last_instance_at = :at WHERE study_instance_uid = :study"
        )
        with self.foundation.database.engine.begin() as connection:
            connection.execute(statement, {"study": study, "rule": rule, "at": at})
        return study

    def add(self, *rows: Any) -> None:
        with self.foundation.transactions.writing() as transaction:
            for row in rows:
                transaction.ledger.add(row)
            transaction.commit()

    def lot(self, study: str, state: str, *, days: int = DAYS + 1) -> None:
        then = utc_now() - timedelta(days=days)
        self.add(
            Submission(
                f"lot-{study}"[:36], study, "publish", "key", f"{study}.1", "r", "{}", "ins", "oid",
                self.revision(study), then, then, state=state, kos_uid=f"{study}.2", entry_uuid="urn:uuid:1",
            )
        )  # fmt: skip

    def retaining(self) -> Retaining:
        return make_retaining(self.foundation, "worker:test", DAYS)


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Console]:
    made = Console(tmp_path)
    yield made
    made.close()


@pytest.fixture
def on_each_engine(tmp_path: Path, newest_url: str) -> Iterator[Console]:
    made = Console(tmp_path, newest_url)
    yield made
    made.close()


def test_what_goes_and_what_stays(on_each_engine: Console) -> None:
    box = on_each_engine
    gone = [box.rejected(1), box.rejected(2, rule="all-rejected")]
    published, awaited, asked, reported = (
        box.rejected(3),
        box.rejected(4, rule="no-report"),
        *map(box.rejected, (5, 6)),
    )
    recent, arriving = box.rejected(7, days=DAYS - 1), box.store_exam(8).study_instance_uid
    box.lot(gone[0], "WITHDRAWN")
    box.lot(published, "REGISTERED")
    sop = box.records(asked)[0]
    now = utc_now()
    box.add(
        Commitment(
            "c1",
            "1.2.9",
            "CT1",
            "key",
            received_at=now,
            due_at=now,
            asked=[[sop.sop_class_uid, sop.sop_instance_uid]],
        ),
        ReceivedReport("r1", "1.2.8", "1.2.8", 1, "NW", "cda", now, "mllp", [], True, "I", {}),
        ReportStudy("r1", reported),
    )
    planned = box.run("--older-than", DAYS, "--dry-run")
    assert [one["study"] for one in planned["exams"]] == sorted(gone)
    assert len(box.on_disk()) == 8
    assert planned["bytes"] == sum(len(file) for study in gone for file in box.files(study).values())
    assert {rule: one["exams"] for rule, one in planned["kept"].items()} == {
        "at-dmp": 1, "awaited": 1, "commitment": 1, "recent": 2, "arriving": 1,
    }  # fmt: skip
    assert box.trace("IMAGES_FORGOTTEN") == []
    done = box.run("--older-than", DAYS)
    assert [(one["study"], one["kept"]) for one in done["exams"]] == [(study, "") for study in sorted(gone)]
    assert done["freed"] > done["bytes"] == planned["bytes"]
    assert [box.files(study) for study in gone] == [{}, {}]
    assert len(box.on_disk()) == 6
    assert all(
        len(box.files(study)) == 4 for study in (published, awaited, asked, reported, recent, arriving)
    )
    rows = box.trace("IMAGES_FORGOTTEN")
    assert sorted((row.study_instance_uid, row.detail["rule"]) for row in rows) == [
        (gone[0], "withdrawn"), (gone[1], "all-rejected"),
    ]  # fmt: skip
    assert box.run("--older-than", DAYS)["exams"] == []


def test_by_default_nothing_goes(box: Console) -> None:
    study = box.rejected(1, days=9000)
    command = ["archive", "retention", "--config", str(box.config)]
    done = CliRunner().invoke(app, command)
    assert (done.exit_code, "kept, for-ever: 1 exams" in done.stdout) == (0, True)
    assert "retention.images_days is 0" in done.stderr
    assert len(box.files(study)) == 4
    with pytest.raises(ConfigurationError, match="automatic needs images_days"):
        parse_settings(configuration(box.config.parent, retention={"automatic": True}))


def test_a_limit_and_what_a_reader_sees(box: Console) -> None:
    for number in (1, 2, 3):
        box.rejected(number)
    planned = box.run("--older-than", DAYS, "--dry-run", "--limit", 2)
    assert (len(planned["exams"]), planned["left_out"]["exams"]) == (2, 1)
    command = ["archive", "retention", "--older-than", str(DAYS), "--config", str(box.config)]
    said = CliRunner().invoke(app, [*command, "--limit", "2"]).stdout
    assert "2 exams forgotten" in said
    assert "beyond --limit" in said
    assert "1 exams of" in CliRunner().invoke(app, [*command, "--dry-run"]).stdout


def _published(box: Console, study: str) -> None:
    box.lot(study, "SENDING", days=0)


def _restored(box: Console, study: str) -> None:
    with box.foundation.database.engine.begin() as connection:
        connection.execute(text("UPDATE exam SET rule = NULL WHERE study_instance_uid = :s"), {"s": study})


def _late_image(box: Console, study: str) -> None:
    box.store(list(study_datasets(exam(1, 5)))[4:])


def _asked(box: Console, study: str) -> None:
    sop, now = box.records(study)[0], utc_now()
    pairs = [[sop.sop_class_uid, sop.sop_instance_uid]]
    box.add(Commitment("c1", "1.2.9", "CT1", "key", received_at=now, due_at=now, asked=pairs))


@pytest.mark.parametrize("change", [_published, _restored, _late_image, _asked])
def test_what_happens_between_the_decision_and_the_deletion_keeps_it(
    on_each_engine: Console, change: Any
) -> None:
    box = on_each_engine
    study, other = box.rejected(1), box.rejected(2)
    retaining = box.retaining()
    plan = retaining.plan()
    assert [one.study for one in plan.going] == [study, other]
    change(box, study)
    first, second = retaining.run(plan)
    assert first.kept
    assert (second.kept, second.instances) == ("", 4)
    assert len(box.files(study)) >= 4
    assert [row.study_instance_uid for row in box.trace("IMAGES_FORGOTTEN")] == [other]


def test_the_worker_does_it_while_it_has_the_duty(box: Console) -> None:
    study = box.rejected(1)
    room = RetentionSettings(images_days=DAYS, automatic=True)
    settings = box.foundation.settings.model_copy(update={"retention": room})
    foundation = replace(box.foundation, settings=settings)
    duties = make_duties(foundation)
    forget = duties.alone(SEGMENTS, make_guarded_retaining(foundation, duties, "worker:test").run_due)
    assert (forget(), len(box.files(study))) == (0, 4)
    duties.keep()
    assert (forget(), box.files(study), box.on_disk()) == (1, {}, [])
    (row,) = box.trace("IMAGES_FORGOTTEN")
    assert (row.actor, row.detail["rule"]) == ("worker:test", "withdrawn")


def test_two_workers_and_a_crash(box: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    box.rejected(1)
    first, plan = box.retaining(), box.retaining().plan()
    monkeypatch.setattr("drimbox.adapters.storage_queries.StorageQueries.drop", lambda *_: 0)
    assert first.run_due() == 1
    monkeypatch.undo()
    assert list(box.retaining().run(plan)) == [], "the other one was faster"
    assert len(box.on_disk()) == 1, "cut short between rows and bytes"
    assert box.run("--older-than", DAYS)["freed"] > 0
    assert box.on_disk() == []
