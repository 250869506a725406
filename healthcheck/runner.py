"""Looks at every probe on a timer, each in a thread of its own: one that hangs holds up nobody, and is told in time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from healthcheck.probe import Outcome, Probe, ProbeResult, Status

TICK = 0.25  # seconds between two looks at the deadlines
HURRY = 5  # what fails is looked at that many times in a period, so that the end of it is seen soon
STOP_SECONDS = 2.0  # for the looks that are under way, all together

Publish = Callable[[tuple[ProbeResult, ...]], None]
OnChange = Callable[[ProbeResult | None, ProbeResult], None]


@dataclass(slots=True)
class _Look:
    """A look that is under way. `told`: when it was last told to be late (monotonic seconds)."""

    probe: Probe
    begun: float
    told: float | None = None


@dataclass
class Runner:
    """Runs the probes until `stop`. `publish` gets all results each time one came; `on_change(before, now)` is told of
    a first result, or another status; it must not wait. `clock`: aware; `monotonic`: seconds, alike in all processes.
    """

    probes: Sequence[Probe]
    publish: Publish
    on_change: OnChange
    clock: Callable[[], datetime]
    monotonic: Callable[[], float]
    _results: dict[str, ProbeResult] = field(default_factory=dict, init=False)
    _looks: dict[str, _Look] = field(default_factory=dict, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _stopping: threading.Event = field(default_factory=threading.Event, init=False)
    _threads: list[threading.Thread] = field(default_factory=list, init=False)

    def start(self) -> None:
        """Look at everything at once, then at each in its period; more often at what fails."""
        self._threads = [
            threading.Thread(target=self._run, args=(probe,), name=f"probe {probe.name}", daemon=True)
            for probe in self.probes
        ]
        self._threads.append(threading.Thread(target=self._watch, name="probe deadlines", daemon=True))
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Begin no more looks; wait a moment for those under way."""
        self._stopping.set()
        deadline = self.monotonic() + STOP_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - self.monotonic()))

    def _run(self, probe: Probe) -> None:
        while not self._stopping.is_set():
            begun = self.monotonic()
            with self._lock:
                self._looks[probe.name] = _Look(probe, begun)
            outcome = look_at(probe)
            took = self.monotonic() - begun
            with self._lock:
                del self._looks[probe.name]
            if took > probe.deadline:
                outcome = _late(took)
            self._tell(probe, outcome, took)
            pause = probe.period / HURRY if outcome.status is Status.FAIL else probe.period
            self._stopping.wait(max(0.0, pause - took))

    def _watch(self) -> None:
        while not self._stopping.wait(TICK):
            now = self.monotonic()
            with self._lock:
                late = [look for look in self._looks.values() if _is_to_be_told(look, now)]
                for look in late:
                    look.told = now
            for look in late:
                self._tell(look.probe, _late(now - look.begun), now - look.begun, look)

    def _tell(self, probe: Probe, outcome: Outcome, took: float, late: _Look | None = None) -> None:
        """Keep and publish a result; that a look is `late` only while it still is."""
        result = ProbeResult(
            probe.name, probe.kind, probe.period, outcome, self.clock(), self.monotonic(), took
        )
        with self._lock:
            if late is not None and self._looks.get(probe.name) is not late:
                return
            before = self._results.get(probe.name)
            self._results[probe.name] = result
            self.publish(tuple(self._results.values()))
        if before is None or before.outcome.status is not outcome.status:
            self.on_change(before, result)


def look_at(probe: Probe) -> Outcome:
    """One look. Whatever it raises is a failure; its words are the exception's name, which holds no data."""
    try:
        return probe.look()
    except Exception as error:  # noqa: BLE001 the door of a probe: told in the report
        return Outcome(Status.FAIL, f"the look failed: {type(error).__name__}")


def _is_to_be_told(look: _Look, now: float) -> bool:
    if look.told is None:
        return now - look.begun > look.probe.deadline
    return now - look.told >= look.probe.period


def _late(seconds: float) -> Outcome:
    return Outcome(Status.FAIL, f"no answer within the deadline ({seconds:.0f} s)")
