"""A power cut at every step of the intake: what was not synced is forgotten, whole or in part.

A child process runs a short story; its disk loses, at one call of the system, everything that was not synced, keeps
a part of it, or tears it: bytes of segments, and rows in SQLite's log. Afterwards all that was acknowledged is there,
byte for byte, and nothing half is served.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from dicom_store.part10 import data_set_offset
from dicom_store.status import Outcome
from drimbox.adapters.database import Database
from drimbox.entrypoints.intake import InstanceIntake, recover
from drimbox.flow.receive_instance import RECOVERY
from fixtures.instances import InstanceSpec
from fixtures.kept_images import KeptImages

LONG = 2 * 1024 * 1024 + 4_000
STORY = [
    InstanceSpec(1),
    InstanceSpec(2, pixels=LONG),
    InstanceSpec(3, pixels=30_000),
    InstanceSpec(1),  # again
    InstanceSpec(4, "1.2.250.1.999.1.78", pixels=150_000),
    InstanceSpec(5),
]
SECTOR = 512


class ForgetfulDisk:
    """Counts the calls that write; at number `cut` the power goes. `keep`: how much of the unsynced bytes survive."""

    def __init__(self, cut: int, keep: str, seed: int, on_cut: Callable[[], None]) -> None:
        self._cut, self._keep, self._on_cut = cut, keep, on_cut
        self._chance = random.Random(seed)
        self._durable: dict[str, bytes] = {}
        self._calls = 0
        self._real = {name: getattr(os, name) for name in ("pwritev", "fdatasync", "ftruncate", "fsync")}

    def install(self, database: Database) -> None:
        """From now on. The log of the database is durable as it is, then after each commit that syncs."""
        os.pwritev, os.fdatasync, os.ftruncate = self.pwritev, self.fdatasync, self.ftruncate  # type: ignore[assignment]
        os.fsync = self.fsync  # type: ignore[assignment]
        log = f"{database.engine.url.database}-wal"
        self._durable[log] = Path(log).read_bytes()

        def committed(connection: Any) -> None:
            # when the engine says so the commit is about to be done: made now, so that it can be looked at
            connection.connection.commit()
            self._durable[log] = Path(log).read_bytes()

        event.listen(database.engine, "commit", committed)

    def pwritev(self, fd: int, buffers: Any, at: int) -> int:
        path = self._path(fd)
        if self._step():
            # the kernel had begun to write: some of it
            self._real["pwritev"](
                fd, [memoryview(buffers[0])[: self._chance.randint(0, len(buffers[0]))]], at
            )
            self._lose(path)
        return int(self._real["pwritev"](fd, buffers, at))

    def fdatasync(self, fd: int) -> None:
        path = self._path(fd)
        if self._step():
            self._lose(path)
        self._real["fdatasync"](fd)
        self._durable[path] = Path(path).read_bytes()
        if self._step():
            self._lose(path)

    def fsync(self, fd: int) -> None:
        path = self._path(fd)
        if self._step():
            self._lose(path)
        self._real["fsync"](fd)
        if Path(path).is_file():
            self._durable[path] = Path(path).read_bytes()

    def ftruncate(self, fd: int, length: int) -> None:
        path = self._path(fd)
        if self._step():
            self._lose(path)
        self._real["ftruncate"](fd, length)

    def _path(self, fd: int) -> str:
        path = str(Path(f"/proc/self/fd/{fd}").readlink())
        self._durable.setdefault(path, b"")
        return path

    def _step(self) -> bool:
        self._calls += 1
        return self._calls == self._cut

    def _lose(self, _path: str) -> None:
        for path, durable in self._durable.items():
            if Path(path).is_dir():
                continue
            now = Path(path).read_bytes() if Path(path).exists() else b""
            Path(path).write_bytes(self._survivor(durable, now))
        self._on_cut()

    def _survivor(self, durable: bytes, now: bytes) -> bytes:
        if self._keep == "all":
            return now
        if self._keep == "nothing" or durable == now:
            return durable
        length = self._chance.choice([len(durable), len(now), self._chance.randint(0, len(now))])
        length = max(length, min(len(durable), len(now)))
        torn = bytearray(durable[:length].ljust(length, b"\0"))
        for start in range(0, length, SECTOR):
            if self._chance.random() < 0.5:
                torn[start : start + SECTOR] = now[start : start + SECTOR].ljust(
                    len(torn[start : start + SECTOR]), b"\0"
                )
        return bytes(torn)


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with its tables."""
    made = KeptImages(tmp_path_factory.mktemp("migrated"))
    made.foundation.archive.close()
    made.foundation.database.close()
    path = made.config.parent / "drimbox.sqlite"
    sqlite3.connect(path).execute("PRAGMA wal_checkpoint(TRUNCATE)").connection.close()
    return path


