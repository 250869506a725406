"""`drimbox backup` and `restore` on real stores: the drill, what is copied twice, and what is refused."""

from __future__ import annotations

import hashlib
import json
import shutil
import stat
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url
from typer.testing import CliRunner

from dicom_store.sink import StoreCommand
from drimbox.adapters import backup_pool, database_snapshot
from drimbox.adapters.backup_pool import BackupPool
from drimbox.adapters.backup_source import BackupSource
from drimbox.entrypoints.cli import app
from drimbox.entrypoints.intake import InstanceIntake
from drimbox.flow import backup_plan
from drimbox.flow.backup_plan import BackupRefused
from drimbox.flow.forget_images import forget_images
from drimbox.flow.records import Submission
from fixtures.images import study_datasets
from fixtures.kept_images import PEER, KeptImages, data_set_of, exam

NOW = datetime(2026, 10, 1, 12, 0, tzinfo=UTC)


class Site:
    """An appliance with its backups, which can burn down."""

    def __init__(self, root: Path, url: str) -> None:
        self.root, self.url = root / "box", url
        self.backups = root / "backups"
        self.box = KeptImages(self.root, url)
        self.storage = self.root / "storage"

    def run(self, command: str, *arguments: object, status: int = 0) -> dict[str, Any]:
        words = [command, str(self.backups), *map(str, arguments), "--config", str(self.box.config), "--json"]
        done = CliRunner().invoke(app, words)
        assert done.exit_code == status, done.output + repr(done.exception)
        return (
            dict(json.loads(done.stdout.splitlines()[-1])) if done.stdout else {"said": done.stderr}
        )  # logs before

    def backup(self, *arguments: object, status: int = 0) -> dict[str, Any]:
        return self.run("backup", *arguments, status=status)

    def check(self, *arguments: object, status: int = 0) -> dict[str, Any]:
        """Without a configuration: also where there is no appliance."""
        done = CliRunner().invoke(app, ["backup-check", str(self.backups), *map(str, arguments), "--json"])
        assert done.exit_code == status, done.output + repr(done.exception)
        return dict(json.loads(done.stdout)) if done.stdout else {"said": done.stderr}

    def keep_as(self, sha: str, data: bytes) -> None:
        """Other bytes in the place of a file of the pool."""
        (self.backups / "files" / sha[:2] / sha).write_bytes(data)

    def restore(self, *arguments: object, status: int = 0) -> dict[str, Any]:
        return self.run("restore", *arguments, status=status)

    def put(self, name: str, data: bytes) -> None:
        path = self.storage / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def publish(self, study: str) -> None:
        """A lot that the DMP holds, with its documents."""
        kos = self.box.foundation.documents.put(b"a manifest of " + study.encode())
        request = self.box.foundation.documents.put(b"a request of " + study.encode())
        lot = Submission(
            f"lot-{study}", study, "publish", "key", f"{study}.1", request, "{}", "ins", "oid", 1, NOW, NOW,
            state="REGISTERED", kos_uid=f"{study}.2", kos=kos, entry_uuid="urn:uuid:1",
        )  # fmt: skip
        with self.box.foundation.transactions.writing() as transaction:
            transaction.ledger.add(lot)
            transaction.commit()

    def burn(self) -> None:
        """Nothing of the appliance is left but its configuration."""
        self.box.close()
        shutil.rmtree(self.storage)
        if self.url.startswith("sqlite"):
            file = Path(make_url(self.url).database or "")
            for one in file.parent.glob(f"{file.name}*"):
                one.unlink()
            return
        name = make_url(self.url).database
        engine = create_engine(make_url(self.url).set(database="postgres"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name}"))
            connection.execute(text(f"CREATE DATABASE {name}"))
        engine.dispose()

    def rise(self) -> KeptImages:
        """The appliance on what was restored."""
        self.box = KeptImages(self.root, self.url)
        return self.box

    def pool(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (self.backups / "files").glob("*/*")}

    def runs(self) -> list[str]:
        return sorted(path.stem for path in (self.backups / "runs").glob("*.jsonl"))

    def sha_of(self, part: str, run: str = "") -> str:
        """The hash of the first file of a run whose name holds `part`."""
        lines = (self.backups / "runs" / f"{run or self.runs()[-1]}.jsonl").read_text().splitlines()[1:-1]
        return str(next(one["sha256"] for one in map(json.loads, lines) if part in one["name"]))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path, f"sqlite:///{tmp_path / 'box' / 'drimbox.sqlite'}")
    yield made
    made.box.close()


