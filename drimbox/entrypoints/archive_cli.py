"""`drimbox archive`: the XDM archive of what was published: out, in, and how long its documents are kept."""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import asdict
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from drimbox.adapters.xdm_files import read_lots, write_files
from drimbox.bootstrap import Foundation, new_id, utc_now
from drimbox.domain.errors import DrimboxError
from drimbox.domain.xds.xdm import ArchiveSender, InconsistentLot, archive_files
from drimbox.domain.xml_input import UnreadableXml
from drimbox.entrypoints.archive_images_cli import compact, forget, instance
from drimbox.entrypoints.command_failures import Words, say, told
from drimbox.entrypoints.configuration import open_stores
from drimbox.entrypoints.retention_cli import retention
from drimbox.flow.archive import Exporting
from drimbox.flow.archive_import import Importing, LotOutcome
from drimbox.flow.archive_purge import PurgedLot, Purging
from drimbox.settings.whole import Settings

ACTOR = "operator"
PROGRESS_SECONDS = 2.0

FAILURES: Words = {
    FileExistsError: lambda error: f"{error.filename} exists: give an empty directory",
    DrimboxError: str,
    InconsistentLot: str,
    UnreadableXml: str,
    OSError: str,
}

archive_app = typer.Typer(
    help="The XDM archive of the published manifests, and the images themselves.", no_args_is_help=True
)
for _command in (instance, compact, forget, retention):
    archive_app.command(_command.__name__)(_command)

ConfigOption = Annotated[Path | None, typer.Option(help="Configuration file.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Say what would be done; write nothing.")]


@archive_app.callback()
def _archive() -> None:
    """The XDM archive of the published manifests, and the images themselves."""


@archive_app.command("export")
def export(
    directory: Annotated[
        Path, typer.Argument(help="Where the KA<yyyyMM> folders go; must not hold them yet.")
    ],
    study: Annotated[str | None, typer.Option(help="Only this Study Instance UID.")] = None,
    config: ConfigOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the files as JSON.")] = False,
) -> None:
    """Write KOS, METADATA.XML, signature, CR.TXT, INDEX.HTM and README.TXT of every published manifest."""
    written: list[str] = []
    count = 0
    with open_stores(config) as foundation, told(FAILURES):
        policy = foundation.settings.policy
        exporting = Exporting(
            foundation.transactions, foundation.documents, policy.time_zone, policy.ipp_authority
        )
        sender = _sender(foundation.settings)
        for lots in exporting.months(study):
            count += len(lots)
            written += map(str, write_files(directory, archive_files(lots, sender=sender)))
    if not count:
        say("nothing was published" + (f" of {study}" if study else ""))
        raise typer.Exit(1)
    text = f"{count} submissions, {len(written)} files in {directory}"
    typer.echo(json.dumps({"files": written}) if as_json else text)


@archive_app.command("import")
def import_(
    path: Annotated[
        Path, typer.Argument(help="A KA<yyyyMM> folder, a directory of several, an IHE_XDM folder, or a zip.")
    ],
    dry_run: DryRunOption = False,
    config: ConfigOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the lots as JSON.")] = False,
) -> None:
    """Take lots in; each is imported, already there, or refused with every reason. Exit 1 when one was refused."""
    outcomes: list[LotOutcome] = []
    with open_stores(config) as foundation, told(FAILURES):
        foundation.database.migrate()
        importing = _importing(foundation)
        said = time.monotonic()
        for found in read_lots(path):
            outcomes.append(importing.take(found, dry_run=dry_run))
            if not as_json:
                _print_outcome(outcomes[-1])
            if time.monotonic() - said > PROGRESS_SECONDS:
                said = time.monotonic()
                say(f"{len(outcomes)} lots read: {_counts(outcomes)}")
    if as_json:
        typer.echo(json.dumps(_as_json(outcomes, dry_run=dry_run), ensure_ascii=False))
    elif outcomes:
        typer.echo(f"{'would be: ' if dry_run else ''}{_counts(outcomes)}")
    if not outcomes:
        say(f"no lot (a folder with METADATA.XML) in {path}")
    if not outcomes or any(outcome.verdict == "refused" for outcome in outcomes):
        raise typer.Exit(1)


@archive_app.command("purge")
def purge(
    older_than: Annotated[
        int | None, typer.Option(min=0, help="Days since a lot ended; archive.keep_days by default.")
    ] = None,
    dry_run: DryRunOption = False,
    config: ConfigOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the lots as JSON.")] = False,
) -> None:
    """Delete the documents of lots that were replaced, unpublished or dropped long ago; rows and trace stay."""
    with open_stores(config) as foundation, told(FAILURES):
        keep_days = foundation.settings.archive.keep_days
        if older_than is None and keep_days == 0:
            say("archive.keep_days is 0: documents are kept for ever (or give --older-than)")
            lots: list[PurgedLot] = []
        else:
            age = timedelta(days=keep_days if older_than is None else older_than)
            purging = Purging(foundation.transactions, foundation.documents, utc_now, ACTOR)
            lots = purging.plan(age) if dry_run else list(purging.run(age))
    if as_json:
        typer.echo(json.dumps({"dry_run": dry_run, "lots": [asdict(lot) for lot in lots]}))
        return
    for lot in lots:
        kept = f", {len(lot.kept)} kept: named elsewhere" if lot.kept else ""
        kos = lot.kos_uid or lot.submission_id
        typer.echo(f"{lot.state}  {lot.study_instance_uid}  {kos}: {len(lot.deleted)} documents{kept}")
    typer.echo(f"{len(lots)} lots {'would be purged' if dry_run else 'purged'}")


def _importing(foundation: Foundation) -> Importing:
    settings = foundation.settings
    return Importing(
        foundation.transactions,
        foundation.documents,
        utc_now,
        new_id,
        settings.policy.time_zone,
        settings.organisation.structure_id,
        settings.organisation.sector,
        ACTOR,
    )


def _sender(settings: Settings) -> ArchiveSender:
    organisation = settings.organisation
    return ArchiveSender(
        organisation.name,
        organisation.structure_id,
        settings.dmp.lps_name,
        version("drimbox"),
        organisation.manufacturer,
    )


def _print_outcome(outcome: LotOutcome) -> None:
    typer.echo(f"{outcome.verdict.replace('-', ' ')}  {outcome.place}  {outcome.kos_uid or ''}".rstrip())
    for reason in outcome.reasons:
        typer.echo(f"    {reason.where}: {reason.message} [{reason.rule}, {reason.clause}]")


def _counts(outcomes: list[LotOutcome]) -> str:
    counts = Counter(outcome.verdict for outcome in outcomes)
    return (
        f"{counts['imported']} imported, {counts['already-there']} already there, {counts['refused']} refused"
    )


def _as_json(outcomes: list[LotOutcome], *, dry_run: bool) -> dict[str, Any]:
    counts = Counter(outcome.verdict for outcome in outcomes)
    return {
        "dry_run": dry_run,
        "imported": counts["imported"],
        "already_there": counts["already-there"],
        "refused": counts["refused"],
        "lots": [asdict(outcome) for outcome in outcomes],
    }
