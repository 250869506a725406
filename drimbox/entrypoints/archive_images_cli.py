"""`drimbox archive instance | compact | forget`: the images themselves, and the segments that hold them."""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from dicom_store.paths import InvalidUID, check_uid
from dicom_store.segment_record import SegmentDamaged
from dicom_store.verification import Pace, Verifier
from drimbox.bootstrap import Foundation, utc_now
from drimbox.domain.errors import Unavailable
from drimbox.entrypoints.command_failures import Words, say, told
from drimbox.entrypoints.commitments import make_care
from drimbox.entrypoints.configuration import open_stores
from drimbox.entrypoints.segment_keeping import make_compacting
from drimbox.flow.compact_segments import CompactedSegment
from drimbox.flow.exams import UnknownExam
from drimbox.flow.export_instance import ExportedInstance, InstanceSpoilt, UnknownInstance, export_instance
from drimbox.flow.forget_images import NothingToForget, StillPublic, forget_images

ACTOR = "operator"
SWEPT_AT_ONCE = 100  # under one transaction: it holds up the doors

FAILURES: Words = {
    UnknownExam: lambda error: f"no exam {error} is known here",
    StillPublic: lambda error: (
        f"the exam is public (its manifest is {error}): withdraw it first (drimbox exams withdraw)"
    ),
    NothingToForget: lambda error: f"no image of {error} is here",
    UnknownInstance: lambda error: f"no instance {error} is here",
    InstanceSpoilt: lambda error: f"instance {error} is damaged or missing on disk (drimbox verify)",
    # of a link, the second name is the new one
    FileExistsError: lambda error: f"{error.filename2 or error.filename} exists: nothing was written",
    InvalidUID: str,
    SegmentDamaged: str,
    Unavailable: str,
    OSError: str,
}

ConfigOption = Annotated[Path | None, typer.Option(help="Configuration file.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def instance(
    uid: Annotated[str, typer.Argument(help="SOP Instance UID.")],
    out: Annotated[
        Path | None, typer.Option(help="Where the DICOM file goes; standard output when that is no terminal.")
    ] = None,
    config: ConfigOption = None,
) -> None:
    """One instance as a DICOM file, as it was received, proven by its hash. It is patient data: traced."""
    if out is None and sys.stdout.isatty():
        say("a DICOM file does not go to a terminal: give --out FILE, or redirect")
        raise typer.Exit(2)
    with open_stores(config) as foundation, told(FAILURES):
        if out is not None and out.exists():
            raise FileExistsError(0, "exists", str(out))
        proof = Verifier(make_care(foundation), Pace(0))
        found = export_instance(foundation.transactions, proof, check_uid(uid), now=utc_now(), actor=ACTOR)
        if found.rejected is not None:
            say(f"this instance was rejected ({found.rejected})")
        _write(found, out)


def compact(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done; write nothing.")
    ] = False,
    share: Annotated[
        float | None, typer.Option(min=0, max=1, help="Instead of archive.compact_share.")
    ] = None,
    rejected_keep: Annotated[
        int | None, typer.Option(min=0, help="Instead of archive.rejected_keep_days; 0 = for ever.")
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Rid the segments of settled exams of what nobody needs: rejected instances, forgotten ones, orphans."""
    with open_stores(config) as foundation, told(FAILURES):
        compacting = make_compacting(foundation, ACTOR, share, rejected_keep)
        done = compacting.plan() if dry_run else list(compacting.run())
        swept = 0 if dry_run else _sweep(foundation)
    if as_json:
        typer.echo(
            json.dumps({"dry_run": dry_run, "segments": [asdict(one) for one in done], "swept": swept})
        )
    else:
        typer.echo("\n".join(_lines(done, swept, dry_run=dry_run)))
    if any(one.trouble for one in done):
        raise typer.Exit(1)


def forget(
    study: Annotated[str, typer.Argument(help="Study Instance UID.")],
    reason: Annotated[str, typer.Option(help="Why; kept in the trace.")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Delete the images of an exam that is not public, for good; reports, states and trace stay."""
    with open_stores(config) as foundation, told(FAILURES):
        gone = forget_images(foundation.transactions, study, now=utc_now(), actor=ACTOR, reason=reason)
    said = f"{gone.instances} instances of {gone.bytes} bytes are forgotten"
    typer.echo(json.dumps(asdict(gone)) if as_json else said)


def _sweep(foundation: Foundation) -> int:
    """Segments that no row points to, wherever they are from: `drimbox verify` tells of them."""
    with foundation.transactions.reading() as transaction:
        orphans = transaction.storage.orphans()
    freed = 0
    for start in range(0, len(orphans), SWEPT_AT_ONCE):
        with foundation.transactions.writing() as transaction:
            freed += transaction.storage.drop(orphans[start : start + SWEPT_AT_ONCE])
    return freed


def _write(found: ExportedInstance, out: Path | None) -> None:
    """To standard output, or to a new file that is there whole or not at all."""
    if out is None:
        for piece in found.pieces:
            sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
        return
    aside = out.with_name(f".{out.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            for piece in found.pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        os.link(aside, out)
    finally:
        aside.unlink(missing_ok=True)


def _lines(done: list[CompactedSegment], swept: int, *, dry_run: bool) -> Iterator[str]:
    for one in done:
        said = one.trouble or f"{one.freed} of {one.size} bytes, {one.purged} rejected instances"
        yield f"{one.study}  {one.segment}: {said}"
    count = sum(not one.trouble for one in done)
    yield f"{count} segments {'would be compacted' if dry_run else 'compacted'}, {swept} bytes of orphans deleted"