@pytest.fixture
def on_each_engine(tmp_path: Path, database_url: str) -> Iterator[Site]:
    made = Site(tmp_path, database_url)
    yield made
    made.box.close()


def test_the_drill(on_each_engine: Site) -> None:
    """Images arrive, a backup is made meanwhile, everything burns, every exam comes back byte for byte."""
    site = on_each_engine
    box = site.box
    early = [box.store_exam(number).study_instance_uid for number in (1, 2, 3)]
    before = {study: box.files(study) for study in early}
    metadata = {study: box.metadata(study) for study in early}
    site.publish(early[0])
    site.put("whitelist/lists/1.xml", b"<list/>")
    site.put("whitelist/.partial-x", b"half")
    site.put("audit/a.journal", b"[]\n")
    site.put("transcoded/cache", b"made again")
    growing, arriving = InstanceIntake(box.foundation, "pacs:CT1@192.0.2.7"), list(study_datasets(exam(9, 4)))
    for dataset in arriving[:2]:
        send(growing, dataset)
    with Storing(box, range(20, 60)) as others:
        others.wait_for(2)
        made = site.backup()
        others.wait_for(6)
    for dataset in arriving[2:]:
        send(growing, dataset)
    growing.close()
    assert (made["lost"], made["run"]) == ([], site.runs()[-1])
    (row,) = box.trace("BACKUP_MADE")
    assert (row.actor, row.detail["run"], row.detail["lost"]) == ("operator", made["run"], 0)
    everything = {study: box.files(study) for study in (*early, exam(9).study_instance_uid, *others.studies)}
    site.burn()

    restored = site.restore()
    assert restored["verify"]["whole"]
    assert restored["verify"]["counts"] == {"missing": 0, "damaged": 0, "orphaned": 0}
    box = site.rise()
    assert {study: box.files(study) for study in early} == before
    assert {study: box.metadata(study) for study in early} == metadata
    assert len(box.files(exam(9).study_instance_uid)) == 2
    for study, files in everything.items():
        assert box.files(study).items() <= files.items()
    with box.foundation.transactions.reading() as transaction:
        (lot,) = transaction.ledger.published()
    assert box.foundation.documents.get(lot.kos) == b"a manifest of " + early[0].encode()
    assert (site.storage / "whitelist/lists/1.xml").read_bytes() == b"<list/>"
    assert (site.storage / "audit/a.journal").read_bytes() == b"[]\n"
    assert not (site.storage / "whitelist/.partial-x").exists()
    assert not (site.storage / "transcoded").exists()
    assert not (site.storage / ".restoring").exists()
    (row,) = box.trace("BACKUP_RESTORED")
    assert row.detail["run"] == made["run"]
    box.store_exam(70)  # and life goes on
    assert len(box.files(exam(70).study_instance_uid)) == 4
    assert site.backup()["lost"] == []


class Storing:
    """Exams that arrive in a thread until the context ends."""

    def __init__(self, box: KeptImages, numbers: range) -> None:
        self.studies: list[str] = []
        self._box, self._numbers, self._more = box, numbers, threading.Condition()
        self._stop = False
        self._thread = threading.Thread(target=self._work)

    def __enter__(self) -> Storing:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop = True
        self._thread.join()

    def wait_for(self, count: int) -> None:
        with self._more:
            assert self._more.wait_for(lambda: len(self.studies) >= count, 60)

    def _work(self) -> None:
        for number in self._numbers:
            if self._stop:
                return
            study = self._box.store_exam(number, 2).study_instance_uid
            with self._more:
                self.studies.append(study)
                self._more.notify_all()


