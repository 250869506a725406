"""A multi-frame of a gigabyte by storescu into the process of the DICOM door: byte for byte, in constant memory."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.uid import EnhancedCTImageStorage, ExplicitVRLittleEndian

from drimbox.entrypoints.bench_wado_processes import peak_mb
from drimbox.entrypoints.demo_stage import listens, wait_for
from fixtures.configuration import configuration
from fixtures.images import SeriesSpec, StudySpec, study_datasets
from fixtures.kept_images import KeptImages

STUDY, INSTANCE = "1.2.250.1.999.88.1", "1.2.250.1.999.88.1.1.1"
FRAME = 512 * 512 * 2
MOST_MB = 120  # resident, of the door

pytestmark = pytest.mark.skipif(shutil.which("storescu") is None, reason="apt-get install dcmtk")


def write_multiframe(path: Path, frames: int) -> str:
    """An enhanced CT of 512 x 512 x 16 bit; the SHA-256 of its data set. Written frame after frame."""
    dataset: Dataset = next(
        iter(study_datasets(StudySpec(study_instance_uid=STUDY, series=(SeriesSpec("CT", 1),))))
    )
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = INSTANCE
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.Rows = dataset.Columns = 512
    dataset.NumberOfFrames = frames
    del dataset.PixelData
    dcmwrite(path, dataset, enforce_file_format=True)
    head = path.stat().st_size
    with path.open("ab") as file:
        file.write(b"\xe0\x7f\x10\x00OW\0\0" + (frames * FRAME).to_bytes(4, "little"))
        block = bytes(range(256)) * (FRAME // 256)
        for number in range(frames):
            file.write(number.to_bytes(4, "little") + block[4:])
    assert path.stat().st_size == head + 12 + frames * FRAME
    return sha256_of_data_set(path)


def sha256_of_data_set(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(140)
        length = int.from_bytes(file.read(4), "little")
        file.seek(144 + length)
        return hashlib.file_digest(file, "sha256").hexdigest()


@pytest.mark.parametrize("frames", [60, pytest.param(2000, marks=pytest.mark.soak)])
def test_it_is_kept_as_it_was_sent(tmp_path: Path, free_port: Callable[[], int], frames: int) -> None:
    sent = tmp_path / "multiframe.dcm"
    digest = write_multiframe(sent, frames)
    box, port = KeptImages(tmp_path), free_port()
    settings = configuration(tmp_path, dicom={"host": "127.0.0.1", "port": port})
    box.config.write_text(settings, "utf-8")
    command = [sys.executable, "-m", "drimbox", "dicom", "--config", str(box.config)]
    with (tmp_path / "door.log").open("wb") as log, subprocess.Popen(command, stderr=log) as door:
        try:
            wait_for(lambda: listens("127.0.0.1", port), 30, "the door does not listen")
            started = time.perf_counter()
            storescu = ["storescu", "-R", "-aet", "CT1", "-aec", "DRIMBOX", "127.0.0.1", str(port), str(sent)]
            done = subprocess.run(storescu, capture_output=True, text=True, check=False)
            seconds, peak = time.perf_counter() - started, peak_mb(door.pid)
        finally:
            door.terminate()
    assert done.returncode == 0, done.stderr
    print(f"{frames * FRAME / 1e6 / seconds:.0f} MB/s, peak of the door {peak} MB")
    with box.foundation.database.reading() as session:
        (kept,) = box.foundation.archive.retrieve(session, STUDY)
    received = tmp_path / "received.dcm"
    with received.open("wb") as file:
        file.writelines(box.foundation.archive.read(kept))
    box.close()
    assert sha256_of_data_set(received) == digest
    assert dcmread(received, stop_before_pixels=True).NumberOfFrames == frames
    assert peak < MOST_MB
