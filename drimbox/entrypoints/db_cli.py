"""`drimbox db`: whether the database can be relied on, and its way to the newest revision."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from drimbox.adapters.database import Database
from drimbox.adapters.schema import Findings, Revision, examine, pending
from drimbox.bootstrap import database_url
from drimbox.entrypoints.configuration import SQLITE, find_configuration
from drimbox.entrypoints.doors_cli import ConfigOption
from drimbox.settings.whole import load_settings

db_app = typer.Typer(help="The database: its state, its migrations.", no_args_is_help=True)
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ADVICE = (
    "advised before: `drimbox backup DIR` by the version that made this database; back: `drimbox restore DIR`"
)


@db_app.command("check")
def db_check(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Revision, tables, durability of the server, integrity of the file; nothing is written. Exit 1 on a fault."""
    with _database(config) as database:
        findings = (
            examine(database)
            if database is not None
            else Findings("sqlite", faults=["there is no database yet: it is made by the first door"])
        )
    if as_json:
        typer.echo(json.dumps(asdict(findings), ensure_ascii=False))
    else:
        _show(findings)
    raise typer.Exit(1 if findings.faults else 0)


@db_app.command("upgrade")
def db_upgrade(
    config: ConfigOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Bring the tables to the newest revision, one node at a time, all of the way or not at all."""
    with _database(config, make=not dry_run) as database:
        current = None if database is None else database.revision()[0]
        todo = pending(current)
        if not as_json:
            _announce(current, todo)
        if database is not None and todo and not dry_run:
            _upgrade(database, todo)
    if as_json:
        plan = {"from": current, "revisions": [asdict(one) for one in todo], "applied": not dry_run}
        typer.echo(json.dumps(plan, ensure_ascii=False))


def _announce(current: str | None, todo: list[Revision]) -> None:
    if not todo:
        typer.echo(f"the database is at revision {current}, the newest: nothing to do")
        return
    typer.echo(f"from {current or 'an empty database'} to {todo[-1].number}:")
    for one in todo:
        typer.echo(f"  {one.number}  {one.title}")
    if current is not None:
        typer.echo(ADVICE)


def _upgrade(database: Database, todo: list[Revision]) -> None:
    """Progress goes to standard error."""
    begun, done = time.monotonic(), 0

    def applied(number: str) -> None:
        nonlocal done
        done += 1
        typer.echo(f"{number} done ({done} of {len(todo)}, {time.monotonic() - begun:.1f} s)", err=True)

    def waiting() -> None:
        typer.echo("another process migrates this database: waiting for it", err=True)

    database.migrate(applied, waiting)
    typer.echo(f"the database is at revision {database.revision()[0]}", err=True)


def _show(findings: Findings) -> None:
    typer.echo(
        f"{findings.engine}, revision {findings.revision or 'none'}, newest known {findings.newest or '?'}"
    )
    for one in findings.pending:
        typer.echo(f"  to come: {one.number}  {one.title}")
    if findings.revision == findings.newest and not findings.differences:
        typer.echo("tables: as the code has them")
    for name, value in findings.settings.items():
        typer.echo(f"{name}: {value}")
    if findings.integrity is not None:
        typer.echo(f"quick_check: {findings.integrity}")
    for warning in findings.warnings:
        typer.echo(f"warning: {warning}")
    for fault in findings.faults:
        typer.echo(fault, err=True)
    if not findings.faults:
        typer.echo("nothing is wrong")


@contextmanager
def _database(config: Path | None, *, make: bool = False) -> Iterator[Database | None]:
    """The configured database; None for an SQLite file that is not there, unless it is to be made."""
    settings = load_settings(find_configuration(config))
    room = settings.database
    if room.url.startswith(SQLITE) and not make and not Path(room.url.removeprefix(SQLITE)).exists():
        yield None
        return
    database = Database(database_url(settings), room.busy_timeout)
    try:
        yield database
    finally:
        database.close()
