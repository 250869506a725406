"""Are the images still as they were received? Study by study, at a bounded pace, taken up where it was cut short."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any, Protocol

from drimbox.flow import trace
from drimbox.flow.ports import Clock, Transactions

BATCH = 200  # studies asked for at once
LISTED = 100  # instances that a row of the trace names one by one
TOLD = 1000  # findings kept for the end of a run; all are counted
LOOKS = 3  # at a study that changes while it is looked at
LOSSES = ("missing", "damaged")


class Finding(Protocol):
    """See `dicom_store.verification.Finding`."""

    @property
    def kind(self) -> str: ...
    @property
    def sop_instance_uid(self) -> str: ...
    @property
    def reason(self) -> str: ...


class StudyCheck(Protocol):
    """What one study gave: records and bytes read, and what is wrong."""

    @property
    def records(self) -> int: ...
    @property
    def bytes(self) -> int: ...
    @property
    def findings(self) -> tuple[Any, ...]: ...


class Verifier(Protocol):
    """Reads and hashes; see `dicom_store/verification.py`."""

    def check(self, study: str, records: Sequence[Any], retired: frozenset[str]) -> StudyCheck: ...


@dataclass
class Progress:
    """How far a run came: `last` study done; what can be written down and read back (`asdict`)."""

    last: str = ""
    studies: int = 0
    records: int = 0
    bytes: int = 0
    counts: dict[str, int] = field(default_factory=lambda: {"missing": 0, "damaged": 0, "orphaned": 0})
    findings: list[dict[str, Any]] = field(default_factory=list)

    @property
    def lost(self) -> int:
        """Records that are missing or damaged."""
        return sum(self.counts[kind] for kind in LOSSES)

    def add(self, study: str, check: StudyCheck) -> None:
        """One study more."""
        self.last = study
        self.studies += 1
        self.records += check.records
        self.bytes += check.bytes
        for finding in check.findings:
            self.counts[finding.kind] += 1
            if len(self.findings) < TOLD:
                self.findings.append(asdict(finding))


@dataclass(frozen=True, slots=True)
class Verifying:
    """The parts that verification needs.

    `directories`: every study that has a directory on disk; `save`: keeps the progress durably; `tell`: hears of
    each study done.
    """

    transactions: Transactions
    verifier: Verifier
    directories: Callable[[], Iterable[str]]
    clock: Clock
    actor: str
    save: Callable[[Mapping[str, Any]], None]
    tell: Callable[[Progress], None]

    def study(self, study: str) -> Progress:
        """One study. Raises `errors.Unavailable`, OSError."""
        progress = Progress()
        self._look(study, progress)
        self._note_end(progress, study)
        return progress

    def everything(self, progress: Progress) -> Progress:
        """Every study after `progress.last`, then the directories that no study has. Raises as `study`."""
        while studies := self._next(progress.last):
            for study in studies:
                self._look(study, progress)
                self.save(asdict(progress))
        last = progress.last
        for study in self._strangers():
            self._look(study, progress)
        progress.last = last
        self._note_end(progress)
        return progress

    def _next(self, last: str) -> Sequence[str]:
        with self.transactions.reading() as transaction:
            return transaction.storage.studies_after(last, BATCH)

    def _strangers(self) -> Iterator[str]:
        """Directories of studies that the index does not know."""
        names = iter(self.directories())
        while some := list(islice(names, BATCH)):
            with self.transactions.reading() as transaction:
                known = transaction.storage.known_studies(some)
            yield from (study for study in some if study not in known)

    def _look(self, study: str, progress: Progress) -> None:
        check = self._check(study)
        progress.add(study, check)
        lost = [one for one in check.findings if one.kind in LOSSES]
        if lost:
            self._note_losses(study, lost)
        self.tell(progress)

    def _check(self, study: str) -> StudyCheck:
        """A fault counts only when the index still says the same after it was found: images arrive, and move."""
        for look in range(LOOKS):
            records, retired = self._recorded(study)
            check = self.verifier.check(study, records, retired)
            if not check.findings or look == LOOKS - 1 or (records, retired) == self._recorded(study):
                break
        return check

    def _recorded(self, study: str) -> tuple[Sequence[Any], frozenset[str]]:
        with self.transactions.reading() as transaction:
            return transaction.storage.records_of(study), transaction.storage.retired()

    def _note_losses(self, study: str, lost: Sequence[Finding]) -> None:
        counts = Counter(one.kind for one in lost)
        with self.transactions.writing() as transaction:
            trace.note(
                transaction,
                "STORAGE_DAMAGED",
                at=self.clock(),
                actor=self.actor,
                study=study,
                reason=", ".join(sorted({one.reason for one in lost})),
                instances=sorted({one.sop_instance_uid for one in lost})[:LISTED],
                missing=counts["missing"],
                damaged=counts["damaged"],
            )
            transaction.commit()

    def _note_end(self, progress: Progress, study: str | None = None) -> None:
        with self.transactions.writing() as transaction:
            trace.note(
                transaction,
                "STORAGE_VERIFIED",
                at=self.clock(),
                actor=self.actor,
                study=study,
                studies=progress.studies,
                records=progress.records,
                bytes=progress.bytes,
                missing=progress.counts["missing"],
                damaged=progress.counts["damaged"],
                orphaned=progress.counts["orphaned"],
            )
            transaction.commit()
