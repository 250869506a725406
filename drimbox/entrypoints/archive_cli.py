"""`drimbox archive`: the XDM archive of what was published."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from drimbox.bootstrap import lay_foundation
from drimbox.domain.xds.xdm import ArchiveSender, archive_files
from drimbox.entrypoints.configuration import find_configuration
from drimbox.flow.archive import archived_lots
from drimbox.settings import load_settings

archive_app = typer.Typer(help="The XDM archive of the published manifests.", no_args_is_help=True)


@archive_app.callback()
def _archive() -> None:
    """The XDM archive of the published manifests."""


@archive_app.command("export")
def export(
    directory: Annotated[
        Path, typer.Argument(help="Where the KA<yyyyMM> folders go; must not hold them yet.")
    ],
    study: Annotated[str | None, typer.Option(help="Only this Study Instance UID.")] = None,
    config: Annotated[Path | None, typer.Option(help="Configuration file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the files as JSON.")] = False,
) -> None:
    """Write KOS, METADATA.XML, signature, CR.TXT, INDEX.HTM and README.TXT of every published manifest."""
    settings = load_settings(find_configuration(config))
    foundation = lay_foundation(settings)
    lots = archived_lots(
        foundation.transactions,
        foundation.documents,
        study,
        time_zone=settings.policy.time_zone,
        ipp_authority=settings.policy.ipp_authority,
    )
    foundation.database.close()
    if not lots:
        typer.echo("drimbox: nothing was published" + (f" of {study}" if study else ""), err=True)
        raise typer.Exit(1)
    organisation = settings.organisation
    sender = ArchiveSender(
        organisation.name,
        organisation.structure_id,
        settings.dmp.lps_name,
        version("drimbox"),
        organisation.manufacturer,
    )
    written = []
    for name, data in archive_files(lots, sender=sender):
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with path.open("xb") as file:
                file.write(data)
        except FileExistsError as error:
            typer.echo(f"drimbox: {path} exists: give an empty directory", err=True)
            raise typer.Exit(1) from error
        written.append(str(path))
    typer.echo(
        json.dumps({"files": written})
        if as_json
        else f"{len(lots)} submissions, {len(written)} files in {directory}"
    )
