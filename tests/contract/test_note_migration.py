"""Migration 0002 goes up over rows that are there, and down again, on both engines."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import inspect, text

from drimbox.adapters.database import MIGRATIONS, Database

_ROWS = (
    "INSERT INTO dicom_study VALUES ('1.2.3', '', '', '', '2026-01-02T00:00:00.000000Z')",
    "INSERT INTO dicom_series VALUES ('1.2.3', '1.2.3.1', 'CT', 1, '', '')",
    "INSERT INTO dicom_instance VALUES ('1.2.3.1.1', '1.2', '1.2', '1.2.3', '1.2.3.1', 1, NULL, '', '', '', "
    "'s', 48, 10, 'x', 'y', '2026-01-02T00:00:00.000000Z')",
)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    made = Database(database_url)
    yield made
    made.close()


def move(database: Database, revision: str) -> None:
    with database.engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        config.attributes["connection"] = connection
        down = revision == "0001" and "dicom_note" in inspect(connection).get_table_names()
        (command.downgrade if down else command.upgrade)(config, revision)


def columns(database: Database) -> set[str]:
    with database.engine.connect() as connection:
        return {column["name"] for column in inspect(connection).get_columns("dicom_instance")}


def test_up_and_down_over_rows(database: Database) -> None:
    move(database, "0001")
    with database.engine.begin() as connection:
        for row in _ROWS:
            connection.execute(text(row))
    before = columns(database)
    move(database, "0002")
    assert columns(database) - before == {"rejected_code", "rejected_at"}
    with database.engine.connect() as connection:
        row = connection.execute(text("SELECT segment, rejected_code FROM dicom_instance")).one()
        assert tuple(row) == ("s", None)
    move(database, "0001")
    assert columns(database) == before
    with database.engine.connect() as connection:
        assert not {"dicom_note", "dicom_rejection"} & set(inspect(connection).get_table_names())
        assert connection.execute(text("SELECT count(*) FROM dicom_instance")).scalar_one() == 1
    database.migrate()
    assert database.revision()[0] == database.revision()[1]
