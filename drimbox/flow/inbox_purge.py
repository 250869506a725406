"""Retention of the inbox: the bytes of old messages are deleted; verdict, answer and accepted CDA stay.

The files of a message go first, the note that they are gone after: a purge that was cut short goes on where it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

from drimbox.flow import trace
from drimbox.flow.archive_purge import Forgetting
from drimbox.flow.ports import Clock, Transactions
from drimbox.flow.records import Message

PURGED = "INBOX_PURGED"
_BATCH = 5_000  # messages looked at with one search for what else names their bytes
_SLICE = 100  # messages whose files are deleted under one transaction: it holds up the doors
# Between the arrival of a message and the commit of its row, by far: locks are waited for in between
_UNDER_WAY = timedelta(minutes=15)


@dataclass(frozen=True, slots=True)
class PurgedMessages:
    """How many messages lost their bytes, and how many documents that were."""

    messages: int = 0
    documents: int = 0


@dataclass(frozen=True, slots=True)
class InboxPurging:
    """The parts that purging needs. `keep`: how long bytes are kept, None = for ever."""

    transactions: Transactions
    documents: Forgetting
    clock: Clock
    actor: str
    keep: timedelta | None

    def plan(self) -> PurgedMessages:
        """What would go now. Nothing is written."""
        messages, documents = 0, set[str]()
        for batch, named in self._batches():
            messages += len(batch)
            documents |= _digests(batch) - named
        return PurgedMessages(messages, len(documents))

    def purge_due(self) -> int:
        """Delete what is due and return the number of messages: the worker's daily job. Raises `errors.Unavailable`."""
        return self.run().messages

    def run(self) -> PurgedMessages:
        """Do what `plan` says; one row in the trace. Raises `errors.Unavailable`."""
        messages = documents = 0
        try:
            for batch, named in self._batches():
                for start in range(0, len(batch), _SLICE):
                    part = batch[start : start + _SLICE]
                    documents += self._delete(part, named)
                    messages += len(part)
        finally:
            if messages:
                self._note(messages, documents)
        return PurgedMessages(messages, documents)

    def _batches(self) -> Iterator[tuple[Sequence[Message], set[str]]]:
        """Messages that are due, with those of their digests that another row names."""
        if self.keep is None:
            return
        instant, last, seen = self.clock() - self.keep, None, set[str]()
        while True:
            with self.transactions.reading() as transaction:
                batch = transaction.inbox.received_before(instant, _BATCH, last)
                if not batch:
                    return
                seen |= {message.id for message in batch}
                named = transaction.lots.named_elsewhere(_digests(batch), seen)
            yield batch, named
            last = batch[-1]

    def _delete(self, messages: Sequence[Message], named: set[str]) -> int:
        now = self.clock()
        with self.transactions.writing() as transaction:
            # the same bytes may have come again since `named` was asked, or be coming (`Reception`)
            transaction.ledger.take_turns(_digests(messages))
            spared = named | transaction.inbox.named_since(now - _UNDER_WAY)
            deleted = sum(self.documents.forget(digest) for digest in sorted(_digests(messages) - spared))
            transaction.inbox.mark_purged([message.id for message in messages], now)
            transaction.commit()
        return deleted

    def _note(self, messages: int, documents: int) -> None:
        with self.transactions.writing() as transaction:
            trace.note(
                transaction, PURGED, at=self.clock(), actor=self.actor, messages=messages, documents=documents
            )
            transaction.commit()


def _digests(messages: Iterable[Message]) -> set[str]:
    return {digest for message in messages for digest in (message.content, message.document) if digest}
