"""What processes cost: memory and processor time of one and all below it, as Linux counts them (proc(5))."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from drimbox.entrypoints.demo_stage import StepFailed

_TICKS = os.sysconf("SC_CLK_TCK")
_FIELDS = {"pss": re.compile(rb"^Pss: +(\d+) kB$", re.M), "rss": re.compile(rb"^Rss: +(\d+) kB$", re.M)}
_PEAK = re.compile(rb"^VmHWM:\s+(\d+) kB$", re.M)
_AFTER_NAME = 11  # utime, then stime, counted from behind the name of the command


def tree(process: int) -> list[int]:
    """That process and all that it started; the threads of each are asked for their children."""
    return [process, *(child for one in _children(process) for child in tree(one))]


def find_command(process: int, name: str) -> int:
    """The process below `process` that runs `drimbox NAME`. Raises `StepFailed` when there is none."""
    for one in tree(process):
        words = (Path("/proc") / str(one) / "cmdline").read_bytes().replace(b"\0", b" ").split()
        if b"drimbox" in words and name.encode() in words:
            return one
    raise StepFailed(f"no process runs drimbox {name}")


def memory_mb(process: int) -> dict[str, float]:
    """Of the tree, in MB of 10^6 bytes: `pss` counts a shared page once, `rss` in each process."""
    members = tree(process)
    texts = [(Path("/proc") / str(one) / "smaps_rollup").read_bytes() for one in members]
    sums = {
        name: round(sum(int(found[1]) for text in texts if (found := field.search(text))) * 1024 / 1e6, 1)
        for name, field in _FIELDS.items()
    }
    return {"processes": len(members), **sums}


def peak_mb(process: int) -> float:
    """The most that one process ever had resident, in MB of 10^6 bytes."""
    text = (Path("/proc") / str(process) / "status").read_bytes()
    found = _PEAK.search(text)
    if found is None:
        raise StepFailed(f"process {process} has no VmHWM")
    return round(int(found[1]) * 1024 / 1e6, 1)


def cpu_seconds(process: int) -> float:
    """User and system time that the living processes of the tree have spent."""
    return sum(_ticks(one) for one in tree(process)) / _TICKS


def _ticks(process: int) -> int:
    fields = (Path("/proc") / str(process) / "stat").read_text("ascii", "replace").rpartition(")")[2].split()
    return int(fields[_AFTER_NAME]) + int(fields[_AFTER_NAME + 1])


def _children(process: int) -> Iterator[int]:
    for children in (Path("/proc") / str(process) / "task").glob("*/children"):
        yield from map(int, children.read_text("ascii").split())
