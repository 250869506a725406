"""SIGKILL of any process at any moment of the story: restart, and the story ends as if nothing had happened.

The PACS and the RIS do what real ones do: they send again what was not acknowledged. At the end every exam has
exactly one Approved manifest at the DMP, which lists every image that was acknowledged, and they can be fetched.
"""

from __future__ import annotations

import contextlib
import io
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pydicom
import pytest
import requests

from drimbox.bootstrap import lay_foundation
from drimbox.domain.errors import Unavailable
from drimbox.flow import exams
from drimbox.settings import load_settings
from drimbox.simulators.partner import partner_fetch
from drimbox.simulators.ris import NoAcknowledgementError, send_hl7
from fixtures.images import SeriesSpec, StudySpec, make_study
from fixtures.reports import ActSpec, OrderSpec, ReportSpec, make_cda, make_oru

ROOT = "1.2.250.1.999.40"
PATIENCE = 90.0  # seconds for a retried step, and for the end of the story


class World:
    """Simulators and appliance as processes that can be killed and come back with the same ports and data."""

    def __init__(self, directory: Path, port_base: int) -> None:
        self.directory = directory
        self._commands = {
            "simulate": ["simulate", "--dir", str(directory), "--port-base", str(port_base)],
            "serve": ["serve", "--config", str(directory / "drimbox.toml")],
        }
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> None:
        with (self.directory / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "drimbox", *self._commands[name]],
                stdout=subprocess.DEVNULL,
                stderr=log,
            )

    def kill(self, name: str) -> None:
        """SIGKILL one process: a top one is started again by us, a door by its supervisor."""
        if name in self._commands:
            process = self.processes[name]
            process.kill()
            process.wait()
            self.start(name)
            return
        for pid in self.pids(name):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def pids(self, door: str) -> list[int]:
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    arguments = (entry / "cmdline").read_bytes().split(b"\0")
                    if (
                        door.encode() in arguments
                        and str(self.directory / "drimbox.toml").encode() in arguments
                    ):
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


