"""One transaction over two declarative bases: the ledger of the product and the index of the images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session, SessionTransaction

from dicom_store.archive import Archive, StoredInstance
from dicom_store.index_notes import Rejected
from dicom_store.instance import InstanceHeader
from dicom_store.rejection import RejectionNote
from dicom_store.status import Outcome
from dicom_store.study import KeyImageNote, StudySnapshot
from drimbox.adapters.database import Database, translated
from drimbox.adapters.duty_queries import DutyQueries
from drimbox.adapters.health_queries import HealthQueries
from drimbox.adapters.inbox_queries import InboxQueries
from drimbox.adapters.ledger import SqlLedger
from drimbox.adapters.lot_queries import LotQueries
from drimbox.adapters.retention_queries import RetentionQueries
from drimbox.adapters.serving_queries import ServingQueries
from drimbox.adapters.storage_queries import StorageQueries
from drimbox.adapters.trace_queries import TraceQueries
from drimbox.domain.errors import TransactionLost


class SqlImages:
    """The image index under the caller's session."""

    def __init__(self, session: Session, archive: Archive) -> None:
        self._session = session
        self._archive = archive

    def recognise(self, incoming: Any) -> Outcome | None:
        """DUPLICATE when this very data set is kept already, None when it is new; raises `StoreRefused`."""
        return self._archive.recognise(self._session, incoming)

    def knows(self, sop_instance_uid: str) -> bool:
        """Whether there is a row of that instance."""
        return self._archive.find(self._session, sop_instance_uid) is not None

    def index(
        self, header: InstanceHeader, stored: Any, note: RejectionNote | KeyImageNote | None
    ) -> tuple[Outcome, bool]:
        """Insert the row; (outcome, whether the row is new).

        Raises `StoreRefused` when the SOP Instance UID is taken by something else.
        """
        return self._archive.add(self._session, header, stored, note)

    def reject(self, note: RejectionNote, at: datetime) -> Rejected:
        """Hide what a rejection note names, also what comes later; the same note again changes nothing."""
        return self._archive.reject(self._session, note, at)

    def snapshot(self, study: str) -> StudySnapshot | None:
        """The study as stored, or None."""
        return self._archive.snapshot(self._session, study)

    def retrieve(self, study: str, series: str | None, sop: str | None) -> Sequence[StoredInstance]:
        """Where the instances of a study, series or one instance lie."""
        return self._archive.retrieve(self._session, study, series, sop)


class SqlTransaction:
    """Ledger and images under one session."""

    def __init__(self, session: Session, archive: Archive) -> None:
        self._session = session
        self.ledger = SqlLedger(session)
        self.lots = LotQueries(session)
        self.serving = ServingQueries(session)
        self.inbox = InboxQueries(session)
        self.traces = TraceQueries(session)
        self.health = HealthQueries(session)
        self.images = SqlImages(session, archive)
        self.storage = StorageQueries(session, archive)
        self.retention = RetentionQueries(session)
        self.duties = DutyQueries(session)

    def commit(self) -> None:
        """Make everything durable at once."""
        self._session.commit()

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """What fails inside is undone alone. Raises `TransactionLost` when all that came before went with it."""
        try:
            nested = self._session.begin_nested()
        except Exception as error:
            raise TransactionLost(f"no savepoint: {type(error).__name__}") from error
        try:
            with translated():
                yield
                nested.commit()
        except BaseException:
            self._undo(nested)
            raise

    def _undo(self, nested: SessionTransaction) -> None:
        """SQLite undoes a whole transaction by itself when the disk fails; a lost connection does, too."""
        try:
            if nested.is_active:
                nested.rollback()
            lost = self._session.connection().invalidated
        except Exception as error:
            raise TransactionLost(f"no way back to the savepoint: {type(error).__name__}") from error
        if lost:
            raise TransactionLost("the connection to the database was lost")


class SqlTransactions:
    """Opens transactions on a database and an archive."""

    def __init__(self, database: Database, archive: Archive) -> None:
        self._database = database
        self._archive = archive

    @contextmanager
    def writing(self) -> Iterator[SqlTransaction]:
        """A transaction that may write; rolls back unless committed."""
        with self._database.writing() as session:
            yield SqlTransaction(session, self._archive)

    @contextmanager
    def arriving(self) -> Iterator[SqlTransaction]:
        """The same; what it commits is durable after `harden`, or the next commit of `writing`."""
        with self._database.arriving() as session:
            yield SqlTransaction(session, self._archive)

    def harden(self) -> None:
        """What is committed is durable when this returns."""
        self._database.harden()

    @contextmanager
    def reading(self) -> Iterator[SqlTransaction]:
        """A transaction that only reads."""
        with self._database.reading() as session:
            yield SqlTransaction(session, self._archive)
