"""`drimbox backup`, `backup-check` and `restore`: the whole appliance in a directory, proven, and back."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from dicom_store.verification import Pace
from drimbox.adapters.backup_pool import BackupPool
from drimbox.adapters.backup_source import BackupSource
from drimbox.adapters.database import known_revisions
from drimbox.adapters.restored_root import RestoredDatabase, RestoredRoot
from drimbox.adapters.snapshot_contents import SnapshotReader
from drimbox.bootstrap import Foundation, database_url, lay_foundation, utc_now
from drimbox.domain.errors import Unavailable
from drimbox.entrypoints.command_failures import Words, told
from drimbox.entrypoints.configuration import find_configuration, open_stores
from drimbox.entrypoints.progress_bar import bar
from drimbox.entrypoints.verify_cli import as_json as verified_as_json
from drimbox.entrypoints.verify_cli import lines as verified_lines
from drimbox.entrypoints.verify_cli import make_verifying
from drimbox.flow.backup import BackingUp, Made
from drimbox.flow.backup_check import Checking, Fault, age_fault, made_at
from drimbox.flow.backup_plan import BackupRefused, Manifest
from drimbox.flow.exams import stamp
from drimbox.flow.restore import Restoring, note_restored
from drimbox.flow.verify_storage import Progress
from drimbox.settings.whole import Settings, load_settings

ACTOR = "operator"
MEGABYTE = 1_000_000
SHOWN = 100  # faults told one by one
FAILURES: Words = {
    **dict.fromkeys((BackupRefused, Unavailable, OSError), str),
    KeyboardInterrupt: lambda _: "stopped; the next run goes on from here",
}
DirectoryArgument = Annotated[Path, typer.Argument(help="Directory of the backups.")]
ConfigOption = Annotated[Path | None, typer.Option(help="Configuration file.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def backup(
    directory: DirectoryArgument,
    keep: Annotated[
        int | None, typer.Option(min=1, help="Remove all but the newest N runs, and what only they need.")
    ] = None,
    rate: Annotated[
        float, typer.Option(min=0, help="Megabytes read per second at most; 0 = as fast as it goes.")
    ] = 0.0,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Database, images, documents, lists and proofs, while the appliance runs; only what is new is copied.

    Exit 1 when something could not be copied that should be here.
    """
    with open_stores(config) as foundation, told(FAILURES):
        _check_place(directory, foundation)
        pace = Pace(rate * MEGABYTE)
        with BackupPool(directory, is_new=True) as pool, bar("backup") as shown:
            made = _backing_up(foundation, pool, pace, shown.begin, shown.done).run(keep)
    typer.echo(json.dumps(asdict(made)) if as_json else _said(made))
    for name in made.lost:
        typer.echo(f"lost: {name} (drimbox verify)", err=True)
    if made.lost:
        raise typer.Exit(1)


def backup_check(
    directory: DirectoryArgument,
    at: Annotated[str | None, typer.Option(help="The run to check; the newest by default.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Names and sizes alone; no hash is computed.")
    ] = False,
    max_age: Annotated[
        float | None, typer.Option(min=0, help="Hours that the run may be old; any age by default.")
    ] = None,
    rate: Annotated[
        float, typer.Option(min=0, help="Megabytes read per second at most; 0 = as fast as it goes.")
    ] = 0.0,
    as_json: JsonOption = False,
) -> None:
    """Could this backup be restored? Every file and hash, the database in it, every image that it names.

    Needs no configuration and writes nothing. Exit 1 with every fault.
    """
    pace = Pace(rate * MEGABYTE)
    with told(FAILURES), BackupPool(directory) as pool, bar("backup-check") as shown:
        manifest = pool.manifest(at or _newest(pool, directory))
        most = None if max_age is None else timedelta(hours=max_age)
        too_old = age_fault(manifest.run, utc_now(), most)

        def spent(size: int) -> None:
            shown.done(size)
            pace(size)

        faults = Checking(pool, SnapshotReader(pool), known_revisions(), shown.begin, spent).faults(
            manifest, hashed=not quick
        )
    faults += [too_old] if too_old else []
    typer.echo(
        json.dumps(_checked_as_json(manifest, faults, quick)) if as_json else _checked_said(manifest, faults)
    )
    for fault in faults[:SHOWN]:
        typer.echo(f"{fault.name}: {fault.reason}", err=True)
    if len(faults) > SHOWN:
        typer.echo(f"and {len(faults) - SHOWN} more (--json has all)", err=True)
    if faults:
        raise typer.Exit(1)


