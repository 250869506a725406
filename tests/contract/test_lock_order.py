"""Who settles an answer of the DMP and who judges the exam lock in one order: no answer is lost to a deadlock."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from drimbox.domain.xds.outcome import Exchange, Registered

STUDY = "1.2.250.1.999.1.901"  # of the default report
HELD = 0.5  # seconds, in which the publisher comes to where it waits


@pytest.fixture
def box(make_box: Any, database_url: str, tmp_path: Path) -> Iterator[Any]:
    box = make_box(tmp_path, database_url)
    yield box
    box.archive.close()
    box.database.close()


class Slow:
    """A DMP that answers once somebody has begun to judge the exam; `find`: as the box's own."""

    def __init__(self, box: Any) -> None:
        self.box, self.find = box, box.dmp.find
        self.trouble: list[Exception] = []
        self.judging = threading.Thread(target=self._judge)
        self.locked = threading.Event()

    def publish(self, _lot: Any) -> Registered:
        self.judging.start()
        assert self.locked.wait(10)
        return Registered(Exchange("urn:uuid:1", 200, "", b"<answer/>"))

    def _judge(self) -> None:
        """As `Reconciling` does: the exam, then its lots."""
        try:
            with self.box.transactions.writing() as transaction:
                transaction.ledger.exam(STUDY, lock=True)
                self.locked.set()
                threading.Event().wait(HELD)
                transaction.ledger.open_submissions(STUDY)
                transaction.commit()
        except Exception as error:  # noqa: BLE001 told by the test
            self.trouble.append(error)


def test_an_answer_is_settled_while_the_exam_is_judged(box: Any) -> None:
    box.bring()
    box.reconciling.run_due()
    slow = Slow(box)
    assert box.publisher("node-a", slow).run_due() == 2  # the lot, and its entryUUID
    slow.judging.join(10)
    assert slow.trouble == []
    assert box.exam()["manifest"]["status"] == "published"
    assert "LEASE_EXPIRED" not in box.events()
