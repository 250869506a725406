"""Put, reject, snapshot, read, forget: segments and index together, under the caller's session and transaction."""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from sys import intern
from types import TracebackType

from sqlalchemy.orm import Session

from dicom_store import index_notes, index_queries, index_studies, metadata
from dicom_store.index_notes import Rejected
from dicom_store.index_queries import IndexedInstance, Place
from dicom_store.index_studies import Forgotten
from dicom_store.instance import InstanceHeader
from dicom_store.part10 import file_start
from dicom_store.rejection import KEY_OBJECT_SELECTION, REASONS, RejectionNote, read_note
from dicom_store.scanner import Buffer
from dicom_store.segment_record import Kind, SegmentDamaged
from dicom_store.segment_source import SegmentSource
from dicom_store.segment_writer import SegmentWriter, metadata_offset
from dicom_store.segments import Recovered, Segments
from dicom_store.status import Outcome, StoreRefused
from dicom_store.study import InstanceRef, KeyImageNote, StudySnapshot

OPEN_SEGMENTS = 8  # per association: one that interleaves more studies begins new segments
SEGMENT_BYTES = 1024**3  # a longer segment is left for a new one
log = logging.getLogger(__name__)


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class StoredInstance:
    """What a retrieval needs of an instance: where its DICOM file of `length` bytes is.

    `rejected`: code of `rejection.REASONS`, which say whether it may still be served; None = not rejected.
    `metadata_length`: of its DICOM JSON, see `Archive.metadata_extent`; None = made on demand. `sha256`: of the
    file, in hexadecimal; `bits_allocated`: None = no pixels, or not known.
    """

    ref: InstanceRef
    series_uid: str
    segment: str
    offset: int
    length: int
    sha256: str
    rejected: str | None = None
    metadata_length: int | None = None
    bits_allocated: int | None = None


