"""The archive under the eyes of somebody who wants to lose an image: each test is a way in which one was lost."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from dicom_store import index_segments, journal
from dicom_store.archive import Archive
from dicom_store.compaction import Compaction
from dicom_store.journal import Journal
from dicom_store.segment_care import SegmentCare
from dicom_store.segment_writer import Stored
from dicom_store.segments import Segments
from dicom_store.verification import Pace, Verifier
from drimbox.entrypoints.intake import InstanceIntake, recover
from fixtures.instances import PEER, InstanceSpec
from fixtures.kept_images import KeptImages, exam
from fixtures.notes import note_dataset

STUDY = "1.2.3.4"
LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
LATER = datetime(2099, 1, 1, tzinfo=UTC)


@pytest.fixture
def segments(tmp_path: Path) -> Iterator[Segments]:
    store = Segments(tmp_path / "images", 0)
    yield store
    store.close()


@pytest.fixture
def box(tmp_path: Path, database_url: str) -> Iterator[KeptImages]:
    made = KeptImages(tmp_path / "box", database_url)
    yield made
    made.close()


def content(segments: Segments, stored: Stored) -> bytes:
    return b"".join(segments.read(stored.segment, stored.offset, stored.length))


def put(intake: InstanceIntake, spec: InstanceSpec) -> str:
    arrival = intake.begin(spec.command)
    arrival.more(memoryview(spec.data_set))
    return str(arrival.complete())


def once(call: Callable[[], Any]) -> Callable[[], None]:
    """Calls it the first time, and does nothing afterwards; not while it is at it either."""
    done: list[bool] = []

    def first() -> None:
        if not done:
            done.append(True)
            call()

    return first


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


# --- a start while another process writes ------------------------------------------------------------------


def test_what_is_acknowledged_while_a_door_starts_is_not_cut(
    box: KeptImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A snapshot of before the other process's last commit would say that its segment ends earlier."""
    images = tmp_path / "box" / "storage" / "images"
    abandoned(images, b"never indexed")
    (first,) = (images / "journal").iterdir()
    first.rename(first.with_name("00.journal"))  # settled first
    other = Archive(images, 0)
    intake = InstanceIntake(box.foundation, "stow:test@192.0.2.7")
    intake._writer = other.writer()
    put(intake, InstanceSpec(1))

    def finish() -> None:
        put(intake, InstanceSpec(2))
        intake.close()
        other.close()

    bring, real = once(finish), index_segments.needed_end

    def needed_end(session: Any, segment: str) -> int:
        found = real(session, segment)
        bring()
        return found

    monkeypatch.setattr(index_segments, "needed_end", needed_end)
    recover(box.foundation)
    kept = box.files(InstanceSpec().study)
    assert {uid: file[-len(InstanceSpec(1).data_set) :] for uid, file in kept.items()} == {
        spec.sop: spec.data_set for spec in (InstanceSpec(1), InstanceSpec(2))
    }


def abandoned(root: Path, *payloads: bytes) -> list[Stored]:
    """What a process that died left: a segment for each payload, without rows."""
    dead = Segments(root, 0)
    stored = []
    for payload in payloads:
        writer = dead.writer(STUDY)
        stored.append(writer.append([payload]))
        writer.close()
    dead.close()
    return stored


