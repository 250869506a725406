"""What an ADT message says of a visit (hl7-mss 1.12): an opposition blocks the publication of its exams."""

from __future__ import annotations

from drimbox.domain.errors import ReportRefused
from drimbox.domain.hl7v2 import VisitConsent
from drimbox.flow import trace
from drimbox.flow.keep_report import Arrival
from drimbox.flow.ports import Transaction
from drimbox.flow.records import Visit

VISIT_MAX = 320  # characters
OVERTAKEN = "consent-overtaken"


def receive_consent(
    transaction: Transaction, consent: VisitConsent, arrival: Arrival, message_id: str
) -> list[str]:
    """Record it under the caller's transaction; returns the studies whose reports name this visit.

    A message that says nothing of consent changes nothing; the last one that does counts: an older one that is
    replayed is refused. Raises `ReportRefused`.
    """
    if not consent.feeding or not consent.visit.extension:
        return []
    key = str(consent.visit)
    if len(key) > VISIT_MAX:
        raise ReportRefused("identifier-too-long", f"PV1-19 has over {VISIT_MAX} characters")
    transaction.ledger.take_turns([key])  # against a report of this visit that is arriving
    known, said_at = transaction.inbox.visit(key, lock=True), arrival.first_at or arrival.at
    if known is not None and arrival.first_at is not None and known.said_at > arrival.first_at:
        raise ReportRefused(OVERTAKEN, "a later message about the consent of this visit was taken since")
    before = known.feeding if known else None
    if known is None:
        transaction.ledger.add(Visit(key, consent.feeding, said_at, message_id))
    else:
        known.feeding, known.said_at, known.message_id = consent.feeding, said_at, message_id
    studies = transaction.inbox.studies_of_visit(key)
    for study in studies:
        if before != consent.feeding:
            exam = transaction.ledger.exam_for_update(study, arrival.at)
            exam.revision += 1
            exam.reconcile_at = exam.changed_at = arrival.at
        trace.note(
            transaction,
            "CONSENT_RECEIVED",
            at=arrival.at,
            actor=arrival.actor,
            study=study,
            feeding=consent.feeding,
        )
    return studies