class Archive:
    """The images under one root. Opens no transaction; one object per process, for all its threads."""

    def __init__(self, root: Path, minimum_free_bytes: int, clock: Callable[[], datetime] = _now) -> None:
        self._segments = Segments(root, minimum_free_bytes)
        self._clock = clock

    @staticmethod
    def digest(data_set: Buffer) -> str:
        """SHA-256 of a data set as received, in hexadecimal: equal for two copies of an instance."""
        return hashlib.sha256(data_set).hexdigest()

    def writer(self, source_ae_title: str = "") -> ImageWriter:
        """A writer for one association (a context manager). Close it after the last transaction ended."""
        return ImageWriter(self._segments, source_ae_title)

    def recognise(self, session: Session, header: InstanceHeader, data_set_sha256: str) -> Outcome | None:
        """Before any byte is written: None = to be written and indexed, DUPLICATE = kept already, readable.

        None also for what was rejected and comes back by being stored again (`rejection.REASONS`). Raises
        `StoreRefused` (DIFFERENT_BYTES) when the UID is known for something else.
        """
        known = index_queries.find(session, header.SOPInstanceUID)
        if known is None:
            return None
        _require_same(known, header, data_set_sha256)
        if _returns(known):
            return None
        place = known.place
        return Outcome.DUPLICATE if self._segments.holds(place.segment, place.offset, place.length) else None

    @staticmethod
    def note_of(header: InstanceHeader, data_set: Buffer) -> RejectionNote | KeyImageNote | None:
        """What an instance says of others, if it is a note. Raises `StoreRefused` as `rejection.read_note`."""
        if header.SOPClassUID != KEY_OBJECT_SELECTION:
            return None
        return read_note(data_set, header.TransferSyntaxUID)

    def index(
        self,
        session: Session,
        header: InstanceHeader,
        stored: Place,
        note: RejectionNote | KeyImageNote | None = None,
    ) -> Outcome:
        """Write the rows of what `ImageWriter.append` stored: STORED, or DUPLICATE when another was first.

        `note`: what `note_of` says of it; a rejection takes effect by `reject`, in the same transaction. An
        instance that a note rejected before it came is hidden at once. STORED also when a rejected instance
        comes back. A row whose bytes are lost is pointed to these. Raises `StoreRefused` as `recognise` does;
        the session stays usable.
        """
        now, study, sop = self._clock(), header.StudyInstanceUID, header.SOPInstanceUID
        describes_study = not isinstance(note, RejectionNote)
        if index_queries.add(session, header, stored, now, describes_study=describes_study):
            if note is not None:
                index_notes.keep_note(session, study, note)
            index_notes.apply_remembered(session, study, sop, now)
            return Outcome.STORED
        if self.recognise(session, header, stored.data_set_sha256) is Outcome.DUPLICATE:
            return Outcome.DUPLICATE
        index_queries.move(session, sop, stored)
        known = index_queries.find(session, sop)
        if known is not None and _returns(known):
            index_notes.restore(session, study, sop, now)
        return Outcome.STORED

    @staticmethod
    def reject(session: Session, note: RejectionNote, at: datetime) -> Rejected:
        """Hide the instances that a rejection note names: those here now, the others when they arrive.

        Call it in the transaction that indexes the note. Idempotent; the order of notes and instances does not
        matter (`rejection.REASONS` say which reason counts). Instances that are unknown or purged are no fault.
        """
        return index_notes.reject(session, note, at)

    def find(self, session: Session, sop_instance_uid: str) -> IndexedInstance | None:
        """One instance, or None."""
        return index_queries.find(session, sop_instance_uid)

    def snapshot(self, session: Session, study_instance_uid: str) -> StudySnapshot | None:
        """What may be shared of a study, or None when nothing of it is here."""
        return index_studies.snapshot(session, study_instance_uid)

    def retrieve(
        self, session: Session, study: str, series: str | None = None, sop: str | None = None
    ) -> list[StoredInstance]:
        """Instances of a study, a series, or one, by (SeriesNumber, InstanceNumber); empty when unknown.

        Rejected instances are among them, and say so.
        """
        found = index_studies.select_instances(session, study, series, sop)
        return [_stored(instance) for instance in found]

    def read(self, stored: StoredInstance) -> Iterator[bytes]:
        """The DICOM file of an instance, 256 KiB at a time. Raises `segments.SegmentDamaged`."""
        return self._segments.read(stored.segment, stored.offset, stored.length)

    def source(self, segment: str) -> SegmentSource:
        """The file that the extents of its instances point into. Raises `segments.SegmentDamaged`."""
        return self._segments.source(segment)

    def metadata(self, stored: StoredInstance) -> bytes:
        """The DICOM JSON of an instance (`dicom_json`): as prepared when it came, else made now from its file.

        Raises `segments.SegmentDamaged` when neither is there.
        """
        extent = self.metadata_extent(stored)
        try:
            if extent is not None:
                return b"".join(self._segments.read(*extent, kind=Kind.DICOM_JSON))
        except SegmentDamaged as error:
            log.warning("metadata of %s is made anew: %s", stored.ref.SOPInstanceUID, error)
        file = self._segments.view(stored.segment, stored.offset, stored.length)
        return metadata.of_file(file, stored.ref.TransferSyntaxUID)

    @staticmethod
    def metadata_extent(stored: StoredInstance) -> tuple[str, int, int] | None:
        """(segment, offset, length) of the DICOM JSON prepared for an instance; None when there is none."""
        if stored.metadata_length is None:
            return None
        return stored.segment, metadata_offset(stored.offset, stored.length), stored.metadata_length

    def recover(self, session: Session) -> list[Recovered]:
        """Settle, at start, what dead processes left: bytes without a row go, rows without bytes are reported."""
        return self._segments.recover(lambda segment: index_queries.known_end(session, segment))

    @staticmethod
    def forget(session: Session, study: str) -> Forgotten:
        """Delete the rows of a study; its bytes go by `drop`, once this is committed. Roll back for a dry run.

        What notes reject in it stays known: purged instances that are sent again are hidden again.
        """
        return index_studies.forget(session, study)

    def orphans(self, session: Session) -> tuple[str, ...]:
        """Segments that no row points to: being written now, or left between `forget` and `drop` by a crash."""
        in_use = index_studies.segments_in_use(session)
        return tuple(sorted(name for name in self._segments.names() if name not in in_use))

    def drop(self, session: Session, segments: Iterable[str]) -> int:
        """Delete those of these segments that have no rows and are not being written; bytes freed.

        `session`: of a writing transaction begun after the commit of `forget`, so that every committed row is
        seen and none is added meanwhile.
        """
        return sum(
            self._segments.drop(segment, lambda name: index_queries.known_end(session, name))
            for segment in segments
        )

    def sweep(self, session: Session) -> int:
        """`drop` every orphan; bytes freed."""
        return self.drop(session, self.orphans(session))

    def close(self) -> None:
        """The process writes no more."""
        self._segments.close()


