"""What the index promises, held against the bytes: every record is read and hashed again, strangers are told.

Reads only. `damaged` and `missing` are losses; `orphaned` bytes are not: nothing points to them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from dicom_store.index_segments import Recorded
from dicom_store.segment_care import SegmentCare
from dicom_store.segment_record import (
    CHUNK_BYTES,
    HEADER,
    LOST,
    Kind,
    SegmentAbsent,
    SegmentDamaged,
    check_record,
    prove,
    read_fully,
)


class Pace:
    """Holds reading down to so many bytes per second; 0 = as fast as it goes. `now` and `sleep` in seconds."""

    def __init__(
        self,
        bytes_per_second: float,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._rate = bytes_per_second
        self._now = now
        self._sleep = sleep
        self._free_at = now()

    def __call__(self, count: int) -> None:
        """`count` bytes were read: wait until that many may have been."""
        if self._rate <= 0:
            return
        instant = self._now()
        # an idle time is no credit: it would be spent in one burst
        self._free_at = max(self._free_at, instant) + count / self._rate
        if self._free_at > instant:
            self._sleep(self._free_at - instant)


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it should be. `sop_instance_uid`: "" for bytes that no row points to."""

    kind: Literal["missing", "damaged", "orphaned"]
    study: str
    segment: str
    sop_instance_uid: str
    offset: int
    length: int
    reason: str


@dataclass(frozen=True, slots=True)
class StudyCheck:
    """One study. `bytes`: read and hashed, of `records` instances."""

    records: int
    bytes: int
    findings: tuple[Finding, ...]


class Verifier:
    """Verifies the segments under one root. `pace` is told of every byte read, and may wait."""

    def __init__(self, care: SegmentCare, pace: Callable[[int], None]) -> None:
        self._care = care
        self._pace = pace

    def proves(self, one: Recorded) -> bool:
        """Whether the file of an instance is on disk as it was received. Raises OSError when that cannot be told."""
        try:
            with self._care.opened(one.segment) as descriptor:
                prove(descriptor, one.offset, one.length, one.sha256, Kind.DICOM_FILE, self._pace)
        except SegmentDamaged:
            return False
        return True

    def read(self, one: Recorded) -> Iterator[bytes]:
        """The DICOM file of an instance, a mebibyte at a time. Raises `SegmentDamaged`, OSError."""
        with self._care.opened(one.segment) as descriptor:
            check_record(descriptor, one.offset, one.length)
            for offset in range(one.offset, one.offset + one.length, CHUNK_BYTES):
                yield read_fully(descriptor, offset, min(CHUNK_BYTES, one.offset + one.length - offset))

    def check(self, study: str, records: Sequence[Recorded], retired: frozenset[str]) -> StudyCheck:
        """Every record of a study, and what else its directory holds. `records`: by segment and offset.

        `retired`: segments that are known to wait for their end. Raises OSError when something else than the bytes
        is in the way: no access, no descriptors.
        """
        findings: list[Finding] = []
        for segment, held in groupby(records, lambda one: one.segment):
            findings += self._segment(study, segment, list(held))
        known = {one.segment for one in records} | retired
        findings += [
            found
            for name in self._care.names_of(study)
            if name not in known
            for found in self._stray(study, name)
        ]
        size = sum(one.length + (one.metadata_length or 0) for one in records)
        return StudyCheck(len(records), size, tuple(findings))

    def _segment(self, study: str, segment: str, records: Sequence[Recorded]) -> Iterator[Finding]:
        try:
            sealed = self._care.is_sealed(segment)
            with self._care.opened(segment) as descriptor:
                for one in records:
                    yield from self._record(study, descriptor, one)
                if sealed:
                    yield from _gaps(study, segment, records, self._care.size(segment))
        except SegmentAbsent as error:
            for one in records:
                yield _finding("missing", study, one, str(error))
        except SegmentDamaged as error:
            for one in records:
                yield _finding("damaged", study, one, str(error))

    def _record(self, study: str, descriptor: int, one: Recorded) -> Iterator[Finding]:
        """A fault of the file is one of the instance; its JSON is only a copy of what the file says."""
        fault = self._fault(descriptor, one.offset, one.length, one.sha256, Kind.DICOM_FILE)
        if fault:
            yield _finding("damaged", study, one, fault)
        if one.metadata_length is None:
            return
        behind = one.offset + one.length + HEADER.size
        fault = self._fault(descriptor, behind, one.metadata_length, None, Kind.DICOM_JSON)
        if fault:
            yield _finding("damaged", study, one, f"its DICOM JSON: {fault}")

    def _fault(self, descriptor: int, offset: int, length: int, sha256: str | None, kind: Kind) -> str:
        """Why a record is not as it was written, or ""."""
        try:
            prove(descriptor, offset, length, sha256, kind, self._pace)
        except SegmentDamaged as error:
            return str(error)
        except OSError as error:
            if error.errno not in LOST:
                raise
            return f"cannot be read: {error.strerror}"
        return ""

    def _stray(self, study: str, segment: str) -> Iterator[Finding]:
        """A segment that no row points to, unless somebody writes it now or has dropped it meanwhile."""
        try:
            if self._care.is_sealed(segment):
                yield _orphan(study, segment, 0, self._care.size(segment), "no row points to this segment")
        except SegmentAbsent:
            return


def _gaps(study: str, segment: str, records: Sequence[Recorded], size: int) -> Iterator[Finding]:
    """The bytes of a sealed segment that belong to no row."""
    position = 0
    for one in records:
        if one.start > position:
            yield _orphan(study, segment, position, one.start - position, "no row points to these bytes")
        position = max(position, one.end)
    if size > position:
        yield _orphan(study, segment, position, size - position, "no row points to these bytes")


def _finding(kind: Literal["missing", "damaged"], study: str, one: Recorded, reason: str) -> Finding:
    return Finding(kind, study, one.segment, one.sop_instance_uid, one.offset, one.length, reason)


def _orphan(study: str, segment: str, offset: int, length: int, reason: str) -> Finding:
    return Finding("orphaned", study, segment, "", offset, length, reason)
