"""`/metrics` (Prometheus text, internal listener only) and `drimbox status` (one screen for an operator)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from rich.console import Console
from rich.table import Table

from drimbox.bootstrap import Foundation, utc_now
from drimbox.entrypoints.configuration import open_stores
from drimbox.flow.counters import Count, Counters, count
from drimbox.flow.exams import stamp
from drimbox.membership import make_mesh
from whitelist.decision import State, exchanges
from whitelist.view import Snapshot


class LedgerCollector(Collector):
    """Reads the counters at each scrape."""

    def __init__(self, foundation: Foundation) -> None:
        self._foundation = foundation

    def collect(self) -> Iterable[Metric]:
        """The gauges of one scrape."""
        counters = count(self._foundation.transactions, utc_now())
        yield from _family("drimbox_exams", "Exams", ("state", "rule"), counters.exams)
        yield from _family("drimbox_submissions", "Submissions", ("kind", "state"), counters.submissions)
        yield GaugeMetricFamily("drimbox_exams_due", "Exams that wait to be judged", counters.exams_due)
        yield GaugeMetricFamily(
            "drimbox_submissions_due", "Submissions that wait for the DMP", counters.submissions_due
        )
        yield GaugeMetricFamily(
            "drimbox_queue_stopped", "1 while the queue stands still", int(counters.stopped is not None)
        )
        yield from _whitelist(self._foundation)


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


def metrics_text(foundation: Foundation) -> bytes:
    """The Prometheus text of the ledger. Raises `errors.Unavailable`."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(LedgerCollector(foundation))
    return generate_latest(registry)


def status(
    config: Annotated[Path | None, typer.Option(help="Configuration file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """One screen: what waits, what went wrong, how old it is. Exit 1 while nothing can be sent."""
    with open_stores(config) as foundation:
        counters = count(foundation.transactions, utc_now())
        snapshot = make_mesh(foundation.settings).current()
    if as_json:
        typer.echo(json.dumps(counters.to_json() | {"whitelist": snapshot.state.value}))
    else:
        _show(counters)
        _show_whitelist(snapshot)
    raise typer.Exit(1 if counters.stopped or not exchanges(snapshot.state) else 0)


def _show_whitelist(snapshot: Snapshot) -> None:
    words = f"whitelist: {snapshot.state.value}"
    words += f" since {stamp(snapshot.since)}" if snapshot.since else ""
    if not exchanges(snapshot.state):
        words = f"[bold red]{words}: nothing is published, partners are refused[/]"
    Console().print(words)


def _show(counters: Counters) -> None:
    console = Console()
    exams = Table("exams", "waiting for", "how many", "oldest change")
    for one in counters.exams:
        exams.add_row(one.first, one.second or "nothing", str(one.rows), _age(one.oldest))
    console.print(exams)
    submissions = Table("submissions", "state", "how many", "oldest")
    for one in counters.unfinished:
        submissions.add_row(one.first, one.second, str(one.rows), _age(one.oldest))
    console.print(submissions)
    console.print(f"due now: {counters.exams_due} exams, {counters.submissions_due} submissions")
    if counters.stopped:
        console.print(f"[bold red]the queue stands still:[/] {counters.stopped}")


def _age(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
