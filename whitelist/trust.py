"""May this list be used? The numbered steps of trust-and-identity 3.5, each one reported.

A failed step does not stop the later ones; those that lack what it should have given are SKIPPED and say so.
Step 14 (archiving) is the keeper's: it adds it by `Report.with_step`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from whitelist.chain import Anchors, Crls
from whitelist.document import TrustedList
from whitelist.steps import PROCEDURE, Case, Row, Unjudged


class Held(StrEnum):
    """Outcome of a step. SKIPPED: not applicable, or not judged for lack of what an earlier step gives."""

    HELD = "held"
    WARNED = "warned"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Step:
    """One numbered step of 3.5, its outcome and why, as a sentence."""

    number: int
    title: str
    outcome: Held
    why: str


@dataclass(frozen=True, slots=True)
class Previous:
    """Of the archived list, for step 12: aware instants, None when it had none."""

    signed_at: datetime | None
    generated_at: datetime | None


# Steps without which nothing is accepted, whatever the form and even when an archive is loaded again.
_INDISPENSABLE = frozenset({2, 3, 4, 5, 6, 8, 9, 10, 13})
_GOOD = frozenset({Held.HELD, Held.WARNED})
MAX_WORDS = 2000  # characters of one step's `why`: a file may quote itself at length


@dataclass(frozen=True, slots=True)
class Report:
    """Verdict on one candidate at the aware instant `at`; `sha256`: hexadecimal, of the candidate's bytes.

    `trusted` and `octets` (the canonical octets that were verified) are None unless the list is accepted: nothing
    else of a file may be used. `signer` and `signed_at` are what the file says, for display and proof.
    """

    at: datetime
    sha256: str
    steps: tuple[Step, ...]
    trusted: TrustedList | None
    octets: bytes | None
    signer: x509.Certificate | None
    signed_at: datetime | None

    @property
    def accepted(self) -> bool:
        """No step failed and every indispensable one held (or warned)."""
        held = {step.number for step in self.steps if step.outcome in _GOOD}
        return not self.failed and held >= _INDISPENSABLE and self.trusted is not None

    @property
    def failed(self) -> tuple[Step, ...]:
        """The steps that failed, in order."""
        return tuple(step for step in self.steps if step.outcome is Held.FAILED)

    def with_step(self, step: Step) -> Report:
        """The report with one more step (or another outcome of it); a failed one takes the list away."""
        others = [known for known in self.steps if known.number != step.number]
        steps = tuple(sorted([*others, step], key=lambda known: known.number))
        if step.outcome is Held.FAILED:
            return replace(self, steps=steps, trusted=None, octets=None)
        return replace(self, steps=steps)

    def as_dict(self) -> dict[str, object]:
        """For JSON: instants in ISO 8601, no bytes, no secret."""
        return {
            "at": self.at.isoformat(),
            "sha256": self.sha256,
            "accepted": self.accepted,
            "steps": [
                {"number": s.number, "title": s.title, "outcome": s.outcome.value, "why": s.why}
                for s in self.steps
            ],
            "signed_at": _iso(self.signed_at),
            "generated_at": _iso(self.trusted.generated_at) if self.trusted else None,
            "entries": len(self.trusted.domains) if self.trusted else None,
            "signer": _signer(self.signer),
        }


def examine(
    candidate: bytes,
    anchors: Anchors,
    crls: Crls,
    *,
    at: datetime,
    previous: Previous | None = None,
    transport: str | None = None,
    reload: bool = False,
) -> Report:
    """Steps 1 to 13 of 3.5 on any bytes; never raises for what they are.

    `at`: the aware instant to judge at. `transport`: how the bytes came over a verified channel, None for a file.
    `reload`: an archived list at its acceptance time `at`; steps 11 and 12 are then SKIPPED (3.5, last line).
    """
    before = previous or Previous(None, None)
    case = Case(candidate, anchors, crls, at, before.signed_at, before.generated_at, transport, reload)
    steps: list[Step] = []
    for row in PROCEDURE:
        step = _judged(row, case)
        steps.append(step)
        if step.outcome is Held.FAILED:
            case.failed.add(step.number)
    steps.sort(key=lambda step: step.number)
    report = Report(
        at,
        hashlib.sha256(candidate).hexdigest(),
        tuple(steps),
        case.trusted,
        case.octets,
        case.leaf,
        case.signed_at,
    )
    return report if report.accepted else replace(report, trusted=None, octets=None)


def _judged(row: Row, case: Case) -> Step:
    try:
        finding = row.judge(case)
    except Unjudged as lack:
        return _step(row, Held.SKIPPED, str(lack))
    outcomes = (
        (Held.FAILED, finding.faults),
        (Held.SKIPPED, [finding.unjudged] if finding.unjudged else []),
        (Held.WARNED, finding.doubts),
    )
    for outcome, sentences in outcomes:
        if sentences:
            return _step(row, outcome, "; ".join(sentences))
    return _step(row, Held.HELD, "; ".join(finding.notes))


def _step(row: Row, outcome: Held, why: str) -> Step:
    """What a file says of itself is repeated shortly and without control characters: logs and screens show it."""
    short = why if len(why) <= MAX_WORDS else f"{why[:MAX_WORDS]}…"
    return Step(row.number, row.title, outcome, "".join(c if c.isprintable() else "?" for c in short))


def _iso(instant: datetime | None) -> str | None:
    return None if instant is None else instant.isoformat()


def _signer(certificate: x509.Certificate | None) -> dict[str, object] | None:
    if certificate is None:
        return None
    return {
        "subject": certificate.subject.rfc4514_string(),
        "issuer": certificate.issuer.rfc4514_string(),
        "serial": f"{certificate.serial_number:x}",
        "not_before": _iso(certificate.not_valid_before_utc),
        "not_after": _iso(certificate.not_valid_after_utc),
        "sha256": certificate.fingerprint(hashes.SHA256()).hex(),
    }
