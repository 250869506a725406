"""The commands that run the appliance: every door, the worker, and all of them supervised.

A program of its own for `drimbox.__main__`: a door does not load what the operator's commands use.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from drimbox.adapters import logs
from drimbox.adapters.key_files import UnusableCredential
from drimbox.bootstrap import Foundation, lay_foundation
from drimbox.domain.errors import DrimboxError
from drimbox.entrypoints.configuration import NoConfiguration, find_configuration, require_membership
from drimbox.entrypoints.foreign_words import keep_no_words
from drimbox.entrypoints.memory import share_arenas
from drimbox.settings.room import ConfigurationError
from drimbox.settings.whole import Settings, load_settings

doors = typer.Typer(
    rich_markup_mode=None,  # a door does without rich
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

SWITCH_SECONDS = 0.001  # a thread that has much to do lets the others of its process go on that often
# Steps of niceness: when the processors are full, who waits for an answer comes before who brings and what is prepared.
GIVES_WAY = {"dicom": 5, "worker": 10}

# What the doors and the worker load.
PROGRAMS = tuple(f"drimbox.entrypoints.{name}" for name in ("dicom", "hl7", "web", "worker", "meter_keeping"))

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        help="Configuration file (else $DRIMBOX_CONFIG, ./drimbox.toml, /etc/drimbox/drimbox.toml)."
    ),
]


def run(app: typer.Typer, arguments: Sequence[str] | None = None) -> None:
    """Run a command; what it raises for its user is one line and exit status 1. Raises SystemExit.

    `arguments`: those of this process if not given.
    """
    try:
        app(arguments)
    except (ConfigurationError, NoConfiguration, UnusableCredential, DrimboxError) as error:
        sys.stderr.write(f"drimbox: {error}\n")
        sys.exit(1)


def main() -> None:
    """Entry of a program that is a door."""
    run(doors)


@doors.command()
def serve(config: ConfigOption = None) -> None:
    """All doors and the worker, supervised, in one terminal; SIGTERM stops cleanly."""
    from drimbox.entrypoints.supervisor import Supervisor

    share_arenas()
    path = find_configuration(config)
    settings = _settings(path, "serve")
    require_membership(settings)
    prepare(settings).database.close()
    for name in PROGRAMS:  # once for all of them
        import_module(name)
    raise typer.Exit(Supervisor(path, enter).run())


def enter(door: str, config: Path) -> int:
    """Be that door, in a process that was forked for it; the exit status."""
    try:
        run(doors, [door, "--config", str(config)])
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


@doors.command()
def dicom(config: ConfigOption = None) -> None:
    """The DICOM door: C-ECHO, C-STORE."""
    from drimbox.entrypoints.dicom import serve_dicom

    _run("dicom", config, serve_dicom)


@doors.command()
def mllp(config: ConfigOption = None) -> None:
    """The HL7v2 door (MLLP): imaging reports."""
    from drimbox.entrypoints.hl7 import serve_hl7

    _run("mllp", config, serve_hl7)


@doors.command()
def web(config: ConfigOption = None) -> None:
    """The HTTP doors: WADO-RS for partners (public, TLS), reports of the department (internal)."""
    from drimbox.entrypoints.web import serve_web

    _run("web", config, serve_web)


@doors.command()
def worker(config: ConfigOption = None) -> None:
    """Reconciles what changed and sends what is prepared."""
    from drimbox.entrypoints.worker import AnotherWorker, run_worker

    try:
        _run("worker", config, run_worker)
    except AnotherWorker as error:
        sys.stderr.write(f"drimbox: {error}\n")
        raise typer.Exit(1) from error


def _settings(path: Path, process: str) -> Settings:
    settings = load_settings(path)
    logs.configure(settings.log.level, settings.log.format, process)
    return settings


def prepare(settings: Settings) -> Foundation:
    """Stores opened, schema at its newest revision. Raises `DatabaseNewer`, `Unavailable`."""
    settings.storage.root.mkdir(parents=True, exist_ok=True)
    foundation = lay_foundation(settings)
    try:
        foundation.database.migrate()
    except DrimboxError:
        foundation.database.close()
        raise
    return foundation


def _numbers(foundation: Foundation, process: str) -> AbstractContextManager[None]:
    """What the process tells `/metrics`; each child of `web`, which forks, has its own."""
    from drimbox.entrypoints.meter_keeping import keep_meters

    return nullcontext() if process == "web" else keep_meters(foundation, process)


def _run(process: str, config: Path | None, serve_process: Callable[[Foundation], None]) -> None:
    share_arenas()
    keep_no_words()
    sys.setswitchinterval(SWITCH_SECONDS)
    os.nice(GIVES_WAY.get(process, 0))
    foundation = prepare(_settings(find_configuration(config), process))
    try:
        with _numbers(foundation, process):
            serve_process(foundation)
    finally:
        foundation.database.close()
