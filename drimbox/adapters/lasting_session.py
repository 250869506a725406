"""One session for many transactions: what arrives comes by the thousand, and each has a transaction of its own."""

from __future__ import annotations

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from dicom_store.prepared import run_plain


class LastingSession(Session):
    """A session of SQLite for many transactions, whose beginning and end are said to the database alone.

    For SQLAlchemy all of them are one, in which nothing is remembered from one to the next.
    """

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine, expire_on_commit=False)

    def open(self) -> None:
        """Begin; others of this process wait for the `_turn` before."""
        run_plain(self.connection(), "BEGIN IMMEDIATE")

    def commit(self) -> None:
        """As every commit; raises what SQLAlchemy would."""
        self.flush()
        run_plain(self.connection(), "COMMIT")

    def end(self) -> None:
        """Roll back what was not committed, and forget."""
        if self.connection().connection.in_transaction:
            run_plain(self.connection(), "ROLLBACK")
        self.expunge_all()
