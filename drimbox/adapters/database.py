"""The engine, its transactions and its migrations: SQLite in WAL mode, or PostgreSQL by URL; same code.

A commit is durable when it returns (`synchronous=FULL`): doors answer success only after it. But rows of instances
that arrive (`arriving`) are in their synced segments already: SQLite syncs those with what is committed next, and
after a power cut the segments give them again (`flow.receive_instance.readmit_instance`). Writing
transactions take SQLite's write lock at once (BEGIN IMMEDIATE), so that none fails half way; reading ones never.
The threads of one process queue for it here: SQLite lets those who wait sleep and ask again.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import DateTime, Dialect, Engine, TypeDecorator, create_engine, event, inspect, text
from sqlalchemy.engine import Connection, make_url
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError
from sqlalchemy.orm import Session

from dicom_store.prepared import run_plain
from drimbox.adapters.lasting_session import LastingSession
from drimbox.domain.errors import DatabaseNewer, Unavailable

MIGRATIONS = Path(__file__).parent / "migrations"
READING = "reading"  # in the `info` of a session
_MIGRATING = 0x4452494D  # of the advisory lock: "DRIM"
_LOCKED_OUT = (
    "30s"  # a change of a table that waits for a long reader holds up all who come after it: not for long
)
# A server that hears nothing more of a node gives up its locks within half a minute, not after hours.
_NODE_LOST = {
    "tcp_keepalives_idle": 10,
    "tcp_keepalives_interval": 5,
    "tcp_keepalives_count": 3,
}  # s, s, count
# A PostgreSQL server that does not answer any more is an error within seconds (libpq: s, s, s, count, ms).
_SERVER_LOST = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}


class UtcDateTime(TypeDecorator[datetime]):
    """An aware datetime, kept in UTC on engines that know no zone (SQLite)."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.replace(tzinfo=UTC)


def with_password(url: str, password: bytes) -> str:
    """The address with that password, which is not to be shown. Raises ValueError when it is no UTF-8."""
    return make_url(url).set(password=password.decode("utf-8")).render_as_string(hide_password=False)


class Database:
    """Opens sessions. `busy_timeout` in seconds: how long to wait for a lock before `Unavailable`."""

    def __init__(self, url: str, busy_timeout: float = 30.0) -> None:
        self.engine = _engine(url, busy_timeout)
        self._reading = _for_readers(self.engine)
        self._log: Path | None = None  # SQLite's write-ahead log
        self._arriving: Engine | None = None
        if self.engine.dialect.name == "sqlite":
            self._log = Path(f"{self.engine.url.database}-wal")
            self._arriving = _sqlite_engine(url, busy_timeout, "NORMAL")
        self._lasting: LastingSession | None = None  # of those that arrive, under `_writer`
        self._busy_timeout = busy_timeout
        self._writer = threading.Lock() if self.engine.dialect.name == "sqlite" else None

    def close(self) -> None:
        """Close every connection."""
        if self._arriving is not None:
            with self._turn():
                self._part()
            self._arriving.dispose()
        self.engine.dispose()

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A session whose transaction rolls back unless committed. Raises `Unavailable` when locked or full."""
        with self._turn(), translated(), Session(self.engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def arriving(self) -> Iterator[Session]:
        """As `writing`; what it commits is durable after `harden`, or the next commit of `writing`, on SQLite.

        One session for all of them, while none fails: to open and to end one costs more than the rows of an instance.
        """
        if self._arriving is None:
            with self.writing() as session:
                yield session
            return
        with self._turn(), translated():
            try:
                self._lasting = self._lasting or LastingSession(self._arriving)
                self._lasting.open()
                yield self._lasting
                self._lasting.end()
            except BaseException:
                self._part()
                raise

    def _part(self) -> None:
        lasting, self._lasting = self._lasting, None
        if lasting is not None:
            lasting.close()

    def harden(self) -> None:
        """Whatever any process committed before is durable when this returns. Raises OSError."""
        if (
            self._log is None or not self._log.exists()
        ):  # without a log, all of it is in the database file, synced
            return
        descriptor = os.open(self._log, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A session that only reads, sees one instant, and never waits for a writer: no query of it takes a lock."""
        with translated(), Session(self._reading, expire_on_commit=False, info={READING: True}) as session:
            yield session

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if self._writer is None:
            yield
            return
        if not self._writer.acquire(timeout=self._busy_timeout):
            raise Unavailable("the database cannot be used now: other threads of this process write")
        try:
            yield
        finally:
            self._writer.release()

    def migrate(
        self, applied: Callable[[str], object] = str, waiting: Callable[[], object] = lambda: None
    ) -> None:
        """Bring the schema to the newest revision: all of the way, or nothing is changed.

        `applied` hears each revision, before the commit; `waiting` that somebody else migrates now. Raises
        `DatabaseNewer`, and `Unavailable` when the database cannot be used.
        """
        current, newest = self.revision()
        if current == newest:
            return
        require_known(current)
        from alembic import command  # 10 MB that a door whose schema is current does without
        from alembic.config import Config

        with translated(), self.engine.begin() as connection:
            self._take_turn(connection, waiting)
            require_known(_revision(connection))  # somebody newer may have been before us
            config = Config()
            config.set_main_option("script_location", str(MIGRATIONS))
            config.attributes |= {"connection": connection, "applied": applied}
            command.upgrade(config, "head")

    def _take_turn(self, connection: Connection, waiting: Callable[[], object]) -> None:
        """Several doors and nodes start at once: one migrates. SQLite's BEGIN IMMEDIATE has done the same."""
        if self._writer is not None:
            return
        key = {"key": _MIGRATING}
        if not connection.scalar(text("SELECT pg_try_advisory_xact_lock(:key)"), key):
            waiting()
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), key)
        connection.execute(text(f"SET LOCAL lock_timeout = '{_LOCKED_OUT}'"))

    def revision(self) -> tuple[str | None, str]:
        """(revision of the database, newest revision known): equal when `migrate` has run."""
        with translated(), self._reading.connect() as connection:
            return _revision(connection), known_revisions()[-1]


