"""A database in a backup, read without a server: SQLite as it is, a dump of PostgreSQL by pg_restore."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO

from dicom_store.segment_record import HEADER
from drimbox.adapters.backup_pool import BackupPool
from drimbox.adapters.database_snapshot import DatabaseSnapshot, describe_sqlite, immutable_sqlite
from drimbox.domain.errors import Unavailable
from drimbox.flow.backup_plan import BackupRefused, Facts, KeptFile

_COPY = b"COPY "  # begins the rows of a table in the script that pg_restore writes
_END = b"\\."
_NULL = b"\\N"
_TABLES = ("alembic_version", "dicom_instance", "trace")


class SnapshotReader:
    """Reads what `database_snapshot.take_snapshot` wrote, from a pool."""

    def __init__(self, pool: BackupPool) -> None:
        self._pool = pool

    def contents(self, kept: KeptFile, engine: str, *, thorough: bool) -> DatabaseSnapshot:
        """What it holds, and proves it. `thorough`: SQLite compares its indexes with its rows as well.

        Raises `BackupRefused` when it cannot be read, or is damaged.
        """
        path = self._pool.path(kept.sha256)
        if engine == "sqlite":
            _prove_sqlite(path, thorough)
            try:
                return describe_sqlite(path)
            except Unavailable as error:
                raise BackupRefused(f"the database in the backup cannot be read: {error}") from error
        return _read_dump(path)


def _prove_sqlite(path: Path, thorough: bool) -> None:
    try:
        with closing(immutable_sqlite(path)) as connection:
            said = connection.execute(
                f"PRAGMA {'integrity_check' if thorough else 'quick_check'}"
            ).fetchone()[0]
    except sqlite3.Error as error:
        raise BackupRefused(f"the database in the backup cannot be read: {error}") from error
    if said != "ok":
        raise BackupRefused("the database in the backup is damaged (PRAGMA integrity_check)")


def _read_dump(path: Path) -> DatabaseSnapshot:
    revision, instances, newest, ends = "", 0, 0, dict[str, int]()
    with _script(path) as lines:
        for table, row in _rows(lines):
            if table == "alembic_version":
                revision = row["version_num"].decode("ascii")
            elif table == "trace":
                newest = max(newest, int(row["id"]))
            else:
                instances += 1
                segment, end = row["segment"].decode("ascii"), _end_of(row)
                ends[segment] = max(end, ends.get(segment, 0))
    return DatabaseSnapshot(path, path.stat().st_size, Facts("postgresql", revision, instances, newest), ends)


def _end_of(row: Mapping[str, bytes]) -> int:
    """As `index_segments.known_ends`."""
    length = row["metadata_length"]
    metadata = 0 if length == _NULL else HEADER.size + int(length)
    return int(row["payload_offset"]) + int(row["payload_length"]) + metadata


@contextmanager
def _script(path: Path) -> Iterator[IO[bytes]]:
    """The rows of the tables that are looked at, as SQL. Raises `BackupRefused` when the dump is not whole."""
    program = shutil.which("pg_restore")
    if program is None:
        raise BackupRefused("pg_restore is not installed (Debian: apt install postgresql-client)")
    tables = [f"--table={table}" for table in _TABLES]
    with (
        tempfile.TemporaryFile() as said,
        subprocess.Popen(  # noqa: S603 a program of the system, arguments of ours
            [program, "--data-only", *tables, "--file=-", str(path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=said,
        ) as process,
    ):
        assert process.stdout is not None
        try:
            yield process.stdout
        except (KeyError, ValueError) as error:
            raise BackupRefused("the database in the backup is not that of an appliance") from error
        finally:
            process.stdout.close()
            status = process.wait()
        said.seek(0)
        words = said.read(1000).decode("utf-8", "replace").strip().splitlines()
        if status:
            raise BackupRefused(f"pg_restore failed: {words[0] if words else status}")


def _rows(lines: Iterable[bytes]) -> Iterator[tuple[str, Mapping[str, bytes]]]:
    """(table, its columns) of every row, in the text format of COPY: no newline and no tab stands in a value."""
    table, names = "", list[str]()
    for line in lines:
        text = line.rstrip(b"\n")
        if table and text == _END:
            table = ""
        elif table:
            yield table, dict(zip(names, text.split(b"\t"), strict=True))
        elif text.startswith(_COPY):
            head, _, columns = text.decode("utf-8").removeprefix("COPY ").partition(" (")
            table = head.rpartition(".")[2]
            names = [name.strip('"') for name in columns.partition(")")[0].split(", ")]
