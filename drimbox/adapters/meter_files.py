"""The numbers of the processes of a node, each in STORAGE/metrics/NODE/PROCESS.json: one writer, replaced at once.

No fsync: what a power cut takes is counted again from zero, which Prometheus knows as a restart. A process that starts
again writes over the file of the one before it, so nothing grows.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drimbox.adapters.meters import Sample
from drimbox.domain.measures import BY_NAME

PERIOD = 5.0  # seconds between two writings
STALE = 3 * PERIOD  # without one, the process is taken for dead
_MOST_BYTES = 1024 * 1024
_PROCESS = re.compile(r"[a-z]+(-[0-9]+)?")
_DEAD = float("-inf")


@dataclass(frozen=True, slots=True)
class Told:
    """What a process said last. `alive`: it said so a moment ago, and not that it stopped.

    `age`: seconds since then; infinite once it stopped.
    """

    process: str
    alive: bool
    samples: Sequence[Sample]
    age: float = 0.0


def instant() -> float:
    """Seconds of the clock that nobody sets; alike in all processes of the machine."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def write(directory: Path, process: str, samples: Sequence[Sample], *, stopped: bool = False) -> None:
    """Replace the file of a process. Raises OSError."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    said = {"pid": os.getpid(), "instant": None if stopped else instant(), "samples": samples}
    half = directory / f".{process}.half"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(half, flags, 0o600), "w", encoding="utf-8") as file:
        json.dump(said, file)
    half.replace(directory / f"{process}.json")


def read(directory: Path) -> list[Told]:
    """What every process of the node said last; a file that cannot be read says nothing."""
    found = []
    for path in sorted(directory.glob("*.json")):
        told = _read(path)
        if told is not None:
            found.append(told)
    return found


def _read(path: Path) -> Told | None:
    try:
        with path.open("rb") as file:
            said = json.loads(file.read(_MOST_BYTES))
        age = instant() - (_DEAD if said["instant"] is None else float(said["instant"]))
        samples = [sample for sample in said["samples"] if _is_known(sample)]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not _PROCESS.fullmatch(path.stem):
        return None
    return Told(path.stem, 0 <= age < STALE, samples, age)


def _is_known(sample: Any) -> bool:
    """Of this version's table, and of its form."""
    name, labels, value = sample
    measure = BY_NAME.get(name)
    if measure is None or len(labels) != len(measure.labels) or not all(isinstance(at, str) for at in labels):
        return False
    if measure.kind != "histogram":
        return isinstance(value, int | float)
    counts, total = value
    return len(counts) == len(measure.bounds) + 1 and isinstance(total, int | float)
