"""The two tables, checked as a model: every state reachable, none stuck, nothing the DMP may hold is dropped."""

from __future__ import annotations

import pytest

from drimbox.domain.lifecycle import (
    MANIFEST_STATUS,
    MAY_BE_AT_DMP,
    OPEN,
    REPLACEABLE,
    REPORT,
    STUDY,
    SUBMISSION,
    Event,
    NoSuchTransition,
    ReportState,
    StudyState,
    SubmissionState,
    advance_study,
    advance_submission,
)

S = SubmissionState
# In the ends, nothing more is owed to the DMP.
ENDS = {S.DROPPED, S.DEPRECATED, S.WITHDRAWN}


def reachable_from(state: SubmissionState) -> set[SubmissionState]:
    seen, todo = {state}, [state]
    while todo:
        current = todo.pop()
        for (source, _event), target in SUBMISSION.items():
            if source is current and target not in seen:
                seen.add(target)
                todo.append(target)
    return seen


def test_every_state_is_reachable() -> None:
    assert reachable_from(S.PREPARED) == set(S)


@pytest.mark.parametrize("state", [s for s in S if s not in ENDS])
def test_no_state_is_stuck(state: SubmissionState) -> None:
    assert S.REGISTERED in reachable_from(state)


@pytest.mark.parametrize("state", sorted(ENDS))
def test_the_ends_are_ends(state: SubmissionState) -> None:
    assert reachable_from(state) == {state}


def test_nothing_the_dmp_may_hold_is_dropped() -> None:
    """DROPPED is reached only from states where nothing can have been registered."""
    into_dropped = {source for (source, _), target in SUBMISSION.items() if target is S.DROPPED}
    assert into_dropped == REPLACEABLE
    assert into_dropped & MAY_BE_AT_DMP == set()


def test_only_the_registry_or_an_answer_ends_a_doubt() -> None:
    """From DOUBTFUL one comes back to PREPARED only because the registry says NOT_FOUND."""
    back = {
        event
        for (source, event), target in SUBMISSION.items()
        if source is S.DOUBTFUL and target is S.PREPARED
    }
    assert back == {Event.NOT_FOUND}


def test_silence_after_sending_is_a_doubt() -> None:
    for state in (S.SENDING, S.RESENDING):
        for event in (Event.NO_ANSWER, Event.LEASE_EXPIRED):
            assert advance_submission(state, event) is S.DOUBTFUL


def test_every_state_has_a_word_for_the_operator() -> None:
    assert set(MANIFEST_STATUS) == set(S)
    assert OPEN & ENDS == set()


def test_an_unlisted_pair_raises() -> None:
    with pytest.raises(NoSuchTransition, match="REGISTERED: CLAIMED"):
        advance_submission(S.REGISTERED, Event.CLAIMED)
    with pytest.raises(NoSuchTransition):
        advance_study(StudyState.WITHDRAWN, Event.STUDY_QUIET)


def test_the_ends_of_a_report_are_ends() -> None:
    assert set(REPORT.values()) == set(ReportState) - {ReportState.CURRENT}
    assert {state for state, _event in REPORT} == {ReportState.CURRENT}


def test_late_images_reopen_a_study() -> None:
    for state in StudyState:
        assert STUDY[state, Event.INSTANCE_STORED] is StudyState.RECEIVING
