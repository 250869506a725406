"""From wanted to frozen: the manifest of a study, checked by our own rules, and the lot that carries it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from drimbox.domain.errors import ReportRefused
from drimbox.domain.exam import Wanted
from drimbox.domain.identifiers import Identifier, Ins
from drimbox.domain.kos import manifest_bytes, manifest_errors
from drimbox.domain.report import Organization, Patient, Report
from drimbox.domain.signer import Signer
from drimbox.domain.vihf import VihfIdentity
from drimbox.domain.xds.publication import (
    FrozenLot,
    ManifestFacts,
    Publication,
    Publisher,
    XdsOptions,
    freeze_publication,
)
from drimbox.domain.xds.withdrawal import FrozenWithdrawal, freeze_withdrawal
from drimbox.flow.records import Submission


@dataclass(frozen=True, slots=True)
class ManifestMaker:
    """Makes lots. `signer`: gives the one to sign a lot with.

    `new_uid`: fresh DICOM UIDs; `new_number`: fresh positive integers under `publisher.uid_root`.
    """

    publisher: Publisher
    options: XdsOptions
    signer: Callable[[], Signer]
    retrieve_base: str
    time_zone: str
    new_uid: Callable[[], str]
    new_number: Callable[[], int]
    ipp_authority: str

    @property
    def mark(self) -> str:
        """What of the maker a lot depends on."""
        return repr((self.publisher, self.options, self.retrieve_base, self.time_zone, self.ipp_authority))

    def make(self, wanted: Wanted, target: Submission | None, now: datetime) -> FrozenLot:
        """The frozen lot of a manifest; `target`: the published one that it deprecates (TD2.1b).

        The VIHF of a change of images is that of the submission before; that of a new report comes from the report
        (FAQ 8801, dmp-kos-xds 2.8).

        Raises `errors.Refused` (with every reason) when the facts do not make a manifest or lot that may leave.
        """
        report, study = wanted.source.report, wanted.images.StudyInstanceUID
        same_report = target is not None and target.report_id == wanted.source.report_key
        kos_uid = self.new_uid()
        kos = manifest_bytes(
            wanted.images,
            report,
            requests=wanted.requests,
            retrieve_base=self.retrieve_base,
            manufacturer=self.publisher.manufacturer,
            institution=institution_of(report, study),
            sop_instance_uid=kos_uid,
            series_instance_uid=self.new_uid(),
            now=now,
            time_zone=self.time_zone,
        )
        if broken := manifest_errors(kos):
            raise ReportRefused(
                "manifest-invalid", "; ".join(f"{v.where}: {v.message} ({v.clause})" for v in broken)
            )
        modalities = tuple(sorted({series.Modality for series in wanted.images.series}))
        publication = Publication(
            report=report,
            study_instance_uid=study,
            kos=kos,
            manifest=ManifestFacts(kos_uid, now, modalities),
            publisher=self.publisher,
            submission_set_uid=f"{self.publisher.uid_root}.{self.new_number()}",
            signature_uid=self.new_uid(),
            accessions=tuple(dict.fromkeys(r.accession for r in wanted.requests if r.accession)),
            placers=tuple(dict.fromkeys(r.placer for r in wanted.requests if r.placer)),
            confidentiality=wanted.confidentiality,
            patient_class=wanted.source.patient_class or None,
            local_patient_id=local_id_of(report.patient, self.ipp_authority),
            options=self.options,
            replaces=target.entry_uuid if target else None,
            vihf=VihfIdentity.from_json(target.vihf) if target and same_report else None,
            secret_connection="CONNEXION_SECRETE" in wanted.source.flags,
        )
        return freeze_publication(publication, signer=self.signer(), now=now)

    def withdraw(self, live: Submission, now: datetime) -> FrozenWithdrawal:
        """The frozen TD3.3c of a published manifest, under the identity that published it. Raises `errors.Refused`."""
        assert live.entry_uuid is not None  # the caller waits until it is known
        return freeze_withdrawal(
            entry_uuid=live.entry_uuid,
            patient=Ins(live.patient_ins, live.patient_oid),
            vihf=VihfIdentity.from_json(live.vihf),
            publisher=self.publisher,
            options=self.options,
            submission_set_uid=f"{self.publisher.uid_root}.{self.new_number()}",
            now=now,
        )


def institution_of(report: Report, study: str) -> Organization | None:
    """Who performed the study: the performer's structure (drim-m-data 6.1), else the author's."""
    performer = report.study(study).performer
    if performer is not None and performer.organization is not None:
        return performer.organization
    return next((author.organization for author in report.authors if author.organization), None)


def local_id_of(patient: Patient, authority: str) -> Identifier | None:
    """The IPP: the identifier under `authority`, or the first local one when none is set."""
    return next((i for i in patient.local_ids if authority in ("", i.root)), None)
