"""What an ADT message says of a visit and of the patient's consent (hl7-mss 1.12, PAM-FR)."""

from __future__ import annotations

from dataclasses import dataclass

from drimbox.domain.acknowledge import MessageHeader
from drimbox.domain.hl7v2_fields import local_ids, patient_ins, read_visit
from drimbox.domain.hl7v2_form import Draft
from drimbox.domain.hl7v2_grammar import FEEDINGS, OPPOSITION, Feeding
from drimbox.domain.identifiers import Identifier
from drimbox.domain.violations import Violation


@dataclass(frozen=True, slots=True)
class VisitConsent:
    """`visit`: PV1-19; `feeding`: ZFA-9, IO = opposition to the feeding of the DMP, empty = nothing said."""

    header: MessageHeader
    visit: Identifier
    feeding: Feeding
    ins_ids: tuple[Identifier, ...]
    local_ids: tuple[Identifier, ...]
    warnings: tuple[Violation, ...]


def read_consent(draft: Draft) -> VisitConsent:
    """The consent of a message whose form is right; its other segments are not looked at.

    Raises `MessageRefused`: AE 103 for a ZFA-9 that its table does not have, AE 101 for an opposition without the
    visit that it is about: what cannot be applied must not be swallowed.
    """
    pid, visit = draft.first("PID"), read_visit(draft.first("PV1"))
    feeding = FEEDINGS.get(draft.value("ZFA", 9))
    if feeding is None:
        raise draft.refuse(103, "ZFA^1^9", "ZFA-9 is not INO, IO or NA")
    if feeding == OPPOSITION and not visit.extension:
        reason = "required fields missing: PV1-19, the visit that the opposition of ZFA-9 is about"
        raise draft.refuse(101, "PV1^1^19", reason)
    return VisitConsent(
        header=draft.header,
        visit=visit,
        feeding=feeding,
        ins_ids=patient_ins(pid),
        local_ids=local_ids(pid),
        warnings=draft.warnings,
    )
