"""One C-STORE between an association and its sink: whatever the sink does, there is an outcome to answer."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from dicom_store.failure import log_failure
from dicom_store.sink import Arrival, Sink, StoreCommand
from dicom_store.status import Outcome, StoreRefused

log = logging.getLogger(__name__)

Answer = tuple[Outcome, str]


def missing_from(command: Mapping[str, Any], with_data_set: bool) -> str:
    """What a C-STORE-RQ lacks to name an instance (PS3.7 9.3.1.1), by keyword; empty when it is complete."""
    missing = [
        keyword for keyword in ("AffectedSOPClassUID", "AffectedSOPInstanceUID") if not command.get(keyword)
    ]
    if not with_data_set:
        missing.append("data set")
    return ", ".join(missing)


class StoreOperation:
    """One instance on its way to a sink. After a refusal, pieces are no longer handed over."""

    def __init__(self, sink: Callable[[], Sink], command: StoreCommand) -> None:
        self._arrival: Arrival | None = None
        self._answer: Answer | None = None

        def begin() -> None:
            self._arrival = sink().begin(command)

        self._guarded(begin)

    @property
    def refused(self) -> bool:
        """Whether the answer is known already: the rest of the data set may be skipped."""
        return self._answer is not None

    def more(self, piece: memoryview) -> None:
        """The next bytes of the data set, valid during the call."""
        arrival = self._arrival
        if arrival is not None and self._answer is None:
            self._guarded(lambda: arrival.more(piece))
            if self._answer is not None:
                self.abandon()

    def complete(self) -> Answer:
        """The data set is whole: what became of it, and the reason of a refusal."""
        arrival, self._arrival = self._arrival, None

        def store() -> None:
            if arrival is not None:
                self._answer = arrival.complete(), ""

        if self._answer is None:
            self._guarded(store)
        return self._answer or (Outcome.FAILED, "processing failure")

    def abandon(self) -> None:
        """It will never be whole, or was refused. Harmless when it is over."""
        arrival, self._arrival = self._arrival, None
        if arrival is not None:
            self._guarded(arrival.abandon)

    def _guarded(self, call: Callable[[], None]) -> None:
        """Whatever a sink raises is an answer to the peer and a log, never silence."""
        try:
            call()
        except StoreRefused as refusal:
            self._answer = refusal.outcome, refusal.reason
        except OSError as error:
            said = {"action": "store_failed"}
            log.error("C-STORE failed: %s, errno %s", type(error).__name__, error.errno, extra=said)  # noqa: TRY400
            self._answer = Outcome.OUT_OF_RESOURCES, "the appliance cannot store now: try again"
        except Exception as error:  # noqa: BLE001 - the door: an answer to the peer and a log, never silence
            log_failure(log, "C-STORE failed", error, action="store_failed")
            self._answer = Outcome.FAILED, "processing failure"
