"""`drimbox bench store`: what enters by DICOM."""

from __future__ import annotations

import shutil
import socket
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from drimbox.entrypoints.bench_exams import ROOT
from drimbox.entrypoints.demo_stage import StepFailed, open_stage, start_appliance, start_world, wait_for
from fixtures.images import SeriesSpec, StudySpec, make_study

ROUNDS = 3
LOOPBACK = "127.0.0.1"
DCMTK = {"TCP_NODELAY": "1", "PATH": "/usr/bin:/bin"}


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
