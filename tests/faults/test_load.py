"""A department and its partners at work on a served appliance, all at once, for ten minutes: no error, flat memory.

Modalities on eight associations, four senders of reports, twenty partners that retrieve, the worker that publishes.
The clients are processes of their own (`fixtures.load`); one machine carries everything, hence the rates. Latencies are
printed and not judged.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import requests
from sqlalchemy import create_engine, text

from drimbox.bootstrap import Foundation, lay_foundation
from drimbox.entrypoints.bench_wado_peers import set_options
from drimbox.entrypoints.demo_stage import Stage, start_appliance, start_world
from drimbox.flow import exams, forward_audit
from drimbox.flow.counters import count
from drimbox.settings.whole import load_settings
from fixtures.load.pace import Plan, read_rows
from fixtures.load.verdict import Verdict
from fixtures.load.watch import Watch, percentiles
from fixtures.quick_stage import open_quick_stage

ROLES = ("images", "reports", "partners")
DRAIN = 60.0  # seconds after the last message until nothing waits any more
# Some 70 % of two cores, with the clients, the simulators and the database that run on them too.
LONG = {"seconds": 600.0, "exams": 3.0, "retrievals": 30.0}
SHORT = {"seconds": 7.0, "exams": 2.0, "retrievals": 5.0, "associations": 3, "senders": 2, "readers": 6,
         "patients": 10, "pace": 0.4}  # fmt: skip
# What the slope of a process over the last two thirds of a run may make of that time: MB, and file descriptors.
FLAT = {"pss": 6.0, "private": 6.0, "descriptors": 3.0}
AT_FIRST = dict.fromkeys(FLAT, 40.0)  # modules, connections and segments are still being opened
HEALTH = {
    "period": 15,
    "remote_period": 60,
    "deadline": 5,
}  # as installed; the simulators' are those of hasty tests
EXPECTED_LOGS = {"peer_doubtful"}  # the simulators' partner is on no list, and whitelist.peers = "warn"
ROOT = Path(__file__).resolve().parent.parent.parent


@dataclass
class Run:
    """A run that has ended: what was seen, to be judged."""

    verdict: Verdict
    faults: list[str]
    watch: Watch
    logs: list[dict[str, Any]]
    refused_requests: list[dict[str, Any]]
    disagreements: list[str]
    drained: float
    left: dict[str, Any]
    latencies: dict[str, list[float]]

    def told(self, plan: Plan) -> str:
        """Figures as JSON."""
        figures = {
            **self.verdict.told(),
            "drained_s": round(self.drained, 1),
            "left": self.left,
            "appliance_cpu": round(self.watch.processor / (plan.end - plan.start), 2),
            "latencies": {name: percentiles(values) for name, values in self.latencies.items()},
            "growth": self.watch.growth(),
        }
        return json.dumps(figures, indent=1)


@contextmanager
def open_appliance(directory: Path, url: str) -> Iterator[Stage]:
    """A served appliance on that database ("" = its own SQLite), and patients who have a DMP."""
    with open_quick_stage(directory) as stage:
        start_world(stage)
        config = Path(stage.config)
        rooms = {"policy": {"settle_after": 1}, "health": HEALTH, "database": {"url": url}}
        set_options(config, {name: room for name, room in rooms.items() if url or name != "database"})
        start_appliance(stage)
        yield stage


def run_load(stage: Stage, plan: Plan, look_every: float, check_ledger: Callable[..., None]) -> Run:
    """Let the clients work, wait until nothing waits any more, and gather what was seen."""
    watch = Watch(stage.processes[-1].pid)
    with watch.every(look_every):
        rows = carry_out(plan, stage.directory)
    foundation = lay_foundation(load_settings(Path(stage.config)))
    try:
        drained, left = drain(foundation)
        documents = [
            one for one in stage.control("/control/dmp/documents") if one["type_code"].startswith("IMG-KOS")
        ]
        verdict = Verdict(plan, rows, documents, lambda uid: content(stage, uid))
        faults = verdict.faults()
        ends = [compare(foundation, verdict, number, check_ledger) for number in verdict.exams]
    finally:
        foundation.database.close()
    refused = [one for one in stage.control("/control/dmp/requests") if one["outcome"] != "Success"]
    latencies = verdict.samples() | {"acknowledged_to_registered": [one for _, ms in ends for one in ms]}
    disagreements = [one for one, _ in ends if one]
    return Run(
        verdict, faults, watch, logged(stage, plan.start), refused, disagreements, drained, left, latencies
    )


def make_plan(stage: Stage, **options: Any) -> Plan:
    """A run that begins soon; its patients have a DMP."""
    plan = Plan(str(stage.directory / "simulators.json"), time.time(), **options)
    run_role("patients", plan, stage.directory).wait(DRAIN)
    return replace(plan, start=time.time() + 4)


def run_role(role: str, plan: Plan, directory: Path) -> subprocess.Popen[bytes]:
    """A process of its own."""
    command = [sys.executable, "-m", "fixtures.load", role, "--record", str(directory / f"{role}.jsonl")]
    return subprocess.Popen([*command, *plan.options], cwd=ROOT)


def carry_out(plan: Plan, directory: Path) -> list[dict[str, Any]]:
    """One process for each role; the rows of their records."""
    running = [run_role(role, plan, directory) for role in ROLES]
    try:
        ends = [one.wait(plan.end - time.time() + DRAIN) for one in running]
    finally:
        for one in running:
            one.kill()
            one.wait()
    assert ends == [0] * len(ROLES)
    return read_rows(directory / f"{role}.jsonl" for role in ROLES)


def drain(foundation: Foundation) -> tuple[float, dict[str, Any]]:
    """Seconds until no exam waits to be judged, no submission to be sent, no row of the trace to be passed on.

    And what still waits after `DRAIN`.
    """
    began, left = time.monotonic(), waiting(foundation)
    while left and time.monotonic() < began + DRAIN:
        time.sleep(0.5)
        left = waiting(foundation)
    return time.monotonic() - began, left


def waiting(foundation: Foundation) -> dict[str, Any]:
    """What has not come to its end, by what it waits for."""
    counters = count(foundation.transactions, datetime.now(UTC))
    with foundation.transactions.reading() as transaction:
        exams_left = sum(one.reconcile_at is not None for one in transaction.ledger.exams(None))
    lots = sum(one.rows for one in counters.unfinished)
    rows = forward_audit.lag(foundation.transactions).rows
    found = {"exams": exams_left, "submissions": lots, "rows of the trace": rows, "stopped": counters.stopped}
    return {name: value for name, value in found.items() if value}


def compare(
    foundation: Foundation, verdict: Verdict, number: int, check_ledger: Callable[..., None]
) -> tuple[str, list[float]]:
    """Where ledger, images and DMP disagree about an exam; milliseconds from each AA to the registration it led to."""
    exam = verdict.exams[number]
    at_dmp = {
        one["unique_id"]: (one["patient_id"].partition("^")[0], one["status"])
        for one in verdict.manifests[number]
    }
    said = ""
    try:
        check_ledger(foundation, exam.study, at_dmp)
    except AssertionError as error:
        said = f"{exam.study} ({exam.kind}): {error}"
    with foundation.transactions.reading() as transaction:
        images = transaction.images.snapshot(exam.study)
    kept = sorted(one.SOPInstanceUID for one in images.instances) if images else []
    if kept != sorted(verdict.stored[exam.study]):
        said += f" {exam.study}: {len(kept)} images are kept"
    events = exams.trace_exam(foundation.transactions, exam.study)
    registered = [
        datetime.fromisoformat(one["at"]).timestamp()
        for one in events
        if one["event"] in ("REGISTERED", "FOUND")
    ]
    return said, verdict.answered_after(exam, registered)


def content(stage: Stage, unique_id: str) -> bytes:
    """A document of the DMP."""
    url = f"{stage.world['control']}/control/dmp/documents"
    return requests.get(url, params={"content": unique_id}, timeout=30).content


def logged(stage: Stage, since: float) -> list[dict[str, Any]]:
    """What the appliance said since then at level warning or above, or not as JSON."""
    found = []
    for line in (stage.directory / "serve.log").read_text("utf-8").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            row = {"level": "error", "action": line, "timestamp": datetime.now(UTC).isoformat()}
        at = datetime.fromisoformat(row["timestamp"]).timestamp()
        if at > since and row["level"] not in ("debug", "info"):
            found.append(row)
    return found


def judge(run: Run, most: Mapping[str, float]) -> None:
    """Everything that must hold, and all that does not at once."""
    grown = {
        f"{name} {measure}": seen[measure]
        for name, seen in run.watch.growth().items()
        for measure in most
        if seen[measure] > most[measure]
    }
    found = {
        "still waiting": run.left,
        "faults": run.faults,
        "requests that the DMP refused": run.refused_requests,
        "disagreements": run.disagreements,
        "logs": [one for one in run.logs if one["action"] not in EXPECTED_LOGS],
        "processes that came or went": run.watch.passing(),
        "growth": grown,
    }
    assert {name: (len(seen), seen) for name, seen in found.items() if seen} == {}


@pytest.fixture
def url(request: pytest.FixtureRequest) -> str:
    """Of an empty database on PostgreSQL; "" for SQLite."""
    if request.param == "sqlite":
        return ""
    server: str = request.getfixturevalue("postgresql")
    name = f"load_{uuid.uuid4().hex}"
    engine = create_engine(f"{server}/postgres", isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return f"{server}/{name}"


def test_a_busy_quarter_of_a_minute(tmp_path: Path, rules: Any, capsys: Any) -> None:
    with open_appliance(tmp_path, "") as stage:
        plan = make_plan(stage, **SHORT)
        run = run_load(stage, plan, 0.5, rules.check_ledger)
    with capsys.disabled():
        print(f"\n{run.told(plan)}")
    judge(run, AT_FIRST)
    assert len(run.verdict.exams) == SHORT["exams"] * SHORT["seconds"]


@pytest.mark.soak
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("url", ["sqlite", "postgresql"], indirect=True)
def test_ten_busy_minutes(tmp_path: Path, url: str, rules: Any, capsys: Any) -> None:
    with open_appliance(tmp_path, url) as stage:
        plan = make_plan(stage, **LONG)
        run = run_load(stage, plan, 5, rules.check_ledger)
    with capsys.disabled():
        print(f"\n{run.told(plan)}")
    judge(run, FLAT)
    assert len(run.verdict.exams) == LONG["exams"] * LONG["seconds"]
