"""A running appliance against the simulators: real processes, real sockets, real TLS, one per test module."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
import requests

from drimbox.bootstrap import Foundation, lay_foundation
from drimbox.entrypoints.bench_wado_peers import set_options
from drimbox.entrypoints.demo_stage import Stage, start_appliance, start_world
from drimbox.flow import exams
from drimbox.settings.whole import load_settings
from drimbox.simulators.ris import send_hl7
from fixtures.images import StudySpec, make_study
from fixtures.quick_stage import open_quick_stage

Found = TypeVar("Found")
# Tests do not wait as a department does: seconds.
HASTE: dict[str, dict[str, Any]] = {
    "policy": {"settle_after": 1},
    "worker": {"poll_interval": 0.2},
    "dmp": {"answer_timeout": 3, "retry_base": 0.5, "retry_cap": 2},
}
ROOT = Path(__file__).resolve().parent.parent.parent


@dataclass
class Appliance:
    """The appliance under test and the world around it, as testers drive them."""

    stage: Stage

    @property
    def world(self) -> dict[str, Any]:
        return self.stage.world

    def push(
        self, files: list[Path], *, called: str = "", calling: str = "STORESCU", check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """storescu of dcmtk, each file in its own transfer syntax."""
        dicom = self.world["appliance"]["dicom"]
        command = [
            "storescu",
            "-v",
            "-R",
            "-aet",
            calling,
            "-aec",
            called or dicom["ae_title"],
            dicom["host"],
            str(dicom["port"]),
        ]
        done = subprocess.run([*command, *map(str, files)], capture_output=True, text=True)
        if check:
            assert done.returncode == 0, done.stdout + done.stderr
        return done

    def make_exam(self, spec: StudySpec) -> list[Path]:
        return make_study(self.stage.directory / "exams" / spec.study_instance_uid, spec)

    def send(self, message: bytes) -> bytes:
        mllp = self.world["appliance"]["mllp"]
        return send_hl7(message, mllp["host"], mllp["port"], 30)

    def post(self, cda: bytes) -> requests.Response:
        return requests.post(f"{self.world['appliance']['internal']}/reports", data=cda, timeout=60)

    def exam(self, study: str) -> dict[str, Any] | None:
        """What `exams show --json` prints, without starting a process each time."""
        with self.foundation() as foundation:
            try:
                return exams.show_exam(foundation.transactions, foundation.documents, study, "Europe/Paris")
            except exams.UnknownExam:
                return None

    def trace(self, study: str) -> list[dict[str, Any]]:
        """What `exams trace --json` prints."""
        with self.foundation() as foundation:
            return exams.trace_exam(foundation.transactions, study)

    @contextmanager
    def foundation(self) -> Iterator[Foundation]:
        """The appliance's own stores, opened beside it."""
        foundation = lay_foundation(load_settings(Path(self.stage.config)))
        try:
            yield foundation
        finally:
            foundation.database.close()

    def documents(self, study: str) -> list[dict[str, Any]]:
        """What the DMP holds of a study, manifests only."""
        return [
            document
            for document in self.stage.control("/control/dmp/documents")
            if document["type_code"].startswith("IMG-KOS")
            and any(ref.startswith(f"{study}^") for ref in document["reference_ids"])
        ]

    def content(self, unique_id: str) -> bytes:
        url = f"{self.world['control']}/control/dmp/documents"
        return requests.get(url, params={"content": unique_id}, timeout=10).content

    def arm(self, where: str, fault: str, times: int = 1) -> None:
        self.stage.control("/control/faults", {"where": where, "fault": fault, "times": times})

    def curl(self, path: str, *headers: str) -> tuple[int, dict[str, str], bytes]:
        """GET {public}{path} with curl: status, headers in lower case, body."""
        body, head = self.stage.directory / "curl.body", self.stage.directory / "curl.head"
        body.unlink(missing_ok=True)
        command = ["curl", "-sS", "--cacert", self.world["ca"], "-o", body, "-D", head, "-w", "%{http_code}"]
        command += [argument for header in headers for argument in ("-H", header)]
        done = subprocess.run(
            [*command, self.world["appliance"]["public"] + path], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        lines = [line.partition(":") for line in head.read_text("latin-1").splitlines() if ":" in line]
        found = {name.strip().lower(): value.strip() for name, _, value in lines}
        return int(done.stdout), found, body.read_bytes() if body.exists() else b""

    def token(self) -> str:
        return str(self.stage.control("/control/psc/token", {"claims": {}, "ttl": 120})["access_token"])

    def published(self, study: str) -> dict[str, Any]:
        """The exam, once its manifest is published and identified."""
        return self.until(
            study,
            lambda e: e["manifest"]["status"] == "published" and e["manifest"]["entry_uuid"] is not None,
        )

    def refused_for(self, study: str, rule: str) -> dict[str, Any]:
        """The exam, once the reconciler gives this reason."""
        return self.until(study, lambda e: e["rule"] == rule)

    def until(
        self, study: str, holds: Callable[[dict[str, Any]], bool], seconds: float = 40
    ) -> dict[str, Any]:
        seen: dict[str, Any] | None = None
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            seen = self.exam(study)
            if seen is not None and holds(seen):
                return seen
            time.sleep(0.2)
        raise AssertionError(f"after {seconds} s: {seen}")


@pytest.fixture(scope="module")
def edit_config() -> Callable[[str], str]:
    """The configuration of the simulators, as it is; modules may override it."""
    return lambda text: text


@pytest.fixture(scope="module")
def appliance(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Appliance]:
    """An appliance of its own for each module of stories.

    A module may have `SIMULATE` (more options of `drimbox simulate`) and a fixture `edit_config(text) -> text`.
    """
    if shutil.which("storescu") is None:
        pytest.skip("dcmtk is not installed: apt-get install dcmtk")
    options = list(getattr(request.module, "SIMULATE", []))
    official = os.environ.get("DRIMBOX_OFFICIAL_DATA", ROOT.parent / "shared" / "data")
    if (schemas := Path(official) / "xds-xsd").is_dir():
        options += ["--schemas", str(schemas)]
    edit_config = request.getfixturevalue("edit_config")
    with open_quick_stage(tmp_path_factory.mktemp("world")) as stage:
        start_world(stage, *options)
        config = Path(stage.config)
        config.write_text(edit_config(config.read_text("utf-8") + "\n[worker]\n"), "utf-8")
        set_options(config, HASTE)
        start_appliance(stage)
        try:
            yield Appliance(stage)
        finally:
            sys.stderr.write("\n".join((stage.directory / "serve.log").read_text("utf-8").splitlines()[-60:]))
