"""What one worker does for all nodes, and what it is made of (`flow/duties.py`).

| duty | if two did it at once, for a moment |
| --- | --- |
| whitelist | nothing: the keeper's own lock on the storage root lets one retrieve |
| audit | nothing lost: a message might be sent twice, as after a crash; the cursor moves once |
| inbox, segments (compaction, retention) | bytes are deleted: guarded, each commit only while the duty is held |

Reconciling, publishing, receipts and storage commitment are shared by all workers: each piece of work is claimed.
"""

from __future__ import annotations

import time
from dataclasses import replace

import structlog

from drimbox.bootstrap import Foundation, make_inbox_purging, node_name
from drimbox.entrypoints.image_retention import make_retaining
from drimbox.entrypoints.segment_keeping import make_compacting
from drimbox.flow.compact_segments import Compacting
from drimbox.flow.duties import Duties
from drimbox.flow.inbox_purge import InboxPurging
from drimbox.flow.retention import Retaining

WHITELIST, INBOX, SEGMENTS, AUDIT = "whitelist", "inbox", "segments", "audit"
DUTIES = (WHITELIST, INBOX, SEGMENTS, AUDIT)


def awake() -> float:
    """Seconds of the clock that nobody sets and that goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def make_duties(foundation: Foundation) -> Duties:
    """The duties that the worker of this node takes part in."""
    log = structlog.get_logger("drimbox.flow.duties")
    return Duties(foundation.transactions, node_name(foundation.settings), DUTIES, awake, log.info)


def make_guarded_purging(foundation: Foundation, duties: Duties, actor: str) -> InboxPurging:
    """The purge of the inbox, by whoever has that duty."""
    return replace(make_inbox_purging(foundation, actor), transactions=duties.guarded(INBOX))


def make_guarded_compacting(foundation: Foundation, duties: Duties, actor: str) -> Compacting:
    """Compaction, by whoever has that duty."""
    log = structlog.get_logger("drimbox.flow.compact_segments")
    compacting = make_compacting(foundation, actor, log=log.error)
    return replace(compacting, transactions=duties.guarded(SEGMENTS))


def make_guarded_retaining(foundation: Foundation, duties: Duties, actor: str) -> Retaining:
    """Retention of images, by whoever has the duty of the segments."""
    return replace(make_retaining(foundation, actor), transactions=duties.guarded(SEGMENTS))
