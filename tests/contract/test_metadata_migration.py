"""Migration 0004 over a database with instances of before it: searched, served, metadata made on demand."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from pynetdicom.dsutils import encode
from sqlalchemy import inspect, text

from dicom_store.archive import Archive
from dicom_store.header import read_header
from dicom_store.part10 import file_start
from dicom_store.segment_writer import Stored
from dicom_store.segments import Segments
from drimbox.adapters.database import MIGRATIONS, Database
from fixtures.images import StudySpec, study_datasets

STUDY, SERIES = "1.2.250.1.999.1.901", "1.2.250.1.999.1.901.1"
_AT = "2026-01-02T03:04:05.000000Z"
_ADDED = {
    "dicom_study": {
        *("patient_name", "patient_id", "patient_birth_date", "patient_sex", "accession_number"),
        *("referring_physician_name", "study_id", "timezone_offset_from_utc"),
    },
    "dicom_series": {"performed_procedure_step_start_date", "performed_procedure_step_start_time"},
    "dicom_instance": {"rows", "columns", "bits_allocated", "metadata_length"},
}


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    made = Database(database_url)
    yield made
    made.close()


def move(database: Database, revision: str, *, down: bool = False) -> None:
    with database.engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        config.attributes["connection"] = connection
        (command.downgrade if down else command.upgrade)(config, revision)


def columns(database: Database) -> dict[str, set[str]]:
    with database.engine.connect() as connection:
        tables = inspect(connection)
        return {table: {column["name"] for column in tables.get_columns(table)} for table in _ADDED}


def write_as_before(root: Path) -> list[tuple[str, str, str, Stored]]:
    """Two instances as they were kept until now: no second record. (SOP class, instance, syntax, place)."""
    segments = Segments(root, 0)
    writer = segments.writer(STUDY)
    kept = []
    spec = StudySpec(series_uid_pattern=SERIES)
    for dataset in list(study_datasets(spec))[:2]:
        data, syntax = encode(dataset, False, True), str(dataset.file_meta.TransferSyntaxUID)
        assert data is not None
        header = read_header(data, syntax, dataset.SOPClassUID, dataset.SOPInstanceUID)
        place = writer.append([file_start(header, "PACS"), data])
        kept.append((str(dataset.SOPClassUID), str(dataset.SOPInstanceUID), syntax, place))
    writer.close()
    segments.close()
    return kept


def fill(database: Database, kept: list[tuple[str, str, str, Stored]]) -> None:
    instance = text(
        "INSERT INTO dicom_instance (sop_instance_uid, sop_class_uid, transfer_syntax_uid, study_instance_uid, "
        "series_instance_uid, instance_number, patient_id, patient_birth_date, accession_number, segment, "
        "payload_offset, payload_length, payload_sha256, data_set_sha256, received_at) VALUES (:sop, :class, :syntax, "
        f"'{STUDY}', '{SERIES}', :number, :patient, '19790328', 'ACN901', :segment, :offset, :length, :sha, 'd', :at)"
    )
    with database.engine.begin() as connection:
        connection.execute(text(f"INSERT INTO dicom_study VALUES ('{STUDY}', '20260914', '', '', '{_AT}')"))
        connection.execute(text(f"INSERT INTO dicom_study VALUES ('1.9', '{'9' * 400}', '', '', '{_AT}')"))
        connection.execute(text(f"INSERT INTO dicom_series VALUES ('{STUDY}', '{SERIES}', 'CT', 1, '', '')"))
        for number, (sop_class, sop, syntax, place) in enumerate(kept, 1):
            values = {
                "sop": sop, "class": sop_class, "syntax": syntax, "number": number, "segment": place.segment,
                "offset": place.offset, "length": place.length, "sha": place.sha256, "at": _AT,
                "patient": "" if number == 1 else "IPP901",
            }  # fmt: skip
            connection.execute(instance, values)


def test_up_and_down_over_rows(database: Database, tmp_path: Path) -> None:
    move(database, "0003")
    fill(database, write_as_before(tmp_path))
    before = columns(database)
    move(database, "0004")
    assert {table: names - before[table] for table, names in columns(database).items()} == _ADDED
    with database.engine.connect() as connection:
        indexes = {index["name"] for index in inspect(connection).get_indexes("dicom_study")}
        row = connection.execute(
            text("SELECT patient_id, accession_number, patient_name FROM dicom_study ORDER BY study_date")
        ).all()
        longest = connection.execute(text("SELECT max(length(study_date)) FROM dicom_study")).scalar_one()
    assert indexes == {
        f"ix_dicom_study_{c}" for c in ("study_date", "patient_id", "patient_name", "accession_number")
    }
    assert [tuple(r) for r in row] == [("IPP901", "ACN901", ""), ("", "", "")]
    assert longest == 256
    move(database, "0003", down=True)
    assert columns(database) == before
    with database.engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM dicom_instance")).scalar_one() == 2
    database.migrate()
    assert database.revision()[0] == database.revision()[1]


def test_what_came_before_is_served_with_metadata(database: Database, tmp_path: Path) -> None:
    move(database, "0003")
    kept = write_as_before(tmp_path)
    fill(database, kept)
    database.migrate()
    archive = Archive(tmp_path, 0)
    with database.reading() as session:
        assert archive.recover(session) == []
        stored = archive.retrieve(session, STUDY)
        snapshot = archive.snapshot(session, STUDY)
    assert snapshot is not None
    assert snapshot.PatientIDs == ("IPP901",)
    assert [one.metadata_length for one in stored] == [None, None]
    for (_, sop, _, _), one in zip(kept, stored, strict=True):
        assert archive.metadata_extent(one) is None
        metadata = json.loads(archive.metadata(one))
        assert metadata["00080018"]["Value"] == [sop]
        assert metadata["00100010"]["Value"] == [{"Alphabetic": "PAT-TROIS^DOMINIQUE"}]
        offset, length = map(int, metadata["7FE00010"]["BulkDataURI"].removeprefix("bulkdata/").split("-"))
        assert offset + length == sum(len(piece) for piece in archive.read(one)) == one.length
    archive.close()
