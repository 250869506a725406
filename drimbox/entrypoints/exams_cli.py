"""`drimbox exams`: what is known of exams, for people and for programs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from drimbox.bootstrap import Foundation, utc_now
from drimbox.entrypoints.configuration import open_stores
from drimbox.entrypoints.listing import instant_of, print_json, print_lines
from drimbox.entrypoints.progress_bar import steps
from drimbox.flow import exam_list, exams

exams_app = typer.Typer(help="What is known of exams.", no_args_is_help=True)

SHOWN = 100  # exams, where people read and nothing else was asked

ConfigOption = Annotated[Path | None, typer.Option(help="Configuration file.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ReasonOption = Annotated[str, typer.Option(help="Why; kept in the trace.")]
StateOption = Annotated[
    str | None,
    typer.Option(help="RECEIVING, SETTLED, WITHDRAWN; or published, doubtful, refused, parked, thinner..."),
]
StudyArgument = Annotated[str, typer.Argument(help="Study Instance UID.")]


@exams_app.command("list")
def list_exams(
    state: StateOption = None,
    since: Annotated[
        str | None, typer.Option(help="Changed since: 2h, 3d, or a date (2026-11-20, 2026-11-20T08:00).")
    ] = None,
    patient_free: Annotated[
        bool, typer.Option("--patient-free", help="Only exams without a patient: no report names them yet.")
    ] = False,
    limit: Annotated[
        int | None, typer.Option(min=0, help=f"At most so many; 0 = all. {SHOWN} without --json, else all.")
    ] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Exams, newest change first."""
    most = (None if as_json else SHOWN) if limit is None else limit or None
    with open_stores(config) as foundation:
        since_when = (
            None if since is None else instant_of(since, utc_now(), foundation.settings.policy.time_zone)
        )
        rows = exam_list.list_exams(
            foundation.transactions, state, since=since_when, without_patient=patient_free, limit=most
        )
        if as_json:
            print_json(rows)
        elif print_lines(rows) == SHOWN and limit is None:
            typer.echo(f"the first {SHOWN}; more with --limit (0 = all)", err=True)


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
def release_exams(
    studies: Annotated[list[str] | None, typer.Argument(help="Study Instance UIDs.")] = None,
    state: Annotated[
        str | None, typer.Option(help="Every exam that waits like this: parked, refused, thinner...")
    ] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Try again now what was parked or refused, or waits to be sent; let a thinner manifest go."""
    if bool(studies) == bool(state):
        raise typer.BadParameter("name the exams, or give --state", param_hint="STUDY")
    with open_stores(config) as foundation:
        chosen = studies or [
            row["study_instance_uid"] for row in exam_list.list_exams(foundation.transactions, state)
        ]
        released, failed = _release(foundation, chosen)
    if as_json:
        typer.echo(json.dumps({"released": released} | ({"failed": failed} if failed else {})))
    elif released:
        typer.echo(f"released: {', '.join(released)}")
    elif not failed:
        typer.echo(f"no exam is {state}: nothing to release")
    for why in failed.values():
        typer.echo(f"drimbox: {why}", err=True)
    raise typer.Exit(1 if failed else 0)


def _release(foundation: Foundation, studies: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """What was released, and why an exam was not, by study; one that fails holds up no other."""
    released: list[str] = []
    failed: dict[str, str] = {}
    with steps("releasing", len(studies)) as done:
        for study in studies:
            try:
                given = exams.release_exam(foundation.transactions, study, now=utc_now(), actor="operator")
                released += given or [study]
            except exams.UnknownExam as error:
                failed[study] = _unknown(error)
            except exams.NothingToRelease as error:
                failed[study] = _nothing(error)
            done()
    return released, failed


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


def _unknown(error: Exception) -> str:
    return f"no exam {error} is known here"


def _nothing(error: Exception) -> str:
    return f"nothing of {error} waits for an operator"


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except exams.UnknownExam as error:
        typer.echo(f"drimbox: {_unknown(error)}", err=True)
        raise typer.Exit(1) from error
    except exams.NothingToRelease as error:
        typer.echo(f"drimbox: {_nothing(error)}", err=True)
        raise typer.Exit(1) from error
