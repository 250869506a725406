"""The report of all probes: as bytes between processes, as JSON for operators, as one word for everybody else.

Form: draft-inadarei-api-health-check-06. trust-and-identity 6.3: the public answer says `status` and no more.
"""

from __future__ import annotations

import json
from collections.abc import Container, Sequence
from datetime import UTC, datetime
from typing import Any

from healthcheck.probe import LONGEST_OUTPUT, Outcome, ProbeResult, Status, summarise


class DamagedReport(Exception):
    """Not a report that `encode` made."""


def public_body(status: Status) -> bytes:
    """What anybody may know."""
    return json.dumps({"status": status.word}).encode("ascii")


def full_report(
    results: Sequence[ProbeResult], instant: float, vital: Container[str], **about: str
) -> dict[str, Any]:
    """The report for operators at `instant` (monotonic seconds). `about`: members of the whole (releaseId, notes…).

    Beside the draft's members each check has `ageSeconds`, `tookSeconds` and `vital` (its failure is a 503).
    """
    checks = {one.name: [_check(one, instant, vital)] for one in sorted(results, key=lambda one: one.name)}
    return {"status": summarise(results, instant, vital).word, **about, "checks": checks}


def _check(result: ProbeResult, instant: float, vital: Container[str]) -> dict[str, Any]:
    outcome = result.outcome
    output = outcome.output[:LONGEST_OUTPUT]
    if result.is_stale(instant):
        output = f"not looked at for {instant - result.instant:.0f} s; then: {output or outcome.status.word}"
    check: dict[str, Any] = {"status": result.status_at(instant).word, "componentType": result.kind}
    if outcome.value is not None:
        check["observedValue"] = outcome.value
    if outcome.unit:
        check["observedUnit"] = outcome.unit
    if output:
        check["output"] = output
    return check | {
        "time": result.at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "ageSeconds": round(instant - result.instant, 1),
        "tookSeconds": round(result.seconds, 3),
        "vital": result.name in vital,
    }


def encode(results: Sequence[ProbeResult]) -> bytes:
    """The results, for `decode`."""
    rows = [
        [
            one.name,
            one.kind,
            one.period,
            one.outcome.status.value,
            one.outcome.output[:LONGEST_OUTPUT],
            one.outcome.value,
            one.outcome.unit,
            one.at.isoformat(),
            one.instant,
            one.seconds,
        ]
        for one in results
    ]
    return json.dumps(rows).encode("ascii")


def decode(data: bytes) -> tuple[ProbeResult, ...]:
    """The results. Raises `DamagedReport`."""
    try:
        return tuple(_decoded(*row) for row in json.loads(data))
    except (ValueError, TypeError) as error:
        raise DamagedReport(f"not a health report: {error}") from error


def _decoded(
    name: str,
    kind: str,
    period: float,
    status: int,
    output: str,
    value: float | str | None,
    unit: str,
    at: str,
    instant: float,
    seconds: float,
) -> ProbeResult:
    outcome = Outcome(Status(status), output, value, unit)
    return ProbeResult(name, kind, period, outcome, datetime.fromisoformat(at), instant, seconds)
