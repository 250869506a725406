"""One instance on its way into the archive: in memory while it is short, then in the segment of its study.

Memory is constant whatever the size: `MEMORY_BYTES` for the writer of an association, and up to `PREFIX_BYTES` while
the study of a longer data set is not known yet. Nothing is hashed twice.
"""

from __future__ import annotations

import hashlib
import mmap
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Protocol

from dicom_store import metadata
from dicom_store.header import HeaderRefused, read_header
from dicom_store.index_queries import Place
from dicom_store.instance import InstanceHeader
from dicom_store.part10 import file_start
from dicom_store.rejection import KEY_OBJECT_SELECTION, MAX_NOTE_BYTES, RejectionNote, read_note
from dicom_store.scanner import PREFIX_BYTES, Buffer
from dicom_store.segment_record import HEADER
from dicom_store.segment_writer import SegmentWriter
from dicom_store.series_template import Matched, Templates
from dicom_store.sink import StoreCommand
from dicom_store.status import Outcome, StoreRefused
from dicom_store.study import KeyImageNote

MEMORY_BYTES = 1024 * 1024  # a longer data set is written while it arrives
_FIRST_LOOK = 64 * 1024  # a header that is not in the first piece is mostly in these bytes
_PIECE = 256 * 1024  # of a data set that is read again
# Decoded, a note of tiny elements takes a hundred times its bytes: one at a time in a process.
_READING_A_NOTE = threading.Lock()
_TWICE = "the data set says what it is twice, differently"

Admit = Callable[[InstanceHeader], None]
_View = tuple[memoryview, Callable[[], None] | None]


def everything(_header: InstanceHeader) -> None:
    """Admits whatever comes."""


class Writer(Protocol):
    """Where it is written: see `image_writer.ImageWriter`."""

    source_ae_title: str
    templates: Templates

    @property
    def is_lone(self) -> bool: ...
    def segment(self, study_instance_uid: str) -> SegmentWriter: ...


