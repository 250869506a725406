"""An order about an exam, as facts: OMI^O23 (drim-m-data 9). ORC-1 CA deletes it, the rest announces a change."""

from __future__ import annotations

from dataclasses import dataclass

from dicom_store.paths import InvalidUID, check_uid
from drimbox.domain.acknowledge import MessageHeader
from drimbox.domain.hl7v2_fields import entity, local_ids, patient_ins
from drimbox.domain.hl7v2_form import Draft
from drimbox.domain.hl7v2_grammar import CANCELLATION, ORDER_CONTROLS
from drimbox.domain.hl7v2_syntax import Segment
from drimbox.domain.identifiers import Identifier
from drimbox.domain.violations import Violation


@dataclass(frozen=True, slots=True)
class ExamOrder:
    """What a RIS says of one exam; its key is the study and the accession number.

    `control`: ORC-1 (table 0119). `accession`, `requested_procedure_id`: IPC-1 and IPC-2, whose root is the OID of
    the issuer, else its namespace, else empty; `study_instance_uid`: IPC-3, a UID of PS3.5 9.1. MSH-10 may repeat
    from one order to the next: it is no key (drim-m-data 12, E13).
    """

    header: MessageHeader
    control: str
    accession: Identifier
    study_instance_uid: str
    requested_procedure_id: Identifier
    ins_ids: tuple[Identifier, ...]
    local_ids: tuple[Identifier, ...]
    identity_reliability: str  # PID-32
    patient_class: str  # PV1-2, empty without PV1
    warnings: tuple[Violation, ...]

    @property
    def cancelled(self) -> bool:
        """ORC-1 CA: the exam is deleted, its manifest is unpublished (drim-m-data 9, 12 P7)."""
        return self.control == CANCELLATION

    @property
    def ins(self) -> Identifier | None:
        """The INS of PID-3; None when the message carries none."""
        return self.ins_ids[0] if self.ins_ids else None


def read_order(draft: Draft) -> ExamOrder:
    """The order of a message whose form is right.

    Raises `MessageRefused`: AE 103 for an ORC-1 that table 0119 does not have, AE 102 for an IPC-3 that is no UID,
    AE 198 for a message about several exams: it would have one answer for many outcomes.
    """
    controls, steps = draft.all("ORC"), draft.all("IPC")
    for order in controls:
        if order.component(1) not in ORDER_CONTROLS:
            raise draft.refuse(103, order.place(1), "ORC-1 is not a code of table 0119")
    for step in steps:
        _check_study(draft, step)
    _check_single(draft, controls, 1, "ORC-1 is not the same in every order of the message")
    _check_single(draft, steps, 3, "the message names several studies: one message per exam")
    _check_single(draft, steps, 1, "the message names several accession numbers: one message per exam")
    pid = draft.first("PID")
    return ExamOrder(
        header=draft.header,
        control=controls[0].component(1),
        accession=entity(steps[0], 1),
        study_instance_uid=steps[0].component(3),
        requested_procedure_id=entity(steps[0], 2),
        ins_ids=patient_ins(pid),
        local_ids=local_ids(pid),
        identity_reliability=draft.value("PID", 32),
        patient_class=draft.value("PV1", 2),
        warnings=draft.warnings,
    )


def _check_study(draft: Draft, step: Segment) -> None:
    try:
        check_uid(step.component(3))
    except InvalidUID:
        raise draft.refuse(102, step.place(3), "IPC-3 is not a UID") from None


def _check_single(draft: Draft, segments: list[Segment], number: int, reason: str) -> None:
    for segment in segments[1:]:
        if segment.component(number) != segments[0].component(number):
            raise draft.refuse(198, segment.place(number), reason)
