"""Two nodes on one PostgreSQL and one storage root: images at one, the report at the other; one dies, both restart.

The PACS and the RIS send elsewhere, and again, what was not acknowledged. At the end every acknowledged exam has one
Approved manifest, both nodes serve it, no lease outlives its time, and each duty has one holder.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests
from sqlalchemy import Engine, create_engine, text

from drimbox.entrypoints.demo_stage import Stage, listens, start_world
from drimbox.entrypoints.on_duty import DUTIES
from drimbox.flow.duties import LOOK
from drimbox.simulators.partner import partner_fetch
from drimbox.simulators.ports import free_ports
from drimbox.simulators.ris import NoAcknowledgementError, send_hl7
from fixtures.images import SeriesSpec, StudySpec, make_study
from fixtures.quick_stage import open_quick_stage
from fixtures.reports import ActSpec, OrderSpec, ReportSpec, make_cda, make_oru

ROOT = "1.2.250.1.999.70"
LEASE = 6  # seconds, of a submission in flight
SHORTER = {
    "settle_after = 2": "settle_after = 1",
    "answer_timeout = 10": "answer_timeout = 2",
    "connect_timeout = 5": "connect_timeout = 2",
    "lease = 20": f"lease = {LEASE}",
    "retry_cap = 5": "retry_cap = 2",
}
# What a sender may meet at a node that is told to stop: nobody listens, or nobody took up the connection any more.
REFUSED = {"refused", "not taken up"}


@dataclass
class Node:
    """One `drimbox serve` with its own ports and name; `ports`: dicom, mllp, mllp_tls, public, internal."""

    name: str
    config: Path
    ports: dict[str, int]
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "drimbox", "serve", "--config", str(self.config)]
        with self.config.with_suffix(".log").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=log, start_new_session=True
            )

    def kill(self) -> None:
        """The whole machine is gone, as far as the others see."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(20)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(40)

    def is_open(self) -> bool:
        return all(listens("127.0.0.1", self.ports[one]) for one in ("dicom", "mllp", "public", "internal"))


@dataclass
class Box:
    """Both nodes, the world around them, the database under them."""

    stage: Stage
    nodes: list[Node]
    engine: Engine

    def rows(self, statement: str) -> list[Any]:
        with self.engine.connect() as connection:
            return [tuple(row) for row in connection.execute(text(statement))]

    def holders(self) -> set[str]:
        now = "clock_timestamp() AT TIME ZONE 'UTC'"
        rows = self.rows(f"SELECT name, holder FROM duties WHERE until > {now}")
        assert {name for name, _ in rows} <= {*DUTIES}
        return {holder for _, holder in rows} if len(rows) == len(DUTIES) else set()

    def fetch(self, node: Node, study: str, kos: str) -> tuple[int, int]:
        """Status and number of images of a retrieval from that node."""
        token = self.stage.control("/control/psc/token", {"claims": {}, "ttl": 120})["access_token"]
        url = f"https://127.0.0.1:{node.ports['public']}/dicom-web-rs/studies/{study}"
        done = partner_fetch(url, token, kos, Path(self.stage.world["ca"]), None)
        return done.status, len(done.parts)

    def serves(self, node: Node, study: str) -> bool:
        """Whether that node gives both images of the manifest that is public."""
        public = [one for one in self.manifests().get(study, []) if one["status"] == "Approved"]
        return bool(public) and self.fetch(node, study, public[0]["unique_id"]) == (200, 2)

    def manifests(self) -> dict[str, list[dict[str, Any]]]:
        """What the DMP holds, by study."""
        found: dict[str, list[dict[str, Any]]] = {}
        for one in self.stage.control("/control/dmp/documents"):
            if one["type_code"].startswith("IMG-KOS"):
                (study,) = {ref.partition("^")[0] for ref in one["reference_ids"] if ref.startswith(ROOT)}
                found.setdefault(study, []).append(one)
        return found

    def restart(self, node: Node, between: Callable[[], None] = lambda: None) -> None:
        node.stop()
        between()
        node.start()
        until(node.is_open, f"{node.name} to listen")


