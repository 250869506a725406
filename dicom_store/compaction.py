"""Sealed segments are rid of what nobody needs: the records that stay are copied, then the rows point to the copy.

Each step leaves a whole archive behind, wherever a crash stops it: the copy is journalled, durable and proven before
a row points to it; rows move in one transaction, in which the old segment is retired; its file goes later, when
nobody can be reading it any more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy.orm import Session

from dicom_store import index_segments
from dicom_store.archive import Archive
from dicom_store.index_segments import Recorded
from dicom_store.segment_care import SegmentBusy, SegmentCare, SegmentCopy
from dicom_store.segment_record import HEADER, SegmentAbsent, prove_instance


@dataclass(frozen=True, slots=True)
class Usage:
    """What a sealed segment holds. `staying`, `going`: its records by offset; sizes in bytes.

    `going`: rejected long ago enough. What is neither has no row: forgotten instances, copies that were moved.
    """

    study: str
    segment: str
    size: int
    staying: tuple[Recorded, ...]
    going: tuple[Recorded, ...]

    @property
    def needed(self) -> int:
        """Bytes of the records that stay."""
        return sum(one.end - one.start for one in self.staying)

    @property
    def waste(self) -> float:
        """Share of the file that nobody needs, 0 to 1."""
        return 1 - self.needed / self.size if self.size else 0.0


@dataclass(frozen=True, slots=True)
class Copied:
    """A usage, and where the copies of what stays are: `offsets` of the payloads in `segment`; "" = nothing stays."""

    usage: Usage
    segment: str = ""
    offsets: Sequence[int] = field(default=())


@dataclass(frozen=True, slots=True)
class Settled:
    """What a compaction changed. `purged`: SOP Instance UIDs whose rows are gone; `freed`: bytes, once dropped."""

    moved: int
    purged: tuple[str, ...]
    freed: int


class Compaction:
    """Looks after the segments of an archive. Opens no transaction; one object per process."""

    def __init__(self, archive: Archive, care: SegmentCare) -> None:
        self._archive = archive
        self._care = care

    def usages(self, session: Session, study: str, rejected_before: datetime | None) -> list[Usage]:
        """The sealed segments of a study. `rejected_before`: instances rejected since then may go; None = none may."""
        records = index_segments.records_of(session, study)
        found = []
        for segment in dict.fromkeys(one.segment for one in records):
            try:
                if self._care.is_sealed(segment):
                    held = [one for one in records if one.segment == segment]
                    found.append(_usage(study, segment, self._care.size(segment), held, rejected_before))
            except SegmentAbsent:  # `verify` says so; there is nothing to compact
                continue
        return found

    @contextmanager
    def copied(self, usage: Usage) -> Iterator[Copied]:
        """The records that stay, copied, durable and proven. Until the context ends the copy and the old are locked.

        Move the rows within it (`settle`, committed). A copy that no committed row points to is dropped by
        `sweep_study`, or by `Segments.recover` after a crash. Raises `SegmentBusy`, `SegmentDamaged` (nothing is
        changed: damage is never moved), `StorageFull`, OSError.
        """
        with self._care.sealed(usage.segment) as source:
            if not usage.staying:
                yield Copied(usage)
                return
            copy = self._care.begin_copy(usage.study, usage.needed)
            try:
                # never discarded from here on: a commit whose answer was lost may have pointed rows to it
                yield self._copy(usage, copy, source)
            finally:
                copy.close()

    def settle(self, session: Session, copied: Copied, at: datetime) -> Settled:
        """Point the rows to the copy, delete those of what goes, retire the old segment: all in this transaction.

        Raises `SegmentBusy` when a row that was not seen points to the old segment: roll back.
        """
        usage = copied.usage
        index_segments.lock_study(session, usage.study)
        places = zip(usage.staying, copied.offsets, strict=True)
        moved = sum(index_segments.move(session, one, copied.segment, offset) for one, offset in places)
        purged = index_segments.purge(session, usage.study, usage.going)
        if index_segments.in_use(session, usage.segment):
            raise SegmentBusy(usage.segment)
        index_segments.end_retirement(
            session, usage.segment
        )  # of a study forgotten while it was written: no grace
        index_segments.retire(session, usage.segment, usage.size, at)
        return Settled(moved, tuple(purged), usage.size - usage.needed)

    @staticmethod
    def retired(session: Session, before: datetime) -> list[str]:
        """The segments retired at `before` at the latest."""
        return sorted(index_segments.retired(session, before))

    def drop_retired(self, session: Session, segment: str, before: datetime) -> int:
        """Delete the file of a segment if it is still `retired`; bytes freed. In a writing transaction, committed."""
        row = session.get(index_segments.RetiredSegmentRow, segment)
        if row is None or row.retired_at > before:
            return 0
        freed = self._archive.drop(session, [segment])
        # of a forgotten study: its association wrote on. One that is left is locked by somebody: the next time
        if index_segments.in_use(session, segment) or not self._care.exists(segment):
            index_segments.end_retirement(session, segment)
        return freed

    def sweep_study(self, session: Session, study: str) -> int:
        """Drop the segments of a study that nothing points to and nobody writes; bytes freed. As `drop_retired`."""
        unused = {name for name in self._care.names_of(study) if not index_segments.in_use(session, name)}
        # asked last: what another node has just moved is retired by then
        return self._archive.drop(session, sorted(unused - index_segments.retired(session).keys()))

    def _copy(self, usage: Usage, copy: SegmentCopy, source: int) -> Copied:
        try:
            begins = [copy.take(source, one.start, one.end) for one in usage.staying]
            offsets = [begin + HEADER.size for begin in begins]
            descriptor = copy.finish()
            for one, offset in zip(usage.staying, offsets, strict=True):
                prove_instance(descriptor, offset, one.length, one.sha256, one.metadata_length)
        except BaseException:
            copy.discard()
            raise
        return Copied(usage, copy.segment, offsets)


def _usage(
    study: str, segment: str, size: int, held: Sequence[Recorded], rejected_before: datetime | None
) -> Usage:
    staying = tuple(one for one in held if not _may_go(one, rejected_before))
    going = tuple(one for one in held if _may_go(one, rejected_before))
    return Usage(study, segment, size, staying, going)


def _may_go(one: Recorded, rejected_before: datetime | None) -> bool:
    if one.rejected is None or one.rejected_at is None or rejected_before is None:
        return False
    return one.rejected_at <= rejected_before
