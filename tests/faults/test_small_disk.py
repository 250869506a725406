"""A disk that is really full: eight associations at once reach its end, or the database does on a disk of its own."""

from __future__ import annotations

import sqlite3
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from dicom_store.status import ANSWERS, Outcome, StoreRefused
from drimbox.entrypoints.intake import InstanceIntake
from drimbox.entrypoints.verify_cli import make_verifying
from drimbox.flow.verify_storage import Progress
from fixtures.instances import InstanceSpec
from fixtures.kept_images import KeptImages
from fixtures.small_disk import MIB, SmallDisk, small_disk

SENDERS, EACH, SIZE = 8, 3, 3 * MIB


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk") as mounted:
        yield mounted


@pytest.fixture
def other_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "database", 8 * MIB) as mounted:
        yield mounted


class Box(KeptImages):
    """Stores whose images, and whose database, are on small disks."""

    def __init__(self, images: Path, database: Path, floor: int = 0) -> None:
        super().__init__(images / "box", f"sqlite:///{database / 'drimbox.sqlite'}")
        self.foundation.archive._segments.space.minimum = floor

    def send(self, spec: InstanceSpec, intake: InstanceIntake | None = None) -> Outcome:
        """What is answered."""
        sink = intake or InstanceIntake(self.foundation, "pacs:CT1@192.0.2.7")
        try:
            arrival = sink.begin(spec.command)
            for piece in spec.pieces():
                arrival.more(piece)
            return arrival.complete()
        except StoreRefused as refusal:
            return refusal.outcome
        finally:
            if intake is None:
                sink.close()

    def send_at_once(self) -> dict[InstanceSpec, Outcome]:
        """Eight senders, an association and a study each."""
        answers: dict[InstanceSpec, Outcome] = {}
        begin = threading.Barrier(SENDERS)

        def send(sender: int) -> None:
            intake = InstanceIntake(self.foundation, f"pacs:CT{sender}@192.0.2.7")
            begin.wait()
            for number in range(1, EACH + 1):
                spec = InstanceSpec(number, study=f"1.2.250.1.999.1.{sender}", pixels=SIZE)
                answers[spec] = self.send(spec, intake)
            intake.close()

        threads = [threading.Thread(target=send, args=(one,)) for one in range(1, SENDERS + 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return answers

    def verified(self) -> dict[str, int]:
        """What `drimbox verify` finds wrong."""
        verifying = make_verifying(self.foundation, 0, lambda _: None, quiet=True)
        return verifying.everything(Progress()).counts


@pytest.fixture
def boxes() -> Iterator[list[Box]]:
    made: list[Box] = []
    yield made
    for box in made:
        box.close()


@pytest.mark.parametrize("floor", [0, 24 * MIB])
def test_eight_senders_reach_the_end_of_the_disk_at_once(
    disk: SmallDisk, boxes: list[Box], floor: int
) -> None:
    box = Box(disk.root, disk.root, floor)
    boxes.append(box)
    disk.leave(floor + SENDERS * EACH * SIZE // 2)
    answers = box.send_at_once()
    kept = [spec for spec, answer in answers.items() if answer is Outcome.STORED]
    refused = {answer for answer in answers.values() if answer is not Outcome.STORED}
    assert {ANSWERS[answer].dimse for answer in refused} == {0xA700}
    if floor:
        assert refused == {Outcome.STORAGE_FULL}
        # what had begun may end in the slack, and one piece of each sender is the most that is too much
        assert disk.free() >= floor - floor // 8 - 2 * MIB, "the database had room all the time"
        told = Counter(row.actor for row in box.trace("INSTANCE_REFUSED"))
        assert set(told.values()) == {1}, "once a minute for each sender"
    assert 4 <= len(kept) < len(answers)
    found = {sop for sender in range(1, SENDERS + 1) for sop in box.files(f"1.2.250.1.999.1.{sender}")}
    assert found == {spec.sop for spec in kept}
    assert box.verified() == {"missing": 0, "damaged": 0, "orphaned": 0}, "nothing half written"
    disk.empty()
    again = [box.send(spec) for spec in answers if spec not in kept][:6]
    assert set(again) == {Outcome.STORED}, "it recovers by itself"


def test_the_database_is_full_on_a_disk_of_its_own(
    disk: SmallDisk, other_disk: SmallDisk, boxes: list[Box]
) -> None:
    box = Box(disk.root, other_disk.root)
    boxes.append(box)
    first, *others = (InstanceSpec(number, pixels=100_000) for number in range(1, 5))
    assert box.send(first) is Outcome.STORED
    with closing(sqlite3.connect(other_disk.root / "drimbox.sqlite")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # no room of its own that it could use again
    other_disk.leave(0)
    assert [box.send(spec) for spec in others] == [Outcome.OUT_OF_RESOURCES] * 3
    assert set(box.files(first.study)) == {first.sop}, "what is here can be read"
    other_disk.empty()
    assert [box.send(spec) for spec in others] == [Outcome.STORED] * 3
    found = box.verified()
    assert (found["missing"], found["damaged"]) == (0, 0)
