"""`exams list`: every exam, or those that were asked for, a page at a time, however many there are."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from drimbox.domain.lifecycle import StudyState
from drimbox.flow.exams import row
from drimbox.flow.ports import Transactions

PAGE = 500  # exams of one transaction: a slow reader holds up nobody

# Rules that wait for an operator's word: shown by `--state parked` beside parked submissions.
_OPERATOR = {"thinner": "parked", "gone-at-dmp": "parked", "parked": "parked"}


def list_exams(
    transactions: Transactions,
    state: str | None = None,
    *,
    since: datetime | None = None,
    without_patient: bool = False,
    limit: int | None = None,
) -> Iterator[dict[str, Any]]:
    """One row per exam, newest change first; which ones is settled at the first, what they are when they come.

    `state`: of the study, of the manifest, or a rule (lower case); `since`: changed then or later;
    `without_patient`: no current report names them; `limit`: at most so many.
    """
    study_state = state.upper() if state and state.upper() in set(StudyState) else None
    wanted = None if study_state else state and state.lower()
    with transactions.reading() as transaction:
        studies = transaction.ledger.exam_keys(
            state=study_state, since=since, without_report=without_patient, limit=None if wanted else limit
        )
    left = len(studies) if limit is None else limit
    for start in range(0, len(studies), PAGE):
        for one in _page(transactions, studies[start : start + PAGE]):
            if left and (wanted is None or _is(one, wanted)):
                left -= 1
                yield one
        if not left:
            return


def _page(transactions: Transactions, studies: Any) -> list[dict[str, Any]]:
    with transactions.reading() as transaction:
        submissions = transaction.lots.by_study(studies)
        exams = transaction.ledger.exams_named(studies)
        return [row(exam, submissions.get(exam.study_instance_uid, ())) for exam in exams]


def _is(one: dict[str, Any], wanted: str) -> bool:
    return wanted in (one["manifest"], one["rule"], _OPERATOR.get(one["rule"]))
