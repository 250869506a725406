"""Audit records on their way: groups, a database that fails, processes that are killed; each record one row."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from dicom_store.archive import Archive
from drimbox.adapters.database import Database
from drimbox.adapters.retrieval_journal import RetrievalJournal
from drimbox.adapters.tables import trace_table
from drimbox.adapters.transactions import SqlTransactions
from drimbox.domain.access import Wish
from drimbox.domain.errors import Unavailable
from drimbox.flow import retrieval_log, retrievals
from drimbox.flow.records import Exam
from drimbox.flow.retrieval_log import RetrievalLog
from drimbox.flow.retrievals import DIED, Finished, Peer
from fixtures.newest_database import bring_to_newest

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
STUDY = "1.2.3"
SOON = 20.0  # seconds


class Place:
    """A database with one known exam, and an audit directory."""

    def __init__(self, root: Path, url: str) -> None:
        self.root, self.url = root, url
        self.logged: list[str] = []
        self.database = Database(url)
        self.transactions = SqlTransactions(self.database, Archive(root / "images", 0))

    def begin(self) -> Place:
        bring_to_newest(self.database)
        with self.transactions.writing() as transaction:
            transaction.ledger.add(Exam(STUDY, NOW))
            transaction.commit()
        return self

    def log(self, transactions: Any = None) -> RetrievalLog:
        return RetrievalLog(
            transactions or self.transactions,
            RetrievalJournal(self.root / "audit"),
            lambda: NOW,
            lambda event, **_: self.logged.append(event),
        )

    def rows(self) -> list[tuple[str, str | None, dict[str, Any]]]:
        columns = (trace_table.c.event, trace_table.c.study_instance_uid, trace_table.c.detail)
        with self.database.reading() as session:
            return [tuple(row) for row in session.execute(select(*columns).order_by(trace_table.c.id))]

    def journals(self) -> list[Path]:
        return sorted((self.root / "audit").glob("*.journal"))

    def until(self, count: int) -> None:
        deadline = time.monotonic() + SOON
        while len(self.rows()) < count:
            assert time.monotonic() < deadline, self.rows()
            time.sleep(0.01)

    def killed(self, story: Callable[[Place], Any]) -> None:
        """Play a story in a process that is killed at its end."""

        def play() -> None:
            story(Place(self.root, self.url))
            os.kill(os.getpid(), signal.SIGKILL)

        self.database.close()  # no connection goes through the fork
        process = multiprocessing.get_context("fork").Process(target=play)
        process.start()
        process.join(SOON)
        assert process.exitcode == -signal.SIGKILL


@pytest.fixture
def place(tmp_path: Path, database_url: str) -> Iterator[Place]:
    """On each engine."""
    place = Place(tmp_path, database_url).begin()
    yield place
    place.database.close()


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Place]:
    """On SQLite."""
    place = Place(tmp_path, f"sqlite:///{tmp_path / 'drimbox.sqlite'}").begin()
    yield place
    place.database.close()


def record(number: int = 1, study: str = STUDY) -> retrievals.Record:
    wish = Wish(study, None, None, None, f"2.25.{number}")
    return retrievals.begun(wish, Peer("192.0.2.1"), None, None, NOW)


def served(log: RetrievalLog, number: int = 1) -> None:
    log.end(log.begin(record(number)), retrievals.ended(10, True, (), "", 1.0))


def test_many_records_share_a_commit(small: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    commits: list[int] = []
    write = retrievals.write

    def counted(transactions: Any, finished: Any, **options: Any) -> None:
        commits.append(len(finished))
        write(transactions, finished, **options)

    monkeypatch.setattr(retrievals, "write", counted)
    log = small.log()
    log.start()
    for number in range(500):
        served(log, number + 1)
    log.stop()
    rows = small.rows()
    assert sorted(row[2]["kos"] for row in rows) == sorted(f"2.25.{n + 1}" for n in range(500))
    assert len(commits) < 50
    assert small.journals() == []


def test_a_process_killed_in_mid_transfer_leaves_one_row_per_record(place: Place) -> None:
    def story(there: Place) -> None:
        log = there.log()  # its thread is slow: nothing is in the trace when the process dies
        log.begin(record(1))
        served(log, 2)
        end = retrievals.refused("token-missing", 401, "", 0.1)
        log.refuse(record(3, "1.2.404"), end, stranger=True, at=NOW)

    place.killed(story)
    assert place.rows() == []
    logs = [place.log(), place.log()]
    for log in logs:  # two processes look at once
        log.start()
    place.until(3)
    for log in logs:
        log.fold()
        log.stop()
    rows = {row[2].get("kos", ""): row for row in place.rows()}
    assert len(place.rows()) == 3
    cut, whole, refused = rows["2.25.1"], rows["2.25.2"], rows[""]
    assert (cut[0], cut[1], cut[2]["why"]) == ("RETRIEVAL_CUT", STUDY, DIED)
    assert (whole[0], whole[2]["bytes"]) == ("RETRIEVAL_SERVED", 10)
    assert (refused[0], refused[1], refused[2]["code"]) == ("RETRIEVAL_REFUSED", None, "token-missing")
    assert place.journals() == []


def test_a_process_killed_after_the_commit_leaves_no_second_row(place: Place) -> None:
    def story(there: Place) -> None:
        log = there.log()
        open_one = log.begin(record(1))
        log.end(open_one, retrievals.ended(10, True, (), "", 1.0))
        served(log, 2)
        done = open_one.record | retrievals.ended(10, True, (), "", 1.0)
        retrievals.write(there.transactions, [Finished(open_one.entry.id, done)], again=False)

    place.killed(story)
    assert len(place.rows()) == 1
    log = place.log()
    assert log.fold() == 1
    assert sorted(row[2]["kos"] for row in place.rows()) == ["2.25.1", "2.25.2"]
    assert log.fold() == 0


def test_a_fold_that_fails_is_done_by_the_next(small: Place) -> None:
    small.killed(lambda there: there.log().begin(record(1)))
    with pytest.raises(Unavailable):
        small.log(Failing(small.transactions, before=1)).fold()
    assert len(small.journals()) == 1
    assert small.log().fold() == 1
    assert [row[0] for row in small.rows()] == ["RETRIEVAL_CUT"]


class Failing:
    """Transactions of a database that fails `before` the commit, then `after` it, then works."""

    def __init__(self, transactions: SqlTransactions, before: int = 0, after: int = 0) -> None:
        self._transactions = transactions
        self.before, self.after = before, after
        self.tried = threading.Event()

    @contextmanager
    def writing(self) -> Iterator[Any]:
        self.tried.set()
        if self.before:
            self.before -= 1
            raise Unavailable("gone")
        with self._transactions.writing() as transaction:
            yield transaction
        if self.after:
            self.after -= 1
            raise Unavailable("the connection was lost at the commit")

    def reading(self) -> Any:
        return self._transactions.reading()


@pytest.mark.parametrize("trouble", [{"before": 2}, {"after": 1}, {"before": 1, "after": 2}])
def test_a_database_that_comes_back_gets_each_record_once(
    small: Place, trouble: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrieval_log, "TRY_AGAIN", 0.01)
    log = small.log(Failing(small.transactions, **trouble))
    log.start()
    served(log, 1)
    served(log, 2)
    small.until(2)
    deadline = time.monotonic() + SOON
    while len(small.logged) < sum(trouble.values()) and time.monotonic() < deadline:
        time.sleep(0.01)
    log.stop()
    assert sorted(row[2]["kos"] for row in small.rows()) == ["2.25.1", "2.25.2"]
    assert small.logged.count("audit_not_written") == sum(trouble.values())


def test_a_process_that_stops_without_a_database_leaves_its_records_to_others(
    small: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrieval_log, "TRY_AGAIN", 0.01)
    log = small.log(Failing(small.transactions, before=10**9))
    served(log, 1)
    log.start()
    log.stop()
    assert small.rows() == []
    assert small.log().fold() == 1
    assert [row[2]["kos"] for row in small.rows()] == ["2.25.1"]


def test_a_refusal_without_a_journal_is_logged(small: Place) -> None:
    log = small.log()
    (small.root / "audit").write_bytes(b"")
    log.refuse(record(), retrievals.refused("kos-unknown", 404, "", 1), stranger=False, at=NOW)
    assert small.logged == ["audit_journal_failed"]
    with pytest.raises(Unavailable):
        log.begin(record())


def test_refusals_do_not_pile_up_while_the_database_is_gone(
    small: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of those whom a token names there may be any number: what cannot be kept is logged."""
    monkeypatch.setattr(retrieval_log, "MOST_WAITING", 2)
    log = small.log()
    for number in range(5):
        log.refuse(record(number), retrievals.refused("busy", 503, "", 1), stranger=False, at=NOW)
    assert small.logged == ["audit_journal_failed"] * 3
    log.start()
    small.until(2)
    log.stop()
    assert len(small.rows()) == 2
