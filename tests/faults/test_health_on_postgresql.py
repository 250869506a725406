"""The health of a box whose facts are in PostgreSQL: well, then the server is stopped, then well again."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from drimbox.entrypoints.bench_wado_peers import listens
from drimbox.entrypoints.demo_stage import start_world
from fixtures.health_box import HealthBox, until
from fixtures.quick_stage import open_quick_stage

PERIOD, DEADLINE = 2.0, 2.0
BOUND = 2 * PERIOD + DEADLINE + 3.0  # as of test_health_faults
IN_TROUBLE = {"database:write": "fail", "worker:heartbeat": "fail", "queue:age": "fail"}


def on_server(url: str, statement: str) -> str | None:
    """One statement on the server; its first value if it gives any."""
    engine = create_engine(f"{url}/postgres", isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        result = connection.execute(text(statement))
        found = str(result.scalar_one()) if result.returns_rows else None
    engine.dispose()
    return found


def control(home: Path, *words: str) -> None:
    found = shutil.which("pg_ctl") or str(sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))[-1])
    account = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    command = [*account, found, "-D", str(home), "-w", *words]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=home.parent)


@contextmanager
def stopped(url: str) -> Iterator[None]:
    """The server of the session is stopped, and started again as it was."""
    home = Path(on_server(url, "SHOW data_directory") or "")
    options = (home / "postmaster.opts").read_text("utf-8").split(maxsplit=1)[1].replace('"', "").strip()
    control(home, "-m", "immediate", "stop")
    try:
        yield
    finally:
        control(home, "-l", str(home.parent / "log"), "-o", re.sub(r"-D \S+", "", options), "start")


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory, postgresql: str) -> Iterator[HealthBox]:
    name = f"health_{uuid.uuid4().hex}"
    on_server(postgresql, f"CREATE DATABASE {name}")
    with open_quick_stage(tmp_path_factory.mktemp("world")) as stage:
        start_world(stage)
        box = HealthBox(stage)
        pace = {"period": PERIOD, "deadline": DEADLINE, "remote_period": PERIOD}
        box.set({"health": pace, "web": {"processes": 2}, "database": {"url": f"{postgresql}/{name}"}})
        box.start("dicom")  # makes the tables; the others find them
        dicom = stage.world["appliance"]["dicom"]
        until(lambda: listens(dicom["host"], dicom["port"]), "the first door to listen")
        box.start("mllp", "worker", "web")
        until(lambda: box.word() == "pass", "all to be well", 40)
        yield box
        sys.stderr.write((stage.directory / "web.log").read_text("utf-8")[-6000:])


def becomes(box: HealthBox, word: str, troubles: dict[str, str]) -> None:
    def look() -> bool:
        troubled = {name: state for name, state in box.checks().items() if state != "pass"}
        return (box.word(), troubled) == (word, troubles)

    until(look, f"{word} with {troubles}", BOUND)


@pytest.mark.soak  # half a minute for what SQLite shows in the main run
def test_the_server_stops_and_comes_back(box: HealthBox, postgresql: str) -> None:
    becomes(box, "pass", {})
    with stopped(postgresql):
        becomes(box, "fail", IN_TROUBLE)
        whole, probes = box.metrics()
        assert (whole, probes["database:write"], probes["images:write"]) == ("fail", "fail", "pass")
        done = box.stage.run("health", "--json")
        assert (json.loads(done.stdout)["status"], done.returncode) == ("fail", 1)
    becomes(box, "pass", {})
    done = box.stage.run("health", "--json")
    assert (json.loads(done.stdout)["status"], done.returncode) == ("pass", 0)
