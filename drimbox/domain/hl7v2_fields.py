"""PID, PRT, TXA, IPC and the MetaDMPMSS OBX to values (hl7-mss 1.3 to 1.5, 2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from drimbox.domain.acknowledge import MessageHeader, MessageRefused
from drimbox.domain.hl7v2_grammar import FLAG_ALIASES, FLAG_SYSTEM, FLAGS, NOT_FLAGS, YES_NO
from drimbox.domain.hl7v2_syntax import Field, Segment
from drimbox.domain.identifiers import INS_AUTHORITIES, Identifier, is_oid
from drimbox.domain.violations import Severity, Violation

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


def read_flags(segments: Sequence[Segment], header: MessageHeader) -> tuple[dict[str, bool], list[Violation]]:
    """Flags by canonical code, and warnings for those that are required and missing or unknown.

    Raises `MessageRefused`: AE 103 for a value that is neither Y nor N, AE 198 for a flag said to be both.
    """
    flags: dict[str, bool] = {}
    warnings: list[Violation] = []
    for obx in segments:
        if obx.name != "OBX" or obx.component(2).upper() == "ED":
            continue
        written = obx.component(3)
        code = FLAG_ALIASES.get(written, written)
        if code in FLAGS:
            _set_flag(flags, code, obx, header)
        elif obx.component(3, 3) == FLAG_SYSTEM and code not in NOT_FLAGS:
            warnings.append(_warning("flag-unknown", "a MetaDMPMSS code that is not known", obx.place(3)))
    for code, required in FLAGS.items():
        if required and code not in flags:
            warnings.append(_warning("flag-missing", f"{code} is not stated", "OBX"))
    return flags, warnings


def _set_flag(flags: dict[str, bool], code: str, obx: Segment, header: MessageHeader) -> None:
    value = YES_NO.get(obx.component(5).upper())
    if value is None:
        raise MessageRefused("AE", 103, obx.place(5), f"{code} is neither Y nor N", header)
    if flags.setdefault(code, value) != value:
        raise MessageRefused("AE", 198, obx.place(5), f"{code} is said to be Y and N", header)


def _warning(rule: str, message: str, where: str) -> Violation:
    return Violation(rule, message, where, "hl7-mss 1.5", Severity.WARNING)
