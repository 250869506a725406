"""All that is known of one study at this instant, read under the caller's transaction."""

from __future__ import annotations

from drimbox.domain.cda import read_cda
from drimbox.domain.exam import ExamFacts, ReportFacts
from drimbox.domain.hl7v2_grammar import OPPOSITION
from drimbox.flow.ports import Documents, Transaction
from drimbox.flow.records import Exam, ReceivedReport


def facts_of(transaction: Transaction, documents: Documents, exam: Exam, time_zone: str) -> ExamFacts:
    """The facts of a study. Raises `errors.Damaged` when a kept CDA cannot be read any more."""
    study, ledger = exam.study_instance_uid, transaction.ledger
    return ExamFacts(
        study_instance_uid=study,
        images=transaction.images.snapshot(study),
        last_instance_at=exam.last_instance_at,
        reports=tuple(
            _report_facts(transaction, documents, row, time_zone) for row in ledger.reports_of(study)
        ),
        withdrawn=exam.withdrawn_by is not None,
        had_reports=ledger.had_reports(study),
    )


def _report_facts(
    transaction: Transaction, documents: Documents, row: ReceivedReport, time_zone: str
) -> ReportFacts:
    """A report as it entered: what its CDA says, what its message said around it, what its visit says since."""
    reading = read_cda(documents.get(row.cda), time_zone=time_zone, for_publication=False)
    assert reading.report is not None  # it was accepted, and its bytes never change
    visit = transaction.inbox.visit(row.visit) if row.visit else None
    return ReportFacts(
        reading.report,
        row.id,
        row.cda,
        tuple(row.flags),
        row.destined_to_dmp,
        row.patient_class,
        row.sender,
        opposed=visit is not None and visit.feeding == OPPOSITION,
    )
