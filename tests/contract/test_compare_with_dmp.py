"""The ledger against the registry, on real stores: what is asked, what is told, and when it stops asking."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from drimbox.domain.lifecycle import Event
from drimbox.domain.xds.outcome import Exchange, NoAnswer, NotFound
from drimbox.flow import trace
from drimbox.flow.compare_dmp import SILENCES, Comparing

EXCHANGE = Exchange("urn:uuid:1")
SILENCE = NoAnswer(EXCHANGE, "nothing heard")


def comparing(box: Any, pace: Callable[[], None] = lambda: None) -> Comparing:
    return Comparing(box.transactions, box.dmp, lambda: box.now, "operator", pace, lambda _: None)


def published(box: Any, count: int = 1) -> None:
    """One lot that is published, and copies of it under other UIDs."""
    box.bring()
    box.work()
    box.dmp.asked.clear()
    with box.transactions.writing() as transaction:
        (lot,) = transaction.ledger.published()
        for number in range(1, count):
            transaction.ledger.add(
                replace(
                    lot, id=f"copy-{number}", kos_uid=f"1.2.{number}", submission_set_uid=f"1.3.{number}",
                    entry_uuid=None, due_at=None,
                )
            )  # fmt: skip
        transaction.commit()


def rows(box: Any, event: str) -> list[Any]:
    with box.transactions.reading() as transaction:
        return [row for row in transaction.traces.after(0, 1000) if row.event == event]


def test_one_that_is_there(box: Any) -> None:
    published(box)
    waits: list[int] = []
    found = comparing(box, lambda: waits.append(1)).run()
    assert (found.agrees, found.looked_up, len(waits)) == (True, 1, 1)
    assert box.dmp.asked == [box.exam()["manifest"]["sop_instance_uid"]]
    (row,) = rows(box, "DMP_COMPARED")
    assert (row.actor, row.detail["looked_up"], row.detail["findings"]) == ("operator", 1, 0)


def test_one_that_is_gone_is_told_traced_and_left_as_it_is(box: Any) -> None:
    published(box)
    before = box.exam()
    box.dmp.lookups = [NotFound(EXCHANGE)]
    found = comparing(box).run()
    assert ([one.kind for one in found.findings], found.agrees) == (["absent"], False)
    (row,) = rows(box, "DMP_DISAGREES")
    assert row.detail["kind"] == "absent"
    assert box.exam() == before


def test_only_the_exam_that_is_meant_is_asked_about(box: Any) -> None:
    published(box)
    assert comparing(box).run("1.2.3.4.5").looked_up == 0
    assert box.dmp.asked == []


def test_a_dmp_that_is_silent_is_not_asked_for_ever(box: Any) -> None:
    published(box, 6)
    box.dmp.lookups = [SILENCE] * 6
    found = comparing(box).run()
    assert (found.looked_up, found.left_out, found.agrees) == (SILENCES, 6 - SILENCES, False)
    assert {one.kind for one in found.findings} == {"unanswered"}
    assert rows(box, "DMP_DISAGREES") == []


def test_a_dmp_that_stutters_is_asked_to_the_end(box: Any) -> None:
    published(box, 6)
    box.dmp.lookups = [SILENCE, SILENCE, NotFound(EXCHANGE), SILENCE, SILENCE, NotFound(EXCHANGE)]
    found = comparing(box).run()
    assert (found.looked_up, found.left_out, len(found.findings)) == (6, 0, 6)


def test_what_the_worker_changed_meanwhile_is_no_fault(box: Any) -> None:
    published(box)
    box.dmp.lookups = [NotFound(EXCHANGE)]
    real, find = box.dmp, box.dmp.find

    def withdrawn_meanwhile(unique_id: str, identity: Any) -> Any:
        with box.transactions.writing() as transaction:
            (lot,) = transaction.ledger.published()
            trace.move_submission(transaction, lot, Event.WITHDRAWN, at=box.now, actor="test")
            transaction.commit()
        return find(unique_id, identity)

    real.find = withdrawn_meanwhile
    assert comparing(box).run().findings == []
