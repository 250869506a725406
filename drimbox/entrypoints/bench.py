"""`drimbox bench NAME`: how fast this appliance is on this machine, in a temporary directory, as JSON.

Speed is said with what it depends on: the machine, the load on it, and the peer of the same run where there is one.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from drimbox.adapters import logs


@dataclass(frozen=True, slots=True)
class Bench:
    """What a benchmark measures, on how many, and by which function of which module here."""

    title: str
    count: int
    module: str
    function: str
    orthanc: bool = False  # whether it is a peer of it

    def run(self, directory: Path, count: int, **options: Any) -> dict[str, Any]:
        """Measure. Imported only now: no door carries what benchmarks need."""
        measured = getattr(import_module(f"drimbox.entrypoints.{self.module}"), self.function)
        return cast(dict[str, Any], measured(directory, count, **options))


BENCHES: Mapping[str, Bench] = {
    "store": Bench(
        "C-STORE on one and four associations, against Orthanc and dcmtk storescp",
        500,
        "bench_store",
        "bench_store",
        orthanc=True,
    ),
    "report": Bench(
        "ORU^R01 through the MLLP door, from its first byte to its AA", 200, "bench_reports", "bench_report"
    ),
    "kos": Bench(
        "the manifest of one study of that many instances, and its signed lot",
        2000,
        "bench_manifest",
        "bench_kos",
    ),
    "publish": Bench(
        "exams from their facts to an entryUUID, against the simulated DMP",
        300,
        "bench_publish",
        "bench_publish",
    ),
    "wado": Bench(
        "images to partners and viewers, against Orthanc and the bare loopback",
        1300,
        "bench_wado",
        "bench_wado",
        orthanc=True,
    ),
    "whitelist": Bench(
        "the verification of a signed list, against libxmlsec", 100, "bench_whitelist", "bench_whitelist"
    ),
    "reconcile": Bench(
        "known exams that need nothing, all judged again", 100_000, "bench_publish", "bench_reconcile"
    ),
}


def bench(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(BENCHES)}.")],
    count: Annotated[
        int | None,
        typer.Option(min=1, help="How many instances, messages or exams; each has its own default."),
    ] = None,
    orthanc: Annotated[
        str | None,
        typer.Option(help="Command that starts the Orthanc to compare with, when not the installed one."),
    ] = None,
) -> None:
    """One benchmark, as JSON. It needs no configuration and leaves nothing behind."""
    from drimbox.entrypoints.demo_stage import StepFailed

    if name not in BENCHES:
        raise typer.BadParameter(f"{name!r} is none of {', '.join(BENCHES)}", param_hint="NAME")
    if orthanc is not None and not BENCHES[name].orthanc:
        raise typer.BadParameter(f"{name} is not compared with Orthanc", param_hint="--orthanc")
    logs.configure("warning", "console", "bench")
    try:
        measured = measure(name, count, orthanc)
    except StepFailed as failure:
        sys.stderr.write(f"drimbox bench {name}: {failure}\n")
        raise typer.Exit(1) from failure
    typer.echo(json.dumps(measured, indent=2))


def measure(name: str, count: int | None = None, orthanc: str | None = None) -> dict[str, Any]:
    """Run one benchmark in a directory of its own. Raises `StepFailed` when there is nothing to measure."""
    options = {} if orthanc is None else {"orthanc": shlex.split(orthanc)}
    chosen = BENCHES[name]
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="drimbox-bench-") as directory:
        figures = chosen.run(Path(directory), count or chosen.count, **options)
    return {
        "bench": name,
        "what": chosen.title,
        "machine": {
            "cores": len(os.sched_getaffinity(0)),
            "processor": platform.machine(),
            "python": platform.python_version(),
            "load_before": round(load, 2),
        },
        **figures,
    }