class Incoming:
    """One data set, exactly as sent: `more`, then `whole`, then `keep`; `take_back` at any time."""

    def __init__(
        self,
        writer: Writer,
        command: StoreCommand | None,
        admit: Admit,
        memory: memoryview,
    ) -> None:
        self._writer = writer
        self._command = command
        self._admit = admit
        self._header: InstanceHeader | None = None
        self._is_final = False  # nothing that follows can change the header
        self._matched: Matched | None = None
        self._look_at = 1  # length from which the header is looked for
        self._memory: Buffer | None = memory  # None: all that came is in the segment, and only there
        self._start = b""
        self._digest = hashlib.sha256()
        self._segment: SegmentWriter | None = None  # once bytes of it are there
        self._place: Place | None = None
        self.length = 0

    @classmethod
    def of(cls, writer: Writer, header: InstanceHeader, data_set: Buffer) -> Incoming:
        """See `ImageWriter.take`."""
        view = memoryview(data_set).cast("B")
        made = cls(writer, None, everything, view)
        made.length = len(view)
        made._know(header, is_final=True)
        return made

    @property
    def header(self) -> InstanceHeader:
        """Raises ValueError while it is not known; always known after `whole`."""
        if self._header is None:
            raise ValueError("the header is not known yet")
        return self._header

    @property
    def is_lone(self) -> bool:
        """Whether nobody else in this process takes instances in."""
        return self._writer.is_lone

    @property
    def study(self) -> str | None:
        """None while it is not known, or when the instance was not admitted."""
        return self._header.StudyInstanceUID if self._header else None

    @property
    def sha256(self) -> str:
        """Of the DICOM file that the archive makes of it, in hexadecimal; after `whole`."""
        return self._digest.hexdigest()

    def more(self, piece: memoryview) -> None:
        """The next bytes. Raises `StoreRefused` as soon as something is known to be wrong, OSError."""
        position, self.length = self.length, self.length + len(piece)
        if self._memory is None:
            self._digest.update(piece)
            self._stream(piece)
            return
        self._gather(position, piece)
        if self._header is not None:
            self._digest.update(piece)
        elif self.length >= self._look_at:
            self._look()
        if self._header is not None and self.length > MEMORY_BYTES:
            self._stream(memoryview(self._memory)[: self.length])
            self._memory = None

    def whole(self) -> InstanceHeader:
        """No more bytes come. Raises `StoreRefused`."""
        command = self._command
        if command is not None and not self._is_final:
            said = (command.transfer_syntax, command.sop_class_uid, command.sop_instance_uid)
            with self._data_set() as (view, _):
                header = read_header(view, *said)
            if self._header is not None and _identity(header) != _identity(self._header):
                raise HeaderRefused(Outcome.NOT_UNDERSTOOD, _TWICE)
            self._know(header, is_final=True)
        return self.header

    def note(self) -> RejectionNote | KeyImageNote | None:
        """What it says of other instances, if it is a note; after `whole`. Raises `StoreRefused`.

        A note is read to its end, further than a header: there it must still be the instance that was admitted.
        """
        if self.header.SOPClassUID != KEY_OBJECT_SELECTION:
            return None
        if self.length > MAX_NOTE_BYTES:
            raise StoreRefused(Outcome.NOT_UNDERSTOOD, "a Key Object Selection of more than 4 MiB")
        with _READING_A_NOTE, self._data_set() as (view, _):
            note = read_note(view, self.header.TransferSyntaxUID)
        study = note.StudyInstanceUID if isinstance(note, RejectionNote) else self.header.StudyInstanceUID
        if note and (note.SOPInstanceUID, study) != (
            self.header.SOPInstanceUID,
            self.header.StudyInstanceUID,
        ):
            raise HeaderRefused(Outcome.NOT_UNDERSTOOD, _TWICE)
        return note

    def pieces(self) -> Iterator[bytes]:
        """The data set again, from memory or disk; after `whole`, before `keep`."""
        with self._data_set() as (view, relax):
            for position in range(0, self.length, _PIECE):
                yield bytes(view[position : position + _PIECE])
                if relax is not None:
                    relax()

    def keep(self) -> Place:
        """Write what is not written yet: durable after `sync`.

        Raises `free_space.StorageFull`, OSError; then nothing of it is there.
        """
        with self._data_set() as (view, relax):
            templates, begin = self._writer.templates, len(self._start)
            json = metadata.prepare(self.header, view, begin, relax, templates, self._matched)
            parts: list[Buffer] = []
            if self._segment is None:
                self._segment = self._writer.segment(self.header.StudyInstanceUID)
                parts = [self._start, view]
            stored = self._segment.complete(parts, self._digest.digest(), json)
        self._place = Place(
            stored.segment, stored.offset, stored.length, stored.sha256, stored.metadata_length
        )
        return self._place

    def hasten(self) -> None:
        """Have the disk begin with what `sync` will wait for; after `keep`."""
        if self._segment is not None:
            self._segment.hasten()

    def sync(self) -> None:
        """What `keep` wrote is durable when it returns. Raises OSError; then nothing of it is there."""
        if self._segment is not None:
            self._segment.sync()

    def take_back(self) -> None:
        """Nothing of it remains; without effect after `leave`. Not after another instance of the writer was begun."""
        segment, self._segment = self._segment, None
        if segment is not None:
            segment.cut(self._place.offset - HEADER.size if self._place else segment.end)

    def leave(self) -> None:
        """A row points to it, or may: it stays."""
        self._segment = None

    def _gather(self, position: int, piece: memoryview) -> None:
        memory = self._memory
        if isinstance(memory, memoryview) and self.length <= MEMORY_BYTES:  # that of the writer
            memory[position : self.length] = piece
            return
        if not isinstance(memory, bytearray):
            assert memory is not None
            self._memory = memory = bytearray(memory[:position])
        memory += piece

    def _look(self) -> None:
        """Look for the header in what is there."""
        assert self._command is not None
        command = self._command
        said = (command.transfer_syntax, command.sop_class_uid, command.sop_instance_uid)
        with self._data_set() as (view, _):
            found = self._writer.templates.read(view, *said)
        self._look_at = min(max(4 * self.length, _FIRST_LOOK), PREFIX_BYTES)
        if found is not None:
            header, is_final, self._matched = found
            self._know(header, is_final)

    def _know(self, header: InstanceHeader, is_final: bool) -> None:
        if self._header is None:
            self._admit(header)
            self._start = file_start(header, self._writer.source_ae_title)
            self._digest.update(self._start)
            with self._data_set() as (view, _):
                self._digest.update(view)
        self._header, self._is_final = header, is_final

    def _stream(self, piece: memoryview) -> None:
        """Write the next bytes of the data set; the segment itself takes back what it could not write."""
        if self._segment is None:
            segment = self._writer.segment(self.header.StudyInstanceUID)
            segment.stream([self._start, piece])
            self._segment = segment
        else:
            self._segment.stream([piece])

    @contextmanager
    def _data_set(self) -> Iterator[_View]:
        """(what is there of the data set; for a mapping, how it lets go of its pages)."""
        if self._memory is not None:
            yield memoryview(self._memory)[: self.length], None
            return
        assert self._segment is not None
        mapped, begin = self._segment.streamed()
        # unmapped with its last view: an exception that is on its way may still hold one
        yield memoryview(mapped)[begin + len(self._start) :], partial(mapped.madvise, mmap.MADV_DONTNEED)


def _identity(header: InstanceHeader) -> tuple[str, str, str, str]:
    return header.SOPClassUID, header.SOPInstanceUID, header.StudyInstanceUID, header.SeriesInstanceUID
