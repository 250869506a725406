"""`drimbox archive`: export, import, purge on real stores: bit for bit, lot by lot, and what stays after a purge."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from dicom_store.study import InstanceRef, SeriesSnapshot, StudySnapshot
from drimbox.adapters.serving_queries import Standings
from drimbox.adapters.signing import RsaSigner
from drimbox.bootstrap import Foundation, lay_foundation
from drimbox.domain.access import check_standing
from drimbox.domain.cda import read_cda
from drimbox.domain.errors import AccessRefused, Damaged
from drimbox.domain.kos import build_manifest, encode_manifest, requests_for
from drimbox.domain.lifecycle import Event, SubmissionState
from drimbox.domain.vihf import VihfIdentity
from drimbox.domain.xds.publication import (
    FrozenLot,
    ManifestFacts,
    Publication,
    Publisher,
    freeze_publication,
)
from drimbox.entrypoints import archive_cli
from drimbox.entrypoints.archive_cli import archive_app
from drimbox.flow import exams, trace
from drimbox.flow.receive_report import Arrival, Reception
from drimbox.flow.records import Submission
from drimbox.settings.whole import load_settings
from fixtures.archives import DELETED, DEPRECATED, LotSpec, make_archive, write_tree, write_zip
from fixtures.certificates import make_authority, make_leaf
from fixtures.configuration import configuration
from fixtures.newest_database import bring_to_newest
from fixtures.reports import ReportSpec, make_cda

STUDY = LotSpec().study
SIGNER = make_leaf(make_authority(), organizational_unit="1999999999")
PUBLISHER = Publisher("CENTRE", "1999999999", "BOX-1", "DRIMBox", "1.2.250.1.999.7")
NOW = datetime(2026, 10, 1, 12, 0, 0, 250_000, tzinfo=UTC)


class Box:
    """One appliance's stores, and the command line on them."""

    def __init__(self, root: Path) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self.config = root / "drimbox.toml"
        self.config.write_text(configuration(root), "utf-8")
        self.foundation: Foundation = lay_foundation(load_settings(self.config))
        bring_to_newest(self.foundation.database)
        self.count = 0

    def run(self, *arguments: object, status: int | None = 0) -> Result:
        command = [str(argument) for argument in arguments]
        done = CliRunner().invoke(archive_app, [*command, "--config", str(self.config)])
        assert status in (None, done.exit_code), done.output + repr(done.exception)
        return done

    def json(self, *arguments: object, status: int = 0) -> dict[str, Any]:
        return dict(json.loads(self.run(*arguments, "--json", status=status).stdout))

    def new_id(self) -> str:
        self.count += 1
        return f"id-{self.count}"

    def report(self) -> str:
        reception = Reception(
            self.foundation.transactions, self.foundation.documents, "Europe/Paris", self.new_id, lambda: "A"
        )
        return reception.document(Arrival(make_cda(), "http", "test", NOW)).report_id

    def publish(
        self, lot: FrozenLot, report: str, at: datetime, *events: Event, entry: str | None = None
    ) -> str:
        """A lot that the product made, in its state after `events`."""
        documents = self.foundation.documents
        row = Submission(
            id=self.new_id(), study_instance_uid=STUDY, kind="publish", content_key="k", kos_uid=lot.kos_uid,
            submission_set_uid=lot.submission_set_uid, signature_uid=lot.signature_uid, kos=documents.put(lot.kos),
            signature=documents.put(lot.signature), request=documents.put(lot.submit_objects_request),
            vihf=lot.vihf.to_json(), report_id=report, patient_ins=lot.patient.value, patient_oid=lot.patient.oid,
            revision=0, created_at=at, since=at, entry_uuid=entry,
        )  # fmt: skip
        with self.foundation.transactions.writing() as transaction:
            transaction.ledger.exam_for_update(STUDY, at)
            transaction.ledger.add(row)
            for event in (Event.CLAIMED, *events):
                answer = documents.put(f"answer {event} {row.id}".encode())
                trace.move_submission(transaction, row, event, at=at, actor="test", answer=answer)
            transaction.commit()
        return row.id

    def rows(self, study: str = STUDY) -> list[Submission]:
        with self.foundation.transactions.reading() as transaction:
            return list(transaction.ledger.submissions_of(study))

    def events(self, study: str = STUDY) -> list[str]:
        return [entry["event"] for entry in exams.trace_exam(self.foundation.transactions, study)]


