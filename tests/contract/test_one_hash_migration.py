"""Migration 0007 over rows, up and down; what came before it is recognised when it is sent again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import inspect, text

from dicom_store import incoming
from dicom_store.instance import InstanceHeader
from dicom_store.part10 import file_start
from drimbox.adapters.database import MIGRATIONS, Database
from drimbox.entrypoints.intake import InstanceIntake
from fixtures.instances import InstanceSpec
from fixtures.kept_images import KeptImages

SPECS = [InstanceSpec(number) for number in (1, 2)]


@pytest.fixture
def images(tmp_path: Path, database_url: str) -> Iterator[KeptImages]:
    made = KeptImages(tmp_path / "box", database_url)
    yield made
    made.foundation.archive.close()
    made.foundation.database.close()


def move(database: Database, revision: str, *, down: bool = False) -> None:
    with database.engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        config.attributes["connection"] = connection
        (command.downgrade if down else command.upgrade)(config, revision)


def send(images: KeptImages, spec: InstanceSpec) -> str:
    intake = InstanceIntake(images.foundation, "pacs:CT1@192.0.2.7")
    arrival = intake.begin(spec.command)
    arrival.more(memoryview(spec.data_set))
    outcome = arrival.complete()
    intake.close()
    return str(outcome)


def shape(database: Database) -> tuple[dict[str, bool], set[str]]:
    """(columns of the instances and whether they may be NULL, names of their indexes)."""
    with database.engine.connect() as connection:
        found = inspect(connection)
        columns = {one["name"]: bool(one["nullable"]) for one in found.get_columns("dicom_instance")}
        return columns, {str(one["name"]) for one in found.get_indexes("dicom_instance")}


def an_older_start(header: InstanceHeader, _source: str = "") -> bytes:
    """As it was written by a version whose file meta was another."""
    return file_start(header, "OLDER")


def test_up_and_down_over_rows(images: KeptImages, monkeypatch: pytest.MonkeyPatch) -> None:
    database = images.foundation.database
    with monkeypatch.context() as older_version:
        older_version.setattr(incoming, "file_start", an_older_start)
        assert [send(images, spec) for spec in SPECS] == ["stored", "stored"]
    newest = shape(database)
    move(database, "0006", down=True)
    older = shape(database)
    assert {name for name in newest[0] if newest[0][name] != older[0][name]} == {"data_set_sha256"}
    assert newest[1] == older[1]
    with database.engine.begin() as connection:
        rows = connection.execute(text("SELECT data_set_sha256 FROM dicom_instance")).scalars().all()
        assert rows == ["", ""]
        for number, spec in enumerate(SPECS, 1):
            connection.execute(
                text("UPDATE dicom_instance SET data_set_sha256 = :digest WHERE instance_number = :number"),
                {"digest": hashlib.sha256(spec.data_set).hexdigest(), "number": number},
            )
    database.migrate()
    assert shape(database) == newest
    assert [send(images, spec) for spec in SPECS] == ["duplicate", "duplicate"]


def test_an_old_row_whose_bytes_are_lost_takes_the_same_again(images: KeptImages) -> None:
    send(images, SPECS[0])
    with images.foundation.database.engine.begin() as connection:
        digest = hashlib.sha256(SPECS[0].data_set).hexdigest()
        connection.execute(
            text("UPDATE dicom_instance SET payload_sha256 = 'x', data_set_sha256 = :digest"),
            {"digest": digest},
        )
    next(images.segments.rglob("*.seg")).unlink()
    assert send(images, SPECS[0]) == "stored"
    assert send(images, SPECS[0]) == "duplicate"
