"""`drimbox status`: one screen for an operator."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from drimbox.bootstrap import utc_now
from drimbox.entrypoints.configuration import open_stores
from drimbox.flow.counters import Counters, count
from drimbox.flow.exams import stamp
from drimbox.membership import make_mesh
from whitelist.decision import exchanges
from whitelist.view import Snapshot


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
