"""What the XDM archive is made of: the frozen bytes of every lot that the DMP holds or held, month by month."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby

from drimbox.domain.cda import read_cda
from drimbox.domain.identifiers import Identifier, Ins
from drimbox.domain.lifecycle import Event, SubmissionState
from drimbox.domain.xds import vocabulary as v
from drimbox.domain.xds.xdm import ArchivedLot
from drimbox.domain.xds.xdm_reader import read_reference
from drimbox.flow.manifest import local_id_of
from drimbox.flow.ports import Documents, Transaction, Transactions
from drimbox.flow.records import Submission

# The status that the registry gives to the manifest of a lot in that state.
STATUSES: Mapping[SubmissionState, str] = {
    SubmissionState.REGISTERED: v.APPROVED,
    SubmissionState.DEPRECATED: v.DEPRECATED,
    SubmissionState.WITHDRAWN: v.DELETED,
}


@dataclass(frozen=True, slots=True)
class _Source:
    """A lot, and the digest of what says which report it came from: its CDA, or the CR.TXT it was imported with."""

    lot: Submission
    cda: str | None = None
    reference: str | None = None


@dataclass(frozen=True, slots=True)
class Exporting:
    """The parts that exporting needs. `ipp_authority`: OID of the local identifier that CR.TXT names."""

    transactions: Transactions
    documents: Documents
    time_zone: str
    ipp_authority: str

    def months(self, study: str | None) -> Iterator[list[ArchivedLot]]:
        """The lots of one study, or of all, in the order of their publication: a list for each month.

        Lots whose documents were purged are left out. Raises `errors.Damaged`.
        """
        with self.transactions.reading() as transaction:
            purged = transaction.lots.purged(study)
            sources = [
                _source(transaction, lot)
                for lot in transaction.ledger.published()
                if study in (None, lot.study_instance_uid)
                and lot.kind != "unpublish"
                and lot.id not in purged
            ]
        for _month, group in groupby(sources, lambda source: f"{source.lot.created_at:%Y%m}"):
            yield [self._archived(source) for source in group]

    def _archived(self, source: _Source) -> ArchivedLot:
        lot = source.lot
        report_id, ipp = self._report(source)
        return ArchivedLot(
            created=lot.created_at,
            submit_objects_request=self.documents.get(lot.request),
            kos=self.documents.get(lot.kos or ""),
            signature=self.documents.get(lot.signature) if lot.signature else None,
            report_id=report_id,
            ins=Ins(lot.patient_ins, lot.patient_oid),
            ipp=ipp,
            entry_uuid=lot.entry_uuid,
            status=STATUSES[SubmissionState(lot.state)],
        )

    def _report(self, source: _Source) -> tuple[Identifier | None, Identifier | None]:
        """Identifier of the report, and the IPP that it gives."""
        if source.reference is not None:
            reference = read_reference(self.documents.get(source.reference))
            return reference.report_id, reference.ipp
        if source.cda is None:
            return None, None
        report = read_cda(
            self.documents.get(source.cda), time_zone=self.time_zone, for_publication=False
        ).report
        assert report is not None  # it was accepted, and its bytes never change
        return report.id, local_id_of(report.patient, self.ipp_authority)


def _source(transaction: Transaction, lot: Submission) -> _Source:
    if lot.origin == "imported":
        return _Source(lot, reference=evidence_of(transaction, lot).get("reference"))
    report = transaction.ledger.report(lot.report_id or "")
    return _Source(lot, cda=report.cda if report else None)


def evidence_of(transaction: Transaction, lot: Submission) -> dict[str, str]:
    """What the import of a lot wrote into its trace; `reference`: digest of its CR.TXT."""
    for entry in transaction.ledger.trace_of(lot.study_instance_uid):
        if (entry.submission_id, entry.event) == (lot.id, Event.IMPORTED):
            return {name: value for name, value in entry.detail.items() if isinstance(value, str)}
    return {}
