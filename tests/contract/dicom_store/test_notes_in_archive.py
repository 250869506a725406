"""archive: notes hide and mark instances in any order, under the caller's transaction, on both engines."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from dicom_store.archive import Archive, ImageWriter
from dicom_store.header import read_header
from dicom_store.index import InstanceRow, RejectionRow
from dicom_store.index_notes import Rejected
from dicom_store.rejection import KEY_OBJECT_SELECTION, Reference, RejectionNote
from dicom_store.status import Outcome, StoreRefused
from dicom_store.study import StudySnapshot
from fixtures.images import SeriesSpec, StudySpec, study_datasets, uid
from fixtures.notes import note_dataset

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)
SPEC = StudySpec(series=(SeriesSpec("CT", 3, rows=2, columns=2), SeriesSpec("MR", 2, rows=2, columns=2)))
STUDY = SPEC.study_instance_uid
EVERY = [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2)]
CT1, CT2, CT3, MR1, MR2 = (uid(SPEC, *one) for one in EVERY)


class Department:
    """What the door does: note, index, reject, one commit."""

    def __init__(self, root: Path, engine: Engine, encode: Callable[[Dataset], bytes]) -> None:
        self.archive = Archive(root, 0, clock=lambda: NOW)
        self.engine, self.encode = engine, encode
        self.writer: ImageWriter = self.archive.writer("PACS")

    def send(self, dataset: Dataset, at: datetime = NOW) -> tuple[Outcome, Rejected | None]:
        data = self.encode(dataset)
        header = read_header(
            data, dataset.file_meta.TransferSyntaxUID, dataset.SOPClassUID, dataset.SOPInstanceUID
        )
        note = self.archive.note_of(header, data)
        with Session(self.engine) as session:
            outcome = self.archive.recognise(session, self.writer.take(header, data))
            session.rollback()
            if outcome is None:
                outcome = self.archive.index(session, header, self.writer.append(header, data), note)
            rejected = self.archive.reject(session, note, at) if isinstance(note, RejectionNote) else None
            session.commit()
        return outcome, rejected

    def reject(
        self, code: str, references: list[tuple[int, int]], number: int = 1, at: datetime = NOW
    ) -> Rejected:
        rejected = self.send(note_dataset(SPEC, code, references, number=number), at)[1]
        assert rejected is not None
        return rejected

    def snapshot(self, study: str = STUDY) -> StudySnapshot:
        with Session(self.engine) as session:
            found = self.archive.snapshot(session, study)
        assert found is not None
        return found

    def shown(self) -> list[str]:
        return [ref.SOPInstanceUID for ref in self.snapshot().instances]

    def retrieved(self) -> dict[str, str | None]:
        with Session(self.engine) as session:
            return {i.ref.SOPInstanceUID: i.rejected for i in self.archive.retrieve(session, STUDY)}


@pytest.fixture
def empty(tmp_path: Path, engine: Engine, encode: Callable[[Dataset], bytes]) -> Iterator[Department]:
    made = Department(tmp_path / "images", engine, encode)
    yield made
    made.writer.close()
    made.archive.close()


@pytest.fixture
def department(empty: Department) -> Department:
    """With the study of SPEC."""
    for dataset in study_datasets(SPEC):
        assert empty.send(dataset) == (Outcome.STORED, None)
    return empty


def test_note_of_is_only_asked_of_key_objects(department: Department) -> None:
    (first, *_) = study_datasets(SPEC)
    header = read_header(
        department.encode(first), first.file_meta.TransferSyntaxUID, first.SOPClassUID, first.SOPInstanceUID
    )
    assert department.archive.note_of(header, b"no data set at all") is None
    with pytest.raises(StoreRefused):
        department.archive.note_of(replace(header, SOPClassUID=KEY_OBJECT_SELECTION), b"no data set at all")


def test_a_rejected_instance_leaves_the_snapshot(department: Department) -> None:
    assert department.reject("113001", [(1, 2)]) == Rejected((CT2,), (), ())
    assert department.shown() == [CT1, CT3, MR1, MR2]
    assert department.snapshot().rejected == ((CT2, "113001"),)
    retrieved = department.retrieved()
    assert {one: code for one, code in retrieved.items() if code} == {CT2: "113001"}
    with Session(department.engine) as session:
        row = session.scalars(select(InstanceRow).where(InstanceRow.sop_instance_uid == CT2)).one()
        assert row.rejected_at == NOW
        found = department.archive.find(session, CT2)
    assert found is not None
    assert found.rejected == "113001"


def test_a_rejection_note_is_kept_and_never_shown(department: Department) -> None:
    department.reject("113037", [(1, 1)])
    note = uid(SPEC, 9001, 1)
    assert note not in department.shown()
    assert uid(SPEC, 9001) not in {series.SeriesInstanceUID for series in department.snapshot().series}
    with Session(department.engine) as session:
        assert department.archive.find(session, note) is not None


def test_a_rejection_note_says_nothing_of_the_study(empty: Department) -> None:
    note = note_dataset(replace(SPEC, description="of the note", patient_id="OTHER"), "113001", [(1, 2)])
    empty.send(note)
    for dataset in study_datasets(SPEC):
        empty.send(dataset)
    snapshot = empty.snapshot()
    assert (snapshot.StudyDescription, snapshot.PatientIDs) == (SPEC.description, (SPEC.patient_id,))


def test_rejected_instances_say_nothing_of_the_patient(department: Department) -> None:
    (wrong,) = study_datasets(
        replace(SPEC, patient_id="WRONG", series=(SeriesSpec("CR", 1, number=7, rows=2, columns=2),))
    )
    department.send(wrong)
    assert department.snapshot().PatientIDs == (SPEC.patient_id, "WRONG")
    spec = replace(SPEC, series=(*SPEC.series, SeriesSpec("CR", 1, number=7)))
    department.send(note_dataset(spec, "113038", [(7, 1)]))
    assert department.snapshot().PatientIDs == (SPEC.patient_id,)


def test_when_all_is_rejected_the_study_is_still_known(department: Department) -> None:
    department.reject("113037", EVERY)
    snapshot = department.snapshot()
    assert (snapshot.series, snapshot.PatientIDs) == ((), ())
    assert snapshot.rejected == tuple(sorted((one, "113037") for one in (CT1, CT2, CT3, MR1, MR2)))


def test_a_note_before_its_instances(empty: Department) -> None:
    assert empty.reject("113037", [(1, 2), (2, 1)]) == Rejected((), tuple(sorted((CT2, MR1))), ())
    assert empty.snapshot().instances == ()
    for dataset in study_datasets(SPEC):
        assert empty.send(dataset)[0] is Outcome.STORED
    assert empty.shown() == [CT1, CT3, MR2]
    assert dict(empty.snapshot().rejected) == {CT2: "113037", MR1: "113037"}


def test_the_same_note_twice(department: Department) -> None:
    department.reject("113001", [(1, 2)])
    before = department.snapshot()
    outcome, rejected = department.send(note_dataset(SPEC, "113001", [(1, 2)]), LATER)
    assert (outcome, rejected) == (Outcome.DUPLICATE, Rejected((), (), (CT2,)))
    assert department.snapshot() == before
    with Session(department.engine) as session:
        assert session.scalar(select(func.count()).select_from(RejectionRow)) == 1


def test_a_note_that_has_not_been_indexed(department: Department) -> None:
    note = RejectionNote("1.2.3.9", STUDY, "113001", (Reference(STUDY, uid(SPEC, 1), CT1),))
    with Session(department.engine) as session:
        assert department.archive.reject(session, note, NOW).hidden == (CT1,)
        session.commit()
    assert CT1 not in department.shown()


@pytest.mark.parametrize(
    ("codes", "counts"),
    [
        (("113001", "113037"), "113037"),
        (("113037", "113001"), "113037"),
        (("113038", "113037"), "113038"),
        (("113039", "113001"), "113001"),
        (("113001", "113039"), "113001"),
    ],
)
def test_of_several_notes_the_strongest_counts(
    department: Department, codes: tuple[str, str], counts: str
) -> None:
    assert department.reject(codes[0], [(1, 1)], 1).hidden == (CT1,)
    assert department.reject(codes[1], [(1, 1), (1, 2)], 2, LATER) == Rejected((CT2,), (), (CT1,))
    assert dict(department.snapshot().rejected) == {CT1: counts, CT2: codes[1]}


def test_instances_of_another_study_are_not_touched(department: Department) -> None:
    """A note can only reject in its own study, whatever UIDs it names."""
    note = RejectionNote("1.2.3.9", "1.2.3", "113037", (Reference("1.2.3", "", CT1),))
    with Session(department.engine) as session:
        assert department.archive.reject(session, note, NOW) == Rejected((), (CT1,), ())
        session.commit()
    assert CT1 in department.shown()


def test_stored_again_after_a_rejection(department: Department) -> None:
    department.reject("113001", [(1, 1)])
    (first, *_) = study_datasets(SPEC)
    assert department.send(first)[0] is Outcome.DUPLICATE
    assert CT1 not in department.shown()


def test_stored_again_after_its_retention_had_expired(department: Department) -> None:
    department.reject("113039", [(1, 1), (1, 2)])
    first, second, *_ = study_datasets(SPEC)
    assert department.send(first)[0] is Outcome.STORED
    assert department.shown() == [CT1, CT3, MR1, MR2]
    assert department.send(first)[0] is Outcome.DUPLICATE
    # the very same note again rejects nothing again; another one does
    assert department.reject("113039", [(1, 1), (1, 2)]) == Rejected((), (), tuple(sorted((CT1, CT2))))
    assert CT1 in department.shown()
    assert department.reject("113039", [(1, 1)], 2).hidden == (CT1,)
    assert department.send(second)[0] is Outcome.STORED
    assert department.shown() == [CT2, CT3, MR1, MR2]


def test_stored_again_with_a_stronger_reason_beside(department: Department) -> None:
    department.reject("113039", [(1, 1)], 1)
    department.reject("113037", [(1, 1)], 2)
    (first, *_) = study_datasets(SPEC)
    assert department.send(first)[0] is Outcome.DUPLICATE
    assert department.snapshot().rejected == ((CT1, "113037"),)


def test_other_bytes_do_not_come_back(department: Department) -> None:
    department.reject("113039", [(1, 1)])
    (first, *_) = study_datasets(SPEC)
    first.ImageComments = "altered"
    with pytest.raises(StoreRefused) as refused:
        department.send(first)
    assert refused.value.outcome is Outcome.DIFFERENT_BYTES


def test_what_was_forgotten_stays_rejected(department: Department) -> None:
    department.reject("113037", [(1, 1)], 1)
    department.reject("113039", [(1, 2)], 2)
    with Session(department.engine) as session:
        department.archive.forget(session, STUDY)
        session.commit()
        assert department.archive.snapshot(session, STUDY) is None
    assert department.reject("113001", [(1, 3)], 3) == Rejected((), (CT3,), ()), "purged instances: no fault"
    for dataset in study_datasets(SPEC):
        assert department.send(dataset)[0] is Outcome.STORED
    # expired and stored again: it has come back
    assert department.shown() == [CT2, MR1, MR2]
    assert dict(department.snapshot().rejected) == {CT1: "113037", CT3: "113001"}


def test_nothing_is_rejected_without_commit(department: Department) -> None:
    note = RejectionNote("1.2.3.9", STUDY, "113001", (Reference(STUDY, uid(SPEC, 1), CT1),))
    with Session(department.engine) as session:
        department.archive.reject(session, note, NOW)
    assert CT1 in department.shown()


def test_a_note_and_an_instance_at_once(empty: Department) -> None:
    """Two associations: whoever commits first, the instance ends up hidden."""
    first, *others = study_datasets(SPEC)
    for dataset in others:
        empty.send(dataset)
    for number in range(1, 9):
        note = note_dataset(SPEC, "113037", [(1, 1)], number=number)
        gate = threading.Barrier(2)

        def bring(dataset: Dataset, gate: threading.Barrier = gate) -> None:
            mine = Department.__new__(Department)
            mine.archive, mine.engine, mine.encode = empty.archive, empty.engine, empty.encode
            with empty.archive.writer() as mine.writer:
                gate.wait(10)
                mine.send(dataset)

        threads = [threading.Thread(target=bring, args=(one,)) for one in (first, note)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert empty.shown() == [CT2, CT3, MR1, MR2]
        with Session(empty.engine) as session:
            empty.archive.forget(session, STUDY)
            session.query(RejectionRow).delete()
            session.commit()
        for dataset in others:
            empty.send(dataset)


def test_two_thousand_references(department: Department) -> None:
    references = tuple(Reference(STUDY, "", f"1.2.3.4.{n}") for n in range(2000))
    note = RejectionNote("1.2.3.9", STUDY, "113037", (*references, Reference(STUDY, "", CT1)))
    with Session(department.engine) as session:
        rejected = department.archive.reject(session, note, NOW)
        session.commit()
    assert (rejected.hidden, len(rejected.remembered)) == ((CT1,), 2000)


# --- key image notes -----------------------------------------------------------------------------------------


def test_a_key_image_note_is_an_instance_and_a_fact(department: Department) -> None:
    key = note_dataset(SPEC, "113000", [(1, 2)], "Lésion", number=101)
    assert department.send(key) == (Outcome.STORED, None)
    snapshot = department.snapshot()
    (note,) = snapshot.key_image_notes
    assert (note.SOPInstanceUID, note.references, note.description) == (key.SOPInstanceUID, (CT2,), "Lésion")
    assert snapshot.series[-1].Modality == "KO"
    assert [ref.SOPInstanceUID for ref in snapshot.series[-1].instances] == [key.SOPInstanceUID]


def test_key_image_notes_are_sorted_and_kept_once(department: Department) -> None:
    for number in (103, 101, 102, 103):
        department.send(note_dataset(SPEC, "113000", [(1, 1)], "x", number=number))
    notes = department.snapshot().key_image_notes
    assert len(notes) == 3
    assert list(notes) == sorted(notes)


def test_a_rejected_key_image_note_marks_nothing(department: Department) -> None:
    department.send(note_dataset(SPEC, "113000", [(1, 2)], "Lésion", number=101))
    spec = replace(SPEC, series=(*SPEC.series, SeriesSpec("CR", 1, number=9101)))
    department.send(note_dataset(spec, "113001", [(9101, 1)]))
    assert department.snapshot().key_image_notes == ()
    assert "KO" not in {series.Modality for series in department.snapshot().series}


def test_a_manifest_is_an_instance_like_any(department: Department) -> None:
    manifest = note_dataset(SPEC, "113030", EVERY, number=50)
    assert department.send(manifest) == (Outcome.STORED, None)
    assert manifest.SOPInstanceUID in department.shown()
    assert department.snapshot().key_image_notes == ()
