"""The queries of the public door: where manifests stand, and the rows of its retrievals. Many rows at once."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any, TypeVar, cast

from sqlalchemy import Dialect, insert, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from drimbox.adapters.database import Database
from drimbox.adapters.tables import exam_table, submission_table, trace_table
from drimbox.domain.access import Standing
from drimbox.domain.errors import Unavailable
from drimbox.domain.lifecycle import SubmissionState
from drimbox.flow.records import Note
from drimbox.flow.retrievals import EVENTS, FORBIDDEN

_EXAM, _TRACE = exam_table.c, trace_table.c
T = TypeVar("T")
Row = tuple[Any, ...]
_CHUNK = 500  # values in one IN (...)
CLOSE_SECONDS = 1.0
_KEPT = 1000  # rows remembered
# One statement: what it says held at one instant. As text, for it is asked thousands of times a second.
_STANDINGS = """
SELECT lot.kos_uid, lot.study_instance_uid, lot.state, lot.since, lot.kos, exam.revision, exam.withdrawn_by,
  EXISTS (SELECT 1 FROM submission AS other WHERE other.study_instance_uid = lot.study_instance_uid
    AND other.state = 'REGISTERED' AND other.kind <> 'unpublish' AND other.id <> lot.id)
FROM submission AS lot LEFT JOIN exam ON exam.study_instance_uid = lot.study_instance_uid
WHERE lot.kos_uid IN ({})
"""


class ServingQueries:
    """Under the caller's session; nothing is committed."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def standings(self, kos_uids: Collection[str]) -> Mapping[str, Standing]:
        """Where manifests stand, by SOP Instance UID; those that are not ours are left out."""
        connection = self._session.connection()
        statement = _statement(connection.dialect, len(kos_uids))
        rows = connection.exec_driver_sql(statement, tuple(kos_uids))
        return {row[0]: _standing(connection.dialect, tuple(row)) for row in rows}

    def known_studies(self, studies: Collection[str]) -> set[str]:
        """Those of `studies` of which something was ever received."""
        column = _EXAM.study_instance_uid
        return {
            study
            for chunk in _chunks(studies)
            for study in self._session.scalars(select(column).where(column.in_(chunk)))
        }

    def recorded(self, instants: Collection[datetime]) -> set[str]:
        """The `record` of the retrievals that are in the trace already, of those instants."""
        query = select(_TRACE.detail).where(_TRACE.event.in_((*EVENTS, FORBIDDEN)))
        return {
            str(detail.get("record"))
            for chunk in _chunks(set(instants))
            for detail in self._session.scalars(query.where(_TRACE.at.in_(chunk)))
        }

    def add_notes(self, notes: Sequence[Note]) -> None:
        """Insert rows of the trace."""
        if notes:
            self._session.execute(insert(trace_table), [note._asdict() for note in notes])


class Standings:
    """Where manifests stand, outside of any transaction: one statement that waits for no writer.

    On a connection of its own, made at the first use; safe for threads.
    """

    def __init__(self, database: Database) -> None:
        self._engine = database.engine
        self._lock = threading.Lock()
        self._connection: Any = None
        self._known: dict[str, tuple[Row, Standing]] = {}
        self._watch: sqlite3.Connection | None = None

    def version(self) -> int | None:
        """A number that is another one after every commit; None when only asking tells (PostgreSQL, a fault).

        For one thread, which it never keeps waiting: SQLite reads it from shared memory.
        """
        if self._engine.dialect.name != "sqlite":
            return None
        try:
            if self._watch is None:
                path = self._engine.url.database or ""
                self._watch = sqlite3.connect(path, timeout=0, check_same_thread=False, isolation_level=None)
            return int(self._watch.execute("PRAGMA data_version").fetchone()[0])
        except sqlite3.Error:
            return None

    def __call__(self, kos_uids: Collection[str]) -> Mapping[str, Standing]:
        """As `ServingQueries.standings`. Raises `Unavailable`; a connection that was lost is made anew."""
        dialect = self._engine.dialect
        with self._lock:
            rows = self._rows(_statement(dialect, len(kos_uids)), tuple(kos_uids))
            found = {}
            for row in rows:
                known = self._known.get(row[0])
                if known is None or known[0] != row:
                    known = self._remember(row, _standing(dialect, row))
                found[row[0]] = known[1]
            return found

    def close(self) -> None:
        """Close the connections, unless a call hangs on one."""
        self._stop_watching()
        if self._lock.acquire(timeout=CLOSE_SECONDS):
            try:
                self._drop()
            finally:
                self._lock.release()

    def _rows(self, statement: str, values: Row) -> list[Row]:
        errors = self._engine.dialect.loaded_dbapi.Error
        if self._connection is not None:
            try:
                return self._execute(statement, values)
            except errors:
                self._drop()
        try:
            self._connection = self._connect()
            return self._execute(statement, values)
        except (DBAPIError, errors) as error:
            self._drop()
            # neither statement nor values are told
            raise Unavailable(f"the database cannot be used now: {type(error).__name__}") from error

    def _connect(self) -> Any:
        pooled = self._engine.raw_connection()
        pooled.detach()
        connection = pooled.dbapi_connection
        if self._engine.dialect.name != "sqlite":  # where every connection is so (`database`)
            connection.autocommit = True  # type: ignore[union-attr]
        return connection

    def _execute(self, statement: str, values: Row) -> list[Row]:
        cursor = self._connection.cursor()
        try:
            cursor.execute(statement, values)
            rows: list[Row] = cursor.fetchall()
            return rows
        finally:
            cursor.close()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _stop_watching(self) -> None:
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.close()

    def _remember(self, row: Row, standing: Standing) -> tuple[Row, Standing]:
        if len(self._known) >= _KEPT:
            self._known.clear()
        self._known[row[0]] = (row, standing)
        return row, standing


@cache
def _statement(dialect: Dialect, values: int) -> str:
    mark = "?" if dialect.paramstyle == "qmark" else "%s"
    return _STANDINGS.format(", ".join([mark] * values))


@cache
def _since(dialect: Dialect) -> Callable[[Any], datetime]:
    """Reads `submission.since` as the driver gives it."""
    read = submission_table.c.since.type.dialect_impl(dialect).result_processor(dialect, None)
    return cast(Callable[[Any], datetime], read)


def _standing(dialect: Dialect, row: Row) -> Standing:
    _, study, state, since, kos, revision, withdrawn_by, succeeded = row
    known_since = _since(dialect)(since)
    return Standing(
        study, SubmissionState(state), known_since, kos or "", revision or 0, withdrawn_by, bool(succeeded)
    )


def _chunks(values: Collection[T]) -> Iterator[list[T]]:
    every = list(values)
    return (every[start : start + _CHUNK] for start in range(0, len(every), _CHUNK))
