"""Three small machines: the study, its reports, and each submission made of it (architecture, section 4).

The tables are the specification: an unlisted (state, event) pair raises. `DOUBTFUL` is the honest name for
"we posted and heard nothing"; only an answer for our own submission set, or the registry's word, ends it.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class StudyState(StrEnum):
    """Where the images of a study stand."""

    RECEIVING = "RECEIVING"
    SETTLED = "SETTLED"
    WITHDRAWN = "WITHDRAWN"


class ReportState(StrEnum):
    """Where a received report stands (hl7-mss 1.6)."""

    CURRENT = "CURRENT"
    SUPERSEDED = "SUPERSEDED"
    WITHDRAWN = "WITHDRAWN"


class SubmissionState(StrEnum):
    """Where one lot stands with the DMP."""

    PREPARED = "PREPARED"
    SENDING = "SENDING"
    DOUBTFUL = "DOUBTFUL"
    RESENDING = "RESENDING"
    REFUSED = "REFUSED"
    PARKED = "PARKED"
    REGISTERED = "REGISTERED"
    DEPRECATED = "DEPRECATED"
    WITHDRAWN = "WITHDRAWN"
    DROPPED = "DROPPED"


class Event(StrEnum):
    """What may happen to a study or to a submission."""

    STUDY_QUIET = "STUDY_QUIET"
    INSTANCE_STORED = "INSTANCE_STORED"
    WITHDRAWAL_ASKED = "WITHDRAWAL_ASKED"
    RESTORATION_ASKED = "RESTORATION_ASKED"
    CLAIMED = "CLAIMED"
    SUPERSEDED = "SUPERSEDED"
    ATTEMPTS_SPENT = "ATTEMPTS_SPENT"
    REGISTERED = "REGISTERED"
    REFUSED = "REFUSED"
    NOT_SENT = "NOT_SENT"
    NO_ANSWER = "NO_ANSWER"
    LEASE_EXPIRED = "LEASE_EXPIRED"
    FOUND = "FOUND"
    NOT_FOUND = "NOT_FOUND"
    RELEASED = "RELEASED"
    REPLACED = "REPLACED"
    WITHDRAWN = "WITHDRAWN"
    IMPORTED = "IMPORTED"


class NoSuchTransition(Exception):
    """This event cannot happen in this state: a defect of the caller, never of the peer."""


_R, _S, _W = StudyState.RECEIVING, StudyState.SETTLED, StudyState.WITHDRAWN
STUDY: Mapping[tuple[StudyState, Event], StudyState] = {
    (_R, Event.STUDY_QUIET): _S,
    (_S, Event.STUDY_QUIET): _S,
    (_R, Event.INSTANCE_STORED): _R,
    (_S, Event.INSTANCE_STORED): _R,
    (_W, Event.INSTANCE_STORED): _R,
    (_R, Event.WITHDRAWAL_ASKED): _W,
    (_S, Event.WITHDRAWAL_ASKED): _W,
    (_W, Event.WITHDRAWAL_ASKED): _W,
    (_W, Event.RESTORATION_ASKED): _R,
}

REPORT: Mapping[tuple[ReportState, Event], ReportState] = {
    (ReportState.CURRENT, Event.REPLACED): ReportState.SUPERSEDED,
    (ReportState.CURRENT, Event.WITHDRAWN): ReportState.WITHDRAWN,
}

_S_ = SubmissionState
SUBMISSION: Mapping[tuple[SubmissionState, Event], SubmissionState] = {
    (_S_.PREPARED, Event.CLAIMED): _S_.SENDING,
    (_S_.PREPARED, Event.SUPERSEDED): _S_.DROPPED,
    (_S_.PREPARED, Event.ATTEMPTS_SPENT): _S_.PARKED,
    (_S_.PREPARED, Event.IMPORTED): _S_.REGISTERED,
    (_S_.SENDING, Event.REGISTERED): _S_.REGISTERED,
    (_S_.SENDING, Event.REFUSED): _S_.REFUSED,
    (_S_.SENDING, Event.NOT_SENT): _S_.PREPARED,
    (_S_.SENDING, Event.NO_ANSWER): _S_.DOUBTFUL,
    (_S_.SENDING, Event.LEASE_EXPIRED): _S_.DOUBTFUL,
    (_S_.DOUBTFUL, Event.CLAIMED): _S_.RESENDING,
    (_S_.DOUBTFUL, Event.FOUND): _S_.REGISTERED,
    (_S_.DOUBTFUL, Event.NOT_FOUND): _S_.PREPARED,
    (_S_.DOUBTFUL, Event.ATTEMPTS_SPENT): _S_.PARKED,
    (_S_.RESENDING, Event.REGISTERED): _S_.REGISTERED,
    (_S_.RESENDING, Event.REFUSED): _S_.PARKED,
    (_S_.RESENDING, Event.NOT_SENT): _S_.DOUBTFUL,
    (_S_.RESENDING, Event.NO_ANSWER): _S_.DOUBTFUL,
    (_S_.RESENDING, Event.LEASE_EXPIRED): _S_.DOUBTFUL,
    (_S_.REFUSED, Event.RELEASED): _S_.PREPARED,
    (_S_.REFUSED, Event.SUPERSEDED): _S_.DROPPED,
    (_S_.PARKED, Event.RELEASED): _S_.DOUBTFUL,
    (_S_.PARKED, Event.FOUND): _S_.REGISTERED,
    (_S_.PARKED, Event.NOT_FOUND): _S_.PREPARED,
    (_S_.REGISTERED, Event.REPLACED): _S_.DEPRECATED,
    (_S_.REGISTERED, Event.WITHDRAWN): _S_.WITHDRAWN,
}

# The DMP holds, or may hold, the lot of a submission in one of these states.
MAY_BE_AT_DMP = frozenset({_S_.SENDING, _S_.DOUBTFUL, _S_.RESENDING, _S_.PARKED, _S_.REGISTERED})
# A submission in one of these states is not finished: no other lot of the study may be prepared beside it.
OPEN = frozenset({_S_.PREPARED, _S_.SENDING, _S_.DOUBTFUL, _S_.RESENDING, _S_.REFUSED, _S_.PARKED})
# Nothing of it can have reached the DMP: it may be dropped for a newer lot.
REPLACEABLE = frozenset({_S_.PREPARED, _S_.REFUSED})

# What `exams show` says of a manifest (design: contract, `manifest.status`).
MANIFEST_STATUS: Mapping[SubmissionState, str] = {
    _S_.PREPARED: "prepared",
    _S_.SENDING: "prepared",
    _S_.DOUBTFUL: "doubtful",
    _S_.RESENDING: "doubtful",
    _S_.REFUSED: "refused",
    _S_.PARKED: "parked",
    _S_.REGISTERED: "published",
    _S_.DEPRECATED: "replaced",
    _S_.WITHDRAWN: "unpublished",
    _S_.DROPPED: "none",
}

# Why an exam whose wanted lot is in this state is not (re)published: (rule, reason); None = it is.
STANDING: Mapping[SubmissionState, tuple[str, str]] = {
    _S_.PREPARED: ("to-send", "the manifest is prepared and waits to be sent"),
    _S_.SENDING: ("sending", "the manifest is being sent"),
    _S_.DOUBTFUL: ("doubtful", "the DMP gave no usable answer: it is asked what it holds"),
    _S_.RESENDING: ("doubtful", "the DMP gave no usable answer: the same lot is sent again"),
    _S_.REFUSED: ("refused", "the DMP refused the manifest"),
    _S_.PARKED: ("parked", "the submission waits for an operator (exams release)"),
}


def standing(state: str, error: str | None) -> tuple[str | None, str | None]:
    """(rule, reason) of an exam whose wanted lot is in `state`, with the DMP's last words; (None, None) when done."""
    rule, reason = STANDING.get(SubmissionState(state), (None, None))
    return rule, f"{reason}: {error}" if reason and error else reason


def advance_study(state: str, event: Event) -> StudyState:
    """The state of a study after `event`; raises `NoSuchTransition` for an unlisted pair."""
    try:
        return STUDY[StudyState(state), event]
    except KeyError:
        raise NoSuchTransition(f"study {state}: {event} cannot happen") from None


def advance_report(state: str, event: Event) -> ReportState:
    """The state of a report after `event`; raises `NoSuchTransition` for an unlisted pair."""
    try:
        return REPORT[ReportState(state), event]
    except KeyError:
        raise NoSuchTransition(f"report {state}: {event} cannot happen") from None


def advance_submission(state: str, event: Event) -> SubmissionState:
    """The state of a submission after `event`; raises `NoSuchTransition` for an unlisted pair."""
    try:
        return SUBMISSION[SubmissionState(state), event]
    except KeyError:
        raise NoSuchTransition(f"submission {state}: {event} cannot happen") from None
