"""The whole `drimbox` command: a sub-command is one call. Exit status 0 done, 1 refused, 2 wrong usage."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from drimbox.adapters import logs
from drimbox.entrypoints.accounts_cli import account
from drimbox.entrypoints.archive_cli import archive_app
from drimbox.entrypoints.backup_cli import backup, backup_check, restore
from drimbox.entrypoints.bench import bench
from drimbox.entrypoints.certificates_cli import certificates
from drimbox.entrypoints.configuration import examine_configuration, find_configuration, write_template
from drimbox.entrypoints.credentials_in_use import DOOR_USES
from drimbox.entrypoints.db_cli import db_app
from drimbox.entrypoints.doors_cli import ConfigOption, doors, run
from drimbox.entrypoints.exams_cli import exams_app
from drimbox.entrypoints.health_cli import health_app
from drimbox.entrypoints.keys_cli import keys_app
from drimbox.entrypoints.kos_cli import kos_app
from drimbox.entrypoints.reports_cli import reports_app
from drimbox.entrypoints.status_cli import status
from drimbox.entrypoints.verify_cli import verify
from drimbox.entrypoints.whitelist_cli import whitelist_app

app = typer.Typer(
    name="drimbox",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
config_app = typer.Typer(help="The configuration.", no_args_is_help=True)
app.add_typer(doors)
app.add_typer(config_app, name="config")
app.add_typer(exams_app, name="exams")
app.add_typer(kos_app, name="kos")
app.add_typer(archive_app, name="archive")
app.add_typer(reports_app, name="reports")
app.add_typer(whitelist_app, name="whitelist")
app.add_typer(health_app, name="health")
app.add_typer(keys_app, name="keys")
app.add_typer(db_app, name="db")
app.command("account")(account)
app.command("certificates")(certificates)
app.command("status")(status)
app.command("verify")(verify)
app.command("backup")(backup)
app.command("backup-check")(backup_check)
app.command("restore")(restore)
app.command("bench")(bench)


@app.callback()
def speak_to_the_operator() -> None:
    """DRIMBox: shares the exams of an imaging department in the national DRIM-M mesh."""
    logs.configure("warning", "console", "command")  # on standard error: the answer has the output


def main() -> None:
    """Entry of the console script."""
    run(app)


@app.command()
def simulate(
    directory: Annotated[
        Path, typer.Option("--dir", help="Where the test PKI, the state and drimbox.toml go.")
    ],
    port_base: Annotated[
        int | None, typer.Option(min=1024, max=65000, help="First port; free ones by default.")
    ] = None,
    schemas: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help="Directory of the XDS and ebRS schemas, which the DMP then applies too.",
        ),
    ] = None,
    accept_sha1: Annotated[
        bool, typer.Option("--accept-sha1", help="The DMP takes SHA-1 signatures (dmp.compatibility).")
    ] = False,
) -> None:
    """The outside world on loopback: DMP, Pro Santé Connect, ANS list, BetterStack list. Prints `ready`."""
    from drimbox.simulators.world import main as run_world

    logs.configure("info", "console", "simulate")
    raise typer.Exit(run_world(directory, port_base, schemas=schemas, accept_sha1=accept_sha1))


@app.command()
def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave it running and print the addresses.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the steps as JSON.")] = False,
) -> None:
    """The whole story on one machine, nothing to configure; exit 0 only if every step held."""
    from drimbox.entrypoints.demo import run_demo

    raise typer.Exit(run_demo(keep=keep, as_json=as_json))


@app.command()
def init(
    directory: Annotated[Path, typer.Argument(help="Where drimbox.toml and the data directories go.")],
) -> None:
    """Write a commented drimbox.toml and the directories; never overwrite."""
    try:
        written = write_template(directory)
    except FileExistsError as error:
        sys.stderr.write(f"drimbox: {error.filename} exists: nothing was written\n")
        raise typer.Exit(1) from error
    typer.echo(f"{written}: fill in the lines marked REQUIRED, then: drimbox config check --config {written}")


@config_app.command("check")
def config_check(
    config: ConfigOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print faults and warnings as JSON.")] = False,
    door: Annotated[
        str | None,
        typer.Option(help=f"Only the certificates, keys and ports of one: {', '.join(DOOR_USES)}."),
    ] = None,
) -> None:
    """Every fault of the configuration at once; nothing is started."""
    if door is not None and door not in DOOR_USES:
        raise typer.BadParameter(f"there is no such door: {door}", param_hint="--door")
    found = examine_configuration(find_configuration(config), door)
    if as_json:
        typer.echo(json.dumps({"faults": found.faults, "warnings": found.warnings}, ensure_ascii=False))
    else:
        for warning in found.warnings:
            typer.echo(f"warning: {warning}")
        typer.echo("\n".join(found.faults) or "the configuration can be used", err=bool(found.faults))
    raise typer.Exit(1 if found.faults else 0)
