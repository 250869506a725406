"""From the facts of an exam to a frozen lot (TD2.1a, TD2.1b): KOS, its signature document, their metadata.

What is frozen is what every attempt sends, byte for byte; only VIHF and message headers are new each time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from drimbox.domain.identifiers import Identifier, Ins
from drimbox.domain.lot_signature import sign_lot
from drimbox.domain.report import Report, StudyAct
from drimbox.domain.signer import Digest, Signer
from drimbox.domain.vihf import VihfIdentity, check_identity, identity_of, responsible
from drimbox.domain.violations import Violation
from drimbox.domain.xds import coding
from drimbox.domain.xds import vocabulary as v
from drimbox.domain.xds.coding import (
    as_coded,
    confidentiality_codes,
    content_type_code,
    event_codes,
    reference_id_list,
)
from drimbox.domain.xds.ebxml import submit_objects_request
from drimbox.domain.xds.hl7_types import cx, dtm, dtm_of, source_patient_info, xcn_device, xcn_person, xon
from drimbox.domain.xds.metadata import Association, Author, DocumentEntry, Lot, SubmissionSet
from drimbox.domain.xds.rules import LotRefused, check_lot, refuse_violations

KOS_ID = "DocumentKOS"
SIGNATURE_ID = "Signature01"
SUBMISSION_SET_ID = "SubmissionSet01"
_NOT_IN_REPORT = Violation(
    "study-not-in-report", "the report does not document this study", "Lot.study", "drim-m-data 6.1"
)
_NOBODY = Violation("nobody-responsible", "no author has an identifier", "VIHF.NameID", "hl7-mss 1.9")


@dataclass(frozen=True, slots=True)
class Publisher:
    """Who publishes (settings `organisation`, `dmp.author_type`).

    `structure_id`: Struct_IdNat; `device_id`, `model`, `manufacturer`: XCN.1 to XCN.3 of the appliance as
    author; `uid_root`: sourceId; `sector`: TRE_R02 code of the VIHF when the report names none.
    """

    name: str
    structure_id: str
    device_id: str
    manufacturer: str
    uid_root: str
    author_type: Literal["EI", "RI"] = "EI"
    sector: str = "SA08"
    model: str = "DRIMBox"


@dataclass(frozen=True, slots=True)
class XdsOptions:
    """Where the samples disagree (settings `dmp`; cda-and-xds 7, questions 1-3).

    `study_reference_authority`: CX.4 of the studyInstanceUID, empty = none; `event_code_schemes`: key of
    `vocabulary.EVENT_CODE_SCHEMES`; `utc`: XDS times in UTC, else digits as written, our own in `time_zone`;
    `digest`: algorithms of the lot signature (hash of the entries stays SHA-1 hexadecimal).
    """

    study_reference_authority: str = ""
    event_code_schemes: Literal["code_system", "value_set"] = "code_system"
    utc: bool = True
    time_zone: str = "Europe/Paris"
    digest: Digest = "sha256"


@dataclass(frozen=True, slots=True)
class ManifestFacts:
    """What the metadata take from the manifest: its UID, its creation, the modalities of its images."""

    sop_instance_uid: str
    created_at: datetime
    modalities: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Publication:
    """All that a lot is made of. UIDs come from the caller's generator.

    `accessions`, `placers`: those of this study (the pairing is the caller's); `confidentiality`: XDS codes
    beside the report's own, among MASQUE_PS, INVISIBLE_PATIENT, INVISIBLE_REPRESENTANTS_LEGAUX;
    `patient_class`: PV1-2; `local_patient_id`: the IPP; `replaces`: entryUUID of the entry to deprecate
    (TD2.1b), None for TD2.1a; `vihf`: identity to act under, None = that of the report's responsible;
    `secret_connection`: CONNEXION_SECRETE of the message.
    """

    report: Report
    study_instance_uid: str
    kos: bytes
    manifest: ManifestFacts
    publisher: Publisher
    submission_set_uid: str
    signature_uid: str
    accessions: tuple[Identifier, ...] = ()
    placers: tuple[Identifier, ...] = ()
    confidentiality: tuple[str, ...] = ()
    patient_class: str | None = None
    local_patient_id: Identifier | None = None
    options: XdsOptions = XdsOptions()
    replaces: str | None = None
    vihf: VihfIdentity | None = None
    secret_connection: bool = False


@dataclass(frozen=True, slots=True)
class FrozenLot:
    """A lot ready to be sent any number of times: nothing in it changes any more."""

    submission_set_uid: str
    kos_uid: str
    signature_uid: str
    kos: bytes
    signature: bytes
    submit_objects_request: bytes
    patient: Ins
    vihf: VihfIdentity


def freeze_publication(publication: Publication, *, signer: Signer, now: datetime) -> FrozenLot:
    """Sign, describe, judge, freeze. Raises `LotRefused` with every rule that the lot breaks."""
    ins = publication.report.patient.ins
    if ins is None:
        raise LotRefused(
            [Violation("ins-missing", "the report carries no INS", "Lot.patientId", "hl7-mss 1.3")]
        )
    signature = sign_lot(
        signature_uid=publication.signature_uid,
        submission_set_uid=publication.submission_set_uid,
        documents=[(publication.manifest.sop_instance_uid, publication.kos)],
        now=now,
        digest=publication.options.digest,
        signer=signer,
    )
    lot = describe_lot(publication, signature=signature, now=now)
    vihf = publication.vihf or _identity(publication, ins)
    refuse_violations([*check_lot(lot), *check_identity(vihf, ins)])
    return FrozenLot(
        submission_set_uid=publication.submission_set_uid,
        kos_uid=publication.manifest.sop_instance_uid,
        signature_uid=publication.signature_uid,
        kos=publication.kos,
        signature=signature,
        submit_objects_request=submit_objects_request(lot),
        patient=ins,
        vihf=vihf,
    )


def describe_lot(publication: Publication, *, signature: bytes, now: datetime) -> Lot:
    """The metadata of KOS and `signature` (drim-m-data 5.2, 5.3, 5.5); what is missing stays empty.

    Raises `LotRefused` when the report does not document the study.
    """
    report = publication.report
    try:
        act = report.study(publication.study_instance_uid)
    except KeyError as error:
        raise LotRefused([_NOT_IN_REPORT]) from error
    patient_id = report.patient.ins.cx if report.patient.ins else ""
    shared = _shared_attributes(publication, patient_id)
    entries = (
        _kos_entry(publication, act, shared),
        _signature_entry(publication, signature, shared, now),
    )
    return Lot(_submission_set(publication, patient_id, now), entries, tuple(_associations(publication)))


def device_author(publisher: Publisher) -> Author:
    """The appliance as author, with the structure as its institution (cda-and-xds 3.4)."""
    person = xcn_device(publisher.device_id, publisher.model, publisher.manufacturer, publisher.author_type)
    return Author(person, (xon(publisher.name, publisher.structure_id),))


def _shared_attributes(publication: Publication, patient_id: str) -> DocumentEntry:
    """What both entries say alike."""
    report, options = publication.report, publication.options
    person = report.legal_authenticator
    return DocumentEntry(
        id="",
        mime_type="",
        unique_id="",
        patient_id=patient_id,
        legal_authenticator=xcn_person(person) if person else "",
        reference_id_list=reference_id_list(
            publication.accessions,
            publication.study_instance_uid,
            options.study_reference_authority,
            publication.placers,
        ),
        healthcare_facility_type_code=as_coded(report.facility),
        practice_setting_code=as_coded(report.practice_setting),
    )


def _kos_entry(publication: Publication, act: StudyAct, shared: DocumentEntry) -> DocumentEntry:
    report, manifest, options = publication.report, publication.manifest, publication.options
    local = publication.local_patient_id
    # the act of another study dates the exam when this one has no time (cda-and-xds 3.3)
    start = next((a.start for a in (act, *report.studies) if a.start), None)
    reported = tuple(code.code for code in act.modalities)
    return replace(
        shared,
        id=KOS_ID,
        mime_type="application/dicom",
        unique_id=manifest.sop_instance_uid,
        creation_time=dtm(manifest.created_at, utc=options.utc, time_zone=options.time_zone),
        language_code="fr-FR",
        service_start_time=dtm_of(start, utc=options.utc),
        service_stop_time=dtm_of(act.stop, utc=options.utc),
        source_patient_id=cx(local, "PI") if local else shared.patient_id,
        source_patient_info=source_patient_info(report.patient),
        hash=hashlib.sha1(publication.kos, usedforsecurity=False).hexdigest(),
        size=len(publication.kos),
        title=coding.KOS_TITLE,
        comments="KOS",
        authors=(device_author(publication.publisher),),
        class_code=coding.KOS_CLASS,
        type_code=coding.KOS_TYPE,
        confidentiality_codes=confidentiality_codes(report.confidentiality.code, publication.confidentiality),
        format_code=coding.KOS_FORMAT,
        event_codes=event_codes(act.regions, manifest.modalities or reported, options.event_code_schemes),
    )


def _signature_entry(
    publication: Publication, signature: bytes, shared: DocumentEntry, now: datetime
) -> DocumentEntry:
    publisher, options = publication.publisher, publication.options
    signed_at = dtm(now, utc=options.utc, time_zone=options.time_zone)
    return replace(
        shared,
        id=SIGNATURE_ID,
        mime_type="text/xml",
        unique_id=publication.signature_uid,
        creation_time=signed_at,
        language_code="art",
        service_start_time=signed_at,
        service_stop_time=signed_at,
        source_patient_id=shared.patient_id,
        hash=hashlib.sha1(signature, usedforsecurity=False).hexdigest(),
        size=len(signature),
        title=coding.SIGNATURE_TITLE,
        authors=(Author(shared.legal_authenticator, (xon(publisher.name, publisher.structure_id),)),),
        class_code=coding.SIGNATURE_CLASS,
        type_code=coding.SIGNATURE_TYPE,
        confidentiality_codes=confidentiality_codes("N", coding.SIGNATURE_FLAGS),
        format_code=coding.SIGNATURE_FORMAT,
        event_codes=(coding.SIGNATURE_EVENT,),
    )


def _submission_set(publication: Publication, patient_id: str, now: datetime) -> SubmissionSet:
    publisher, options = publication.publisher, publication.options
    return SubmissionSet(
        id=SUBMISSION_SET_ID,
        unique_id=publication.submission_set_uid,
        source_id=publisher.uid_root,
        patient_id=patient_id,
        submission_time=dtm(now, utc=options.utc, time_zone=options.time_zone),
        title=coding.KOS_TITLE,
        authors=(device_author(publisher),),
        content_type_code=content_type_code(publication.patient_class),
    )


def _associations(publication: Publication) -> Iterator[Association]:
    original = (("SubmissionSetStatus", "Original"),)
    yield Association("HasMember01", v.HAS_MEMBER, SUBMISSION_SET_ID, KOS_ID, original)
    yield Association("HasMember02", v.HAS_MEMBER, SUBMISSION_SET_ID, SIGNATURE_ID, original)
    yield Association("Signs01", v.SIGNS, SIGNATURE_ID, SUBMISSION_SET_ID)
    if publication.replaces is not None:
        yield Association("Replaces01", v.RPLC, KOS_ID, publication.replaces)


def _identity(publication: Publication, ins: Ins) -> VihfIdentity:
    report, publisher = publication.report, publication.publisher
    facility = report.facility
    person = responsible(report)
    if person is None:
        raise LotRefused([_NOBODY])
    return identity_of(
        person,
        structure_id=publisher.structure_id,
        sector=facility.code if facility and facility.system == v.TRE_R02 else publisher.sector,
        patient=ins,
        secret_connection=publication.secret_connection,
    )
