"""Instances whose rows were lost with the power get them back from their segments; nothing else comes back."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import Dataset
from sqlalchemy.exc import OperationalError

from dicom_store.compaction import Compaction
from dicom_store.segment_care import SegmentCare
from dicom_store.sink import StoreCommand
from dicom_store.status import Outcome, StoreRefused
from drimbox.adapters.database import Database
from drimbox.adapters.transactions import SqlTransaction
from drimbox.bootstrap import utc_now
from drimbox.domain.lifecycle import StudyState
from drimbox.entrypoints.intake import InstanceIntake, recover
from drimbox.flow.forget_images import forget_images
from drimbox.flow.receive_instance import RECOVERY
from fixtures.images import study_datasets
from fixtures.kept_images import PEER, KeptImages, data_set_of, exam
from fixtures.notes import note_dataset

SPEC = exam(instances=4)
STUDY = SPEC.study_instance_uid
DATASETS = list(study_datasets(SPEC))
NOTE = note_dataset(SPEC, "113001", [(1, 1)])
UIDS = [str(one.SOPInstanceUID) for one in DATASETS]


class Box:
    """Stores whose database can be put back to what it was: rows that the power took."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.images = KeptImages(root)

    def remember(self) -> None:
        """The database as it is now is what survives."""
        for name in ("drimbox.sqlite", "drimbox.sqlite-wal"):
            shutil.copy(self.root / name, self.root / f"{name}.kept")

    def lose_power(self) -> KeptImages:
        """Start again with the database as remembered."""
        self.images.close()
        (self.root / "drimbox.sqlite-shm").unlink(missing_ok=True)
        for name in ("drimbox.sqlite", "drimbox.sqlite-wal"):
            (self.root / name).unlink(missing_ok=True)
            if (kept := self.root / f"{name}.kept").exists():
                kept.rename(self.root / name)
        self.images = KeptImages(self.root)
        recover(self.images.foundation)
        return self.images


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    made = Box(tmp_path / "box")
    yield made
    made.images.close()


def put(intake: InstanceIntake, dataset: Dataset) -> Outcome:
    syntax = str(dataset.file_meta.TransferSyntaxUID)
    command = StoreCommand(str(dataset.SOPClassUID), str(dataset.SOPInstanceUID), syntax, PEER)
    arrival = intake.begin(command)
    arrival.more(memoryview(data_set_of(dataset)))
    return arrival.complete()


def forget(images: KeptImages) -> None:
    images.settle(STUDY)
    forget_images(images.foundation.transactions, STUDY, now=utc_now(), actor="cli:test", reason="test")


@pytest.mark.parametrize("known", [0, 1, 3])
def test_rows_that_are_lost_come_back_from_the_segment(box: Box, known: int) -> None:
    intake = InstanceIntake(box.images.foundation, "pacs:CT1@192.0.2.7")
    if not known:
        box.remember()
    for number, dataset in enumerate(DATASETS, 1):
        assert put(intake, dataset) is Outcome.STORED
        if number == known:
            box.remember()
    intake.close()
    files, metadata = box.images.files(STUDY), box.images.metadata(STUDY)
    images = box.lose_power()
    assert images.files(STUDY) == files
    assert images.metadata(STUDY) == metadata
    rows = images.trace("INSTANCE_STORED")
    assert [one.detail["sop"] for one in rows] == UIDS
    assert [one.actor == RECOVERY for one in rows] == [number > known for number in range(1, 5)]
    assert images.revision(STUDY) == 4
    with images.foundation.transactions.reading() as transaction:
        found = transaction.ledger.exam(STUDY)
        assert found is not None
        assert (found.state, found.reconcile_at is not None) == (StudyState.RECEIVING, True)


