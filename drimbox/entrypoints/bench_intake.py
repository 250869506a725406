"""`drimbox bench store` and `bench report`: what enters by DICOM and by HL7v2."""

from __future__ import annotations

import base64
import random
import shutil
import socket
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from drimbox.bootstrap import make_reception, utc_now
from drimbox.entrypoints.bench_exams import ROOT, open_appliance, report_of
from drimbox.entrypoints.demo_stage import StepFailed, open_stage, start_appliance, start_world, wait_for
from drimbox.flow.keep_report import Arrival
from fixtures.images import SeriesSpec, StudySpec, make_study
from fixtures.report_pdf import one_page_pdf
from fixtures.reports import ReportSpec, make_cda, make_oru

ROUNDS = 3
PDF_BYTES = 1_000_000
LOOPBACK = "127.0.0.1"
DCMTK = {"TCP_NODELAY": "1", "PATH": "/usr/bin:/bin"}


def bench_report(directory: Path, count: int) -> dict[str, Any]:
    """Messages per second, one after the other, each durable and committed before its AA."""
    messages = [_message(number) for number in range(count)]
    with open_appliance(directory) as (_, foundation):
        reception = make_reception(foundation)
        started = time.perf_counter()
        answers = [reception.message(Arrival(one, "mllp", "bench", utc_now())) for one in messages]
        seconds = time.perf_counter() - started
    refused = [answer for answer in answers if answer is None or b"MSA|AA" not in answer]
    if refused:
        raise StepFailed(f"{len(refused)} of {count} messages were not accepted")
    return {
        "messages": count,
        "message_bytes": len(messages[0]),
        "seconds": round(seconds, 2),
        "messages_per_second": round(count / seconds, 1),
    }


def bench_store(directory: Path, count: int) -> dict[str, Any]:
    """Instances per second of one association of storescu, ours and storescp's in turn.

    Ours fsyncs, indexes, traces and commits every instance before its answer; storescp does none of it.
    """
    if shutil.which("storescp", path=DCMTK["PATH"]) is None:
        raise StepFailed("dcmtk is not installed: apt-get install dcmtk")
    with _storescp(directory / "storescp") as port, open_stage(directory) as stage:
        start_world(stage)
        start_appliance(stage)
        ours = stage.world["appliance"]["dicom"]
        places = {
            "drimbox": (ours["host"], ours["port"], ours["ae_title"]),
            "storescp": (LOOPBACK, port, "PEER"),
        }
        rounds = [
            {name: round(_push(files, *place), 1) for name, place in places.items()}
            for files in (_exam(directory, number, count) for number in range(ROUNDS))
        ]
    ratio = statistics.median(one["drimbox"] / one["storescp"] for one in rounds)
    return {"instances": count, "instances_per_second": rounds, "ratio_to_storescp": round(ratio, 2)}


def _message(number: int) -> bytes:
    """An ORU^R01 whose CDA holds a PDF of 1 MB: the page of the fixtures and a comment that does not compress."""
    report = report_of(number)
    page = one_page_pdf(ReportSpec().text)
    ballast = random.Random(number).randbytes((PDF_BYTES - len(page)) // 2).hex().encode("ascii")  # noqa: S311 weight, no secret
    pdf = page + b"%" + ballast
    cda = make_cda(report).replace(base64.b64encode(page), base64.b64encode(pdf))
    return make_oru(cda, report, control_id=f"BENCH{number}")


def _exam(directory: Path, number: int, instances: int) -> list[Path]:
    series = SeriesSpec("CT", instances, rows=512, columns=512)
    spec = StudySpec(study_instance_uid=f"{ROOT}.3.{number}", series=(series,))
    return make_study(directory / f"exam{number}", spec)


def _push(files: list[Path], host: str, port: int, called: str) -> float:
    """Instances per second of one association."""
    command = ["storescu", "-R", "-aet", "STORESCU", "-aec", called, host, str(port), *map(str, files)]
    started = time.perf_counter()
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=DCMTK)  # noqa: S603 our own names
    if done.returncode:
        raise StepFailed(f"storescu to {called} failed: {done.stderr.strip()[-200:]}")
    return len(files) / (time.perf_counter() - started)


@contextmanager
def _storescp(directory: Path) -> Iterator[int]:
    directory.mkdir()
    port = _free_port()
    command = ["storescp", "-aet", "PEER", "-od", str(directory), "+B", str(port)]
    with subprocess.Popen(command, env=DCMTK) as peer:  # noqa: S603 our own names
        try:
            wait_for(_listening(port), 10, "storescp does not listen")
            yield port
        finally:
            peer.terminate()


def _listening(port: int) -> Callable[[], bool | None]:
    def look() -> bool | None:
        with socket.socket() as probe:
            return True if probe.connect_ex((LOOPBACK, port)) == 0 else None

    return look


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])
