"""From every released revision to the newest, over rows of that revision, on both engines; what they say is read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from pynetdicom.dsutils import encode
from sqlalchemy import text

from dicom_store.archive import Archive
from dicom_store.header import read_header
from dicom_store.part10 import file_start
from dicom_store.segments import Segments
from drimbox.adapters.database import MIGRATIONS, Database, known_revisions
from drimbox.adapters.documents import Documents
from drimbox.adapters.schema import examine
from drimbox.adapters.transactions import SqlTransactions
from drimbox.flow import exams, inbox
from fixtures.images import StudySpec, study_datasets
from fixtures.reports import make_cda

STUDY, SERIES = "1.2.250.1.999.1.901", "1.2.250.1.999.1.901.1"
AT, TEXT_AT = "2026-01-02 03:04:05.000000", "2026-01-02T03:04:05.000000Z"
INS, OID = "279035121518989", "1.2.250.1.213.1.4.10"

# Columns that every revision has, in words that both engines take.
ROWS = {
    "exam": "study_instance_uid='{study}', state='SETTLED', revision=4, changed_at='{at}', last_instance_at='{at}', "
    "judged='4 x'",
    "report": "id='r1', document_id='1.2.3', set_id='', version=1, operation='NW', cda='{cda}', received_at='{at}', "
    "door='mllp', flags='[]', destined_to_dmp=true, patient_class='O', sender='{{}}', state='CURRENT', "
    "patient_ins='{ins}', patient_oid='{oid}'",
    "report_study": "report_id='r1', study_instance_uid='{study}'",
    "report_parent": "report_id='r1', document_id='1.2.2'",
    "message": "id='m1', received_at='{at}', door='mllp', peer='192.0.2.7', control_id='RIS-1', content='{cda}', "
    "verdict='AA', report_id='r1'",
    "submission": "id='s1', study_instance_uid='{study}', kind='publish', state='REGISTERED', content_key='k', "
    "kos_uid='2.25.7', submission_set_uid='1.2.3.4', signature_uid='2.25.8', request='q', vihf='{{}}', report_id='r1', "
    "patient_ins='{ins}', patient_oid='{oid}', revision=4, created_at='{at}', since='{at}', origin='made', "
    "entry_uuid='urn:uuid:7', attempts=1, endings=1",
    "gate": "name='dmp', since='{at}', until='{at}', reason='certificate'",
    "trace": "at='{at}', event='REGISTERED', actor='worker:old', study_instance_uid='{study}', submission_id='s1', "
    "detail='{{}}'",
    "dicom_study": "study_instance_uid='{study}', study_date='20260914', study_time='', study_description='', "
    "received_at='{text_at}'",
    "dicom_series": "study_instance_uid='{study}', series_instance_uid='{series}', modality='CT', series_number=1, "
    "series_description='', body_part_examined=''",
    "dicom_instance": "sop_instance_uid='{sop}', sop_class_uid='{sop_class}', transfer_syntax_uid='{syntax}', "
    "study_instance_uid='{study}', series_instance_uid='{series}', instance_number=1, patient_id='IPP901', "
    "patient_birth_date='19790328', accession_number='ACN901', segment='{segment}', payload_offset={offset}, "
    "payload_length={length}, payload_sha256='{sha256}', data_set_sha256='d', received_at='{text_at}'",
}  # fmt: skip


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    made = Database(database_url)
    yield made
    made.close()


def keep_an_image(root: Path) -> dict[str, Any]:
    """A file in a segment, as it was kept from the first version on, and what its row says."""
    dataset = next(iter(study_datasets(StudySpec(series_uid_pattern=SERIES))))
    data, syntax = encode(dataset, False, True), str(dataset.file_meta.TransferSyntaxUID)
    assert data is not None
    header = read_header(data, syntax, dataset.SOPClassUID, dataset.SOPInstanceUID)
    segments = Segments(root, 0)
    writer = segments.writer(STUDY)
    place = writer.append([file_start(header, "PACS"), data])
    writer.close()
    segments.close()
    return {
        "sop": dataset.SOPInstanceUID, "sop_class": dataset.SOPClassUID, "syntax": syntax, "segment": place.segment,
        "offset": place.offset, "length": place.length, "sha256": place.sha256,
    }  # fmt: skip


def go_to(database: Database, revision: str) -> None:
    with database.engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


def fill(database: Database, values: dict[str, Any]) -> None:
    with database.engine.begin() as connection:
        for table, assignments in ROWS.items():
            pairs = [one.partition("=") for one in assignments.format(**values).split(", ")]
            names, given = ", ".join(pair[0] for pair in pairs), ", ".join(pair[2] for pair in pairs)
            connection.execute(text(f"INSERT INTO {table} ({names}) VALUES ({given})"))


def test_an_empty_database_becomes_the_newest(database: Database) -> None:
    told: list[str] = []
    database.migrate(told.append)
    assert told == known_revisions()
    assert examine(database).faults == []


@pytest.mark.parametrize("revision", known_revisions()[:-1])
def test_what_a_revision_kept_is_read_by_the_newest(
    database: Database, tmp_path: Path, revision: str
) -> None:
    documents, image = Documents(tmp_path / "documents"), keep_an_image(tmp_path / "images")
    values = image | {"cda": documents.put(make_cda()), "study": STUDY, "series": SERIES}
    go_to(database, revision)
    fill(database, values | {"at": AT, "text_at": TEXT_AT, "ins": INS, "oid": OID})
    database.migrate()
    assert examine(database).faults == []
    archive = Archive(tmp_path / "images", 0)
    transactions = SqlTransactions(database, archive)
    shown = exams.show_exam(transactions, documents, STUDY, "Europe/Paris")
    assert (shown["state"], shown["instances"], shown["series"]) == ("SETTLED", 1, 1)
    assert (shown["patient"]["ins"], [one["current"] for one in shown["reports"]]) == (INS, [True])
    assert (shown["manifest"]["status"], shown["manifest"]["sop_instance_uid"]) == ("published", "2.25.7")
    assert [one["event"] for one in exams.trace_exam(transactions, STUDY)] == ["REGISTERED"]
    assert [one["id"] for one in inbox.list_messages(transactions)] == ["m1"]
    with database.reading() as session:
        (stored,) = archive.retrieve(session, STUDY)
    digest = hashlib.sha256()
    for piece in archive.read(stored):
        digest.update(piece)
    assert digest.hexdigest() == image["sha256"]
    archive.close()
