"""`/metrics`: Prometheus text, internal listener only. What each process counts, what the node and the ledger are.

What is of this node has the label `node`; what is of the shared database (exams, submissions) is alike on all nodes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate

import structlog
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from drimbox.adapters import meter_files
from drimbox.adapters.meter_files import Told
from drimbox.adapters.meters import Sample
from drimbox.bootstrap import Foundation, node_name, utc_now
from drimbox.domain.errors import Unavailable
from drimbox.domain.measures import MEASURES, Measure
from drimbox.entrypoints.meter_keeping import meter_directory
from drimbox.entrypoints.node_metrics import NodeMetrics
from drimbox.flow.backlog import backlog
from drimbox.flow.counters import Count, count

log = structlog.get_logger(__name__)

Families = Callable[[], Iterable[Metric]]

# Which probe of the health check says that a door is of this node: not in `health.not_here`.
_PROBED = {"dicom": "dicom:echo", "mllp": "mllp:connect", "worker": "worker:heartbeat"}


class MetricsPage(Collector):
    """Reads everything at each scrape; one object per process. `more`: what the process itself knows."""

    def __init__(self, foundation: Foundation, more: Families = tuple) -> None:
        self._foundation, self._more = foundation, more
        self._node = NodeMetrics(foundation)

    def text(self) -> bytes:
        """The answer: of the ledger, as far as it can be read."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        return generate_latest(registry)

    def collect(self) -> Iterable[Metric]:
        """The families of one scrape."""
        name = node_name(self._foundation.settings)
        for family in (*self._more(), *self._node.families(), *_processes(self._foundation)):
            yield _of_node(family, name)
        try:
            ledger = list(_ledger(self._foundation))
        except Unavailable as error:  # what the process knows is wanted then more than ever
            log.error("ledger_not_counted", reason=str(error))  # noqa: TRY400 expected, no traceback
            ledger = []
        words = "1 while the counters of exams and submissions can be read; else they are missing here"
        yield _of_node(GaugeMetricFamily("drimbox_ledger_readable", words, int(bool(ledger))), name)
        yield from ledger


def metrics_text(foundation: Foundation, more: Families = tuple) -> bytes:
    """The Prometheus text, once."""
    return MetricsPage(foundation, more).text()


def _of_node(family: Metric, node: str) -> Metric:
    family.samples = [one._replace(labels={"node": node, **one.labels}) for one in family.samples]
    return family


def _ledger(foundation: Foundation) -> Iterable[Metric]:
    now = utc_now()
    counters, waiting = count(foundation.transactions, now), backlog(foundation.transactions, now)
    yield from _family("drimbox_exams", "Exams", ("state", "rule"), counters.exams)
    yield from _family("drimbox_submissions", "Submissions", ("kind", "state"), counters.submissions)
    yield GaugeMetricFamily("drimbox_exams_due", "Exams that wait to be judged", counters.exams_due)
    yield GaugeMetricFamily(
        "drimbox_submissions_due", "Submissions that wait for the DMP", counters.submissions_due
    )
    oldest = GaugeMetricFamily(
        "drimbox_queue_oldest_seconds",
        "How long the oldest of what is due waits: exams to be judged, submissions for the DMP; 0 = none waits",
        labels=("queue",),
    )
    for name, since in (("exams", waiting.exam_since), ("submissions", waiting.submission_since)):
        oldest.add_metric((name,), max((now - since).total_seconds(), 0) if since else 0)
    yield oldest
    yield GaugeMetricFamily(
        "drimbox_queue_stopped", "1 while the queue stands still", int(counters.stopped is not None)
    )


def _family(name: str, words: str, labels: tuple[str, str], counts: Iterable[Count]) -> Iterable[Metric]:
    rows = GaugeMetricFamily(name, f"{words} by {labels[0]} and {labels[1]}", labels=labels)
    ages = GaugeMetricFamily(
        f"{name}_oldest_seconds", f"Age of the oldest of these {words.lower()}", labels=labels
    )
    for one in counts:
        rows.add_metric((one.first, one.second), one.rows)
        ages.add_metric((one.first, one.second), one.oldest)
    return rows, ages


def _processes(foundation: Foundation) -> Iterable[Metric]:
    """What every process of this node counts; of one that is gone the counters stay, its gauges do not."""
    told = _told(foundation)
    yield from _up(foundation, told)
    for measure in MEASURES:
        family = _empty(measure)
        for one in told:
            if one.alive or measure.kind != "gauge":
                _add(family, measure, one)
        yield family


def _told(foundation: Foundation) -> Sequence[Told]:
    """Our own numbers as they are now, those of the others as they wrote them last."""
    meters = foundation.meters
    others = meter_files.read(meter_directory(foundation.settings))
    ours = [Told(meters.process, True, meters.samples())] if meters.process else []
    return [*ours, *(one for one in others if one.process != meters.process)]


def _up(foundation: Foundation, told: Sequence[Told]) -> Iterable[Metric]:
    settings = foundation.settings
    here = {door for door, probe in _PROBED.items() if probe not in settings.health.not_here}
    alive = {one.process for one in told if one.alive}
    up = GaugeMetricFamily(
        "drimbox_up", "1 while the process of a door of this node says that it lives", labels=("process",)
    )
    for process in sorted(here | {f"web-{number}" for number in range(settings.web.processes)}):
        up.add_metric((process,), int(process in alive))
    yield up
    yield GaugeMetricFamily("drimbox_time_seconds", "The clock of this machine (Unix time)", time.time())


def _empty(measure: Measure) -> Metric:
    kinds = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily, "histogram": HistogramMetricFamily}
    made: Metric = kinds[measure.kind](measure.name, measure.words, labels=(*measure.labels, "process"))
    return made


def _add(family: Metric, measure: Measure, told: Told) -> None:
    for sample in told.samples:
        if sample[0] == measure.name:
            _add_sample(family, measure, sample, told.process)


def _add_sample(family: Metric, measure: Measure, sample: Sample, process: str) -> None:
    labels, value = (*sample[1], process), sample[2]
    if isinstance(family, HistogramMetricFamily):
        counts, total = value
        bounds = [*map(str, measure.bounds), "+Inf"]
        family.add_metric(labels, [*zip(bounds, accumulate(counts), strict=True)], total)
    else:
        assert isinstance(family, CounterMetricFamily | GaugeMetricFamily)
        family.add_metric(labels, value)
