"""Every dependency of a running box fails and comes back: the right probe says so within two periods, and so does the
public answer; and the processes that look and answer die, hang, and are replaced.

The doors run as processes of their own, as units of systemd do: no supervisor starts again what a test has killed.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Thread
from typing import NamedTuple

import pytest

from drimbox.entrypoints.demo_stage import start_world
from drimbox.simulators.certificates import Urls
from drimbox.simulators.pki import Pki
from fixtures.health_box import HealthBox, until
from fixtures.quick_stage import open_quick_stage

PERIOD, DEADLINE = 2.0, 2.0
# Two periods, the deadline of the look, and what a busy machine and the report on disk (a third of a period) take.
BOUND = 2 * PERIOD + DEADLINE + 3.0
STALE = 3 * PERIOD  # a report older than that is a failure
DISK, FLOOR = 64 * 2**20, 8 * 2**20  # bytes of the volume of the images, and of what must remain free
DOORS = ("dicom", "mllp", "worker", "web")
EVERY = {
    *("database:write", "images:write", "images:free", "whitelist:state", "certificates:web", "crl:age"),
    *("dicom:echo", "mllp:connect", "mllps:connect", "worker:heartbeat", "queue:age"),
    *("dmp:connect", "psc:connect"),
}


class Told(NamedTuple):
    """The public word, and the probes that are not well, and how."""

    word: str | None
    troubled: dict[str, str]


WELL = Told("pass", {})
LOCKED = Told("fail", {"database:write": "fail", "worker:heartbeat": "fail"})
SILENT = {  # what is told when that door is
    "worker": Told("warn", {"worker:heartbeat": "fail"}),
    "mllp": Told("warn", {"mllp:connect": "fail", "mllps:connect": "fail"}),
    "dicom": Told("warn", {"dicom:echo": "fail"}),
}


@dataclass
class Box(HealthBox):
    """All doors; `volume`: the images have a volume of their own, which can be filled."""

    volume: bool = field(default=False)

    @property
    def images(self) -> Path:
        return self.storage / "images"

    def troubled(self) -> dict[str, str]:
        """The probes that are not well, and how."""
        return {name: state for name, state in self.checks().items() if state != "pass"}

    def comes_to(self, expected: Told) -> Told:
        """What is told: `expected` as soon as it is, or whatever it is after two periods."""
        deadline = time.monotonic() + BOUND
        while (told := Told(self.word(), self.troubled())) != expected and time.monotonic() < deadline:
            time.sleep(0.05)
        return told

    def operator_reads(self) -> tuple[str, int, Told]:
        """By `drimbox health`: the word and the exit status; by the metrics: what the public is told, and why."""
        done = self.stage.run("health", "--json")
        whole, probes = self.metrics()
        troubled = {name: state for name, state in probes.items() if state != "pass"}
        return json.loads(done.stdout)["status"], done.returncode, Told(whole, troubled)

    def changes(self, probe: str) -> list[tuple[str, str]]:
        """(before, after) of each row of the trace about it."""
        rows = self.rows("HEALTH_CHANGED")
        return [(row["before"], row["after"]) for row in rows if row["probe"] == probe]


@contextmanager
def a_volume(place: Path) -> Iterator[bool]:
    """A small volume at `place`, where the system allows it."""
    place.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK},mode=0700", "tmpfs", str(place)]
    mounted = os.geteuid() == 0 and subprocess.run(command, capture_output=True, check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    directory = tmp_path_factory.mktemp("world")
    with (
        a_volume(directory / "appliance" / "storage" / "images") as volume,
        open_quick_stage(directory) as stage,
    ):
        start_world(stage)
        box = Box(stage, volume=volume)
        pace = {"period": PERIOD, "deadline": DEADLINE, "remote_period": PERIOD}
        box.set(
            {
                "health": pace,
                "web": {"processes": 2},
                "storage": {"minimum_free_bytes": FLOOR if volume else 1},
            }
        )
        box.start(*DOORS)
        until(lambda: box.word() == "pass" and set(box.checks()) >= EVERY, "all to be well", 40)
        yield box
        sys.stderr.write((stage.directory / "web.log").read_text("utf-8")[-6000:])


@pytest.fixture(autouse=True)
def _well_before_and_after(box: Box) -> Iterator[None]:
    assert box.comes_to(WELL) == WELL
    yield
    assert box.comes_to(WELL) == WELL


# --- what images can be served without: a warning


def test_all_is_well(box: Box) -> None:
    assert box.operator_reads() == ("pass", 0, WELL)


@pytest.mark.parametrize("door", ["worker", pytest.param("mllp", marks=pytest.mark.soak)])
def test_a_process_is_killed(box: Box, door: str) -> None:
    box.end(door, signal.SIGKILL)
    assert box.comes_to(SILENT[door]) == SILENT[door]
    assert box.operator_reads() == ("warn", 0, SILENT[door])
    box.start(door)
    assert box.comes_to(WELL) == WELL
    probe = next(iter(SILENT[door].troubled))
    until(lambda: box.changes(probe)[-2:] == [("pass", "fail"), ("fail", "pass")], "both rows", 10)


@pytest.mark.soak
@pytest.mark.parametrize("door", ["worker", "dicom"])
def test_a_process_stands_still(box: Box, door: str) -> None:
    box.processes[door].send_signal(signal.SIGSTOP)
    try:
        assert box.comes_to(SILENT[door]) == SILENT[door]
    finally:
        box.processes[door].send_signal(signal.SIGCONT)
    assert box.comes_to(WELL) == WELL


@pytest.mark.soak
def test_the_dmp_refuses_connections(box: Box) -> None:
    box.stage.control("/control/faults", {"where": "dmp", "fault": "refuse_connection", "times": 3})
    lost = Told("warn", {"dmp:connect": "warn"})
    assert box.comes_to(lost) == lost
    until(lambda: not box.stage.control("/control/faults")["dmp"], "the fault to be spent", 20)


@pytest.mark.soak
def test_dmp_and_pro_sante_connect_stand_still(box: Box) -> None:
    world, lost = box.stage.processes[0], Told("warn", {"dmp:connect": "warn", "psc:connect": "warn"})
    world.send_signal(signal.SIGSTOP)
    try:
        assert box.comes_to(lost) == lost
    finally:
        world.send_signal(signal.SIGCONT)


@pytest.mark.soak
def test_a_stale_whitelist(box: Box) -> None:
    box.stage.control("/control/faults", {"where": "ans", "fault": "unreachable", "times": 1})
    box.stage.run("whitelist", "refresh")
    stale = Told("warn", {"whitelist:state": "warn"})
    assert box.comes_to(stale) == stale
    box.stage.run("whitelist", "refresh")


# --- what they cannot be served without: a failure


def test_absent_from_the_whitelist(box: Box) -> None:
    box.stage.control("/control/faults", {"where": "ans", "fault": "without_us", "times": 1})
    box.stage.run("whitelist", "refresh")
    absent = Told("fail", {"whitelist:state": "fail"})
    assert box.comes_to(absent) == absent
    assert box.operator_reads() == ("fail", 1, absent)
    box.stage.run("whitelist", "refresh")


def test_the_certificate_of_the_door_has_expired(box: Box) -> None:
    """The listener still shows the good one; the next start would not."""
    pki = Pki(box.authority.parent, datetime.now(UTC), Urls("", ""))
    good = {path: path.read_bytes() for path in (pki.path("appliance_server"), pki.key("appliance_server"))}
    name = str(pki.certificate("appliance_server").subject.rfc4514_string())
    pki.issue("SERV_SSL", name[:20], "1750803447", expired=True).write(pki.directory, "appliance_server")
    expired = Told("fail", {"certificates:web": "fail", "certificates:mllps": "fail"})
    try:
        assert box.comes_to(expired) == expired
    finally:
        for path, content in good.items():
            path.write_bytes(content)


def fill(box: Box, remaining: int) -> Path:
    volume = os.statvfs(box.images)
    path = box.images / "ballast"
    with path.open("ab") as ballast:
        os.posix_fallocate(ballast.fileno(), ballast.tell(), volume.f_bavail * volume.f_frsize - remaining)
    return path


def test_the_disk_of_the_images_fills(box: Box) -> None:
    with closing(filling(box) if box.volume else asking_for_more(box)) as steps:
        for expected in steps:
            assert box.comes_to(expected) == expected


def filling(box: Box) -> Generator[Told]:
    """What is to be told at each step, and in the end there is room again."""
    ballast = fill(box, 3 * FLOOR // 2)
    try:
        yield Told("warn", {"images:free": "warn"})
        fill(box, FLOOR // 2)
        yield Told("fail", {"images:free": "fail"})
        fill(box, 0)
        yield Told("fail", {"images:free": "fail", "images:write": "fail"})
    finally:
        ballast.unlink()


def asking_for_more(box: Box) -> Generator[Told]:
    """Where nothing can be mounted: the settings ask for more free space than there is."""
    for floor, expected in ((2**60, Told("fail", {"images:free": "fail"})), (1, WELL)):
        box.set({"storage": {"minimum_free_bytes": floor}})
        box.end("web")
        box.start("web")
        until(lambda: box.word() is not None, "the door to listen")
        yield expected


@contextmanager
def locked(box: Box) -> Iterator[None]:
    """Another process holds the only lock for writing."""
    path = box.stage.directory / "appliance" / "drimbox.sqlite"
    with closing(sqlite3.connect(path, timeout=20, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield
        other.execute("ROLLBACK")


def test_the_database_is_locked(box: Box) -> None:
    with locked(box):
        assert box.comes_to(LOCKED) == LOCKED
        assert box.operator_reads() == ("fail", 1, LOCKED)


# --- the processes that look and answer


class Watcher:
    """Asks all the time; keeps the words, None for a connection that a dying process had accepted."""

    def __init__(self, box: Box) -> None:
        self.words: list[str | None] = []
        self._box, self._over = box, Event()
        self._thread = Thread(target=self._run)

    def _run(self) -> None:
        while not self._over.wait(0.02):
            self.words.append(self._box.word())

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def count(self) -> int:
        return len(self.words)


def replaced(box: Box) -> int:
    """Kill process 0 and wait for its successor to have looked at everything."""
    old = box.web_processes()[0]
    killed = datetime.now(UTC)
    os.kill(old, signal.SIGKILL)

    def looked() -> bool:
        checks = box.report().get("checks", {})
        return (
            bool(checks)
            and all(datetime.fromisoformat(one["time"]) > killed for (one,) in checks.values())
            and set(checks) >= EVERY
        )

    until(looked, "new looks at everything", 1 + BOUND)
    (new,) = set(box.web_processes()[:1])
    assert new != old
    return new


@pytest.mark.soak
def test_who_looks_is_killed_and_nobody_outside_notices(box: Box) -> None:
    with Watcher(box) as watcher:
        until(lambda: watcher.count() > 5, "answers")
        replaced(box)
    assert set(watcher.words) - {None} == {"pass"}
    assert watcher.words.count(None) <= 2


def test_who_looks_is_killed_while_all_is_not_well(box: Box) -> None:
    """The successor says nothing before it has looked at what the answer depends on."""
    with locked(box):
        assert box.comes_to(LOCKED) == LOCKED
        with Watcher(box) as watcher:
            replaced(box)
        assert set(watcher.words) - {None} == {"fail"}


@pytest.mark.soak
def test_who_looks_hangs_and_the_others_say_so(box: Box) -> None:
    prober = box.web_processes()[0]
    os.kill(prober, signal.SIGSTOP)
    begun = time.monotonic()
    try:
        assert box.word() == "pass"
        until(lambda: box.word() == "fail", "the age of the report to be told", STALE + BOUND - PERIOD)
        assert time.monotonic() - begun > STALE - PERIOD - 1
        whole, _ = box.metrics()
        assert whole == "fail"
        until(lambda: box.stage.run("health").returncode == 1, "the operator to be told", STALE)
    finally:
        os.kill(prober, signal.SIGCONT)
