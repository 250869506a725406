"""TD3.3c: a submission set and a change of status, Approved (or Archived) to Deleted (dmp-kos-xds 2.5)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from drimbox.domain.identifiers import Ins
from drimbox.domain.vihf import VihfIdentity, check_identity
from drimbox.domain.xds import vocabulary as v
from drimbox.domain.xds.coding import content_type_code
from drimbox.domain.xds.ebxml import submit_objects_request
from drimbox.domain.xds.hl7_types import dtm
from drimbox.domain.xds.metadata import Association, Lot, SubmissionSet
from drimbox.domain.xds.publication import (
    SUBMISSION_SET_ID,
    Publisher,
    XdsOptions,
    device_author,
)
from drimbox.domain.xds.rules import check_lot, refuse_violations

TITLE = "Depublication de Reference d'Objets d'un Examen d'Imagerie"


@dataclass(frozen=True, slots=True)
class FrozenWithdrawal:
    """An unpublication ready to be sent any number of times."""

    submission_set_uid: str
    entry_uuid: str
    submit_objects_request: bytes
    patient: Ins
    vihf: VihfIdentity


def freeze_withdrawal(
    *,
    entry_uuid: str,
    patient: Ins,
    vihf: VihfIdentity,
    publisher: Publisher,
    options: XdsOptions,
    submission_set_uid: str,
    now: datetime,
    original_status: str = v.APPROVED,
    patient_class: str | None = None,
) -> FrozenWithdrawal:
    """Describe, judge, freeze. Publish and unpublish act for the same structure (dmp-kos-xds 0, row 4).

    `entry_uuid`: head of the chain; `original_status`: its present status, URN. Raises `LotRefused`.
    """
    submission = SubmissionSet(
        id=SUBMISSION_SET_ID,
        unique_id=submission_set_uid,
        source_id=publisher.uid_root,
        patient_id=patient.cx,
        submission_time=dtm(now, utc=options.utc, time_zone=options.time_zone),
        title=TITLE,
        authors=(device_author(publisher),),
        content_type_code=content_type_code(patient_class),
    )
    slots = (("OriginalStatus", original_status), ("NewStatus", v.DELETED))
    change = Association("Status01", v.UPDATE_AVAILABILITY_STATUS, SUBMISSION_SET_ID, entry_uuid, slots)
    lot = Lot(submission, (), (change,))
    refuse_violations([*check_lot(lot), *check_identity(vihf, patient)])
    return FrozenWithdrawal(submission_set_uid, entry_uuid, submit_objects_request(lot), patient, vihf)
