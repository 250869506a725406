"""`/metrics`: Prometheus text, internal listener only."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import structlog
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from drimbox.bootstrap import Foundation, utc_now
from drimbox.domain.errors import Unavailable
from drimbox.flow.counters import Count, count
from drimbox.membership import make_mesh
from whitelist.decision import State

log = structlog.get_logger(__name__)

Families = Callable[[], Iterable[Metric]]


class LedgerCollector(Collector):
    """Reads the counters at each scrape. `more`: what the process itself knows."""

    def __init__(self, foundation: Foundation, more: Families = tuple) -> None:
        self._foundation, self._more = foundation, more

    def collect(self) -> Iterable[Metric]:
        """The gauges of one scrape."""
        yield from self._more()
        yield from _whitelist(self._foundation)
        try:
            counters = count(self._foundation.transactions, utc_now())
        except Unavailable as error:  # what the process knows is wanted then more than ever
            log.error("ledger_not_counted", reason=str(error))  # noqa: TRY400 expected, no traceback
            yield _readable(0)
            return
        yield _readable(1)
        yield from _family("drimbox_exams", "Exams", ("state", "rule"), counters.exams)
        yield from _family("drimbox_submissions", "Submissions", ("kind", "state"), counters.submissions)
        yield GaugeMetricFamily("drimbox_exams_due", "Exams that wait to be judged", counters.exams_due)
        yield GaugeMetricFamily(
            "drimbox_submissions_due", "Submissions that wait for the DMP", counters.submissions_due
        )
        yield GaugeMetricFamily(
            "drimbox_queue_stopped", "1 while the queue stands still", int(counters.stopped is not None)
        )


def _readable(yes: int) -> Metric:
    words = "1 while the counters of exams and submissions can be read; else they are missing here"
    return GaugeMetricFamily("drimbox_ledger_readable", words, yes)


def _whitelist(foundation: Foundation) -> Iterable[Metric]:
    """State (1 for the one that holds) and age of the whitelist; -1 = never had."""
    snapshot, now = make_mesh(foundation.settings).current(), utc_now()
    states = GaugeMetricFamily("drimbox_whitelist_state", "1 for the state that holds", labels=("state",))
    for state in State:
        states.add_metric((state.value,), int(state is snapshot.state))
    yield states
    success = snapshot.last_success
    age = (now - success).total_seconds() if success else -1.0
    yield GaugeMetricFamily("drimbox_whitelist_age_seconds", "Since the last list that was accepted", age)


def _family(name: str, words: str, labels: tuple[str, str], counts: Iterable[Count]) -> Iterable[Metric]:
    rows = GaugeMetricFamily(name, f"{words} by {labels[0]} and {labels[1]}", labels=labels)
    ages = GaugeMetricFamily(
        f"{name}_oldest_seconds", f"Age of the oldest of these {words.lower()}", labels=labels
    )
    for one in counts:
        rows.add_metric((one.first, one.second), one.rows)
        ages.add_metric((one.first, one.second), one.oldest)
    return rows, ages


def metrics_text(foundation: Foundation, more: Families = tuple) -> bytes:
    """The Prometheus text of the ledger, as far as it can be read, and `more`."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(LedgerCollector(foundation, more))
    return generate_latest(registry)
