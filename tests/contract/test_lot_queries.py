"""The archive's queries on SQLite and PostgreSQL: what ended, what was purged, what else names a document."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from dicom_store.archive import Archive
from drimbox.adapters.database import Database
from drimbox.adapters.transactions import SqlTransactions
from drimbox.flow import trace
from drimbox.flow.archive_purge import PURGED
from drimbox.flow.records import Message, Submission

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
STUDY = "1.2.250.1.999.1.1"
A, B, C, D = (letter * 64 for letter in "abcd")


@pytest.fixture
def transactions(database_url: str, tmp_path: Path) -> Iterator[SqlTransactions]:
    database = Database(database_url)
    database.migrate()
    yield SqlTransactions(database, Archive(tmp_path / "images", 0))
    database.close()


def submission(name: str, state: str, days: int, **changes: Any) -> Submission:
    fields: dict[str, Any] = {
        "id": name, "study_instance_uid": STUDY, "kind": "publish", "content_key": "k", "kos_uid": f"2.25.{name}",
        "submission_set_uid": f"1.2.3.{name}", "kos": A, "signature": B, "request": C, "vihf": "{}",
        "patient_ins": "279035121518989", "patient_oid": "1.2.250.1.213.1.4.10", "revision": 0, "created_at": NOW,
        "since": NOW - timedelta(days=days), "state": state,
    }  # fmt: skip
    return Submission(**fields | changes)


def test_only_what_ended_before_and_was_not_purged(transactions: SqlTransactions) -> None:
    with transactions.writing() as transaction:
        for name, state, days in (
            ("1", "DEPRECATED", 9), ("2", "WITHDRAWN", 8), ("3", "DROPPED", 7), ("4", "DEPRECATED", 1),
            ("5", "REGISTERED", 9), ("6", "PARKED", 9), ("7", "DEPRECATED", 9),
        ):  # fmt: skip
            transaction.ledger.add(submission(name, state, days))
        trace.note(transaction, PURGED, at=NOW, actor="test", study=STUDY, submission="7")
        trace.note(transaction, "OTHER", at=NOW, actor="test", study=STUDY, submission="1")
        transaction.commit()
    with transactions.reading() as transaction:
        ended = transaction.lots.ended_before(NOW - timedelta(days=7))
        assert [lot.id for lot in ended] == ["1", "2", "3"]
        assert transaction.lots.purged() == transaction.lots.purged(STUDY) == {"7"}
        assert transaction.lots.purged("1.2.3") == set()
        found = transaction.lots.by_submission_set("1.2.3.4")
        assert found is not None
        assert found.id == "4"
        assert transaction.lots.by_submission_set("1.2.3.99") is None


def test_a_document_is_named_by_lots_messages_and_evidence(transactions: SqlTransactions) -> None:
    with transactions.writing() as transaction:
        transaction.ledger.add(submission("1", "DEPRECATED", 9))
        transaction.ledger.add(submission("2", "REGISTERED", 9, kos=None, signature=None, request=C))
        transaction.ledger.add(submission("3", "DEPRECATED", 9, kos=A, signature=None, request=B))
        transaction.ledger.add(Message("m", NOW, "http", "test", "1", B, "AA"))
        trace.note(transaction, PURGED, at=NOW, actor="test", study=STUDY, submission="3")
        for lot, answer in (("1", A), ("3", A), ("2", D)):
            trace.note(
                transaction, "REFUSED", at=NOW, actor="test", study=STUDY, submission=lot, answer=answer
            )
        transaction.commit()
    with transactions.reading() as transaction:
        assert transaction.lots.named_elsewhere({A, B, C, D}, {"1"}) == {B, C, D}
        assert transaction.lots.named_elsewhere({A}, set()) == {A}