def product_lot(number: int, at: datetime, replaces: str | None = None) -> FrozenLot:
    report = read_cda(make_cda(), time_zone="Europe/Paris").report
    assert report is not None
    instances = tuple(
        InstanceRef(f"{STUDY}.1.{n}", "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1", n)
        for n in range(1, number + 2)
    )
    series = SeriesSnapshot(f"{STUDY}.1", "CT", 1, "Serie", "", instances)
    images = StudySnapshot(
        STUDY, "20260914", "083000", "Scanner", ("ACN901",), ("IPP901",), ("19790328",), (series,)
    )
    kos_uid = f"2.25.{number}01"
    dataset = build_manifest(
        images, report, requests=requests_for(report, images.AccessionNumbers),
        retrieve_base="https://db.example.fr/dicom-web-rs", manufacturer="DRIMBox", institution=None,
        sop_instance_uid=kos_uid, series_instance_uid=f"2.25.{number}02", now=at, time_zone="Europe/Paris",
    )  # fmt: skip
    publication = Publication(
        report, STUDY, encode_manifest(dataset), ManifestFacts(kos_uid, at, ("CT",)), PUBLISHER,
        f"1.2.250.1.999.7.{number}", f"2.25.{number}03", local_patient_id=report.patient.local_ids[0],
        replaces=replaces,
    )  # fmt: skip
    return freeze_publication(publication, signer=RsaSigner(SIGNER.key, SIGNER.certificate), now=at)


def entry_uuid(number: int) -> str:
    return f"urn:uuid:3d188b5d-0446-468b-a750-{number:012}"


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    box = Box(tmp_path / "box")
    yield box
    box.foundation.database.close()


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Box]:
    box = Box(tmp_path / "other")
    yield box
    box.foundation.database.close()


def fill(box: Box) -> None:
    """Three versions: replaced in the summer, published then withdrawn in the autumn, published again."""
    report = box.report()
    summer, autumn = NOW - timedelta(days=40), NOW
    fates: list[tuple[datetime, str | None, tuple[Event, ...]]] = [
        (summer, None, (Event.REGISTERED, Event.REPLACED)),
        (autumn, entry_uuid(1), (Event.REGISTERED, Event.WITHDRAWN)),
        (autumn + timedelta(milliseconds=3), None, (Event.REGISTERED,)),
    ]
    for number, (at, replaces, events) in enumerate(fates, 1):
        box.publish(product_lot(number, at, replaces), report, at, *events, entry=entry_uuid(number))


