"""Group commit: who leads, who waits, what each is told; on a database that is a list."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from drimbox.domain.errors import CommitInDoubt, TransactionLost, Unavailable
from drimbox.flow.group_commit import GroupCommit

PATIENCE = 10.0


class Refused(Exception):
    """What a work refuses."""


class Scripted:
    """Transactions on a list. `opening`, `committing`: raised there; `on_commit`: called before each commit."""

    def __init__(self) -> None:
        self.committed: list[list[Any]] = []
        self.pending: list[Any] = []
        self.opening: Exception | None = None
        self.committing: BaseException | None = None
        self.on_commit: Callable[[], None] = lambda: None
        self.savepoints = 0
        self.lost = False

    @contextmanager
    def arriving(self) -> Iterator[Scripted]:
        if self.opening is not None:
            raise self.opening
        self.pending = []
        yield self

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        self.savepoints += 1
        before = list(self.pending)
        try:
            yield
        except Exception:
            self.pending = before
            if self.lost:
                raise TransactionLost("all of it is undone") from None
            raise

    def commit(self) -> None:
        self.on_commit()
        if self.committing is not None:
            raise self.committing
        self.committed.append(self.pending)


@pytest.fixture
def scripted() -> Scripted:
    return Scripted()


def group_of(scripted: Scripted, most: int = 32) -> GroupCommit:
    return GroupCommit(scripted, most)  # type: ignore[arg-type]


def write(word: Any) -> Callable[[Any], Any]:
    def work(transaction: Any) -> Any:
        transaction.pending.append(word)
        return word

    return work


def refuse(_transaction: Any) -> Any:
    raise Refused


class Together:
    """Threads that queue while the first one commits, so that they share the second transaction."""

    def __init__(self, scripted: Scripted, group: GroupCommit) -> None:
        self.scripted, self.group = scripted, group
        self.gate = threading.Event()
        self.outcomes: dict[Any, Any] = {}
        self.threads: list[threading.Thread] = []

    def run(
        self, works: dict[Any, Callable[[Any], Any]], before_release: Callable[[], None] = lambda: None
    ) -> None:
        first = threading.Event()

        def hold() -> None:
            self.scripted.on_commit = lambda: None
            first.set()
            assert self.gate.wait(PATIENCE)

        self.scripted.on_commit = hold
        self.start("first", write("first"))
        assert first.wait(PATIENCE)
        for number, (key, work) in enumerate(works.items(), 1):
            self.start(key, work)
            self.until(lambda number=number: len(self.group._waiting) == number)
        before_release()
        self.gate.set()
        for thread in self.threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()

    def start(self, key: Any, work: Callable[[Any], Any]) -> None:
        def call() -> None:
            try:
                self.outcomes[key] = self.group.run(str(key), work)
            except BaseException as error:  # noqa: BLE001 - looked at by the test
                self.outcomes[key] = error

        self.threads.append(threading.Thread(target=call))
        self.threads[-1].start()

    @staticmethod
    def until(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.001)


def test_a_lone_work_needs_no_savepoint(scripted: Scripted) -> None:
    group = group_of(scripted)
    assert [group.run("k", write(n)) for n in range(3)] == [0, 1, 2]
    assert scripted.committed == [[0], [1], [2]]
    assert scripted.savepoints == 0


def test_a_lone_refusal_is_told_and_nothing_committed(scripted: Scripted) -> None:
    with pytest.raises(Refused):
        group_of(scripted).run("k", refuse)
    assert scripted.committed == []


def test_what_must_be_before_the_commit_is_done_when_all_is_written(scripted: Scripted) -> None:
    seen: list[tuple[list[Any], int]] = []
    group = group_of(scripted)
    group.run("k", write(1), lambda: seen.append((list(scripted.pending), len(scripted.committed))))
    assert seen == [([1], 0)]
    assert scripted.committed == [[1]]


def test_what_fails_before_the_commit_leaves_nothing(scripted: Scripted) -> None:
    def fail() -> None:
        raise OSError(5, "the disk says no")

    group = group_of(scripted)
    with pytest.raises(OSError, match="the disk says no"):
        group.run("k", write(1), fail)
    assert scripted.committed == []
    group.run("k", write(2))
    assert scripted.committed == [[2]]


def test_those_who_come_during_a_commit_share_the_next(scripted: Scripted) -> None:
    together = Together(scripted, group_of(scripted))
    together.run({key: write(key) for key in "dbca"})
    assert scripted.committed == [["first"], ["a", "b", "c", "d"]]  # in the order of their keys
    assert together.outcomes == {"first": "first", "a": "a", "b": "b", "c": "c", "d": "d"}


def test_one_refusal_spoils_nothing(scripted: Scripted) -> None:
    together = Together(scripted, group_of(scripted))
    together.run({"a": write("a"), "b": refuse, "c": write("c")})
    assert scripted.committed == [["first"], ["a", "c"]]
    assert isinstance(together.outcomes.pop("b"), Refused)
    assert together.outcomes == {"first": "first", "a": "a", "c": "c"}


def test_nothing_is_committed_when_all_are_refused(scripted: Scripted) -> None:
    together = Together(scripted, group_of(scripted))
    together.run({"a": refuse, "b": refuse})
    assert scripted.committed == [["first"]]
    assert {type(together.outcomes[key]) for key in "ab"} == {Refused}


def test_a_failed_commit_fails_all_in_doubt(scripted: Scripted) -> None:
    together = Together(scripted, group_of(scripted))

    def break_it() -> None:
        scripted.on_commit = lambda: setattr(scripted, "committing", OSError("disk"))

    together.run({"a": write("a"), "b": write("b"), "c": refuse}, break_it)
    assert scripted.committed == [["first"]]
    told = [together.outcomes[key] for key in "ab"]
    assert [type(one) for one in told] == [CommitInDoubt] * 2
    assert told[0] is not told[1]
    assert isinstance(together.outcomes["c"], Refused)


def test_a_lone_failed_commit_is_in_doubt(scripted: Scripted) -> None:
    scripted.committing = Unavailable("the database cannot be used now: disk")
    with pytest.raises(CommitInDoubt, match="disk"):
        group_of(scripted).run("k", write(1))


def test_a_transaction_that_does_not_open_fails_all(scripted: Scripted) -> None:
    together = Together(scripted, group_of(scripted))
    together.run(
        {"a": write("a"), "b": write("b")}, lambda: setattr(scripted, "opening", Unavailable("locked"))
    )
    assert [str(together.outcomes[key]) for key in "ab"] == ["locked"] * 2
    assert {type(together.outcomes[key]) for key in "ab"} == {Unavailable}


def test_a_lost_transaction_fails_also_those_who_were_done(scripted: Scripted) -> None:
    together = Together(scripted, group_of(scripted))
    scripted.lost = True
    together.run({"a": write("a"), "b": refuse, "c": write("c")})
    assert scripted.committed == [["first"]]
    assert {type(together.outcomes[key]) for key in "abc"} == {Unavailable}


def test_a_batch_is_bounded_and_nobody_leads_twice(scripted: Scripted) -> None:
    together = Together(scripted, group_of(scripted, most=2))
    leaders: list[int] = []

    def count() -> None:
        scripted.on_commit = lambda: leaders.append(threading.get_ident())

    together.run({number: write(number) for number in range(5)}, count)
    assert scripted.committed == [["first"], [0, 1], [2, 3], [4]]
    assert len(set(leaders)) == 3


def test_a_leader_that_dies_leaves_the_others_in_doubt_and_the_queue_led(scripted: Scripted) -> None:
    together = Together(scripted, group_of(scripted, most=2))

    def break_it() -> None:
        def die() -> None:
            scripted.on_commit = lambda: None
            raise SystemExit

        scripted.on_commit = die

    together.run({"a": write("a"), "b": write("b"), "c": write("c")}, break_it)
    assert isinstance(together.outcomes["a"], SystemExit)
    assert isinstance(together.outcomes["b"], CommitInDoubt)
    assert together.outcomes["c"] == "c"
    assert scripted.committed == [["first"], ["c"]]
    assert together.group.run("k", write("later")) == "later"
