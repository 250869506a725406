"""A step becomes a submission: its lot is frozen and stored before its row exists."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from drimbox.domain.exam import Undecided, Unwanted, Wanted
from drimbox.flow.manifest import ManifestMaker
from drimbox.flow.ports import Documents
from drimbox.flow.records import Submission
from drimbox.flow.steps import Step


@dataclass(frozen=True, slots=True)
class Preparing:
    """The parts that preparing needs. `new_id` names rows."""

    documents: Documents
    maker: ManifestMaker
    new_id: Callable[[], str]

    def submission(
        self, step: Step, wanted: Wanted | Unwanted | Undecided, study: str, revision: int, now: datetime
    ) -> Submission:
        """The row of a lot that is ready to be sent, its bytes stored; `revision`: that of the exam judged.

        Raises `errors.Refused` when the facts do not make a lot, `errors.Unavailable` when it cannot be stored.
        """
        if step.kind == "unpublish":
            row = self._withdrawal(step, now)
        else:
            assert isinstance(wanted, Wanted)
            row = self._publication(step, wanted, now)
        row.study_instance_uid, row.revision = study, revision
        row.replaces_id = step.target.id if step.target else None
        row.target_entry = step.target.entry_uuid if step.target else None
        row.cause = step.cause
        return row

    def _publication(self, step: Step, wanted: Wanted, now: datetime) -> Submission:
        lot = self.maker.make(wanted, step.target, now)
        return Submission(
            id=self.new_id(),
            study_instance_uid="",
            kind=step.kind,
            content_key=step.content_key,
            kos_uid=lot.kos_uid,
            submission_set_uid=lot.submission_set_uid,
            signature_uid=lot.signature_uid,
            kos=self.documents.put(lot.kos),
            signature=self.documents.put(lot.signature),
            request=self.documents.put(lot.submit_objects_request),
            vihf=lot.vihf.to_json(),
            report_id=wanted.source.report_key,
            patient_ins=lot.patient.value,
            patient_oid=lot.patient.oid,
            revision=0,
            created_at=now,
            since=now,
            due_at=now,
        )

    def _withdrawal(self, step: Step, now: datetime) -> Submission:
        assert step.target is not None
        withdrawal = self.maker.withdraw(step.target, now)
        return Submission(
            id=self.new_id(),
            study_instance_uid="",
            kind=step.kind,
            content_key=step.content_key,
            submission_set_uid=withdrawal.submission_set_uid,
            request=self.documents.put(withdrawal.submit_objects_request),
            vihf=withdrawal.vihf.to_json(),
            report_id=step.target.report_id,
            patient_ins=step.target.patient_ins,
            patient_oid=step.target.patient_oid,
            revision=0,
            created_at=now,
            since=now,
            due_at=now,
        )
