"""A segment file as the source of the extents of a body."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from dicom_store.body import Extent
from dicom_store.segment_record import SegmentAbsent, check_record


@dataclass(frozen=True, slots=True)
class SegmentSource:
    """The segment at `path`; its extents are payloads of records, or parts of them."""

    path: Path

    def open(self) -> int:
        """A descriptor. Raises `SegmentAbsent` when there is no such file, OSError when it cannot be opened."""
        try:
            return os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError as error:
            raise SegmentAbsent("the segment is missing") from error

    def check(self, descriptor: int, extent: Extent) -> None:
        """Raises `SegmentDamaged` unless the whole payload is the one of a record."""
        start = extent.offset if extent.start < 0 else extent.start
        check_record(descriptor, start, extent.length if extent.whole < 0 else extent.whole)

    def close(self) -> None:
        """Nothing is kept beside the descriptor."""
