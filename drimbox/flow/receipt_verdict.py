"""What a business acknowledgement answers: Y, N with the reason, or not yet (hl7-mss 1.8, ZAM; drim-m-data 12 P10).

It is read from what the reconciler and the publisher wrote; nothing is decided here. Each study of the report is asked:
one N is the answer, Y needs them all, the rest is "not yet".

A message that asked for a publication (a new report, a replacement, another visibility):
- Y when the manifest made for it was registered and identified, whatever came later; or when the DMP holds what the
  exam wants now that the report is among its facts (the manifest may be made of another report of the exam);
- N when the wanted lot is REFUSED or PARKED; when a rule of `domain/exam.py` that withdraws holds the exam back (other
  rules wait for something that may still come); when the report was superseded or withdrawn before anything of it
  could reach the DMP.

A message that asked for a withdrawal:
- Y when nothing of the exam is public, or what is public is made of its other reports;
- N when the unpublication is REFUSED or PARKED.
"""

from __future__ import annotations

from collections.abc import Sequence

from drimbox.domain.exam import RULES
from drimbox.domain.hl7v2_grammar import Operation
from drimbox.domain.lifecycle import ReportState, SubmissionState
from drimbox.domain.xds.response import ErrorKind
from drimbox.domain.zam import Verdict, dmp_error_code
from drimbox.flow.ports import Transaction
from drimbox.flow.records import Exam, Receipt, ReceivedReport, Submission
from drimbox.flow.steps import live_of, unfinished_of

FINAL = frozenset(
    rule.slug for rule in RULES if rule.withdraws
)  # other rules wait for something that may still come
# An exam has one of these rules while its wanted lot is in that state (`lifecycle.STANDING`).
_TROUBLE = {SubmissionState.REFUSED: "refused", SubmissionState.PARKED: "parked"}
_REACHED = frozenset({SubmissionState.REGISTERED, SubmissionState.DEPRECATED, SubmissionState.WITHDRAWN})
_UNDER_WAY = frozenset({SubmissionState.SENDING, SubmissionState.DOUBTFUL, SubmissionState.RESENDING})
_OVERTAKEN = {ReportState.SUPERSEDED: "superseded", ReportState.WITHDRAWN: "report-withdrawn"}
_YES = Verdict("Y")
WITHDRAWAL: Operation = "CA"


def judge(transaction: Transaction, receipt: Receipt, report: ReceivedReport) -> Verdict | None:
    """What can be answered now; None: not yet."""
    studies = transaction.ledger.studies_of(report.id)
    if receipt.operation == WITHDRAWAL:
        found = [_withdrawal(*_look(transaction, study)) for study in studies]
    else:
        found = [_publication(receipt, report, *_look(transaction, study)) for study in studies]
    refusals = [verdict for verdict in found if verdict is not None and verdict.status == "N"]
    if refusals:
        return refusals[0]
    return _YES if found and None not in found else None


def _look(transaction: Transaction, study: str) -> tuple[Exam | None, Sequence[Submission]]:
    return transaction.ledger.exam(study), transaction.ledger.submissions_of(study)


def _publication(
    receipt: Receipt, report: ReceivedReport, exam: Exam | None, lots: Sequence[Submission]
) -> Verdict | None:
    made = [lot for lot in lots if lot.report_id == report.id and lot.kind != "unpublish"]
    if receipt.created_at != report.received_at:  # of a later message that changed the visibility
        made = [lot for lot in made if lot.created_at >= receipt.created_at]
    if any(lot.state in _REACHED and lot.entry_uuid is not None for lot in made):
        return _YES
    if report.state != ReportState.CURRENT:
        return _overtaken(report, made)
    if exam is None or exam.reconcile_at is not None:
        return None  # what arrived last is not judged
    if exam.rule is None:
        live = live_of(lots)
        return _YES if live is not None and live.entry_uuid is not None else None
    return Verdict("N", exam.rule) if exam.rule in FINAL else _trouble(exam, lots)


def _overtaken(report: ReceivedReport, made: Sequence[Submission]) -> Verdict | None:
    """No longer current, and nothing of it known to be registered. What was not sent never will be."""
    if any(lot.state in _UNDER_WAY or lot.state == SubmissionState.REGISTERED for lot in made):
        return None
    stuck = [lot for lot in made if lot.state in _TROUBLE]
    return _refusal(stuck[-1]) if stuck else Verdict("N", _OVERTAKEN[ReportState(report.state)])


def _withdrawal(exam: Exam | None, lots: Sequence[Submission]) -> Verdict | None:
    if exam is None or exam.reconcile_at is not None:
        return None
    if exam.rule is None or (live_of(lots) is None and unfinished_of(lots) is None):
        return _YES
    return _trouble(exam, lots)


def _trouble(exam: Exam, lots: Sequence[Submission]) -> Verdict | None:
    unfinished = unfinished_of(lots)
    if unfinished is None or exam.rule != _TROUBLE.get(SubmissionState(unfinished.state)):
        return None
    return _refusal(unfinished)


def _refusal(lot: Submission) -> Verdict:
    """The DMP's own code, if its last word on this lot was a refusal."""
    code = dmp_error_code(lot.last_error) if lot.ending in set(ErrorKind) else ""
    return Verdict("N", _TROUBLE[SubmissionState(lot.state)], code)
