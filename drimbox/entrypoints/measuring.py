"""What the doors count of what they do, by the table of `domain/measures.py`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from dicom_store.status import ANSWERS, Outcome
from drimbox.adapters.meters import Meters, Tally, Timing
from drimbox.domain import measures as m
from drimbox.flow import retrievals

_VERDICT = re.compile(rb"\rMSA.(A[AER])")  # of our own answer; its field separator is the sender's
_ENDINGS = {retrievals.SERVED: "served", retrievals.CUT: "cut", retrievals.REFUSED: "refused"}


class IngestMeter:
    """Of one association or request. Three numbers an instance: under a microsecond, no file, no other process."""

    __slots__ = ("_bytes", "_door", "_meters", "_seconds", "_taken")

    def __init__(self, meters: Meters, door: str) -> None:
        self._meters, self._door = meters, door
        self._taken: dict[Outcome, Tally] = {}
        self._bytes = meters.tally(m.INGEST_BYTES, door)
        self._seconds = meters.timing(m.INGEST_SECONDS, door)

    def taken(self, outcome: Outcome, size: int, seconds: float) -> None:
        """An instance was answered with success. `size`: bytes of its data set."""
        tally = self._taken.get(outcome)
        if tally is None:
            tally = self._taken[outcome] = self._meters.tally(m.INGEST_INSTANCES, self._door, str(outcome))
        tally.add()
        self._seconds.add(seconds)
        if outcome is Outcome.STORED:
            self._bytes.add(size)

    def refused(self, outcome: Outcome) -> None:
        """An instance was not taken."""
        status = f"{ANSWERS[outcome].dimse:04X}"
        self._meters.tally(m.INGEST_REFUSED, self._door, str(outcome), status).add()


class ReportMeter:
    """Of the report doors."""

    def __init__(self, meters: Meters) -> None:
        self._meters = meters

    def answered(self, door: str, verdict: str, size: int, seconds: float) -> None:
        """A message of `size` bytes was answered: AA, AE, AR or none."""
        self._meters.tally(m.MESSAGES, door, verdict).add()
        self._meters.tally(m.MESSAGE_BYTES, door).add(size)
        self._meters.timing(m.ACK_SECONDS, door).add(seconds)


def verdict_of(answer: bytes | None) -> str:
    """MSA-1 of an acknowledgement of ours."""
    found = None if answer is None else _VERDICT.search(answer)
    return "none" if found is None else found.group(1).decode("ascii")


class ServeMeter:
    """Of requests for images, told by the records that every one of them has (`flow/retrieval_log.py`)."""

    def __init__(self, meters: Meters) -> None:
        self._meters = meters
        self._known: dict[tuple[str, str, str], tuple[Tally, Tally, Timing]] = {}

    def told(self, record: Mapping[str, Any], first_byte: float | None) -> None:
        """A request ended. `first_byte`: seconds to the first byte of its answer, None without one."""
        outcome = _ENDINGS.get(record["event"])
        if outcome is None:  # of the health check, which counts for itself
            return
        door = str(record["actor"]).partition(":")[0]
        requests, sent, seconds = self._of(door, outcome, record.get("code", ""))
        requests.add()
        if size := record.get("bytes"):
            sent.add(size)
        if first_byte is not None:
            seconds.add(first_byte)

    def _of(self, door: str, outcome: str, slug: str) -> tuple[Tally, Tally, Timing]:
        """Requests of these labels, bytes and times of their door: found again without a hash of their measures."""
        found = self._known.get((door, outcome, slug))
        if found is None:
            requests = self._meters.tally(m.RETRIEVALS, door, outcome, slug)
            sent, seconds = self._meters.tally(m.SERVED_BYTES, door), self._meters.timing(m.FIRST_BYTE, door)
            found = self._known[door, outcome, slug] = requests, sent, seconds
        return found
