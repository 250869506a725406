"""SIGKILL of any process at any moment of the life of exams, while one message in five to the DMP meets a fault.

The PACS and the RIS do what real ones do: they send again what was not acknowledged. Exams are published, get late
images, rejection notes, replaced and withdrawn reports, another patient, orders. At the end there is exactly one
Approved manifest where one is due, none elsewhere, and DMP, ledger, trace and WADO-RS tell the same story.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pydicom
import pytest
import requests

from drimbox.bootstrap import lay_foundation, utc_now
from drimbox.domain.errors import Unavailable
from drimbox.flow import exams
from drimbox.settings.whole import load_settings
from drimbox.simulators.partner import Fetched, partner_fetch
from drimbox.simulators.ris import NoAcknowledgementError, send_hl7
from fixtures.images import make_study
from fixtures.notes import make_rejection_note

PATIENCE = 120.0  # seconds for a retried step, and for the end of the story
ENDING = 240.0
VICTIMS = ("dicom", "mllp", "worker", "worker", "worker", "web", "serve", "simulate")
# `timeout` costs the whole answer_timeout, the codes stand for the rows of the error taxonomy (dmp-kos-xds 2.7);
# XDSUnknownPatientId is for the tests with a clock of their own: it waits for a day.
FAULTS = (
    "busy",
    "http_500",
    "drop_before_answer",
    "garbage",
    "timeout",
    "refuse_connection",
    "registry_error:XDSRegistryError",
    "registry_error:XDSDuplicateUniqueIdInRegistry",
    "registry_error:XDSRegistryDeprecatedDocumentError",
    "registry_error:XDSRegistryMetadataError",
    "soap_fault:DMPInvalidCertificate",
)
SHORTER = {
    "settle_after = 2": "settle_after = 1",
    "answer_timeout = 10": "answer_timeout = 2",
    "connect_timeout = 5": "connect_timeout = 2",
    "lease = 20": "lease = 6",
    "retry_cap = 5": "retry_cap = 2",
}


class World:
    """Simulators and appliance as processes that can be killed and come back with the same ports and data."""

    def __init__(self, directory: Path, port_base: int) -> None:
        self.directory = directory
        self._commands = {
            "simulate": ["simulate", "--dir", str(directory), "--port-base", str(port_base)],
            "serve": ["serve", "--config", str(directory / "drimbox.toml")],
        }
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def description(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.directory / "simulators.json").read_text("utf-8"))
        return found

    def start(self, name: str) -> None:
        with (self.directory / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "drimbox", *self._commands[name]],
                stdout=subprocess.DEVNULL,
                stderr=log,
            )

    def kill(self, name: str) -> bool:
        """SIGKILL: a top process is started again by us, a door by its supervisor. False: it was dead already."""
        if name in self._commands:
            process = self.processes[name]
            process.kill()
            process.wait()
            self.start(name)
            return True
        killed = False
        for pid in self.pids(name):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                killed = True
                wait_for(lambda pid=pid: is_dead(pid), f"the death of {name}")  # type: ignore[misc]
        return killed

    def pids(self, door: str) -> list[int]:
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    arguments = (entry / "cmdline").read_bytes().replace(b"\0", b" ").split()
                    ours = str(self.directory / "drimbox.toml").encode() in arguments
                    if ours and door.encode() in arguments:
                        found.append(int(entry.name))
        return found

    def stop(self) -> None:
        for process in reversed(self.processes.values()):
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def control(self, path: str, body: dict[str, Any] | None = None) -> requests.Response:
        url = self.description["control"] + path
        answer = requests.get(url, timeout=20) if body is None else requests.post(url, json=body, timeout=20)
        answer.raise_for_status()
        return answer

    @contextlib.contextmanager
    def foundation(self) -> Iterator[Any]:
        """The appliance's own stores, opened beside it."""
        foundation = lay_foundation(load_settings(self.directory / "drimbox.toml"))
        try:
            yield foundation
        finally:
            foundation.archive.close()
            foundation.database.close()

    def fetch(self, study: str, kos: str, sop: tuple[str, str] | None = None) -> Fetched:
        token = self.control("/control/psc/token", {"claims": {}, "ttl": 120}).json()["access_token"]
        url = f"{self.description['appliance']['public']}/studies/{study}"
        if sop is not None:
            url += f"/series/{sop[0]}/instances/{sop[1]}"
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return partner_fetch(url, token, kos, Path(self.description["ca"]), None)
            except (
                OSError
            ):  # the web of a supervisor that was killed lingers a moment, then the next one starts
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)


