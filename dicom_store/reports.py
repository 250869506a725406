"""N-EVENT-REPORTs that other threads ask of an association (PS3.7 10.1.1), sent by its own thread when it is idle."""

from __future__ import annotations

import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dicom_store.admission import Context
from dicom_store.command_set import DATA_SET, CommandField, Status

MESSAGE_IDS = 0xFFFF


@dataclass
class _Report:
    context_id: int
    command: Mapping[str, Any]
    data_set: bytes
    done: threading.Event = field(default_factory=threading.Event)
    success: bool = False


class Reports:
    """The reports of one association. `timeout`: seconds for a report to be sent and answered.

    A peer that left one unanswered is asked no other until it answers: whoever reports would wait each time.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._lock = threading.Lock()
        self._waiting: list[_Report] = []
        self._sent: dict[int, _Report] = {}
        self._last_id = 0
        self._ended = False
        self._mute = False
        self._owner = threading.get_ident()
        self._bell, self._rung = socket.socketpair()
        self._rung.setblocking(False)

    @property
    def wake(self) -> int:
        """File descriptor that is readable when there is something to send."""
        return self._rung.fileno()

    @property
    def outstanding(self) -> bool:
        """Whether an answer of the peer may come."""
        return bool(self._sent)

    def ask(self, context: Context, command: Mapping[str, Any], data_set: bytes) -> bool:
        """Have a report sent; whether the peer answered success in time. False when it has ended, or is mute.

        Raises RuntimeError when the association's own thread asks: it would wait for itself.
        """
        if threading.get_ident() == self._owner:
            raise RuntimeError("a report has to be asked by another thread than that of the association")
        report = _Report(context.context_id, command, data_set)
        with self._lock:
            if self._ended or self._mute:
                return False
            self._waiting.append(report)
            self._bell.send(b"!")
        report.done.wait(self._timeout)
        self._forget(report)
        return report.success

    def due(self) -> list[tuple[int, Mapping[str, Any], bytes]]:
        """Context, command set and data set of what is to be sent now."""
        with self._lock:
            self._rung.recv(MESSAGE_IDS)
            waiting, self._waiting = self._waiting, []
            return [(one.context_id, self._numbered(one), one.data_set) for one in waiting]

    def answered(self, message_id: int, status: int | None) -> None:
        """The peer's N-EVENT-REPORT-RSP; one that nobody waits for any more is nobody's."""
        with self._lock:
            report = self._sent.pop(message_id, None)
            self._mute = False
        if report is not None:
            report.success = status == Status.SUCCESS
            report.done.set()

    def close(self) -> None:
        """The association has ended: nobody waits any longer."""
        with self._lock:
            self._ended = True
            left = [*self._waiting, *self._sent.values()]
            self._waiting, self._sent = [], {}
            self._bell.close()
            self._rung.close()
        for report in left:
            report.done.set()

    def _numbered(self, report: _Report) -> Mapping[str, Any]:
        self._last_id = self._last_id % MESSAGE_IDS + 1
        self._sent[self._last_id] = report
        return {**report.command, "MessageID": self._last_id}

    def _forget(self, report: _Report) -> None:
        with self._lock:
            self._mute = self._mute or any(one is report for one in self._sent.values())
            self._waiting = [one for one in self._waiting if one is not report]
            self._sent = {number: one for number, one in self._sent.items() if one is not report}


@dataclass(frozen=True, slots=True)
class Asker:
    """What a service has of the association that asked (`sink.Association`): a report goes by the same context."""

    reports: Reports
    context: Context

    def report(self, sop_class_uid: str, sop_instance_uid: str, event_type: int, data_set: bytes) -> bool:
        """See `sink.Association`. False also for another SOP class, and without an answer in time."""
        if sop_class_uid != self.context.abstract_syntax:
            return False
        command = {
            "CommandField": int(CommandField.N_EVENT_REPORT),
            "AffectedSOPClassUID": sop_class_uid,
            "AffectedSOPInstanceUID": sop_instance_uid,
            "EventTypeID": event_type,
            "CommandDataSetType": DATA_SET,
        }
        return self.reports.ask(self.context, command, data_set)
