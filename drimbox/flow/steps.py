"""From what is wanted and what the DMP holds to the next step: publish, replace, unpublish, or wait. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from drimbox.domain.exam import Undecided, Unwanted, Wanted
from drimbox.domain.lifecycle import OPEN, SubmissionState
from drimbox.flow.records import Submission

Kind = Literal["publish", "replace", "unpublish"]
# How a live manifest is marked that the registry no longer shows as Approved (`flow/publish.py`).
GONE = "gone"


@dataclass(frozen=True, slots=True)
class Step:
    """One submission to make. `target`: the published one that it replaces or withdraws; `cause`: a stable slug."""

    kind: Kind
    content_key: str
    target: Submission | None = None
    cause: str | None = None


def live_of(submissions: Sequence[Submission]) -> Submission | None:
    """The publication that the DMP holds as Approved."""
    registered = [s for s in submissions if s.kind != "unpublish" and s.state == SubmissionState.REGISTERED]
    return registered[-1] if registered else None


def unfinished_of(submissions: Sequence[Submission]) -> Submission | None:
    """The submission that is not finished; there is at most one per study."""
    unfinished = [submission for submission in submissions if submission.state in OPEN]
    return unfinished[-1] if unfinished else None


def next_step(wanted: Wanted | Unwanted | Undecided, live: Submission | None) -> Step | Undecided | None:
    """What to do next; None when the DMP is as it should be.

    A changed patient is never an RPLC: the manifest is unpublished, then published (dmp-kos-xds 2.4).
    """
    if isinstance(wanted, Undecided):
        return wanted
    if live is None:
        if isinstance(wanted, Unwanted):
            return Undecided(wanted.rule, wanted.reason)
        return Step("publish", wanted.content_key)
    if isinstance(wanted, Wanted) and wanted.content_key == live.content_key:
        return None
    if live.entry_uuid is None:
        return _nameless(live)
    if isinstance(wanted, Unwanted):
        return _unpublish(live, wanted.rule)
    patient = wanted.source.report.patient.ins
    if patient is None or (patient.value, patient.oid) != (live.patient_ins, live.patient_oid):
        return _unpublish(live, "patient-changed")
    cause = "images-changed" if wanted.source.report_key == live.report_id else "report-changed"
    return Step("replace", wanted.content_key, live, cause)


def matches(submission: Submission, step: Step) -> bool:
    """Whether an unfinished submission is this very step."""
    target = (step.target.id, step.target.entry_uuid) if step.target else (None, None)
    return (submission.kind, submission.content_key) == (step.kind, step.content_key) and (
        submission.replaces_id,
        submission.target_entry,
    ) == target


def _unpublish(live: Submission, cause: str) -> Step:
    key = hashlib.sha256(f"unpublish {live.id}".encode()).hexdigest()
    return Step("unpublish", key, live, cause)


def _nameless(live: Submission) -> Undecided:
    if live.ending == GONE:
        words = f"the registry no longer shows the published manifest as Approved ({live.last_error})"
        return Undecided("gone-at-dmp", f"{words}: an operator decides (exams release)")
    return Undecided("entry-unknown", "the entryUUID of the published manifest is being looked up")
