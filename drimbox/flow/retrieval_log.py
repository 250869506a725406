"""Audit records on their way: into the journal at once, into the trace in groups, by one thread.

A request waits for two appends to the journal and for no commit. What the journal holds and the trace does not when
a process dies is written by another one (`fold`). No record can be kept, nothing is served.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from drimbox.domain.errors import Unavailable
from drimbox.flow import retrievals
from drimbox.flow.ports import Clock, Transactions
from drimbox.flow.refusal_rate import RefusalRate
from drimbox.flow.retrieval_lines import RetrievalLines
from drimbox.flow.retrievals import Finished, Record

PACE = 0.2  # seconds from one commit to the next, so that many records share it
TRY_AGAIN = 1.0  # seconds after a commit failed
FOLD_EVERY = 60.0  # seconds between two looks for journals of dead processes
MOST_KNOWN = 10_000  # studies remembered as known
MOST_WAITING = 50_000  # records without a row; then nothing more is begun
STOP_SECONDS = 10.0


class Entry(Protocol):
    """One record in the journal."""

    @property
    def id(self) -> str: ...


class Left(Protocol):
    """What a dead process left: `begun` and its `end`, if it came, by id. Locked until `remove` or `release`."""

    @property
    def records(self) -> Mapping[str, tuple[Record, Record | None]]: ...
    def remove(self) -> None: ...
    def release(self) -> None: ...


class Journal(Protocol):
    """See `adapters/retrieval_journal.py`. `begin`, `end` and `settle` raise `Unavailable`."""

    def begin(self, record: Mapping[str, Any], end: Mapping[str, Any] | None = None) -> Entry: ...
    def end(self, entry: Any, record: Mapping[str, Any]) -> None: ...
    def settle(self, entries: Iterable[Any]) -> None: ...
    def abandoned(self) -> Iterable[Left]: ...
    def close(self) -> None: ...


@dataclass(slots=True)
class Open:
    """A retrieval that was granted and has not ended."""

    entry: Entry
    record: Record


def _silent(_action: str, **_fields: object) -> None:
    """Nobody listens."""


def _nobody(_record: Record, _first_byte: float | None) -> None:
    """Nobody counts."""


@dataclass
class RetrievalLog:
    """Keeps the records. `start` after the process was forked; safe for threads. `monotonic`: seconds.

    `log`: of what fails; `say`: of what was retrieved, exam by exam; `told(record, first_byte)`: of each request when
    it ended, with the seconds to its first byte.
    """

    transactions: Transactions
    journal: Journal
    clock: Clock
    log: Callable[..., object]
    say: Callable[..., object] = _silent
    told: Callable[[Record, float | None], object] = _nobody
    rate: RefusalRate = field(default_factory=RefusalRate)
    probe_rate: RefusalRate = field(
        default_factory=RefusalRate
    )  # of the health check: no flood there hides a partner
    monotonic: Callable[[], float] = time.monotonic
    _waiting: SimpleQueue[tuple[Entry, Record] | None] = field(default_factory=SimpleQueue)
    _thread: threading.Thread | None = None
    _stopping: threading.Event = field(default_factory=threading.Event)
    _lines: RetrievalLines = field(default_factory=RetrievalLines)
    _known: set[str] = field(default_factory=set)  # studies, of the thread

    def start(self) -> None:
        """Begin to write rows, those of dead processes first."""
        self._thread = threading.Thread(target=self._run, name="retrieval-log", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Write what is complete. A retrieval that is still open is written by the next process, as cut."""
        self._stopping.set()
        self._waiting.put(None)
        if self._thread is not None:
            self._thread.join(STOP_SECONDS)
        self.journal.close()

    def begin(self, record: Record) -> Open:
        """A retrieval is granted. Raises `Unavailable` when it cannot be recorded: it must not be served."""
        return Open(self._begin(record), record)

    def end(self, retrieval: Open, end: Record, first_byte: float | None = None) -> None:
        """It ended; called once. When the journal cannot be written, the row of the trace still is.

        `first_byte`: seconds from the request to the first byte of its answer, None without one.
        """
        whole = retrieval.record | end
        self.told(whole, first_byte)
        try:
            self.journal.end(retrieval.entry, end)
        except Unavailable as error:
            self.log("audit_journal_failed", reason=str(error))
        self._waiting.put((retrieval.entry, whole))

    def refuse(self, record: Record, end: Record, *, stranger: bool, at: datetime) -> None:
        """A retrieval is refused; those of strangers beyond the rate are counted."""
        self.told(record | end, None)
        self._refuse(record, end, stranger=stranger, at=at)

    def _refuse(self, record: Record, end: Record, *, stranger: bool, at: datetime) -> None:
        address = record["actor"].partition(":")[2]
        rate = self.probe_rate if end["event"] == retrievals.FORBIDDEN else self.rate
        if stranger and not rate.has_own_row(address, end["code"], end["status"], at, self.monotonic()):
            return
        try:
            entry = self._begin(record, end)
        except Unavailable as error:
            study = record.get("study")
            self.log("audit_journal_failed", reason=str(error), peer=address, code=end["code"], study=study)
            return
        self._waiting.put((entry, record | end))

    def fold(self) -> int:
        """Write the records of dead processes; how many journals were settled. Raises `Unavailable`."""
        count = 0
        for left in self.journal.abandoned():
            try:
                retrievals.write(self.transactions, _finished(left.records), again=True)
                left.remove()
                count += 1
            finally:
                left.release()
        return count

    def _begin(self, record: Record, end: Record | None = None) -> Entry:
        if self._waiting.qsize() >= MOST_WAITING:
            raise Unavailable("too many audit records wait for the database")
        return self.journal.begin(record, end)

    def _run(self) -> None:
        folded, running = float("-inf"), True
        while running:
            if self.monotonic() - folded >= FOLD_EVERY:
                folded = self.monotonic()
                self._keep_trying(self.fold, once=True)
            batch, running = self._collect()
            self._count_strangers(everything=not running)
            self._lines.say(self.say, self.monotonic(), everything=not running)
            batch += [] if running else filter(None, self._drain())
            if batch:
                self._write(batch)
                time.sleep(PACE if running else 0)

    def _collect(self) -> tuple[list[tuple[Entry, Record]], bool]:
        """What waits, and whether more may come; waits a second for the first."""
        try:
            first = self._waiting.get(timeout=1.0)
        except Empty:
            return [], True
        rest = self._drain()
        every = [first, *rest]
        return [item for item in every if item is not None], None not in every

    def _drain(self) -> list[tuple[Entry, Record] | None]:
        """What waits now."""
        return [self._waiting.get_nowait() for _ in range(self._waiting.qsize())]

    def _write(self, batch: Sequence[tuple[Entry, Record]]) -> None:
        finished = [Finished(entry.id, record) for entry, record in batch]
        self._lines.add(record for _, record in batch)
        again = False
        if len(self._known) > MOST_KNOWN:
            self._known.clear()

        def write() -> None:
            nonlocal again
            before, again = again, True
            retrievals.write(self.transactions, finished, again=before, known=self._known)

        if self._keep_trying(write, once=False):
            self._keep_trying(lambda: self.journal.settle(entry for entry, _ in batch), once=True)

    def _keep_trying(self, act: Callable[[], object], *, once: bool) -> bool:
        """Whether it was done; tried again until we are to stop, and then for the last time.

        A thread that dies would leave the trace silent.
        """
        while True:
            last = once or self._stopping.is_set()
            try:
                act()
                return True
            except Exception as error:  # noqa: BLE001 the door of a thread: logged, and tried again
                self.log("audit_not_written", error=type(error).__name__, reason=_words(error))
            if last:
                return False
            self._stopping.wait(TRY_AGAIN)

    def _count_strangers(self, *, everything: bool) -> None:
        instant = float("inf") if everything else self.monotonic()
        for one in (*self.rate.due(instant), *self.probe_rate.due(instant)):
            told = retrievals.repeated(one.slug, one.address, one.status, one.count, one.last)
            self._refuse(*told, stranger=False, at=one.last)


def _finished(records: Mapping[str, tuple[Record, Record | None]]) -> list[Finished]:
    return [Finished(key, begun | (end or retrievals.died())) for key, (begun, end) in records.items()]


def _words(error: Exception) -> str:
    return str(error) if isinstance(error, Unavailable) else ""