def insist(step: Callable[[], bool], what: str) -> None:
    """Do as a PACS or a RIS does: again until it is acknowledged."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, NoAcknowledgementError, requests.RequestException):
            if step():
                return
        time.sleep(0.2)
    raise AssertionError(f"{what}: not acknowledged after {PATIENCE} s")


def storescu(files: list[Path], dicom: dict[str, Any], log: Path) -> list[Path]:
    """Push by dcmtk on one association; returns the files that were answered 0x0000, however it ended.

    `log`: keeps what the last call said.
    """
    command = ["storescu", "-v", "-R", "-to", "5", "-td", "20", "-aet", "PACS", "-aec", dicom["ae_title"]]
    command += [dicom["host"], str(dicom["port"]), *map(str, files)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    log.write_text(done.stdout, "utf-8")
    acknowledged, sending = [], None
    for line in done.stdout.splitlines():
        if "Sending file: " in line:
            sending = Path(line.partition("Sending file: ")[2].strip())
        elif "Received Store Response (Success)" in line and sending is not None:
            acknowledged.append(sending)
    return acknowledged


class Life:
    """One exam at its doors: every step is repeated until it is acknowledged, then it is expected."""

    def __init__(self, world: World, expected: Any, chance: random.Random) -> None:
        self.world, self.exam, self.chance = world, expected, chance
        files = make_study(world.directory / "exams" / expected.study, expected.spec)
        self.files = {path: str(pydicom.dcmread(path).SOPInstanceUID) for path in files}
        self.series = str(pydicom.dcmread(files[0]).SeriesInstanceUID)
        *early, late = files
        first = [lambda: self.images(early), lambda: self.new_report()]
        chance.shuffle(first)
        changes = [
            lambda: self.images([late]),
            self.rejection_note,
            self.everything_rejected,
            self.replaced_report,
            self.corrected_patient,
            self.withdrawn_report,
            self.withdrawn_and_new_report,
            lambda: self.order("CA"),
            lambda: (self.order("CA"), self.order("NW")),
        ]
        weights = [6, 4, 1, 4, 2, 2, 3, 2, 2]
        self.todo: list[Callable[[], Any]] = [
            *first,
            *chance.choices(changes, weights, k=chance.randint(1, 4)),
        ]

    def images(self, files: list[Path]) -> None:
        todo = list(files)

        def step() -> bool:
            for file in self._push(todo):
                self.exam.took_image(self.files[file])
                todo.remove(file)
            return not todo

        insist(step, f"images of {self.exam.study}")

    def _push(self, files: list[Path]) -> list[Path]:
        return storescu(
            files, self.world.description["appliance"]["dicom"], self.world.directory / "storescu.log"
        )

    def rejection_note(self) -> None:
        self._reject(
            self.chance.choice(["113001", "113037", "113038"]), [self.chance.randint(1, self.exam.images)]
        )

    def everything_rejected(self) -> None:
        self._reject("113001", list(range(1, self.exam.images + 1)))

    def _reject(self, code: str, instances: list[int]) -> None:
        self.exam.notes += 1
        directory = self.world.directory / "notes" / self.exam.study
        references = [(1, instance) for instance in instances]
        note = make_rejection_note(directory, self.exam.spec, code, references, self.exam.notes)
        insist(lambda: bool(self._push([note])), f"note of {self.exam.study}")
        self.exam.took_note(code, {self.exam.sop(instance) for instance in instances})

    def new_report(self) -> None:
        self._report(self.exam.new_report(), "NW")

    def replaced_report(self, ins: str = "") -> None:
        if self.exam.report is not None:
            self._report(self.exam.next_report(ins), "RO")

    def corrected_patient(self) -> None:
        self.replaced_report("162018885045327")

    def withdrawn_report(self) -> None:
        if self.exam.report is not None:
            self._say(self.exam.message(self.exam.report, "CA", {}, mdm=self.chance.random() < 0.5))
            self.exam.report = None

    def withdrawn_and_new_report(self) -> None:
        self.withdrawn_report()
        self.new_report()

    def order(self, control: str) -> None:
        self._say(self.exam.order(control))
        self.exam.took_order(control)

    def _report(self, report: Any, control: str) -> None:
        flags = {"INVISIBLE_PATIENT": self.chance.random() < 0.5}
        self._say(self.exam.message(report, control, flags, mdm=self.chance.random() < 0.5))
        self.exam.took_report(report, flags)

    def _say(self, message: bytes) -> None:
        mllp = self.world.description["appliance"]["mllp"]
        answers: list[bytes] = []

        def step() -> bool:
            answers.append(send_hl7(message, mllp["host"], mllp["port"], 10))
            return b"MSA|AA" in answers[-1]

        try:
            insist(step, f"message of {self.exam.study}")
        except AssertionError as error:
            raise AssertionError(f"{error}: {answers[-1:]}") from error


class Storm(threading.Thread):
    """Kills and DMP faults at random until `kills` processes died; the worker dies while it is at work."""

    def __init__(self, world: World, kills: int, seed: int) -> None:
        super().__init__(daemon=True)
        self.world, self.kills, self.chance = world, kills, random.Random(seed)
        self.killed: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.requests = 0
        self._at_last_kill = 0, time.monotonic()  # requests seen, instant; of the worker

    def run(self) -> None:
        pause = time.monotonic() + 1
        while self.killed.total() < self.kills:
            time.sleep(0.1)
            with contextlib.suppress(OSError, ValueError, requests.RequestException):
                self._trouble_the_dmp()
            if time.monotonic() < pause:
                continue
            victim = self.chance.choice(VICTIMS)
            if victim in ("worker", "serve") and not self._is_at_work():
                continue
            self.killed[victim] += self.world.kill(victim)
            pause = time.monotonic() + self.chance.uniform(0.1, 3.5)
            if victim in ("worker", "serve"):
                self._at_last_kill = self.requests, time.monotonic()

    def _is_at_work(self) -> bool:
        """It spoke with the DMP since it was killed last, or had the time to."""
        requests_then, then = self._at_last_kill
        return self.requests > requests_then or time.monotonic() > then + 10

    def _trouble_the_dmp(self) -> None:
        """One fault for one request in five."""
        seen = len(self.world.control("/control/dmp/requests").json())
        for _ in range(max(0, seen - self.requests)):
            if self.chance.random() < 0.2:
                fault = self.chance.choice(FAULTS)
                self.world.control("/control/faults", {"where": "dmp", "fault": fault, "times": 1})
                self.faults[fault] += 1
        self.requests = max(seen, self.requests)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    port_base = free_range(12)
    world = World(tmp_path, port_base)
    world.start("simulate")
    wait_for(lambda: (tmp_path / "simulators.json").exists() and listens(port_base), "the simulators")
    config = tmp_path / "drimbox.toml"
    text = config.read_text("utf-8")
    for long, short in SHORTER.items():
        assert long in text
        text = text.replace(long, short)
    config.write_text(text, "utf-8")
    world.start("serve")
    wait_for(lambda: listens(public_port(world)), "the public door")
    wait_for(lambda: asks_for_a_token(world), "the first whitelist")
    yield world
    world.stop()
    said = (tmp_path / "serve.log").read_text("utf-8", "replace").splitlines()
    sys.stderr.write("\n".join([line for line in said if '"level": "info"' not in line][-60:]))
    sys.stderr.write((tmp_path / "storescu.log").read_text("utf-8", "replace")[-3000:])


def free_range(count: int) -> int:
    """A port base with `count` free ports after it."""
    for base in range(20000 + os.getpid() % 20000, 60000, count):
        with contextlib.ExitStack() as stack:
            try:
                for port in range(base, base + count):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            return base
    raise AssertionError("no free ports")


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def is_dead(pid: int) -> bool:
    """Gone, or a zombie: its sockets are closed, so that who listens after this is another process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rpartition(") ")[2][:1] in ("Z", "X")
    except OSError:
        return True


