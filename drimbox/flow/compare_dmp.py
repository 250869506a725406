"""Does the DMP hold what our ledger calls published? One look-up (TD3.1b) for each manifest; nothing is changed.

What differs is told and traced; what to do about it is for an operator to decide.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

from drimbox.domain.lifecycle import SubmissionState
from drimbox.domain.vihf import VihfIdentity
from drimbox.domain.xds import vocabulary as v
from drimbox.domain.xds.outcome import Found, Lookup, NotFound
from drimbox.flow import trace
from drimbox.flow.ports import Clock, Transactions
from drimbox.flow.records import Submission

SILENCES = 3  # look-ups without an answer, one after the other: then the DMP is not asked any more

Kind = Literal["absent", "status", "entry", "unanswered"]


class Registry(Protocol):
    """The look-up of the DMP; see `adapters/dmp.py`."""

    def find(self, unique_id: str, identity: VihfIdentity) -> Lookup: ...


@dataclass(frozen=True, slots=True)
class Disagreement:
    """A manifest that is not at the DMP as the ledger says, or of which that could not be told ("unanswered")."""

    kind: Kind
    study: str
    kos_uid: str
    entry_uuid: str | None
    reason: str


@dataclass
class Comparison:
    """What was looked up, and what was not as it should be. `left_out`: not asked, the DMP being silent."""

    looked_up: int = 0
    left_out: int = 0
    findings: list[Disagreement] = field(default_factory=list)

    @property
    def agrees(self) -> bool:
        """Whether every manifest was looked up, and is there."""
        return not self.findings and not self.left_out


@dataclass(frozen=True, slots=True)
class Comparing:
    """The parts that the comparison needs. `pace`: waits before a look-up; `tell`: hears of each one done."""

    transactions: Transactions
    registry: Registry
    clock: Clock
    actor: str
    pace: Callable[[], None]
    tell: Callable[[Comparison], None]

    def run(self, study: str | None = None) -> Comparison:
        """Every published manifest, or that of one study. Raises `errors.Unavailable`."""
        found, silences = Comparison(), 0
        lots = self._published(study)
        for lot in lots:
            if silences == SILENCES:
                found.left_out = len(lots) - found.looked_up
                break
            differs = self._look(lot)
            found.looked_up += 1
            silences = silences + 1 if differs is not None and differs.kind == "unanswered" else 0
            if differs is not None:
                found.findings.append(differs)
            self.tell(found)
        self._note_end(found, study)
        return found

    def _published(self, study: str | None) -> list[Submission]:
        with self.transactions.reading() as transaction:
            return [
                lot
                for lot in transaction.ledger.published()
                if lot.state == SubmissionState.REGISTERED
                and lot.kind != "unpublish"
                and study in (None, lot.study_instance_uid)
            ]

    def _look(self, lot: Submission) -> Disagreement | None:
        self.pace()
        differs = judge(lot, self.registry.find(lot.kos_uid or "", VihfIdentity.from_json(lot.vihf)))
        if differs is None or not self._is_still_so(lot):
            return None
        if differs.kind != "unanswered":
            self._note(lot, differs)
        return differs

    def _is_still_so(self, lot: Submission) -> bool:
        """The worker publishes meanwhile: what it has changed since is no fault."""
        with self.transactions.reading() as transaction:
            now = transaction.ledger.submission(lot.id)
        return now is not None and (now.state, now.entry_uuid) == (lot.state, lot.entry_uuid)

    def _note(self, lot: Submission, differs: Disagreement) -> None:
        with self.transactions.writing() as transaction:
            trace.note(
                transaction,
                "DMP_DISAGREES",
                at=self.clock(),
                actor=self.actor,
                study=lot.study_instance_uid,
                submission=lot.id,
                kind=differs.kind,
                reason=differs.reason,
            )
            transaction.commit()

    def _note_end(self, found: Comparison, study: str | None) -> None:
        with self.transactions.writing() as transaction:
            trace.note(
                transaction,
                "DMP_COMPARED",
                at=self.clock(),
                actor=self.actor,
                study=study,
                looked_up=found.looked_up,
                findings=len(found.findings),
                left_out=found.left_out,
            )
            transaction.commit()


def judge(lot: Submission, lookup: Lookup) -> Disagreement | None:
    """What the registry's word means for a manifest that is published. An entryUUID not known yet is no fault."""

    def differs(kind: Kind, reason: str) -> Disagreement:
        return Disagreement(kind, lot.study_instance_uid, lot.kos_uid or "", lot.entry_uuid, reason)

    if isinstance(lookup, NotFound):
        return differs("absent", "the DMP does not hold it")
    if not isinstance(lookup, Found):
        return differs("unanswered", lookup.reason)
    if lookup.head.status != v.APPROVED:
        status = (lookup.head.status or "unknown").rpartition(":")[2]
        return differs("status", f"its status at the DMP is {status}")
    if lot.entry_uuid is not None and lookup.head.id != lot.entry_uuid:
        return differs("entry", f"its entryUUID at the DMP is {lookup.head.id}")
    return None
