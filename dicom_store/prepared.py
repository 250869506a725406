"""Statements that every instance needs, made and compiled once, run by the driver itself.

What SQLAlchemy does around a statement (cache keys, contexts, result objects) costs five times what SQLite does in
it. The statement is still SQLAlchemy's: the same text, types and errors, on every engine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from sqlalchemy import Dialect, Executable
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session
from sqlalchemy.sql.compiler import SQLCompiler

_CONNECTION = "prepared.connection"  # in the `info` of a session

_Convert = Callable[[Any], Any] | None


class Prepared:
    """`statement`: of tables, not of mapped classes; `columns`: those that an INSERT gets values for."""

    def __init__(
        self, statement: Executable | Callable[[str], Executable], columns: Sequence[str] | None = None
    ) -> None:
        self._statement = statement
        self._columns = columns
        self._forms: dict[str, _Form] = {}

    def rows(self, session: Session, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """Run it under the transaction of a session, in which nothing is pending; what it returns, if it does.

        Raises the errors that SQLAlchemy would raise.
        """
        connection = _connection_of(session)
        form = self._forms.get(connection.dialect.name)
        if form is None:
            form = self._forms[connection.dialect.name] = self._form(connection.dialect)
        return form.run(connection, values)

    def _form(self, dialect: Dialect) -> _Form:
        statement = self._statement
        if not isinstance(statement, Executable):
            statement = statement(dialect.name)
        return _Form(dialect, statement.compile(dialect=dialect, column_keys=self._columns))  # type: ignore[attr-defined]


def run_plain(connection: Connection, text: str) -> None:
    """Run a statement without values or result. Raises the errors that SQLAlchemy would raise."""
    cursor = connection.connection.cursor()
    try:
        cursor.execute(text)
    except Exception as error:
        raise _as_sqlalchemy(connection, text, error) from error
    finally:
        cursor.close()


def _connection_of(session: Session) -> Connection:
    """That of the transaction at hand: asked for once in it, since asking costs more than a statement."""
    transaction = session.get_nested_transaction() or session.get_transaction()
    known = session.info.get(_CONNECTION)
    if known is not None and known[0] is transaction:
        return cast(Connection, known[1])
    connection = session.connection()
    begun = session.get_nested_transaction() or session.get_transaction()
    session.info[_CONNECTION] = begun, connection
    return connection


class _Form:
    """A statement for one engine."""

    def __init__(self, dialect: Dialect, compiled: SQLCompiler) -> None:
        self._text = str(compiled)
        processors = cast(Mapping[str, Callable[[Any], Any]], compiled._bind_processors)
        names = compiled.positiontup if compiled.positional else list(compiled.binds)
        self._in = [(name, processors.get(name)) for name in names or ()]
        self._names = [name for name, _ in self._in]
        self._positional = compiled.positional
        self._fixed = {name: bind.value for name, bind in compiled.binds.items() if bind.value is not None}
        types = [entry.type for entry in compiled._result_columns]
        self._out = [one.dialect_impl(dialect).result_processor(dialect, None) for one in types]
        self._converts = any(self._out)

    def run(self, connection: Connection, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        given = {**self._fixed, **values} if self._fixed else values
        bound = [given[name] if convert is None else convert(given[name]) for name, convert in self._in]
        cursor = connection.connection.cursor()
        try:
            cursor.execute(
                self._text, bound if self._positional else dict(zip(self._names, bound, strict=True))
            )
            found = cast(list[tuple[Any, ...]], cursor.fetchall() if self._out else [])
        except Exception as error:
            raise _as_sqlalchemy(connection, self._text, error) from error
        finally:
            cursor.close()
        return [self._read(row) for row in found] if self._converts else found

    def _read(self, row: Sequence[Any]) -> tuple[Any, ...]:
        pairs = zip(row, self._out, strict=True)
        return tuple(value if convert is None else convert(value) for value, convert in pairs)


def _as_sqlalchemy(connection: Connection, text: str, error: Exception) -> Exception:
    dialect = connection.dialect
    drivers = dialect.loaded_dbapi.Error
    if not isinstance(error, drivers):
        return error
    lost = dialect.is_disconnect(error, connection.connection.dbapi_connection, None)
    if lost:
        connection.invalidate(error)
    return DBAPIError.instance(
        text, None, error, drivers, hide_parameters=True, connection_invalidated=lost, dialect=dialect
    )
