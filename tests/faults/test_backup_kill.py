"""SIGKILL anywhere in a backup or a restore: no half backup passes for one, and the next run goes on."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from drimbox.adapters import restored_root
from drimbox.adapters.backup_pool import BackupPool
from drimbox.adapters.backup_source import BackupSource
from drimbox.adapters.restored_root import RestoredDatabase, RestoredRoot
from drimbox.entrypoints import backup_cli
from drimbox.entrypoints.cli import app
from fixtures.kept_images import KeptImages, exam

EXAMS = 4
FILES = EXAMS + 4  # documents, a list, the database


class Site:
    """An appliance and its backups."""

    def __init__(self, root: Path) -> None:
        self.root, self.backups = root / "box", root / "backups"
        box = KeptImages(self.root)
        for number in range(EXAMS):
            box.store_exam(number + 1)
        for data in (b"one", b"two"):
            box.foundation.documents.put(data)
        (self.root / "storage/whitelist").mkdir()
        (self.root / "storage/whitelist/1.xml").write_bytes(b"<list/>")
        self.files = self.all_files(box)
        self.config = box.config
        box.close()

    @staticmethod
    def all_files(box: KeptImages) -> list[dict[str, bytes]]:
        return [box.files(exam(number + 1).study_instance_uid) for number in range(EXAMS)]

    def run(self, command: str, *arguments: str) -> Any:
        words = [command, str(self.backups), *arguments, "--config", str(self.config), "--json"]
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout.splitlines()[-1])

    def kill(self, command: str, owner: Any, name: str, count: int, after: bool, *arguments: str) -> None:
        """Run a command in a process that dies before, or after, the `count`th call of a function."""
        child = os.fork()
        if child == 0:
            try:
                setattr(owner, name, deadly(getattr(owner, name), count, after))
                self.run(command, *arguments)
            finally:
                os._exit(3)  # it came to its end: the point was never reached
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL

    def burn(self) -> None:
        shutil.rmtree(self.root / "storage")
        for path in self.root.glob("drimbox.sqlite*"):
            path.unlink()

    def is_back(self) -> bool:
        box = KeptImages(self.root)
        try:
            return self.all_files(box) == self.files
        finally:
            box.close()


def deadly(act: Callable[..., Any], count: int, after: bool) -> Callable[..., Any]:
    calls = [0]

    def acting(*arguments: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] == count and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        found = act(*arguments, **options)
        if calls[0] == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    return acting


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    yield Site(tmp_path)


@pytest.mark.parametrize(
    ("owner", "name", "count", "after", "held"),
    [
        (BackupSource, "snapshot", 1, False, 0),
        (BackupSource, "snapshot", 1, True, 0),
        (BackupPool, "take", 1, True, 0),  # in the pool, and not written down
        (BackupPool, "note", 3, False, 2),
        (BackupPool, "note", 3, True, 3),
        (BackupPool, "adopt", 1, False, FILES - 1),
        (BackupPool, "adopt", 1, True, FILES - 1),
        (BackupPool, "finish", 1, False, FILES - 1),
        (os, "fsync", 3, False, 2),
    ],
)
def test_a_backup_that_is_killed_is_none_and_is_taken_up(
    site: Site, owner: Any, name: str, count: int, after: bool, held: int
) -> None:
    site.kill("backup", owner, name, count, after)
    assert list((site.backups / "runs").glob("*.jsonl")) == []
    made = site.run("backup")
    # the list and the database are always read anew; what is noted and fixed is not
    assert made["copied"] <= FILES - max(held - 2, 0)
    assert (made["files"], made["lost"]) == (FILES, [])
    assert [path.suffix for path in (site.backups / "runs").iterdir()] == [".jsonl"]
    site.burn()
    assert site.run("restore")["verify"]["whole"]
    assert site.is_back()


@pytest.mark.parametrize(("name", "after"), [("finish", True), ("remove", False), ("remove", True)])
def test_a_backup_that_is_killed_at_its_end_is_one(site: Site, name: str, after: bool) -> None:
    first = site.run("backup")
    site.kill("backup", BackupPool, name, 1, after, "--keep", "1")
    made = site.run("backup", "--keep", "1")
    assert first["run"] not in [path.stem for path in (site.backups / "runs").iterdir()]
    assert (made["copied"], made["lost"]) == (1, [])
    site.burn()
    assert site.run("restore")["verify"]["whole"]
    assert site.is_back()


def test_a_backup_that_is_killed_while_it_removes_leaves_what_the_others_need(site: Site) -> None:
    site.run("backup")
    site.kill("backup", Path, "unlink", 3, True, "--keep", "1")
    site.burn()
    assert site.run("restore")["verify"]["whole"]
    assert site.is_back()


@pytest.mark.parametrize(
    ("owner", "name", "count", "after"),
    [
        (RestoredRoot, "reach", 1, True),
        (RestoredRoot, "put", 3, True),
        (restored_root, "copy_bytes", 5, True),
        (RestoredDatabase, "fill", 1, False),
        (RestoredDatabase, "fill", 1, True),
        (RestoredRoot, "place", 1, False),
        (restored_root, "_remove_empty", 2, False),  # documents are in their place, images are not
        (RestoredRoot, "place", 1, True),
        (RestoredRoot, "reach", 3, True),
        (backup_cli, "note_restored", 1, True),
        (RestoredRoot, "end", 1, False),
    ],
)
def test_a_restore_that_is_killed_goes_on(site: Site, owner: Any, name: str, count: int, after: bool) -> None:
    site.run("backup")
    site.burn()
    site.kill("restore", owner, name, count, after)
    restored = site.run("restore")
    assert restored["verify"]["counts"] == {"missing": 0, "damaged": 0, "orphaned": 0}
    assert site.is_back()
    assert not (site.root / "storage" / ".restoring").exists()


def test_a_restore_goes_on_with_its_own_run_alone(site: Site) -> None:
    first = site.run("backup")
    site.run("backup")
    site.burn()
    site.kill("restore", RestoredRoot, "put", 2, True, "--at", first["run"])
    done = CliRunner().invoke(app, ["restore", str(site.backups), "--config", str(site.config)])
    assert done.exit_code == 1
    assert first["run"] in done.stderr
    assert site.run("restore", "--at", first["run"])["verify"]["whole"]


def test_an_appliance_that_was_started_meanwhile_stops_the_restore(site: Site) -> None:
    site.run("backup")
    site.burn()
    site.kill("restore", RestoredRoot, "put", 2, True)
    box = KeptImages(site.root)
    box.store_exam(9)
    box.close()
    done = CliRunner().invoke(app, ["restore", str(site.backups), "--config", str(site.config)])
    assert done.exit_code == 1
    assert "filled by somebody else" in done.stderr
    assert len(list((site.root / "storage/images/segments").rglob("*.seg"))) == 1
