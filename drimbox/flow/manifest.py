"""From wanted to frozen: the manifest of a study, checked by our own rules, and the lot that carries it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from drimbox.domain.errors import ReportRefused
from drimbox.domain.exam import Wanted
from drimbox.domain.identifiers import Identifier
from drimbox.domain.kos import build_manifest, encode_manifest
from drimbox.domain.kos_rules import check_manifest
from drimbox.domain.report import Organization, Patient, Report
from drimbox.domain.signer import Signer
from drimbox.domain.violations import errors
from drimbox.domain.xds.publication import (
    FrozenLot,
    ManifestFacts,
    Publication,
    Publisher,
    XdsOptions,
    freeze_publication,
)


@dataclass(frozen=True, slots=True)
class ManifestMaker:
    """Makes lots. `new_uid`: fresh DICOM UIDs; `new_number`: fresh positive integers under `publisher.uid_root`."""

    publisher: Publisher
    options: XdsOptions
    signer: Signer
    retrieve_base: str
    time_zone: str
    new_uid: Callable[[], str]
    new_number: Callable[[], int]
    ipp_authority: str

    def make(self, wanted: Wanted, replaces: str | None, now: datetime) -> FrozenLot:
        """The frozen lot of a manifest; `replaces`: entryUUID of the entry that it deprecates (TD2.1b).

        Raises `errors.Refused` (with every reason) when the facts do not make a manifest or lot that may leave.
        """
        report, study = wanted.source.report, wanted.images.StudyInstanceUID
        kos_uid = self.new_uid()
        dataset = build_manifest(
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
        kos = encode_manifest(dataset)
        if broken := errors(check_manifest(kos)):
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
            replaces=replaces,
            secret_connection="CONNEXION_SECRETE" in wanted.source.flags,
        )
        return freeze_publication(publication, signer=self.signer, now=now)


def institution_of(report: Report, study: str) -> Organization | None:
    """Who performed the study: the performer's structure (drim-m-data 6.1), else the author's."""
    performer = report.study(study).performer
    if performer is not None and performer.organization is not None:
        return performer.organization
    return next((author.organization for author in report.authors if author.organization), None)


def local_id_of(patient: Patient, authority: str) -> Identifier | None:
    """The IPP: the identifier under `authority`, or the first local one when none is set."""
    return next((i for i in patient.local_ids if authority in ("", i.root)), None)
