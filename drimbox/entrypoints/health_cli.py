"""`drimbox health`: the full report of this node, and whom the address filter refused. For local operators only."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from drimbox.bootstrap import utc_now
from drimbox.entrypoints.configuration import open_stores
from drimbox.entrypoints.health_report import NoReport, look_now, read_report
from drimbox.flow.health_log import Refused, refused_by_day

health_app = typer.Typer(help="How well this node is.", invoke_without_command=True)

ConfigOption = Annotated[Path | None, typer.Option(help="Configuration file.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_COLOURS = {"pass": "green", "warn": "yellow", "fail": "bold red"}


@health_app.callback()
def health(
    context: typer.Context,
    config: ConfigOption = None,
    as_json: JsonOption = False,
    now: Annotated[
        bool, typer.Option("--now", help="Look at everything now, instead of reading the last report.")
    ] = False,
) -> None:
    """The full local report; what probes are told is its status alone. Exit 1 for fail."""
    if context.invoked_subcommand is not None:
        return
    with open_stores(config) as foundation:
        try:
            report = look_now(foundation) if now else read_report(foundation.settings, utc_now())
        except NoReport as error:
            report = {"status": "fail", "notes": [str(error)], "checks": {}}
    if as_json:
        typer.echo(json.dumps(report, ensure_ascii=False))
    else:
        _show(report)
    raise typer.Exit(1 if report["status"] == "fail" else 0)


@health_app.command()
def refused(
    config: ConfigOption = None,
    as_json: JsonOption = False,
    days: Annotated[int, typer.Option(min=1, max=3660, help="How many days back.")] = 30,
) -> None:
    """Addresses that the filter did not answer, per day (UTC): evidence for the ANS after a wrong `hors service`."""
    since = (utc_now() - timedelta(days=days)).replace(hour=0, minute=0, second=0, microsecond=0)
    with open_stores(config) as foundation:
        found = refused_by_day(foundation.transactions, since)
    if as_json:
        typer.echo(json.dumps([_json(one) for one in found], ensure_ascii=False))
        return
    table = Table("day", "address", "requests", "first", "last", "user agents")
    for one in found:
        times = (f"{instant:%H:%M:%S}" for instant in (one.first, one.last))
        agents = escape("\n".join(one.user_agents))  # what anybody may have sent is no markup
        table.add_row(str(one.day), escape(one.address), str(one.count), *times, agents)
    Console().print(table if found else f"nobody was refused in the last {days} days")


def _json(one: Refused) -> dict[str, Any]:
    instants = {name: _stamp(getattr(one, name)) for name in ("first", "last")}
    return asdict(one) | {"day": one.day.isoformat(), **instants}


def _stamp(instant: datetime) -> str:
    return instant.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _show(report: dict[str, Any]) -> None:
    console = Console()
    word = report["status"]
    console.print(f"[{_COLOURS[word]}]{word}[/]", *map(escape, report.get("notes", [])))
    table = Table("what", "state", "measured", "what to know", "seconds ago")
    for name, (check,) in report["checks"].items():
        state = check["status"]
        measured = f"{check.get('observedValue', '')} {check.get('observedUnit', '')}".strip()
        shown = f"[{_COLOURS[state]}]{state}[/]" + (
            "" if check["vital"] or state == "pass" else " (not vital)"
        )
        table.add_row(name, shown, measured, escape(check.get("output", "")), f"{check['ageSeconds']:.0f}")
    if report["checks"]:
        console.print(table)
