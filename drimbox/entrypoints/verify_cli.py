"""`drimbox verify`: are the images still as they were received?"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from dicom_store.paths import InvalidUID, check_uid
from dicom_store.verification import Pace, Verifier
from drimbox.adapters.progress_file import AlreadyRunning, ProgressFile
from drimbox.bootstrap import Foundation, make_dmp, utc_now
from drimbox.domain.errors import Unavailable
from drimbox.entrypoints.command_failures import Words, say, told
from drimbox.entrypoints.commitments import make_care
from drimbox.entrypoints.configuration import open_stores
from drimbox.flow.compare_dmp import Comparing, Comparison
from drimbox.flow.verify_storage import Progress, Verifying

TOLD_EVERY = 2.0  # seconds
MEGABYTE = 1_000_000
FAILURES: Words = {
    **dict.fromkeys((AlreadyRunning, InvalidUID, Unavailable, OSError), str),
    KeyboardInterrupt: lambda _: "stopped; the next run goes on from here",
}


def verify(
    study: Annotated[str | None, typer.Option(help="Only this Study Instance UID.")] = None,
    rate: Annotated[
        float, typer.Option(min=0, help="Megabytes read per second at most; 0 = as fast as it goes.")
    ] = 100.0,
    restart: Annotated[
        bool, typer.Option("--restart", help="From the first study on, also when a run was cut short.")
    ] = False,
    config: Annotated[Path | None, typer.Option(help="Configuration file.")] = None,
    dmp: Annotated[
        bool, typer.Option("--dmp", help="Then look up every published manifest in the DMP (TD3.1b).")
    ] = False,
    dmp_rate: Annotated[float, typer.Option(min=0.01, help="Look-ups per second at most.")] = 5.0,
    as_json_: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Read every image again and compute its hash: missing, damaged, orphaned. Exit 1 when something is lost.

    With --dmp also when a published manifest is not at the DMP as it should be, or that could not be told.

    A run that was cut short is taken up where it was.
    """
    with open_stores(config) as foundation, told(FAILURES):
        if study is not None:
            progress = make_verifying(foundation, rate, lambda _: None, quiet=True).study(check_uid(study))
        else:
            with ProgressFile(foundation.settings.storage.root / "verify.json") as file:
                progress = _everything(foundation, rate, file, restart=restart)
        compared = make_comparing(foundation, dmp_rate).run(study) if dmp else None
    if as_json_:
        typer.echo(json.dumps(as_json(progress) | ({"dmp": asdict(compared)} if compared else {})))
    else:
        typer.echo("\n".join([*lines(progress), *(_compared_lines(compared) if compared else ())]))
    if progress.lost or (compared and not compared.agrees):
        raise typer.Exit(1)


def _everything(foundation: Foundation, rate: float, file: ProgressFile, *, restart: bool) -> Progress:
    found = None if restart else file.load()
    progress = Progress(**found) if found else Progress()
    if progress.last:
        say(f"taken up after {progress.studies} studies")
    verifying = make_verifying(foundation, rate, file.save, quiet=False)
    try:
        verifying.everything(progress)
    except BaseException:
        file.write(asdict(progress))
        raise
    file.clear()
    return progress


def make_comparing(foundation: Foundation, rate: float) -> Comparing:
    """What compares the ledger with the DMP. Raises `UnusableCredential`."""
    said, pace = time.monotonic(), Pace(rate)

    def tell(found: Comparison) -> None:
        nonlocal said
        if time.monotonic() - said >= TOLD_EVERY:
            said = time.monotonic()
            say(_looked_up(found))

    return Comparing(
        foundation.transactions, make_dmp(foundation), utc_now, "operator", lambda: pace(1), tell
    )


def _compared_lines(found: Comparison) -> Iterator[str]:
    for one in found.findings:
        yield f"{one.kind}  {one.study}  {one.kos_uid}: {one.reason} (entryUUID {one.entry_uuid or 'not known yet'})"
    yield _looked_up(found)


def _looked_up(found: Comparison) -> str:
    left_out = f", {found.left_out} not asked: the DMP does not answer" if found.left_out else ""
    return f"{found.looked_up} manifests looked up at the DMP, {len(found.findings)} findings{left_out}"


def make_verifying(foundation: Foundation, rate: float, save: Any, *, quiet: bool) -> Verifying:
    care = make_care(foundation)
    said = time.monotonic()

    def tell(progress: Progress) -> None:
        nonlocal said
        if not quiet and time.monotonic() - said >= TOLD_EVERY:
            said = time.monotonic()
            say(_summary(progress))

    return Verifying(
        foundation.transactions,
        Verifier(care, Pace(rate * MEGABYTE)),
        care.studies,
        utc_now,
        "operator",
        save,
        tell,
    )


def _summary(progress: Progress) -> str:
    counts = ", ".join(f"{number} {kind}" for kind, number in progress.counts.items())
    size = progress.bytes / MEGABYTE
    return f"{progress.studies} studies, {progress.records} instances, {size:.1f} MB: {counts}"


def lines(progress: Progress) -> Iterator[str]:
    """A run, for an operator."""
    for found in progress.findings:
        what = found["sop_instance_uid"] or f"{found['length']} bytes"
        place = f"{found['segment']} at {found['offset']}"
        yield f"{found['kind']}  {found['study']}  {what}: {found['reason']} ({place})"
    left_out = sum(progress.counts.values()) - len(progress.findings)
    if left_out:
        yield f"and {left_out} more"
    yield _summary(progress)


def as_json(progress: Progress) -> dict[str, Any]:
    """A run, for a program."""
    known = asdict(progress)
    del known["last"]
    return known | {"whole": not progress.lost}
