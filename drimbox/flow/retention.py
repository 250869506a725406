"""Retention of images: plan which exams lose theirs, then forget them one by one, each decided again under its locks.

Every exam is a commit of its own: a run that was cut short is taken up by the next one. Nothing of a plan is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from datetime import datetime

from drimbox.domain.retention import Forget, HeldExam, Keep, RetentionPolicy, retention
from drimbox.flow.exams import UnknownExam
from drimbox.flow.forget_images import NothingToForget, StillPublic, forget_images
from drimbox.flow.ports import Clock, Transaction, Transactions

BATCH = 500  # exams looked at in one transaction


class Kept(Exception):
    """What the plan let go must stay: something happened since. `keep`: why."""

    def __init__(self, keep: Keep) -> None:
        super().__init__(keep.reason)
        self.keep = keep


@dataclass(frozen=True, slots=True)
class Going:
    """An exam whose images may go: `instances` of `bytes`, by `rule`."""

    study: str
    rule: str
    reason: str
    changed_at: datetime
    instances: int
    bytes: int


@dataclass(slots=True)
class Sum:
    """Exams that a rule keeps, and the bytes of their images."""

    exams: int = 0
    bytes: int = 0


@dataclass(slots=True)
class RetentionPlan:
    """What may go, and by rule what stays. `left_out`: what may go too, beyond the limit."""

    going: list[Going] = field(default_factory=list)
    kept: dict[str, Sum] = field(default_factory=dict)
    left_out: Sum = field(default_factory=Sum)


@dataclass(frozen=True, slots=True)
class Gone:
    """What became of one exam. `freed`: bytes of files, the rest goes later; `kept`: why it stays after all, or ""."""

    study: str
    rule: str
    instances: int
    bytes: int
    freed: int
    kept: str = ""


@dataclass(frozen=True, slots=True)
class Retaining:
    """The parts that retention needs. `done(bytes)` hears of every exam of a plan that was settled."""

    transactions: Transactions
    policy: RetentionPolicy
    clock: Clock
    actor: str
    done: Callable[[int], None] = lambda _bytes: None

    def plan(self, limit: int | None = None) -> RetentionPlan:
        """Every exam whose images are here, judged now. `limit`: exams that may go, at most. Nothing is written."""
        found, last, now = RetentionPlan(), "", self.clock()
        while exams := self._next(last):
            for exam in exams:
                self._judge(exam, now, found, limit)
            last = exams[-1].study_instance_uid
        return found

    def run(self, plan: RetentionPlan) -> Iterator[Gone]:
        """Forget what may still go. Raises `errors.Unavailable`."""
        for going in plan.going:
            gone = self._forget(going)
            self.done(going.bytes)
            if gone is not None:
                yield gone

    def run_due(self) -> int:
        """The worker's job: exams whose images went. Raises `errors.Unavailable`."""
        return sum(not gone.kept for gone in self.run(self.plan()))

    def _next(self, last: str) -> list[HeldExam]:
        with self.transactions.reading() as transaction:
            return list(transaction.retention.held_exams(last, BATCH))

    def _judge(self, exam: HeldExam, now: datetime, found: RetentionPlan, limit: int | None) -> None:
        verdict = retention(exam, self.policy, now)
        if isinstance(verdict, Keep):
            counted = found.kept.setdefault(verdict.rule, Sum())
        elif limit is not None and len(found.going) >= limit:
            counted = found.left_out
        else:
            study, size = exam.study_instance_uid, exam.bytes
            going = Going(study, verdict.rule, verdict.reason, exam.changed_at, exam.instances, size)
            found.going.append(going)
            return
        counted.exams += 1
        counted.bytes += exam.bytes

    def _forget(self, going: Going) -> Gone | None:
        """None: somebody was faster."""
        now = self.clock()

        def still(transaction: Transaction, instances: Collection[str]) -> None:
            verdict = retention(transaction.retention.held_exam(going.study, instances), self.policy, now)
            if not isinstance(verdict, Forget):
                raise Kept(verdict)

        reason = f"retention: {going.reason}"
        try:
            gone = forget_images(
                self.transactions,
                going.study,
                now=now,
                actor=self.actor,
                reason=reason,
                rule=going.rule,
                may_go=still,
            )
        except (Kept, StillPublic) as error:
            return Gone(going.study, going.rule, 0, 0, 0, str(error))
        except (NothingToForget, UnknownExam):
            return None
        return Gone(going.study, going.rule, gone.instances, gone.bytes, gone.freed)
