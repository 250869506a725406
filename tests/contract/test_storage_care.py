"""`drimbox verify`, `archive instance | compact | forget` on real stores, and what their trace says."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from sqlalchemy import text
from typer.testing import CliRunner

from dicom_store.paths import study_directory
from dicom_store.segment_record import HEADER
from dicom_store.sink import StoreCommand
from dicom_store.verification import Pace
from drimbox.adapters.progress_file import AlreadyRunning, ProgressFile
from drimbox.entrypoints import verify_cli
from drimbox.entrypoints.cli import app
from drimbox.entrypoints.intake import InstanceIntake
from drimbox.entrypoints.segment_keeping import make_compacting
from drimbox.flow.forget_images import StillPublic, forget_images
from drimbox.flow.records import Submission
from fixtures.images import study_datasets
from fixtures.kept_images import PEER, KeptImages, data_set_of, exam
from fixtures.notes import note_dataset

NOW = datetime(2026, 10, 1, 12, 0, tzinfo=UTC)


class Console(KeptImages):
    """The command line on the stores."""

    def run(self, *arguments: object, status: int = 0) -> Result:
        command = [*map(str, arguments), "--config", str(self.config)]
        done = CliRunner().invoke(app, command)
        assert done.exit_code == status, done.output + repr(done.exception)
        return done

    def json(self, *arguments: object, status: int = 0) -> dict[str, Any]:
        return dict(json.loads(self.run(*arguments, "--json", status=status).stdout))

    def path(self, segment: str) -> Path:
        return self.segments / segment

    def lot(self, study: str, state: str, **changes: Any) -> None:
        """A submission of the exam, in that state."""
        made = Submission(
            "lot-1", study, "publish", "key", "1.2.3", "r", "{}", "ins", "oid", self.revision(study), NOW, NOW,
            state=state, kos_uid="1.2.4", entry_uuid="urn:uuid:1",
        )  # fmt: skip
        with self.foundation.transactions.writing() as transaction:
            transaction.ledger.add(replace(made, **changes))
            transaction.commit()

    def age_rejections(self) -> None:
        """What was rejected was so long ago."""
        with self.foundation.database.engine.begin() as connection:
            connection.execute(
                text(
                    "UPDATE dicom_instance SET rejected_at = '2020-01-01T00:00:00.000000Z' WHERE rejected_at > ''"
                )
            )


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Console]:
    made = Console(tmp_path / "box")
    yield made
    made.close()


@pytest.fixture
def on_each_engine(tmp_path: Path, newest_url: str) -> Iterator[Console]:
    made = Console(tmp_path / "box", newest_url)
    yield made
    made.close()


def spoil(path: Path, position: int) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        before = file.read(1)
        file.seek(position)
        file.write(bytes([before[0] ^ 0xFF]))


# --- verify ------------------------------------------------------------------------------------------------


def test_everything_is_as_it_was_received(on_each_engine: Console) -> None:
    box = on_each_engine
    for number in (1, 2, 3):
        box.store_exam(number)
    found = box.json("verify")
    assert (found["studies"], found["records"], found["whole"]) == (3, 12, True)
    assert found["counts"] == {"missing": 0, "damaged": 0, "orphaned": 0}
    assert found["bytes"] == sum(
        one.length + (one.metadata_length or 0)
        for number in (1, 2, 3)
        for one in box.records(exam(number).study_instance_uid)
    )
    (row,) = box.trace("STORAGE_VERIFIED")
    assert (row.actor, row.detail["records"], row.detail["damaged"]) == ("operator", 12, 0)
    assert not (box.segments.parent.parent / "verify.json").exists()


Break = Callable[[Console, Any], None]


def _payload(box: Console, one: Any) -> None:
    spoil(box.path(one.segment), one.offset + one.length // 2)


def _header_digest(box: Console, one: Any) -> None:
    spoil(box.path(one.segment), one.start + 20)


def _magic(box: Console, one: Any) -> None:
    spoil(box.path(one.segment), one.start)


def _json(box: Console, one: Any) -> None:
    spoil(box.path(one.segment), one.end - 1)


def _index(box: Console, one: Any) -> None:
    """The bytes agree with the header of their record, and are not those of the index."""
    with box.foundation.database.engine.begin() as connection:
        connection.execute(
            text("UPDATE dicom_instance SET payload_sha256 = :other WHERE sop_instance_uid = :uid"),
            {"other": "0" * 64, "uid": one.sop_instance_uid},
        )


@pytest.mark.parametrize("broken", [_payload, _header_digest, _magic, _json, _index])
def test_every_kind_of_damage_is_found_and_named(box: Console, broken: Break) -> None:
    study = box.store_exam().study_instance_uid
    box.store_exam(2)
    one = box.records(study)[2]
    broken(box, one)
    found = box.json("verify", status=1)
    assert found["counts"]["damaged"] == 1
    (finding,) = found["findings"]
    assert (finding["kind"], finding["study"], finding["sop_instance_uid"]) == (
        "damaged",
        study,
        one.sop_instance_uid,
    )
    (row,) = box.trace("STORAGE_DAMAGED")
    assert (row.study_instance_uid, row.detail["instances"]) == (study, [one.sop_instance_uid])
    said = box.run("verify", "--study", study, status=1).stdout
    assert one.sop_instance_uid in said
    assert one.segment in said


def test_a_segment_that_is_gone_is_missing(box: Console) -> None:
    study = box.store_exam().study_instance_uid
    (name,) = box.on_disk()
    box.path(name).unlink()
    found = box.json("verify", status=1)
    assert found["counts"] == {"missing": 4, "damaged": 0, "orphaned": 0}
    assert {one["reason"] for one in found["findings"]} == {"the segment is missing"}
    assert box.trace("STORAGE_DAMAGED")[0].study_instance_uid == study


def test_a_segment_cut_short(box: Console) -> None:
    study = box.store_exam().study_instance_uid
    last = box.records(study)[-1]
    os.truncate(box.path(last.segment), last.offset + 10)
    found = box.json("verify", status=1)
    assert {one["sop_instance_uid"] for one in found["findings"]} == {last.sop_instance_uid}


def test_orphans_are_told_and_are_no_loss(box: Console) -> None:
    study = box.store_exam().study_instance_uid
    (name,) = box.on_disk()
    content = box.path(name).read_bytes()
    (box.path(name).parent / "00112233.seg").write_bytes(content)
    stranger = box.segments / "ab" / "cd" / "1.2.9"
    stranger.mkdir(parents=True)
    (stranger / "x.seg").write_bytes(content)
    with box.path(name).open("ab") as file:
        file.write(content[:100])
    found = box.json("verify")
    kinds = sorted((one["kind"], one["length"]) for one in found["findings"])
    assert kinds == [("orphaned", 100), ("orphaned", len(content))]
    assert found["whole"] is True
    assert study in {one["study"] for one in found["findings"]}


def test_a_directory_of_an_unknown_study_is_an_orphan(box: Console) -> None:
    spec = box.store_exam()
    with box.foundation.transactions.writing() as transaction:
        transaction.storage.forget(spec.study_instance_uid)
        transaction.commit()
    assert box.json("verify")["counts"]["orphaned"] == 0, "it is known to wait for its end"
    stray = box.segments / str(study_directory("1.2.9")) / "00.seg"
    stray.parent.mkdir(parents=True)
    stray.write_bytes(b"x" * 10)
    found = box.json("verify")
    assert (found["records"], found["counts"]["orphaned"]) == (0, 1)
    assert box.json("archive", "compact")["swept"] == 10
    assert box.on_disk() == []


def test_an_unknown_study_and_what_is_no_uid(box: Console) -> None:
    assert box.json("verify", "--study", "1.2.9")["records"] == 0
    assert "not a UID" in box.run("verify", "--study", "../../etc", status=1).stderr


class _Cut(Exception):
    """The power is gone."""


def test_a_run_that_was_cut_short_goes_on_where_it_was(box: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    studies = [box.store_exam(number).study_instance_uid for number in range(1, 7)]
    spoil(box.path(box.records(studies[0])[0].segment), box.records(studies[0])[0].offset + 5)
    checked: list[str] = []
    real = verify_cli.Verifier.check

    def check(self: Any, study: str, *rest: Any) -> Any:
        if len(checked) == 3:
            raise _Cut
        checked.append(study)
        return real(self, study, *rest)

    monkeypatch.setattr(verify_cli.Verifier, "check", check)
    done = CliRunner().invoke(app, ["verify", "--config", str(box.config)])
    assert isinstance(done.exception, _Cut)
    assert len(checked) == 3
    monkeypatch.setattr(verify_cli.Verifier, "check", real)
    found = box.json("verify", status=1)
    assert (found["studies"], found["records"], found["counts"]["damaged"]) == (6, 24, 1)
    assert len(found["findings"]) == 1, "what the first half found is told at the end"
    assert len(box.trace("STORAGE_DAMAGED")) == 1
    assert box.json("verify", "--restart", status=1)["studies"] == 6


def test_two_runs_at_once(box: Console, tmp_path: Path) -> None:
    with ProgressFile(box.foundation.settings.storage.root / "verify.json"):
        assert "another process is at it" in box.run("verify", status=1).stderr
    with ProgressFile(tmp_path / "x.json"), pytest.raises(AlreadyRunning):
        ProgressFile(tmp_path / "x.json").__enter__()
    box.run("verify")


def test_a_progress_file_that_cannot_be_read_begins_anew(box: Console) -> None:
    box.store_exam()
    (box.foundation.settings.storage.root / "verify.json").write_text("{")
    assert box.json("verify")["studies"] == 1


def test_the_pace_is_kept() -> None:
    clock, slept = [0.0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        clock[0] += seconds

    pace = Pace(1000, lambda: clock[0], sleep)
    for _ in range(4):
        pace(500)
    assert clock[0] == pytest.approx(2.0)
    clock[0] += 100  # idle time is no credit
    pace(1000)
    assert slept[-1] == pytest.approx(1.0)
    Pace(0, lambda: clock[0], sleep)(10**12)
    assert clock[0] == pytest.approx(103.0)


def test_what_is_being_written_is_not_an_orphan(box: Console) -> None:
    import fcntl

    box.store_exam()
    (name,) = box.on_disk()
    stray = box.path(name).parent / "00.seg"
    stray.write_bytes(b"x" * 10)
    with stray.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert box.json("verify")["counts"]["orphaned"] == 0
    assert box.json("verify")["counts"]["orphaned"] == 1


# --- archive instance --------------------------------------------------------------------------------------


def test_an_instance_goes_to_a_file_proven_and_traced(box: Console, tmp_path: Path) -> None:
    study = box.store_exam().study_instance_uid
    uid, content = next(iter(box.files(study).items()))
    out = tmp_path / "one.dcm"
    box.run("archive", "instance", uid, "--out", out)
    assert out.read_bytes() == content
    assert out.stat().st_mode & 0o777 == 0o600
    (row,) = box.trace("INSTANCE_EXPORTED")
    assert (row.study_instance_uid, row.detail["sop"], row.actor) == (study, uid, "operator")
    assert "nothing was written" in box.run("archive", "instance", uid, "--out", out, status=1).stderr
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_an_instance_goes_to_a_pipe(box: Console) -> None:
    study = box.store_exam().study_instance_uid
    uid, content = next(iter(box.files(study).items()))
    command = [sys.executable, "-m", "drimbox", "archive", "instance", uid, "--config", str(box.config)]
    done = subprocess.run(command, capture_output=True, timeout=60, check=True)
    assert done.stdout == content


def test_a_spoilt_instance_does_not_leave(box: Console, tmp_path: Path) -> None:
    one = box.records(box.store_exam().study_instance_uid)[0]
    spoil(box.path(one.segment), one.offset + 200)
    said = box.run("archive", "instance", one.sop_instance_uid, "--out", tmp_path / "x", status=1).stderr
    assert "damaged or missing" in said
    assert not (tmp_path / "x").exists()
    assert box.trace("INSTANCE_EXPORTED") == []


def test_an_unknown_instance(box: Console, tmp_path: Path) -> None:
    assert "no instance" in box.run("archive", "instance", "1.2.9", "--out", tmp_path / "x", status=1).stderr
    assert "not a UID" in box.run("archive", "instance", "x", "--out", tmp_path / "x", status=1).stderr


# --- archive compact ---------------------------------------------------------------------------------------


def rejected_exam(box: Console, code: str = "113001") -> str:
    """A settled exam of four instances, two of them rejected long ago."""
    spec = box.store_exam()
    box.store([note_dataset(spec, code, [(1, 1), (1, 2)])])
    box.age_rejections()
    box.settle(spec.study_instance_uid)
    return spec.study_instance_uid


def test_a_settled_exam_is_compacted(on_each_engine: Console) -> None:
    box = on_each_engine
    study = rejected_exam(box)
    before, files = box.revision(study), box.files(study)
    (planned,) = box.json("archive", "compact", "--share", 0.4, "--rejected-keep", 30, "--dry-run")[
        "segments"
    ]
    assert (planned["study"], planned["purged"], planned["trouble"]) == (study, 2, "")
    assert box.files(study) == files
    (done,) = box.json("archive", "compact", "--share", 0.4, "--rejected-keep", 30)["segments"]
    assert (done["freed"], done["purged"]) == (planned["freed"], 2)
    left = box.files(study)
    assert len(left) == 3
    assert left == {uid: files[uid] for uid in left}
    assert box.revision(study) == before + 1, "whoever remembers places asks again"
    (row,) = box.trace("SEGMENT_COMPACTED")
    assert (row.study_instance_uid, row.detail["moved"], row.detail["count"]) == (study, 2, 2)
    assert set(row.detail["purged"]) == set(files) - set(left)
    assert box.json("verify")["counts"] == {"missing": 0, "damaged": 0, "orphaned": 0}
    assert box.json("archive", "compact", "--share", 0.4, "--rejected-keep", 30)["segments"] == []


@pytest.mark.parametrize(
    ("why", "change"),
    [
        ("still receiving", "UPDATE exam SET state = 'RECEIVING'"),
        ("to be judged", "UPDATE exam SET reconcile_at = '2020-01-01 00:00:00'"),
        (
            "rejected lately",
            "UPDATE dicom_instance SET rejected_at = '2099-01-01T00:00:00.000000Z' WHERE rejected_at > ''",
        ),
    ],
)
def test_what_is_not_compacted(box: Console, why: str, change: str) -> None:
    study = rejected_exam(box)
    with box.foundation.database.engine.begin() as connection:
        connection.execute(text(change))
    assert box.json("archive", "compact", "--share", 0.1, "--rejected-keep", 30)["segments"] == [], why
    assert len(box.files(study)) == 5


def test_rejected_instances_may_stay_for_ever(box: Console) -> None:
    rejected_exam(box)
    assert box.json("archive", "compact", "--share", 0.1, "--rejected-keep", 0)["segments"] == []


@pytest.mark.parametrize("state", ["PREPARED", "SENDING", "DOUBTFUL", "PARKED"])
def test_an_exam_on_its_way_to_the_dmp_is_left_alone(box: Console, state: str) -> None:
    study = rejected_exam(box)
    box.lot(study, state)
    assert box.json("archive", "compact", "--share", 0.1, "--rejected-keep", 30)["segments"] == []


def test_what_is_public_is_purged_only_when_the_manifest_is_as_it_should_be(box: Console) -> None:
    study = rejected_exam(box)
    box.lot(study, "REGISTERED")
    assert box.json("archive", "compact", "--share", 0.1, "--rejected-keep", 30)["segments"] == []
    box.settle(study, judged=f"{box.revision(study) - 1} mark")
    assert box.json("archive", "compact", "--share", 0.1, "--rejected-keep", 30)["segments"] == []
    box.settle(study, judged=f"{box.revision(study)} mark")
    assert len(box.json("archive", "compact", "--share", 0.1, "--rejected-keep", 30)["segments"]) == 1


def test_damage_stops_a_compaction_and_is_told(box: Console) -> None:
    study = rejected_exam(box)
    (old,) = {one.segment for one in box.records(study) if one.rejected}
    one = next(one for one in box.records(study) if one.segment == old and not one.rejected)
    spoil(box.path(one.segment), one.offset + 200)
    (found,) = box.json("archive", "compact", "--share", 0.4, "--rejected-keep", 30, status=1)["segments"]
    assert "SHA-256" in found["trouble"]
    assert len(box.records(study)) == 5


def test_a_full_disk_stops_a_compaction(box: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    study = rejected_exam(box)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "sendfile", full)
    files = box.files(study)
    (found,) = box.json("archive", "compact", "--share", 0.4, "--rejected-keep", 30, status=1)["segments"]
    assert "full" in found["trouble"]
    assert box.files(study) == files


def test_the_worker_drops_old_files_after_the_grace(box: Console) -> None:
    rejected_exam(box)
    (old,) = {one.segment for one in box.records(exam().study_instance_uid) if one.rejected}
    compacting = make_compacting(box.foundation, "worker:test", 0.4, 30, timedelta(hours=1))
    assert compacting.run_due() == 1
    assert compacting.run_due() == 0
    assert old in box.on_disk()
    later = replace(compacting, clock=lambda: datetime.now(UTC) + timedelta(hours=2))
    assert later.run_due() == 0
    assert old not in box.on_disk()
    assert box.json("verify")["whole"] is True


# --- archive forget ----------------------------------------------------------------------------------------


def test_an_exam_is_forgotten(on_each_engine: Console) -> None:
    box = on_each_engine
    study = box.store_exam().study_instance_uid
    other = box.store_exam(2).study_instance_uid
    before = box.revision(study)
    gone = box.json("archive", "forget", study, "--reason", "tested on a phantom")
    assert (gone["instances"], gone["segments"]) == (4, 1)
    assert gone["freed"] > gone["bytes"] > 0
    assert box.files(study) == {}
    assert len(box.files(other)) == 4
    assert len(box.on_disk()) == 1
    assert box.revision(study) == before + 1
    (row,) = box.trace("IMAGES_FORGOTTEN")
    assert (row.study_instance_uid, row.detail["reason"]) == (study, "tested on a phantom")
    assert "no image of" in box.run("archive", "forget", study, "--reason", "again", status=1).stderr
    box.store(study_datasets(exam()))
    assert len(box.files(study)) == 4, "it comes back when it is sent again"


@pytest.mark.parametrize("state", ["SENDING", "DOUBTFUL", "RESENDING", "PARKED", "REGISTERED"])
def test_what_is_or_may_be_public_is_not_forgotten(box: Console, state: str) -> None:
    study = box.store_exam().study_instance_uid
    box.lot(study, state)
    said = box.run("archive", "forget", study, "--reason", "by mistake", status=1).stderr
    assert "withdraw it first" in said
    assert len(box.files(study)) == 4
    with pytest.raises(StillPublic):
        forget_images(box.foundation.transactions, study, now=NOW, actor="test", reason="x")


@pytest.mark.parametrize("state", ["PREPARED", "REFUSED", "DEPRECATED", "WITHDRAWN", "DROPPED"])
def test_what_never_got_there_or_left_is(box: Console, state: str) -> None:
    study = box.store_exam().study_instance_uid
    box.lot(study, state)
    assert box.json("archive", "forget", study, "--reason", "old")["instances"] == 4
    with box.foundation.transactions.reading() as transaction:
        found = transaction.ledger.exam(study)
        assert found is not None
        assert found.reconcile_at is not None, "a lot that was prepared is judged again before it leaves"


def test_an_unknown_exam_and_a_missing_reason(box: Console) -> None:
    assert "no exam" in box.run("archive", "forget", "1.2.9", "--reason", "x", status=1).stderr
    box.run("archive", "forget", "1.2.9", status=2)


def test_a_crash_between_rows_and_bytes_is_swept_by_the_worker(
    box: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = box.store_exam().study_instance_uid
    monkeypatch.setattr("drimbox.adapters.storage_queries.StorageQueries.drop", lambda *_: 0)
    assert box.json("archive", "forget", study, "--reason", "old")["freed"] == 0
    assert len(box.on_disk()) == 1
    monkeypatch.undo()
    make_compacting(box.foundation, "worker:test", 0.5, None).run_due()
    assert box.on_disk() == []


def test_what_is_written_on_while_its_study_is_forgotten_stays(box: Console) -> None:
    images = list(study_datasets(exam()))
    intake = InstanceIntake(box.foundation, "pacs:CT1@192.0.2.7")
    first, *others = (
        (
            StoreCommand(
                str(one.SOPClassUID), str(one.SOPInstanceUID), str(one.file_meta.TransferSyntaxUID), PEER
            ),
            one,
        )
        for one in images
    )
    study = exam().study_instance_uid

    def bring(command: StoreCommand, image: Any) -> None:
        arrival = intake.begin(command)
        arrival.more(memoryview(data_set_of(image)))
        arrival.complete()

    bring(*first)
    assert box.json("archive", "forget", study, "--reason", "old")["freed"] == 0, "it is being written"
    for one in others:
        bring(*one)
    intake.close()
    compacting = make_compacting(box.foundation, "worker:test", 0.5, None)
    for _ in range(2):
        compacting.run_due()
        assert len(box.files(study)) == 3
    assert box.json("verify")["counts"] == {"missing": 0, "damaged": 0, "orphaned": 1}


def test_the_layout_constant_is_the_documented_one() -> None:
    assert HEADER.size == 48