def tree(directory: Path) -> dict[str, bytes]:
    return {p.relative_to(directory).as_posix(): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


# -- export, import, export


@pytest.mark.parametrize("packed", [False, True])
def test_our_export_comes_back_bit_for_bit(box: Box, other: Box, tmp_path: Path, packed: bool) -> None:
    fill(box)
    box.run("export", tmp_path / "one")
    first = tree(tmp_path / "one")
    assert {name.split("/")[0] for name in first} == {"KA202608", "KA202610"}
    assert len(first) == 2 * 2 + 3 * 4
    source = write_zip(tmp_path / "one.zip", first) if packed else tmp_path / "one"
    done = other.json("import", source)
    assert [lot["verdict"] for lot in done["lots"]] == ["imported"] * 3
    assert [lot["reasons"] for lot in done["lots"]] == [[]] * 3
    other.run("export", tmp_path / "two")
    assert tree(tmp_path / "two") == first
    states = [(row.state, row.origin, row.entry_uuid) for row in other.rows()]
    assert states == [
        ("DEPRECATED", "imported", entry_uuid(1)),
        ("WITHDRAWN", "imported", entry_uuid(2)),
        ("REGISTERED", "imported", None),
    ]
    assert [row.replaces_id for row in other.rows()] == [None, other.rows()[0].id, None]


def test_what_is_ours_already_stays_as_it_is(box: Box, tmp_path: Path) -> None:
    fill(box)
    box.run("export", tmp_path / "one")
    before = [(row.id, row.state, row.since) for row in box.rows()], box.events()
    done = box.json("import", tmp_path / "one")
    assert (done["already_there"], done["imported"], done["refused"]) == (3, 0, 0)
    assert ([(row.id, row.state, row.since) for row in box.rows()], box.events()) == before


def test_one_study_alone_is_exported_and_nothing_over_it(box: Box, tmp_path: Path) -> None:
    fill(box)
    assert "3 submissions" in box.run("export", tmp_path / "one", "--study", STUDY).stdout
    assert "exists" in box.run("export", tmp_path / "one", status=1).stderr
    assert (
        "nothing was published of 1.2.3"
        in box.run("export", tmp_path / "x", "--study", "1.2.3", status=1).stderr
    )


def test_an_unpublication_is_no_lot_of_the_archive(box: Box, tmp_path: Path) -> None:
    fill(box)
    with box.foundation.transactions.writing() as transaction:
        live = transaction.ledger.submissions_of(STUDY)[-1]
        order = replace(live, id="order", kind="unpublish", kos=None, kos_uid=None, signature=None,
                        submission_set_uid="1.2.9", report_id=None)  # fmt: skip
        transaction.ledger.add(order)
        transaction.commit()
    assert box.json("export", tmp_path / "one")["files"]


# -- import


def test_an_imported_lot_waits_to_be_identified(box: Box, tmp_path: Path) -> None:
    box.json("import", write_tree(tmp_path / "a", make_archive([LotSpec()])))
    (row,) = box.rows()
    assert (row.state, row.origin, row.kind, row.entry_uuid, row.attempts) == (
        SubmissionState.REGISTERED, "imported", "publish", None, 0,
    )  # fmt: skip
    assert VihfIdentity.from_json(row.vihf).name_id == "899900000019"
    with box.foundation.transactions.reading() as transaction:
        claimed = transaction.ledger.claimable(datetime.now(UTC))
        exam = transaction.ledger.exam(STUDY)
    assert claimed is not None
    assert claimed.id == row.id, "the publisher looks it up by TD3.1b"
    assert exam is not None
    assert exam.state == "SETTLED"
    assert exam.reconcile_at is not None
    assert box.events() == ["STUDY_QUIET", "IMPORTED"]
    assert LotSpec().ins not in json.dumps(exams.trace_exam(box.foundation.transactions, STUDY))


def test_a_report_that_is_known_is_linked(box: Box, tmp_path: Path) -> None:
    known = box.report()
    assert ReportSpec().document_id + ";" == LotSpec().report
    box.json("import", write_tree(tmp_path / "a", make_archive([LotSpec()])))
    assert box.rows()[0].report_id == known


def test_one_bad_lot_does_not_stop_the_others(box: Box, tmp_path: Path) -> None:
    good = [LotSpec(number=n, study=f"1.2.3.{n}") for n in (1, 2, 3)]
    files = make_archive(good)
    files["KA202609/IHE_XDM/SS000002/KOS_1_1.DCM"] += b"\0\0"
    done = box.json("import", write_zip(tmp_path / "a.zip", files), status=1)
    assert [lot["verdict"] for lot in done["lots"]] == ["imported", "refused", "imported"]
    assert {reason["rule"] for reason in done["lots"][1]["reasons"]} >= {"kos-digest", "signature-content"}
    assert all(reason["clause"] for reason in done["lots"][1]["reasons"])
    assert [len(box.rows(spec.study)) for spec in good] == [1, 0, 1]
    files = make_archive(good)
    again = box.json("import", write_zip(tmp_path / "b.zip", files))
    assert [lot["verdict"] for lot in again["lots"]] == ["already-there", "imported", "already-there"]


def test_a_dry_run_says_and_writes_nothing(box: Box, tmp_path: Path) -> None:
    source = write_tree(tmp_path / "a", make_archive([LotSpec()]))
    done = box.json("import", source, "--dry-run")
    assert (done["dry_run"], done["imported"]) == (True, 1)
    assert box.rows() == []
    assert not (tmp_path / "box" / "storage" / "documents").exists()
    text = box.run("import", source, "--dry-run").stdout
    assert "would be: 1 imported" in text


def test_what_is_known_with_other_bytes_is_refused(box: Box, tmp_path: Path) -> None:
    box.json("import", write_tree(tmp_path / "a", make_archive([LotSpec()])))
    changed = make_archive([replace(LotSpec(), created=NOW)])
    done = box.json("import", write_tree(tmp_path / "b", changed), status=1)
    assert [reason["rule"] for reason in done["lots"][0]["reasons"]] == ["known-differently"]


def test_a_submission_set_of_another_manifest_is_refused(box: Box, tmp_path: Path) -> None:
    class SameSet(LotSpec):
        @property
        def set_uid(self) -> str:
            return LotSpec(number=1).set_uid

    box.json("import", write_tree(tmp_path / "a", make_archive([LotSpec()])))
    done = box.json("import", write_tree(tmp_path / "b", make_archive([SameSet(number=2)])), status=1)
    assert [reason["rule"] for reason in done["lots"][0]["reasons"]] == ["submission-set"]


def test_another_patient_s_manifest_of_a_published_exam_is_refused(box: Box, tmp_path: Path) -> None:
    stranger = LotSpec(number=2, ins="162018885045327")
    box.json("import", write_tree(tmp_path / "a", make_archive([LotSpec()])))
    done = box.json("import", write_tree(tmp_path / "b", make_archive([stranger])), status=1)
    assert [reason["rule"] for reason in done["lots"][0]["reasons"]] == ["other-patient"]
    withdrawn = make_archive([replace(stranger, status=DELETED)])
    assert box.json("import", write_tree(tmp_path / "c", withdrawn))["imported"] == 1


def test_an_exam_with_a_lot_in_flight_is_left_alone(box: Box, tmp_path: Path) -> None:
    box.publish(product_lot(1, NOW), box.report(), NOW, Event.NO_ANSWER)
    done = box.json("import", write_tree(tmp_path / "a", make_archive([LotSpec()])), status=1)
    assert [reason["rule"] for reason in done["lots"][0]["reasons"]] == ["in-flight"]


def test_what_is_prepared_is_judged_again_before_it_leaves(box: Box, tmp_path: Path) -> None:
    lot = box.publish(product_lot(1, NOW), box.report(), NOW, Event.NOT_SENT)
    with box.foundation.transactions.writing() as transaction:
        row, exam = transaction.ledger.submission(lot), transaction.ledger.exam(STUDY)
        assert row is not None
        assert exam is not None
        row.due_at, row.revision = NOW, exam.revision
        transaction.commit()
    box.json("import", write_tree(tmp_path / "a", make_archive([LotSpec()])))
    with box.foundation.transactions.reading() as transaction:
        claimed = transaction.ledger.claimable(datetime.now(UTC))
    assert claimed is not None
    assert claimed.origin == "imported"


def test_a_newer_archive_ends_the_manifest_that_it_replaced(box: Box, tmp_path: Path) -> None:
    old = box.publish(product_lot(1, NOW), box.report(), NOW, Event.REGISTERED, entry=entry_uuid(1))
    newer = LotSpec(number=2, replaces=entry_uuid(1), created=NOW + timedelta(days=1))
    box.json("import", write_tree(tmp_path / "a", make_archive([newer])))
    first, second = box.rows()
    assert (first.id, first.state) == (old, "DEPRECATED")
    assert (second.state, second.kind, second.replaces_id, second.target_entry) == (
        "REGISTERED", "replace", old, entry_uuid(1),
    )  # fmt: skip


def test_another_structure_is_said(box: Box, tmp_path: Path) -> None:
    source = write_tree(tmp_path / "a", make_archive([LotSpec(structure="1888888888")]))
    assert [r["rule"] for r in box.json("import", source)["lots"][0]["reasons"]] == ["structure"]


def test_hostile_or_empty_archives_say_why(box: Box, tmp_path: Path) -> None:
    hostile = write_zip(tmp_path / "a.zip", make_archive([LotSpec()]) | {"../../etc/passwd": b"x"})
    assert "leads out of the archive" in box.run("import", hostile, status=1).stderr
    assert box.rows() == []
    (tmp_path / "empty").mkdir()
    assert "no lot" in box.run("import", tmp_path / "empty", status=1).stderr
    assert "neither" in box.run("import", tmp_path / "absent", status=1).stderr


def test_progress_goes_to_stderr(box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_cli, "PROGRESS_SECONDS", -1.0)
    done = box.run("import", write_tree(tmp_path / "a", make_archive([LotSpec()])))
    assert "1 lots read: 1 imported, 0 already there, 0 refused" in done.stderr
    assert "imported  KA202609/IHE_XDM/SS000001" in done.stdout


# -- purge


def ended(box: Box, days: int) -> None:
    """The lots ended so many days ago."""
    with box.foundation.transactions.writing() as transaction:
        for row in transaction.ledger.submissions_of(STUDY):
            row.since = datetime.now(UTC) - timedelta(days=days)
        transaction.commit()


def kept(box: Box) -> set[str]:
    return {
        path.name
        for path in (box.foundation.settings.storage.root / "documents").rglob("*")
        if path.is_file()
    }


def test_documents_of_ended_lots_go_and_everything_else_stays(box: Box, tmp_path: Path) -> None:
    fill(box)
    ended(box, 31)
    replaced, withdrawn, live = box.rows()
    before, events = kept(box), box.events()
    assert box.json("purge", "--older-than", 40)["lots"] == []
    planned = box.json("purge", "--older-than", 30, "--dry-run")
    assert kept(box) == before
    done = box.json("purge", "--older-than", 30)
    assert done["lots"] == planned["lots"]
    assert [lot["submission_id"] for lot in done["lots"]] == [replaced.id, withdrawn.id]
    gone = {digest for lot in done["lots"] for digest in lot["deleted"]}
    assert kept(box) == before - gone
    assert {replaced.kos, replaced.signature, replaced.request, withdrawn.kos} <= gone
    assert len(gone) == 2 * (3 + 3), "three documents and three answers each"
    assert {live.kos, live.signature, live.request} <= kept(box)
    assert [row.state for row in box.rows()] == ["DEPRECATED", "WITHDRAWN", "REGISTERED"]
    assert box.events() == [*events, "PURGED", "PURGED"]
    assert box.json("purge", "--older-than", 0)["lots"] == [], "only once"
    assert (
        len(
            exams.show_exam(box.foundation.transactions, box.foundation.documents, STUDY, "Europe/Paris")[
                "history"
            ]
        )
        == 3
    )
    box.run("export", tmp_path / "one")
    assert [name for name in tree(tmp_path / "one") if name.endswith(".DCM")] == [
        "KA202610/IHE_XDM/SS000001/KOS_1_1.DCM"
    ]


def test_the_public_door_answers_precisely_after_a_purge(box: Box) -> None:
    fill(box)
    ended(box, 31)
    box.run("purge", "--older-than", 30)
    standings = Standings(box.foundation.database)
    slugs = []
    for row in box.rows()[:2]:
        assert row.kos is not None
        with pytest.raises(Damaged):
            box.foundation.documents.get(row.kos)
        with pytest.raises(AccessRefused) as caught:
            check_standing(STUDY, standings([row.kos_uid or ""]).get(row.kos_uid or ""), NOW, timedelta())
        slugs.append((caught.value.code, caught.value.status))
    standings.close()
    assert slugs == [("kos-replaced", 404), ("kos-unpublished", 410)]


def test_a_document_that_another_row_names_is_kept(box: Box) -> None:
    fill(box)
    replaced, _, live = box.rows()
    shared = box.foundation.documents.put(b"one answer for two")
    with box.foundation.transactions.writing() as transaction:
        for lot in (replaced, live):
            trace.note(
                transaction,
                "LOOKUP_FAILED",
                at=NOW,
                actor="test",
                study=STUDY,
                submission=lot.id,
                answer=shared,
            )
        transaction.commit()
    ended(box, 31)
    done = box.json("purge", "--older-than", 30)
    assert done["lots"][0]["kept"] == [shared]
    assert shared in kept(box)


def test_a_purge_cut_short_is_finished_by_the_next(box: Box) -> None:
    fill(box)
    ended(box, 31)
    assert box.foundation.documents.forget(box.rows()[0].kos or "")
    assert len(box.json("purge", "--older-than", 30)["lots"]) == 2
    assert box.events().count("PURGED") == 2


def test_an_imported_and_purged_lot_is_still_there_already(box: Box, tmp_path: Path) -> None:
    source = write_tree(tmp_path / "a", make_archive([replace(LotSpec(), status=DEPRECATED)]))
    box.json("import", source)
    ended(box, 31)
    assert len(box.json("purge", "--older-than", 30)["lots"][0]["deleted"]) == 4, "CR.TXT too"
    assert box.json("import", source)["already_there"] == 1
    assert kept(box) == set()


def test_nothing_is_purged_unless_the_settings_or_the_operator_say_so(box: Box) -> None:
    fill(box)
    ended(box, 4000)
    done = box.run("purge")
    assert "kept for ever" in done.stderr
    assert "PURGED" not in box.events()
    box.config.write_text(box.config.read_text("utf-8") + "[archive]\nkeep_days = 3650\n", "utf-8")
    assert "2 lots purged" in box.run("purge").stdout
