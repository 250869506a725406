"""The trace to an audit record repository, as an option: rows beyond a cursor become messages, then the cursor moves.

At least once: the cursor moves after the repository has confirmed (`adapters/syslog_tls.py`), never before. What dies
in between is sent again, with the same rows named in it. Nothing waits for this: the trace is the truth, and it is
complete whether anybody listens or not. One process at a time forwards: it holds a lease in the cursor's row while no
transaction is open. Two that did at once would send the same rows twice, and one of them would move the cursor.

On PostgreSQL ids are given before the commit: a row may become visible after one of a higher id. Hence the ids that
are skipped are remembered, and looked for again for `LATE`, far longer than any transaction lasts here: a late row is
passed on late, none is lost. Those of transactions that were rolled back never appear and are forgotten then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

from drimbox.domain.audit_events import Gathered, Report, Stage, gather, report
from drimbox.domain.audit_message import to_xml
from drimbox.domain.audit_rules import Lot, Occurrence
from drimbox.domain.gaps import Gap, skipped, without
from drimbox.domain.identifiers import Ins
from drimbox.domain.retry import RetryPolicy
from drimbox.domain.syslog_message import NotDelivered, syslog_message
from drimbox.flow.ports import Clock, Transaction, Transactions
from drimbox.flow.records import AuditCursor, Submission, TraceEntry

NAME = "syslog"
BATCH = 500  # rows of the trace per delivery
LONGEST_RUN = timedelta(seconds=10)  # then the others of the worker's clock have their turn
LEASE = timedelta(
    minutes=1
)  # what a dead one holds is soon free; a slow one is alone by its duty (`flow/duties.py`)
LATE = timedelta(minutes=10)
MOST_GAPS = 500  # remembered at once; the youngest
HISTORY = timedelta(days=1)  # how far back it begins when it is switched on over an older trace


class AuditDoor(Protocol):
    """The audit record repository."""

    def deliver(self, messages: Sequence[bytes]) -> None:
        """Send syslog messages, in order. Raises `NotDelivered` unless it has confirmed them all."""
        ...


@dataclass(frozen=True, slots=True)
class Lag:
    """`rows`: of the trace that were not passed on yet, audited or not; `failing_since`, `error`: None while well."""

    rows: int
    failures: int
    failing_since: datetime | None
    error: str | None


@dataclass(frozen=True, slots=True)
class _Claim:
    """The cursor is ours `until` then; what it said."""

    until: datetime
    last_id: int
    missing: Sequence[Gap]


@dataclass(frozen=True, slots=True)
class _Batch:
    """Rows to pass on, late ones first, and the cursor behind them."""

    rows: tuple[Occurrence, ...]
    last_id: int
    missing: Sequence[Gap]


@dataclass(frozen=True, slots=True)
class ForwardingAudit:
    """The parts that forwarding needs.

    `owner` holds the lease (one forwarder per node); `retry`: between attempts while the repository cannot be reached;
    `chance` gives jitter in [0, 1); `alarm` tells of our own defects.
    """

    transactions: Transactions
    door: AuditDoor
    stage: Stage
    retry: RetryPolicy
    owner: str
    chance: Callable[[], float]
    clock: Clock
    log: Callable[..., Any]
    alarm: Callable[..., Any]

    def run_due(self) -> int:
        """Pass on what is beyond the cursor; how many rows of the trace. Raises `errors.Unavailable`."""
        begun, total = self.clock(), 0
        while True:
            passed = self._pass_on()
            total += passed
            if passed < BATCH or self.clock() - begun > LONGEST_RUN:
                return total

    def _pass_on(self) -> int:
        claim = self._claim() if self._has_work() else None
        if claim is None:
            return 0
        with self.transactions.reading() as transaction:
            batch = _read(transaction, claim, self.clock())
        messages = [*self._messages(gather(batch.rows))]
        try:
            if messages:
                self.door.deliver(messages)
        except NotDelivered as error:
            self._fail(claim, str(error))
            return 0
        self._settle(claim, batch)
        return len(batch.rows)

    def _has_work(self) -> bool:
        """Looked at without a lock: most of the time there is none."""
        now = self.clock()
        with self.transactions.reading() as transaction:
            cursor = transaction.traces.cursor(NAME)
            if cursor is None:
                return True
            if not self._is_ours(cursor, now):
                return False
            traces = transaction.traces
            return traces.newest() > cursor.last_id or bool(traces.among(_missing(cursor, now), 1))

    def _is_ours(self, cursor: AuditCursor, now: datetime) -> bool:
        """It is time, and nobody else is at it; a lease of ours is one of a dead process of this node."""
        if cursor.due_at is not None and cursor.due_at > now:
            return False
        held = cursor.lease_until is not None and cursor.lease_until > now
        return not held or cursor.lease_owner == self.owner

    def _claim(self) -> _Claim | None:
        now = self.clock()
        with self.transactions.writing() as transaction:
            cursor = transaction.traces.cursor(NAME, lock=True) or _begin(transaction, now)
            if not self._is_ours(cursor, now):
                return None
            until = cursor.lease_until = now + LEASE
            cursor.lease_owner = self.owner
            claim = _Claim(until, cursor.last_id, _missing(cursor, now))
            transaction.commit()
        return claim

    def _messages(self, events: Iterable[Gathered]) -> Iterable[bytes]:
        for event in events:
            try:
                told = report(event, self.stage)
                yield _syslog(told, self.stage.source.host)
            except Exception as error:  # noqa: BLE001 an event that cannot be told must not hold up the others
                first, last = event[1][0], event[1][-1]
                self.alarm(
                    "audit_event_not_told",
                    rule=first.event,
                    text=f"rows {first.id} to {last.id} of the trace",
                    error=type(error).__name__,
                    exc_info=error,
                )

    def _settle(self, claim: _Claim, batch: _Batch) -> None:
        with self.transactions.writing() as transaction:
            cursor = self._still_ours(transaction, claim)
            if cursor is None:
                return  # the time was over: somebody else sends it again
            failed = cursor.failures
            cursor.last_id = batch.last_id
            cursor.missing = [(gap.first, gap.last, gap.seen.isoformat()) for gap in batch.missing]
            cursor.failures, cursor.failing_since, cursor.last_error, cursor.due_at = 0, None, None, None
            cursor.lease_owner = cursor.lease_until = None
            transaction.commit()
        if failed:
            self.log("audit_delivered_again", attempts=failed + 1)

    def _fail(self, claim: _Claim, reason: str) -> None:
        now = self.clock()
        with self.transactions.writing() as transaction:
            cursor = self._still_ours(transaction, claim)
            if cursor is None:
                return
            cursor.failures += 1
            cursor.failing_since = cursor.failing_since or now
            cursor.last_error = reason
            delay = timedelta(seconds=self.retry.delay(cursor.failures, self.chance()))
            cursor.due_at = now + delay
            cursor.lease_owner = cursor.lease_until = None
            failures = cursor.failures
            transaction.commit()
        self.alarm("audit_not_delivered", reason=reason, attempts=failures, seconds=delay.total_seconds())

    def _still_ours(self, transaction: Transaction, claim: _Claim) -> AuditCursor | None:
        cursor = transaction.traces.cursor(NAME, lock=True)
        ours = cursor is not None and (cursor.lease_owner, cursor.lease_until) == (self.owner, claim.until)
        return cursor if ours else None


def lag(transactions: Transactions) -> Lag:
    """How far the repository is behind the trace, for `drimbox status` and `/metrics`."""
    with transactions.reading() as transaction:
        newest, cursor = transaction.traces.newest(), transaction.traces.cursor(NAME)
        if cursor is None:
            return Lag(newest, 0, None, None)
        return Lag(newest - cursor.last_id, cursor.failures, cursor.failing_since, cursor.last_error)


def _begin(transaction: Transaction, now: datetime) -> AuditCursor:
    """The cursor of the first run: before what happened within `HISTORY`."""
    first = transaction.traces.first_since(now - HISTORY)
    cursor = AuditCursor(NAME, transaction.traces.newest() if first is None else first - 1)
    transaction.ledger.add(cursor)
    return cursor


def _missing(cursor: AuditCursor, now: datetime) -> list[Gap]:
    """The ids that may still appear."""
    gaps = [Gap(first, last, datetime.fromisoformat(seen)) for first, last, seen in cursor.missing]
    return [gap for gap in gaps if now - gap.seen < LATE]


def _read(transaction: Transaction, claim: _Claim, now: datetime) -> _Batch:
    late = transaction.traces.among(claim.missing, BATCH)
    rows = transaction.traces.after(claim.last_id, BATCH)
    ids = [row.id or 0 for row in rows]
    missing = [*without(claim.missing, (row.id or 0 for row in late)), *skipped(claim.last_id, ids, now)]
    last_id = ids[-1] if ids else claim.last_id
    return _Batch(tuple(_occurrences(transaction, (*late, *rows))), last_id, missing[-MOST_GAPS:])


def _occurrences(transaction: Transaction, rows: Sequence[TraceEntry]) -> Iterable[Occurrence]:
    lots = transaction.traces.submissions({row.submission_id for row in rows if row.submission_id})
    patients = transaction.traces.patients({row.study_instance_uid for row in rows if row.study_instance_uid})
    for row in rows:
        lot = lots.get(row.submission_id or "")
        yield Occurrence(
            row.id or 0,
            row.at,
            row.event,
            row.actor,
            row.study_instance_uid,
            row.detail,
            None if lot is None else Lot(lot.kind, lot.submission_set_uid),
            _patient(lot, patients.get(row.study_instance_uid or "")),
        )


def _patient(lot: Submission | None, known: tuple[str, str] | None) -> str | None:
    """Whom a lot was sent for; of everything else, whom the exam's reports are about."""
    identity = (lot.patient_ins, lot.patient_oid) if lot is not None else known
    return None if identity is None else Ins(*identity).cx


def _syslog(told: Report, host: str) -> bytes:
    return syslog_message(to_xml(told.message), told.message.at, host, told.message_id)
