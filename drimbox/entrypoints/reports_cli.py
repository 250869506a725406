"""`drimbox reports`: what entered by the report doors, why it was refused, and once more after a fix.

Exit 0 done, 1 refused, 2 wrong usage. Patient data goes to the files that --content and --cda name, nowhere else.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from drimbox.bootstrap import make_inbox_purging, make_reception, make_senders, utc_now
from drimbox.domain.cda_document import MAX_BYTES
from drimbox.domain.errors import DrimboxError
from drimbox.domain.violations import errors
from drimbox.entrypoints.configuration import open_stores
from drimbox.flow import inbox
from drimbox.flow.check_report import CheckedReport, SeveralMessages, check_report
from drimbox.flow.receive_report import CDA
from drimbox.settings.organisation import PolicySettings

ACTOR = "operator"
MAX_FILE_BYTES = 2 * MAX_BYTES  # a CDA grows by a third in its message

reports_app = typer.Typer(help="What entered by the report doors.", no_args_is_help=True)

ConfigOption = Annotated[Path | None, typer.Option(help="Configuration file.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
IdArgument = Annotated[str, typer.Argument(help="Id of the message, or the start of it.")]


@reports_app.command("list")
def list_reports(
    refused: Annotated[bool, typer.Option("--refused", help="Only what was refused.")] = False,
    study: Annotated[str | None, typer.Option(help="Only this Study Instance UID.")] = None,
    document: Annotated[str | None, typer.Option(help="Only this CDA id, as root^extension.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 50,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Every message that entered, newest first, with its verdict."""
    with open_stores(config) as foundation, _failures():
        rows = inbox.list_messages(
            foundation.transactions, refused=refused, study=study, document=document, limit=limit
        )
    if as_json:
        typer.echo(json.dumps(rows, ensure_ascii=False))
        return
    Console().print(_table(rows))


