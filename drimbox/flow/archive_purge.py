"""Retention: the documents of lots that ended long ago are deleted; rows, states and trace stay, and answer.

A document is deleted only when no other row names it. The files go first, the note after: a purge that was cut short
is done again, and finds nothing that is missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from drimbox.flow import trace
from drimbox.flow.ports import Clock, Transaction, Transactions
from drimbox.flow.records import Submission

PURGED = "PURGED"
# What a trace row may name in the document store: the answer of the DMP, the CR.TXT of an import.
_EVIDENCE = ("answer", "reference")


class Forgetting(Protocol):
    """Documents that can be deleted; one that is not there is no error."""

    def forget(self, digest: str) -> bool: ...


@dataclass(frozen=True, slots=True)
class PurgedLot:
    """A lot and its documents: `deleted` now (or would be), `kept` because another row names them; digests."""

    submission_id: str
    study_instance_uid: str
    kos_uid: str | None
    state: str
    deleted: tuple[str, ...]
    kept: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Purging:
    """The parts that purging needs."""

    transactions: Transactions
    documents: Forgetting
    clock: Clock
    actor: str

    def plan(self, older_than: timedelta) -> list[PurgedLot]:
        """The lots that ended longer ago than that, and what would go. Nothing is written."""
        with self.transactions.reading() as transaction:
            lots = transaction.lots.ended_before(self.clock() - older_than)
            documents = {lot.id: _documents_of(transaction, lot) for lot in lots}
            every = {digest for digests in documents.values() for digest in digests}
            kept = transaction.lots.named_elsewhere(every, documents.keys())
        return [_purged(lot, documents[lot.id], kept) for lot in lots]

    def run(self, older_than: timedelta) -> Iterator[PurgedLot]:
        """Do what `plan` says, lot by lot. Raises `errors.Unavailable`."""
        for lot in self.plan(older_than):
            for digest in lot.deleted:
                self.documents.forget(digest)
            with self.transactions.writing() as transaction:
                trace.note(
                    transaction,
                    PURGED,
                    at=self.clock(),
                    actor=self.actor,
                    study=lot.study_instance_uid,
                    submission=lot.submission_id,
                    kos=lot.kos_uid,
                    deleted=len(lot.deleted),
                    kept=len(lot.kept),
                )
                transaction.commit()
            yield lot


def _documents_of(transaction: Transaction, lot: Submission) -> Sequence[str]:
    named = [lot.kos, lot.signature, lot.request]
    for entry in transaction.ledger.trace_of(lot.study_instance_uid):
        if entry.submission_id == lot.id:
            named += [entry.detail.get(name) for name in _EVIDENCE]
    return tuple(dict.fromkeys(digest for digest in named if digest))


def _purged(lot: Submission, documents: Sequence[str], kept: set[str]) -> PurgedLot:
    return PurgedLot(
        lot.id,
        lot.study_instance_uid,
        lot.kos_uid,
        lot.state,
        tuple(digest for digest in documents if digest not in kept),
        tuple(digest for digest in documents if digest in kept),
    )
