"""The intake of instances that the DICOM door and STOW-RS share: each becomes one call of `receive_instance`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from time import monotonic, perf_counter

import structlog

from dicom_store.image_writer import ImageWriter
from dicom_store.incoming import MEMORY_BYTES, Incoming
from dicom_store.index_queries import Place
from dicom_store.instance import InstanceHeader
from dicom_store.paths import InvalidUID, check_uid, study_of_segment
from dicom_store.segments import Recovered
from dicom_store.sink import StoreCommand
from dicom_store.status import Outcome, StoreRefused
from drimbox.bootstrap import Foundation, utc_now
from drimbox.domain.errors import Unavailable
from drimbox.entrypoints.measuring import IngestMeter
from drimbox.flow.receive_instance import readmit_instance, receive_instance, refuse_instance

log = structlog.get_logger(__name__)


class InstanceIntake:
    """A `Sink`: what one association or one request stores into, with segments of its own. One thread at a time."""

    def __init__(self, foundation: Foundation, actor: str) -> None:
        self._foundation = foundation
        self._actor = actor
        self.meter = IngestMeter(foundation.meters, "stow" if actor.startswith("stow:") else "dicom")
        self._writer: ImageWriter = foundation.archive.writer()
        self._arrival: InstanceArrival | None = None
        self._look_first = True  # a sender whose last instance was new mostly brings new ones
        self._received = Counter[Outcome]()  # of `_study`, not logged yet
        self._study = ""

    def begin(self, command: StoreCommand) -> InstanceArrival:
        """An instance is announced; one that is still on its way is abandoned."""
        self._abandon()
        self._arrival = InstanceArrival(self, command, self._writer.begin(command, self.admit))
        return self._arrival

    def admit(self, header: InstanceHeader) -> None:
        """Called as soon as the header of an instance is known: may raise `StoreRefused`."""

    def receive(self, incoming: Incoming) -> Outcome:
        """Make a whole instance durable and committed. Raises `StoreRefused`, OSError, `errors.Unavailable`."""
        # bytes of a long one are not compared while the database waits
        look_first = self._look_first or incoming.length > MEMORY_BYTES
        self._look_first = True
        outcome = receive_instance(
            self._foundation.commits,
            incoming,
            now=utc_now(),
            actor=self._actor,
            settle_after=self._foundation.settings.policy.settle_after,
            look_first=look_first,
        )
        self._look_first = outcome is not Outcome.STORED
        if incoming.header.StudyInstanceUID != self._study:
            self._say()
            self._study = incoming.header.StudyInstanceUID
        self._received[outcome] += 1
        return outcome

    def refused(self, refusal: StoreRefused, sop: str, study: str | None = None) -> None:
        """Log and trace what is not kept. `sop`: as said by the sender, whatever it is.

        For want of room once a minute with a count: rows and lines need room themselves.
        """
        self.meter.refused(refusal.outcome)
        repeated: int | None = 0
        if refusal.outcome is Outcome.STORAGE_FULL:
            repeated = self._foundation.no_room.turn(self._actor, monotonic())
        if repeated is None:
            return
        log.warning("instance_refused", study=study, outcome=str(refusal.outcome), reason=refusal.reason)
        try:
            refuse_instance(
                self._foundation.transactions,
                refusal,
                study=study,
                sop=_safe(sop),
                now=utc_now(),
                actor=self._actor,
                repeated=repeated,
            )
        except Unavailable as error:
            log.exception("refusal_not_traced", study=study, reason=str(error))

    def close(self) -> None:
        """No more instances: the segments are complete."""
        self._abandon()
        self._writer.close()
        self._say()

    def _say(self) -> None:
        """One line for the instances of a study: each has its own row in the trace."""
        for outcome, count in self._received.items():
            log.info(
                "instances_received", study=self._study, outcome=str(outcome), count=count, peer=self._actor
            )
        self._received.clear()

    def _abandon(self) -> None:
        arrival, self._arrival = self._arrival, None
        if arrival is not None:
            arrival.abandon()


class InstanceArrival:
    """An `Arrival`: one instance on its way into the archive. Whatever ends it early leaves nothing of it."""

    def __init__(self, intake: InstanceIntake, command: StoreCommand, incoming: Incoming) -> None:
        self._intake = intake
        self._sop = command.sop_instance_uid
        self._begun = perf_counter()
        self._incoming: Incoming | None = incoming
        self.header: InstanceHeader | None = None  # once it is complete

    def more(self, piece: memoryview) -> None:
        """The next bytes of the data set. Raises `StoreRefused` (traced)."""
        with self._answering() as incoming:
            incoming.more(piece)

    def complete(self) -> Outcome:
        """Durable and committed when this returns. Raises `StoreRefused` (traced)."""
        with self._answering() as incoming:
            self.header = incoming.whole()
            outcome = self._intake.receive(incoming)
            self._incoming = None  # it is the archive's now
        self._intake.meter.taken(outcome, incoming.length, perf_counter() - self._begun)
        return outcome

    def abandon(self) -> None:
        """It will never be whole; harmless after its end."""
        incoming, self._incoming = self._incoming, None
        if incoming is not None:
            incoming.take_back()

    @contextmanager
    def _answering(self) -> Iterator[Incoming]:
        incoming = self._incoming
        if incoming is None:
            raise ValueError("this arrival has ended")
        try:
            yield incoming
        except StoreRefused as refusal:
            self.abandon()
            self._intake.refused(refusal, self._sop, incoming.study)
            raise
        except (Unavailable, OSError) as error:
            self.abandon()  # without effect on what a row may point to: `receive_instance` let go of it
            self._intake.meter.refused(Outcome.OUT_OF_RESOURCES)
            log.exception("instance_not_stored", study=incoming.study, reason=str(error))
            raise StoreRefused(
                Outcome.OUT_OF_RESOURCES, "the appliance cannot store now: try again"
            ) from error
        except Exception:
            self._intake.meter.refused(Outcome.FAILED)
            raise


def _safe(uid: str) -> str:
    try:
        return check_uid(uid)
    except InvalidUID:
        return "(not a UID)"


def recover(foundation: Foundation) -> None:
    """Settle what dead processes left of segments: whole instances get the row they lost, the rest is dropped."""

    def readmit(header: InstanceHeader, place: Place, written: datetime) -> bool:
        settle_after = foundation.settings.policy.settle_after
        return readmit_instance(
            foundation.transactions, header, place, written=written, now=utc_now(), settle_after=settle_after
        )

    with foundation.database.reading() as session:
        for recovered in foundation.archive.recover(session, readmit, foundation.database.harden):
            _say(recovered)


def _say(recovered: Recovered) -> None:
    where = {"study": study_of_segment(recovered.segment), "segment": recovered.segment}
    if recovered.readmitted:
        log.warning("instances_readmitted", **where, count=recovered.readmitted)
    if recovered.dropped_bytes or recovered.damaged:
        say = log.error if recovered.damaged else log.warning
        say(
            "segment_damaged" if recovered.damaged else "segment_recovered",
            **where,
            bytes=recovered.dropped_bytes,
            count=recovered.dropped_records,
            reason=recovered.damaged or None,
        )
