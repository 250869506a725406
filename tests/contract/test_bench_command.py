"""`drimbox bench`: one JSON document, and exit status 2 for what is no benchmark."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from drimbox.entrypoints import bench
from drimbox.entrypoints.cli import app


def test_an_unknown_benchmark_is_wrong_usage() -> None:
    done = CliRunner().invoke(app, ["bench", "nothing"])
    assert done.exit_code == 2
    assert "publish" in done.output


def test_every_exam_of_the_benchmark_is_published(tmp_path: Path) -> None:
    figures = bench.BENCHES["publish"].run(tmp_path, 3)
    assert figures["exams"] == 3
    assert figures["publications_per_second"] > 0
    assert all(spent > 0 for spent in figures["thread_ms_per_publication"].values())


def test_known_exams_are_dismissed_together(tmp_path: Path) -> None:
    figures = bench.BENCHES["reconcile"].run(tmp_path, 2000)
    assert figures["exams"] == 2000
    assert figures["exams_per_second"] > 100


def test_the_answer_is_json_with_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    counting = SimpleNamespace(run=lambda _, count: {"count": count})
    monkeypatch.setitem(sys.modules, "drimbox.entrypoints.bench_counting", counting)
    counted = bench.Bench("a title", 7, "bench_counting", "run")
    monkeypatch.setattr(bench, "BENCHES", {"thing": counted})
    monkeypatch.setattr(bench.logs, "configure", lambda *_: None)
    answer = json.loads(CliRunner().invoke(app, ["bench", "thing", "--count", "5"]).stdout)
    assert answer["count"] == 5
    assert answer["machine"]["cores"] >= 1
