"""What a report does to what is known of its document and its studies: the table of `domain/report_states.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from drimbox.domain.errors import ReportRefused
from drimbox.domain.hl7v2_grammar import Operation
from drimbox.domain.lifecycle import Event, ReportState
from drimbox.domain.report import Report
from drimbox.domain.report_states import DocumentState, Incoming, Known, StatePolicy, Verdict, decide
from drimbox.domain.senders import SenderProfile
from drimbox.domain.violations import Violation
from drimbox.flow import trace
from drimbox.flow.originals import author_structure, check_patient, is_foreign, later_order
from drimbox.flow.ports import Transaction
from drimbox.flow.records import ReceivedReport, ReportParent, ReportStudy

_KNOWN: Mapping[str, DocumentState] = {
    ReportState.CURRENT: "current",
    ReportState.SUPERSEDED: "superseded",
    ReportState.WITHDRAWN: "withdrawn",
}


@dataclass(frozen=True, slots=True)
class Arrival:
    """What entered by a report door. `content`: the bytes as received.

    `senders`: the profiles that may speak from there, None where the door knows none; `replay_of`: the message that
    an operator submits again, `first_at`: when that one, or the first of its line, came.
    """

    content: bytes
    door: str
    peer: str
    at: datetime
    senders: tuple[SenderProfile, ...] | None = None
    replay_of: str | None = None
    first_at: datetime | None = None

    @property
    def actor(self) -> str:
        """Who the trace names."""
        return "operator" if self.replay_of else f"ris:{self.peer}"


@dataclass(frozen=True, slots=True)
class Context:
    """What a message says around its CDA; for a bare CDA, the defaults.

    `parent_id`: TXA-13, the replaced document; `visit`: PV1-19 as `root^extension`.
    """

    operation: Operation = "NW"
    flags: Mapping[str, bool] = field(default_factory=dict)
    patient_class: str = ""
    sender: Mapping[str, str] = field(default_factory=dict)
    parent_id: str = ""
    visit: str | None = None

    @property
    def raised(self) -> list[str]:
        """The MetaDMPMSS flags that are Y."""
        return sorted(flag for flag, on in self.flags.items() if on)

    @property
    def destined_to_dmp(self) -> bool:
        """DESTDMP, yes when it is not said (hl7-mss 1.5)."""
        return self.flags.get("DESTDMP", True)


@dataclass(frozen=True, slots=True)
class Accepted:
    """A message that was taken. `verdict`: the row of the state table that it met."""

    report_id: str | None
    document_id: str
    studies: tuple[str, ...]
    verdict: Verdict
    warnings: tuple[Violation, ...]

    @property
    def replay(self) -> bool:
        """Nothing changed: these very bytes were taken before, or what is asked is done already."""
        return self.verdict.kind in ("replay", "nothing")


@dataclass(frozen=True, slots=True)
class ReadDocument:
    """A CDA that was read without error: its facts, its bytes, their digest in the store, and the warnings."""

    report: Report
    content: bytes
    digest: str
    warnings: tuple[Violation, ...]


def keep_report(
    transaction: Transaction,
    arrival: Arrival,
    document: ReadDocument,
    context: Context,
    states: StatePolicy,
    new_id: Callable[[], str],
) -> Accepted:
    """Record what the report says, under the caller's transaction. Raises `ReportRefused` (hl7-mss 1.6)."""
    ledger, document_id = transaction.ledger, str(document.report.id)
    parents = [str(parent) for parent in document.report.replaces]
    if not parents and context.operation == "RO" and context.parent_id:
        parents = [context.parent_id]
    # one report of a chain, and one word about a visit, at a time (hl7-mss 1.10)
    ledger.take_turns([document_id, *parents, *filter(None, [context.visit])])
    same = ledger.report_by_document(document_id)
    rows = {parent: ledger.report_by_document(parent) for parent in parents}
    # the very flags that are kept already change nothing: a replay (hl7-mss 7.2)
    kept = (list(same.flags), same.destined_to_dmp) if same else None
    changes = context.flags.get("MODIF_CONF_CODE", False) and kept != (
        context.raised,
        context.destined_to_dmp,
    )
    incoming = Incoming(document_id, document.digest, tuple(rows), changes)
    known = Known(
        same_id=(_KNOWN[same.state], same.cda) if same else None,
        parents={parent: _KNOWN[row.state] if row else None for parent, row in rows.items()},
    )
    verdict = decide(context.operation, incoming, known, states)
    if verdict.kind == "refuse":
        raise ReportRefused(verdict.code, verdict.reason)
    replaced = [row for parent in verdict.supersedes if (row := rows[parent])]
    target = replaced or [one for one in (same,) if one]
    changing = context.operation != "NW" or verdict.kind == "revise"
    if same is not None and context.operation == "CA":  # a replacement may correct the patient
        check_patient(same, document.report)
    foreign = changing and is_foreign(target, context.sender, document.report)
    if foreign and states.same_author:
        raise ReportRefused("901", "the structure that sends (PRT) is not the one that made the document")
    touched: set[str] = set()
    row = same
    if verdict.kind in ("create", "replace"):
        row = _new_row(transaction, arrival, document, context, new_id())
        for parent in rows:
            transaction.ledger.add(ReportParent(row.id, parent))
        touched = _supersede(transaction, arrival, row, replaced)
        touched |= _document_studies(transaction, row, document.report)
        touched |= _yield_to_successor(transaction, arrival, row)
    elif row is not None and verdict.kind == "revise":
        row.flags, row.destined_to_dmp = context.raised, context.destined_to_dmp
        touched = set(ledger.studies_of(row.id))
    elif row is not None and verdict.kind == "withdraw":
        touched = _withdraw(transaction, arrival, row)
    studies = tuple(sorted(touched)) or tuple(act.StudyInstanceUID for act in document.report.studies)
    for study in studies:
        if touched:
            _exam_has_news(transaction, study, arrival, reopens=verdict.kind in ("create", "replace"))
        warnings = ["other-author"] if foreign else []
        _trace(transaction, arrival, document, context, verdict, study, warnings)
    return Accepted(row.id if row else None, document_id, studies, verdict, document.warnings)


