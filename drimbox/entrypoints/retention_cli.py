"""`drimbox archive retention`: how long images stay of exams that must not be public."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from drimbox.domain.errors import Unavailable
from drimbox.entrypoints.command_failures import Words, say, told
from drimbox.entrypoints.configuration import open_stores
from drimbox.entrypoints.image_retention import make_retaining
from drimbox.entrypoints.progress_bar import bar
from drimbox.entrypoints.segment_keeping import make_compacting
from drimbox.flow.exams import stamp
from drimbox.flow.retention import Going, Gone, RetentionPlan

ACTOR = "operator"
FAILURES: Words = {
    **dict.fromkeys((Unavailable, OSError), str),
    KeyboardInterrupt: lambda _: "stopped; the next run goes on from here",
}


def retention(
    older_than: Annotated[
        int | None,
        typer.Option(min=1, help="Days since the last change; retention.images_days by default."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would go and what stays; write nothing.")
    ] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Exams at most.")] = None,
    config: Annotated[Path | None, typer.Option(help="Configuration file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Forget the images of exams that must not be public and have not changed for long; the rest of them stays.

    Nothing that is published, on its way to the DMP, or awaited ever goes. Stopped, the next run goes on from there.
    """
    with open_stores(config) as foundation, told(FAILURES), bar("retention") as shown:
        retaining = make_retaining(foundation, ACTOR, older_than, shown.done)
        plan, gone, freed_before = retaining.plan(limit), list[Gone](), 0
        if not dry_run:
            shown.begin(sum(one.bytes for one in plan.going))
            gone = list(retaining.run(plan))
            # what a crash, or a segment that was being written, left of images forgotten before
            freed_before = make_compacting(foundation, ACTOR).drop_retired()
    if as_json:
        typer.echo(json.dumps(_as_json(plan, gone, freed_before, dry_run=dry_run)))
    else:
        typer.echo("\n".join([*(_going(plan.going) if dry_run else _gone(gone, freed_before)), *_kept(plan)]))
    if older_than is None and retaining.policy.images_days == 0:
        say("retention.images_days is 0: images are kept for ever (or give --older-than)")


def _as_json(plan: RetentionPlan, gone: list[Gone], freed_before: int, *, dry_run: bool) -> dict[str, Any]:
    exams = [asdict(one) | {"changed_at": stamp(one.changed_at)} for one in plan.going]
    return {
        "dry_run": dry_run,
        "exams": exams if dry_run else [asdict(one) for one in gone],
        "bytes": sum(one.bytes for one in (plan.going if dry_run else gone)),
        "freed": sum(one.freed for one in gone) + freed_before,
        "left_out": asdict(plan.left_out),
        "kept": {rule: asdict(one) for rule, one in sorted(plan.kept.items())},
    }


def _going(going: list[Going]) -> Iterator[str]:
    for one in going:
        yield f"{one.study}  {one.rule}  {one.instances} instances of {one.bytes} bytes: {one.reason}"
    yield f"{len(going)} exams of {sum(one.bytes for one in going)} bytes would be forgotten"


def _gone(gone: list[Gone], freed_before: int) -> Iterator[str]:
    for one in gone:
        said = (
            f"kept after all: {one.kept}" if one.kept else f"{one.instances} instances of {one.bytes} bytes"
        )
        yield f"{one.study}  {one.rule}  {said}"
    freed = sum(one.freed for one in gone) + freed_before
    yield f"{sum(not one.kept for one in gone)} exams forgotten, {freed} bytes freed"


def _kept(plan: RetentionPlan) -> Iterator[str]:
    if plan.left_out.exams:
        yield f"{plan.left_out.exams} more of {plan.left_out.bytes} bytes: beyond --limit"
    for rule, one in sorted(plan.kept.items()):
        yield f"kept, {rule}: {one.exams} exams of {one.bytes} bytes"
