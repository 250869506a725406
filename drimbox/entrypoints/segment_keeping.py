"""Who rids segments of what nobody needs: the worker once a day, an operator at once."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from dicom_store.compaction import Compaction
from dicom_store.free_space import StorageFull
from dicom_store.segment_care import SegmentBusy
from dicom_store.segment_record import SegmentDamaged
from drimbox.bootstrap import Foundation, utc_now
from drimbox.entrypoints.commitments import make_care
from drimbox.flow.compact_segments import Compacting

GRACE = timedelta(hours=1)  # longer than a transfer lasts


def make_compacting(
    foundation: Foundation,
    actor: str,
    share: float | None = None,
    rejected_keep: int | None = None,
    grace: timedelta = GRACE,
    log: Callable[..., Any] = lambda _event, **_words: None,
) -> Compacting:
    """What compacts segments; see `Compacting`. `log` hears of trouble.

    `share`, `rejected_keep` (days, 0 = for ever): instead of those of the room archive.
    """
    room = foundation.settings.archive
    days = room.rejected_keep_days if rejected_keep is None else rejected_keep
    return Compacting(
        foundation.transactions,
        Compaction(foundation.archive, make_care(foundation)),
        utc_now,
        actor,
        room.compact_share if share is None else share,
        timedelta(days=days) if days else None,
        grace,
        (SegmentBusy,),
        (SegmentDamaged, StorageFull, OSError),
        log,
    )
