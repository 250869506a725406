"""`drimbox bench wado`: images to partners and viewers, against Orthanc and the bare loopback, in the same rounds.

Ours authorises, traces and limits every request; Orthanc has no authentication here. Both serve the same files,
without TLS, to the same clients. Speed is told by ratios of one round: both sides then had the same machine.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from drimbox.entrypoints.bench_orthanc import DEBIAN
from drimbox.entrypoints.bench_wado_clients import (
    check_installed,
    fetch,
    fetch_together,
    hammer,
    stream_bare,
)
from drimbox.entrypoints.bench_wado_exam import Exam, make_exam, make_search_exam, write_bare
from drimbox.entrypoints.bench_wado_peers import (
    PLUGIN,
    Place,
    behind_proxy,
    bring,
    orthanc_version,
    orthanc_with,
    start_appliance_behind_proxy,
    with_mutual_tls,
)
from drimbox.entrypoints.bench_wado_processes import cpu_seconds, memory_mb
from drimbox.entrypoints.demo_stage import StepFailed, open_stage

PROGRAMS = {"curl": "curl", "wrk": "wrk", "Orthanc": "orthanc"}
CONNECTIONS = 8
SEARCHED = 500
REPEATS = 5  # of what takes milliseconds, in one round
STUDIES = 3  # retrievals of a study or series in one round, one after the other; the median counts
FEW = 100
TOLERANCE = 0.02  # of the size: each server writes a File Meta Information of its own

LOOPBACK = "loopback"  # the bare stream, among the servers of a round

Figures = dict[str, float]


@dataclass(frozen=True)
class Plan:
    """How long it lasts. `seconds`: of one hammering; `gets`: single retrievals between two looks at memory."""

    rounds: int = 5
    seconds: int = 3
    gets: int = 10_000
    clients: int = 20


@dataclass(frozen=True)
class Course:
    """What is asked of every server."""

    directory: Path
    shared: Exam
    searched: Exam
    plan: Plan


def bench_wado(
    directory: Path, count: int, plan: Plan = Plan(), orthanc: Sequence[str] = DEBIAN
) -> dict[str, Any]:
    """Retrieval, search and metadata; medians, ratios of the same rounds. `orthanc`: the command that starts it."""
    check_installed(PROGRAMS)
    if orthanc == DEBIAN and not PLUGIN.is_file():
        raise StepFailed("not installed: apt-get install orthanc-dicomweb")
    shared = make_exam(directory / "exam", count)
    searched = make_search_exam(directory / "searched", min(count, SEARCHED))
    course = Course(directory, shared, searched, plan)
    with ExitStack() as stack:
        world = directory / "world"
        world.mkdir()
        stage = stack.enter_context(open_stage(world))
        start_appliance_behind_proxy(stage)
        kos = bring(stage, (shared, searched))
        ours = behind_proxy(stage, kos)
        peer = stack.enter_context(orthanc_with(directory / "orthanc", (shared, searched), orthanc))
        memory = {"start": memory_mb(ours.process)} | warm_up(ours, course)
        figures = compare(ours, peer, course)
        together = fetch_by_many(ours, course)
        memory["end"] = memory_mb(ours.process)
        tls = measure_tls(with_mutual_tls(stage, kos), course)
        return {
            "instances": count,
            "megabytes": round(shared.size / 1e6, 1),
            "peer": orthanc_version(peer),
            **figures,
            **together,
            "memory_mb": memory,
            "memory_mb_orthanc": memory_mb(peer.process),
            "mutual_tls": tls,
        }


def compare(ours: Place, peer: Place, course: Course) -> dict[str, Any]:
    """Every round, the medians of each server, and the ratios in which more than 1 says that ours is better."""
    check_answers((ours, peer), course)
    bare = {level: course.directory / f"bare-{level}" for level in ("study", "series")}
    write_bare(bare["study"], course.shared.files)
    write_bare(bare["series"], course.shared.first_series)
    rounds = [play_round((ours, peer), course, bare) for _ in range(course.plan.rounds)]
    medians = {name: _medians([one[name] for one in rounds]) for name in rounds[0]}
    return {
        "rounds": rounds,
        "medians": medians,
        **ratios(rounds, ours.name, peer.name),
        "ttfb_ms": medians[ours.name]["study_ttfb_ms"],
    }


def ratios(rounds: Sequence[Mapping[str, Figures]], ours: str, peer: str) -> Figures:
    """The median of the ratios of each round; `loopback`: read by the same client, `socket`: by the fastest."""
    against = {
        "study_ratio_to_orthanc": ("study_mb_per_second", peer, "study_mb_per_second"),
        "series_ratio_to_orthanc": ("series_mb_per_second", peer, "series_mb_per_second"),
        "study_ratio_to_loopback": ("study_mb_per_second", LOOPBACK, "study_curl_mb_per_second"),
        "series_ratio_to_loopback": ("series_mb_per_second", LOOPBACK, "series_curl_mb_per_second"),
        "study_ratio_to_socket": ("study_mb_per_second", LOOPBACK, "study_socket_mb_per_second"),
        "series_ratio_to_socket": ("series_mb_per_second", LOOPBACK, "series_socket_mb_per_second"),
        "single_ratio": ("single_per_second", peer, "single_per_second"),
    }
    less_is_better = {"ttfb_ratio": "study_ttfb_ms", "qido_ratio": "qido_ms", "metadata_ratio": "metadata_ms"}
    each = {
        **{name: [r[ours][a] / r[other][b] for r in rounds] for name, (a, other, b) in against.items()},
        **{name: [r[peer][a] / r[ours][a] for r in rounds] for name, a in less_is_better.items()},
    }
    return {name: round(statistics.median(values), 2) for name, values in each.items()}


def play_round(places: Sequence[Place], course: Course, bare: Mapping[str, Path]) -> dict[str, Figures]:
    """One round: each measure of each server in turn, after the bare stream of as many bytes."""
    figures: dict[str, Figures] = {LOOPBACK: {}, **{place.name: {} for place in places}}
    for level, file in bare.items():
        by_curl, by_socket = stream_bare(file, STUDIES)
        figures[LOOPBACK] |= {
            f"{level}_curl_mb_per_second": by_curl,
            f"{level}_socket_mb_per_second": by_socket,
        }
    for measure in MEASURES:
        for place in places:
            figures[place.name] |= measure(place, course)
    return {name: {key: round(value, 3) for key, value in one.items()} for name, one in figures.items()}


def measure_study(place: Place, course: Course) -> Figures:
    """The whole study: MB/s, time to its first byte, processor time of the server for one."""
    return _stream(place, course, "study", study_url(place, course.shared))


def measure_series(place: Place, course: Course) -> Figures:
    """One series of the study."""
    return _stream(place, course, "series", series_url(place.images, course.shared))


def _stream(place: Place, course: Course, level: str, url: str) -> Figures:
    """Medians of retrievals of one connection each, by a client whose token is known."""
    _touch(place, course)
    before = cpu_seconds(place.process)
    transfers = [_retrieve(place, [url])[0] for _ in range(STUDIES)]
    return {
        f"{level}_mb_per_second": statistics.median(one.rate for one in transfers),
        f"{level}_ttfb_ms": statistics.median(one.first_byte for one in transfers) * 1e3,
        f"{level}_cpu_seconds": (cpu_seconds(place.process) - before) / STUDIES,
    }


def measure_single(place: Place, course: Course) -> Figures:
    """Instances one by one, over eight connections."""
    before = cpu_seconds(place.process)
    done = hammer(
        course.directory,
        place.images,
        course.shared.paths,
        place.image_headers,
        CONNECTIONS,
        course.plan.seconds,
    )
    return {
        "single_per_second": done.rate,
        "single_p99_ms": done.p99_ms,
        "single_cpu_ms": (cpu_seconds(place.process) - before) / done.requests * 1e3,
    }


def measure_search(place: Place, course: Course) -> Figures:
    """QIDO-RS: the instances of a study; the median of a few answers of one connection."""
    return {"qido_ms": _median_ms(place, search_url(place, course.searched))}


def measure_metadata(place: Place, course: Course) -> Figures:
    """The metadata of a series."""
    return {"metadata_ms": _median_ms(place, f"{series_url(place.search, course.shared)}/metadata")}


MEASURES: tuple[Callable[[Place, Course], Figures], ...] = (
    measure_study,
    measure_series,
    measure_single,
    measure_search,
    measure_metadata,
)


def check_answers(places: Sequence[Place], course: Course) -> None:
    """Raises `StepFailed` unless every server gives the whole exam, and as many rows as were asked."""
    for place in places:
        (transfer,) = _retrieve(place, [study_url(place, course.shared)])
        if transfer.size < course.shared.size * (1 - TOLERANCE):
            raise StepFailed(f"{place.name} gave {transfer.size} bytes of {course.shared.size}")
        rows = {
            search_url(place, course.searched): len(course.searched.files),
            f"{series_url(place.search, course.shared)}/metadata": len(course.shared.first_series),
        }
        for url, expected in rows.items():
            headers = dict(header.split(": ", 1) for header in place.search_headers)
            answer = requests.get(url, headers=headers, timeout=60)
            if answer.status_code != 200 or len(answer.json()) != expected:
                raise StepFailed(f"{url} answered {answer.status_code}, not {expected} rows")


def warm_up(place: Place, course: Course) -> dict[str, dict[str, float]]:
    """Memory after a hundred single instances, and after ten thousand, over as many connections at once."""
    paths = course.shared.paths
    for number in range(math.ceil(FEW / CONNECTIONS)):
        fetch_together(CONNECTIONS, place.images + paths[number % len(paths)], place.image_headers)
    memory = {f"after_{FEW}": memory_mb(place.process)}
    done = FEW
    while done < course.plan.gets:
        done += hammer(
            course.directory, place.images, paths, place.image_headers, CONNECTIONS, course.plan.seconds
        ).requests
    return memory | {f"after_{course.plan.gets}": memory_mb(place.process)}


def fetch_by_many(place: Place, course: Course) -> dict[str, Any]:
    """The study by one client and by many at once, in turn; what all together get against what one gets."""
    url, rounds = study_url(place, course.shared), []
    for _ in range(course.plan.rounds):
        _touch(place, course)
        one, many = (fetch_together(n, url, place.image_headers) for n in (1, course.plan.clients))
        rounds.append({"one": one[0] / one[1] / 1e6, "together": many[0] / many[1] / 1e6})
    ratio = statistics.median(one["together"] / one["one"] for one in rounds)
    return {
        "concurrency": {"clients": course.plan.clients, "mb_per_second": _medians(rounds)},
        "concurrency_ratio": round(ratio, 2),
    }


def measure_tls(place: Place, course: Course) -> Figures:
    """The study over mutual TLS; the time to its first byte has the handshake in it."""
    return _medians([measure_study(place, course) for _ in range(course.plan.rounds)])


def study_url(place: Place, exam: Exam) -> str:
    """WADO-RS of the whole study."""
    return f"{place.images}/studies/{exam.study}"


def series_url(base: str, exam: Exam) -> str:
    """The series with most instances, below `base`."""
    return f"{base}/studies/{exam.study}/series/{exam.series[0]}"


def search_url(place: Place, exam: Exam) -> str:
    """QIDO-RS of all instances of a study."""
    return f"{place.search}/studies/{exam.study}/instances"


def _touch(place: Place, course: Course) -> None:
    """One instance by many: whichever process serves what follows, it then knows the token."""
    fetch_together(CONNECTIONS, place.images + course.shared.paths[0], place.image_headers, *place.options)


def _retrieve(place: Place, urls: Sequence[str]) -> list[Any]:
    return fetch(urls, place.image_headers, *place.options)


def _median_ms(place: Place, url: str) -> float:
    return statistics.median(one.total for one in fetch([url] * REPEATS, place.search_headers)) * 1e3


def _medians(rounds: Sequence[Mapping[str, float]]) -> Figures:
    return {name: round(statistics.median(one[name] for one in rounds), 3) for name in rounds[0]}
