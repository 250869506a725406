"""An order about one exam (OMI^O23, drim-m-data 9): cancelled, it must not be public; otherwise it is judged again."""

from __future__ import annotations

from drimbox.domain.errors import ReportRefused
from drimbox.domain.hl7v2_order import ExamOrder
from drimbox.domain.lifecycle import Event
from drimbox.flow import trace
from drimbox.flow.keep_report import Arrival
from drimbox.flow.originals import later_order
from drimbox.flow.ports import Transaction
from drimbox.flow.records import Exam
from drimbox.flow.steps import live_of

OVERTAKEN = "order-overtaken"


def receive_order(transaction: Transaction, order: ExamOrder, arrival: Arrival) -> None:
    """Record the order under the caller's transaction. Raises `ReportRefused` (904 another patient, 906 the rest)."""
    study = order.study_instance_uid
    exam = transaction.ledger.exam(study, lock=True)
    if exam is None:
        raise ReportRefused("906", "no exam of this study is known here")
    _check(transaction, order, study)
    if later_order(transaction, study, arrival.first_at):
        raise ReportRefused(OVERTAKEN, "a later order about this exam was taken since")
    exam.revision += 1
    exam.reconcile_at = arrival.at
    if order.cancelled:
        withdraw(transaction, exam, "order", arrival)
        return
    if exam.withdrawn_by == "order":
        exam.withdrawn_by = None
        trace.restore_study(transaction, exam, at=arrival.at, actor=arrival.actor, by="order")
    trace.note(
        transaction, "ORDER_RECEIVED", at=arrival.at, actor=arrival.actor, study=study, control=order.control
    )


def withdraw(transaction: Transaction, exam: Exam, by: str, arrival: Arrival) -> None:
    """Nothing of the exam may be public any more: the doors stop serving with this commit."""
    exam.withdrawn_by = exam.withdrawn_by or by  # an operator's word is not taken back by later orders
    trace.move_study(transaction, exam, Event.WITHDRAWAL_ASKED, at=arrival.at, actor=arrival.actor, by=by)


def _check(transaction: Transaction, order: ExamOrder, study: str) -> None:
    images = transaction.images.snapshot(study)
    accession = order.accession.extension
    if (
        images is not None
        and accession
        and images.AccessionNumbers
        and accession not in images.AccessionNumbers
    ):
        raise ReportRefused("906", "the accession number of the order is not that of the images")
    live = live_of(transaction.ledger.submissions_of(study))
    known = [(row.patient_ins, row.patient_oid) for row in transaction.ledger.reports_of(study)]
    if live is not None:
        known.append((live.patient_ins, live.patient_oid))
    if order.ins is not None and any((order.ins.extension, order.ins.root) != patient for patient in known):
        raise ReportRefused("904", "the INS of PID-3 is not that of the exam")
