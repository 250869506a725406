"""The health check in the processes of `drimbox web`: number 0 looks and keeps the list, all of them answer.

What they share is memory made before the fork: an answer waits neither for a disk, a database nor another process.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from ipaddress import ip_network
from typing import Any

import structlog
from prometheus_client.core import GaugeMetricFamily, Metric

from drimbox.bootstrap import Foundation, node_name, utc_now
from drimbox.entrypoints.health_probes import make_probes
from drimbox.entrypoints.health_report import awake, write_report
from drimbox.flow.health_log import HealthLog
from drimbox.flow.retrieval_log import RetrievalLog
from drimbox.flow.retrievals import probe_refused
from drimbox.settings.health import HealthSettings
from healthcheck.board import Board
from healthcheck.endpoint import Asking
from healthcheck.ip_filter import IpFilter, looks_like_probe
from healthcheck.ip_list import MAX_BYTES, AddressList, parse_list
from healthcheck.list_keeper import ListKeeper
from healthcheck.probe import Outcome, Probe, ProbeResult, Status, summarise
from healthcheck.report import decode, encode
from healthcheck.runner import Runner
from healthcheck.sightings import Sightings
from whitelist.fetch import Fetcher, Unreachable
from whitelist.view import View

log = structlog.get_logger(__name__)

REPORT_BYTES = 64 * 1024
LIST_BYTES = 2 * MAX_BYTES  # as JSON, with its age
CONNECT_SECONDS, ANSWER_SECONDS = 10.0, 30.0  # to have the list of addresses
TICK = 1.0  # seconds between two looks at whether the list is due
STRANGERS = 2  # unknown addresses of probes after which the list is retrieved again (6.5)
REMEMBERED = 600.0  # seconds that such an address counts
STOP_SECONDS = 2.0  # for the threads, all together: nothing of theirs is lost


class Shared:
    """What the processes share. Made before the fork; each calls `take_slot` with its number."""

    def __init__(self, processes: int) -> None:
        self.report, self.addresses = Board(REPORT_BYTES), Board(LIST_BYTES)
        self.sightings = Sightings(processes)

    def take_slot(self, number: int) -> None:
        """This process is number `number`."""
        self.sightings.take_slot(number)


@dataclass(frozen=True, slots=True)
class _Listed:
    """The list of addresses, the monotonic instant of its retrieval (None = nobody knows), and its text."""

    addresses: AddressList | None = None
    since: float | None = None
    text: str = ""


class HealthView:
    """What a process says of our health, and to whom. `records`: where who is refused is kept."""

    def __init__(
        self,
        shared: Shared,
        room: HealthSettings,
        records: RetrievalLog,
        clock: Callable[[], datetime] = utc_now,
        monotonic: Callable[[], float] = awake,
    ) -> None:
        self._shared, self._records, self._clock, self._monotonic = shared, records, clock, monotonic
        self._vital = frozenset(room.fail_on)
        networks = tuple(ip_network(one, strict=False) for one in room.allowed)
        self._filter = IpFilter(room.filter, room.list_stale, room.fail_open, networks)
        self._results: tuple[int, tuple[ProbeResult, ...]] = (0, ())
        self._listed: tuple[int, _Listed] = (0, _Listed())

    def results(self) -> tuple[ProbeResult, ...]:
        """Of the last report."""
        number, notice = self._shared.report.read()
        if number != self._results[0]:
            self._results = (number, decode(notice))
        return self._results[1]

    def status(self) -> Status:
        """What anybody is told."""
        return summarise(self.results(), self._monotonic(), self._vital)

    def admit(self, asking: Asking) -> bool:
        """Whether that client gets an answer; a refusal is kept and counted."""
        listed = self._addresses()
        age = None if listed.since is None else self._monotonic() - listed.since
        allowed = self._filter.decide(asking.address, listed.addresses, age).allowed
        self._shared.sightings.count(allowed)
        if not allowed:
            if looks_like_probe(asking.user_agent):
                self._shared.sightings.note(asking.address)
            at = self._clock()
            self._records.refuse(*probe_refused(asking.address, asking.user_agent, at), stranger=True, at=at)
        return allowed

    def metrics(self) -> Iterable[Metric]:
        """The gauges of the last report."""
        now = self._monotonic()
        states = GaugeMetricFamily(
            "drimbox_health_status", "0 pass, 1 warn, 2 fail, of each probe", labels=("probe",)
        )
        ages = GaugeMetricFamily(
            "drimbox_health_age_seconds", "Since each probe last looked", labels=("probe",)
        )
        for result in self.results():
            states.add_metric((result.name,), result.status_at(now))
            ages.add_metric((result.name,), now - result.instant)
        refused, allowed = self._shared.sightings.totals()
        yield from (states, ages)
        yield GaugeMetricFamily("drimbox_health", "0 pass, 1 warn, 2 fail: what is told", self.status())
        yield GaugeMetricFamily("drimbox_health_refused", "Requests that the filter refused", refused)
        yield GaugeMetricFamily("drimbox_health_allowed", "Requests that the filter let through", allowed)

    def _addresses(self) -> _Listed:
        number, notice = self._shared.addresses.read()
        if number != self._listed[0]:
            kept, held = json.loads(notice), self._listed[1]
            text = kept["addresses"]  # a long one takes 200 ms of the event loop: only when it is another
            addresses = held.addresses if text == held.text else parse_list(text.encode("ascii"))
            self._listed = (number, _Listed(addresses, kept["since"], text))
        return self._listed[1]


class HealthWatch:
    """Looks at the probes and, where the filter is on, keeps the list: in process number 0."""

    def __init__(self, foundation: Foundation, mesh: View, shared: Shared) -> None:
        self._settings, self._shared = foundation.settings, shared
        actor = f"health:{node_name(foundation.settings)}"
        self._log = HealthLog(foundation.transactions, utc_now, actor, log.warning)
        self._keeper = self._make_keeper() if self._settings.health.filter else None
        self._results: tuple[ProbeResult, ...] = ()
        probes = (*make_probes(foundation, mesh), *self._own_probes())
        self._vital = {probe.name for probe in probes} & set(self._settings.health.fail_on)
        self._runner = Runner(probes, self._publish, self._changed, utc_now, awake)
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._write_file, name="health-file", daemon=True)]
        if self._keeper is not None:
            self._threads.append(
                threading.Thread(
                    target=self._keep_list, args=(self._keeper,), name="health-list", daemon=True
                )
            )

    def start(self) -> None:
        """Look from now on."""
        if self._keeper is not None:
            self._keeper.load()
            self._show_list(self._keeper)
        self._log.start()
        self._runner.start()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stopping.set()
        self._runner.stop()
        deadline = time.monotonic() + STOP_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._log.stop()

    def _make_keeper(self) -> ListKeeper:
        room = self._settings.health
        fetcher = Fetcher(CONNECT_SECONDS, ANSWER_SECONDS, MAX_BYTES, room.list_authority)
        return ListKeeper(
            self._settings.storage.root / "health",
            room.list_urls,
            lambda url: fetcher.get(url).body,
            unreachable=(Unreachable,),
            clock=utc_now,
            monotonic=awake,
            on_event=self._of_list,
            refresh=room.list_refresh,
            stale=room.list_stale,
        )

    def _own_probes(self) -> Iterable[Probe]:
        room = self._settings.health
        if self._keeper is not None:
            yield Probe("probes:list", self._look_at_list, room.remote_period, room.deadline)

    def _look_at_list(self) -> Outcome:
        assert self._keeper is not None
        current = self._keeper.current
        if current.age is not None and current.age <= self._settings.health.list_stale:
            return Outcome(value=round(current.age), unit="s")
        answered = "everybody is answered" if self._settings.health.fail_open else "new probes are refused"
        words = f"the list of the probes' addresses ({current.source}) could not be renewed: {answered}"
        return Outcome(Status.WARN, words, current.age and round(current.age), "s")

    def _publish(self, results: tuple[ProbeResult, ...]) -> None:
        """Once every vital probe has looked: until then the report of a process before this one holds, or `fail`."""
        if not self._vital <= {result.name for result in results}:
            return
        self._results = results
        self._shared.report.write(encode(results))

    def _changed(self, before: ProbeResult | None, now: ProbeResult) -> None:
        outcome = now.outcome
        was = before.outcome.status.word if before else "unknown"
        if before is None and outcome.status is Status.PASS:
            return
        say = log.info if outcome.status is Status.PASS else log.warning
        say("health_changed", rule=now.name, state=outcome.status.word, reason=outcome.output)
        detail = {"probe": now.name, "before": was, "after": outcome.status.word, "reason": outcome.output}
        self._log.tell_change("HEALTH_CHANGED", now.name, **detail)

    def _of_list(self, event: str, fields: Mapping[str, Any]) -> None:
        say = log.info if event in ("HEALTH_LIST_REFRESHED", "HEALTH_LIST_FRESH") else log.warning
        say(event.lower(), **fields)
        self._log.tell(event, **fields)

    def _keep_list(self, keeper: ListKeeper) -> None:
        while not self._stopping.wait(TICK):
            try:
                if self._shared.sightings.distinct(REMEMBERED) >= STRANGERS and keeper.ask_for_refresh():
                    self._shared.sightings.clear()
                if keeper.run_due():
                    self._show_list(keeper)
            except Exception:  # the door of a thread: without it the list would only grow old
                log.exception("health_list_failed")

    def _show_list(self, keeper: ListKeeper) -> None:
        addresses, age, _ = keeper.current
        since = None if age is None else awake() - age
        text = addresses.as_text().decode("ascii")
        self._shared.addresses.write(json.dumps({"addresses": text, "since": since}).encode("ascii"))

    def _write_file(self) -> None:
        while not self._stopping.wait(self._settings.health.period / 3):
            if not self._results:
                continue
            try:
                write_report(self._settings, self._results)
            except OSError as error:
                log.error("health_report_not_written", reason=error.strerror)  # noqa: TRY400 expected, no traceback
