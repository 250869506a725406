"""`drimbox db check` and `upgrade` as an operator calls them, on both engines; doors and a newer database."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from typer.testing import CliRunner, Result

from drimbox.adapters.database import Database, known_revisions
from drimbox.domain.errors import DatabaseNewer
from drimbox.entrypoints.cli import app
from drimbox.entrypoints.doors_cli import prepare
from drimbox.settings.whole import load_settings
from fixtures.configuration import configuration

NEWEST = known_revisions()[-1]


@pytest.fixture
def config(tmp_path: Path, database_url: str) -> Path:
    path = tmp_path / "drimbox.toml"
    path.write_text(configuration(tmp_path, database={"url": database_url}), "utf-8")
    return path


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    made = Database(database_url)
    yield made
    made.close()


@pytest.fixture
def db(config: Path) -> Callable[..., Result]:
    return lambda *words: CliRunner().invoke(app, ["db", *words, "--config", str(config)])


def faults_of(config: Path) -> list[str]:
    told = CliRunner().invoke(app, ["config", "check", "--json", "--config", str(config)])
    faults: list[str] = json.loads(told.stdout)["faults"]
    return faults


def change(database: Database, statement: str) -> None:
    with database.engine.begin() as connection:
        connection.execute(text(statement))


def test_an_empty_one_is_said_to_be_empty_then_upgraded_then_well(db: Any, database: Database) -> None:
    empty = db("check")
    assert (empty.exit_code, "yet" in empty.stderr) == (1, True)
    plan = db("upgrade", "--dry-run")
    assert plan.exit_code == 0
    assert f"  {NEWEST}  Duties: what one worker does for all nodes." in plan.stdout
    assert db("check").exit_code == 1
    done = db("upgrade")
    assert done.exit_code == 0, done.output
    assert f"{NEWEST} done ({len(known_revisions())} of {len(known_revisions())}" in done.stderr
    assert "backup" not in done.stdout
    well = db("check", "--json")
    found = json.loads(well.stdout)
    assert (well.exit_code, found["revision"], found["pending"], found["faults"]) == (0, NEWEST, [], [])
    assert (found["integrity"], found["settings"].get("fsync")) == (
        ("ok", None) if found["engine"] == "sqlite" else (None, "on")
    )
    again = db("upgrade")
    assert (again.exit_code, "nothing to do" in again.stdout) == (0, True)
    assert database.revision() == (NEWEST, NEWEST)


def test_an_older_one_names_what_is_to_come_and_advises_a_backup(db: Any, database: Database) -> None:
    database.migrate()
    change(database, "DROP TABLE duties")
    change(database, "UPDATE alembic_version SET version_num = '0008'")
    behind = db("check")
    assert (behind.exit_code, "to come: 0009" in behind.stdout) == (1, True)
    assert "run `drimbox db upgrade`" in behind.stderr
    done = db("upgrade")
    assert (done.exit_code, "`drimbox backup DIR`" in done.stdout) == (0, True)
    assert db("check").exit_code == 0


def test_tables_that_are_not_those_of_the_code_are_named(db: Any, database: Database) -> None:
    database.migrate()
    change(database, "ALTER TABLE exam DROP COLUMN held_key")
    change(database, "CREATE TABLE somebody_elses (id INTEGER)")
    found = db("check")
    assert found.exit_code == 1
    assert "add column exam.held_key" in found.stderr
    assert "somebody" not in found.output


def test_a_newer_one_is_refused_by_doors_and_upgrade(db: Any, database: Database, config: Path) -> None:
    database.migrate()
    change(database, "UPDATE alembic_version SET version_num = '9999'")
    for words in (("upgrade",), ("upgrade", "--dry-run")):
        refused = db(*words)
        assert isinstance(refused.exception, DatabaseNewer)
    with pytest.raises(DatabaseNewer, match=f"at revision 9999, this program knows none after {NEWEST}"):
        prepare(load_settings(config))
    checked = db("check")
    assert (checked.exit_code, "9999" in checked.stderr) == (1, True)
    assert any("database.url: the database is at revision 9999" in fault for fault in faults_of(config))


def test_two_that_upgrade_at_once_do_it_once(database_url: str) -> None:
    databases = [Database(database_url) for _ in range(3)]
    start, applied = threading.Barrier(len(databases)), list[str]()

    def upgrade(database: Database) -> None:
        start.wait(10)
        database.migrate(applied.append)

    threads = [threading.Thread(target=upgrade, args=(one,)) for one in databases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert applied == known_revisions()
    assert {one.revision()[0] for one in databases} == {NEWEST}
    for one in databases:
        one.close()


def test_a_file_that_is_no_database_is_a_fault(tmp_path: Path) -> None:
    path = tmp_path / "drimbox.toml"
    path.write_text(configuration(tmp_path), "utf-8")
    check = ["db", "check", "--config", str(path)]
    absent = CliRunner().invoke(app, check)
    assert (absent.exit_code, (tmp_path / "drimbox.sqlite").exists()) == (1, False)
    (tmp_path / "drimbox.sqlite").write_bytes(b"no database" * 1000)
    broken = CliRunner().invoke(app, check)
    assert (broken.exit_code, "cannot be read" in broken.stderr) == (1, True)
