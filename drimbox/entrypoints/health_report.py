"""The full health report as a file, which `drimbox web` writes and `drimbox health` reads: health/node-NAME.json."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from drimbox.bootstrap import Foundation, node_name, utc_now
from drimbox.entrypoints.health_probes import make_probes
from drimbox.membership import make_mesh
from drimbox.settings.whole import Settings
from healthcheck.probe import STALE_PERIODS, ProbeResult
from healthcheck.report import full_report
from healthcheck.runner import Runner

WRITTEN = "written"
_MOST_BYTES = 1024 * 1024


def awake() -> float:
    """Seconds of the clock that nobody sets and that goes on while the machine sleeps; alike in all processes."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class NoReport(Exception):
    """There is no report of this node that is worth reading."""


def describe(settings: Settings, results: Sequence[ProbeResult]) -> dict[str, Any]:
    """The report as JSON, with who says it and when."""
    about = {
        "releaseId": version("drimbox"),
        "description": f"DRIMBox {node_name(settings)}",
        WRITTEN: _stamp(utc_now()),
    }
    return full_report(results, awake(), settings.health.fail_on, **about)


def write_report(settings: Settings, results: Sequence[ProbeResult]) -> None:
    """Replace the file at once. Raises `OSError`."""
    path = _path(settings)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    half = path.with_name(
        f".{path.name}.half"
    )  # one process of a node writes: what a crash left is written over
    content = json.dumps(describe(settings, results), ensure_ascii=False).encode("utf-8", "replace")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(half, flags, 0o600), "wb") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(content)
    half.replace(path)


def read_report(settings: Settings, now: datetime) -> dict[str, Any]:
    """The last report of this node. Raises `NoReport`, also for one that is too old to say anything."""
    path, ask = _path(settings), "is `drimbox web` running on this node?"
    try:
        with path.open("rb") as file:
            report: dict[str, Any] = json.loads(file.read(_MOST_BYTES))
        age = (now - datetime.fromisoformat(report[WRITTEN])).total_seconds()
    except FileNotFoundError as error:
        raise NoReport(f"no report was ever written: {ask}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise NoReport(f"the report cannot be read ({type(error).__name__}): {path}") from error
    if age > STALE_PERIODS * settings.health.period:
        raise NoReport(f"no report for {age:.0f} s: {ask}")
    if age < -settings.health.period:
        raise NoReport(f"the last report is {-age:.0f} s ahead: the clock was set; {ask}")
    return report


def look_now(foundation: Foundation) -> dict[str, Any]:
    """Look at everything, all at the same time, with the same deadlines: one that hangs holds up nobody."""
    probes = make_probes(foundation, make_mesh(foundation.settings))
    told: SimpleQueue[tuple[ProbeResult, ...]] = SimpleQueue()
    runner = Runner(probes, told.put, lambda _before, _now: None, utc_now, awake)
    runner.start()
    while len(results := told.get()) < len(probes):
        continue
    runner.stop()
    return describe(foundation.settings, results)


def _path(settings: Settings) -> Path:
    return settings.storage.root / "health" / f"node-{node_name(settings)}.json"


def _stamp(instant: datetime) -> str:
    return instant.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
