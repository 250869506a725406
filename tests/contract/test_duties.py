"""Duties on SQLite and PostgreSQL: one holder at a time, taken over when it is silent, at once when it stops."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from dicom_store.archive import Archive
from drimbox.adapters.database import Database
from drimbox.adapters.transactions import SqlTransactions
from drimbox.domain.errors import DutyLost, Unavailable
from drimbox.flow.duties import LEASE, LOOK, Duties, who_is_on_duty

NAMES = ("audit", "whitelist")


class Clinic:
    """A database and the workers of its nodes; `awake`: the clock by which they believe what they hold."""

    def __init__(self, database: Database, root: Path) -> None:
        self.database = database
        self.transactions = SqlTransactions(database, Archive(root / "images", 0))
        self.awake = 1000.0
        self.said: list[tuple[str, str]] = []

    def worker(self, node: str, names: tuple[str, ...] = NAMES) -> Duties:
        return Duties(self.transactions, node, names, lambda: self.awake, self._log)

    def _log(self, action: str, *, outcome: str) -> None:
        self.said.append((action, outcome))

    def pass_by(self, seconds: float) -> None:
        """So much later, by the clock of the database too."""
        self.awake += seconds
        rows = {one.name: one.left for one in who_is_on_duty(self.transactions)}
        with self.database.writing() as session:
            for name, left in rows.items():
                until = datetime.now(UTC) + timedelta(seconds=left - seconds)
                session.execute(
                    text("UPDATE duties SET until = :until WHERE name = :name"),
                    {"until": until.strftime("%Y-%m-%d %H:%M:%S.%f"), "name": name},
                )
            session.commit()

    def holders(self) -> dict[str, str]:
        return {one.name: one.holder for one in who_is_on_duty(self.transactions) if one.left > 0}


@pytest.fixture
def clinic(newest_url: str, tmp_path: Path) -> Iterator[Clinic]:
    database = Database(newest_url)
    database.migrate()
    yield Clinic(database, tmp_path)
    database.close()


def test_one_holds_and_renews_and_the_other_waits(clinic: Clinic) -> None:
    a, b = clinic.worker("a"), clinic.worker("b")
    assert (a.keep(), b.keep()) == (2, 0)
    for _ in range(10):  # longer than a lease
        clinic.pass_by(LOOK * 2)
        assert (a.keep(), b.keep()) == (0, 0)
    assert clinic.holders() == dict.fromkeys(NAMES, "a")
    assert [worker.holds("audit") for worker in (a, b)] == [True, False]
    assert a.alone("audit", lambda: 7)() == 7
    assert b.alone("audit", lambda: 7)() == 0


def test_a_silent_one_is_replaced_within_a_minute_and_knows_before(clinic: Clinic) -> None:
    assert LEASE + LOOK < 60
    a, b = clinic.worker("a"), clinic.worker("b")
    a.keep()
    clinic.pass_by(LEASE - 1)
    assert (a.holds("audit"), b.keep()) == (True, 0)
    clinic.pass_by(1.5)
    assert not a.holds("audit")
    assert b.keep() == 2
    assert clinic.holders() == dict.fromkeys(NAMES, "b")
    assert a.keep() == 0
    assert not a.holds("audit")
    assert clinic.said.count(("duty_lost", "audit")) == 1


def test_one_that_stops_is_replaced_at_once(clinic: Clinic) -> None:
    a, b = clinic.worker("a"), clinic.worker("b")
    a.keep()
    a.release()
    assert (b.keep(), a.keep(), a.holds("audit")) == (2, 0, False)


def test_a_worker_that_comes_back_takes_up_what_its_node_held(clinic: Clinic) -> None:
    clinic.worker("a").keep()
    again = clinic.worker("a")
    assert (again.keep(), again.holds("whitelist")) == (2, True)


def test_a_lease_of_before_the_clock_was_set_back_holds_nobody_up(clinic: Clinic) -> None:
    clinic.worker("a").keep()
    clinic.pass_by(-3600)
    assert clinic.worker("b").keep() == 2


def test_what_is_begun_writes_nothing_once_another_has_the_duty(clinic: Clinic) -> None:
    a, b = clinic.worker("a"), clinic.worker("b")
    a.keep()
    guarded = a.guarded("audit")
    with guarded.writing() as transaction:
        transaction.commit()
    clinic.pass_by(LEASE + 1)
    with guarded.writing() as transaction:  # nobody has it yet: no harm
        transaction.commit()
    b.keep()
    with pytest.raises(DutyLost, match="audit"), guarded.writing():
        pass
    with guarded.reading() as transaction:
        assert transaction.duties.all()


def test_nobody_takes_a_duty_under_a_transaction_of_its_holder(clinic: Clinic) -> None:
    a, b = clinic.worker("a", ("audit",)), clinic.worker("b", ("audit",))
    a.keep()
    clinic.pass_by(LEASE + 1)
    ended, order = threading.Event(), list[str]()

    def take() -> None:
        b.keep()
        order.append("taken")
        ended.set()

    with a.guarded("audit").writing() as transaction:
        taker = threading.Thread(target=take)
        taker.start()
        assert not ended.wait(0.3)
        order.append("written")
        transaction.commit()
    taker.join(20)
    assert order == ["written", "taken"]


def test_of_many_that_ask_at_once_one_gets_it(clinic: Clinic) -> None:
    workers = [clinic.worker(f"node-{number}", ("audit",)) for number in range(6)]
    start = threading.Barrier(len(workers))
    taken: list[int] = []

    def ask(worker: Duties) -> None:
        start.wait(10)
        for _ in range(20):
            try:
                taken.append(worker.keep())
                return
            except Unavailable:
                time.sleep(0.01)

    threads = [threading.Thread(target=ask, args=(worker,)) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(taken) == [0, 0, 0, 0, 0, 1]
    assert sum(worker.holds("audit") for worker in workers) == 1
