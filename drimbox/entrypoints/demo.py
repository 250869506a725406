"""`drimbox demo`: the product's main job on one machine, through its real doors, each step shown as it happens.

The outside world and the appliance run as real processes on free loopback ports; this file only plays the
people: the PACS, the RIS and a partner DRIMBox. A step that does not hold stops the story with exit status 1.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from rich.console import Console
from rich.table import Table

from drimbox.entrypoints.demo_stage import (
    Stage,
    StepFailed,
    open_stage,
    start_appliance,
    start_world,
    wait_for,
)
from drimbox.simulators.health_probe import ProbeClient, Verdict
from drimbox.simulators.multipart_reader import BrokenMultipartError
from drimbox.simulators.pacs import PushFailedError, push_study
from drimbox.simulators.partner import Fetched, partner_fetch
from drimbox.simulators.ris import send_hl7
from fixtures.images import SeriesSpec, StudySpec, make_study
from fixtures.reports import DEFAULT_FLAGS, ActSpec, OrderSpec, ReportSpec, make_cda, make_oru

FAILURES = (
    *(StepFailed, PushFailedError, BrokenMultipartError, OSError),
    *(http.client.HTTPException, requests.RequestException),
)
PUBLISH_SECONDS, HEALTHY_SECONDS = 40.0, 20.0


@dataclass
class Step:
    """One line of the story. `seconds`: how long it took."""

    title: str
    held: bool
    detail: str
    seconds: float


def run_demo(*, keep: bool, as_json: bool) -> int:
    """Play the story; returns the exit status."""
    console = Console(stderr=as_json)
    steps: list[Step] = []
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="drimbox-demo-")))
        stage = stack.enter_context(open_stage(directory))
        for title, play in STORY:
            steps.append(_play(console, stage, title, play))
            if not steps[-1].held:
                break
        held = all(step.held for step in steps)
        console.print(_table(steps))
        if not held:
            _show_logs(console, directory)
        if keep:
            _keep(console, stage)
    if as_json:
        sys.stdout.write(
            json.dumps({"held": held, "steps": [vars(step) for step in steps]}, ensure_ascii=False) + "\n"
        )
    return 0 if held else 1


def _play(console: Console, stage: Stage, title: str, play: Callable[[Stage], str]) -> Step:
    started = time.monotonic()
    with console.status(title):
        try:
            held, detail = True, play(stage)
        except FAILURES as error:
            held, detail = False, str(error)
    step = Step(title, held, detail, round(time.monotonic() - started, 2))
    mark = "[green]ok[/]" if held else "[red]failed[/]"
    console.print(f"{mark} {title}: {detail} [dim]({step.seconds:.2f} s)[/]", highlight=False)
    return step


EXAM = StudySpec(
    study_instance_uid="1.2.250.1.999.1.1",
    accession="ACN-DEMO-1",
    patient_id="IPP-DEMO-1",
    date="20261120",
    time="083000",
    description="Examen de démonstration",
    series=(
        SeriesSpec("CT", 8, "Crâne sans injection", rows=256, columns=256),
        SeriesSpec("CT", 8, "Crâne avec injection", rows=256, columns=256),
        SeriesSpec("CR", 1, "Thorax de face", rows=512, columns=512),
    ),
)
LATE_SERIES = "0003"  # its files come after the publication
REPORT = ReportSpec(
    ipp=EXAM.patient_id,
    document_id="1.2.250.1.999.7.9.1",
    effective_time="20261120101500+0100",
    orders=(OrderSpec(placer="OPN-DEMO-1", accession=EXAM.accession),),
    acts=(
        ActSpec(studies=(EXAM.study_instance_uid,), start="20261120083000+0100", stop="20261120085500+0100"),
    ),
)


def _healthy(stage: Stage) -> str:
    client = ProbeClient(stage.world["appliance"]["public"], authority=Path(stage.world["ca"]), timeout=5)

    def passing() -> Verdict | None:
        verdict = client.check()
        return verdict if verdict.up and verdict.body == b'{"status": "pass"}' else None

    verdict = wait_for(passing, HEALTHY_SECONDS, "the health check never said pass")
    return f"{verdict.status} {verdict.body.decode()} in {verdict.milliseconds:.0f} ms"


def _push(stage: Stage) -> str:
    files, stage.study = make_study(stage.directory / "exam", EXAM), EXAM.study_instance_uid
    stage.late = [file for file in files if file.name.startswith(LATE_SERIES)]
    stage.files = [file for file in files if file not in stage.late]
    return _store(stage, stage.files)


def _late(stage: Stage) -> str:
    before = stage.kos
    said = _store(stage, stage.late)
    stage.files += stage.late
    document = wait_for(lambda: _approved_manifest(stage, other_than=before), PUBLISH_SECONDS, "no TD2.1b")
    stage.kos = document["unique_id"]
    statuses = {d["unique_id"]: d["status"] for d in stage.control("/control/dmp/documents")}
    if statuses[before] != "Deprecated":
        raise StepFailed(f"the first manifest is {statuses[before]} at the DMP")
    return f"{said}; TD2.1b: {stage.kos} Approved, the one before Deprecated"


def _store(stage: Stage, files: list[Path]) -> str:
    dicom = stage.world["appliance"]["dicom"]
    statuses = push_study(files, dicom["host"], dicom["port"], dicom["ae_title"], "PACS")
    if any(statuses):
        raise StepFailed(f"C-STORE answered {sorted(set(statuses))}")
    return f"{len(statuses)} instances, each answered 0x0000 after its commit"


def _report(stage: Stage) -> str:
    return _send(stage, "DEMO-1", "NW", "F")


def _withdraw(stage: Stage) -> str:
    said = _send(stage, "DEMO-2", "CA", "D")

    def deleted() -> bool | None:
        documents = stage.control("/control/dmp/documents")
        return (
            True if any(d["unique_id"] == stage.kos and d["status"] == "Deleted" for d in documents) else None
        )

    wait_for(deleted, PUBLISH_SECONDS, "no TD3.3c")
    return f"{said}; TD3.3c: {stage.kos} Deleted"


def _send(stage: Stage, control_id: str, order_control: str, status: str) -> str:
    mllp = stage.world["appliance"]["mllp"]
    flags = DEFAULT_FLAGS | {"INVISIBLE_PATIENT": True}
    message = make_oru(
        make_cda(REPORT),
        REPORT,
        flags=flags,
        control_id=control_id,
        order_control=order_control,
        status=status,
    )
    ack = send_hl7(message, mllp["host"], mllp["port"], 20)
    if f"MSA|AA|{control_id}".encode() not in ack:
        raise StepFailed(f"the message was answered {ack[:300]!r}")
    return f"ORU^R01 ({order_control}) of {len(message)} bytes acknowledged AA"


def _published(stage: Stage) -> str:
    document = wait_for(lambda: _approved_manifest(stage), PUBLISH_SECONDS, "no Approved IMG-KOS at the DMP")
    stage.kos = document["unique_id"]
    kos = requests.get(
        f"{stage.world['control']}/control/dmp/documents", params={"content": stage.kos}, timeout=10
    ).content
    if hashlib.sha1(kos, usedforsecurity=False).hexdigest() != document["sha1"].lower():
        raise StepFailed("the DMP holds other bytes than those announced")
    return f"TD2.1a: {document['type_code']} {stage.kos} Approved as {document['entry_uuid']}"


def _approved_manifest(stage: Stage, other_than: str = "") -> dict[str, Any] | None:
    documents = stage.control("/control/dmp/documents")
    found = [d for d in documents if d["type_code"].startswith("IMG-KOS") and d["status"] == "Approved"]
    return found[0] if found and found[0]["unique_id"] != other_than else None


def _known(stage: Stage) -> str:
    def published() -> dict[str, Any] | None:
        exam = stage.ask("exams", "show", stage.study)
        return exam if exam and exam["manifest"]["entry_uuid"] else None

    exam = wait_for(published, PUBLISH_SECONDS, "exams show does not know the entryUUID")
    if exam["manifest"]["status"] != "published":
        raise StepFailed(f"exams show says {exam['manifest']['status']}: {exam['reason']}")
    return f"exams show: {exam['instances']} instances, manifest published, entryUUID known"


def _fetch(stage: Stage) -> str:
    token = stage.control("/control/psc/token", {"claims": {}, "ttl": 120})["access_token"]
    fetched = _wado(stage, token)
    if fetched.status != 200:
        raise StepFailed(f"WADO-RS answered {fetched.status}: {fetched.body[:200]!r}")
    sent = {_data_set_digest(path.read_bytes()) for path in stage.files}
    received = {_data_set_digest(part) for part in fetched.parts}
    if sent != received or len(fetched.parts) != len(stage.files):
        raise StepFailed(
            f"{len(fetched.parts)} parts received, {len(sent & received)} of {len(sent)} identical"
        )
    return f"{len(fetched.parts)} images by WADO-RS, every data set identical to the one pushed"


def _refused(stage: Stage) -> str:
    status = _wado(stage, None).status
    if status != 401:
        raise StepFailed(f"without a token WADO-RS answered {status}")
    return "WADO-RS answers 401"


def _gone(stage: Stage) -> str:
    token = stage.control("/control/psc/token", {"claims": {}, "ttl": 120})["access_token"]
    status = _wado(stage, token).status
    if status != 410:
        raise StepFailed(f"after the withdrawal WADO-RS answered {status}")
    return "WADO-RS answers 410"


def _wado(stage: Stage, token: str | None) -> Fetched:
    url = f"{stage.world['appliance']['public']}/studies/{stage.study}"
    partner = stage.world["partner"]
    credentials = (Path(partner["certificate"]), Path(partner["key"]))
    return partner_fetch(url, token, stage.kos, Path(stage.world["ca"]), credentials)


STORY: tuple[tuple[str, Callable[[Stage], str]], ...] = (
    ("start the outside world", start_world),
    ("start the appliance", start_appliance),
    ("a probe asks how it is", _healthy),
    ("PACS pushes the exam (C-STORE)", _push),
    ("RIS sends the report (MLLP)", _report),
    ("appliance publishes the manifest", _published),
    ("the exam's page says so", _known),
    ("late images replace the manifest", _late),
    ("partner DRIMBox fetches the images", _fetch),
    ("partner without a token is refused", _refused),
    ("RIS withdraws the report", _withdraw),
    ("partner fetches again", _gone),
)


def _data_set_digest(part10: bytes) -> str:
    """Digest of a Part 10 file after its meta information, which each side writes for itself."""
    group_length = int.from_bytes(part10[140:144], "little")
    return hashlib.sha256(part10[144 + group_length :]).hexdigest()


def _table(steps: list[Step]) -> Table:
    table = Table("step", "held", "seconds", "what was seen")
    for step in steps:
        table.add_row(step.title, "yes" if step.held else "NO", f"{step.seconds:.2f}", step.detail)
    table.add_row("total", "", f"{sum(step.seconds for step in steps):.2f}", "")
    return table


def _show_logs(console: Console, directory: Path) -> None:
    for log in sorted(directory.glob("*.log")):
        console.rule(log.name)
        console.print("\n".join(log.read_text("utf-8").splitlines()[-25:]), markup=False, highlight=False)


def _keep(console: Console, stage: Stage) -> None:
    console.print("It keeps running until Ctrl-C:", json.dumps(stage.world, indent=2), stage.config)
    try:
        signal.pause()
    except KeyboardInterrupt:
        console.print("stopping")
