"""The whole crew of probes against real processes: all well, then one thing breaks, then it is well again."""

from __future__ import annotations

import dataclasses
import json
import logging
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.sop_class import Verification

from dicom_store.scp import DicomDoor
from drimbox.adapters import probes
from drimbox.adapters.probes_net import ClientFiles, dicom_echo, tls_connect
from drimbox.bootstrap import lay_foundation, node_name, utc_now
from drimbox.entrypoints.demo_stage import Stage, start_world
from drimbox.entrypoints.health_probes import make_probes
from drimbox.membership import make_mesh
from drimbox.settings.health import HealthSettings
from drimbox.settings.whole import Settings, load_settings
from drimbox.simulators.pki import Pki, make_pki
from fixtures.quick_stage import open_quick_stage
from healthcheck.probe import Outcome, Probe, Status

PATIENCE = 40.0
DEADLINE = 3.0  # of a look, seconds
EXPECTED = {
    *("database:write", "images:write", "images:free", "worker:heartbeat", "queue:age", "whitelist:state"),
    *("dicom:echo", "mllp:connect", "mllps:connect", "crl:age", "dmp:connect", "psc:connect"),
    *(f"certificates:{name}" for name in ("web", "psc", "dmp", "signature", "proof", "mllps", "audit")),
}


@pytest.fixture(autouse=True)
def _pynetdicom_is_heard_again() -> Iterator[None]:
    """A look silences it for the whole process."""
    logger = logging.getLogger("pynetdicom")
    level = logger.level
    yield
    logger.setLevel(level)


