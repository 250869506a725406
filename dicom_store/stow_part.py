"""One instance of a STOW-RS request: its file meta is read, its data set goes into an `Intake` piece by piece."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from dicom_store.failure import log_failure
from dicom_store.file_meta import META_BYTES, FileMeta, read_file_meta
from dicom_store.instance import InstanceHeader
from dicom_store.sink import Arrival, Peer, StoreCommand
from dicom_store.status import Outcome, StoreRefused
from dicom_store.store_response import InstanceResult

log = logging.getLogger(__name__)

_KEPT = (Outcome.STORED, Outcome.DUPLICATE)


class PartArrival(Arrival, Protocol):
    """An `Arrival` that tells the header of what it was, once it is complete."""

    header: InstanceHeader | None


class Intake(Protocol):
    """A `Sink`: where the instances of one request go; called by one thread at a time."""

    def begin(self, command: StoreCommand) -> PartArrival:
        """An instance whose file meta was read. Its refusals are traced."""

    def refused(self, refusal: StoreRefused, sop: str) -> None:
        """What was sent is no instance that can be kept; `sop`: its UID, "" when it is not known."""

    def broken(self, reason: str) -> None:
        """The request ended before it was whole."""

    def close(self) -> None:
        """The request has ended, by whatever way; what is not complete is abandoned."""


class Part:
    """One instance. `waiting`: bytes not stored yet. `take` in the event loop, `feed` and `finish` in a thread."""

    def __init__(self, intake: Intake, refusal: StoreRefused | None) -> None:
        self._intake = intake
        self._fault = refusal  # why it cannot be kept, known before it is complete and not traced yet
        self._head = b""  # of a file whose meta is not read yet
        self._meta: FileMeta | None = None
        self._arrival: PartArrival | None = None
        self._outcome: Outcome | None = None
        self.waiting = bytearray()
        self.length = 0

    def take(self) -> bytearray:
        """What waits, now on its way."""
        taken, self.waiting = self.waiting, bytearray()
        return taken

    def feed(self, data: bytearray) -> None:
        """More of it. What failed already is forgotten."""
        with self._answering():
            self._feed(data, is_last=False)

    def finish(self, data: bytearray) -> InstanceResult:
        """The last of it. Whatever happened, there is a result."""
        with self._answering():
            self._feed(data, is_last=True)
            if self._arrival is not None and self._outcome is None:
                self._outcome = self._arrival.complete()
        outcome = self._outcome or Outcome.FAILED
        header = self._arrival.header if self._arrival else None
        return _result(outcome, self._meta, header if outcome in _KEPT else None)

    def _feed(self, data: bytearray, *, is_last: bool) -> None:
        if self._outcome is not None:
            return
        if self._fault is not None:
            self._refuse(self._fault)
        elif self._arrival is not None:
            self._arrival.more(memoryview(data))
        else:
            self._head += data
            if is_last or len(self._head) >= META_BYTES:
                self._begin()

    def _begin(self) -> None:
        try:
            meta = self._meta = read_file_meta(self._head)
        except StoreRefused as refusal:
            self._refuse(refusal)
            return
        peer = Peer("", "", "")  # the intake knows whose request it is
        command = StoreCommand(meta.sop_class_uid, meta.sop_instance_uid, meta.transfer_syntax, peer)
        self._arrival = self._intake.begin(command)
        head, self._head = memoryview(self._head), b""
        self._arrival.more(head[meta.length :])

    def _refuse(self, refusal: StoreRefused) -> None:
        self._outcome = refusal.outcome
        self._intake.refused(refusal, "")

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except StoreRefused as refusal:
            self._outcome = refusal.outcome
        except Exception as error:  # noqa: BLE001 - the door: an answer for this instance and a log, never silence
            self._outcome = Outcome.FAILED
            log_failure(log, "STOW-RS failed", error, action="store_failed")


def _result(outcome: Outcome, meta: FileMeta | None, header: InstanceHeader | None = None) -> InstanceResult:
    return InstanceResult(
        outcome,
        meta.sop_class_uid if meta else "",
        meta.sop_instance_uid if meta else "",
        header.StudyInstanceUID if header else "",
        header.SeriesInstanceUID if header else "",
    )
