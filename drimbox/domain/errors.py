"""The error trees of the product, drawn.

DrimboxError
├── Refused            what they sent is wrong: a code, a reason, what to do (answered at the door, traced)
│   ├── ReportRefused      the message or its CDA
│   ├── InstanceRefused    the DICOM instance
│   └── AccessRefused      a retrieval
├── Unavailable        we cannot do it now: disk full, database locked; try again later (AR, 0xA700, 503)
│   ├── NoRoom             what is to be kept has no room on the disk (AR, 507)
│   ├── CommitInDoubt      the commit itself failed: it may have happened
│   ├── TransactionLost    nothing of the transaction under way will happen
│   ├── DutyLost           another worker does this now
│   └── PscUnavailable     Pro Santé Connect could not be asked, or refused us as a client
│       └── PscBusy            too many tokens are being asked about already
├── DatabaseNewer      a newer program has changed the tables: this one does not know what they mean now
└── Damaged            what we stored is gone or changed on disk: an operator restores it
"""

from __future__ import annotations

from collections.abc import Iterable

from drimbox.domain.violations import Violation


class DrimboxError(Exception):
    """Root of both trees."""


class Refused(DrimboxError):
    """What they sent is wrong. `code`: stable slug; the message says the reason without patient data."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class ReportRefused(Refused):
    """The report, or the message that carries it. `violations`: every rule that it breaks, when they are known."""

    def __init__(self, code: str, reason: str, violations: Iterable[Violation] = ()) -> None:
        super().__init__(code, reason)
        self.violations = tuple(violations)


class InstanceRefused(Refused):
    """The DICOM instance."""


class AccessRefused(Refused):
    """A retrieval by a partner. `status`: HTTP status of design/contract.md; `why`: for the audit alone."""

    def __init__(self, code: str, reason: str, status: int, why: str = "") -> None:
        super().__init__(code, reason)
        self.status = status
        self.why = why


class Damaged(DrimboxError):
    """Bytes that were stored are missing or changed; nothing is built on them."""


class DatabaseNewer(DrimboxError):
    """The database is at a revision that this program does not know; the message says what to do."""


class Unavailable(DrimboxError):
    """We cannot do it now, and saying so is honest: the sender keeps its data and tries again."""


class NoRoom(Unavailable):
    """The disk is full, or less free space would remain than must (`storage.minimum_free_bytes`)."""


class CommitInDoubt(Unavailable):
    """The commit itself failed: rows may be there or not, so what they would point to must stay."""


class TransactionLost(Unavailable):
    """The transaction was undone as a whole while it was under way; nothing more can be done in it."""


class DutyLost(Unavailable):
    """Another worker has taken over what this one was doing; nothing of the transaction is written."""


class PscUnavailable(Unavailable):
    """Pro Santé Connect could not be asked, or refused us as a client: says nothing about the token."""


class PscBusy(PscUnavailable):
    """Too many tokens are being asked about already; those that are known are served on."""