def known_revisions() -> list[str]:
    """Every revision that this program knows, oldest first."""
    return sorted(script.name.split("_")[0] for script in MIGRATIONS.glob("versions/[0-9]*_*.py"))


def require_known(current: str | None) -> None:
    """Raises `DatabaseNewer` for a revision that is none of ours. None: there are no tables yet."""
    known = known_revisions()
    if current is not None and current not in known:
        raise DatabaseNewer(
            f"the database is at revision {current}, this program knows none after {known[-1]}: start the version that "
            "made it (or a newer one), or restore a backup of before"
        )


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    current: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return current


@contextmanager
def translated() -> Iterator[None]:
    """Errors of the driver that mean "not now" become `Unavailable`."""
    try:
        yield
    except OperationalError as error:
        raise Unavailable(f"the database cannot be used now: {_first_line(error)}") from error
    except IntegrityError as error:
        raise Unavailable("another process wrote the same row at the same time") from error
    except DBAPIError as error:
        if error.connection_invalidated:
            raise Unavailable("the connection to the database was lost") from error
        raise


def _first_line(error: DBAPIError) -> str:
    # The statement and its parameters may hold patient data: only the driver's own words are kept.
    return str(error.orig).splitlines()[0] if error.orig else "unknown error"


def _engine(url: str, busy_timeout: float) -> Engine:
    if make_url(url).get_backend_name() != "sqlite":
        engine = create_engine(url, pool_pre_ping=True, hide_parameters=True, connect_args=_SERVER_LOST)
        event.listen(engine, "connect", _configure_postgresql)
        return engine
    engine = _sqlite_engine(url, busy_timeout, "FULL")
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _sqlite_engine(url: str, busy_timeout: float, synchronous: str) -> Engine:
    engine = create_engine(url, connect_args={"timeout": busy_timeout}, hide_parameters=True)
    event.listen(engine, "connect", partial(_configure_sqlite, synchronous))
    return engine


def _configure_sqlite(synchronous: str, connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # the driver must not begin transactions by itself
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", f"synchronous={synchronous}", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _configure_postgresql(connection: Any, _record: Any) -> None:
    """A server may be set to answer a commit before it is durable: never to us. What is stricter stays."""
    connection.autocommit = True  # a setting of a transaction that is rolled back would go with it
    with connection.cursor() as cursor:
        cursor.execute("SHOW synchronous_commit")
        if cursor.fetchone()[0] == "off":
            cursor.execute("SET SESSION synchronous_commit = on")
        for name, value in _NODE_LOST.items():
            cursor.execute(f"SET SESSION {name} = {value}")
    connection.autocommit = False


def _for_readers(engine: Engine) -> Engine:
    """With the same instant for every statement of a transaction: so SQLite does it, PostgreSQL when it is asked to."""
    if engine.dialect.name == "sqlite":
        return engine.execution_options(reading=True)
    return engine.execution_options(isolation_level="REPEATABLE READ")


def _begin_sqlite(connection: Connection) -> None:
    reading = connection.get_execution_options().get("reading", False)
    run_plain(connection, "BEGIN" if reading else "BEGIN IMMEDIATE")
