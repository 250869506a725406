"""The whole database as one file, as it was at one instant, and back again.

SQLite: its backup API; PostgreSQL: pg_dump (custom format) under the snapshot of a transaction, in which the rows are
read too: what the file holds and what is said of it are the same instant.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import NullPool, create_engine, func, inspect, select, text
from sqlalchemy.engine import Connection, make_url
from sqlalchemy.orm import Session

from dicom_store import index_segments
from dicom_store.index import InstanceRow
from drimbox.adapters.database import Database, translated
from drimbox.adapters.tables import trace_table
from drimbox.flow.backup_plan import BackupRefused, Facts


@dataclass(frozen=True, slots=True)
class DatabaseSnapshot:
    """A database in the file `path`, of `size` bytes. `ends`: what its rows need of each segment, in bytes."""

    path: Path
    size: int
    facts: Facts
    ends: Mapping[str, int]


def engine_of(url: str) -> str:
    """`sqlite` or `postgresql`."""
    return make_url(url).get_backend_name()


def database_size(database: Database) -> int:
    """Bytes that it takes now: no snapshot is larger. Raises `Unavailable`."""
    statements = {
        "sqlite": "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()",
        "postgresql": "SELECT pg_database_size(current_database())",
    }
    with database.reading() as session:
        return int(session.scalar(text(statements[database.engine.dialect.name])) or 0)


def take_snapshot(database: Database, url: str, path: Path) -> DatabaseSnapshot:
    """Write a file that is not there yet. Raises `Unavailable`, `BackupRefused`, OSError."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    take = _from_sqlite if engine_of(url) == "sqlite" else _from_postgresql
    return take(database, url, path)


def _from_sqlite(_database: Database, url: str, path: Path) -> DatabaseSnapshot:
    try:
        with closing(sqlite3.connect(sqlite_file(url))) as source, closing(sqlite3.connect(path)) as target:
            source.backup(target)  # in one step: the instant at which it begins
    except sqlite3.Error as error:
        raise BackupRefused(f"the database cannot be copied: {error}") from error
    return describe_sqlite(path)


def immutable_sqlite(path: Path) -> sqlite3.Connection:
    """A database that nobody writes, also on a medium that cannot be written. Raises `sqlite3.Error`."""
    return sqlite3.connect(f"file:{quote(str(path))}?mode=ro&immutable=1", uri=True)


def describe_sqlite(path: Path) -> DatabaseSnapshot:
    """What a database holds that nobody writes. Raises `Unavailable` when it cannot be read."""
    made = create_engine(
        "sqlite://", creator=lambda: immutable_sqlite(path), poolclass=NullPool, hide_parameters=True
    )
    with translated(), made.connect() as connection:
        return _described(connection, path)


def _from_postgresql(database: Database, url: str, path: Path) -> DatabaseSnapshot:
    with translated(), database.engine.connect() as opened:
        connection = opened.execution_options(isolation_level="REPEATABLE READ")
        name = connection.scalar(text("SELECT pg_export_snapshot()"))
        _run("pg_dump", url, "--format=custom", f"--snapshot={name}", f"--file={path}")
        return _described(connection, path)


def _described(connection: Connection, path: Path) -> DatabaseSnapshot:
    with Session(connection) as session:
        return DatabaseSnapshot(
            path, path.stat().st_size, _facts(connection), index_segments.known_ends(session)
        )


def _facts(connection: Connection) -> Facts:
    return Facts(
        connection.dialect.name,
        connection.scalar(text("SELECT version_num FROM alembic_version")) or "",
        connection.scalar(select(func.count()).select_from(InstanceRow)) or 0,
        connection.scalar(select(func.max(trace_table.c.id))) or 0,
    )


def present_facts(url: str) -> Facts | None:
    """What is in a database; None when it holds no table. Raises `Unavailable`, `BackupRefused` for a strange one."""
    if engine_of(url) == "sqlite" and not Path(sqlite_file(url)).exists():
        return None  # and none is made by looking
    database = Database(url)
    try:
        with database.reading() as session:
            tables = inspect(session.connection()).get_table_names()
            if tables and not {"alembic_version", "dicom_instance", "trace"} <= set(tables):
                raise BackupRefused("the database holds something else than an appliance's rows")
            return _facts(session.connection()) if tables else None
    finally:
        database.close()


def restore_database(url: str, source: Path) -> None:
    """Fill an empty database from the file of a snapshot, at once or not at all. Raises `BackupRefused`, OSError."""
    if engine_of(url) != "sqlite":
        _run(
            "pg_restore",
            url,
            "--single-transaction",
            "--exit-on-error",
            "--no-owner",
            "--no-acl",
            str(source),
        )
        return
    path = Path(sqlite_file(url))
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.new")
    aside.unlink(missing_ok=True)
    shutil.copyfile(source, aside)
    with aside.open("rb") as file:
        aside.chmod(0o600)
        os.fsync(file.fileno())
    for left in ("-wal", "-shm"):  # of the empty file that goes
        path.with_name(path.name + left).unlink(missing_ok=True)
    aside.replace(path)


def sqlite_file(url: str) -> str:
    """The file of an SQLite database. Raises `BackupRefused` when it is in memory."""
    found = make_url(url).database
    if not found or found == ":memory:":
        raise BackupRefused("a database in memory has no backup")
    return found


def _run(program: str, url: str, *arguments: str) -> None:
    """A program of PostgreSQL on the database of a URL; its password is in no list of processes."""
    path = shutil.which(program)
    if path is None:
        raise BackupRefused(f"{program} is not installed (Debian: apt install postgresql-client)")
    target = make_url(url)
    environment: dict[str, Any] = {**os.environ}
    if target.password:
        environment["PGPASSWORD"] = str(target.password)
    plain = target.set(drivername="postgresql", password=None).render_as_string()
    done = subprocess.run(  # noqa: S603 a program of the system, arguments of ours
        [path, "--no-password", f"--dbname={plain}", *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise BackupRefused(f"{program} failed: {said[0] if said else done.returncode}")
