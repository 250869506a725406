"""One retrieval: what came of it and what it means, before anything is written (trust-and-identity 3.5, 3.6)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from whitelist import trust
from whitelist.chain import Crls
from whitelist.decision import Outcome, State
from whitelist.fetch import Fetched
from whitelist.progress import REVOKED
from whitelist.record import Failure

_ARCHIVE = (14, "archive")
_SIGNER_KNOWN = frozenset({8, 9, 10})


@dataclass(frozen=True, slots=True)
class Refreshed:
    """What one call did. `outcome` None: nothing was tried (not due, or another process holds the lock: `error`).

    `report`, `candidate`: of what was examined, accepted or not; None when nothing came. `list_file`: name of the
    archived list in force.
    """

    outcome: Outcome | None
    state_before: State
    state_after: State
    report: trust.Report | None = None
    error: Failure | None = None
    candidate: bytes | None = None
    list_file: str | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Attempt:
    """One retrieval before it is archived: the verified candidate or the failure; `retrieved` False = a file."""

    at: datetime
    failure: Failure | None = None
    report: trust.Report | None = None
    candidate: bytes | None = None
    fetched: Fetched | None = None
    named: bool = False
    warnings: tuple[str, ...] = ()
    retrieved: bool = True


class NotArchived(Exception):
    """The disk did not take the list, its report or the state."""


def outcome_of(attempt: Attempt, state: State) -> Outcome:
    """UNCHANGED only where the list says of us what it said before: our own host may have been configured anew."""
    not_modified = attempt.fetched is not None and attempt.fetched.status == 304
    if not_modified and attempt.named is not (state is State.ABSENT):
        return Outcome.UNCHANGED
    return Outcome.NAMED if attempt.named else Outcome.NOT_NAMED


def validators(fetched: Fetched | None) -> tuple[str | None, str | None]:
    """`etag` and `modified` of a retrieved body."""
    return (fetched.etag, fetched.modified) if fetched else (None, None)


def refusal(report: trust.Report, crls: Crls) -> Failure:
    """Why a report does not accept: `revoked` when a CRL names the right signer's certificate (5.4), else the first
    step that failed.
    """
    why = "; ".join(f"step {step.number} ({step.title}): {step.why}" for step in report.failed)
    code = f"step-{report.failed[0].number}" if report.failed else "not-judged"
    revoked = _revoked(report, crls)
    return Failure(report.at, REVOKED if revoked else code, why or "the verification came to no result")


def _revoked(report: trust.Report, crls: Crls) -> bool:
    """Said only of a certificate of the pinned authority and name that made the signature: a file can claim any."""
    held = {step.number for step in report.steps if step.outcome in (trust.Held.HELD, trust.Held.WARNED)}
    if report.signer is None or crls.of_intermediate is None or not held >= _SIGNER_KNOWN:
        return False
    return (
        crls.of_intermediate.get_revoked_certificate_by_serial_number(report.signer.serial_number) is not None
    )


def archived_step(held: trust.Held, why: str) -> trust.Step:
    """Step 14 of 3.5, which the verification itself cannot judge."""
    return trust.Step(*_ARCHIVE, held, why)
