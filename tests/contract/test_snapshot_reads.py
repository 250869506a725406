"""A reading transaction sees one instant and holds nobody up, on both engines: what is judged was true at once."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dicom_store.archive import Archive
from drimbox.adapters.database import Database
from drimbox.adapters.transactions import SqlTransactions
from drimbox.flow.records import Gate, Submission

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
STUDY = "1.2.250.1.999.1.1"


@pytest.fixture
def transactions(database_url: str, tmp_path: Path) -> Iterator[SqlTransactions]:
    database = Database(database_url, busy_timeout=2)
    database.migrate()
    yield SqlTransactions(database, Archive(tmp_path / "images", 0))
    database.close()


def lot(state: str) -> Submission:
    return Submission(
        id="s1", study_instance_uid=STUDY, kind="publish", content_key="k", submission_set_uid="1.2.3", request="c",
        vihf="{}", patient_ins="279035121518989", patient_oid="1.2.250.1.213.1.4.10", revision=0, created_at=NOW,
        since=NOW, due_at=NOW, state=state,
    )  # fmt: skip


def test_what_is_committed_meanwhile_is_not_seen_by_halves(transactions: SqlTransactions) -> None:
    with transactions.reading() as reading:
        assert reading.ledger.exam(STUDY) is None
        with transactions.writing() as writing:
            writing.ledger.exam_for_update(STUDY, NOW)
            writing.commit()
        assert reading.ledger.exams() == []
    with transactions.reading() as reading:
        assert reading.ledger.exam(STUDY) is not None


@pytest.mark.parametrize("state", ["SENDING", "DOUBTFUL"])
def test_a_look_at_the_queue_locks_nothing(transactions: SqlTransactions, state: str) -> None:
    with transactions.writing() as writing:
        writing.ledger.add(Gate("dmp", NOW, NOW, "reason"))
        writing.ledger.add(lot(state))
        writing.commit()
    with transactions.reading() as looking:
        seen = [*looking.ledger.leased(), looking.ledger.claimable(NOW)]
        assert [one.id for one in seen if one is not None] == ["s1"]
        assert looking.ledger.gate("dmp") is not None
        with transactions.writing() as writing:
            gate, row = writing.ledger.gate("dmp"), writing.ledger.submission("s1")
            assert gate is not None and row is not None
            assert [*writing.ledger.leased(), writing.ledger.claimable(NOW)] != [None]
            gate.reason, row.attempts = "another", 7
            writing.commit()
