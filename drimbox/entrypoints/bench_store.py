"""`drimbox bench store`: what enters by DICOM, against Orthanc, dcmtk's storescp and the bare disk, in the same rounds.

Ours syncs, indexes, traces and commits every instance before its answer; Orthanc, as it is installed, syncs and
indexes; storescp does neither; `bench_bare` syncs and does nothing else: who syncs cannot be much faster. The client
is dcmtk's storescu. Debian's dcmtk leaves Nagle's algorithm on, which stalls a server built on it for 40 ms an
instance: it is off on both sides but in what is called `as_shipped`.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from os import sync
from pathlib import Path
from typing import Any

from pydicom.filereader import read_file_meta_info

from drimbox.entrypoints import bench_bare
from drimbox.entrypoints.bench_exams import ROOT
from drimbox.entrypoints.bench_orthanc import DEBIAN, Orthanc, open_orthanc
from drimbox.entrypoints.bench_wado_clients import ENVIRONMENT, LOOPBACK, check_installed
from drimbox.entrypoints.bench_wado_processes import cpu_seconds, find_command, peak_mb
from drimbox.entrypoints.demo_stage import (
    Stage,
    StepFailed,
    free_port,
    listens,
    open_stage,
    start_appliance,
    start_world,
    wait_for,
)
from fixtures.images import SeriesSpec, StudySpec, make_study
from fixtures.raw_association import EXPLICIT, RawPeer

PROGRAMS = {"storescu": "dcmtk", "storescp": "dcmtk"}
NO_DELAY = {"TCP_NODELAY": "1"}  # read by dcmtk, not by ours
PDU = "131072"
CALLING = "STORESCU"
TOGETHER = 4
SHIPPED = 100  # instances: more would only wait longer
CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
PART_10_HEAD = 132 + 12  # preamble, prefix and the group length of the meta information
ORTHANC = {"HttpServerEnabled": True, "DicomAet": "ORTHANC", "DicomCheckCalledAet": False}

Figures = dict[str, float]


@dataclass(frozen=True)
class Form:
    """What is sent: so many images of `pixels` x `pixels` times the count of the plan, over so many associations."""

    name: str
    pixels: int
    share: float
    associations: int


@dataclass(frozen=True)
class Plan:
    """How long it lasts. `first`: associations whose first answer is timed, in each round."""

    rounds: int = 5
    first: int = 5
    forms: Sequence[Form] = (
        Form("ct", 512, 1, 1),
        Form("ct_4", 512, 1, TOGETHER),
        Form("small", 64, 2, 1),
        Form("small_4", 64, 2, TOGETHER),
    )


@dataclass(frozen=True)
class Door:
    """Where a server takes C-STORE. `process`: what its processor time is read from, None when it forks."""

    name: str
    port: int
    called: str
    process: int | None


def bench_store(
    directory: Path, count: int, plan: Plan = Plan(), orthanc: Sequence[str] = DEBIAN
) -> dict[str, Any]:
    """Instances a second of `count` CT of 527 KB and twice as many of 11 KB; ratios of the same rounds.

    `orthanc`: the command that starts that peer.
    """
    check_installed(PROGRAMS | ({"Orthanc": "orthanc"} if orthanc == DEBIAN else {}))
    with ExitStack() as stack:
        world = directory / "world"
        world.mkdir()
        stage = stack.enter_context(open_stage(world))
        ours = _start_ours(stage)
        peer = stack.enter_context(
            open_orthanc(directory / "orthanc", ORTHANC, command=orthanc, environment=NO_DELAY)
        )
        storescp = stack.enter_context(_storescp(directory / "storescp"))
        bare = stack.enter_context(_bare(directory / "bare"))
        doors = (ours, _door(peer), storescp, bare)
        rounds = [_play(doors, directory / f"round{number}", count, plan) for number in range(plan.rounds)]
        assert ours.process is not None
        return {
            "instances": count,
            "orthanc": peer.version(),
            "rounds": rounds,
            "medians": {door.name: _medians([one[door.name] for one in rounds]) for door in doors},
            "ratios": ratios(rounds, plan),
            "as_shipped": _as_shipped(directory / "shipped", ours, orthanc, min(count, SHIPPED)),
            "door_peak_mb": peak_mb(ours.process),
            "orthanc_peak_mb": peak_mb(peer.process),
        }


def ratios(rounds: Sequence[Mapping[str, Figures]], plan: Plan) -> Figures:
    """Medians of the ratios of each round; above 1, ours is better."""
    each: dict[str, list[float]] = {}
    for form in plan.forms:
        rate, spent = f"{form.name}_per_second", f"{form.name}_cpu_ms"
        for peer in ("orthanc", "storescp", "bare"):
            each[f"{form.name}_to_{peer}"] = [one["drimbox"][rate] / one[peer][rate] for one in rounds]
        each[f"{form.name}_cpu_to_orthanc"] = [
            one["orthanc"][spent] / one["drimbox"][spent] for one in rounds
        ]
    return {name: round(statistics.median(values), 2) for name, values in each.items()}


def _start_ours(stage: Stage) -> Door:
    start_world(stage)
    start_appliance(stage)
    place = stage.world["appliance"]["dicom"]
    process = find_command(stage.processes[-1].pid, "dicom")
    return Door("drimbox", place["port"], place["ae_title"], process)


def _door(peer: Orthanc) -> Door:
    return Door("orthanc", peer.dicom, "ORTHANC", peer.process)


@contextmanager
def _storescp(directory: Path) -> Iterator[Door]:
    directory.mkdir()
    port = free_port()
    command = ["storescp", "--fork", "+B", "-pdu", PDU, "-aet", "PEER", "-od", str(directory), str(port)]
    with subprocess.Popen(command, env=ENVIRONMENT | NO_DELAY) as peer:  # noqa: S603 our own names
        try:
            wait_for(lambda: listens(LOOPBACK, port), 10, "storescp does not listen")
            yield Door("storescp", port, "PEER", None)
        finally:
            peer.terminate()


@contextmanager
def _bare(directory: Path) -> Iterator[Door]:
    directory.mkdir()
    port = free_port()
    command = [sys.executable, "-m", bench_bare.__name__, str(port), str(directory), CALLING]
    with subprocess.Popen(command) as peer:  # noqa: S603 our own names
        try:
            wait_for(lambda: listens(LOOPBACK, port), 10, "the bare disk does not listen")
            yield Door("bare", port, bench_bare.TITLE, peer.pid)
        finally:
            peer.kill()


def _play(doors: Sequence[Door], directory: Path, count: int, plan: Plan) -> dict[str, Figures]:
    """One round: every form to every server in turn, each of its own study; then first answers."""
    figures: dict[str, Figures] = {door.name: {} for door in doors}
    for form in plan.forms:
        files = _study(directory / form.name, int(count * form.share), form.pixels)
        for door in doors:
            figures[door.name] |= _timed(door, form, files)
    for door in doors:
        figures[door.name]["first_answer_ms"] = _first_answer(
            door, directory / f"first_{door.name}", plan.first
        )
    return {name: {key: round(value, 2) for key, value in one.items()} for name, one in figures.items()}


def _timed(door: Door, form: Form, files: Sequence[Path]) -> Figures:
    sync()  # what the last one left to write is not this one's
    before = cpu_seconds(door.process) if door.process else 0.0
    seconds = _push(door, files, form.associations, NO_DELAY)
    rate = {f"{form.name}_per_second": len(files) / seconds}
    if door.process is None:
        return rate
    spent = (cpu_seconds(door.process) - before) / len(files) * 1e3
    return rate | {f"{form.name}_cpu_ms": spent}


def _study(directory: Path, instances: int, pixels: int) -> list[Path]:
    """A study that no server has."""
    number = time.time_ns()
    series = SeriesSpec("CT", instances, rows=pixels, columns=pixels)
    return make_study(directory, StudySpec(study_instance_uid=f"{ROOT}.3.{number}", series=(series,)))


def _push(door: Door, files: Sequence[Path], associations: int, environment: Mapping[str, str]) -> float:
    """Seconds from the first start of a storescu to the last end. Raises `StepFailed` for what is not stored."""
    command = ["storescu", "--max-pdu", PDU, "-aet", CALLING, "-aec", door.called, LOOPBACK, str(door.port)]
    started = time.perf_counter()
    running = [
        subprocess.Popen(  # noqa: S603 our own names
            [*command, *map(str, files[number::associations])],
            stderr=subprocess.PIPE,
            text=True,
            env={**ENVIRONMENT, **environment},
        )
        for number in range(associations)
    ]
    complaints = [one.communicate()[1] for one in running]
    seconds = time.perf_counter() - started
    for one, complaint in zip(running, complaints, strict=True):
        if one.returncode:
            raise StepFailed(f"storescu to {door.name} failed: {complaint.strip()[-200:]}")
    return seconds


def _first_answer(door: Door, directory: Path, associations: int) -> float:
    """Median of ms from the last byte of the first CT of an association to its answer."""
    sync()
    return statistics.median(_one_answer(door, file) for file in _study(directory, associations, 512)) * 1e3


def _one_answer(door: Door, file: Path) -> float:
    meta = read_file_meta_info(file)
    data = file.read_bytes()[PART_10_HEAD + meta.FileMetaInformationGroupLength :]
    with RawPeer.connect(door.port) as peer:
        peer.associate({1: (CT_IMAGE, (EXPLICIT,))}, called=door.called, calling=CALLING)
        uid = str(meta.MediaStorageSOPInstanceUID)
        status, seconds = peer.timed_store(data, instance=uid, sop_class=CT_IMAGE)
        peer.release()
    if status:
        raise StepFailed(f"{door.name} answered {status:#06x}")
    return seconds


def _as_shipped(directory: Path, ours: Door, orthanc: Sequence[str], count: int) -> Figures:
    """Once, with Nagle's algorithm as Debian's dcmtk leaves it."""
    files = _study(directory / "files", count, 512)
    with open_orthanc(directory / "orthanc", ORTHANC, command=orthanc) as peer:
        rates = {}
        for door in (_door(peer), ours):
            sync()
            rates[door.name] = count / _push(door, files, 1, {})
    return {
        "orthanc_per_second": round(rates["orthanc"], 1),
        "drimbox_per_second": round(rates["drimbox"], 1),
        "ratio": round(rates["drimbox"] / rates["orthanc"], 2),
    }


def _medians(rounds: Sequence[Figures]) -> Figures:
    return {key: round(statistics.median(one[key] for one in rounds), 2) for key in rounds[0]}
