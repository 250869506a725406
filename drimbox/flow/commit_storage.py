"""Storage commitment (PS3.4 J): keep the question, judge it on disk, bring the answer, until it was taken.

The question is durable before it is answered 0x0000. Its answer goes back on the association that asked while that
is open, else on a new one to the address of the asker (`peers`). A claim moves the due time ahead in a commit of its
own, so that whoever dies in between leaves the request to be taken up again when that time has come: the answer is
given at least once. The same question again is answered again; the same Transaction UID for other instances, or from
somebody else, is a duplicate (0x0131).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

from dicom_store.commitment import Asked, CommitmentRequest, CommitmentResult, Known, Reason, judge
from drimbox.domain.errors import Unavailable
from drimbox.domain.retry import RetryPolicy
from drimbox.flow import trace
from drimbox.flow.ports import Clock, StoredRecord, Transaction, Transactions
from drimbox.flow.records import Commitment

BATCH = 20
LISTED = 100  # instances that a row of the trace names one by one
LEASE = timedelta(minutes=15)  # longer than a thousand large instances take to be read
LATER = timedelta(minutes=10)
PATIENCE = timedelta(days=7)

SameAssociation = Callable[[CommitmentResult], bool]


class Proof(Protocol):
    """Reads an instance from disk and computes its hash again."""

    def proves(self, one: Any) -> bool:
        """Whether it is there as it was received. Raises OSError when that cannot be told."""


class NotDelivered(Exception):
    """The answer was not taken; the message says why, without data."""


class ReportDoor(Protocol):
    """New associations to those who asked."""

    def deliver(self, address: tuple[str, int], ae_title: str, result: CommitmentResult) -> None:
        """N-EVENT-REPORT on an association of ours. Raises `NotDelivered`."""


@dataclass(frozen=True, slots=True)
class _Case:
    """A request that is ours to answer until `until`. `results`: None = to be judged."""

    id: str
    ae_title: str
    transaction_uid: str
    asked: tuple[Asked, ...]
    results: tuple[Reason, ...] | None
    until: datetime


@dataclass(frozen=True, slots=True)
class CommittingStorage:
    """The parts that storage commitment needs.

    `peers`: host and port of an AE title, for answers on an association of ours; `actor` is named in the trace;
    `chance` gives jitter in [0, 1); `alarm` tells of damage and of our own defects.
    """

    transactions: Transactions
    proof: Proof
    door: ReportDoor
    peers: Mapping[str, tuple[str, int]]
    retry: RetryPolicy
    actor: str
    chance: Callable[[], float]
    clock: Clock
    new_id: Callable[[], str]
    log: Callable[..., Any]
    alarm: Callable[..., Any]

    def receive(self, request: CommitmentRequest, ae_title: str, address: str) -> tuple[str, datetime]:
        """Keep a request durably: its id, and when others may take it up. Raises `errors.Unavailable`."""
        now = self.clock()
        with self.transactions.writing() as transaction:
            transaction.ledger.take_turns([request.transaction_uid])
            before = transaction.storage.commitments_of(request.transaction_uid)
            same = [one for one in before if (one.ae_title, one.key) == (ae_title, request.key)]
            row = same[0] if same else _new(self.new_id(), request, ae_title, duplicate=bool(before))
            _ask(row, request, address, now)
            if not same:
                transaction.ledger.add(row)
            trace.note(
                transaction,
                "COMMITMENT_ASKED",
                at=now,
                actor=f"pacs:{ae_title}@{address}",
                transaction_uid=request.transaction_uid,
                count=len(request.references),
                repeated=bool(same),
                duplicate=row.duplicate,
            )
            transaction.commit()
        return row.id, now + LEASE

    def run_due(self) -> int:
        """Look at every request that is due, oldest first, `BATCH` at most; returns how many."""
        with self.transactions.reading() as transaction:
            due = [one.id for one in transaction.storage.due_commitments(self.clock(), BATCH)]
        for commitment_id in due:
            try:
                self.run(commitment_id)
            except Unavailable:
                raise
            except Exception as error:  # noqa: BLE001 one request that cannot be answered must not hold up the others
                self._set_aside(commitment_id, error)
        return len(due)

    def run(
        self, commitment_id: str, held: datetime | None = None, same: SameAssociation | None = None
    ) -> None:
        """Answer one request if it is due, or still as we held it since `receive`; `same`: the association that asked.

        Raises `errors.Unavailable`.
        """
        case = self._claim(commitment_id, held)
        if case is None:
            return
        if case.results is None:
            judged = self._judge(case)
            if judged is None:
                return
            case = judged
        result = CommitmentResult(
            case.transaction_uid, tuple(zip(case.asked, case.results or (), strict=True))
        )
        self._settle(case, self._speak(case, result, same), result)

    def _claim(self, commitment_id: str, held: datetime | None) -> _Case | None:
        now = self.clock()
        with self.transactions.writing() as transaction:
            row = transaction.storage.commitment(commitment_id)
            if row is None or row.due_at is None or not (row.due_at <= now or row.due_at == held):
                return None
            row.attempts += 1
            row.due_at = now + LEASE
            transaction.commit()
        results = None if row.results is None else tuple(map(Reason, row.results))
        asked = tuple(Asked(*pair) for pair in row.asked)
        return _Case(row.id, row.ae_title, row.transaction_uid, asked, results, row.due_at)

    def _judge(self, case: _Case) -> _Case | None:
        """Read what is asked for; the results are kept, with a row of the trace for each study. None: lease lost."""
        with self.transactions.reading() as transaction:
            found = transaction.storage.records_named({one.sop_instance_uid for one in case.asked})
        results = tuple(self._look(one, found.get(one.sop_instance_uid)) for one in case.asked)
        now = self.clock()
        with self.transactions.writing() as transaction:
            row = transaction.storage.commitment(case.id)
            if row is None or row.due_at != case.until:
                return None  # the time was over: somebody else judges it
            row.results, row.due_at = [int(one) for one in results], now + LEASE
            for study, judged in _by_study(case.asked, results, found).items():
                self._trace_judged(transaction, case, study, judged, now)
            transaction.commit()
        return _Case(case.id, case.ae_title, case.transaction_uid, case.asked, results, row.due_at)

    def _look(self, asked: Asked, found: tuple[str, StoredRecord] | None) -> Reason:
        if found is None:
            return judge(asked, None)
        study, record = found
        known = Known(record.sop_class_uid, record.rejected is not None, proven=False)
        if judge(asked, known) is not Reason.PROCESSING_FAILURE:
            return judge(asked, known)  # no need to read it
        try:
            proven = self.proof.proves(record)
        except OSError as error:
            self.log("commitment_unreadable", study=study, reason=error.strerror)
            proven = False
        return judge(asked, Known(record.sop_class_uid, rejected=False, proven=proven))

    def _trace_judged(
        self,
        transaction: Transaction,
        case: _Case,
        study: str | None,
        judged: Sequence[tuple[Asked, Reason]],
        now: datetime,
    ) -> None:
        failed = [(one.sop_instance_uid, f"{why:04X}") for one, why in judged if why is not Reason.COMMITTED]
        trace.note(
            transaction,
            "COMMITMENT_JUDGED",
            at=now,
            actor=self.actor,
            study=study,
            transaction_uid=case.transaction_uid,
            committed=len(judged) - len(failed),
            failed=len(failed),
            instances=failed[:LISTED],
        )
        spoilt = [one.sop_instance_uid for one, why in judged if why is Reason.PROCESSING_FAILURE]
        if spoilt:
            self.alarm("storage_damaged", study=study, count=len(spoilt))
            trace.note(
                transaction,
                "STORAGE_DAMAGED",
                at=now,
                actor=self.actor,
                study=study,
                reason="asked for by storage commitment, not on disk as received",
                count=len(spoilt),
                instances=spoilt[:LISTED],
            )

    def _speak(self, case: _Case, result: CommitmentResult, same: SameAssociation | None) -> str | None:
        """None: the answer was taken; else why not."""
        if same is not None and same(result):
            return None
        address = self.peers.get(case.ae_title)
        if address is None:
            return f"no address for {case.ae_title} (dicom.peers)"
        try:
            self.door.deliver(address, case.ae_title, result)
        except NotDelivered as error:
            return str(error)
        return None

    def _settle(self, case: _Case, trouble: str | None, result: CommitmentResult) -> None:
        now = self.clock()
        with self.transactions.writing() as transaction:
            row = transaction.storage.commitment(case.id)
            if row is None or row.due_at != case.until:
                return
            row.last_error = trouble
            if trouble is None:
                row.delivered_at, row.due_at, row.asked, row.results = now, None, [], None
                self._trace(transaction, "COMMITMENT_REPORTED", row, now, event_type=result.event_type)
            elif case.ae_title not in self.peers or now - (row.received_at or now) >= PATIENCE:
                row.given_up_at, row.due_at, row.asked, row.results = now, None, [], None
                self._trace(transaction, "COMMITMENT_GIVEN_UP", row, now, reason=trouble)
            else:
                row.due_at = now + timedelta(seconds=self.retry.delay(row.attempts, self.chance()))
            transaction.commit()
        outcome = "reported" if trouble is None else "given-up" if row.due_at is None else "later"
        self.log("commitment_answered", outcome=outcome, attempts=row.attempts, reason=trouble)

    def _trace(
        self, transaction: Transaction, event: str, row: Commitment, now: datetime, **detail: Any
    ) -> None:
        trace.note(
            transaction,
            event,
            at=now,
            actor=self.actor,
            transaction_uid=row.transaction_uid,
            peer=row.ae_title,
            attempts=row.attempts,
            **detail,
        )

    def _set_aside(self, commitment_id: str, error: Exception) -> None:
        """A defect of ours: said in the log, looked at again later."""
        self.alarm("commitment_failed", error=type(error).__name__, exc_info=error)
        with self.transactions.writing() as transaction:
            row = transaction.storage.commitment(commitment_id)
            if row is not None and row.due_at is not None:
                row.due_at = self.clock() + LATER
                row.last_error = f"a defect of the appliance: {type(error).__name__}"
            transaction.commit()


def _new(row_id: str, request: CommitmentRequest, ae_title: str, *, duplicate: bool) -> Commitment:
    return Commitment(row_id, request.transaction_uid, ae_title, request.key, duplicate=duplicate)


def _ask(row: Commitment, request: CommitmentRequest, address: str, now: datetime) -> None:
    """The question of a row is put, for the first time or again."""
    row.address, row.received_at, row.due_at = address, now, now + LEASE
    row.asked = [[one.sop_class_uid, one.sop_instance_uid] for one in request.references]
    row.results = [int(Reason.DUPLICATE_TRANSACTION)] * len(row.asked) if row.duplicate else None
    row.delivered_at = row.given_up_at = row.last_error = None
    row.attempts = 0


def _by_study(
    asked: Sequence[Asked], results: Sequence[Reason], found: Mapping[str, tuple[str, Any]]
) -> Mapping[str | None, list[tuple[Asked, Reason]]]:
    """Judgements by study; None: those that are not here."""
    studies: dict[str | None, list[tuple[Asked, Reason]]] = defaultdict(list)
    for one, reason in zip(asked, results, strict=True):
        known = found.get(one.sop_instance_uid)
        studies[known[0] if known else None].append((one, reason))
    return studies