def send(intake: InstanceIntake, dataset: Any) -> None:
    command = StoreCommand(
        str(dataset.SOPClassUID), str(dataset.SOPInstanceUID), str(dataset.file_meta.TransferSyntaxUID), PEER
    )
    arrival = intake.begin(command)
    arrival.more(memoryview(data_set_of(dataset)))
    arrival.complete()


def test_the_second_run_copies_only_what_is_new(on_each_engine: Site) -> None:
    site = on_each_engine
    for number in range(1, 6):
        site.box.store_exam(number)
    site.publish(exam(1).study_instance_uid)
    first = site.backup()
    assert (first["files"], first["copied"]) == (8, 8)  # five segments, two documents, the database
    again = site.backup()
    assert (again["files"], again["copied"]) == (8, 1)  # the database alone
    site.box.store_exam(6)
    site.put("whitelist/1.xml", b"<list/>")
    third = site.backup()
    assert (third["files"], third["copied"]) == (10, 3)
    assert len(site.runs()) == 3
    assert site.backup()["copied"] == 1


def test_a_segment_that_grew_is_copied_up_to_its_new_end(site: Site) -> None:
    growing, datasets = (
        InstanceIntake(site.box.foundation, "pacs:CT1@192.0.2.7"),
        list(study_datasets(exam(1, 4))),
    )
    send(growing, datasets[0])
    first = site.backup()
    send(growing, datasets[1])
    second = site.backup()
    growing.close()
    assert [one["copied"] for one in (first, second)] == [2, 2]
    site.burn()
    assert site.restore("--at", first["run"])["verify"]["records"] == 1
    assert len(site.rise().files(exam(1).study_instance_uid)) == 1
    site.burn()
    assert site.restore()["verify"]["records"] == 2


def test_older_runs_go_with_what_only_they_need(site: Site) -> None:
    site.box.store_exam(1)
    site.box.store_exam(2)
    old = site.backup()
    with site.box.foundation.transactions.reading() as transaction:
        (gone,) = {one.segment for one in transaction.storage.records_of(exam(1).study_instance_uid)}
    forget_images(
        site.box.foundation.transactions, exam(1).study_instance_uid, now=NOW, actor="operator", reason="test"
    )
    kept, lost = site.sha_of(exam(2).study_instance_uid), site.sha_of(gone)
    assert {kept, lost, site.sha_of("database")} == set(site.pool())
    new = site.backup("--keep", 1)
    assert (new["removed"], site.runs()) == ([old["run"]], [new["run"]])
    assert set(site.pool()) == {kept, site.sha_of("database")}
    assert new["freed"] > 0
    site.burn()
    assert site.restore()["verify"]["whole"]


def test_nothing_is_removed_beside_a_manifest_that_is_damaged(site: Site) -> None:
    site.box.store_exam(1)
    site.backup()
    middle, _ = site.backup(), site.backup()
    spoil(site.backups / "runs" / f"{middle['run']}.jsonl")
    before = site.pool()
    assert middle["run"] in site.backup("--keep", 3, status=1)["said"]
    assert before.items() <= site.pool().items()


