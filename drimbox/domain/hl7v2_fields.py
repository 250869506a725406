"""PID, PRT, TXA, IPC and the MetaDMPMSS OBX to values (hl7-mss 1.3 to 1.5, 2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from drimbox.domain.acknowledge import MessageHeader, MessageRefused
from drimbox.domain.hl7v2_grammar import (
    FLAG_ALIASES,
    FLAG_SYSTEM,
    FLAGS,
    MAIL_FLAGS,
    MAIL_MATRIX,
    NOT_FLAGS,
    OBSOLETE_FLAG,
    YES_NO,
    YES_NO_SYSTEMS,
)
from drimbox.domain.hl7v2_syntax import Field, Segment
from drimbox.domain.identifiers import INS_AUTHORITIES, Identifier, is_oid

Warn = Callable[[str, str, str], None]  # slug of `TOLERANCES`, message, place
_SENT_BY = "SB"


@dataclass(frozen=True, slots=True)
class Sender:
    """PRT of type SB: who sends, for the VIHF and the author of the submission set (hl7-mss 1.4, 1.9)."""

    person: Identifier | None
    family: str
    given: str
    organization: Identifier | None
    organization_name: str

    def as_mapping(self) -> dict[str, str]:
        """The same as flat text, for keeping; an absent identifier is two empty values."""
        person = self.person or Identifier("")
        organization = self.organization or Identifier("")
        return {
            "person_id": person.extension,
            "person_root": person.root,
            "family": self.family,
            "given": self.given,
            "organization_id": organization.extension,
            "organization_root": organization.root,
            "organization_name": self.organization_name,
        }


def patient_ins(pid: Segment | None) -> tuple[Identifier, ...]:
    """The identifiers of PID-3 that are INS, by type or by authority, in order."""
    return tuple(_identifier(cx, 4) for cx in _patient_ids(pid) if _is_ins(cx))


def local_ids(pid: Segment | None) -> tuple[Identifier, ...]:
    """The other identifiers of PID-3; without OID the namespace stands for the authority."""
    return tuple(_identifier(cx, 4) for cx in _patient_ids(pid) if not _is_ins(cx))


def _patient_ids(pid: Segment | None) -> list[Field]:
    return [cx for cx in pid.repetitions(3) if cx.component(1)] if pid else []


def _is_ins(cx: Field) -> bool:
    return cx.component(5) == "INS" or cx.authority(4)[1] in INS_AUTHORITIES


def _identifier(value: Field, authority: int) -> Identifier:
    namespace, oid = value.authority(authority)
    return Identifier(oid or namespace, value.component(1))


def read_visit(pv1: Segment | None) -> Identifier:
    """PV1-19, the visit number (CX); its extension is empty when absent."""
    numbers = pv1.repetitions(19) if pv1 else ()
    return _identifier(numbers[0], 4) if numbers and numbers[0].component(1) else Identifier("")


def read_entity(txa: Segment | None, number: int) -> str:
    """TXA-12 or TXA-13 as `root[^extension]`: from `extension^^root^ISO`, or from the root alone in .1.

    A stray second component is ignored (ANS samples write an organisation there).
    """
    if txa is None:
        return ""
    value, root = txa.component(number, 1), txa.component(number, 3)
    return str(Identifier(root, value)) if is_oid(root) else value


def entity(segment: Segment, number: int) -> Identifier:
    """An EI field: its OID, else its namespace, else nothing, as root; its value as extension (hl7-mss 2)."""
    value, namespace, oid = (segment.component(number, component) for component in (1, 2, 3))
    return Identifier(oid if is_oid(oid) else namespace, value)


def read_sender(segments: Sequence[Segment]) -> Sender | None:
    """The first PRT whose PRT-4 is SB, whatever its label and table; None when there is none."""
    for prt in segments:
        if prt.name == "PRT" and prt.component(4).upper() == _SENT_BY:
            return _sender(prt)
    return None


def _sender(prt: Segment) -> Sender:
    person, organization = prt.repetitions(5), prt.repetitions(8)
    who = _identifier(person[0], 9) if person and person[0].component(1) else None
    structure = None
    if organization and organization[0].component(10):
        namespace, oid = organization[0].authority(6)
        structure = Identifier(oid or namespace, organization[0].component(10))
    return Sender(
        person=who,
        family=person[0].component(2) if person else "",
        given=person[0].component(3) if person else "",
        organization=structure,
        organization_name=organization[0].component(1) if organization else "",
    )


def read_flags(segments: Sequence[Segment], header: MessageHeader, warn: Warn) -> dict[str, bool]:
    """Flags by canonical code; `warn` hears of those that are required and missing, unknown, or written otherwise.

    Raises `MessageRefused`: AE 103 for a value that is neither Y nor N, AE 198 for a flag said to be both.
    """
    flags: dict[str, bool] = {}
    for obx in segments:
        if obx.name != "OBX" or obx.component(2).upper() == "ED":
            continue
        written = obx.component(3)
        code = FLAG_ALIASES.get(written, written)
        if code in FLAGS:
            _set_flag(flags, code, obx, header)
            _note_spelling(obx, written, code, warn)
        elif code == OBSOLETE_FLAG:
            warn("flag-obsolete", f"{OBSOLETE_FLAG} of version 1.2 is not read", obx.place(3))
        elif obx.component(3, 3) == FLAG_SYSTEM and code not in NOT_FLAGS:
            warn("flag-unknown", "a MetaDMPMSS code that is not known", obx.place(3))
    if missing := [code for code, required in FLAGS.items() if required and code not in flags]:
        warn("flag-missing", f"not stated: {', '.join(missing)}", "OBX")
    _note_mail(flags, warn)
    return flags


def _note_spelling(obx: Segment, written: str, code: str, warn: Warn) -> None:
    if written != code:
        warn("flag-alias", f"an older name of {code}", obx.place(3))
    if obx.component(3, 3) != FLAG_SYSTEM:
        warn("flag-table", f"OBX-3 does not name {FLAG_SYSTEM}", obx.place(3))
    if obx.component(5, 3) not in YES_NO_SYSTEMS:
        warn("flag-value-table", "Y or N without its table", obx.place(5))


def _note_mail(flags: Mapping[str, bool], warn: Warn) -> None:
    """Mail is not our business, but what the guide calls an error is said (hl7-mss 1.5: warn, never AE)."""
    asked = tuple(flags.get(code, False) for code in MAIL_FLAGS)
    if not (flags.get("DESTMSSANTEPS") or flags.get("DESTMSSANTEPAT")):
        return
    if flags.get("INVISIBLE_PATIENT") and flags.get("DESTMSSANTEPAT"):
        reason = (
            "invisible to the patient, and sent to the patient: INVISIBLE_PATIENT and DESTMSSANTEPAT are Y"
        )
        warn("flag-mail-to-patient", reason, "OBX")
    elif not any(
        all(cell in (None, flag) for cell, flag in zip(row, asked, strict=True)) for row in MAIL_MATRIX
    ):
        warn("flag-combination", "visibility and mail flags in no combination of the guide", "OBX")


def _set_flag(flags: dict[str, bool], code: str, obx: Segment, header: MessageHeader) -> None:
    value = YES_NO.get(obx.component(5).upper())
    if value is None:
        raise MessageRefused("AE", 103, obx.place(5), f"{code} is neither Y nor N", header)
    if flags.setdefault(code, value) != value:
        raise MessageRefused("AE", 198, obx.place(5), f"{code} is said to be Y and N", header)