def child(root: Path, cut: int, keep: str, seed: int) -> bool:
    """Run the story until the power goes; whether it went."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(read)
            images = KeptImages(root)
            ForgetfulDisk(cut, keep, seed, lambda: os._exit(9)).install(images.foundation.database)
            intake = InstanceIntake(images.foundation, "pacs:CT1@192.0.2.7")
            for spec in STORY:
                arrival = intake.begin(spec.command)
                for piece in spec.pieces(1024 * 1024):
                    arrival.more(piece)
                os.write(write, (json.dumps([spec.sop, str(arrival.complete())]) + "\n").encode())
            intake.close()
            os._exit(0)
        finally:
            os._exit(1)
    os.close(write)
    with os.fdopen(read) as told:
        (root / "acknowledged").write_text(told.read())
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, 9), code
    return code == 9


@pytest.fixture
def lives(tmp_path: Path, migrated: Path) -> Iterator[Callable[..., tuple[bool, int]]]:
    """`live(cut, keep)`: the story until the cut, then the start after it, and what must hold.

    It gives whether the power went, and how many acknowledged instances got the row back that they had lost.
    """

    def live(cut: int, keep: str) -> tuple[bool, int]:
        root = tmp_path / f"{keep}{cut}"
        root.mkdir()
        shutil.copy(migrated, root / "drimbox.sqlite")
        went = child(root, cut, keep, seed=cut)
        acknowledged = [json.loads(line) for line in (root / "acknowledged").read_text().splitlines()]
        back = check(KeptImages(root), acknowledged)
        shutil.rmtree(root)
        return went, back

    yield live


def check(images: KeptImages, acknowledged: list[list[str]]) -> int:
    foundation = images.foundation
    recover(foundation)
    with foundation.transactions.reading() as transaction:
        rows = list(transaction.traces.of_event("INSTANCE_STORED", datetime(2026, 1, 1, tzinfo=UTC)))
    stored = [one.detail["sop"] for one in rows]
    assert len(stored) == len(set(stored))
    expected = {spec.sop: spec.data_set for spec in STORY}
    served = {}
    for study in {spec.study for spec in STORY}:
        with foundation.database.reading() as session:
            for one in foundation.archive.retrieve(session, study):
                file = b"".join(foundation.archive.read(one))
                served[one.ref.SOPInstanceUID] = file[data_set_offset(file) :]
                assert foundation.archive.metadata(one).startswith(b"{")
    assert served.items() <= expected.items()
    assert {sop for sop, _ in acknowledged} <= served.keys()
    again = InstanceIntake(foundation, "pacs:CT1@192.0.2.7")
    for spec in STORY[3:]:
        arrival = again.begin(spec.command)
        arrival.more(memoryview(spec.data_set))
        outcome = arrival.complete()
        assert outcome is (Outcome.DUPLICATE if spec.sop in served else Outcome.STORED)
        served[spec.sop] = spec.data_set
    again.close()
    with foundation.database.reading() as session:
        ends = foundation.archive.recover(session)
    assert not any(one.damaged for one in ends)
    foundation.archive.close()
    foundation.database.close()
    told = {sop for sop, _ in acknowledged}
    return sum(one.actor == RECOVERY and one.detail["sop"] in told for one in rows)


@pytest.mark.parametrize(("keep", "back"), [("nothing", True), ("all", False), ("some", True)])
def test_the_power_goes_at_any_step(lives: Callable[..., tuple[bool, int]], keep: str, back: bool) -> None:
    cut, went, readmitted = 0, True, 0
    while went:
        cut += 1
        went, count = lives(cut, keep)
        readmitted += count
    assert cut > 20  # calls of the whole story
    assert (readmitted > 0) is back


_ACKNOWLEDGED = re.compile("[0-9]+ [0-9]+\n")
_KILLED = """
import os, sys, threading
told = os.dup(1)
sys.stdout = open(os.devnull, "w")  # logs
from pathlib import Path
from drimbox.entrypoints.intake import InstanceIntake
from fixtures.instances import InstanceSpec
from fixtures.kept_images import KeptImages

images = KeptImages(Path(sys.argv[1]))

def bring(number):
    intake = InstanceIntake(images.foundation, "pacs:CT1@192.0.2.7")
    for n in range(1, 100000):
        spec = InstanceSpec(n, f"1.2.250.1.999.3.{number % 2}", series=number + 1, pixels=(1000, 50000, 1200000)[n % 3])
        arrival = intake.begin(spec.command)
        for piece in spec.pieces(1 << 20):
            arrival.more(piece)
        arrival.complete()
        os.write(told, f"{number} {n}\\n".encode())

for number in range(6):
    threading.Thread(target=bring, args=(number,)).start()
"""


def spec_of(number: int, n: int) -> InstanceSpec:
    pixels = (1000, 50_000, 1_200_000)[n % 3]
    return InstanceSpec(n, f"1.2.250.1.999.3.{number % 2}", series=number + 1, pixels=pixels)


@pytest.mark.parametrize("lines", [1, 40, 113])
def test_killed_while_one_commits_for_the_others(tmp_path: Path, migrated: Path, lines: int) -> None:
    root = tmp_path / "box"
    root.mkdir()
    shutil.copy(migrated, root / "drimbox.sqlite")
    repository = Path(__file__).resolve().parent.parent.parent
    running = subprocess.Popen(
        [sys.executable, "-c", _KILLED, str(root)],
        cwd=repository, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert running.stdout is not None
    told = (line for line in running.stdout if _ACKNOWLEDGED.fullmatch(line))
    said = list(itertools.islice(told, lines))
    running.send_signal(signal.SIGKILL)
    said += told
    running.wait()
    running.stdout.close()
    images = KeptImages(root)
    recover(images.foundation)
    acknowledged = [spec_of(*map(int, line.split())) for line in said]
    served: dict[str, bytes] = {}
    for study in ("1.2.250.1.999.3.0", "1.2.250.1.999.3.1"):
        with images.foundation.database.reading() as session:
            for one in images.foundation.archive.retrieve(session, study):
                file = b"".join(images.foundation.archive.read(one))
                served[one.ref.SOPInstanceUID] = file[data_set_offset(file) :]
    assert len(acknowledged) >= lines
    for spec in acknowledged:
        assert served[spec.sop] == spec.data_set
    assert (
        len(served) <= len(acknowledged) + 6
    )  # at most one more of each association: committed, not yet told
    images.foundation.archive.close()
    images.foundation.database.close()
