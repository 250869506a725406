"""`drimbox certificates`: what there is, until when, and what is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from drimbox.bootstrap import utc_now
from drimbox.domain.certificate_levels import ENDED, Level
from drimbox.entrypoints.certificate_alarms import mesh_of
from drimbox.entrypoints.certificate_inventory import Place, Row, inventory
from drimbox.entrypoints.configuration import find_configuration
from drimbox.settings.whole import load_settings

_STYLES = {
    Level.OK: "green",
    Level.UNSEEN: "dim",
    Level.NOTICE: "cyan",
    Level.WARNING: "yellow",
    Level.CRITICAL: "bold red",
    Level.EXPIRED: "bold red",
    Level.UNUSABLE: "bold red",
}


def certificates(
    config: Annotated[Path | None, typer.Option(help="Configuration file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Every certificate of the settings and the whitelist's signer, soonest end first.

    Exit 1 when one of ours has ended or cannot be used.
    """
    settings = load_settings(find_configuration(config))
    rows = inventory(settings, utc_now(), mesh=mesh_of(settings), with_keys=True)
    if as_json:
        typer.echo(json.dumps([row.to_json() for row in rows], ensure_ascii=False))
    else:
        _show(rows)
    raise typer.Exit(1 if any(row.place is Place.OWN and row.level in ENDED for row in rows) else 0)


def _show(rows: Sequence[Row]) -> None:
    """A line for each certificate, with all the settings that name it."""
    table = Table("level", "days", "until", "used as", "certificate")
    for same in _alike(rows):
        row = same[0]
        until = "" if row.not_after is None else f"{row.not_after:%Y-%m-%d}"
        days = "" if row.days_left is None else str(row.days_left)
        place = "" if row.place in (Place.OWN, Place.SIGNER) else f" ({row.place})"
        uses = "\n".join(dict.fromkeys(f"{one.setting}{place}" for one in same))
        table.add_row(Text(row.level.value, _STYLES[row.level]), days, until, Text(uses), _what(row))
    Console().print(table)


def _what(row: Row) -> Text:
    parts = [f"{row.kind}: {row.subject}", f"by {row.issuer}", f"serial {row.serial}"] if row.subject else []
    told = Text("\n".join(parts))
    if row.reason:
        told.append(f"{chr(10) if parts else ''}{row.reason}", "bold")
    return told


def _alike(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows of one certificate that say the same of it, together; what cannot be read stays alone."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        key = (row.sha256 or row.setting, row.place.value, row.level.value, row.reason)
        groups.setdefault(key, []).append(row)
    return list(groups.values())
