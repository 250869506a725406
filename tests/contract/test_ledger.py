"""The ledger on SQLite and PostgreSQL: same rows, same claims, one commit for both rooms, migrations complete."""

from __future__ import annotations

import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, text

from dicom_store.archive import Archive
from dicom_store.index import Base as ImagesBase
from drimbox.adapters.database import MIGRATIONS, Database
from drimbox.adapters.tables import metadata
from drimbox.adapters.transactions import SqlTransactions
from drimbox.domain.errors import Unavailable
from drimbox.domain.lifecycle import Event
from drimbox.flow import trace
from drimbox.flow.records import Submission

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
STUDY = "1.2.250.1.999.1.1"


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    database.migrate()
    yield database
    database.close()


@pytest.fixture
def transactions(database: Database, tmp_path: Path) -> SqlTransactions:
    return SqlTransactions(database, Archive(tmp_path / "images", 0))


def submission(name: str, due: datetime = NOW) -> Submission:
    return Submission(
        id=name, study_instance_uid=STUDY, kind="publish", content_key="k", kos_uid=f"2.25.{name}",
        submission_set_uid=f"1.2.3.{name}", signature_uid="2.25.9", kos="a", signature="b", request="c", vihf="{}",
        report_id="r", patient_ins="279035121518989", patient_oid="1.2.250.1.213.1.4.10", revision=0,
        created_at=NOW, since=NOW, due_at=due,
    )  # fmt: skip


def test_migrations_make_exactly_the_tables_of_the_code(database: Database) -> None:
    database.migrate()  # again: harmless
    with database.engine.connect() as connection:
        for tables in (metadata, ImagesBase.metadata):
            context = MigrationContext.configure(
                connection,
                opts={
                    "include_name": lambda name, kind, _parents, tables=tables: (
                        kind != "table" or name in tables.tables
                    )
                },
            )
            assert compare_metadata(context, tables) == []
    assert database.revision() == (ScriptDirectory(str(MIGRATIONS)).get_current_head(),) * 2


def test_doors_that_start_at_once_migrate_one_after_the_other(database_url: str) -> None:
    migrate = "import sys; from drimbox.adapters.database import Database; Database(sys.argv[1]).migrate()"
    doors = [subprocess.Popen([sys.executable, "-c", migrate, database_url]) for _ in range(3)]
    try:
        assert [door.wait(60) for door in doors] == [0, 0, 0]
    finally:
        for door in doors:
            door.kill()
    database = Database(database_url)
    assert database.revision()[0] == database.revision()[1]
    database.close()


def test_nothing_is_kept_without_commit(transactions: SqlTransactions) -> None:
    with transactions.writing() as transaction:
        transaction.ledger.exam_for_update(STUDY, NOW)
    with transactions.reading() as transaction:
        assert transaction.ledger.exam(STUDY) is None


def test_a_state_and_its_trace_come_in_one_commit(transactions: SqlTransactions) -> None:
    with transactions.writing() as transaction:
        exam = transaction.ledger.exam_for_update(STUDY, NOW)
        trace.move_study(transaction, exam, Event.STUDY_QUIET, at=NOW, actor="test", why="quiet")
        transaction.commit()
    with transactions.reading() as transaction:
        exam_again = transaction.ledger.exam(STUDY)
        assert exam_again is not None
        assert (exam_again.state, exam_again.changed_at) == ("SETTLED", NOW)
        (entry,) = transaction.ledger.trace_of(STUDY)
        assert (entry.event, entry.before, entry.after, entry.detail) == (
            "STUDY_QUIET",
            "RECEIVING",
            "SETTLED",
            {"why": "quiet"},
        )
        assert entry.at == NOW


def test_claimable_is_what_waits_and_is_due(transactions: SqlTransactions) -> None:
    with transactions.writing() as transaction:
        transaction.ledger.exam_for_update(STUDY, NOW)
        transaction.ledger.add(submission("1", NOW + timedelta(minutes=1)))
        transaction.ledger.add(submission("2"))
        transaction.commit()
    with transactions.writing() as transaction:
        first = transaction.ledger.claimable(NOW)
        assert first is not None
        assert first.id == "2"
        trace.move_submission(transaction, first, Event.CLAIMED, at=NOW, actor="test")
        transaction.commit()
    with transactions.writing() as transaction:
        assert transaction.ledger.claimable(NOW) is None
        assert [s.id for s in transaction.ledger.leased()] == ["2"]
        later = transaction.ledger.claimable(NOW + timedelta(minutes=2))
        assert later is not None
        assert later.id == "1"


def test_two_processes_make_one_exam(transactions: SqlTransactions) -> None:
    """The same study by several associations at once: one row, every revision counted."""
    failures: list[BaseException] = []

    def arrive() -> None:
        try:
            for _ in range(5):
                with transactions.writing() as transaction:
                    transaction.ledger.exam_for_update(STUDY, NOW).revision += 1
                    transaction.commit()
        except BaseException as error:  # noqa: BLE001 shown by the assertion below
            failures.append(error)

    threads = [threading.Thread(target=arrive) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with transactions.reading() as transaction:
        exam = transaction.ledger.exam(STUDY)
        assert exam is not None
        assert exam.revision == 20


def test_a_database_that_cannot_be_used_is_unavailable(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'absent' / 'drimbox.sqlite'}")
    with pytest.raises(Unavailable):
        database.migrate()


def test_a_database_locked_by_a_process_or_a_thread_is_unavailable(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'drimbox.sqlite'}"
    ours, theirs = (Database(url, busy_timeout=0.2) for _ in range(2))
    ours.migrate()
    with theirs.writing() as first:
        first.execute(text("SELECT 1"))
        with pytest.raises(Unavailable, match="locked"), ours.writing() as second:
            second.execute(text("SELECT 1"))
        with pytest.raises(Unavailable, match="other threads"), theirs.writing():
            pass
    ours.close()
    theirs.close()


def test_a_commit_is_durable_on_sqlite(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'drimbox.sqlite'}")
    with database.engine.connect() as connection:
        assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"
        assert connection.execute(text("PRAGMA synchronous")).scalar() == 2  # FULL
    database.close()


@pytest.mark.parametrize(("configured", "session"), [("off", "on"), ("remote_apply", "remote_apply")])
def test_a_commit_is_durable_on_a_server_that_is_set_otherwise(
    postgresql: str, configured: str, session: str
) -> None:
    name = f"test_{configured}_{uuid.uuid4().hex}"
    administrator = create_engine(f"{postgresql}/postgres", isolation_level="AUTOCOMMIT")
    with administrator.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
        connection.execute(text(f"ALTER DATABASE {name} SET synchronous_commit = {configured}"))
    administrator.dispose()
    database = Database(f"{postgresql}/{name}")
    with database.writing() as opened:
        assert opened.execute(text("SHOW synchronous_commit")).scalar() == session
    database.close()
