"""`make bench`: ratios against the named peer of the same run; nothing here is asserted.

store: C-STORE of one CT series on one association, our door (every instance fsynced, indexed, traced and
committed before its answer) against dcmtk storescp (no fsync, no index), driven by the same storescu.
"""

from __future__ import annotations

import json
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from drimbox.entrypoints.demo_stage import open_stage, start_appliance, start_world, wait_for
from fixtures.images import SeriesSpec, StudySpec, make_study

ROUNDS = 3
INSTANCES = 200


def exam(directory: Path, number: int) -> list[Path]:
    spec = StudySpec(
        study_instance_uid=f"1.2.250.1.999.60.{number}",
        series=(SeriesSpec("CT", INSTANCES, rows=512, columns=512),),
    )
    return make_study(directory / f"exam{number}", spec)


def storescu(files: list[Path], host: str, port: int, called: str) -> float:
    """Instances per second of one association."""
    command = ["storescu", "-R", "-aet", "STORESCU", "-aec", called, host, str(port), *map(str, files)]
    started = time.perf_counter()
    subprocess.run(command, check=True, env={"TCP_NODELAY": "1", "PATH": "/usr/bin:/bin"})
    return len(files) / (time.perf_counter() - started)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def bench_store(directory: Path) -> dict[str, object]:
    port = free_port()
    (directory / "storescp").mkdir()
    peer = subprocess.Popen(
        ["storescp", "-aet", "PEER", "-od", str(directory / "storescp"), "+B", str(port)],
        env={"TCP_NODELAY": "1", "PATH": "/usr/bin:/bin"},
    )
    try:
        with open_stage(directory) as stage:
            start_world(stage)
            start_appliance(stage)
            ours = stage.world["appliance"]["dicom"]
            wait_for(lambda: _listens(port), 10, "storescp does not listen")
            forms: dict[str, Callable[[list[Path]], float]] = {
                "drimbox": lambda files: storescu(files, ours["host"], ours["port"], ours["ae_title"]),
                "storescp": lambda files: storescu(files, "127.0.0.1", port, "PEER"),
            }
            rounds = [
                {name: round(form(files), 1) for name, form in forms.items()}
                for files in (exam(directory, number) for number in range(ROUNDS))
            ]
    finally:
        peer.terminate()
        peer.wait()
    ratio = statistics.median(one["drimbox"] / one["storescp"] for one in rounds)
    return {"bench": "store", "unit": "instances/s", "rounds": rounds, "ratio_to_storescp": round(ratio, 2)}


def _listens(port: int) -> bool | None:
    with socket.socket() as probe:
        return True if probe.connect_ex(("127.0.0.1", port)) == 0 else None


def main() -> None:
    if shutil.which("storescp") is None:
        sys.exit("dcmtk is not installed: apt-get install dcmtk")
    with tempfile.TemporaryDirectory(prefix="drimbox-bench-") as directory:
        print(json.dumps(bench_store(Path(directory)), indent=2))


if __name__ == "__main__":
    main()
