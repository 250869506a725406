"""Long lists on a terminal or in a file: a line or an element as soon as it is known, nothing kept."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import typer

_AGO = re.compile(r"([0-9]{1,6})(min|h|d)")
_UNITS = {"min": "minutes", "h": "hours", "d": "days"}


def instant_of(said: str, now: datetime, time_zone: str) -> datetime:
    """`90min`, `2h`, `3d` before now, or a date, in `time_zone` unless it says another. Raises `BadParameter`."""
    ago = _AGO.fullmatch(said)
    try:
        if ago is not None:
            return now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        instant = datetime.fromisoformat(said)
        return instant if instant.tzinfo else instant.replace(tzinfo=ZoneInfo(time_zone))
    except (ValueError, OverflowError) as error:
        raise typer.BadParameter(
            "90min, 2h, 3d, or a date such as 2026-11-20", param_hint="--since"
        ) from error


def print_json(rows: Iterable[Mapping[str, Any]]) -> None:
    """One JSON array, an element a line."""
    mark = "["
    for row in rows:
        typer.echo(mark + json.dumps(row, ensure_ascii=False), nl=False)
        mark = ",\n"
    typer.echo("[]" if mark == "[" else "]")


def print_lines(rows: Iterable[Mapping[str, Any]]) -> int:
    """A line for each exam, its reason below it; how many there were."""
    count = 0
    for row in rows:
        if not count:
            typer.echo(f"{'changed':<24} {'state':<9} {'manifest':<11} study")
        said = f"{row['changed_at']:<24} {row['state']:<9} {row['manifest']:<11} {row['study_instance_uid']}"
        typer.echo(said + (f"\n{'':<24} {row['rule']}: {row['reason']}" if row["reason"] else ""))
        count += 1
    if not count:
        typer.echo("no exam")
    return count
