"""The free space that must remain, on a volume whose size a test decides."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from dicom_store import free_space
from dicom_store.free_space import FreeSpace, StorageFull
from dicom_store.status import ANSWERS
from dicom_store.transcode_cache import TranscodeCache

MIB = 1024 * 1024


class Volume:
    """`free` bytes, as statvfs says it."""

    def __init__(self, free: int) -> None:
        self.free, self.looks = free, 0

    def statvfs(self, _place: object) -> SimpleNamespace:
        self.looks += 1
        return SimpleNamespace(f_bavail=self.free, f_frsize=1)


@pytest.fixture
def volume(monkeypatch: pytest.MonkeyPatch) -> Volume:
    volume = Volume(100 * MIB)
    monkeypatch.setattr(free_space.os, "statvfs", volume.statvfs)
    return volume


def test_what_begins_leaves_the_minimum_free(volume: Volume, tmp_path: Path) -> None:
    space = FreeSpace(tmp_path, 80 * MIB)
    with space.held(20 * MIB) as left:
        assert left == 0
    with pytest.raises(StorageFull, match="less free space") as refused, space.held(20 * MIB + 1):
        raise AssertionError("it has no room")
    assert (ANSWERS[refused.value.outcome].dimse, ANSWERS[refused.value.outcome].http) == (0xA700, 507)


def test_what_has_begun_may_end_in_the_slack(volume: Volume, tmp_path: Path) -> None:
    space = FreeSpace(tmp_path, 80 * MIB)
    with space.held(30 * MIB, begins=False) as left:
        assert left == -10 * MIB
    with pytest.raises(StorageFull), space.held(30 * MIB + 1, begins=False):
        raise AssertionError("it has no room")
    with pytest.raises(StorageFull), FreeSpace(tmp_path, 0).held(101 * MIB, begins=False):
        raise AssertionError("it has no room")


def test_nothing_is_looked_at_for_nothing(volume: Volume, tmp_path: Path) -> None:
    with FreeSpace(tmp_path, 1 << 60).held(0) as left:
        assert (left, volume.looks) == (0, 0)


def test_it_recovers_with_the_next_look(volume: Volume, tmp_path: Path) -> None:
    space = FreeSpace(tmp_path, 80 * MIB)
    volume.free = 79 * MIB
    assert space.now() == -MIB
    with pytest.raises(StorageFull), space.held(1):
        raise AssertionError("it has no room")
    volume.free = 81 * MIB
    with space.held(1) as left:
        assert left == MIB - 1


def test_eight_at_once_do_not_all_take_the_same_room(volume: Volume, tmp_path: Path) -> None:
    space, begin, end = FreeSpace(tmp_path, 80 * MIB), threading.Barrier(8), threading.Barrier(8)
    taken: list[bool] = []

    def write() -> None:
        begin.wait()
        try:
            with space.held(6 * MIB):
                taken.append(True)
                end.wait(10)
        except StorageFull:
            taken.append(False)
            end.wait(10)

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == [False] * 5 + [True] * 3
    assert space.now() == 20 * MIB, "all of it is given back"


def test_a_place_that_cannot_be_looked_at_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"), FreeSpace(tmp_path / "gone", 0).held(1):
        raise AssertionError("it is not there")


def test_what_is_kept_for_speed_alone_gives_way(volume: Volume, tmp_path: Path) -> None:
    cache = TranscodeCache(tmp_path / "cache", 10 * MIB, 80 * MIB)

    def publish(name: str) -> bytes:
        prepared = cache.temporary()
        prepared.write_bytes(b"content" + hashlib.sha256(b"content").digest())
        with cache.publish(prepared, name, len(b"content")) as file:
            return file.read()

    assert (publish("one"), cache.find("one") is not None) == (b"content", True)
    volume.free = 79 * MIB
    assert publish("two") == b"content", "it is served all the same"
    assert (cache.find("one"), cache.find("two")) == (None, None)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [".lock"]
    volume.free = 81 * MIB
    assert (publish("three"), cache.find("three") is not None) == (b"content", True)
