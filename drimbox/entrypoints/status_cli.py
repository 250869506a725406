"""`drimbox status`: one screen for an operator, the verdict first."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from drimbox.bootstrap import Foundation
from drimbox.entrypoints.configuration import open_stores
from drimbox.entrypoints.overview import ATTENTION, FAIL, OK, Picture, look, look_further
from drimbox.flow.exams import stamp

_HEADS = {
    OK: ("bold green", "OK", "everything works"),
    ATTENTION: ("bold yellow", "ATTENTION", "it works, and something wants you"),
    FAIL: ("bold red", "FAIL", "something does not work"),
}
_GIB, _MIB = 2**30, 2**20
QUIET_SECONDS = 10  # a door that spoke within them is up, and no more is said


def status(
    config: Annotated[Path | None, typer.Option(help="Configuration file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    watch: Annotated[
        float | None, typer.Option(min=1, max=3600, help="Look again every so many seconds, until Ctrl-C.")
    ] = None,
) -> None:
    """One screen: what works, what waits, what went wrong, what to do. Exit 1 while nothing can be sent."""
    with open_stores(config) as foundation:
        if watch is not None:
            _watch(foundation, watch, as_json)
            return
        picture = look(foundation)
    if as_json:
        typer.echo(json.dumps(picture.to_json(), ensure_ascii=False))
    else:
        Console().print(screen(picture))
    raise typer.Exit(0 if picture.can_send else 1)


def _watch(foundation: Foundation, seconds: float, as_json: bool) -> None:
    """Until Ctrl-C, which is no failure; JSON: a line each time."""
    try:
        if as_json:
            while True:
                typer.echo(json.dumps(look(foundation).to_json(), ensure_ascii=False))
                time.sleep(seconds)
        with Live(screen(look(foundation)), auto_refresh=False, screen=True) as live:
            while True:
                time.sleep(seconds)
                live.update(screen(look(foundation)), refresh=True)
    except KeyboardInterrupt:
        raise typer.Exit(0) from None


def screen(picture: Picture) -> RenderableType:
    """The picture for a terminal of 100 columns."""
    parts: list[RenderableType] = [_head(picture)]
    if picture.problems:
        parts.append(_problems(picture))
    parts += [_parts(picture), _exams(picture), _submissions(picture)]
    if picture.overview.refusals:
        parts.append(_refusals(picture))
    return Group(*parts)


def _head(picture: Picture) -> Text:
    style, word, words = _HEADS[picture.verdict]
    said = f"  {words}   node {picture.node}, {picture.at:%Y-%m-%d %H:%M:%S}Z"
    return Text.assemble((word, style), said)


def _problems(picture: Picture) -> Table:
    table = _plain("level", "problem", "do")
    for one in picture.problems:
        table.add_row(f"[{_HEADS[one.level][0]}]●[/]", escape(one.what), f"[cyan]{escape(one.do)}[/]")
    return table


def _parts(picture: Picture) -> Table:
    table = _plain("part", "said")
    for name, said in _lines(picture):
        table.add_row(f"[bold]{name}[/]", said)
    return table


def _lines(picture: Picture) -> Iterator[tuple[str, str]]:
    yield "doors", " · ".join(_door(name, age) for name, age in picture.doors.items())
    yield "outside", " · ".join(_outside(picture, name, probe) for name, probe in _OUTSIDE)
    yield "whitelist", _whitelist(picture)
    yield "certificates", _certificates(picture)
    yield "disk", _disk(picture)
    hour = picture.overview.hour
    yield (
        "last hour",
        f"{hour['instances_stored']} instances stored, {hour['instances_repeated']} repeated, "
        f"{hour['instances_refused']} refused; {hour['reports_received']} reports, "
        f"{hour['reports_refused']} refused",
    )
    yield (
        "",
        f"{hour['manifests_registered']} manifests registered; {hour['retrievals_served']} retrievals served, "
        f"{hour['retrievals_cut']} cut, {hour['retrievals_refused']} refused",
    )
    counters = picture.counters
    yield (
        "queue",
        f"due now: {counters.exams_due} exams to judge, {counters.submissions_due} submissions to send",
    )
    yield "duties", _duties(picture)


_OUTSIDE = (("DMP", "dmp:connect"), ("Pro Santé Connect", "psc:connect"))


def _door(name: str, age: float | None) -> str:
    if age is None:
        return f"{name} [bold red]DOWN[/]"
    return f"{name} [green]up[/]" + (f" ({age:.0f} s ago)" if age > QUIET_SECONDS else "")


def _outside(picture: Picture, name: str, probe: str) -> str:
    check = picture.check(probe)
    if not check:
        return f"{name} [yellow]not known[/]"
    word = "[green]reachable[/]" if check["status"] == "pass" else "[bold red]NOT REACHABLE[/]"
    return f"{name} {word} ({check['ageSeconds']:.0f} s ago)"


def _whitelist(picture: Picture) -> str:
    snapshot = picture.whitelist
    since = f" since {stamp(snapshot.since)}" if snapshot.since else ""
    last = snapshot.last_success
    age = f", list accepted {_age((picture.at - last).total_seconds())} ago" if last else ", no list yet"
    return snapshot.state.value + since + age


def _certificates(picture: Picture) -> str:
    """The one that ends first, as the probes saw it."""
    ends = sorted(
        (check["observedValue"], name.partition(":")[2])
        for name, (check,) in picture.health["checks"].items()
        if name.startswith("certificates:") and "observedValue" in check
    )
    return f"the first to end is {ends[0][1]}: {ends[0][0]} days left" if ends else "not known"


def _disk(picture: Picture) -> str:
    check = picture.check("images:free")
    if "observedValue" not in check:
        return "not known"
    floor = picture.floor / _MIB
    return f"{check['observedValue'] / _GIB:.1f} GiB free; below {floor:.0f} MiB images are refused"


def _duties(picture: Picture) -> str:
    held = [f"{one.name} {one.holder}" for one in picture.overview.duties if one.left > 0]
    return escape(" · ".join(held)) or "nobody has any: is a worker running?"


def _exams(picture: Picture) -> Table:
    table = Table("exams", "how many", "waiting for", "oldest change", "look further", box=None)
    for one in picture.counters.exams:
        further = f"[cyan]{look_further(one)}[/]"
        table.add_row(one.first, str(one.rows), one.second or "nothing", _age(one.oldest), further)
    return table


def _submissions(picture: Picture) -> RenderableType:
    unfinished = picture.counters.unfinished
    if not unfinished:
        return Text("no submission is unfinished", style="dim")
    table = Table("submissions", "how many", "state", "oldest", box=None)
    for one in unfinished:
        table.add_row(one.first, str(one.rows), one.second, _age(one.oldest))
    return table


def _refusals(picture: Picture) -> Table:
    table = Table("last refusals (24 h)", "what", "who", "why", box=None)
    for one in picture.overview.refusals:
        why = str(one["code"] or one["reason"] or "")
        table.add_row(*map(escape, (one["at"][11:19] + "Z", one["event"], one["actor"], why)))
    return table


def _plain(*columns: str) -> Table:
    return Table(*columns, box=None, show_header=False, padding=(0, 1))


def _age(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
