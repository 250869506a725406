"""Everything that `drimbox status` says, gathered once: facts, and from them the verdict with what to do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from importlib.metadata import version
from typing import Any

from drimbox.adapters import meter_files
from drimbox.adapters.meter_files import Told
from drimbox.bootstrap import Foundation, node_name, utc_now
from drimbox.entrypoints.health_report import NoReport, read_report
from drimbox.entrypoints.meter_keeping import meter_directory
from drimbox.flow.counters import Count, Counters, count
from drimbox.flow.exams import stamp
from drimbox.flow.overview import Overview, look_back
from drimbox.membership import make_mesh
from whitelist.decision import State, exchanges
from whitelist.view import Snapshot

OK, ATTENTION, FAIL = "ok", "attention", "fail"
_RANK = (OK, ATTENTION, FAIL)
_OF_HEALTH = {"pass": OK, "warn": ATTENTION, "fail": FAIL}
DOORS = {"dicom": "dicom:echo", "mllp": "mllp:connect", "worker": "worker:heartbeat"}

# What waits for an operator: state of a submission → what to do, level.
_WAITING = {
    "PARKED": ("drimbox exams list --state parked, then: drimbox exams release", ATTENTION),
    "REFUSED": ("drimbox exams list --state refused", ATTENTION),
    "DOUBTFUL": ("the DMP is asked again by itself: drimbox exams list --state doubtful", ATTENTION),
}
_RULES = {"thinner": "drimbox exams show STUDY, then: drimbox exams release STUDY"}
_HELP = {
    "dmp:connect": "network, certificate or the DMP itself: drimbox health",
    "psc:connect": "partners cannot be judged meanwhile: drimbox health",
    "images:free": "make room: drimbox archive --help",
    "whitelist:state": "drimbox whitelist show",
    "queue:age": "drimbox exams list --state prepared",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is not as it should be: a sentence, and what to do."""

    level: str
    what: str
    do: str


@dataclass(frozen=True, slots=True)
class Picture:
    """The appliance as this node sees it at `at`. `doors`: by process, seconds since its sign of life, None = down.

    `floor`: free bytes below which images are refused.
    """

    at: datetime
    node: str
    counters: Counters
    overview: Overview
    whitelist: Snapshot
    health: Mapping[str, Any]
    doors: Mapping[str, float | None]
    floor: int

    def check(self, name: str) -> Mapping[str, Any]:
        """One look of the health report; empty when there is none."""
        found: Sequence[Mapping[str, Any]] = self.health["checks"].get(name, [{}])
        return found[0]

    @property
    def can_send(self) -> bool:
        """Whether anything may leave for the DMP or a partner."""
        return self.counters.stopped is None and exchanges(self.whitelist.state)

    @property
    def problems(self) -> list[Problem]:
        """The gravest first."""
        return sorted(_problems(self), key=lambda one: -_RANK.index(one.level))

    @property
    def verdict(self) -> str:
        """ok, attention or fail."""
        return max((one.level for one in self.problems), key=_RANK.index, default=OK)

    def to_json(self) -> dict[str, Any]:
        """The counters, and everything else under its name."""
        duties = [
            {"duty": one.name, "holder": one.holder, "seconds": one.left} for one in self.overview.duties
        ]
        return self.counters.to_json() | {
            "whitelist": self.whitelist.state.value,
            "at": stamp(self.at),
            "node": self.node,
            "version": version("drimbox"),
            "verdict": self.verdict,
            "problems": [asdict(one) for one in self.problems],
            "doors": {name: {"up": age is not None, "age": age} for name, age in self.doors.items()},
            "last_hour": dict(self.overview.hour),
            "disk": {"free": self.check("images:free").get("observedValue"), "floor": self.floor},
            "refusals": [dict(one) for one in self.overview.refusals],
            "duties": duties,
            "health": {"status": self.health["status"], "checks": self.health["checks"]},
        }


def look(foundation: Foundation) -> Picture:
    """The picture now. Raises `errors.Unavailable`."""
    settings, now = foundation.settings, utc_now()
    try:
        health = read_report(settings, now)
    except NoReport as error:
        health = {"status": "fail", "notes": [str(error)], "checks": {}}
    told = meter_files.read(meter_directory(settings))
    here = [door for door, probe in DOORS.items() if probe not in settings.health.not_here]
    expected = [*here, *(f"web-{number}" for number in range(settings.web.processes))]
    return Picture(
        now,
        node_name(settings),
        count(foundation.transactions, now),
        look_back(foundation.transactions, now),
        make_mesh(settings).current(),
        health,
        {name: _age(name, told) for name in expected},
        settings.storage.minimum_free_bytes,
    )


def _age(name: str, told: Sequence[Told]) -> float | None:
    return next((round(one.age, 1) for one in told if one.process == name and one.alive), None)


def _problems(picture: Picture) -> Iterator[Problem]:
    if picture.counters.stopped:
        yield Problem(
            FAIL, f"the queue to the DMP stands still: {picture.counters.stopped}", "drimbox health"
        )
    if not exchanges(picture.whitelist.state):
        words = (
            f"the whitelist is {picture.whitelist.state.value}: nothing is published, partners are refused"
        )
        yield Problem(FAIL, words, "drimbox whitelist show")
    elif picture.whitelist.state is not State.CURRENT:
        words = f"the whitelist is {picture.whitelist.state.value}"
        yield Problem(ATTENTION, words, "drimbox whitelist show")
    down = [name for name, age in picture.doors.items() if age is None]
    if down:
        yield Problem(FAIL, f"not running: {', '.join(down)}", "systemctl status 'drimbox-*'")
    for note in picture.health.get("notes", []):
        yield Problem(FAIL, f"no health report: {note}", "drimbox health --now")
    yield from _of_health(picture)
    yield from _of_counters(picture.counters)


def _of_health(picture: Picture) -> Iterator[Problem]:
    """What the probes found, without what is said already."""
    doors = {DOORS[name] for name, age in picture.doors.items() if age is None and name in DOORS}
    said = doors | {"whitelist:state"} | ({"queue:age"} if picture.counters.stopped else set())
    for name, (check,) in picture.health["checks"].items():
        level = _OF_HEALTH[check["status"]]
        if level == OK or name in said:
            continue
        grave = level if check["vital"] else ATTENTION
        yield Problem(
            grave, f"{name}: {check.get('output', check['status'])}", _HELP.get(name, "drimbox health")
        )


def _of_counters(counters: Counters) -> Iterator[Problem]:
    for state, (do, level) in _WAITING.items():
        rows = sum(one.rows for one in counters.submissions if one.second == state)
        if rows:
            yield Problem(level, f"{rows} submissions are {state}", do)
    for rule, do in _RULES.items():
        rows = sum(one.rows for one in counters.exams if one.second == rule)
        if rows:
            yield Problem(ATTENTION, f"{rows} exams wait for an operator ({rule})", do)


def look_further(one: Count) -> str:
    """The command that lists these exams."""
    return f"drimbox exams list --state {one.second or one.first.lower()}"
