"""What an association needed is free when it has ended: nothing waits for a collection of cycles."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from dicom_store.scp import DicomDoor
from drimbox.entrypoints.intake import InstanceIntake
from fixtures.images import SeriesSpec, StudySpec, study_datasets
from fixtures.kept_images import KeptImages, data_set_of
from fixtures.raw_association import EXPLICIT, RawPeer

CT = "1.2.840.10008.5.1.4.1.1.2"
ASSOCIATIONS = 24
BUFFERS = 2_000_000  # bytes that one association needs at least


@pytest.fixture
def door(tmp_path: Path) -> Iterator[DicomDoor]:
    box = KeptImages(tmp_path)
    made = DicomDoor("127.0.0.1", 0, "DRIMBOX", ["CT1"], max_associations=4, idle_timeout=20,
                     max_instance_bytes=2**30, open_sink=lambda _: InstanceIntake(box.foundation, "test"))  # fmt: skip
    made.start()
    yield made
    made.stop(1)
    box.close()


def resident() -> int:
    """Bytes of this process that belong to no file."""
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def bring(port: int, number: int) -> int:
    """Store one instance in an association of its own; its status."""
    spec = StudySpec(
        study_instance_uid=f"1.2.250.1.999.66.{number}", series=(SeriesSpec("CT", 1, rows=512, columns=512),)
    )
    (dataset,) = study_datasets(spec)
    with RawPeer.connect(port) as peer:
        peer.associate({1: (CT, (EXPLICIT,))}, calling="CT1")
        status = peer.store(data_set_of(dataset), instance=str(dataset.SOPInstanceUID), sop_class=CT)
        peer.release()
    return status


def test_memory_comes_back_without_the_collector(door: DicomDoor) -> None:
    statuses = {bring(door.port, number) for number in range(3)}
    gc.collect()
    gc.disable()
    try:
        before = resident()
        statuses |= {bring(door.port, number) for number in range(3, 3 + ASSOCIATIONS)}
        grown = resident() - before
    finally:
        gc.enable()
    assert statuses == {0}
    assert grown < ASSOCIATIONS * BUFFERS / 4
