"""What one association writes to: a segment for each study, and the memory that its instances pass through."""

from __future__ import annotations

from collections import OrderedDict
from types import TracebackType

from dicom_store.incoming import MEMORY_BYTES, Admit, Incoming, everything
from dicom_store.index_queries import Place
from dicom_store.instance import InstanceHeader
from dicom_store.scanner import Buffer
from dicom_store.segment_writer import SegmentWriter
from dicom_store.segments import Segments
from dicom_store.series_template import Templates
from dicom_store.sink import StoreCommand

OPEN_SEGMENTS = 8  # per association: one that interleaves more studies begins new segments
SEGMENT_BYTES = 1024**3  # a longer segment is left for a new one


class ImageWriter:
    """Takes the instances of one association, one at a time, into a segment per study. Not for several threads."""

    def __init__(self, segments: Segments, source_ae_title: str) -> None:
        self._segments = segments
        self._open: OrderedDict[str, SegmentWriter] = OrderedDict()
        self._memory: memoryview | None = None
        self._leave = segments.enter()
        self.templates = Templates()
        self.source_ae_title = source_ae_title

    def __enter__(self) -> ImageWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def is_lone(self) -> bool:
        """Whether nobody else in this process takes instances in: a disk that is asked early is not asked by others."""
        return self._segments.entered == 1

    def begin(self, command: StoreCommand, admit: Admit = everything) -> Incoming:
        """An instance whose data set will come in pieces. `admit`: may refuse it once its header is known."""
        if self._memory is None:
            self._memory = memoryview(bytearray(MEMORY_BYTES))
        return Incoming(self, command, admit, self._memory)

    def take(self, header: InstanceHeader, data_set: Buffer) -> Incoming:
        """An instance whose data set is all there, with the header that was read of it."""
        return Incoming.of(self, header, data_set)

    def append(self, header: InstanceHeader, data_set: Buffer) -> Place:
        """`take`, `Incoming.keep` and `Incoming.sync` in one."""
        incoming = self.take(header, data_set)
        place = incoming.keep()
        incoming.sync()
        return place

    def segment(self, study_instance_uid: str) -> SegmentWriter:
        """The open segment of a study; its file is made by the first record."""
        segment = self._open.pop(study_instance_uid, None)
        if segment is None or segment.closed or segment.end >= SEGMENT_BYTES:
            if segment is not None:
                segment.close()
            segment = self._segments.writer(study_instance_uid)
        self._open[study_instance_uid] = segment
        if len(self._open) > OPEN_SEGMENTS:
            self._open.popitem(last=False)[1].close()
        return segment

    def close(self) -> None:
        """Close every segment, after the last transaction ended; let go of the memory, whoever still holds us."""
        self._leave()
        self._memory, self.templates = None, Templates()
        while self._open:
            self._open.popitem()[1].close()
