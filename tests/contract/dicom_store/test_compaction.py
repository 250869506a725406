"""compaction on both engines: what stays is copied byte for byte, what goes is gone, readers notice nothing."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from dicom_store.compaction import Compaction, Copied, Settled, Usage
from dicom_store.free_space import StorageFull
from dicom_store.index import InstanceRow, SeriesRow, StudyRow
from dicom_store.segment_care import SegmentBusy, SegmentCare
from dicom_store.segment_record import SegmentDamaged
from dicom_store.verification import Pace, Verifier
from fixtures.images import study_datasets
from fixtures.kept_images import KeptImages, exam
from fixtures.notes import note_dataset

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
LATER = datetime(2099, 1, 1, tzinfo=UTC)


class Cared(KeptImages):
    """Four instances of one exam in one segment, two of them rejected."""

    def __init__(self, root: Path, url: str) -> None:
        super().__init__(root, url)
        self.care = SegmentCare(root / "storage" / "images", 0)
        self.compaction = Compaction(self.foundation.archive, self.care)
        self.spec = self.store_exam(instances=4)
        self.study = self.spec.study_instance_uid
        self.whole = self.files(self.study)
        self.json = self.metadata(self.study)
        (self.old,) = self.on_disk()

    def reject(self, *numbers: int) -> list[str]:
        self.store([note_dataset(self.spec, "113001", [(1, number) for number in numbers])])
        return [one.sop_instance_uid for one in self.records(self.study) if one.rejected]

    @contextmanager
    def session(self, *, commit: bool = False) -> Iterator[Session]:
        with self.foundation.transactions.writing() as transaction:
            yield transaction.storage.session
            if commit:
                transaction.commit()

    def usage(self, before: datetime | None = LATER) -> Usage:
        with self.session() as session:
            found = self.compaction.usages(session, self.study, before)
        return next(one for one in found if one.segment == self.old)

    def move(self, copied: Copied) -> Settled:
        with self.session(commit=True) as session:
            return self.compaction.settle(session, copied, datetime.now(UTC))

    def compact(self) -> Settled:
        with self.compaction.copied(self.usage()) as copied:
            return self.move(copied)

    def drop_retired(self, before: datetime = LATER) -> int:
        with self.session(commit=True) as session:
            waiting = self.compaction.retired(session, before)
            return sum(self.compaction.drop_retired(session, one, before) for one in waiting)

    def findings(self) -> list[str]:
        with self.foundation.transactions.reading() as transaction:
            records = transaction.storage.records_of(self.study)
            retired = transaction.storage.retired()
        check = Verifier(self.care, Pace(0)).check(self.study, records, retired)
        return [one.kind for one in check.findings]


@pytest.fixture
def cared(tmp_path: Path, database_url: str) -> Iterator[Cared]:
    made = Cared(tmp_path, database_url)
    yield made
    made.care.close()
    made.close()


def test_nothing_is_wasted_while_nothing_is_rejected(cared: Cared) -> None:
    usage = cared.usage()
    assert (len(usage.staying), usage.going, usage.waste) == (4, (), 0.0)
    assert usage.needed == usage.size


def test_the_rejected_are_waste_only_after_their_time(cared: Cared) -> None:
    cared.reject(1, 2)
    assert len(cared.usage(LATER).going) == 2
    assert 0.4 < cared.usage(LATER).waste < 0.6
    assert cared.usage(LONG_AGO).waste == cared.usage(None).waste == 0.0


def test_what_stays_is_the_same_byte_for_byte(cared: Cared) -> None:
    gone = cared.reject(1, 2)
    before = cared.files(cared.study)
    settled = cared.compact()
    assert (settled.moved, sorted(settled.purged)) == (2, sorted(gone))
    assert settled.freed > 0
    after = cared.files(cared.study)
    assert after == {uid: data for uid, data in before.items() if uid not in gone}
    assert {uid: cared.json[uid] for uid in after if uid in cared.json} == {
        uid: data for uid, data in cared.metadata(cared.study).items() if uid in cared.json
    }
    assert cared.findings() == []


def test_readers_of_the_old_segment_are_not_disturbed(cared: Cared) -> None:
    cared.reject(1, 2)
    with cared.foundation.database.reading() as session:
        known = cared.foundation.archive.retrieve(session, cared.study)
    cared.compact()
    read = {one.ref.SOPInstanceUID: b"".join(cared.foundation.archive.read(one)) for one in known}
    assert {uid: read[uid] for uid in cared.whole} == cared.whole
    assert cared.drop_retired(LONG_AGO) == 0
    assert cared.old in cared.on_disk()
    with cared.session() as session:
        assert cared.foundation.archive.sweep(session) == 0, "a retired segment is no orphan"
    assert cared.drop_retired() > 0
    assert cared.old not in cared.on_disk()
    assert cared.drop_retired() == 0
    assert cared.findings() == []


def test_a_dead_process_does_not_take_a_retired_segment_away(cared: Cared) -> None:
    """Its journal is settled at a start within the grace."""
    cared.reject(1, 2)
    cared.compact()
    size = (cared.segments / cared.old).stat().st_size
    cared.foundation.archive.close()
    cared.care.close()
    with cared.session() as session:
        assert cared.foundation.archive.recover(session) == []
    assert (cared.segments / cared.old).stat().st_size == size


def test_when_nothing_stays_no_copy_is_made(cared: Cared) -> None:
    cared.reject(1, 2, 3, 4)
    before = cared.on_disk()
    settled = cared.compact()
    assert (settled.moved, len(settled.purged)) == (0, 4)
    assert cared.on_disk() == before
    assert len(cared.files(cared.study)) == 1, "the note stays"


def test_purged_instances_that_come_back_are_hidden_again(cared: Cared) -> None:
    gone = cared.reject(1, 2)
    cared.compact()
    cared.store(study_datasets(cared.spec))
    back = {one.sop_instance_uid: one.rejected for one in cared.records(cared.study)}
    assert {uid: back[uid] for uid in gone} == dict.fromkeys(gone, "113001")
    assert {uid: data for uid, data in cared.files(cared.study).items() if uid in cared.whole} == cared.whole


def test_series_and_study_go_with_their_last_instance(cared: Cared) -> None:
    with cared.session(commit=True) as session:
        session.execute(update(InstanceRow).values(rejected_code="113001", rejected_at=LONG_AGO))
    assert len(cared.compact().purged) == 4
    with cared.session() as session:
        counts = [session.scalar(select(func.count()).select_from(row)) for row in (StudyRow, SeriesRow)]
        assert counts == [0, 0]
        assert cared.foundation.archive.snapshot(session, cared.study) is None


def test_a_segment_being_written_is_not_compacted(cared: Cared) -> None:
    usage = cared.usage()
    held = os.open(cared.segments / cared.old, os.O_RDWR)
    fcntl.flock(held, fcntl.LOCK_EX)
    with cared.session() as session:
        found = cared.compaction.usages(session, cared.study, LATER)
    assert cared.old not in [one.segment for one in found]
    with pytest.raises(SegmentBusy), cared.compaction.copied(usage):
        pass
    os.close(held)


def test_damage_is_never_moved(cared: Cared) -> None:
    cared.reject(1, 2)
    path = cared.segments / cared.old
    staying = cared.usage().staying[0]
    with path.open("r+b") as file:
        file.seek(staying.offset + staying.length - 1)
        file.write(b"\xff")
    before = cared.on_disk()
    with pytest.raises(SegmentDamaged, match="SHA-256"):
        cared.compact()
    assert cared.on_disk() == before
    assert cared.findings() == ["damaged"]


def test_a_full_disk_changes_nothing(cared: Cared, monkeypatch: pytest.MonkeyPatch) -> None:
    cared.reject(1, 2)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    before, files = cared.on_disk(), cared.files(cared.study)
    monkeypatch.setattr(os, "sendfile", full)
    with pytest.raises(StorageFull):
        cared.compact()
    assert cared.on_disk() == before
    assert cared.files(cared.study) == files


def test_the_free_space_that_must_remain(cared: Cared, tmp_path: Path) -> None:
    cared.reject(1, 2)
    volume = os.statvfs(tmp_path)
    strict = SegmentCare(tmp_path / "storage" / "images", volume.f_blocks * volume.f_frsize)
    with (
        pytest.raises(StorageFull, match="less free space"),
        Compaction(cared.foundation.archive, strict).copied(cared.usage()),
    ):
        pass
    strict.close()


def test_a_commit_that_failed_leaves_the_old_rows_and_a_copy_to_sweep(cared: Cared) -> None:
    cared.reject(1, 2)
    files = cared.files(cared.study)
    with cared.compaction.copied(cared.usage()) as copied, cared.session() as session:
        cared.compaction.settle(session, copied, LATER)
    assert cared.files(cared.study) == files
    assert copied.segment in cared.on_disk()
    assert "orphaned" in cared.findings()
    with cared.session() as session:
        assert cared.compaction.sweep_study(session, cared.study) > 0
    assert copied.segment not in cared.on_disk()
    assert cared.files(cared.study) == files
    assert cared.findings() == []


def test_a_copy_is_not_swept_before_its_commit(cared: Cared) -> None:
    cared.reject(1, 2)
    with cared.compaction.copied(cared.usage()) as copied:
        with cared.session() as session:
            assert cared.compaction.sweep_study(session, cared.study) == 0
            assert cared.foundation.archive.sweep(session) == 0
        cared.move(copied)
    assert cared.findings() == []


def test_two_compactions_of_one_segment(cared: Cared) -> None:
    cared.reject(1, 2)
    usage = cared.usage()
    with cared.compaction.copied(usage) as copied:
        with pytest.raises(SegmentBusy), cared.compaction.copied(usage):
            pass
        cared.move(copied)
    # the second one comes with what it saw before: no row is where it was
    with cared.compaction.copied(usage) as copied:
        assert cared.move(copied).moved == 0
    assert cared.findings() == ["orphaned"]
    with cared.session() as session:
        cared.compaction.sweep_study(session, cared.study)
    assert cared.findings() == []


def test_an_instance_that_came_back_meanwhile_is_not_purged(cared: Cared) -> None:
    cared.store([note_dataset(cared.spec, "113039", [(1, 1), (1, 2)])])
    usage = cared.usage()
    assert len(usage.going) == 2
    with cared.compaction.copied(usage) as copied:
        cared.store(study_datasets(cared.spec))  # 113039 ends when it is stored again
        settled = cared.move(copied)
    assert settled.purged == ()
    assert {uid: data for uid, data in cared.files(cared.study).items() if uid in cared.whole} == cared.whole
    assert cared.findings() == []


def test_images_arrive_while_a_segment_is_compacted(cared: Cared) -> None:
    cared.reject(1, 2)
    other = exam(instances=12)
    bringing = threading.Thread(target=cared.store, args=(list(study_datasets(other)),))
    with cared.compaction.copied(cared.usage()) as copied:
        bringing.start()
        cared.move(copied)
    bringing.join()
    assert len(cared.files(cared.study)) >= 11
    assert cared.findings() == []


def test_the_waste_of_a_forgotten_study_is_seen(cared: Cared) -> None:
    """What arrived on while the study was forgotten shares its segment with what has no row."""
    kept = next(iter(cared.whole))
    with cared.session(commit=True) as session:
        session.execute(delete(InstanceRow).where(InstanceRow.sop_instance_uid != kept))
    usage = cared.usage()
    assert usage.waste > 0.7
    assert "orphaned" in cared.findings()
    assert cared.compact().moved == 1
    assert cared.files(cared.study) == {kept: cared.whole[kept]}
    assert cared.findings() == []