@dataclass
class Senders:
    """PACS and RIS of exam after exam, until the story is told and `number` are acknowledged.

    `pace`: seconds between two exams; `met`: (phase, door, what was met instead of an acknowledgement).
    """

    box: Box
    number: int
    pace: float
    acknowledged: list[str] = field(default_factory=list)
    met: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    taken: Counter[tuple[str, str]] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    phase: str = "calm"

    def __post_init__(self) -> None:
        self._told, self._numbers, self._lock = threading.Event(), itertools.count(1), threading.Lock()
        self._threads = [threading.Thread(target=self._send, daemon=True) for _ in range(4)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        """The story is told: end when there are enough."""
        self._told.set()
        for thread in self._threads:
            thread.join(600)

    def _send(self) -> None:
        while not (self._told.is_set() and len(self.acknowledged) >= self.number):
            begun = time.monotonic()
            number = next(self._numbers)
            try:
                self._exam(number)
            except Exception as error:  # noqa: BLE001 told at the end of the test
                self.lost.append(f"{number}: {error!r}")
                return
            time.sleep(max(0.0, len(self._threads) * self.pace - (time.monotonic() - begun)))

    def _exam(self, number: int) -> None:
        study, first = f"{ROOT}.{number}", number % 2
        series = (SeriesSpec("CT", 2),)
        spec = StudySpec(
            study_instance_uid=study, accession=f"ACN{number}", patient_id="IPP901", series=series
        )
        files = make_study(self.box.stage.directory / "exams" / study, spec)
        report = ReportSpec(
            document_id=f"{ROOT}.9.{number}",
            orders=(OrderSpec(accession=f"ACN{number}", placer=f"OPN{number}"),),
            acts=(ActSpec(studies=(study,)),),
        )
        message = make_oru(make_cda(report), report, control_id=f"NW{number}")
        steps = [
            ("dicom", first, lambda node: store(node, files)),
            ("mllp", 1 - first, lambda node: say(node, message)),
        ]
        for door, preferred, step in steps if number % 4 < 2 else reversed(steps):
            self._insist(door, preferred, step)
        with self._lock:
            self.acknowledged.append(study)
        shutil.rmtree(files[0].parent)

    def _insist(self, door: str, preferred: int, step: Callable[[Node], str]) -> None:
        """At the preferred node, at the other when it takes nothing, until it is acknowledged."""
        deadline = time.monotonic() + 60
        for attempt in itertools.count():
            node = self.box.nodes[(preferred + attempt) % 2]
            trouble = step(node)
            with self._lock:
                if not trouble:
                    self.taken[node.name, door] += 1
                    return
                self.met[self.phase, door, trouble] += 1
            assert time.monotonic() < deadline, trouble
            time.sleep(0.1)


def store(node: Node, files: list[Path]) -> str:
    """storescu; what went wrong, or nothing."""
    command = ["storescu", "-v", "-R", "-to", "5", "-td", "20", "-aet", "PACS", "-aec", "DRIMBOX"]
    command += ["127.0.0.1", str(node.ports["dicom"]), *map(str, files)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.stdout.count("Received Store Response (Success)") == len(files):
        return ""
    if "Connection refused" in done.stdout:
        return "refused"
    return "other" if "Association Accepted" in done.stdout else "not taken up"


def say(node: Node, message: bytes) -> str:
    try:
        answer = send_hl7(message, "127.0.0.1", node.ports["mllp"], 10)
    except ConnectionRefusedError:
        return "refused"
    except (ConnectionError, NoAcknowledgementError) as error:
        return "other" if "time" in str(error) else "not taken up"
    return "" if b"MSA|AA" in answer else answer.decode("latin-1")


def until(look: Callable[[], object], what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            if look():
                return
        time.sleep(0.1)
    raise AssertionError(f"{what}: not after {seconds} s")


def configure(stage: Stage, url: str, directory: Path) -> list[Node]:
    """The world's appliance as two nodes: the second one on other ports, behind the same public address."""
    appliance, written = stage.world["appliance"], Path(stage.config).read_text("utf-8")
    ports = {name: int(appliance[name]["port"]) for name in ("dicom", "mllp", "mllp_tls")}
    ports |= {name: int(appliance[name].split("/")[2].rpartition(":")[2]) for name in ("public", "internal")}
    for long, short in SHORTER.items():
        assert long in written
        written = written.replace(long, short)
    written, urls = re.subn(r'url = "sqlite:[^"]*"', f'url = "{url}"', written)
    assert urls == 1
    nodes = []
    for name, given in (
        ("node-a", ports),
        ("node-b", dict(zip(ports, free_ports(len(ports)), strict=True))),
    ):
        config = written.replace("[web]\n", "[web]\nprocesses = 1\n") + f'\n[node]\nname = "{name}"\n'
        for door, port in given.items():
            config, found = re.subn(rf"port = {ports[door]}\b", f"port = {port}", config)
            assert found == 1
        path = directory / f"{name}.toml"
        path.write_text(config, "utf-8")
        nodes.append(Node(name, path, given))
    return nodes


@pytest.fixture
def box(tmp_path: Path, postgresql: str) -> Iterator[Box]:
    if shutil.which("storescu") is None:
        pytest.skip("dcmtk is not installed: apt-get install dcmtk")
    name = f"nodes_{uuid.uuid4().hex}"
    engine = create_engine(f"{postgresql}/postgres", isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    url = f"{postgresql}/{name}"
    with open_quick_stage(tmp_path) as stage:
        start_world(stage)
        box = Box(stage, configure(stage, url, tmp_path), create_engine(url))
        try:
            for node in box.nodes:  # at once, on an empty database
                node.start()
            for node in box.nodes:
                until(node.is_open, f"{node.name} to listen")
                until(lambda node=node: exchanges(box, node), "the whitelist, seen by both")  # type: ignore[misc]
            yield box
        finally:
            for node in box.nodes:
                node.stop()
            box.engine.dispose()
            for node in box.nodes:
                said = node.config.with_suffix(".log").read_text("utf-8", "replace").splitlines()
                sys.stderr.write("\n".join([line for line in said if '"level": "info"' not in line][-30:]))


def exchanges(box: Box, node: Node) -> bool:
    url = f"https://127.0.0.1:{node.ports['public']}/dicom-web-rs/studies/1.2.3"
    return requests.get(url, verify=box.stage.world["ca"], timeout=10).status_code == 401


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("number", "pace", "rounds"),
    [(8, 3.0, 0), pytest.param(200, 0.35, 4, marks=pytest.mark.soak)],
)
def test_a_node_dies_and_both_are_restarted_and_nothing_is_lost(
    box: Box, number: int, pace: float, rounds: int
) -> None:
    a, b = box.nodes
    begun = time.monotonic()
    until(lambda: len(box.holders()) == 1, "one holder of every duty")
    senders = Senders(box, number, pace)
    senders.start()
    until(lambda: len(senders.acknowledged) >= number / 4, "the first exams", 120)

    senders.phase = "killed"
    box.stage.control("/control/faults", {"where": "dmp", "fault": "timeout", "times": 6})
    sending = "SELECT id FROM submission WHERE state = 'SENDING' AND lease_owner = 'node-a'"
    until(lambda: box.rows(sending), "node-a to send something", 60)
    held = {name for (name,) in box.rows(sending)}
    a.kill()
    killed = time.monotonic()
    until(lambda: senders.taken["node-b", "dicom"] + senders.taken["node-b", "mllp"] > 2, "node-b to go on")
    while rounds and box.holders() != {"node-b"}:  # a whole lease: for the long run
        assert time.monotonic() < killed + 60
        time.sleep(0.5)
    taken_over = time.monotonic() - killed
    leases = "SELECT id FROM submission WHERE lease_owner = 'node-a' AND state IN ('SENDING', 'RESENDING')"
    until(lambda: not box.rows(leases), "the leases of the dead to end", LEASE + 10)
    first = next(iter(senders.acknowledged))
    until(lambda: box.serves(b, first), "node-b to serve what node-a took")
    a.start()
    until(a.is_open, "node-a to listen again")

    senders.phase = "rolling"
    for stopped, other in [(b, a), *[(a, b), (b, a)] * rounds]:
        seconds = LOOK + 10
        box.restart(
            stopped,
            lambda one=other.name, s=seconds: until(lambda: box.holders() == {one}, f"{one} on duty", s),  # type: ignore[misc]
        )
    senders.join()
    assert senders.lost == []

    exams = senders.acknowledged
    assert len(exams) == len(set(exams)) >= number
    until(lambda: {*exams} <= {*box.manifests()}, "every exam at the DMP", 240)
    open_states = "('PREPARED', 'SENDING', 'DOUBTFUL', 'RESENDING')"
    until(
        lambda: (
            not box.rows(
                "SELECT id FROM submission WHERE entry_uuid IS NULL AND state = 'REGISTERED' "
                f"OR state IN {open_states}"
            )
        ),
        "everything to be settled",
        120,
    )
    manifests = box.manifests()
    approved = {study: [one for one in manifests[study] if one["status"] == "Approved"] for study in exams}
    assert {study: len(found) for study, found in approved.items() if len(found) != 1} == {}
    assert len({one["unique_id"] for found in manifests.values() for one in found}) == sum(
        map(len, manifests.values())
    )
    assert box.rows("SELECT id FROM submission WHERE state IN ('REFUSED', 'PARKED')") == []
    assert box.rows("SELECT id FROM submission WHERE lease_until > now() AT TIME ZONE 'UTC'") == []
    for study in exams[:: max(1, len(exams) // 10)]:
        for node in box.nodes:
            assert box.serves(node, study), (node.name, study)
    unexpected = {
        key: count for key, count in senders.met.items() if key[0] != "killed" and key[2] not in REFUSED
    }
    assert unexpected == {}
    figures = {
        "exams": len(exams),
        "seconds": round(time.monotonic() - begun, 1),
        "taken": {f"{node} {door}": count for (node, door), count in sorted(senders.taken.items())},
        "met": {" ".join(key): count for key, count in sorted(senders.met.items())},
        "in flight when killed": len(held),
        "duties taken over after": round(taken_over, 1) if rounds else None,
        "documents": Counter(one["status"] for found in manifests.values() for one in found),
        "doubts": len(box.rows("SELECT id FROM trace WHERE event = 'LEASE_EXPIRED'")),
    }
    sys.stderr.write(json.dumps(figures) + "\n")