def insist(step: Callable[[], bool], what: str) -> None:
    """Do as a PACS or a RIS does: again until it is acknowledged."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, NoAcknowledgementError, requests.RequestException):
            if step():
                return
        time.sleep(0.2)
    raise AssertionError(f"{what}: not acknowledged after {PATIENCE} s")


def storescu(files: list[Path], dicom: dict[str, Any]) -> list[Path]:
    """Push by dcmtk on one association; returns the files that were answered 0x0000, however it ended."""
    command = ["storescu", "-v", "-R", "-to", "5", "-td", "20", "-aet", "PACS", "-aec", dicom["ae_title"]]
    command += [dicom["host"], str(dicom["port"]), *map(str, files)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    said = done.stdout.splitlines()
    acknowledged, sending = [], None
    for line in said:
        if "Sending file: " in line:
            sending = Path(line.partition("Sending file: ")[2].strip())
        elif "Received Store Response (Success)" in line and sending is not None:
            acknowledged.append(sending)
    return acknowledged


class Story:
    """Exams, one after the other, and what was acknowledged of each."""

    def __init__(self, world: World, description: dict[str, Any]) -> None:
        self.world, self.description = world, description
        self.acknowledged: dict[str, set[str]] = {}

    def play(self, number: int, chance: random.Random) -> None:
        study = f"{ROOT}.{number}"
        spec = StudySpec(
            study_instance_uid=study,
            accession=f"ACN{number}",
            patient_id="IPP901",
            series=(SeriesSpec("CT", 3), SeriesSpec("CT", 2)),
        )
        files = make_study(self.world.directory / "exams" / study, spec)
        halves = [lambda: self.push(study, files), lambda: self.report(study, number)]
        if chance.random() < 0.5:
            halves.reverse()
        for half in halves:
            half()

    def push(self, study: str, files: list[Path]) -> None:
        dicom = self.description["appliance"]["dicom"]
        todo = list(files)

        def step() -> bool:
            for file in storescu(todo, dicom):
                uid = str(pydicom.dcmread(file, stop_before_pixels=True).SOPInstanceUID)
                self.acknowledged.setdefault(study, set()).add(uid)
                todo.remove(file)
            return not todo

        insist(step, f"images of {study}")

    def report(self, study: str, number: int) -> None:
        spec = ReportSpec(
            document_id=f"{ROOT}.9.{number}",
            orders=(OrderSpec(accession=f"ACN{number}", placer=f"OPN{number}"),),
            acts=(ActSpec(studies=(study,)),),
        )
        message = make_oru(make_cda(spec), spec, control_id=f"K{number}")
        mllp = self.description["appliance"]["mllp"]
        insist(lambda: b"MSA|AA" in send_hl7(message, mllp["host"], mllp["port"], 10), f"report of {study}")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    port_base = free_range(12)
    world = World(tmp_path, port_base)
    world.start("simulate")
    wait_for(lambda: (tmp_path / "simulators.json").exists() and listens(port_base), "the simulators")
    config = tmp_path / "drimbox.toml"
    config.write_text(config.read_text("utf-8").replace("settle_after = 2", "settle_after = 1"), "utf-8")
    world.start("serve")
    yield world
    world.stop()


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


def wait_for(look: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if look():
            return
        time.sleep(0.1)
    raise AssertionError(f"{what}: not after {PATIENCE} s")


@pytest.mark.timeout(900)
@pytest.mark.parametrize("kills", [10, pytest.param(60, marks=pytest.mark.soak)])
def test_killed_anywhere_the_story_ends_well(world: World, kills: int) -> None:
    seed = random.randrange(1 << 32)
    sys.stderr.write(f"seed {seed}\n")
    chance = random.Random(seed)
    description = json_of(world.directory / "simulators.json")
    story = Story(world, description)
    done = threading.Event()
    killed: list[str] = []

    def kill_at_random() -> None:
        for _ in range(kills):
            time.sleep(chance.uniform(0.2, 2.5))
            name = chance.choice(["dicom", "mllp", "worker", "worker", "web", "serve", "simulate"])
            world.kill(name)
            killed.append(name)
        done.set()

    killer = threading.Thread(target=kill_at_random, daemon=True)
    killer.start()
    number = 0
    while not done.is_set() or number == 0:
        number += 1
        story.play(number, chance)
    killer.join()
    assert len(killed) == kills
    wait_for(lambda: listens(int(description["control"].rpartition(":")[2])), "the simulators")
    wait_for(lambda: listens(public_port(description)), "the public door")
    for study, uids in story.acknowledged.items():
        check_end(world, description, study, uids)


def public_port(description: dict[str, Any]) -> int:
    return urlsplit(description["appliance"]["public"]).port or 443


def json_of(path: Path) -> dict[str, Any]:
    import json

    description: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return description


def check_end(world: World, description: dict[str, Any], study: str, acknowledged: set[str]) -> None:
    """One Approved manifest with every acknowledged image, and each of them can be fetched."""
    kos_uid = ""

    def complete() -> bool:
        nonlocal kos_uid
        foundation = lay_foundation(load_settings(world.directory / "drimbox.toml"))
        try:
            exam = exams.show_exam(foundation.transactions, foundation.documents, study, "Europe/Paris")
        except (exams.UnknownExam, Unavailable):
            return False
        finally:
            foundation.database.close()
        kos_uid = exam["manifest"]["sop_instance_uid"] or ""
        return (
            exam["manifest"]["status"] == "published"
            and exam["manifest"]["entry_uuid"]
            and exam["reason"] is None
        )

    wait_for(complete, f"publication of {study}")
    documents = [
        d
        for d in control(description, "/control/dmp/documents").json()
        if d["type_code"].startswith("IMG-KOS")
    ]
    mine = [d for d in documents if any(ref.startswith(f"{study}^") for ref in d["reference_ids"])]
    approved = [d["unique_id"] for d in mine if d["status"] == "Approved"]
    assert approved == [kos_uid]
    kos = pydicom.dcmread(
        io.BytesIO(control(description, f"/control/dmp/documents?content={kos_uid}").content)
    )
    evidence = kos.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    listed = {
        str(ref.ReferencedSOPInstanceUID) for series in evidence for ref in series.ReferencedSOPSequence
    }
    assert listed == acknowledged
    token = control(description, "/control/psc/token", {"claims": {}, "ttl": 120}).json()["access_token"]
    url = f"{description['appliance']['public']}/studies/{study}"
    fetched = partner_fetch(url, token, kos_uid, Path(description["ca"]), None)
    assert fetched.status == 200
    received = {
        str(pydicom.dcmread(io.BytesIO(part), stop_before_pixels=True).SOPInstanceUID)
        for part in fetched.parts
    }
    assert received == acknowledged


def control(description: dict[str, Any], path: str, body: dict[str, Any] | None = None) -> requests.Response:
    url = description["control"] + path
    answer = requests.get(url, timeout=20) if body is None else requests.post(url, json=body, timeout=20)
    answer.raise_for_status()
    return answer


@pytest.fixture(autouse=True)
def _needs() -> None:
    if not Path("/proc/self/cmdline").exists():
        pytest.skip("needs /proc to find the processes to kill")
    if shutil.which("storescu") is None:
        pytest.skip("dcmtk is not installed: apt-get install dcmtk")
