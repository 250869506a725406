"""The DICOM JSON of an instance: a second record behind its file, found again, or made anew from it."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from dicom_store import metadata as metadata_module
from dicom_store.archive import Archive, ImageWriter, StoredInstance
from dicom_store.header import read_header
from dicom_store.index import INDEXED_CHARACTERS, InstanceRow, SeriesRow, StudyRow
from dicom_store.index_queries import Place, known_end
from dicom_store.segment_record import HEADER, Kind, SegmentDamaged
from dicom_store.segment_writer import Stored, metadata_offset
from dicom_store.segments import Recovered, Segments
from dicom_store.status import Outcome

STUDY = "1.2.3.4"
Build = Callable[..., Dataset]


class Store:
    """An archive and a database, with one association."""

    def __init__(self, root: Path, engine: Engine, encode: Callable[[Dataset], bytes]) -> None:
        self.root, self.engine, self.encode = root, engine, encode
        self.archive = Archive(root, 0)
        self.writer: ImageWriter = self.archive.writer("PACS")

    def put(self, image: Dataset) -> Place:
        data = self.encode(image)
        header = read_header(data, image.file_meta.TransferSyntaxUID, image.SOPClassUID, image.SOPInstanceUID)
        place = self.writer.append(header, data)
        with Session(self.engine) as session:
            assert self.archive.index(session, header, place) is Outcome.STORED
            session.commit()
        return place

    def stored(self) -> list[StoredInstance]:
        with Session(self.engine) as session:
            return self.archive.retrieve(session, STUDY)

    def metadata(self) -> list[dict[str, Any]]:
        return [json.loads(self.archive.metadata(stored)) for stored in self.stored()]

    def file(self, place: Place | StoredInstance) -> Path:
        return self.root / "segments" / place.segment


@pytest.fixture
def store(tmp_path: Path, engine: Engine, encode: Callable[[Dataset], bytes]) -> Iterator[Store]:
    made = Store(tmp_path / "images", engine, encode)
    yield made
    made.writer.close()
    made.archive.close()


# --- one archive -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.4.80"])
def test_bulk_data_is_where_the_metadata_says(store: Store, build: Build, syntax: str) -> None:
    for number in (1, 2):
        store.put(build(syntax, 3000, SOPInstanceUID=f"1.2.3.4.5.{number}", InstanceNumber=number))
    for number, stored in enumerate(store.stored(), 1):
        metadata = json.loads(store.archive.metadata(stored))
        assert metadata["00200013"]["Value"] == [number]
        assert metadata["00081030"]["Value"] == ["Contrôle"]
        offset, length = map(int, metadata["7FE00010"]["BulkDataURI"].removeprefix("bulkdata/").split("-"))
        file = b"".join(store.archive.read(stored))
        pixels = build(syntax, 3000).PixelData
        assert file[offset : offset + length].startswith(pixels)
        assert offset + length == len(file)


def test_the_record_lies_behind_the_file(store: Store, build: Build) -> None:
    place = store.put(build())
    (stored,) = store.stored()
    extent = store.archive.metadata_extent(stored)
    assert extent == (place.segment, metadata_offset(place.offset, place.length), place.metadata_length)
    segment, offset, length = extent
    store.writer.close()  # without its reserve
    content = store.file(place).read_bytes()
    assert content[offset : offset + length] == store.archive.metadata(stored)
    assert len(content) == offset + length
    with Session(store.engine) as session:
        assert known_end(session, segment) == len(content)


def test_a_row_without_metadata_has_it_made_from_the_file(
    store: Store, build: Build, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    prepared = store.put(build())
    expected = store.archive.metadata(store.stored()[0])
    with monkeypatch.context() as patch:
        patch.setattr(metadata_module, "instance_json", lambda *_, **__: {}["PAT^ONE"])
        caplog.set_level(logging.ERROR)
        place = store.put(build(SOPInstanceUID="1.2.3.4.5.2", InstanceNumber=2))
    assert (prepared.metadata_length, place.metadata_length) == (len(expected), None)
    assert "no metadata of 1.2.3.4.5.2: KeyError" in caplog.text
    assert "PAT" not in caplog.text
    stored = store.stored()[1]
    assert store.archive.metadata_extent(stored) is None
    assert json.loads(store.archive.metadata(stored))["00080018"]["Value"] == ["1.2.3.4.5.2"]
    assert list(store.metadata()[0]) == list(store.metadata()[1])
    last = store.put(build(SOPInstanceUID="1.2.3.4.5.3", InstanceNumber=3))
    assert last.offset == place.offset + place.length + HEADER.size
    assert [m["00200013"]["Value"] for m in store.metadata()] == [[1], [2], [3]]


def test_metadata_that_is_lost_is_made_from_the_file(store: Store, build: Build) -> None:
    place = store.put(build())
    store.writer.close()
    expected = store.archive.metadata(store.stored()[0])
    os.truncate(store.file(place), place.offset + place.length + 10)
    assert store.archive.metadata(store.stored()[0]) == expected
    os.truncate(store.file(place), place.offset + place.length - 1)
    with pytest.raises(SegmentDamaged):
        store.archive.metadata(store.stored()[0])


def test_a_row_that_is_pointed_to_other_bytes_has_their_metadata(store: Store, build: Build) -> None:
    first = store.put(build())
    store.writer.close()
    store.file(first).unlink()
    second = store.put(build())
    (stored,) = store.stored()
    assert (stored.segment, stored.metadata_length) == (second.segment, second.metadata_length)
    assert store.metadata()[0]["00100020"]["Value"] == ["IPP101"]


def test_the_index_answers_searches(store: Store, build: Build) -> None:
    store.put(build(PatientName="", SOPInstanceUID="1.2.3.4.5.9", StudyID=""))
    store.put(
        build(
            PatientName="PAT^TWO=山田",
            PatientSex="F",
            ReferringPhysicianName="REF^ONE",
            StudyID="S1",
            TimezoneOffsetFromUTC="+0200",
            PerformedProcedureStepStartDate="20260102",
            PerformedProcedureStepStartTime="101112",
            BitsAllocated=8,
        )
    )
    with Session(store.engine) as session:
        study = session.scalars(select(StudyRow)).one()
        series = session.scalars(select(SeriesRow)).one()
        instance = session.get_one(InstanceRow, "1.2.3.4.5.1")
    assert (study.patient_name, study.patient_id, study.patient_birth_date) == (
        "PAT^TWO=山田",
        "IPP101",
        "19800101",
    )
    assert (study.patient_sex, study.accession_number, study.study_id) == ("F", "ACN111", "S1")
    assert (study.referring_physician_name, study.timezone_offset_from_utc) == ("REF^ONE", "+0200")
    assert series.performed_procedure_step_start_date == "20260102"
    assert series.performed_procedure_step_start_time == "101112"
    assert (instance.rows, instance.columns, instance.bits_allocated) == (1, 64, 8)


def test_a_text_longer_than_any_index_takes(store: Store, build: Build) -> None:
    noise = os.urandom(1900).hex()  # does not compress
    with pytest.warns(UserWarning, match="exceeds the maximum length"):
        image = build(PatientID=noise, AccessionNumber=noise)
    store.put(image)
    with Session(store.engine) as session:
        study = session.scalars(select(StudyRow)).one()
        assert study.patient_id == noise[:INDEXED_CHARACTERS]
        assert session.scalars(select(InstanceRow)).one().patient_id == noise


# --- segments ----------------------------------------------------------------------------------------------


def abandoned(root: Path, *metadata: bytes | None) -> tuple[list[Stored], Segments]:
    """What a process that died left: a record per `metadata`."""
    dead = Segments(root, 0)
    writer = dead.writer(STUDY)
    stored = [writer.append([b"file%d" % n], one) for n, one in enumerate(metadata)]
    writer.close()
    dead.close()
    return stored, Segments(root, 0)


def end_of(stored: Stored) -> int:
    if stored.metadata_length is None:
        return stored.offset + stored.length
    return metadata_offset(stored.offset, stored.length) + stored.metadata_length


def content(segments: Segments, stored: Stored) -> tuple[bytes, bytes | None]:
    file = b"".join(segments.read(stored.segment, stored.offset, stored.length))
    if stored.metadata_length is None:
        return file, None
    offset = metadata_offset(stored.offset, stored.length)
    return file, b"".join(segments.read(stored.segment, offset, stored.metadata_length, kind=Kind.DICOM_JSON))


def test_both_records_are_read_back(tmp_path: Path) -> None:
    metadata = [b"{}", None, b"", b'{"a":1}' * 1000]
    stored, segments = abandoned(tmp_path, *metadata)
    assert [content(segments, one) for one in stored] == [(b"file%d" % n, m) for n, m in enumerate(metadata)]
    assert segments.recover(lambda _: end_of(stored[-1])) == []
    segments.close()


def test_a_record_is_of_its_kind(tmp_path: Path) -> None:
    (only,), segments = abandoned(tmp_path, b"{...}")
    offset = metadata_offset(only.offset, only.length)
    with pytest.raises(SegmentDamaged):
        list(segments.read(only.segment, offset, 5))
    with pytest.raises(SegmentDamaged):
        list(segments.read(only.segment, only.offset, only.length, kind=Kind.DICOM_JSON))
    assert not segments.holds(only.segment, offset, 5)
    segments.close()


@pytest.mark.parametrize("kept", range(1, HEADER.size + 5))
def test_a_torn_second_record_is_cut_with_its_file(tmp_path: Path, kept: int) -> None:
    (first, second), segments = abandoned(tmp_path, b"first", b"second")
    torn = second.offset + second.length + kept
    os.truncate(tmp_path / "segments" / first.segment, torn)
    found = segments.recover(lambda _: end_of(first))
    assert found == [Recovered(first.segment, end_of(first), torn - end_of(first), dropped_records=1)]
    assert content(segments, first) == (b"file0", b"first")
    segments.close()


def test_only_files_count_as_records(tmp_path: Path) -> None:
    (first, _, third), segments = abandoned(tmp_path, b"1", None, b"3")
    found = segments.recover(lambda _: end_of(first))
    assert found == [
        Recovered(first.segment, end_of(first), end_of(third) - end_of(first), dropped_records=2)
    ]
    segments.close()


def test_a_row_whose_second_record_is_missing_is_reported(tmp_path: Path) -> None:
    (only,), segments = abandoned(tmp_path, b"metadata")
    os.truncate(tmp_path / "segments" / only.segment, only.offset + only.length)
    (shorter,) = segments.recover(lambda _: end_of(only))
    assert shorter.damaged
    assert b"".join(segments.read(only.segment, only.offset, only.length)) == b"file0"
    segments.close()


def test_recover_keeps_the_metadata_of_committed_rows(store: Store, build: Build) -> None:
    store.put(build())
    expected = store.metadata()
    other = build(SOPInstanceUID="1.2.3.4.5.2")
    data = store.encode(other)
    header = read_header(data, other.file_meta.TransferSyntaxUID, other.SOPClassUID, other.SOPInstanceUID)
    store.writer.append(header, data)  # and the process dies before its row is committed
    store.writer.close()
    store.archive.close()
    with Session(store.engine) as session:
        (found,) = store.archive.recover(session)
    assert (found.dropped_records, found.damaged) == (1, "")
    assert store.metadata() == expected
    assert store.archive.metadata_extent(store.stored()[0]) is not None


def test_a_view_reads_the_file_in_place(tmp_path: Path) -> None:
    segments = Segments(tmp_path, 0)
    writer = segments.writer(STUDY)
    payloads = [os.urandom(n) for n in (5000, 1, 70_000)]
    stored = [writer.append([payload], b"{}") for payload in payloads]
    writer.close()
    for one, payload in zip(stored, payloads, strict=True):
        assert segments.view(one.segment, one.offset, one.length) == payload
    with pytest.raises(SegmentDamaged):
        segments.view(stored[0].segment, stored[0].offset, 4999)
    os.truncate(tmp_path / "segments" / stored[-1].segment, stored[-1].offset + 10)
    with pytest.raises(SegmentDamaged):
        segments.view(stored[-1].segment, stored[-1].offset, stored[-1].length)
    segments.close()
