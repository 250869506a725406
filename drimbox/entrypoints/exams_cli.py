"""`drimbox exams`: what is known of exams, for people and for programs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table

from drimbox.bootstrap import utc_now
from drimbox.entrypoints.configuration import open_stores
from drimbox.flow import exams

exams_app = typer.Typer(help="What is known of exams.", no_args_is_help=True)

ConfigOption = Annotated[Path | None, typer.Option(help="Configuration file.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ReasonOption = Annotated[str, typer.Option(help="Why; kept in the trace.")]
StudyArgument = Annotated[str, typer.Argument(help="Study Instance UID.")]


@exams_app.command("list")
def list_exams(
    state: Annotated[
        str | None,
        typer.Option(
            help="RECEIVING, SETTLED, WITHDRAWN; or published, doubtful, refused, parked, thinner..."
        ),
    ] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Every exam, newest change first."""
    with open_stores(config) as foundation:
        rows = exams.list_exams(foundation.transactions, state)
    if as_json:
        typer.echo(json.dumps(rows, ensure_ascii=False))
        return
    table = Table(Column("study", overflow="fold"), "state", "manifest", "reason", "changed")
    for row in rows:
        table.add_row(
            row["study_instance_uid"], row["state"], row["manifest"], row["reason"] or "", row["changed_at"]
        )
    Console().print(table)


@exams_app.command("show")
def show_exam(study: StudyArgument, as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """All that is known of one exam, and why it is not published."""
    with open_stores(config) as foundation, _refusals():
        exam = exams.show_exam(
            foundation.transactions, foundation.documents, study, foundation.settings.policy.time_zone
        )
    if as_json:
        typer.echo(json.dumps(exam, ensure_ascii=False))
        return
    for line in _lines(exam):
        typer.echo(line)


@exams_app.command("trace")
def trace_exam(study: StudyArgument, as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """Everything that happened to one exam, oldest first."""
    with open_stores(config) as foundation, _refusals():
        events = exams.trace_exam(foundation.transactions, study)
    if as_json:
        typer.echo(json.dumps(events, ensure_ascii=False))
        return
    table = Table("at", "event", "from", "to", "actor", "detail")
    for event in events:
        detail = json.dumps(event["detail"], ensure_ascii=False)
        table.add_row(event["at"], event["event"], event["from"], event["to"], event["actor"], detail)
    Console().print(table)


@exams_app.command("release")
def release_exam(study: StudyArgument, as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """Try again now what was parked or refused, or waits to be sent; let a thinner manifest go."""
    with open_stores(config) as foundation, _refusals():
        released = exams.release_exam(foundation.transactions, study, now=utc_now(), actor="operator")
    said = f"released: {', '.join(released) or study}"
    typer.echo(json.dumps({"released": released or [study]}) if as_json else said)


@exams_app.command("withdraw")
def withdraw_exam(study: StudyArgument, reason: ReasonOption, config: ConfigOption = None) -> None:
    """Take the exam out of the DMP; partners are refused at once."""
    with open_stores(config) as foundation, _refusals():
        exams.withdraw_exam(foundation.transactions, study, now=utc_now(), actor="operator", reason=reason)
    typer.echo("withdrawn: the manifest will be unpublished, partners are refused from now on")


@exams_app.command("restore")
def restore_exam(study: StudyArgument, reason: ReasonOption, config: ConfigOption = None) -> None:
    """Let an exam that was withdrawn be public again."""
    with open_stores(config) as foundation, _refusals():
        exams.restore_exam(foundation.transactions, study, now=utc_now(), actor="operator", reason=reason)
    typer.echo("restored: the exam will be published again if nothing else speaks against it")


def _lines(exam: dict[str, Any]) -> Iterator[str]:
    manifest, patient = exam["manifest"], exam["patient"]
    yield f"study     {exam['study_instance_uid']}"
    yield f"state     {exam['state']}, {exam['instances']} instances in {exam['series']} series"
    yield (
        f"patient   {patient['name']} (INS {patient['ins']}, {patient['oid']})"
        if patient
        else "patient   unknown: no report yet"
    )
    for report in exam["reports"]:
        visibility = " ".join(report["confidentiality"])
        yield f"report    {report['id']} version {report['version']} ({report['operation']}), {visibility}"
    yield f"manifest  {manifest['status']}" + (f" since {manifest['since']}" if manifest["since"] else "")
    if manifest["sop_instance_uid"]:
        yield f"          KOS {manifest['sop_instance_uid']}, entry {manifest['entry_uuid'] or 'not known yet'}"
    if manifest.get("error"):
        yield f"          {manifest['error']}"
    if exam["reason"]:
        yield f"reason    {exam['reason']}"


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except exams.UnknownExam as error:
        typer.echo(f"drimbox: no exam {error} is known here", err=True)
        raise typer.Exit(1) from error
    except exams.NothingToRelease as error:
        typer.echo(f"drimbox: nothing of {error} waits for an operator", err=True)
        raise typer.Exit(1) from error