def test_one_bad_sector_does_not_keep_the_door_shut(
    segments: Segments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "images"
    bad, good = abandoned(root, b"bad", b"good")
    real = os.ftruncate

    def ftruncate(descriptor: int, length: int) -> None:
        if os.path.samestat(os.fstat(descriptor), (root / "segments" / bad.segment).stat()):
            raise OSError(errno.EIO, "Input/output error")
        real(descriptor, length)

    monkeypatch.setattr(os, "ftruncate", ftruncate)
    found = {one.segment: one for one in segments.recover(lambda _: 0)}
    assert "Input/output error" in found[bad.segment].damaged
    assert found[good.segment].dropped_records == 1
    assert not (root / "segments" / good.segment).exists()
    monkeypatch.undo()
    (again,) = segments.recover(lambda _: 0)
    assert (again.segment, again.damaged) == (bad.segment, ""), (
        "its journal stayed: the next start tries again"
    )
    assert list((root / "journal").iterdir()) == []


def test_a_segment_that_somebody_looks_after_is_left_to_the_next_start(
    segments: Segments, tmp_path: Path
) -> None:
    """A compaction may be moving its rows just now."""
    root = tmp_path / "images"
    (one,) = abandoned(root, b"compacted now")
    with SegmentCare(root, 0).sealed(one.segment):
        assert segments.recover(lambda _: 0) == []
        assert content(segments, one) == b"compacted now"
    assert [found.segment for found in segments.recover(lambda _: 0)] == [one.segment]


def test_a_segment_that_somebody_deletes_meanwhile(
    segments: Segments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "images"
    (one,) = abandoned(root, b"swept now")
    real = os.fsync

    def fsync(descriptor: int) -> None:
        (root / "segments" / one.segment).unlink(missing_ok=True)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    assert [found.damaged for found in segments.recover(lambda _: 0)] == [""]


# --- two processes and one new file ------------------------------------------------------------------------


@contextmanager
def before_its_lock(monkeypatch: pytest.MonkeyPatch, call: Callable[[str], object]) -> Iterator[None]:
    """`call` hears the path of the next segment file that is locked for writing, just before it is."""
    real = fcntl.flock
    waiting = [True]

    def flock(descriptor: int, operation: int) -> None:
        path = str(Path(f"/proc/self/fd/{descriptor}").readlink())
        if waiting and path.endswith(".seg") and operation & fcntl.LOCK_EX:
            waiting.clear()
            call(path)
        real(descriptor, operation)

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", flock)
        yield


def name_of(path: str) -> str:
    return path.partition("/segments/")[2]


def test_a_new_segment_that_was_swept_before_it_was_locked(
    segments: Segments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is written to a file without a name is gone with its descriptor."""
    sweeping = Segments(tmp_path / "images", 0)
    writer = segments.writer(STUDY)
    with before_its_lock(monkeypatch, lambda path: sweeping.drop(name_of(path), lambda _: 0)):
        stored = writer.append([b"acknowledged"])
    writer.close()
    assert content(segments, stored) == b"acknowledged"


def test_a_new_copy_that_was_swept_before_it_was_locked(
    segments: Segments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (one,) = abandoned(tmp_path / "images", b"to be copied")
    care = SegmentCare(tmp_path / "images", 0)
    with care.sealed(one.segment) as source:
        copy = care.begin_copy(STUDY, 100)
        with before_its_lock(monkeypatch, lambda path: segments.drop(name_of(path), lambda _: 0)):
            copy.take(source, 0, one.offset + one.length)
        copy.finish()
        copy.close()
    assert b"".join(segments.read(copy.segment, one.offset, one.length)) == b"to be copied"
    care.close()


def test_a_new_segment_that_somebody_looks_at_just_now(
    segments: Segments, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`drimbox verify` asks whether it is sealed: that is no reason to refuse an instance."""
    looking: list[threading.Timer] = []

    def look(path: str) -> None:
        held = os.open(path, os.O_RDONLY)
        fcntl.flock(held, fcntl.LOCK_SH)
        looking.append(threading.Timer(0.1, os.close, (held,)))
        looking[0].start()

    writer = segments.writer(STUDY)
    with before_its_lock(monkeypatch, look):
        stored = writer.append([b"kept"])
    writer.close()
    looking[0].join()
    assert content(segments, stored) == b"kept"


# --- the journal -------------------------------------------------------------------------------------------


def test_a_journal_that_cannot_be_begun_leaves_no_descriptor_and_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(journal, "sync_directory", fail)
    made, before = Journal(tmp_path), descriptors()
    for _ in range(5):
        with pytest.raises(OSError, match="Input/output"):
            made.enter("ab/cd/1.2/x.seg")
    assert descriptors() == before
    assert list(tmp_path.iterdir()) == []


def test_journals_are_settled_where_a_lock_needs_a_descriptor_that_writes(
    segments: Segments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS, which several nodes share: flock(2), EBADF."""
    (one,) = abandoned(tmp_path / "images", b"x")
    real = fcntl.flock

    def flock(descriptor: int, operation: int) -> None:
        writes = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
        if operation & fcntl.LOCK_EX and not writes:
            raise OSError(errno.EBADF, "Bad file descriptor")
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    assert [found.segment for found in segments.recover(lambda _: 0)] == [one.segment]


# --- an instance that is sent again ------------------------------------------------------------------------


@pytest.mark.parametrize("pixels", [1000, 2_000_000])
def test_bytes_that_rotted_are_no_duplicate(box: KeptImages, pixels: int) -> None:
    """Success means that these very bytes are kept: the sender may delete its copy."""
    spec = InstanceSpec(1, pixels=pixels)
    box_intake(box, spec)
    (one,) = box.records(spec.study)
    whole = box.files(spec.study)
    with (box.segments / one.segment).open("r+b") as file:
        file.seek(one.offset + one.length - 3)
        file.write(b"\xff")
    assert box_intake(box, spec) == "stored"
    assert box.files(spec.study) == whole
    assert box_intake(box, spec) == "duplicate"


def box_intake(box: KeptImages, spec: InstanceSpec) -> str:
    intake = InstanceIntake(box.foundation, f"pacs:{PEER.ae_title}@{PEER.address}")
    outcome = put(intake, spec)
    intake.close()
    return outcome


@pytest.mark.parametrize(
    ("number", "told"), [(errno.EIO, "damaged"), (errno.EMFILE, "OSError"), (errno.EACCES, "OSError")]
)
def test_only_a_disk_that_lost_bytes_damages_images(
    cared: Cared, monkeypatch: pytest.MonkeyPatch, number: int, told: str
) -> None:
    """`drimbox verify` by somebody who may not read them is no loss."""
    records = cared.box.records(cared.study)
    one = next(one for one in records if one.segment == cared.old)
    bad, real = (cared.box.segments / cared.old).stat().st_ino, os.pread

    def pread(descriptor: int, length: int, offset: int) -> bytes:
        if os.fstat(descriptor).st_ino == bad and offset == one.offset:
            raise OSError(number, os.strerror(number))
        return real(descriptor, length, offset)

    monkeypatch.setattr(os, "pread", pread)
    verifier = Verifier(cared.care, Pace(0))
    if told == "OSError":
        with pytest.raises(OSError, match=os.strerror(number)):
            verifier.check(cared.study, records, frozenset())
    else:
        (found,) = verifier.check(cared.study, records, frozenset()).findings
        assert (found.kind, found.sop_instance_uid) == (told, one.sop_instance_uid)


def test_what_the_disk_cannot_read_is_taken_again(box: KeptImages, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = InstanceSpec(1)
    box_intake(box, spec)
    (one,) = box.records(spec.study)
    bad, real = (box.segments / one.segment).stat().st_ino, os.pread

    def pread(descriptor: int, length: int, offset: int) -> bytes:
        if os.fstat(descriptor).st_ino == bad and offset == one.offset:
            raise OSError(errno.EIO, "Input/output error")
        return real(descriptor, length, offset)

    monkeypatch.setattr(os, "pread", pread)
    assert box_intake(box, spec) == "stored"
    assert [file[-len(spec.data_set) :] for file in box.files(spec.study).values()] == [spec.data_set]


# --- retired segments --------------------------------------------------------------------------------------


class Cared:
    """An exam with rejected instances, and what compacts it."""

    def __init__(self, box: KeptImages) -> None:
        self.box = box
        self.care = SegmentCare(box.segments.parent, 0)
        self.compaction = Compaction(box.foundation.archive, self.care)
        spec = box.store_exam()
        self.study = spec.study_instance_uid
        (self.old,) = box.on_disk()
        box.store([note_dataset(spec, "113001", [(1, 1), (1, 2)])])

    @contextmanager
    def session(self) -> Iterator[Any]:
        with self.box.foundation.transactions.writing() as transaction:
            yield transaction.storage.session
            transaction.commit()

    def compact(self) -> None:
        with self.session() as session:
            usages = self.compaction.usages(session, self.study, LATER)
        (usage,) = (one for one in usages if one.segment == self.old)
        with self.compaction.copied(usage) as copied, self.session() as session:
            self.compaction.settle(session, copied, datetime.now(UTC))


@pytest.fixture
def cared(box: KeptImages) -> Iterator[Cared]:
    made = Cared(box)
    yield made
    made.care.close()


def test_a_segment_that_was_forgotten_before_it_was_compacted_has_its_grace(cared: Cared) -> None:
    """Forgotten while its association wrote on: a row without grace was there already."""
    with cared.session() as session:
        index_segments.retire(session, cared.old, 0, LONG_AGO)
    cared.compact()
    with cared.session() as session:
        assert index_segments.retired(session, LONG_AGO) == {}
        assert index_segments.retired(session)[cared.old] == (cared.box.segments / cared.old).stat().st_size


def test_a_sweep_beside_a_compaction_leaves_the_grace(cared: Cared, monkeypatch: pytest.MonkeyPatch) -> None:
    if cared.box.foundation.database.engine.dialect.name == "sqlite":
        pytest.skip("SQLite has one writer at a time")
    compact, real = once(cared.compact), index_segments.retired

    def retired(*arguments: Any) -> dict[str, int]:
        found = real(*arguments)
        compact()
        return found

    monkeypatch.setattr(index_segments, "retired", retired)
    with cared.session() as session:
        cared.compaction.sweep_study(session, cared.study)
    assert cared.old in cared.box.on_disk()
    assert exam().study_instance_uid == cared.study
