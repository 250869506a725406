"""Notes by real C-STORE through the DICOM door; the fixtures of notes are proper instances."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydicom import dcmread
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from dicom_store.archive import Archive
from dicom_store.header import read_header
from dicom_store.rejection import RejectionNote
from dicom_store.scp import DicomDoor
from dicom_store.sink import Peer, StoreCommand
from dicom_store.status import Outcome
from fixtures.images import SeriesSpec, StudySpec, make_study, uid
from fixtures.notes import TITLES, make_key_image_note, make_rejection_note
from fixtures.sinks import WholeSink

SPEC = StudySpec(series=(SeriesSpec("CT", 3, rows=8, columns=8), SeriesSpec("MR", 1, rows=8, columns=8)))
STUDY = SPEC.study_instance_uid
CT1, CT2, CT3, MR1 = (uid(SPEC, *one) for one in ((1, 1), (1, 2), (1, 3), (2, 1)))


class Sink(WholeSink):
    """What the product does with a note, in short."""

    def __init__(self, archive: Archive, engine: Engine) -> None:
        self._archive, self._engine = archive, engine
        self._writer = archive.writer()

    def store(self, command: StoreCommand, data_set: bytes) -> Outcome:
        header = read_header(
            data_set, command.transfer_syntax, command.sop_class_uid, command.sop_instance_uid
        )
        note = self._archive.note_of(header, data_set)
        with Session(self._engine) as session:
            known = self._archive.recognise(session, self._writer.take(header, data_set))
            outcome = known or self._archive.index(
                session, header, self._writer.append(header, data_set), note
            )
            if isinstance(note, RejectionNote):
                self._archive.reject(session, note, datetime.now(UTC))
            session.commit()
        return outcome

    def close(self) -> None:
        self._writer.close()


class Door:
    def __init__(self, door: DicomDoor, archive: Archive, engine: Engine) -> None:
        self._door, self._archive, self._engine = door, archive, engine

    def push(self, *files: Path) -> str:
        done = subprocess.run(
            ["storescu", "-v", "-R", "-aec", "DRIMBOX", "127.0.0.1", str(self._door.port), *map(str, files)],
            capture_output=True,
            text=True,
            timeout=60,
        )
        return done.stdout + done.stderr

    def shown(self) -> list[str]:
        with Session(self._engine) as session:
            snapshot = self._archive.snapshot(session, STUDY)
        return [] if snapshot is None else [ref.SOPInstanceUID for ref in snapshot.instances]


@pytest.fixture
def door(tmp_path: Path, engine: Engine) -> Iterator[Door]:
    if shutil.which("storescu") is None:
        pytest.skip("dcmtk is not installed")
    archive = Archive(tmp_path / "images", 0)

    def open_sink(_peer: Peer) -> Sink:
        return Sink(archive, engine)

    made = DicomDoor(
        "127.0.0.1", 0, "DRIMBOX", ("STORESCU",), max_associations=4, idle_timeout=30.0,
        max_instance_bytes=10_000_000, open_sink=open_sink, on_refused=lambda _peer, _reason: None,
    )  # fmt: skip
    made.start()
    yield Door(made, archive, engine)
    made.stop(grace=0.2)
    archive.close()


@pytest.mark.parametrize("syntax", ["explicit", "implicit"])
def test_a_rejection_note_by_c_store(door: Door, tmp_path: Path, syntax: str) -> None:
    spec = StudySpec(**{**vars(SPEC), "transfer_syntax": syntax})
    assert door.push(*make_study(tmp_path / "study", spec)).count("Received Store Response (Success)") == 4
    note = make_rejection_note(tmp_path / "notes", spec, "113037", [(1, 2), (2, 1)])
    assert "Received Store Response (Success)" in door.push(note)
    assert door.shown() == [CT1, CT3]
    assert "Received Store Response (Success)" in door.push(note), "twice is harmless"
    assert door.shown() == [CT1, CT3]


def test_a_rejection_note_before_its_study(door: Door, tmp_path: Path) -> None:
    note = make_rejection_note(tmp_path / "notes", SPEC, "113001", [(1, 1)])
    assert "Received Store Response (Success)" in door.push(note)
    assert door.shown() == []
    door.push(*make_study(tmp_path / "study", SPEC))
    assert door.shown() == [CT2, CT3, MR1]


def test_a_rejection_note_of_another_study_is_refused(door: Door, tmp_path: Path) -> None:
    door.push(*make_study(tmp_path / "study", SPEC))
    path = make_rejection_note(tmp_path / "notes", SPEC, "113037", [(1, 1)])
    note = dcmread(path)
    note.CurrentRequestedProcedureEvidenceSequence[0].StudyInstanceUID = "1.2.3"
    note.save_as(path)
    answer = door.push(path)
    assert "Received Store Response (Error: CannotUnderstand)" in answer
    assert door.shown() == [CT1, CT2, CT3, MR1]
    assert "(Success)" in door.push(make_key_image_note(tmp_path / "notes", SPEC, [(1, 1)])), "still serving"


@pytest.mark.parametrize("code", sorted(TITLES))
def test_dciodvfy_finds_no_error_in_a_note(tmp_path: Path, code: str) -> None:
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy is not installed")
    paths = [
        make_rejection_note(tmp_path, SPEC, code, [(1, 1), (2, 1)]),
        make_key_image_note(tmp_path, SPEC, [(1, 1)], "Lésion clé", code),
    ]
    for path in paths:
        done = subprocess.run(["dciodvfy", path], capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout + done.stderr) == (0, "KeyObjectSelectionDocument\n")


def test_notes_are_of_the_study_and_in_series_of_their_own(tmp_path: Path) -> None:
    notes = [dcmread(make_rejection_note(tmp_path, SPEC, "113037", [(1, 1)], number)) for number in (1, 2)]
    images = [dcmread(path) for path in make_study(tmp_path / "study", SPEC)]
    assert {note.StudyInstanceUID for note in notes} == {STUDY}
    assert len({note.SOPInstanceUID for note in notes}) == 2
    assert {one.SeriesInstanceUID for one in notes}.isdisjoint(one.SeriesInstanceUID for one in images)
    reference = notes[0].ContentSequence[0].ReferencedSOPSequence[0]
    first = images[0]
    assert (reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID) == (
        first.SOPClassUID,
        first.SOPInstanceUID,
    )


def test_notes_that_cannot_be_made(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="title"):
        make_rejection_note(tmp_path, SPEC, "1", [(1, 1)])
    with pytest.raises(KeyError):
        make_rejection_note(tmp_path, SPEC, "113037", [(5, 1)])
