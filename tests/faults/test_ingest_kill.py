"""SIGKILL of the DICOM door under load: what storescu saw acknowledged is there, byte for byte; nothing is torn."""

from __future__ import annotations

import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pydicom.filereader import read_file_meta_info

from drimbox.entrypoints.verify_cli import make_verifying
from drimbox.flow.verify_storage import Progress
from fixtures.configuration import configuration
from fixtures.images import SeriesSpec, StudySpec, make_study
from fixtures.kept_images import KeptImages

STORESCU = shutil.which("storescu")
ASSOCIATIONS = 3
INSTANCES = 60  # of one association, half of them of 100 KB
LONGEST = 0.5  # seconds from the first association to the kill
_SENT = re.compile(r"^I: Sending file: (.+)$", re.M)
_ANSWER = re.compile(r"^I: Received Store Response \(Success\)", re.M)

pytestmark = pytest.mark.skipif(STORESCU is None, reason="apt-get install dcmtk")


@dataclass
class Load:
    """The box whose door is killed, and what its senders know."""

    root: Path
    port: int
    chance: random.Random
    files: dict[str, Path] = field(default_factory=dict)  # SOP Instance UID to what was sent
    studies: list[str] = field(default_factory=list)
    acknowledged: set[str] = field(default_factory=set)

    def start(self) -> subprocess.Popen[bytes]:
        """A door that listens."""
        command = [sys.executable, "-m", "drimbox", "dicom", "--config", str(self.root / "drimbox.toml")]
        with (self.root / "door.log").open("ab") as log:
            door = subprocess.Popen(command, stderr=log, stdout=log)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return door
            time.sleep(0.02)
        door.kill()
        raise AssertionError((self.root / "door.log").read_text("utf-8")[-2000:])

    def study(self, number: int) -> list[Path]:
        """Files of a new study, short and long ones."""
        half = INSTANCES // 2
        series = (SeriesSpec("CT", half), SeriesSpec("CT", half, rows=224, columns=224))
        spec = StudySpec(study_instance_uid=f"1.2.250.1.999.77.{number}", series=series)
        self.studies.append(spec.study_instance_uid)
        files = make_study(self.root / "sent" / str(number), spec)
        self.files |= {str(read_file_meta_info(file).MediaStorageSOPInstanceUID): file for file in files}
        self.chance.shuffle(files)
        return files

    def send(self, files: Sequence[Path]) -> subprocess.Popen[str]:
        """One association."""
        command = [str(STORESCU), "-v", "-R", "-aet", "CT1", "-aec", "DRIMBOX", "127.0.0.1", str(self.port)]
        return subprocess.Popen(
            [*command, *map(str, files)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def told(self, sender: subprocess.Popen[str]) -> int:
        """Note what a sender that has ended saw acknowledged; how many."""
        said, _ = sender.communicate(timeout=60)
        uids = {file: uid for uid, file in self.files.items()}
        answers = sum(1 for _ in _ANSWER.finditer(said))
        sent = [Path(name) for name in _SENT.findall(said)]
        assert answers in (len(sent), len(sent) - 1), said[-2000:]
        self.acknowledged |= {uids[file] for file in sent[:answers]}
        return answers


@pytest.fixture
def load(tmp_path: Path, free_port: Callable[[], int]) -> Load:
    made = Load(tmp_path, free_port(), random.Random(8))
    KeptImages(tmp_path).close()
    (tmp_path / "drimbox.toml").write_text(
        configuration(tmp_path, dicom={"host": "127.0.0.1", "port": made.port}), "utf-8"
    )
    return made


@pytest.mark.parametrize("kills", [3, pytest.param(200, marks=pytest.mark.soak)])
def test_what_was_acknowledged_is_there_and_nothing_torn(load: Load, kills: int) -> None:
    seen, cut = [], 0
    for number in range(kills):
        studies = [load.study(ASSOCIATIONS * number + one) for one in range(ASSOCIATIONS)]
        door = load.start()
        senders = [load.send(files) for files in studies]
        time.sleep(load.chance.uniform(0.05, LONGEST))
        door.send_signal(signal.SIGKILL)
        door.wait()
        answers = [load.told(sender) for sender in senders]
        cut += sum(0 < one < INSTANCES for one in answers)
        seen.append(sum(answers))
    assert cut, f"no association was cut in its middle: {seen}"
    door = load.start()  # settles what the last kill left
    door.terminate()
    assert door.wait(30) == 0
    kept = data_sets_kept(load)
    lost = load.acknowledged - kept.keys()
    assert not lost, f"{len(lost)} of {len(load.acknowledged)} acknowledged instances are gone"
    assert {uid for uid, data in kept.items() if data != without_head(load.files[uid].read_bytes())} == set()


def data_sets_kept(load: Load) -> dict[str, bytes]:
    """The data set of every instance that the box would serve, when each hash is right and no byte is nobody's."""
    box = KeptImages(load.root)
    try:
        progress = make_verifying(box.foundation, 0, lambda _: None, quiet=True).everything(Progress())
        assert progress.counts == {"missing": 0, "damaged": 0, "orphaned": 0}
        return {uid: without_head(file) for study in load.studies for uid, file in box.files(study).items()}
    finally:
        box.close()


def without_head(file: bytes) -> bytes:
    """A data set without preamble and meta information."""
    return file[144 + int.from_bytes(file[140:144], "little") :]
