"""Two doors, or two nodes, at the same instant: one answer counts, and nothing that was taken is lost."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from dicom_store.archive import Archive
from drimbox.adapters.database import Database
from drimbox.adapters.documents import Documents
from drimbox.adapters.inbox_queries import InboxQueries
from drimbox.adapters.transactions import SqlTransactions
from drimbox.bootstrap import new_id
from drimbox.flow import keep_report
from drimbox.flow.inbox_purge import InboxPurging
from drimbox.flow.keep_report import Arrival
from drimbox.flow.receive_report import Reception
from fixtures.reports import ActSpec, ReportSpec, make_adt, make_cda, make_oru, replacement_of

NOW = datetime(2026, 10, 1, 12, 0, tzinfo=UTC)
LONG_AGO = NOW - timedelta(days=400)
SPEC = ReportSpec()
STUDY = SPEC.acts[0].studies[0]


class Node:
    """One node of an appliance: stores, a reception, and several senders that speak at once."""

    def __init__(self, root: Path, url: str) -> None:
        self.database = Database(url)
        self.database.migrate()
        self.archive = Archive(root / "images", 0)
        self.documents = Documents(root / "documents")
        self.transactions = SqlTransactions(self.database, self.archive)
        self.reception = Reception(
            self.transactions, self.documents, "Europe/Paris", new_id, lambda: "A", consent_from_adt=True
        )

    def say(self, message: bytes, at: datetime = NOW) -> bytes:
        return self.reception.message(Arrival(message, "mllp", "127.0.0.1", at)) or b""

    def together(self, *messages: bytes) -> list[bytes]:
        answers: dict[int, bytes] = {}
        threads = [
            threading.Thread(target=lambda n=n, m=m: answers.update({n: self.say(m)}))  # type: ignore[misc]
            for n, m in enumerate(messages)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        return [answers[number] for number in range(len(messages))]


@pytest.fixture
def node(tmp_path: Path, newest_url: str) -> Iterator[Node]:
    node = Node(tmp_path, newest_url)
    yield node
    node.archive.close()
    node.database.close()


def oru(spec: ReportSpec, **how: Any) -> bytes:
    return make_oru(make_cda(spec), spec, **how)


@pytest.fixture
def meet(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any, str], None]:
    """Two threads meet just before that function, if nothing keeps one of them from coming so far."""

    def arrange(module: Any, name: str) -> None:
        barrier, inner = threading.Barrier(2), getattr(module, name)

        def met(*args: Any) -> Any:
            with suppress(threading.BrokenBarrierError):
                barrier.wait(0.5)
            return inner(*args)

        monkeypatch.setattr(module, name, met)

    return arrange


def current(node: Node, study: str = STUDY) -> list[str]:
    with node.transactions.reading() as transaction:
        return [report.document_id for report in transaction.ledger.reports_of(study)]


def test_of_two_replacements_of_one_document_one_is_too_late(node: Node, meet: Any) -> None:
    assert b"MSA|AA" in node.say(oru(SPEC))
    rivals = [replacement_of(SPEC, f"1.2.250.1.999.7.9.{number}") for number in (2, 3)]
    meet(keep_report, "decide")
    answers = node.together(*(oru(rival, order_control="RO") for rival in rivals))
    assert sorted(b"MSA|AA" in answer for answer in answers) == [False, True]
    assert sum(b"|900^" in answer for answer in answers) == 1
    assert len(current(node)) == 1


def test_the_same_new_document_twice_at_once_is_taken_twice_and_kept_once(node: Node, meet: Any) -> None:
    meet(keep_report, "decide")
    answers = node.together(oru(SPEC), oru(SPEC, control_id="RIS-2"))
    assert [b"MSA|AA" in answer for answer in answers] == [True, True]
    assert current(node) == [SPEC.document_id]


def test_an_original_and_its_replacement_at_once_leave_one_current_report(node: Node, meet: Any) -> None:
    second = replacement_of(SPEC, "1.2.250.1.999.7.9.2")
    meet(keep_report, "decide")
    answers = node.together(oru(SPEC), oru(second, order_control="RO"))
    assert [b"MSA|AA" in answer for answer in answers] == [True, True]
    assert current(node) == [second.document_id]


def test_an_opposition_that_comes_with_its_report_is_judged(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever commits last puts the exam in the queue: the report alone may have been judged in between."""
    asked, taken = threading.Event(), threading.Event()
    original = InboxQueries.studies_of_visit

    def studies(inbox: Any, visit: str) -> list[str]:
        found = original(inbox, visit)
        asked.set()
        taken.wait(0.5)  # the report comes now, unless it must wait for us
        return found

    monkeypatch.setattr(InboxQueries, "studies_of_visit", studies)
    adt = threading.Thread(target=node.say, args=(make_adt(feeding="IO"), NOW))
    adt.start()
    assert asked.wait(10)
    assert b"MSA|AA" in node.say(oru(SPEC), NOW)
    seen_by_the_reconciler = opposed(node)
    taken.set()
    adt.join(30)
    with node.transactions.reading() as transaction:
        exam = transaction.ledger.exam(STUDY)
        assert exam is not None
        assert seen_by_the_reconciler or exam.revision == 2
    assert opposed(node)


def opposed(node: Node) -> bool:
    with node.transactions.reading() as transaction:
        (report,) = transaction.ledger.reports_of(STUDY)
        assert report.visit is not None
        visit = transaction.inbox.visit(report.visit)
        return visit is not None and visit.feeding == "IO"


def test_what_is_sent_again_while_a_purge_runs_keeps_its_bytes(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store holds the old bytes when they come again; the purge takes them before the new row is there."""
    wrong = replace(SPEC, acts=(ActSpec(studies=(STUDY,)),))
    message = oru(wrong)
    assert b"MSA|AE" in node.say(oru(wrong, order_control="RO"), LONG_AGO)  # its CDA is in the store now
    purging = InboxPurging(node.transactions, node.documents, lambda: NOW, "worker:test", timedelta(days=365))
    real = SqlTransactions.writing
    purged = []

    def writing(transactions: SqlTransactions) -> Any:
        if not purged:
            purged.append(True)
            purged.append(purging.run().messages)
        return real(transactions)

    monkeypatch.setattr(SqlTransactions, "writing", writing)
    assert b"MSA|AA" in node.say(message)
    assert purged == [True, 1]
    with node.transactions.reading() as transaction:
        (report,) = transaction.ledger.reports_of(STUDY)
    assert node.documents.get(report.cda) == make_cda(wrong)
