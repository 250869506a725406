"""Whether a database can be relied on: its revision, its tables against those of the code, its settings, its file.

Nothing is written. `drimbox db check` prints what is found, fault by fault.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DatabaseError

from dicom_store.index import Base as ImagesBase
from drimbox.adapters.database import MIGRATIONS, Database, known_revisions, require_known, translated
from drimbox.adapters.tables import metadata
from drimbox.domain.errors import DatabaseNewer

UPGRADE = "run `drimbox db upgrade`"
SETTINGS = ("fsync", "full_page_writes", "synchronous_commit")  # of PostgreSQL


@dataclass(frozen=True, slots=True)
class Revision:
    """One step of the schema, and what it brought."""

    number: str
    title: str


@dataclass(frozen=True, slots=True)
class Rule:
    """A value of a PostgreSQL setting that endangers what was acknowledged. `fault`: else a warning."""

    setting: str
    value: str
    words: str
    fault: bool = True


# https://www.postgresql.org/docs/current/runtime-config-wal.html
RULES = (
    Rule("fsync", "off", "a crash of the machine may destroy the whole database"),
    Rule("full_page_writes", "off", "a power cut may leave pages half written"),
    Rule(
        "synchronous_commit",
        "off",
        "commits are answered before they are durable; those of drimbox are not, whatever the server says",
        fault=False,
    ),
)


@dataclass
class Findings:
    """What was found. `integrity`: SQLite's own word, None on PostgreSQL; `settings`: as the server has them."""

    engine: str
    revision: str | None = None
    newest: str = ""
    pending: list[Revision] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)
    settings: dict[str, str] = field(default_factory=dict)
    integrity: str | None = None
    faults: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def pending(current: str | None) -> list[Revision]:
    """The revisions that `Database.migrate` would apply, in order. Raises `DatabaseNewer`."""
    require_known(current)
    return [Revision(one, _title(one)) for one in known_revisions() if current is None or one > current]


def examine(database: Database) -> Findings:
    """Look at everything that can be looked at. Raises `Unavailable` when there is nobody to ask."""
    findings = Findings(database.engine.dialect.name)
    try:
        findings.revision, findings.newest = database.revision()
        with translated(), database.engine.execution_options(reading=True).connect() as connection:
            for look in (_revision, _tables, _settings, _file):
                look(connection, findings)
    except DatabaseError as error:  # a file that is no database, or is damaged
        findings.faults.append(f"it cannot be read: {error.orig}")
    return findings


def judge_settings(found: Mapping[str, str]) -> Iterator[tuple[Rule, str]]:
    """The rules that these settings break, each with its words."""
    for rule in RULES:
        if found.get(rule.setting) == rule.value:
            yield rule, f"PostgreSQL has {rule.setting} = {rule.value}: {rule.words}"


def _revision(_: Connection, findings: Findings) -> None:
    try:
        findings.pending = pending(findings.revision)
    except DatabaseNewer as error:
        findings.faults.append(str(error))
        return
    if findings.revision is None:
        findings.faults.append(f"there are no tables yet: {UPGRADE}, or start a door")
    elif findings.pending:
        findings.faults.append(f"it is {len(findings.pending)} revisions behind: {UPGRADE}")


def _tables(connection: Connection, findings: Findings) -> None:
    if findings.revision != findings.newest:
        return
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    for tables in (metadata, ImagesBase.metadata):
        ours = _ours(tables.tables)
        context = MigrationContext.configure(connection, opts={"include_name": ours})
        findings.differences += [_words(one) for one in compare_metadata(context, tables)]
    findings.faults += [f"the tables are not those of the code: {one}" for one in findings.differences]


def _ours(tables: Mapping[str, Any]) -> Callable[..., bool]:
    """Other tables of the same database are nobody's business here."""
    return lambda name, kind, _parents: kind != "table" or name in tables


def _settings(connection: Connection, findings: Findings) -> None:
    if findings.engine != "postgresql":
        return
    # reset_val: what sessions get that do not ask for more, as ours do
    query = text("SELECT name, reset_val FROM pg_settings WHERE name = ANY(:names)")
    rows = connection.execute(query, {"names": list(SETTINGS)})
    findings.settings = {str(row.name): str(row.reset_val) for row in rows}
    for rule, words in judge_settings(findings.settings):
        (findings.faults if rule.fault else findings.warnings).append(words)


def _file(connection: Connection, findings: Findings) -> None:
    if findings.engine != "sqlite":
        return
    said = connection.execute(text("PRAGMA quick_check(20)")).scalars().all()
    findings.integrity = "; ".join(map(str, said))
    if findings.integrity != "ok":
        findings.faults.append(f"the file is damaged: {findings.integrity}; restore a backup")


def _title(revision: str) -> str:
    """The first line of its docstring."""
    (script,) = MIGRATIONS.glob(f"versions/{revision}_*.py")
    return (ast.get_docstring(ast.parse(script.read_text("utf-8"))) or "").partition("\n")[0]


def _words(difference: Any) -> str:
    """One difference of alembic: what would have to be done, and to what."""
    if isinstance(difference, list):  # of one column
        return "; ".join(map(_words, difference))
    what, *about = difference
    names = [str(getattr(one, "name", one)) for one in about if isinstance(one, str) or hasattr(one, "name")]
    return f"{what.replace('_', ' ')} {'.'.join(names)}"