def test_the_journal_goes_once_the_rows_are_durable(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    box.remember()
    box.images.store(DATASETS)
    box.images.close()
    journals = box.root / "storage" / "images" / "journal"
    seen: list[int] = []
    real = Database.harden

    def harden(database: Database) -> None:
        seen.append(len(list(journals.iterdir())))
        real(database)

    monkeypatch.setattr(Database, "harden", harden)
    box.lose_power()
    assert seen == [1]
    assert list(journals.iterdir()) == []
    assert len(box.images.files(STUDY)) == 4


def test_what_was_forgotten_stays_forgotten(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its rows are gone, and its bytes are still there when the power goes."""
    images = box.images
    images.store(DATASETS)
    images.settle(STUDY)
    monkeypatch.setattr("drimbox.flow.forget_images._drop", lambda _transactions, _segment: 0)
    forget(images)
    box.remember()
    assert len(images.on_disk()) == 1
    images = box.lose_power()
    assert images.files(STUDY) == {}
    assert len(images.trace("INSTANCE_STORED")) == 4


def test_what_came_after_the_forgetting_comes_back_alone(box: Box) -> None:
    """An association that goes on writes into the segment whose first instances were forgotten."""
    images = box.images
    intake = InstanceIntake(images.foundation, "pacs:CT1@192.0.2.7")
    for dataset in DATASETS[:2]:
        put(intake, dataset)
    forget(images)
    box.remember()
    for dataset in DATASETS[2:]:
        put(intake, dataset)
    intake.close()
    assert len(images.on_disk()) == 1
    assert list(box.lose_power().files(STUDY)) == UIDS[2:]


def test_what_was_forgotten_twice_stays_forgotten(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once more by the same association, in the same segment."""
    images = box.images
    intake = InstanceIntake(images.foundation, "pacs:CT1@192.0.2.7")
    for dataset in DATASETS[:2]:
        put(intake, dataset)
        forget(images)
    monkeypatch.setattr(
        "drimbox.flow.receive_instance.FORGOTTEN", "NEVER_WRITTEN"
    )  # the end in the index alone
    box.remember()
    intake.close()
    assert box.lose_power().files(STUDY) == {}


def test_a_copy_that_nobody_missed_does_not_come_back_after_the_forgetting(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit in doubt left it in a segment without rows; it was sent again, and the study forgotten much later."""
    images = box.images
    first = InstanceIntake(images.foundation, "pacs:CT1@192.0.2.7")
    put(first, DATASETS[0])
    forget(images)

    def fail(_transaction: SqlTransaction) -> None:
        raise OperationalError("COMMIT", None, Exception("disk I/O error"))

    doubtful = InstanceIntake(images.foundation, "pacs:CT1@192.0.2.7")
    with monkeypatch.context() as patched:
        patched.setattr(SqlTransaction, "commit", fail)
        with pytest.raises(StoreRefused):
            put(doubtful, DATASETS[1])
    first.close()
    doubtful.close()
    images.store(DATASETS[1:2])
    images.settle(STUDY)
    assert len(images.on_disk()) == 3
    forget(images)
    box.remember()
    images = box.lose_power()
    assert images.files(STUDY) == {}
    assert [one.actor for one in images.trace("INSTANCE_STORED")].count(RECOVERY) == 0


def test_a_copy_of_a_compaction_gives_nothing_back(box: Box) -> None:
    """It is whole and without rows; the study was forgotten since."""
    images = box.images
    images.store(DATASETS)
    images.settle(STUDY)
    foundation = images.foundation
    care = SegmentCare(foundation.settings.storage.root / "images", 0)
    compaction = Compaction(foundation.archive, care)
    with foundation.database.reading() as session:
        (usage,) = compaction.usages(session, STUDY, None)
    with compaction.copied(usage):
        pass  # and no row is moved
    forget(images)
    box.remember()
    assert len(images.on_disk()) == 1
    care.close()
    images = box.lose_power()
    assert images.files(STUDY) == {}
    assert images.on_disk() == []


def test_an_instance_that_is_known_elsewhere_is_not_touched(box: Box) -> None:
    """Its first copy was damaged and it was sent again: the old record, behind the last row, is another's no more."""
    images = box.images
    images.store(DATASETS[:1])
    (first,) = images.records(STUDY)
    with (images.segments / first.segment).open("r+b") as file:
        file.seek(first.offset + 200)
        file.write(b"spoilt")
    images.store(DATASETS[:1])
    (second,) = images.records(STUDY)
    assert second.segment != first.segment
    with (images.segments / first.segment).open("r+b") as file:
        file.seek(first.offset + 200)
        file.write((images.segments / second.segment).read_bytes()[second.offset + 200 :][:6])
    box.remember()
    images = box.lose_power()
    assert [one.segment for one in images.records(STUDY)] == [second.segment]
    assert [one.actor for one in images.trace("INSTANCE_STORED")].count(RECOVERY) == 0
    assert images.on_disk() == [second.segment]


def test_a_note_without_a_row_was_never_acknowledged(box: Box) -> None:
    """Its commit is durable before the answer: what is whole without a row says nothing of other instances."""
    images = box.images
    images.store(DATASETS)
    box.remember()
    images.store([NOTE])
    assert list(images.files(STUDY)) != []
    images = box.lose_power()
    assert [one.rejected for one in images.records(STUDY)] == [None] * 4


# --- what is durable before the answer ---------------------------------------------------------------------------


@pytest.fixture
def hardened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    said: list[str] = []
    real = Database.harden

    def harden(database: Database) -> None:
        said.append("harden")
        real(database)

    monkeypatch.setattr(Database, "harden", harden)
    return said


def test_new_images_alone_are_given_again_by_their_segments(box: Box, hardened: list[str]) -> None:
    intake = InstanceIntake(box.images.foundation, "pacs:CT1@192.0.2.7")
    for dataset in DATASETS[:3]:
        assert put(intake, dataset) is Outcome.STORED
    assert hardened == []
    assert put(intake, DATASETS[0]) is Outcome.DUPLICATE  # written first, then known
    assert put(intake, DATASETS[1]) is Outcome.DUPLICATE  # looked up first
    assert len(hardened) == 2
    assert put(intake, NOTE) is Outcome.STORED
    assert len(hardened) == 3
    intake.close()
    assert len(box.images.trace("INSTANCE_REPEATED")) == 2


def test_a_row_that_is_pointed_elsewhere_is_durable_at_once(box: Box, hardened: list[str]) -> None:
    images = box.images
    images.store(DATASETS[:1])
    (first,) = images.records(STUDY)
    with (images.segments / first.segment).open("r+b") as file:
        file.seek(first.offset + 200)
        file.write(b"spoilt")
    assert hardened == []
    images.store(DATASETS[:1])
    assert hardened == ["harden"]
    assert images.records(STUDY)[0].segment != first.segment


def test_a_log_that_cannot_be_synced_is_no_success(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """The row is there, perhaps not for long: its bytes stay, and the sender sends again."""
    images = box.images
    intake = InstanceIntake(images.foundation, "pacs:CT1@192.0.2.7")
    put(intake, DATASETS[0])
    real = os.fsync
    log = box.root / "drimbox.sqlite-wal"

    def fsync(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").readlink() == log:
            raise OSError(errno.EIO, "the disk says no")
        real(descriptor)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fsync)
        with pytest.raises(StoreRefused) as refused:
            put(intake, NOTE)
    assert refused.value.outcome is Outcome.OUT_OF_RESOURCES
    intake.close()
    assert images.files(STUDY)[UIDS[0]].endswith(data_set_of(DATASETS[0]))
    again = InstanceIntake(images.foundation, "pacs:CT1@192.0.2.7")
    assert put(again, NOTE) is Outcome.DUPLICATE
    again.close()