def spoil(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("part", ["images/segments", "documents/", "whitelist/", "database"])
def test_a_flipped_bit_is_refused_by_name(site: Site, part: str) -> None:
    site.box.store_exam(1)
    site.publish(exam(1).study_instance_uid)
    site.put("whitelist/1.xml", b"<list/>")
    site.backup()
    sha = site.sha_of(part)
    good = site.pool()[sha]
    spoil(site.backups / "files" / sha[:2] / sha)
    site.burn()
    said = site.restore(status=1)["said"]
    assert part in said
    assert sha in said
    assert not (site.storage / "images").exists()
    (site.backups / "files" / sha[:2] / sha).write_bytes(good)
    assert site.restore()["verify"]["whole"]  # mended, it goes on


def test_a_file_that_is_gone_from_the_backup_is_refused_by_name(site: Site) -> None:
    site.box.store_exam(1)
    site.backup()
    sha = site.sha_of("images/segments")
    (site.backups / "files" / sha[:2] / sha).unlink()
    site.burn()
    assert "not whole" in site.restore(status=1)["said"]


def test_only_an_empty_place_is_restored_into(on_each_engine: Site) -> None:
    site = on_each_engine
    site.box.store_exam(1)
    site.backup()
    assert "storage root is not empty" in site.restore(status=1)["said"]
    shutil.rmtree(site.storage)
    assert "database is not empty" in site.restore(status=1)["said"]
    assert len(site.box.records(exam(1).study_instance_uid)) == 4
    site.burn()
    (site.storage / "images/segments").mkdir(parents=True)  # as a door that was started once leaves it
    assert site.restore()["verify"]["whole"]
    assert "storage root is not empty" in site.restore(status=1)["said"]


def test_a_backup_of_another_engine_is_refused(site: Site) -> None:
    site.backup()
    site.burn()
    config = site.box.config.read_text().replace(site.url, "postgresql+psycopg://x@127.0.0.1:1/x")
    site.box.config.write_text(config)
    assert "the backup is of sqlite" in site.restore(status=1)["said"]


def test_without_pg_dump_it_is_said(postgresql: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_snapshot.shutil, "which", lambda _: None)
    with pytest.raises(BackupRefused, match="pg_dump is not installed"):
        database_snapshot._run("pg_dump", f"{postgresql}/postgres")


def test_the_words_of_pg_dump_are_passed_on_and_hold_no_password(postgresql: str) -> None:
    url = f"{postgresql}/no_such_database".replace("drimbox@", "drimbox:geheim@")
    with pytest.raises(BackupRefused, match="no_such_database") as refused:
        database_snapshot._run("pg_dump", url)
    assert "geheim" not in str(refused.value)


def test_images_that_move_meanwhile_are_looked_for_again(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exam is forgotten between the snapshot and the copy: another snapshot does not know it."""
    site.box.store_exam(1)
    site.box.store_exam(2)
    moved = after_snapshot(monkeypatch, lambda: forget(site.box, 1))
    made = site.backup()
    assert (made["lost"], moved[0]) == ([], 2)
    site.burn()
    assert site.restore()["verify"]["records"] == 4


def forget(box: KeptImages, number: int) -> None:
    study = exam(number).study_instance_uid
    segments = {one.segment for one in box.records(study)}
    forget_images(box.foundation.transactions, study, now=NOW, actor="operator", reason="test")
    with box.foundation.transactions.writing() as transaction:
        transaction.storage.drop(segments)
        transaction.commit()


def after_snapshot(monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> list[int]:
    """`act` directly behind the first snapshot; how many snapshots there were."""
    counted, take = [0], BackupSource.snapshot

    def snapshot(source: BackupSource) -> Any:
        counted[0] += 1
        found = take(source)
        if counted[0] == 1:
            act()
        return found

    monkeypatch.setattr(BackupSource, "snapshot", snapshot)
    return counted


def test_what_is_lost_is_said_and_the_rest_backed_up(site: Site) -> None:
    for number in (1, 2):
        site.box.store_exam(number)
    site.publish(exam(1).study_instance_uid)
    (segment,) = {one.segment for one in site.box.records(exam(1).study_instance_uid)}
    (site.box.segments / segment).unlink()
    digest = hashlib.sha256(b"a manifest of " + exam(1).study_instance_uid.encode()).hexdigest()
    spoil(site.storage / "documents" / digest[:2] / digest)
    made = site.backup(status=1)
    assert made["lost"] == [f"documents/{digest[:2]}/{digest}", f"images/segments/{segment}"]
    site.burn()
    restored = site.restore(status=1)
    assert restored["verify"]["counts"]["missing"] == 4
    assert len(site.rise().files(exam(2).study_instance_uid)) == 4


def test_what_is_lost_here_and_held_there_is_backed_up_still(site: Site) -> None:
    site.box.store_exam(1)
    site.backup()
    (name,) = site.box.on_disk()
    (site.box.segments / name).unlink()
    assert site.backup()["lost"] == []
    site.burn()
    assert site.restore()["verify"]["whole"]


def test_links_are_not_followed(site: Site, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"not ours")
    site.put("whitelist/1.xml", b"<list/>")
    (site.storage / "whitelist/link.xml").symlink_to(tmp_path / "secret")
    (site.storage / "whitelist/away").symlink_to(tmp_path)
    site.backup()
    assert b"not ours" not in site.pool().values()
    shutil.rmtree(site.backups / "work")
    (site.backups / "work").symlink_to(tmp_path)
    assert "symbolic link" in site.backup(status=1)["said"]
    assert (tmp_path / "secret").exists()


def test_a_backup_is_for_its_owner_alone(on_each_engine: Site) -> None:
    site = on_each_engine
    site.box.store_exam(1)
    site.backup()
    modes = {stat.S_IMODE(path.stat().st_mode) for path in site.backups.rglob("*") if path.is_file()}
    places = {stat.S_IMODE(path.stat().st_mode) for path in site.backups.rglob("*") if path.is_dir()}
    assert (modes, places) == ({0o600}, {0o700})
    assert list((site.backups / "work").iterdir()) == []


def test_one_at_a_time(site: Site) -> None:
    with BackupPool(site.backups, is_new=True):
        assert "another process" in site.backup(status=1)["said"]
        assert "another process" in site.restore(status=1)["said"]


def test_a_backup_does_not_fill_its_disk(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.box.store_exam(1)
    monkeypatch.setattr(backup_pool.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10})())
    assert "10 are free" in site.backup(status=1)["said"]
    assert site.runs() == []


def test_a_backup_is_not_kept_in_what_it_keeps(site: Site) -> None:
    site.backups = site.storage / "backups"
    assert "under storage.root" in site.backup(status=1)["said"]
    assert not site.backups.exists()


def test_what_is_no_backup_is_not_restored(site: Site) -> None:
    assert "holds no backup" in site.restore(status=1)["said"]
    assert not site.backups.exists()
    site.backup()
    assert "no run" in site.restore("--at", "20200101T000000000Z", status=1)["said"]


def test_a_directory_of_something_else_is_left_alone(site: Site) -> None:
    precious = site.backups / "work" / "thesis.txt"
    precious.parent.mkdir(parents=True)
    precious.write_text("precious")
    assert "is not empty" in site.backup(status=1)["said"]
    assert [path for path in site.backups.rglob("*") if path.is_file()] == [precious]


def test_a_new_volume_is_empty_enough(site: Site) -> None:
    (site.backups / "lost+found").mkdir(parents=True)
    assert site.backup()["lost"] == []


def test_a_restore_writes_nothing_to_the_backup(site: Site) -> None:
    site.box.store_exam(1)
    site.backup()
    before = {path: path.stat().st_mtime_ns for path in (site.backups, *site.backups.rglob("*"))}
    site.burn()
    assert site.restore()["verify"]["whole"]
    assert {path: path.stat().st_mtime_ns for path in (site.backups, *site.backups.rglob("*"))} == before


# --- backup-check


def test_a_whole_backup_passes_on_a_medium_that_is_only_read(on_each_engine: Site) -> None:
    site = on_each_engine
    site.box.store_exam(1)
    site.publish(exam(1).study_instance_uid)
    made = site.backup()
    site.burn()
    before = {path: path.stat().st_mtime_ns for path in site.backups.rglob("*")}
    found = site.check()
    assert (found["whole"], found["faults"], found["run"]) == (True, [], made["run"])
    assert (found["files"], found["bytes"], found["database"]["instances"]) == (
        made["files"],
        made["bytes"],
        4,
    )
    assert 0 <= found["age_seconds"] < 600
    assert site.check("--quick", "--max-age", 1)["hashed"] is False
    assert "hours old" in site.check("--max-age", 0, status=1)["faults"][0]["reason"]
    assert {path: path.stat().st_mtime_ns for path in site.backups.rglob("*")} == before


def test_every_fault_of_a_backup_is_told_and_none_of_them_is_restored(site: Site) -> None:
    for number in (1, 2):
        site.box.store_exam(number)
    site.publish(exam(1).study_instance_uid)
    site.backup()
    shas = {part: site.sha_of(part) for part in ("images/segments", "documents/", "database")}
    pool = site.pool()
    site.keep_as(shas["images/segments"], pool[shas["images/segments"]][:-1])
    (site.backups / "files" / shas["documents/"][:2] / shas["documents/"]).unlink()
    spoil(site.backups / "files" / shas["database"][:2] / shas["database"])
    found = site.check(status=1)
    told = {fault["name"].split("/")[0]: fault["reason"] for fault in found["faults"]}
    assert "bytes instead of" in told["images"]
    assert "not there" in told["documents"]
    assert "damaged" in told["database.sqlite"]
    quick = {fault["name"].split("/")[0] for fault in site.check("--quick", status=1)["faults"]}
    assert {"images", "documents"} <= quick
    site.burn()
    said = site.restore(status=1)["said"]
    assert "drimbox backup-check" in said
    assert all(sha in said for part, sha in shas.items() if part != "database")
    for sha in shas.values():
        site.keep_as(sha, pool[sha])
    assert site.check()["whole"]
    assert site.restore()["verify"]["whole"]


def test_a_database_that_names_more_than_the_backup_holds(on_each_engine: Site) -> None:
    """As nobody but a stranger can make one: hashes right, a segment left out of the manifest."""
    site = on_each_engine
    site.box.store_exam(1)
    run = str(site.backup()["run"])
    path = site.backups / "runs" / f"{run}.jsonl"
    whole = backup_plan.read_manifest(path.read_bytes())
    (segment,) = [one for one in whole.files if one.name.startswith("images/")]
    path.write_bytes(backup_plan.write_manifest(replace(whole, files=tuple(set(whole.files) - {segment}))))
    (fault,) = site.check(status=1)["faults"]
    assert (fault["name"], "names images in it" in fault["reason"]) == (segment.name, True)
    shorter = replace(segment, size=segment.size - 1)
    path.write_bytes(
        backup_plan.write_manifest(replace(whole, files=(*(set(whole.files) - {segment}), shorter)))
    )
    assert any("up to byte" in fault["reason"] for fault in site.check("--quick", status=1)["faults"])
    strange = replace(whole, facts=replace(whole.facts, trace=10**6, revision="9999"))
    path.write_bytes(backup_plan.write_manifest(strange))
    (newer,) = site.check(status=1)["faults"]
    assert "newer program" in newer["reason"]
    path.write_bytes(backup_plan.write_manifest(replace(strange, facts=replace(whole.facts, trace=10**6))))
    (other,) = site.check(status=1)["faults"]
    assert "not the database that was backed up" in other["reason"]


def test_what_the_appliance_had_lost_does_not_pass(site: Site) -> None:
    site.box.store_exam(1)
    (segment,) = {one.segment for one in site.box.records(exam(1).study_instance_uid)}
    (site.box.segments / segment).unlink()
    site.backup(status=1)
    (fault,) = site.check(status=1)["faults"]
    assert (fault["name"], fault["was_lost"]) == (f"images/segments/{segment}", True)
    for run in ("20200101T000000000Z", "yesterday"):
        assert "holds no run" in site.check("--at", run, status=1)["said"]
