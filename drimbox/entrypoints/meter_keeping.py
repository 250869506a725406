"""A process writes its numbers every few seconds while it serves, and once more when it ends."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog

from drimbox.adapters import meter_files
from drimbox.adapters.meters import Meters
from drimbox.bootstrap import Foundation, node_name
from drimbox.domain import measures as m
from drimbox.settings.whole import Settings

log = structlog.get_logger(__name__)

_PAGE = os.sysconf("SC_PAGE_SIZE")
_OURS = Path("/proc/self")


def meter_directory(settings: Settings) -> Path:
    """Where the processes of this node tell their numbers."""
    return settings.storage.root / "metrics" / node_name(settings)


@contextmanager
def keep_meters(foundation: Foundation, process: str) -> Iterator[None]:
    """Write until the end of the block. `process`: dicom, mllp, worker, web-0…"""
    meters, directory = foundation.meters, meter_directory(foundation.settings)
    meters.process = process
    watch_process(meters)
    stopping = threading.Event()
    thread = threading.Thread(
        target=_write_until, args=(stopping, meters, directory, process), name="meters", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join(meter_files.PERIOD)


def watch_process(meters: Meters) -> None:
    """What the system says of this process."""
    started = time.time()
    meters.watch(m.RESIDENT, _resident)
    meters.watch(m.CPU, time.process_time)
    meters.watch(m.OPEN_FILES, lambda: len(os.listdir(_OURS / "fd")))  # noqa: PTH208 names are all that is wanted
    meters.watch(m.THREADS, threading.active_count)
    meters.watch(m.STARTED, lambda: started)


def _resident() -> float:
    return int((_OURS / "statm").read_text("ascii").split()[1]) * _PAGE


def _write_until(stopping: threading.Event, meters: Meters, directory: Path, process: str) -> None:
    told = True
    while True:
        stopped = stopping.is_set()
        try:
            meter_files.write(directory, process, meters.samples(), stopped=stopped)
            told = True
        except Exception as error:  # noqa: BLE001 the door of a thread: a door without numbers serves on
            if told:
                log.error("metrics_not_written", error=type(error).__name__)  # noqa: TRY400 said once
            told = False
        if stopped:
            return
        stopping.wait(meter_files.PERIOD)
