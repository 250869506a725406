"""What retention asks of the database: exams whose images are here, with the facts that decide, many at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, cast

from sqlalchemy import Table, func, select
from sqlalchemy.orm import Session

from dicom_store import index_segments
from dicom_store.index import InstanceRow
from drimbox.adapters.tables import (
    commitment_table,
    exam_table,
    report_study_table,
    report_table,
    submission_table,
)
from drimbox.domain.retention import HeldExam, HeldLot

_EXAM, _LOT, _IMAGE = exam_table.c, submission_table.c, cast(Table, InstanceRow.__table__).c
_LINK, _REPORT, _ASKED = report_study_table.c, report_table.c, commitment_table.c


class RetentionQueries:
    """Under the caller's session; nothing is loaded into it."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def held_exams(self, after: str, limit: int) -> Sequence[HeldExam]:
        """The next exams of which images are here, in the order of the engine; "" = from the first one on."""
        studies = index_segments.studies_after(self._session, after, limit)
        awaiting = {
            study for study, _ in index_segments.records_named(self._session, self._awaited()).values()
        }
        sizes = self._sizes(studies)
        return [
            self._held(study, known, awaits=study in awaiting, size=sizes.get(study, (0, 0)))
            for study, known in self._known(studies).items()
        ]

    def held_exam(self, study: str, instances: Collection[str]) -> HeldExam:
        """The facts of one exam now. `instances`: SOP Instance UIDs of its images, whose rows may be gone by now."""
        known = self._known([study])[study]
        return self._held(study, known, awaits=not self._awaited().isdisjoint(instances), size=(0, 0))

    def _awaited(self) -> set[str]:
        """SOP Instance UIDs of every request for storage commitment that is not answered yet."""
        asked = self._session.scalars(select(_ASKED.asked).where(_ASKED.due_at.is_not(None)))
        return {sop for pairs in asked for _, sop in pairs}

    def _sizes(self, studies: Sequence[str]) -> Mapping[str, tuple[int, int]]:
        """Instances and their bytes, by study."""
        query = select(_IMAGE.study_instance_uid, func.count(), func.sum(_IMAGE.payload_length))
        query = query.where(_IMAGE.study_instance_uid.in_(studies)).group_by(_IMAGE.study_instance_uid)
        return {study: (count, int(size)) for study, count, size in self._session.execute(query)}

    def _known(self, studies: Sequence[str]) -> Mapping[str, tuple[Any, list[HeldLot], list[datetime]]]:
        """For each of them: the row of its exam or None, its lots, and when things changed."""
        exams = {
            row.study_instance_uid: row
            for row in self._session.execute(select(*_EXAM).where(_EXAM.study_instance_uid.in_(studies)))
        }
        lots: dict[str, list[HeldLot]] = defaultdict(list)
        times: dict[str, list[datetime]] = defaultdict(list)
        made = select(_LOT.study_instance_uid, _LOT.kind, _LOT.state, _LOT.since)
        made = made.where(_LOT.study_instance_uid.in_(studies)).order_by(_LOT.created_at, _LOT.id)
        for study, kind, state, since in self._session.execute(made):
            lots[study].append(HeldLot(kind, state, since))
        came = select(_LINK.study_instance_uid, func.max(_REPORT.received_at))
        came = came.join(report_table, _REPORT.id == _LINK.report_id)
        came = came.where(_LINK.study_instance_uid.in_(studies)).group_by(_LINK.study_instance_uid)
        for study, at in self._session.execute(came):
            times[study].append(at)
        return {study: (exams.get(study), lots[study], times[study]) for study in studies}

    @staticmethod
    def _held(
        study: str,
        known: tuple[Any, list[HeldLot], list[datetime]],
        *,
        awaits: bool,
        size: tuple[int, int],
    ) -> HeldExam:
        exam, lots, times = known
        times = [*times, *(lot.since for lot in lots)]
        if exam is not None:
            times += [at for at in (exam.changed_at, exam.last_instance_at) if at is not None]
        return HeldExam(
            study,
            exam.state if exam else None,
            exam.rule if exam else None,
            exam is None or exam.reconcile_at is not None,
            max(times, default=_NEVER),
            tuple(lots),
            awaits,
            *size,
        )


_NEVER = datetime.max.replace(tzinfo=UTC)