def _new_row(
    transaction: Transaction, arrival: Arrival, document: ReadDocument, context: Context, row_id: str
) -> ReceivedReport:
    report = document.report
    row = ReceivedReport(
        id=row_id,
        document_id=str(report.id),
        set_id=report.set_id,
        version=report.version,
        operation=context.operation,
        cda=document.digest,
        received_at=arrival.at,
        door=arrival.door,
        flags=context.raised,
        destined_to_dmp=context.destined_to_dmp,
        patient_class=context.patient_class,
        sender=dict(context.sender),
        visit=context.visit,
        author_structure=author_structure(report),
        patient_ins=report.patient.ins.value if report.patient.ins else None,
        patient_oid=report.patient.ins.oid if report.patient.ins else None,
    )
    transaction.ledger.add(row)
    transaction.ledger.flush()
    return row


def _document_studies(transaction: Transaction, row: ReceivedReport, report: Report) -> set[str]:
    studies = {act.StudyInstanceUID for act in report.studies}
    for study in sorted(studies):
        transaction.ledger.add(ReportStudy(row.id, study))
    return studies


def _supersede(
    transaction: Transaction,
    arrival: Arrival,
    row: ReceivedReport,
    replaced: Iterable[ReceivedReport],
) -> set[str]:
    """The studies of the replaced reports: those that the new one leaves out have lost their report."""
    touched: set[str] = set()
    for parent in replaced:
        studies = transaction.ledger.studies_of(parent.id)
        parent.replaced_by = row.document_id
        row.visit = row.visit or parent.visit  # what was said of that visit still counts
        _move(transaction, arrival, parent, Event.REPLACED, studies)
        touched |= set(studies)
    return touched


def _yield_to_successor(transaction: Transaction, arrival: Arrival, row: ReceivedReport) -> set[str]:
    """An original that comes after the report that replaces it (an orphan until now) is superseded from the start.

    Where two documents say that each replaces the other, the last to come stands. Returns the studies of those that
    are of the visit of `row` because they name none.
    """
    chain = _chain(transaction, row.document_id)
    if not chain or row in chain:
        return set()
    transaction.ledger.flush()
    row.replaced_by = chain[0].document_id
    _move(transaction, arrival, row, Event.REPLACED, transaction.ledger.studies_of(row.id))
    heirs = [one for one in chain if row.visit and not one.visit]
    for one in heirs:
        one.visit = row.visit
    return {study for one in heirs for study in transaction.ledger.studies_of(one.id)}


def _chain(transaction: Transaction, document_id: str) -> list[ReceivedReport]:
    """The report that says that it replaces this document, the one that replaced that, and so on."""
    found: list[ReceivedReport] = []
    report = transaction.ledger.successor_of(document_id)
    while report is not None and report not in found:
        found.append(report)
        report = transaction.ledger.report_by_document(report.replaced_by) if report.replaced_by else None
    return found


def _withdraw(transaction: Transaction, arrival: Arrival, row: ReceivedReport) -> set[str]:
    studies = transaction.ledger.studies_of(row.id)
    _move(transaction, arrival, row, Event.WITHDRAWN, studies)
    return set(studies)


def _move(
    transaction: Transaction, arrival: Arrival, row: ReceivedReport, event: Event, studies: Iterable[str]
) -> None:
    first, *others = studies
    trace.move_report(transaction, row, event, at=arrival.at, actor=arrival.actor, study=first)
    for study in others:
        trace.note(
            transaction,
            f"REPORT_{event}",
            at=arrival.at,
            actor=arrival.actor,
            study=study,
            document=row.document_id,
        )


def _exam_has_news(transaction: Transaction, study: str, arrival: Arrival, *, reopens: bool) -> None:
    exam = transaction.ledger.exam_for_update(study, arrival.at)
    exam.revision += 1
    exam.reconcile_at = exam.changed_at = arrival.at
    overtaken = reopens and later_order(transaction, study, arrival.first_at)
    if reopens and exam.withdrawn_by == "order" and not overtaken:
        exam.withdrawn_by = None  # the RIS speaks of this exam again
        trace.restore_study(transaction, exam, at=arrival.at, actor=arrival.actor, by="report")


def _trace(
    transaction: Transaction,
    arrival: Arrival,
    document: ReadDocument,
    context: Context,
    verdict: Verdict,
    study: str,
    warnings: list[str],
) -> None:
    warnings = [*(violation.rule for violation in document.warnings), *warnings]
    trace.note(
        transaction,
        "REPORT_REPEATED" if verdict.kind in ("replay", "nothing") else "REPORT_RECEIVED",
        at=arrival.at,
        actor=arrival.actor,
        study=study,
        document=str(document.report.id),
        operation=context.operation,
        row=verdict.row,
        door=arrival.door,
        warnings=warnings + ([verdict.warning] if verdict.warning else []),
    )
