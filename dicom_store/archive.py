"""Put, reject, snapshot, read, forget: segments and index together, under the caller's session and transaction."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from sys import intern
from typing import NamedTuple

from sqlalchemy.orm import Session

from dicom_store import index_notes, index_queries, index_segments, index_studies, metadata
from dicom_store.header import HeaderRefused, read_header
from dicom_store.image_writer import ImageWriter
from dicom_store.incoming import Incoming
from dicom_store.index_notes import Rejected
from dicom_store.index_queries import IndexedInstance, Place
from dicom_store.index_studies import Forgotten
from dicom_store.instance import InstanceHeader
from dicom_store.part10 import data_set_offset, said_by_meta
from dicom_store.paths import study_of_segment
from dicom_store.rejection import KEY_OBJECT_SELECTION, RejectionNote, read_note
from dicom_store.repeated import Copy, judge, returns, stored_copy
from dicom_store.scanner import Buffer
from dicom_store.segment_record import Kind, SegmentDamaged, WholeRecord
from dicom_store.segment_source import SegmentSource
from dicom_store.segment_writer import metadata_offset
from dicom_store.segments import Recovered, Segments
from dicom_store.status import Outcome
from dicom_store.study import InstanceRef, KeyImageNote, StudySnapshot

log = logging.getLogger(__name__)


def _now() -> datetime:
    return datetime.now(UTC)


class StoredInstance(NamedTuple):
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

    def writer(self, source_ae_title: str = "") -> ImageWriter:
        """A writer for one association (a context manager). Close it after the last transaction ended."""
        return ImageWriter(self._segments, source_ae_title)

    def recognise(self, session: Session, incoming: Incoming) -> Outcome | None:
        """Before an instance is kept: None = to be kept and indexed, DUPLICATE = kept already, readable.

        None also for what takes the place of what is known. Raises `StoreRefused` as `repeated.judge`.
        """
        known = index_queries.find(session, incoming.header.SOPInstanceUID)
        if known is None:
            return None
        copy = Copy(incoming.header, incoming.sha256, incoming.length, incoming.pieces)
        return judge(self._segments, known, copy)

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
        """The outcome of `add`."""
        return self.add(session, header, stored, note)[0]

    def add(
        self,
        session: Session,
        header: InstanceHeader,
        stored: Place,
        note: RejectionNote | KeyImageNote | None = None,
    ) -> tuple[Outcome, bool]:
        """Write the rows of what `Incoming.keep` wrote: STORED, or DUPLICATE when another was first; whether it is new.

        `note`: what `note_of` says of it; a rejection takes effect by `reject`, in the same transaction. An
        instance that a note rejected before it came is hidden at once. STORED also when a rejected instance
        comes back. A row whose bytes are lost is pointed to these. Raises `StoreRefused` as `recognise`, and
        `SegmentDamaged` when what was stored cannot be read; the session stays usable.
        """
        now, study, sop = self._clock(), header.StudyInstanceUID, header.SOPInstanceUID
        describes_study = not isinstance(note, RejectionNote)
        while not index_queries.add(session, header, stored, now, describes_study=describes_study):
            known = index_queries.find(session, sop)
            if known is not None:
                return self._index_again(session, known, header, stored), False
            # it was of another study, which was forgotten between the two statements
        if note is not None:
            index_notes.keep_note(session, study, note)
        index_notes.apply_remembered(session, study, sop, now)
        return Outcome.STORED, True

    def _index_again(
        self, session: Session, known: IndexedInstance, header: InstanceHeader, stored: Place
    ) -> Outcome:
        if judge(self._segments, known, stored_copy(self._segments, header, stored)) is Outcome.DUPLICATE:
            return Outcome.DUPLICATE
        index_queries.move(session, header.SOPInstanceUID, stored)
        if returns(known):
            index_notes.restore(session, header.StudyInstanceUID, header.SOPInstanceUID, self._clock())
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
            said = {"action": "metadata_made_anew", "study": study_of_segment(stored.segment)}
            log.warning("metadata of %s is made anew: %s", stored.ref.SOPInstanceUID, error, extra=said)
        file = self._segments.view(stored.segment, stored.offset, stored.length)
        return metadata.of_file(file, stored.ref.TransferSyntaxUID)

    @staticmethod
    def metadata_extent(stored: StoredInstance) -> tuple[str, int, int] | None:
        """(segment, offset, length) of the DICOM JSON prepared for an instance; None when there is none."""
        if stored.metadata_length is None:
            return None
        return stored.segment, metadata_offset(stored.offset, stored.length), stored.metadata_length

    def recover(
        self,
        session: Session,
        readmit: Callable[[InstanceHeader, Place, datetime], bool] = lambda _header, _place, _written: False,
        before_forgetting: Callable[[], object] = lambda: None,
    ) -> list[Recovered]:
        """Settle, at start, what dead processes left: rows without bytes are reported, bytes without a row go.

        But an instance that arrived whole is offered to `readmit`, with when its segment was last written to, which
        says whether it has a row now; no note is: their rows are never lost. `session`: used for nothing else. It is
        rolled back before each look: other processes commit meanwhile, and a snapshot of before would have their
        bytes cut off. `before_forgetting` as in `Segments.recover`.
        """

        def needed_end(segment: str) -> int:
            session.rollback()
            return index_segments.needed_end(session, segment)

        def offer(segment: str, record: WholeRecord) -> bool:
            header = self._arrived(segment, record)
            place = Place(segment, record.offset, record.length, record.sha256, record.metadata_length)
            return header is not None and readmit(header, place, self._segments.written_at(segment))

        return self._segments.recover(needed_end, offer, before_forgetting)

    def _arrived(self, segment: str, record: WholeRecord) -> InstanceHeader | None:
        """The header of an instance that is whole in a segment; None for a note, and for what the door refuses."""
        file = self._segments.view(segment, record.offset, record.length)
        try:
            said = said_by_meta(file)
            header = read_header(file[data_set_offset(file) :], *said)
        except (ValueError, HeaderRefused):
            return None
        return None if header.SOPClassUID == KEY_OBJECT_SELECTION else header

    @staticmethod
    def forget(session: Session, study: str) -> Forgotten:
        """Delete the rows of a study; its bytes go by `drop`, once this is committed. Roll back for a dry run.

        What notes reject in it stays known: purged instances that are sent again are hidden again.
        """
        return index_studies.forget(session, study)

    def orphans(self, session: Session) -> tuple[str, ...]:
        """Segments without rows, and not retired: being written now, or left between `forget` and `drop` by a crash."""
        in_use = index_studies.segments_in_use(session) | index_segments.retired(session).keys()
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
