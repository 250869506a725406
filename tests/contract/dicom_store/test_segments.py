"""segments: what is written is durable and found again; what a crash leaves is settled."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dicom_store import journal
from dicom_store.free_space import StorageFull
from dicom_store.paths import InvalidUID, study_directory
from dicom_store.segment_record import SegmentDamaged
from dicom_store.segment_writer import Stored
from dicom_store.segments import Recovered, Segments
from dicom_store.status import Outcome

STUDY = "1.2.3.4"
HEADER = 48


@pytest.fixture
def segments(tmp_path: Path) -> Iterator[Segments]:
    store = Segments(tmp_path / "images", 0)
    yield store
    store.close()


def file_of(segments: Segments, stored: Stored) -> Path:
    return segments._base / stored.segment


def content(segments: Segments, stored: Stored, chunk: int = 256 * 1024) -> bytes:
    return b"".join(segments.read(stored.segment, stored.offset, stored.length, chunk))


def abandoned(root: Path, payloads: list[bytes]) -> tuple[list[Stored], Segments]:
    """What a process that died left: its journal unlocked, its segment closed."""
    dead = Segments(root, 0)
    writer = dead.writer(STUDY)
    stored = [writer.append([payload]) for payload in payloads]
    writer.close()
    dead.close()
    return stored, Segments(root, 0)


def end_of(stored: Stored) -> int:
    return stored.offset + stored.length


def test_records_are_read_back(segments: Segments) -> None:
    writer = segments.writer(STUDY)
    payloads = [
        [b"one"],
        [b"", b"tw", memoryview(b"o")],
        [os.urandom(700_000)],
        [bytes([n]) for n in range(2000 % 256)],
    ]
    stored = [writer.append(parts) for parts in payloads]
    for record, parts in zip(stored, payloads, strict=True):
        whole = b"".join(parts)
        assert content(segments, record) == whole
        assert content(segments, record, chunk=7 if len(whole) < 1000 else 100_000) == whole
        assert record.sha256 == hashlib.sha256(whole).hexdigest()
        assert segments.holds(record.segment, record.offset, record.length)
    assert len({record.segment for record in stored}) == 1
    writer.close()
    writer.close()
    with pytest.raises(ValueError, match="closed"):
        writer.append([b"x"])


def test_more_buffers_than_one_call_takes(segments: Segments) -> None:
    writer = segments.writer(STUDY)
    assert content(segments, writer.append([b"ab"] * 3000)) == b"ab" * 3000
    writer.close()


def test_partial_writes_are_continued(segments: Segments, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwritev
    monkeypatch.setattr(os, "pwritev", lambda fd, buffers, at: real(fd, [buffers[0][:5]], at))
    writer = segments.writer(STUDY)
    stored = writer.append([b"hello ", b"", b"world, again"])
    writer.close()
    assert content(segments, stored) == b"hello world, again"


def test_the_layout_is_the_studys(segments: Segments) -> None:
    writer = segments.writer(STUDY)
    stored = writer.append([b"x"])
    writer.close()
    assert Path(stored.segment).parent == Path(study_directory(STUDY))
    assert file_of(segments, stored).stat().st_mode & 0o777 == 0o600
    with pytest.raises(InvalidUID):
        segments.writer("../../etc")


def test_nothing_is_created_before_the_first_record(segments: Segments, tmp_path: Path) -> None:
    segments.writer(STUDY).close()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_segment_is_locked_while_written(segments: Segments) -> None:
    writer = segments.writer(STUDY)
    stored = writer.append([b"x"])
    probe = ["flock", "--nonblock", str(file_of(segments, stored)), "true"]
    assert subprocess.run(probe).returncode != 0
    writer.close()
    assert subprocess.run(probe).returncode == 0


@pytest.mark.parametrize(
    ("offset", "length"), [(0, 3), (HEADER, 4), (HEADER, 2), (HEADER + 1, 3), (10_000, 3), (HEADER + 3, 0)]
)
def test_reading_elsewhere_than_a_record(segments: Segments, offset: int, length: int) -> None:
    writer = segments.writer(STUDY)
    stored = writer.append([b"one"])
    writer.close()
    with pytest.raises(SegmentDamaged):
        list(segments.read(stored.segment, offset, length))
    assert not segments.holds(stored.segment, offset, length)


def test_reading_a_shortened_segment(segments: Segments) -> None:
    writer = segments.writer(STUDY)
    stored = writer.append([b"x" * 1000])
    writer.close()
    os.truncate(file_of(segments, stored), HEADER + 600)
    pieces = segments.read(stored.segment, stored.offset, stored.length, chunk=500)
    assert len(next(pieces)) == 500
    with pytest.raises(SegmentDamaged):
        list(pieces)
    assert not segments.holds(stored.segment, stored.offset, stored.length)


@pytest.mark.parametrize(
    "name", ["", "/etc/passwd", "../../../etc/passwd", "aa/bb/../x.seg", "aa/bb/1.2.3.4/x.seg"]
)
def test_names_that_are_not_segments(segments: Segments, name: str) -> None:
    with pytest.raises(SegmentDamaged):
        list(segments.read(name, HEADER, 1))


def test_links_are_not_followed(segments: Segments, tmp_path: Path) -> None:
    writer = segments.writer(STUDY)
    stored = writer.append([b"one"])
    writer.close()
    path = file_of(segments, stored)
    path.rename(tmp_path / "moved.seg")
    path.symlink_to(tmp_path / "moved.seg")
    with pytest.raises(SegmentDamaged):
        content(segments, stored)
    path.unlink()
    outside = tmp_path / "outside"
    path.parent.rename(outside)
    (tmp_path / "moved.seg").rename(outside / path.name)
    path.parent.symlink_to(outside)
    with pytest.raises(SegmentDamaged):
        content(segments, stored)


# --- a full disk -------------------------------------------------------------------------------------------


def test_enospc_leaves_nothing_and_the_writer_goes_on(
    segments: Segments, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = segments.writer(STUDY)
    first = writer.append([b"first"])
    real = os.pwritev

    def fill(fd: int, buffers: list[memoryview], at: int) -> int:
        real(fd, [b"torn"], at)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwritev", fill)
    with pytest.raises(StorageFull) as refused:
        writer.append([b"second"])
    assert refused.value.outcome is Outcome.STORAGE_FULL
    assert file_of(segments, first).stat().st_size == end_of(first)
    monkeypatch.setattr(os, "pwritev", real)
    third = writer.append([b"third"])
    writer.close()
    assert third.offset == end_of(first) + HEADER
    assert [content(segments, stored) for stored in (first, third)] == [b"first", b"third"]


def test_a_failed_sync_ends_the_segment(segments: Segments, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = segments.writer(STUDY)
    first = writer.append([b"first"])
    real = os.fdatasync

    def fail(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", fail)
    with pytest.raises(OSError, match="Input/output"):
        writer.append([b"second"])
    monkeypatch.setattr(os, "fdatasync", real)
    assert writer.closed
    assert file_of(segments, first).stat().st_size == end_of(first)
    assert content(segments, first) == b"first"


def test_a_failed_first_record_ends_the_segment(segments: Segments, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, buffers: list[memoryview], at: int) -> int:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(os, "pwritev", full)
    writer = segments.writer(STUDY)
    with pytest.raises(StorageFull):
        writer.append([b"x"])
    assert writer.closed


def test_a_journal_that_cannot_be_written_stops_the_record(
    segments: Segments, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = segments.writer(STUDY)
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:10]))
    with pytest.raises(StorageFull):
        writer.append([b"x"])
    monkeypatch.setattr(os, "write", real)
    other = segments.writer(STUDY)
    stored = other.append([b"y"])
    other.close()
    segments.close()
    ends = {stored.segment: end_of(stored)}
    assert segments.recover(lambda segment: ends.get(segment, 0)) == []
    assert content(segments, stored) == b"y"


def test_the_free_space_that_must_remain(tmp_path: Path) -> None:
    volume = os.statvfs(tmp_path)
    segments = Segments(tmp_path / "images", volume.f_blocks * volume.f_frsize)
    with pytest.raises(StorageFull, match="less free space"):
        segments.writer(STUDY).append([b"x"])
    assert not list((tmp_path / "images" / "segments").iterdir())


# --- crashes -----------------------------------------------------------------------------------------------


def test_bytes_after_the_last_row_are_dropped(tmp_path: Path) -> None:
    (first, second, third), segments = abandoned(tmp_path, [b"one", b"two" * 100, b"three"])
    found = segments.recover(lambda _: end_of(first))
    dropped = end_of(third) - end_of(first)
    assert found == [Recovered(first.segment, end_of(first), dropped, dropped_records=2)]
    assert content(segments, first) == b"one"
    with pytest.raises(SegmentDamaged):
        content(segments, second)
    assert list((tmp_path / "journal").iterdir()) == []


def test_a_torn_record_is_dropped_at_every_length(tmp_path: Path) -> None:
    for kept in range(1, HEADER + 5):
        root = tmp_path / str(kept)
        (first, second), segments = abandoned(root, [b"one", b"two!!"])
        os.truncate(file_of(segments, second), end_of(first) + kept)
        ends = {first.segment: end_of(first)}
        found = segments.recover(ends.__getitem__)
        assert found == [Recovered(first.segment, end_of(first), kept, dropped_records=0)]
        assert content(segments, first) == b"one"


def test_a_segment_without_rows_goes(tmp_path: Path) -> None:
    (only,), segments = abandoned(tmp_path, [b"one"])
    found = segments.recover(lambda _: 0)
    assert found == [Recovered(only.segment, 0, end_of(only), dropped_records=1)]
    assert not file_of(segments, only).exists()


def test_a_segment_with_all_its_rows_is_left_alone(tmp_path: Path) -> None:
    stored, segments = abandoned(tmp_path, [b"one", b"two"])
    assert segments.recover(lambda _: end_of(stored[-1])) == []
    assert [content(segments, s) for s in stored] == [b"one", b"two"]


def test_rows_without_bytes_are_reported(tmp_path: Path) -> None:
    (only,), segments = abandoned(tmp_path, [b"one"])
    size = end_of(only)
    (shorter,) = segments.recover(lambda _: size + 1)
    assert shorter.damaged == f"rows up to byte {size + 1}, file of {size}"
    assert file_of(segments, only).stat().st_size == size


def test_a_lost_file_with_rows_is_reported(tmp_path: Path) -> None:
    (only,), segments = abandoned(tmp_path, [b"one"])
    file_of(segments, only).unlink()
    (lost,) = segments.recover(lambda _: end_of(only))
    assert lost.damaged == "the segment is missing"


def test_a_journalled_segment_that_was_never_created(tmp_path: Path) -> None:
    (only,), segments = abandoned(tmp_path, [b"one"])
    file_of(segments, only).unlink()
    assert segments.recover(lambda _: 0) == []
    assert list((tmp_path / "journal").iterdir()) == []


@pytest.mark.parametrize("torn", [b"ab/cd/1.2", b"\xff\xfe"])
def test_a_torn_journal_line_is_ignored(tmp_path: Path, torn: bytes) -> None:
    (only,), segments = abandoned(tmp_path, [b"one"])
    (path,) = (tmp_path / "journal").iterdir()
    path.write_bytes(path.read_bytes() + torn)
    assert segments.recover(lambda _: end_of(only)) == []
    assert not path.exists()


def test_a_spoilt_journal_is_reported_and_harms_nothing(tmp_path: Path) -> None:
    (only,), segments = abandoned(tmp_path, [b"one"])
    victim = tmp_path / "victim.seg"
    victim.write_bytes(b"precious")
    (path,) = (tmp_path / "journal").iterdir()
    path.write_bytes(b"../../victim.seg\n" + path.read_bytes())
    (spoilt,) = segments.recover(lambda segment: end_of(only) if segment == only.segment else 0)
    assert spoilt.damaged
    assert victim.read_bytes() == b"precious"


def test_a_living_process_is_left_alone(tmp_path: Path) -> None:
    living = Segments(tmp_path, 0)
    writer = living.writer(STUDY)
    stored = writer.append([b"not committed yet"])
    assert Segments(tmp_path, 0).recover(lambda _: 0) == []
    assert content(living, stored) == b"not committed yet"
    writer.close()
    assert Segments(tmp_path, 0).recover(lambda _: 0) == []
    living.close()
    assert len(Segments(tmp_path, 0).recover(lambda _: 0)) == 1


def test_a_long_life_needs_no_endless_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "LINES_PER_FILE", 3)
    living = Segments(tmp_path, 0)
    still_open = living.writer(STUDY)
    kept = still_open.append([b"kept"])
    for _ in range(9):
        writer = living.writer(STUDY)
        writer.append([b"x"])
        writer.close()
    assert len(list((tmp_path / "journal").iterdir())) == 4
    found = Segments(tmp_path, 0).recover(lambda _: 0)
    assert len(found) == 6  # the file of the open segment, and the current one, stay
    assert content(living, kept) == b"kept"
    still_open.close()
    living.close()
    assert len(Segments(tmp_path, 0).recover(lambda _: 0)) == 4


_CHILD = """
import sys
from pathlib import Path
from dicom_store.segments import Segments
writer = Segments(Path(sys.argv[1]), 0).writer("1.2.3.4")
for n in range(100000):
    stored = writer.append([b"%08d" % n, bytes(3000)])
    print(stored.segment, stored.offset, stored.length, flush=True)
"""


@pytest.mark.parametrize("lines", [1, 2, 17])
def test_what_was_acknowledged_survives_sigkill(tmp_path: Path, lines: int) -> None:
    child = subprocess.Popen([sys.executable, "-c", _CHILD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    acknowledged = [child.stdout.readline().split() for _ in range(lines)]
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    segment, offset, length = acknowledged[-1]
    segments = Segments(tmp_path, 0)
    found = segments.recover(lambda name: int(offset) + int(length) if name == segment else 0)
    assert not any(recovered.damaged for recovered in found)
    for n, (name, start, size) in enumerate(acknowledged):
        assert b"".join(segments.read(name, int(start), int(size))) == b"%08d" % n + bytes(3000)
    assert (segments._base / segment).stat().st_size == int(offset) + int(length)
    assert list((tmp_path / "journal").iterdir()) == []