def restore(
    directory: DirectoryArgument,
    at: Annotated[str | None, typer.Option(help="The run to restore; the newest by default.")] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """A backup into an empty storage root and an empty database, then `verify`; goes on where it was stopped."""
    settings = load_settings(find_configuration(config))
    with told(FAILURES), BackupPool(directory) as pool:
        manifest = pool.manifest(at or _newest(pool, directory))
        root = _restored(settings, pool, manifest)
        progress = _checked(settings, manifest)
        root.end()
    if as_json:
        restored = {"run": manifest.run, "files": len(manifest.files), "bytes": manifest.size}
        typer.echo(json.dumps(restored | {"lost": manifest.lost, "verify": verified_as_json(progress)}))
    else:
        typer.echo(
            "\n".join([f"{manifest.run}: {len(manifest.files)} files restored", *verified_lines(progress)])
        )
    if progress.lost:
        raise typer.Exit(1)


def _backing_up(
    foundation: Foundation,
    pool: BackupPool,
    pace: Callable[[int], None],
    begin: Callable[[int], None],
    done: Callable[[int], None],
) -> BackingUp:
    settings = foundation.settings
    source = BackupSource(settings.storage.root, foundation.database, database_url(settings), pool, pace)
    return BackingUp(foundation.transactions, source, pool, utc_now, ACTOR, version("drimbox"), begin, done)


def _check_place(directory: Path, foundation: Foundation) -> None:
    root = foundation.settings.storage.root.resolve()
    if directory.resolve().is_relative_to(root):
        raise BackupRefused(f"a backup under storage.root ({root}) is lost with it: give another directory")
    current, newest = foundation.database.revision()
    if current != newest:
        raise BackupRefused(
            f"the database is of revision {current}, this program of {newest}: start the appliance once"
        )


def _newest(pool: BackupPool, directory: Path) -> str:
    if not (runs := pool.runs()):
        raise BackupRefused(f"no backup in {directory} came to its end")
    return runs[-1]


def _checked_as_json(manifest: Manifest, faults: list[Fault], quick: bool) -> dict[str, object]:
    return {
        "run": manifest.run,
        "made_at": stamp(made_at(manifest.run)),
        "age_seconds": round((utc_now() - made_at(manifest.run)).total_seconds()),
        "program": manifest.program,
        "database": asdict(manifest.facts),
        "files": len(manifest.files),
        "bytes": manifest.size,
        "hashed": not quick,
        "whole": not faults,
        "faults": [asdict(fault) for fault in faults],
    }


def _checked_said(manifest: Manifest, faults: list[Fault]) -> str:
    hours = (utc_now() - made_at(manifest.run)).total_seconds() / 3600
    held = f"{len(manifest.files)} files of {manifest.size} bytes, {manifest.facts.instances} images"
    return f"{manifest.run}: {hours:.1f} hours old, {held}; {f'{len(faults)} faults' if faults else 'whole'}"


def _restored(settings: Settings, pool: BackupPool, manifest: Manifest) -> RestoredRoot:
    place, url = settings.storage.root, database_url(settings)
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    root = RestoredRoot(place, url, pool, lambda _: None)
    with bar("restore") as shown:
        checking = Checking(pool, SnapshotReader(pool), known_revisions())
        database = RestoredDatabase(url, root.files)
        Restoring(root, database, checking, shown.begin, shown.done).run(manifest)
    return root


def _checked(settings: Settings, manifest: Manifest) -> Progress:
    """The schema of this program, and every image read again."""
    foundation = lay_foundation(settings)
    with closing(foundation.database):
        foundation.database.migrate()
        note_restored(foundation.transactions, manifest, clock=utc_now, actor=ACTOR)
        return make_verifying(foundation, 0, lambda _: None, quiet=False).everything(Progress())


def _said(made: Made) -> str:
    removed = f"; {len(made.removed)} older runs removed, {made.freed} bytes freed" if made.removed else ""
    copied = f"{made.copied} files of {made.copied_bytes} bytes copied"
    return f"{made.run}: {made.files} files of {made.bytes} bytes, {copied}{removed}"
