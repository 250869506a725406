"""archive: a study is forgotten; its rows, then its bytes; a crash between the two is swept up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from dicom_store.archive import Archive, ImageWriter
from dicom_store.header import read_header
from dicom_store.index import InstanceRow, NoteRow, SeriesRow, StudyRow
from dicom_store.index_studies import Forgotten
from dicom_store.segments import SegmentDamaged
from dicom_store.status import Outcome
from fixtures.images import StudySpec
from fixtures.notes import note_dataset

NOW = datetime(2026, 1, 2, tzinfo=UTC)
STUDY, OTHER = "1.2.3.4", "1.2.3.5"
Build = Callable[..., Dataset]


class Kept:
    def __init__(self, root: Path, engine: Engine, encode: Callable[[Dataset], bytes]) -> None:
        self.root, self.engine, self.encode = root, engine, encode
        self.archive = Archive(root, 0, clock=lambda: NOW)
        self.writer: ImageWriter = self.archive.writer()

    def put(self, image: Dataset) -> Outcome:
        data = self.encode(image)
        header = read_header(data, image.file_meta.TransferSyntaxUID, image.SOPClassUID, image.SOPInstanceUID)
        with Session(self.engine) as session:
            note = self.archive.note_of(header, data)
            outcome = self.archive.index(session, header, self.writer.append(header, data), note)
            session.commit()
        return outcome

    def close_association(self) -> None:
        self.writer.close()
        self.writer = self.archive.writer()

    def forget(self, study: str = STUDY) -> Forgotten:
        with Session(self.engine) as session:
            forgotten = self.archive.forget(session, study)
            session.commit()
        return forgotten

    def drop(self, *segments: str) -> int:
        with Session(self.engine) as session:
            return self.archive.drop(session, segments)

    def sweep(self) -> int:
        with Session(self.engine) as session:
            return self.archive.sweep(session)

    def read(self, study: str) -> int:
        with Session(self.engine) as session:
            return sum(len(b"".join(self.archive.read(i))) > 0 for i in self.archive.retrieve(session, study))

    def segments(self) -> list[Path]:
        return sorted(self.root.rglob("*.seg"))


@pytest.fixture
def kept(tmp_path: Path, engine: Engine, encode: Callable[[Dataset], bytes], build: Build) -> Iterator[Kept]:
    """Three instances of STUDY in two segments, one of OTHER."""
    made = Kept(tmp_path / "images", engine, encode)
    made.put(build())
    made.put(build(SOPInstanceUID="1.2.3.4.5.2"))
    made.close_association()
    made.put(build(SOPInstanceUID="1.2.3.4.5.3"))
    made.put(build(SOPInstanceUID="1.2.3.5.5.1", SeriesInstanceUID="1.2.3.5.5", StudyInstanceUID=OTHER))
    made.close_association()
    yield made
    made.writer.close()
    made.archive.close()


def test_a_study_is_forgotten(kept: Kept) -> None:
    sizes = sum(path.stat().st_size for path in kept.segments() if STUDY in path.parts)
    forgotten = kept.forget()
    assert (forgotten.instances, len(forgotten.segments)) == (3, 2)
    assert 0 < forgotten.bytes < sizes
    assert len(kept.segments()) == 3, "bytes go only after the commit"
    assert kept.drop(*forgotten.segments) == sizes
    assert (len(kept.segments()), kept.read(OTHER)) == (1, 1)
    with Session(kept.engine) as session:
        assert kept.archive.snapshot(session, STUDY) is None
        assert kept.archive.find(session, "1.2.3.4.5.1") is None
        counts = [
            session.scalar(select(func.count()).select_from(row))
            for row in (StudyRow, SeriesRow, InstanceRow)
        ]
    assert counts == [1, 1, 1]


def test_a_dry_run_changes_nothing(kept: Kept) -> None:
    with Session(kept.engine) as session:
        assert kept.archive.forget(session, STUDY).instances == 3
    assert kept.read(STUDY) == 3
    assert kept.sweep() == 0


def test_an_unknown_study(kept: Kept) -> None:
    assert kept.forget("1.2.9") == Forgotten(0, 0, {})


def test_notes_are_forgotten_with_their_study(kept: Kept) -> None:
    spec = StudySpec(study_instance_uid=STUDY)
    kept.put(note_dataset(spec, "113000", [(1, 1)], "clé"))
    assert kept.forget().instances == 4
    with Session(kept.engine) as session:
        assert session.scalar(select(func.count()).select_from(NoteRow)) == 0


def test_a_crash_before_the_bytes_went(kept: Kept) -> None:
    kept.forget()
    with Session(kept.engine) as session:
        assert len(kept.archive.orphans(session)) == 2
    assert kept.sweep() > 0
    assert len(kept.segments()) == 1
    assert (kept.sweep(), kept.read(OTHER)) == (0, 1)


def test_bytes_with_rows_are_never_dropped(kept: Kept) -> None:
    names = [path.relative_to(kept.root / "segments").as_posix() for path in kept.segments()]
    assert kept.drop(*names) == 0
    assert (kept.read(STUDY), kept.read(OTHER)) == (3, 1)


def test_a_segment_being_written_is_left_alone(kept: Kept, build: Build) -> None:
    image = build(StudyInstanceUID="1.2.9", SeriesInstanceUID="1.2.9.1", SOPInstanceUID="1.2.9.1.1")
    data = kept.encode(image)
    header = read_header(data, image.file_meta.TransferSyntaxUID, image.SOPClassUID, image.SOPInstanceUID)
    place = kept.writer.append(header, data)
    assert kept.sweep() == 0
    with Session(kept.engine) as session:
        assert kept.archive.index(session, header, place) is Outcome.STORED
        session.commit()
    kept.close_association()
    assert kept.sweep() == 0
    assert kept.read("1.2.9") == 1


def test_what_arrives_while_its_study_is_forgotten_stays(kept: Kept, build: Build) -> None:
    """The association writes on into the segment that was forgotten."""
    kept.put(build(SOPInstanceUID="1.2.3.4.5.4"))
    forgotten = kept.forget()
    assert kept.put(build(SOPInstanceUID="1.2.3.4.5.5")) is Outcome.STORED
    kept.close_association()
    kept.drop(*forgotten.segments)
    assert kept.read(STUDY) == 1
    kept.forget()
    kept.sweep()
    assert [path for path in kept.segments() if STUDY in path.parts] == []


def test_a_name_that_is_no_segment(kept: Kept) -> None:
    with pytest.raises(SegmentDamaged):
        kept.drop("../../index.sqlite")


def test_a_forgotten_study_comes_back(kept: Kept, build: Build) -> None:
    forgotten = kept.forget()
    kept.drop(*forgotten.segments)
    assert kept.put(build()) is Outcome.STORED
    assert kept.read(STUDY) == 1
    with Session(kept.engine) as session:
        assert kept.archive.recover(session) == []
