"""Which images may be forgotten: the facts of an exam in, `Keep` or `Forget` with rule and reason out. Pure.

Images go only when somebody said that the exam must not be public, nothing of it is at the DMP or on its way there,
and nothing is awaited. What no row names is kept. Manifests, their metadata, states, trace and reports stay anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from drimbox.domain.lifecycle import MANIFEST_STATUS, StudyState, SubmissionState

_S = SubmissionState


@dataclass(frozen=True, slots=True)
class HeldLot:
    """A submission. `kind`: publish, replace or unpublish; `since`: when it came into its state."""

    kind: str
    state: str
    since: datetime


@dataclass(frozen=True, slots=True)
class HeldExam:
    """An exam whose images are here: `instances` of `bytes`. `state`: None = the ledger does not know it.

    `rule`: why it is not (re)published, a slug of `exam.RULES` or another; `is_due`: not judged since its last change;
    `changed_at`: newest change of images, reports, states and lots; `awaits_commitment`: a request for storage
    commitment that names an image of it is not answered yet.
    """

    study_instance_uid: str
    state: str | None
    rule: str | None
    is_due: bool
    changed_at: datetime
    lots: tuple[HeldLot, ...]
    awaits_commitment: bool
    instances: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """`images_days`: since the last change of an exam, 0 = for ever; `replaced_grace`: see `access.check_standing`."""

    images_days: int
    replaced_grace: timedelta = timedelta()


@dataclass(frozen=True, slots=True)
class Keep:
    """The images stay. `rule`: stable slug."""

    rule: str
    reason: str


@dataclass(frozen=True, slots=True)
class Forget:
    """The images may go. `rule`: of `CAUSES`."""

    rule: str
    reason: str


@dataclass(frozen=True, slots=True)
class Obstacle:
    """A row: `hinders` says why the images stay, or None. `clause` is its source."""

    slug: str
    clause: str
    hinders: Callable[[HeldExam, RetentionPolicy, datetime], str | None]


# A study in one of these states may lose its images; any other hinders.
STUDY_AT_REST = frozenset({StudyState.SETTLED, StudyState.WITHDRAWN})
# A lot of this kind and state hinders nothing; any other does, whatever is added to the tables of `lifecycle`.
LOTS_ENDED: Mapping[tuple[str, str], str] = {
    ("publish", _S.DEPRECATED): "replaced: whether its successor is public is the successor's row",
    ("publish", _S.WITHDRAWN): "unpublished",
    ("publish", _S.DROPPED): "never sent",
    ("replace", _S.DEPRECATED): "replaced: whether its successor is public is the successor's row",
    ("replace", _S.WITHDRAWN): "unpublished",
    ("replace", _S.DROPPED): "never sent",
    ("unpublish", _S.REGISTERED): "done: what it withdrew is WITHDRAWN",
    ("unpublish", _S.DROPPED): "never sent",
}
# Rules of `exam.RULES` that somebody broke on purpose (`withdraws`): the exam must not be public, nothing is awaited.
CAUSES: Mapping[str, str] = {
    "withdrawn": "the exam was withdrawn",
    "report-withdrawn": "its report was withdrawn",
    "all-rejected": "every image was rejected",
    "not-for-dmp": "its report is not destined to the DMP",
    "opposition": "the patient opposes the feeding of the DMP",
    "restricted": "the confidentiality of its report forbids sharing",
}


def retention(exam: HeldExam, policy: RetentionPolicy, now: datetime) -> Keep | Forget:
    """Whether the images of an exam may be forgotten at `now`; the first obstacle is the reason shown."""
    for obstacle in OBSTACLES:
        reason = obstacle.hinders(exam, policy, now)
        if reason is not None:
            return Keep(obstacle.slug, reason)
    assert exam.rule is not None
    age = (now - exam.changed_at).days
    return Forget(exam.rule, f"{CAUSES[exam.rule]}, nothing changed for {age} days")


def _for_ever(_exam: HeldExam, policy: RetentionPolicy, _now: datetime) -> str | None:
    return None if policy.images_days else "images are kept for ever (retention.images_days)"


def _not_at_rest(exam: HeldExam, _policy: RetentionPolicy, _now: datetime) -> str | None:
    return None if exam.state in STUDY_AT_REST else "its images may still be arriving"


def _due(exam: HeldExam, _policy: RetentionPolicy, _now: datetime) -> str | None:
    return "it was not judged since its last change" if exam.is_due else None


def _lot(exam: HeldExam, _policy: RetentionPolicy, _now: datetime) -> str | None:
    holding = [lot for lot in exam.lots if (lot.kind, lot.state) not in LOTS_ENDED]
    if not holding:
        return None
    status = MANIFEST_STATUS.get(SubmissionState(holding[-1].state)) if holding[-1].state in set(_S) else None
    return f"a manifest of it is at the DMP, or on its way there ({status or holding[-1].state})"


def _grace(exam: HeldExam, policy: RetentionPolicy, now: datetime) -> str | None:
    replaced = [lot.since for lot in exam.lots if lot.state == _S.DEPRECATED]
    serves = any(now < since + policy.replaced_grace for since in replaced)
    return "a replaced manifest of it still serves (web.replaced_grace)" if serves else None


def _commitment(exam: HeldExam, _policy: RetentionPolicy, _now: datetime) -> str | None:
    return "a request for storage commitment is not answered yet" if exam.awaits_commitment else None


def _awaited(exam: HeldExam, _policy: RetentionPolicy, _now: datetime) -> str | None:
    return (
        None
        if exam.rule in CAUSES
        else f"nobody said that it should not be public ({exam.rule or 'no rule'})"
    )


def _recent(exam: HeldExam, policy: RetentionPolicy, now: datetime) -> str | None:
    since = now - timedelta(days=policy.images_days)
    return None if exam.changed_at <= since else f"it changed within {policy.images_days} days"


# In the order in which an operator would ask.
OBSTACLES: tuple[Obstacle, ...] = (
    Obstacle("for-ever", "retention.images_days = 0", _for_ever),
    Obstacle("arriving", "lifecycle.STUDY", _not_at_rest),
    Obstacle("not-judged", "reconcile: what is due is not decided", _due),
    Obstacle("at-dmp", "seeds, FAQ: the source serves what the DMP references", _lot),
    Obstacle("in-grace", "web.replaced_grace", _grace),
    Obstacle("commitment", "PS3.4 J: the sender may delete what is committed", _commitment),
    Obstacle("awaited", "seeds, FAQ: the report triggers the publication", _awaited),
    Obstacle("recent", "retention.images_days", _recent),
)
