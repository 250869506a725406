"""What the XDM archive is made of: the frozen bytes of every lot that the DMP holds or held."""

from __future__ import annotations

from drimbox.domain.cda import read_cda
from drimbox.domain.identifiers import Ins
from drimbox.domain.lifecycle import SubmissionState
from drimbox.domain.xds.xdm import ArchivedLot
from drimbox.flow.manifest import local_id_of
from drimbox.flow.ports import Documents, Transactions
from drimbox.flow.records import Submission

# README.TXT is read by people: the states that a lot in the archive can have.
_FRENCH = {
    SubmissionState.REGISTERED: "publié",
    SubmissionState.DEPRECATED: "remplacé",
    SubmissionState.WITHDRAWN: "dépublié",
}


def archived_lots(
    transactions: Transactions, documents: Documents, study: str | None, *, time_zone: str, ipp_authority: str
) -> list[ArchivedLot]:
    """The lots of one study, or of all, in the order of their publication."""
    with transactions.reading() as transaction:
        found = [
            (lot, transaction.ledger.report(lot.report_id))
            for lot in transaction.ledger.published()
            if study in (None, lot.study_instance_uid)
        ]
    lots = []
    for lot, report in found:
        assert report is not None  # a lot is made of a received report, and reports are never deleted
        lots.append(_archived(documents, lot, report.cda, time_zone, ipp_authority))
    return lots


def _archived(
    documents: Documents, lot: Submission, cda: str, time_zone: str, ipp_authority: str
) -> ArchivedLot:
    report = read_cda(documents.get(cda), time_zone=time_zone).report
    assert report is not None  # it was accepted
    return ArchivedLot(
        created=lot.created_at,
        submit_objects_request=documents.get(lot.request),
        kos=documents.get(lot.kos),
        signature=documents.get(lot.signature),
        report_id=report.id,
        ins=Ins(lot.patient_ins, lot.patient_oid),
        ipp=local_id_of(report.patient, ipp_authority),
        entry_uuid=lot.entry_uuid,
        status=_FRENCH[SubmissionState(lot.state)],
    )