@reports_app.command("show")
def show_report(
    message: IdArgument,
    content: Annotated[
        Path | None, typer.Option(help="Write the bytes as received to this new file (patient data).")
    ] = None,
    cda: Annotated[Path | None, typer.Option(help="Write the CDA to this new file (patient data).")] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Why a message was refused and what to do, what was answered, what became of it."""
    with open_stores(config) as foundation, _failures():
        stores = foundation.transactions, foundation.documents
        shown = inbox.show_message(*stores, message)
        for file, is_cda in ((content, False), (cda, True)):
            if file is not None:
                _write_private(file, inbox.content_of(*stores, message, cda=is_cda))
    if as_json:
        typer.echo(json.dumps(shown, ensure_ascii=False))
        return
    for line in _lines(shown):
        typer.echo(line)


@reports_app.command("replay")
def replay_report(message: IdArgument, as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """Submit a refused message again, as if it came now from the same sender. Exit 1 when it is refused again.

    A message that was accepted is not submitted again: its acknowledgement is shown, nothing changes.
    """
    with open_stores(config) as foundation, _failures():
        senders = make_senders(foundation.settings)
        done = inbox.replay_message(make_reception(foundation), message, senders, utc_now())
    if as_json:
        typer.echo(json.dumps(done, ensure_ascii=False))
    else:
        for line in _replay_lines(done):
            typer.echo(line)
    if done["verdict"] != "AA":
        _refuse(f"refused again: {done['reason']} (drimbox reports show {done['short']})")


@reports_app.command("check")
def check(
    file: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="An HL7v2 message (framed or not), or a CDA.")
    ],
    as_json: JsonOption = False,
) -> None:
    """Every violation of a report in a file, with its clause; needs no configuration. Exit 1 when one is an error."""
    if file.stat().st_size > MAX_FILE_BYTES:
        _refuse(f"{file}: longer than {MAX_FILE_BYTES} bytes")
    try:
        checked = check_report(file.read_bytes(), time_zone=PolicySettings.model_fields["time_zone"].default)
    except SeveralMessages as error:
        _refuse(f"{file}: {error}")
    found, wrong = [asdict(violation) for violation in checked.violations], errors(checked.violations)
    if as_json:
        body = {"kind": checked.kind, "errors": len(wrong), "violations": found}
        typer.echo(json.dumps(body, ensure_ascii=False))
    else:
        for line in _violation_lines(found):
            typer.echo(line)
        typer.echo(_count(checked, len(wrong)))
    if wrong:
        _refuse(f"{file}: would be refused")


@reports_app.command("purge")
def purge(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done; write nothing.")
    ] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Delete the bytes of messages older than inbox.keep_days; verdict, answer and accepted CDA stay."""
    with open_stores(config) as foundation, _failures():
        purging = make_inbox_purging(foundation, ACTOR)
        done = purging.plan() if dry_run else purging.run()
    if as_json:
        typer.echo(json.dumps({"dry_run": dry_run, **asdict(done)}))
        return
    if purging.keep is None:
        typer.echo("drimbox: inbox.keep_days is 0: messages are kept for ever", err=True)
    words = "would be deleted" if dry_run else "deleted"
    typer.echo(f"{done.messages} messages: {done.documents} documents {words}")


def _table(rows: Iterable[dict[str, Any]]) -> Table:
    names = ("from", "kind", "verdict", "studies", "replay of")
    fixed = (Column("id", no_wrap=True), Column("received", min_width=len("2026-01-01")))
    table = Table(*fixed, *(Column(name, overflow="fold") for name in names))
    for row in rows:
        cells = (
            row["short"],
            f"{row['received_at'][:10]} {row['received_at'][11:19]}Z",
            f"{row['door']} {row['sender'] or row['peer']}",
            row["kind"],
            f"{row['verdict']} {row['code'] or ''}",
            "\n".join(row["studies"]),
            (row["replay_of"] or "")[:8],
        )
        table.add_row(*map(Text, cells))  # as text: a message may not bring markup of its own
    return table


def _lines(shown: dict[str, Any]) -> Iterator[str]:
    sender = f", sender {shown['sender']}" if shown["sender"] else ""
    rows = {
        "message": shown["id"],
        "received": f"{shown['received_at']} by {shown['door']} from {shown['peer']}{sender}",
        "kind": f"{shown['kind'] or 'unreadable'}, MSH-10 {shown['control_id'] or 'none'}",
        "verdict": f"{shown['verdict']} {shown['code'] or ''}".rstrip(),
        "reason": shown["reason"],
        "to do": shown["todo"]["advice"],
        "document": shown["document_id"],
        "studies": ", ".join(shown["studies"]),
        "report": _report_line(shown["report"]),
        "content": _stored_line(shown["content"], shown["purged_at"]),
        "cda": _stored_line(shown["cda"], shown["purged_at"]),
        "replay of": shown["replay_of"],
        "replayed": ", ".join(f"{one['short']} {one['verdict']}" for one in shown["replays"]),
    }
    yield from (f"{name:<10}{value}" for name, value in rows.items() if value)
    yield from _violation_lines(shown["violations"])
    yield from _answer_lines(shown)


def _report_line(report: dict[str, Any] | None) -> str:
    if report is None:
        return ""
    replaced = f", replaced by {report['replaced_by']}" if report["replaced_by"] else ""
    version = f"version {report['version']} ({report['operation']})"
    return f"{report['document_id']} {version}, {report['state'].lower()}{replaced}"


def _stored_line(stored: dict[str, Any] | None, purged_at: str | None) -> str:
    if stored is None:
        return ""
    if stored["kept"]:
        return f"{stored['sha256']}, {stored['bytes']} bytes, kept"
    return f"{stored['sha256']}, " + (
        f"deleted on {purged_at}" if purged_at else "MISSING or changed on disk"
    )


def _violation_lines(violations: Iterable[dict[str, Any]]) -> Iterator[str]:
    for one in violations:
        place = f"{one['where']}: " if one["where"] else ""
        yield f"{one['severity']}: {place}{one['message']} [{one['rule']}; {one['clause']}]"


def _answer_lines(row: dict[str, Any]) -> Iterator[str]:
    if row["acknowledgement"] is not None:
        segments = row["acknowledgement"].rstrip("\r").split("\r")
        yield from (f"{'' if number else 'answer':<10}{text}" for number, text in enumerate(segments))
    elif row["kind"] == CDA:
        yield f"{'answer':<10}by HTTP, without an acknowledgement"
    else:
        yield f"{'answer':<10}none: this message is never answered"


def _replay_lines(done: dict[str, Any]) -> Iterator[str]:
    if not done["submitted"]:
        yield f"nothing was submitted: the message was accepted as {done['short']}"
    yield f"{'message':<10}{done['id']}"
    yield f"{'verdict':<10}{done['verdict']} {done['code'] or ''}".rstrip()
    yield from _answer_lines(done)


def _count(checked: CheckedReport, wrong: int) -> str:
    return f"{checked.kind}: {wrong} errors, {len(checked.violations) - wrong} warnings"


def _write_private(file: Path, data: bytes) -> None:
    """A new file that only its owner reads; raises FileExistsError rather than overwrite one."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as opened:
        opened.write(data)


def _refuse(reason: str) -> NoReturn:
    typer.echo(f"drimbox: {reason}", err=True)
    raise typer.Exit(1)


@contextmanager
def _failures() -> Iterator[None]:
    """What stops a command: said in one line, exit 1."""
    try:
        yield
    except inbox.UnknownMessage as error:
        _refuse(f"no message {error} is known here")
    except inbox.AmbiguousMessage as error:
        _refuse(f"several messages begin with {error}: give more of the id")
    except FileExistsError as error:
        _refuse(f"{error.filename} exists: give a new file")
    except OSError as error:
        _refuse(f"{error.filename}: {error.strerror}")
    except (inbox.NotKept, inbox.NotReplayable, DrimboxError) as error:
        _refuse(str(error))
