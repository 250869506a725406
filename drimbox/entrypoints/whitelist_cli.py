"""`drimbox whitelist`: retrieve, show, verify any file, import by hand, prove."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from drimbox.adapters import logs
from drimbox.adapters.key_files import UnusableCredential
from drimbox.bootstrap import utc_now
from drimbox.entrypoints.anchors import NoAnchors, read_anchors, read_crls
from drimbox.entrypoints.configuration import open_stores
from drimbox.entrypoints.whitelist_keeping import Done, Keeping, held, make_keeping
from whitelist import trust
from whitelist.bundle import bundle
from whitelist.chain import Anchors, Crls
from whitelist.durable import Oversized, read_bounded
from whitelist.fetch import MAX_LIST_BYTES
from whitelist.xades_signer import ProofRefused

whitelist_app = typer.Typer(help="The ANS whitelist of the mesh.", no_args_is_help=True)
ACTOR = "operator"
_STYLES = {"held": "green", "warned": "yellow", "failed": "bold red", "skipped": "dim"}

ConfigOption = Annotated[Path | None, typer.Option(help="Configuration file.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@whitelist_app.command("refresh")
def refresh(as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """Retrieve and verify the list now; exit 1 when that gave no usable list."""
    with _keeping(config) as keeping:
        done = keeping.refresh(force=True)
    _tell(done, as_json)


@whitelist_app.command("import")
def import_list(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A signed list.")],
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Accept a list brought by hand, verified as a retrieved one."""
    with _keeping(config) as keeping:
        done = keeping.import_file(file)
    _tell(done, as_json)


@whitelist_app.command("show")
def show(as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """State, age, alert, our entry, the list in force, the next retrieval."""
    with _keeping(config) as keeping:
        known = keeping.keeper.status()
    if as_json:
        typer.echo(json.dumps(known, ensure_ascii=False))
        return
    for name, value in known.items():
        typer.echo(f"{name:<14}{_words(value)}")


@whitelist_app.command("verify")
def verify(
    file: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="Any file that should be a list.")
    ],
    at: Annotated[str | None, typer.Option(help="Judge at this instant: 2025-08-10, or ISO 8601.")] = None,
    anchors: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help="Directory with the root and intermediate certificates (PEM or DER) and, if any, their CRLs "
            "(*.crl); else those of the configuration.",
        ),
    ] = None,
    environment: Annotated[
        str, typer.Option(help="With --anchors: test or production, of IGC Santé.")
    ] = "test",
    crl: Annotated[
        str | None,
        typer.Option(
            help="require = without CRL the list is unusable; prefer = a warning. Default: the setting; "
            "with --anchors prefer."
        ),
    ] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """The numbered steps on any file, each with its result; exit 1 when the list is not accepted."""
    instant = _instant(at)
    try:
        candidate = read_bounded(file, MAX_LIST_BYTES)
    except Oversized as error:
        _fail(f"{file}: {error}")
    if anchors is not None:
        pinned, crls = _given(anchors, environment, crl or "prefer")
    else:
        with _keeping(config) as keeping:
            pinned, crls = keeping.anchors, keeping.crls.current()
    report = trust.examine(candidate, pinned, crls, at=instant)
    if as_json:
        typer.echo(json.dumps(report.as_dict(), ensure_ascii=False))
    else:
        _print_report(report)
    raise typer.Exit(0 if report.accepted else 1)


@whitelist_app.command("prove")
def prove(
    out: Annotated[Path, typer.Option(help="Directory, or file in .zip, of the homologation file.")] = Path(),
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """One zip for the homologation: the list in force, the report of its verification, proof, certificates, CRLs."""
    with _keeping(config) as keeping:
        path = _bundle(keeping, out)
    typer.echo(json.dumps({"file": str(path)}) if as_json else str(path))


def _bundle(keeping: Keeping, out: Path) -> Path:
    loaded = keeping.keeper.cache.load(keeping.anchors)
    if loaded is None or loaded.report is None or loaded.kept.list_file is None:
        _fail("no list was ever accepted: drimbox whitelist refresh")
    candidate = (keeping.directory / "lists" / loaded.kept.list_file).read_bytes()
    report = loaded.report
    ours, theirs = keeping.proof_of(report.sha256)
    crls = keeping.crls.current()
    if ours is None:
        report = trust.examine(candidate, keeping.anchors, crls, at=utc_now())
        ours = keeping.prove(candidate, report)
    certificates = [c for c in (report.signer, keeping.anchors.intermediate, keeping.anchors.root) if c]
    return bundle(out, candidate, report, ours, certificates, held(crls), their_proof=theirs)


def _given(directory: Path, environment: str, policy: str) -> tuple[Anchors, Crls]:
    if environment not in ("test", "production"):
        raise typer.BadParameter("test or production", param_hint="--environment")
    if policy not in ("require", "prefer"):
        raise typer.BadParameter("require or prefer", param_hint="--crl")
    kind: Literal["test", "production"] = "test" if environment == "test" else "production"
    try:
        pinned = read_anchors(directory, kind, "require" if policy == "require" else "prefer")
        return pinned, read_crls(directory, pinned)
    except NoAnchors as error:
        _fail(str(error))


def _tell(done: Done, as_json: bool) -> None:
    refreshed = done.refreshed
    error = refreshed.error
    said = {
        "outcome": refreshed.outcome.value if refreshed.outcome else None,
        "before": refreshed.state_before.value,
        "after": refreshed.state_after.value,
        "error": {"code": error.code, "reason": error.reason} if error else None,
        "list": refreshed.list_file,
        "proof": str(done.proof) if done.proof else None,
        "warnings": list(refreshed.warnings),
        "report": refreshed.report.as_dict() if refreshed.report else None,
    }
    if as_json:
        typer.echo(json.dumps(said, ensure_ascii=False))
    else:
        typer.echo(f"{said['outcome'] or 'not tried'}: {said['before']} -> {said['after']}")
        if refreshed.report is not None:
            _print_report(refreshed.report)
        for warning in refreshed.warnings:
            typer.echo(f"warning: {warning}")
        if done.proof:
            typer.echo(f"proof: {done.proof}")
    if error is not None:
        _fail(f"{error.code}: {error.reason}")


def _print_report(report: trust.Report) -> None:
    table = Table("step", "what", "result", Column("why", overflow="fold"))
    for step in report.steps:
        result = Text(step.outcome.value, style=_STYLES[step.outcome.value])
        table.add_row(str(step.number), Text(step.title), result, Text(step.why))
    Console().print(table)
    verdict = "accepted" if report.accepted else "refused"
    typer.echo(f"{verdict} at {report.at:%Y-%m-%d %H:%M:%S}Z; sha256 {report.sha256}")


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {one}" for name, one in value.items() if one is not None)
    if isinstance(value, list):
        return "; ".join(map(_words, value)) or "-"
    return "-" if value is None else str(value)


def _instant(text: str | None) -> datetime:
    if text is None:
        return utc_now()
    try:
        found = datetime.fromisoformat(text)
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise typer.BadParameter(f"no date: {text}", param_hint="--at") from error


@contextmanager
def _keeping(config: Path | None) -> Iterator[Keeping]:
    with open_stores(config) as foundation:
        room = foundation.settings.log
        # on standard error: what is asked for stands alone
        logs.configure(room.level, room.format, "whitelist")
        try:
            yield make_keeping(foundation, ACTOR)
        except (UnusableCredential, ProofRefused, OSError) as error:
            _fail(str(error))


def _fail(reason: str) -> NoReturn:
    typer.echo(f"drimbox: {reason}", err=True)
    raise typer.Exit(1)