class ImageWriter:
    """Appends the instances of one association, a segment per study. Not for several threads."""

    def __init__(self, segments: Segments, source_ae_title: str) -> None:
        self._segments = segments
        self._source_ae_title = source_ae_title
        self._open: OrderedDict[str, SegmentWriter] = OrderedDict()

    def __enter__(self) -> ImageWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def append(self, header: InstanceHeader, data_set: Buffer, data_set_sha256: str = "") -> Place:
        """Write a DICOM file: preamble, file meta, `data_set` as received; behind it, its DICOM JSON.

        Durable when it returns. `data_set_sha256`: its `digest`, when the caller has it. Raises
        `segment_writer.StorageFull`, `OSError`.
        """
        start = file_start(header, self._source_ae_title)
        json = metadata.prepare(header, data_set, len(start))
        stored = self._segment(header.StudyInstanceUID).append([start, data_set], json)
        digest = data_set_sha256 or Archive.digest(data_set)
        return Place(
            stored.segment, stored.offset, stored.length, stored.sha256, digest, stored.metadata_length
        )

    def close(self) -> None:
        """Close every segment."""
        while self._open:
            self._open.popitem()[1].close()

    def _segment(self, study_instance_uid: str) -> SegmentWriter:
        segment = self._open.pop(study_instance_uid, None)
        if segment is None or segment.closed or segment.end >= SEGMENT_BYTES:
            if segment is not None:
                segment.close()
            segment = self._segments.writer(study_instance_uid)
        self._open[study_instance_uid] = segment
        if len(self._open) > OPEN_SEGMENTS:
            self._open.popitem(last=False)[1].close()
        return segment


def _stored(instance: IndexedInstance) -> StoredInstance:
    place = instance.place
    return StoredInstance(
        instance.ref,
        intern(instance.SeriesInstanceUID),  # many are kept at once
        intern(place.segment),
        place.offset,
        place.length,
        place.sha256,
        instance.rejected,
        place.metadata_length,
        instance.bits_allocated,
    )


def _returns(known: IndexedInstance) -> bool:
    """Whether storing it again ends its rejection."""
    return known.rejected is not None and REASONS[known.rejected].returns_when_stored_again


def _require_same(known: IndexedInstance, header: InstanceHeader, data_set_sha256: str) -> None:
    differences = {
        "StudyInstanceUID": known.StudyInstanceUID != header.StudyInstanceUID,
        "SeriesInstanceUID": known.SeriesInstanceUID != header.SeriesInstanceUID,
        "transfer syntax": known.ref.TransferSyntaxUID != header.TransferSyntaxUID,
        "data set": known.place.data_set_sha256 != data_set_sha256,
    }
    different = [name for name, differs in differences.items() if differs]
    if different:
        raise StoreRefused(
            Outcome.DIFFERENT_BYTES, f"SOPInstanceUID known with another {', '.join(different)}"
        )
