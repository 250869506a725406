"""`drimbox backup` and `drimbox restore`: the whole appliance in a directory, and back."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from dicom_store.verification import Pace
from drimbox.adapters.backup_pool import BackupPool
from drimbox.adapters.backup_source import BackupSource
from drimbox.adapters.restored_root import RestoredDatabase, RestoredRoot
from drimbox.bootstrap import Foundation, lay_foundation, utc_now
from drimbox.domain.errors import Unavailable
from drimbox.entrypoints.command_failures import Words, told
from drimbox.entrypoints.configuration import find_configuration, open_stores
from drimbox.entrypoints.progress_bar import bar
from drimbox.entrypoints.verify_cli import as_json as verified_as_json
from drimbox.entrypoints.verify_cli import lines as verified_lines
from drimbox.entrypoints.verify_cli import make_verifying
from drimbox.flow.backup import BackingUp, Made
from drimbox.flow.backup_plan import BackupRefused, Manifest
from drimbox.flow.restore import Restoring, note_restored
from drimbox.flow.verify_storage import Progress
from drimbox.settings import Settings, load_settings

ACTOR = "operator"
MEGABYTE = 1_000_000
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
    source = BackupSource(settings.storage.root, foundation.database, settings.database.url, pool, pace)
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


def _restored(settings: Settings, pool: BackupPool, manifest: Manifest) -> RestoredRoot:
    place, url = settings.storage.root, settings.database.url
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    root = RestoredRoot(place, url, pool, lambda _: None)
    with bar("restore") as shown:
        Restoring(root, RestoredDatabase(url, root.files), shown.begin, shown.done).run(manifest)
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
