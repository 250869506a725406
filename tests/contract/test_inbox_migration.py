"""Migration 0003 goes up over rows that are there, and down again, on both engines; what came before is still read."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import inspect, text

from dicom_store.archive import Archive
from drimbox.adapters.database import MIGRATIONS, Database
from drimbox.adapters.documents import Documents
from drimbox.adapters.transactions import SqlTransactions
from drimbox.bootstrap import new_id
from drimbox.flow import inbox
from drimbox.flow.receive_report import Reception
from fixtures.reports import make_cda

_AT = "2026-01-02 03:04:05.000000"
_ADDED = {
    "message": {
        *("sender", "kind", "document", "document_id", "answer", "violations", "studies", "replay_of"),
        "purged_at",
    },
    "report": {"visit", "author_structure"},
}
NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    made = Database(database_url)
    yield made
    made.close()


@pytest.fixture
def documents(tmp_path: Path) -> Documents:
    return Documents(tmp_path / "documents")


def move(database: Database, revision: str, *, down: bool = False) -> None:
    with database.engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        config.attributes["connection"] = connection
        (command.downgrade if down else command.upgrade)(config, revision)


def fill(database: Database, content: str) -> None:
    """An accepted HL7 report, a refused bare CDA, and the report that the first one left, as 0002 kept them."""
    message = "INSERT INTO message VALUES (:id, :at, :door, '127.0.0.1', :control, :content, :verdict, :code, :why, :r)"
    report = (
        "INSERT INTO report (id, document_id, set_id, version, operation, cda, message, received_at, door, flags, "
        "destined_to_dmp, patient_class, sender, state) VALUES ('r1', '1.2.3', '', 1, 'NW', 'c', 'm', :at, 'mllp', "
        "'[]', :yes, 'O', '{}', 'CURRENT')"
    )
    common = {"at": _AT, "content": "m", "code": None, "why": None, "r": None}
    both = (
        common | {"id": "m1", "door": "mllp", "control": "RIS-1", "verdict": "AA", "r": "r1"},
        common
        | {
            "id": "m2",
            "door": "http",
            "control": "",
            "verdict": "AE",
            "content": content,
            "code": "207/903 903",
        },
    )
    with database.engine.begin() as connection:
        for row in both:
            connection.execute(text(message), row)
        connection.execute(text(report), {"at": _AT, "yes": True})


def columns(database: Database, table: str) -> set[str]:
    with database.engine.connect() as connection:
        return {column["name"] for column in inspect(connection).get_columns(table)}


def test_up_and_down_over_rows(database: Database, documents: Documents) -> None:
    move(database, "0002")
    fill(database, documents.put(make_cda()))
    before = {table: columns(database, table) for table in _ADDED}
    move(database, "0003")
    for table, added in _ADDED.items():
        assert columns(database, table) - before[table] == added
    assert "message" not in columns(database, "report")
    with database.engine.connect() as connection:
        kinds = connection.execute(text("SELECT id, kind, sender FROM message ORDER BY id")).all()
        assert [tuple(row) for row in kinds] == [("m1", "", None), ("m2", "CDA", None)]
    move(database, "0002", down=True)
    assert {table: columns(database, table) for table in _ADDED} == before
    with database.engine.connect() as connection:
        assert not {"visit", "receipt"} & set(inspect(connection).get_table_names())
        assert connection.execute(text("SELECT count(*) FROM message")).scalar_one() == 2
        assert connection.execute(text("SELECT document_id, message FROM report")).one() == ("1.2.3", None)
    database.migrate()
    assert database.revision()[0] == database.revision()[1]


def test_what_came_before_is_listed_shown_and_replayed(
    database: Database, documents: Documents, tmp_path: Path
) -> None:
    move(database, "0002")
    fill(database, documents.put(make_cda()))
    database.migrate()
    archive = Archive(tmp_path / "images", 0)
    transactions = SqlTransactions(database, archive)
    assert {row["id"]: row["studies"] for row in inbox.list_messages(transactions)} == {"m1": [], "m2": []}
    shown = inbox.show_message(transactions, documents, "m1")
    assert (shown["violations"], shown["acknowledgement"]) == ([], None)
    assert shown["report"]["document_id"] == "1.2.3"
    reception = Reception(transactions, documents, "Europe/Paris", new_id, lambda: "A")
    done = inbox.replay_message(reception, "m2", (), NOW)
    assert (done["kind"], done["verdict"], done["submitted"]) == ("CDA", "AA", True)
    archive.close()