def asks_for_a_token(world: World) -> bool:
    """The appliance exchanges: before it has its first whitelist it refuses everybody (503)."""
    url = f"{world.description['appliance']['public']}/studies/1.2.3"
    return requests.get(url, verify=world.description["ca"], timeout=10).status_code == 401


def public_port(world: World) -> int:
    return urlsplit(world.description["appliance"]["public"]).port or 443


def wait_for(look: Callable[[], bool], what: str, seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if look():
            return
        time.sleep(0.1)
    raise AssertionError(f"{what}: not after {seconds} s")


@pytest.mark.timeout(3000)
@pytest.mark.parametrize(
    ("kills", "number"),
    [(8, 6), pytest.param(100, 40, marks=pytest.mark.soak), pytest.param(500, 200, marks=pytest.mark.soak)],
)
def test_killed_anywhere_every_exam_ends_well(world: World, rules: Any, kills: int, number: int) -> None:
    seed = random.randrange(1 << 32)
    sys.stderr.write(f"seed {seed}\n")
    chance = random.Random(seed)
    storm = Storm(world, kills, chance.randrange(1 << 32))
    storm.start()
    lives = play(world, rules, number, chance, storm)
    storm.join()
    assert storm.killed.total() == kills
    words = f"kills {dict(storm.killed)}, requests {storm.requests}, faults {dict(storm.faults)}"
    sys.stderr.write(f"{words}\n")
    wait_for(lambda: listens(int(world.description["control"].rpartition(":")[2])), "the simulators")
    wait_for(lambda: listens(public_port(world)), "the public door")
    settle(world, [life.exam for life in lives])
    for life in lives:
        check_end(world, rules, life)


def play(world: World, rules: Any, number: int, chance: random.Random, storm: Storm) -> list[Life]:
    """The lives of `number` exams, some at a time, their steps mixed; calm comes when they are over."""
    numbers, lives, open_lives = itertools.count(1), [], []
    while len(lives) < number or open_lives:
        while len(lives) < number and len(open_lives) < 5:
            open_lives.append(Life(world, rules.Expected(next(numbers)), chance))
            lives.append(open_lives[-1])
        life = chance.choice(open_lives)
        life.todo.pop(0)()
        if not life.todo:
            open_lives.remove(life)
        ahead = number * storm.killed.total() / storm.kills < len(lives) - len(open_lives)
        time.sleep(chance.uniform(0, 1.5 if ahead and storm.is_alive() else 0.1))
    return lives


def settle(world: World, expected: list[Any]) -> None:
    """Until nothing is left to do; an operator releases what a refusal parked."""
    left: dict[str, Any] = {}

    def quiet() -> bool:
        left.clear()
        with world.foundation() as foundation, contextlib.suppress(Unavailable):
            for exam in expected:
                shown = exams.show_exam(
                    foundation.transactions, foundation.documents, exam.study, "Europe/Paris"
                )
                if not done(shown, exam):
                    left[exam.study] = shown
                    with contextlib.suppress(exams.NothingToRelease):
                        exams.release_exam(
                            foundation.transactions, exam.study, now=utc_now(), actor="operator"
                        )
            return not left
        return False

    try:
        wait_for(quiet, "the end of the story", ENDING)
    except AssertionError as error:
        raise AssertionError(f"{error}: {left}") from error


def done(shown: dict[str, Any], exam: Any) -> bool:
    manifest = shown["manifest"]
    if exam.due:
        return manifest["status"] == "published" and bool(manifest["entry_uuid"]) and shown["reason"] is None
    return manifest["status"] in ("none", "unpublished") and shown["reason"] is not None


def check_end(world: World, rules: Any, life: Life) -> None:
    """One Approved manifest with every acknowledged image that was not rejected, or none; and all agree on it."""
    exam = life.exam
    documents = [
        d for d in world.control("/control/dmp/documents").json() if d["type_code"].startswith("IMG-KOS")
    ]
    assert len({document["unique_id"] for document in documents}) == len(documents)
    mine = [d for d in documents if any(ref.startswith(f"{exam.study}^") for ref in d["reference_ids"])]
    assert {d["patient_id"].partition("^")[0] for d in mine} <= exam.patients
    with world.foundation() as foundation:
        at_dmp = {d["unique_id"]: (d["patient_id"].partition("^")[0], d["status"]) for d in mine}
        rules.check_ledger(foundation, exam.study, at_dmp)
    approved = [document for document in mine if document["status"] == "Approved"]
    assert len(approved) == int(exam.due)
    for document in approved:
        check_public(world, rules, life, document)
    for document in mine:
        if document["status"] != "Approved":
            fetched = world.fetch(exam.study, document["unique_id"])
            slug = {"Deprecated": (404, "kos-replaced"), "Deleted": (410, "kos-unpublished")}[
                document["status"]
            ]
            assert (fetched.status, json.loads(fetched.body)["type"]) == slug


def check_public(world: World, rules: Any, life: Life, document: dict[str, Any]) -> None:
    exam, kos_uid = life.exam, document["unique_id"]
    assert document["patient_id"].partition("^")[0] == exam.patient
    assert ("INVISIBLE_PATIENT" in document["confidentiality"]) == exam.flags["INVISIBLE_PATIENT"]
    content = world.control(f"/control/dmp/documents?content={kos_uid}").content
    assert rules.listed_in(pydicom.dcmread(io.BytesIO(content))) == exam.listed
    fetched = world.fetch(exam.study, kos_uid)
    assert fetched.status == 200
    received = [pydicom.dcmread(io.BytesIO(part), stop_before_pixels=True) for part in fetched.parts]
    assert {str(one.SOPInstanceUID) for one in received} == exam.listed
    for sop in exam.stored - exam.listed:
        refused = world.fetch(exam.study, kos_uid, (life.series, sop))
        assert (refused.status, json.loads(refused.body)["type"]) == (404, "instance-not-shared")


@pytest.fixture(autouse=True)
def _needs() -> None:
    if not Path("/proc/self/cmdline").exists():
        pytest.skip("needs /proc to find the processes to kill")
    if shutil.which("storescu") is None:
        pytest.skip("dcmtk is not installed: apt-get install dcmtk")
