"""`drimbox bench store`: what its ratios say, what it refuses, and the whole of it in small."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from drimbox.entrypoints import bench_store, bench_wado_processes
from drimbox.entrypoints.bench_orthanc import open_orthanc
from drimbox.entrypoints.cli import app
from drimbox.entrypoints.demo_stage import StepFailed

PROGRAMS = (*bench_store.PROGRAMS, "Orthanc")
TOOLS = all(shutil.which(name, path="/usr/sbin:/usr/bin:/bin") for name in PROGRAMS)
needs_tools = pytest.mark.skipif(not TOOLS, reason="apt-get install dcmtk orthanc")
ONE = bench_store.Plan(forms=(bench_store.Form("ct", 64, 1, 1),))


def test_ratios_are_medians_of_rounds_and_more_than_one_is_better() -> None:
    def one(ours: float, theirs: float) -> dict[str, dict[str, float]]:
        return {
            "drimbox": {"ct_per_second": ours, "ct_cpu_ms": theirs},
            "orthanc": {"ct_per_second": theirs, "ct_cpu_ms": ours},
            "storescp": {"ct_per_second": 2 * ours},
            "bare": {"ct_per_second": 4 * ours},
        }

    assert bench_store.ratios([one(8, 1), one(6, 2), one(4, 4)], ONE) == {
        "ct_to_orthanc": 3,
        "ct_to_storescp": 0.5,
        "ct_to_bare": 0.25,
        "ct_cpu_to_orthanc": 3,
    }


def test_the_peak_of_a_process_is_at_least_what_it_has_now() -> None:
    now = bench_wado_processes.memory_mb(os.getpid())["rss"]
    assert bench_wado_processes.peak_mb(os.getpid()) >= now * 0.9


def test_another_orthanc_is_only_for_what_is_compared_with_it() -> None:
    done = CliRunner().invoke(app, ["bench", "kos", "--orthanc", "Orthanc"])
    assert done.exit_code == 2
    assert "Orthanc" in done.output


def test_a_command_that_is_no_orthanc_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drimbox.entrypoints.bench_orthanc.START_SECONDS", 0.5)
    idle = [sys.executable, "-c", "import time; time.sleep(60)"]
    with (
        pytest.raises(StepFailed, match="Orthanc does not listen"),
        open_orthanc(tmp_path / "orthanc", {}, command=idle),
    ):
        raise AssertionError("nothing listens there")


@needs_tools
@pytest.mark.soak
def test_the_benchmark_in_small(tmp_path: Path) -> None:
    figures = bench_store.bench_store(tmp_path, 8, bench_store.Plan(rounds=1, first=1))
    assert set(figures["medians"]) == {"drimbox", "orthanc", "storescp", "bare"}
    assert all(
        value > 0 for one in figures["medians"].values() for name, value in one.items() if "per_" in name
    )
    assert all(ratio > 0 for name, ratio in figures["ratios"].items() if "cpu" not in name)
    assert figures["as_shipped"]["ratio"] > 1
    assert figures["door_peak_mb"] > 10
