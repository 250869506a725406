"""Segments of settled studies lose what nobody needs: rejected instances that are public nowhere.

What is copied is proven, then the rows move in one commit with a row of the trace, and the exam's revision grows:
whoever remembers places asks again. Old files stay for a grace, for those who began to read them before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

from dicom_store.paths import study_of_segment
from drimbox.domain.lifecycle import StudyState
from drimbox.flow import trace
from drimbox.flow.ports import Clock, Transaction, Transactions
from drimbox.flow.records import Exam
from drimbox.flow.steps import live_of, unfinished_of

LISTED = 100  # instances that a row of the trace names one by one


class SegmentUsage(Protocol):
    """What a sealed segment holds; opaque but for this."""

    @property
    def segment(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def needed(self) -> int: ...
    @property
    def waste(self) -> float: ...
    @property
    def going(self) -> Sequence[Any]: ...


class SettledSegment(Protocol):
    """What a compaction changed in the index."""

    @property
    def moved(self) -> int: ...
    @property
    def purged(self) -> tuple[str, ...]: ...
    @property
    def freed(self) -> int: ...


class Compactor(Protocol):
    """Copies and drops segments; see `dicom_store/compaction.py`. `session`: `Transaction.storage.session`."""

    def usages(
        self, session: Any, study: str, rejected_before: datetime | None
    ) -> Sequence[SegmentUsage]: ...
    def copied(self, usage: Any) -> AbstractContextManager[Any]: ...
    def settle(self, session: Any, copied: Any, at: datetime) -> SettledSegment: ...
    def retired(self, session: Any, before: datetime) -> Sequence[str]: ...
    def drop_retired(self, session: Any, segment: str, before: datetime) -> int: ...
    def sweep_study(self, session: Any, study: str) -> int: ...


@dataclass(frozen=True, slots=True)
class CompactedSegment:
    """One segment. `freed`: bytes that go after the grace; `purged`: instances; `trouble`: why nothing was done."""

    study: str
    segment: str
    size: int
    freed: int
    purged: int
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Compacting:
    """The parts that compaction needs.

    `share`: of a segment that nobody needs, 0 to 1, above which it is compacted; `rejected_keep`: how long rejected
    instances stay, None = for ever; `grace`: how long old files stay; `busy`: what `compactor` raises when somebody
    else has the segment, `troubled`: when it is damaged or there is no room.
    """

    transactions: Transactions
    compactor: Compactor
    clock: Clock
    actor: str
    share: float
    rejected_keep: timedelta | None
    grace: timedelta
    busy: tuple[type[Exception], ...]
    troubled: tuple[type[Exception], ...]
    log: Callable[..., Any]

    def plan(self) -> list[CompactedSegment]:
        """What `run` would do now. Nothing is written."""
        return [
            CompactedSegment(study, usage.segment, usage.size, usage.size - usage.needed, len(usage.going))
            for study in self._studies()
            for usage in self._wasteful(study)
        ]

    def run(self) -> Iterator[CompactedSegment]:
        """Compact what is wasteful, then drop what waited long enough. Raises `errors.Unavailable`."""
        for study in self._studies():
            for usage in self._wasteful(study):
                done = self._compact(study, usage)
                if done is not None:
                    yield done
            self._sweep(study)
        self.drop_retired()

    def run_due(self) -> int:
        """The worker's job: segments compacted. Raises `errors.Unavailable`."""
        return sum(not one.trouble for one in self.run())

    def drop_retired(self) -> int:
        """Delete the files that waited for the grace; bytes freed. Raises `errors.Unavailable`."""
        before = self.clock() - self.grace
        with self.transactions.reading() as transaction:
            segments = self.compactor.retired(transaction.storage.session, before)
        return sum(self._drop(segment, before) for segment in segments)

    def _drop(self, segment: str, before: datetime) -> int:
        """One by one: the doors write in between, and a file that cannot be deleted holds up no other."""
        try:
            with self.transactions.writing() as transaction:
                freed = self.compactor.drop_retired(transaction.storage.session, segment, before)
                transaction.commit()
        except self.troubled as error:
            study = study_of_segment(segment)
            self.log("segment_not_dropped", study=study, segment=segment, reason=str(error))
            return 0
        return freed

    def _studies(self) -> list[str]:
        """Where there may be waste."""
        with self.transactions.reading() as transaction:
            return list(transaction.storage.studies_with_rejections())

    def _wasteful(self, study: str) -> list[SegmentUsage]:
        now = self.clock()
        with self.transactions.reading() as transaction:
            exam = transaction.ledger.exam(study)
            if exam is None or not is_at_rest(transaction, exam):
                return []
            before = None if self.rejected_keep is None else now - self.rejected_keep
            before = before if _may_purge(transaction, exam) else None
            usages = self.compactor.usages(transaction.storage.session, study, before)
        return [usage for usage in usages if usage.waste > self.share]

    def _compact(self, study: str, usage: SegmentUsage) -> CompactedSegment | None:
        try:
            with self.compactor.copied(usage) as copied:
                settled = self._settle(study, usage, copied)
        except self.busy:
            return None
        except self.troubled as error:
            self.log("segment_not_compacted", study=study, segment=usage.segment, reason=str(error))
            return CompactedSegment(study, usage.segment, usage.size, 0, 0, str(error))
        if settled is None:
            return None
        return CompactedSegment(study, usage.segment, usage.size, settled.freed, len(settled.purged))

    def _settle(self, study: str, usage: SegmentUsage, copied: Any) -> SettledSegment | None:
        """Move the rows, unless the exam came to life meanwhile."""
        now = self.clock()
        with self.transactions.writing() as transaction:
            # the images first, then the exam: in the order in which instances lock them when they arrive
            settled = self.compactor.settle(transaction.storage.session, copied, now)
            exam = transaction.ledger.exam(study, lock=True)
            if exam is None or not is_at_rest(transaction, exam):
                return None
            if usage.going and not _may_purge(transaction, exam):
                return None
            exam.revision += 1  # whoever remembers where its images lie asks again
            exam.reconcile_at = now
            trace.note(
                transaction,
                "SEGMENT_COMPACTED",
                at=now,
                actor=self.actor,
                study=study,
                segment=usage.segment,
                moved=settled.moved,
                purged=list(settled.purged[:LISTED]),
                count=len(settled.purged),
                freed=settled.freed,
            )
            transaction.commit()
        return settled

    def _sweep(self, study: str) -> None:
        """Copies that a crash left."""
        with self.transactions.writing() as transaction:
            self.compactor.sweep_study(transaction.storage.session, study)


def is_at_rest(transaction: Transaction, exam: Exam) -> bool:
    """Whether the study is settled, judged, and nothing of it is on its way to the DMP."""
    if exam.state == StudyState.RECEIVING or exam.reconcile_at is not None:
        return False
    return unfinished_of(transaction.ledger.submissions_of(exam.study_instance_uid)) is None


def _may_purge(transaction: Transaction, exam: Exam) -> bool:
    """Whether no published manifest lists an instance that is rejected: none is public, or it is as it should be."""
    if live_of(transaction.ledger.submissions_of(exam.study_instance_uid)) is None:
        return True
    return exam.judged is not None and exam.judged.startswith(f"{exam.revision} ")
