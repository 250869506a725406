"""Certificates that end soon, or cannot serve: said in the log at each look, in the trace once for each level.

A row of the trace is written again when that of the same certificate and level is older than `REMEMBERED`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from drimbox.domain.certificate_levels import LOUDNESS, Level
from drimbox.flow import trace
from drimbox.flow.ports import Clock, Transaction, Transactions

ENDS, UNUSABLE = "CERTIFICATE_ENDS", "CERTIFICATE_UNUSABLE"
REMEMBERED = timedelta(days=60)
TURN = "certificate-alarms"


@dataclass(frozen=True, slots=True)
class Ending:
    """A certificate at a level of `LOUDNESS`. `certificate`: its SHA-256, or the setting of one that cannot be read.

    `settings`: those that name it; `until`: its end, None = not known; `reason`: why it is unusable.
    """

    certificate: str
    settings: tuple[str, ...]
    level: Level
    until: datetime | None
    reason: str = ""

    @property
    def event(self) -> str:
        """Its name in the trace."""
        return UNUSABLE if self.level is Level.UNUSABLE else ENDS

    @property
    def key(self) -> tuple[str, str]:
        """What has one row: the certificate and the level."""
        return self.certificate, self.level.value


class Say(Protocol):
    """Logs an event. `loudness`: info, warning or error."""

    def __call__(self, event: str, loudness: str, **fields: object) -> object: ...


@dataclass
class CertificateAlarms:
    """The job of the worker. `look`: what is at a level that is said; `actor`: as the trace names this node."""

    transactions: Transactions
    clock: Clock
    actor: str
    look: Callable[[datetime], Sequence[Ending]]
    say: Say
    _told: set[tuple[str, str]] = field(default_factory=set, init=False)

    def run_due(self) -> int:
        """Say what there is to say; the number of rows that were new. Raises `errors.Unavailable`."""
        now = self.clock()
        endings = self.look(now)
        for one in endings:
            until = None if one.until is None else f"{one.until:%Y-%m-%dT%H:%M:%SZ}"
            self.say(
                "certificate_unusable" if one.event == UNUSABLE else "certificate_ends",
                LOUDNESS[one.level],
                setting=", ".join(one.settings),
                state=one.level.value,
                until=until,
                reason=one.reason or None,
            )
        new = [one for one in endings if one.key not in self._told]
        written = self._write(new, now) if new else 0
        self._told = {one.key for one in endings}  # one that was renewed and ends again is said again
        return written

    def _write(self, endings: Sequence[Ending], now: datetime) -> int:
        begun = self.clock()
        with self.transactions.reading() as transaction:  # long perhaps: the trace has no index of events
            known = _known(transaction, now - REMEMBERED)
        with self.transactions.writing() as transaction:
            transaction.ledger.take_turns((TURN,))
            known |= _known(transaction, begun - timedelta(minutes=10))  # by another node in between
            new = [one for one in endings if one.key not in known]
            for one in new:
                trace.note(
                    transaction,
                    one.event,
                    at=now,
                    actor=self.actor,
                    certificate=one.certificate,
                    level=one.level.value,
                    settings=list(one.settings),
                    until=None if one.until is None else one.until.isoformat(),
                    reason=one.reason,
                )
            transaction.commit()
        return len(new)


def _known(transaction: Transaction, since: datetime) -> set[tuple[str, str]]:
    return {
        (str(row.detail.get("certificate")), str(row.detail.get("level")))
        for event in (ENDS, UNUSABLE)
        for row in transaction.traces.of_event(event, since)
    }