class Running:
    """A world, the doors and the worker as processes of their own, and the probes in this one."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.processes: dict[str, subprocess.Popen[str]] = {}
        self.foundation = lay_foundation(self._settings())
        self.foundation.database.migrate()
        self.probes: dict[str, Probe] = {}

    def _settings(self) -> Settings:
        health = HealthSettings(period=5, remote_period=60, deadline=DEADLINE)
        return load_settings(Path(self.stage.config)).model_copy(update={"health": health})

    def start(self, door: str) -> None:
        self.processes[door] = self.stage.start(door, "--config", self.stage.config)

    def look(self, name: str) -> Outcome:
        return self.probes[name].look()

    def until(self, name: str, status: Status) -> Outcome:
        deadline = time.monotonic() + PATIENCE
        while (outcome := self.look(name)).status is not status:
            assert time.monotonic() < deadline, f"{name}: {outcome}"
            time.sleep(0.1)
        return outcome

    def refusals(self) -> int:
        with self.foundation.transactions.reading() as transaction:
            events = [row.event for row in transaction.traces.after(0, 1000)]
        return sum(event in ("ASSOCIATION_REFUSED", "CONNECTION_REFUSED") for event in events)

    def warnings(self, door: str) -> list[str]:
        log = (self.stage.directory / f"{door}.log").read_text("utf-8")
        lines = [json.loads(line) for line in log.splitlines()]
        return [str(line) for line in lines if line["level"] not in ("debug", "info")]


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with open_quick_stage(tmp_path_factory.mktemp("probes")) as stage:
        start_world(stage)
        running = Running(stage)
        for door in ("dicom", "mllp", "worker"):
            running.start(door)
        mesh = make_mesh(running.foundation.settings)
        running.probes = {probe.name: probe for probe in make_probes(running.foundation, mesh)}
        for name in EXPECTED:
            running.until(name, Status.PASS)
        yield running
        running.foundation.archive.close()
        running.foundation.database.close()


def settled(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 5
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def sockets() -> set[str]:
    """The sockets that this process holds."""
    found = set()
    for link in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # of the listing itself
            found.add(str(link.readlink()))
    return {one for one in found if one.startswith("socket:")}


def test_all_is_well_and_nothing_is_left(box: Running) -> None:
    assert set(box.probes) == EXPECTED
    threads, open_sockets = threading.active_count(), sockets()
    for _ in range(3):
        outcomes = {name: box.look(name) for name in sorted(EXPECTED)}
        wrong = {
            name: seen for name, seen in outcomes.items() if seen.status is not Status.PASS or seen.output
        }
        assert wrong == {}
    assert settled(lambda: threading.active_count() == threads)
    assert sockets() <= open_sockets
    assert all(outcome.value is not None for outcome in outcomes.values())
    assert box.refusals() == 0
    assert (box.warnings("dicom"), box.warnings("mllp")) == ([], [])
    mllp = (box.stage.directory / "mllp.log").read_text("utf-8")
    assert "mllp_closed" not in mllp


def test_how_often_and_what_kind(box: Running) -> None:
    far = {name for name, probe in box.probes.items() if probe.period == 60}
    assert far == {"crl:age", "dmp:connect", "psc:connect"} | {n for n in EXPECTED if "certificates" in n}
    assert {probe.period for name, probe in box.probes.items() if name not in far} == {5}
    assert {probe.deadline for probe in box.probes.values()} == {DEADLINE}
    assert {name for name, probe in box.probes.items() if probe.kind != "component"} == {
        "database:write", "images:write", "images:free"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("door", "name"), [("dicom", "dicom:echo"), ("mllp", "mllp:connect"), ("mllp", "mllps:connect")]
)
def test_a_door_that_stands_still_or_dies(box: Running, door: str, name: str) -> None:
    threads = threading.active_count()
    process = box.processes[door]
    box.until(name, Status.PASS)  # it may have been started a moment ago
    process.send_signal(signal.SIGSTOP)
    begun = time.monotonic()
    outcome = box.look(name)
    assert time.monotonic() - begun < DEADLINE
    assert outcome.status is Status.FAIL
    assert "restart" in outcome.output
    process.send_signal(signal.SIGCONT)
    box.until(name, Status.PASS)
    process.kill()
    process.wait()
    assert box.look(name).status is Status.FAIL
    box.start(door)
    box.until(name, Status.PASS)
    assert settled(lambda: threading.active_count() == threads)


def test_a_worker_that_is_stopped_or_killed(box: Running) -> None:
    worker = box.processes["worker"]
    worker.terminate()
    worker.wait()
    assert "the worker was stopped at" in box.look("worker:heartbeat").output
    box.start("worker")
    box.until("worker:heartbeat", Status.PASS)
    box.processes["worker"].kill()
    box.processes["worker"].wait()
    transactions, node = box.foundation.transactions, node_name(box.foundation.settings)
    deadline = time.monotonic() + PATIENCE
    while (seen := probes.worker_heartbeat(transactions, node, utc_now, 1)).status is not Status.FAIL:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert "the worker is silent since" in seen.output
    box.start("worker")
    box.until("worker:heartbeat", Status.PASS)


def test_a_dmp_that_cannot_be_reached_is_a_warning(box: Running) -> None:
    box.stage.control("/control/faults", {"where": "dmp", "fault": "refuse_connection", "times": 1})
    refused = box.look("dmp:connect")
    assert refused.status is Status.WARN
    assert f"{box.foundation.settings.dmp.repository_url.split('/')[2]}: " in refused.output
    assert box.look("dmp:connect").status is Status.PASS


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return make_pki(tmp_path_factory.mktemp("strangers") / "pki", utc_now())


def test_why_a_server_cannot_be_spoken_to(
    box: Running, strangers: Pki, free_port: Callable[[], int], tmp_path: Path
) -> None:
    psc = box.foundation.settings.psc
    host, port = psc.issuer.split("/")[2].split(":")
    ours = ClientFiles(psc.authority, psc.client_certificate, psc.client_key)

    def look(files: ClientFiles = ours, *more: tuple[str, int]) -> Outcome:
        return tls_connect(((host, int(port)), *more), files, utc_now, 2.0)

    assert look().status is Status.PASS
    stranger = dataclasses.replace(ours, authority=strangers.authority)
    assert "its certificate is not accepted" in look(stranger).output
    foreign = ClientFiles(ours.authority, strangers.path("appliance_auth"), strangers.key("appliance_auth"))
    assert "it refuses our certificate" in look(foreign).output
    old = strangers.issue("AUTH_CLI", "old", "1750803447", expired=True).write(tmp_path, "old")
    assert "our client certificate old.pem ended" in look(ClientFiles(ours.authority, *old)).output
    absent = look(ours, ("127.0.0.1", free_port()), ("no-such-host.invalid", 443))
    assert absent.status is Status.WARN
    assert absent.output.count("; ") == 1
    assert "Connection refused" in absent.output


class Nothing:
    """A sink that nobody stores into."""

    def begin(self, _command: object) -> Any:
        raise AssertionError

    def close(self) -> None:
        """Nothing was kept."""


def test_what_a_dicom_door_may_answer() -> None:
    refused: list[str] = []
    door = DicomDoor(
        "127.0.0.1", 0, "OURS", ["PACS"], max_associations=4, idle_timeout=10, max_instance_bytes=1024,
        open_sink=lambda _peer: Nothing(), on_refused=lambda _peer, reason: refused.append(reason),
    )  # fmt: skip
    door.start()
    try:
        assert dicom_echo("0.0.0.0", door.port, "OURS", ["PACS"], 4.0).status is Status.PASS
        assert refused == []
        nobody = dicom_echo("127.0.0.1", door.port, "OURS", [], 4.0)
        assert (nobody.status, "calling_ae_titles is empty" in nobody.output) == (Status.WARN, True)
        for called, calling in (("OTHER", "PACS"), ("OURS", "OTHER")):
            outcome = dicom_echo("127.0.0.1", door.port, called, [calling], 4.0)
            assert (outcome.status, "refuses our AE titles" in outcome.output) == (Status.FAIL, True)
        entity = AE("PACS")
        entity.add_requested_context(Verification)
        held = [entity.associate("127.0.0.1", door.port, ae_title="OURS") for _ in range(4)]
        assert all(one.is_established for one in held)
        full = dicom_echo("127.0.0.1", door.port, "OURS", ["PACS"], 4.0)
        assert (full.status, "all places are taken" in full.output) == (Status.WARN, True)
        for one in held:
            one.release()
    finally:
        door.stop()


@pytest.mark.parametrize(("lost", "status"), [(1, Status.PASS), (2, Status.FAIL)])
def test_an_echo_whose_answer_was_lost_is_asked_again(
    monkeypatch: pytest.MonkeyPatch, lost: int, status: Status
) -> None:
    """The reactor of pynetdicom takes an answer now and then: no reason to be out of service."""
    asked: list[int] = []
    real = Association.send_c_echo

    def send_c_echo(association: Association, *arguments: Any) -> Dataset:
        asked.append(1)
        answer = real(association, *arguments)
        return Dataset() if len(asked) <= lost else answer

    monkeypatch.setattr(Association, "send_c_echo", send_c_echo)
    door = DicomDoor(
        "127.0.0.1", 0, "OURS", ["PACS"], max_associations=4, idle_timeout=10, max_instance_bytes=1024,
        open_sink=lambda _peer: Nothing(),
    )  # fmt: skip
    door.start()
    try:
        assert dicom_echo("127.0.0.1", door.port, "OURS", ["PACS"], 4.0).status is status
        assert len(asked) == 2
    finally:
        door.stop()


def test_the_worker_of_another_node_is_not_ours(box: Running) -> None:
    other = probes.worker_heartbeat(box.foundation.transactions, "another-node", utc_now, 30)
    assert other == Outcome(Status.FAIL, "no worker ever ran on another-node: start `drimbox worker`")
