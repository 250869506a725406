"""ZAM^Z01: what became of a report at the DMP, told to the software that sent it, and its answer (hl7-mss 1.8). Pure.

The message says which message it is about, Y or N, and why; it carries no patient and no words of the DMP but its
error code, for it leaves in clear.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from drimbox.domain.hl7v2_grammar import APPLICATION_CONDITIONS, ERROR_CONDITIONS
from drimbox.domain.hl7v2_syntax import Delimiters, Segment, Unreadable, split_message

Status = Literal["Y", "N"]  # table 0136

# Why the answer is N. `refused` and `parked`: the DMP's part; `superseded`: nothing was published of that version; the
# others: the rules of `domain/exam.py` by which somebody said that the exam is not to be public.
REASONS: Mapping[str, str] = {
    "refused": "the DMP refused the manifest of the exam",
    "parked": "the DMP gave no usable answer for the manifest of the exam: an operator decides",
    "superseded": "the report was superseded before publication",
    "report-withdrawn": "the report was withdrawn before publication",
    "withdrawn": "the exam was withdrawn before publication",
    "all-rejected": "every image of the exam was rejected",
    "not-for-dmp": "the report is not destined to the DMP (DESTDMP = N)",
    "opposition": "the patient opposes the feeding of the DMP for this visit (ZFA-9 = IO)",
    "restricted": "the confidentialityCode of the report is not shared",
}

_MARKS = Delimiters()
_ENCODING = "UNICODE UTF-8"
_PROFILE = "2.1^CISIS_CDA_HL7_V2"
_OUR_CODE = 906  # the only code of table 0533 for what the DMP has no code for
_APPLICATION_ERROR = 207
_DEFAULT_PROCESSING = "P"
_CONTROL_ID_LENGTH = 20  # the limit of HL7 2.5, which many a RIS keeps
_DMP_CODE = re.compile(r"[A-Za-z][\w.-]{0,63}", re.ASCII)
_CODE = re.compile(r"[\w.-]{1,40}", re.ASCII)
# MSA-1 in original mode, and in enhanced mode as some engines answer all the same
_ANSWERS: Mapping[str, Literal["AA", "AE", "AR"]] = {
    "AA": "AA", "AE": "AE", "AR": "AR", "CA": "AA", "CE": "AE", "CR": "AR",
}  # fmt: skip


class NotAcknowledged(Exception):
    """No usable answer came: whether the message was read is not known. The reason holds nothing of the answer."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of the report. `slug`: row of `REASONS` when N; `dmp_code`: the DMP's error code, if it gave one."""

    status: Status
    slug: str = ""
    dmp_code: str = ""

    @property
    def error(self) -> str | None:
        """Slug and code in one text, as the ledger keeps them; None when Y."""
        return f"{self.slug} {self.dmp_code}".strip() or None

    @classmethod
    def kept(cls, status: str, error: str | None) -> Verdict:
        """The verdict that `status` and `error` say."""
        slug, _, code = (error or "").partition(" ")
        return cls("Y" if status == "Y" else "N", slug, code)


@dataclass(frozen=True, slots=True)
class Parties:
    """MSH-3 to MSH-6 as plain text, and MSH-11."""

    application: str
    facility: str
    receiving_application: str
    receiving_facility: str
    processing_id: str = _DEFAULT_PROCESSING

    def completed(self, acknowledgement: str | None) -> Parties:
        """What is empty here, and MSH-11, as in our technical acknowledgement of the same message, if it was kept."""
        if acknowledgement is None:
            return self
        msh = split_message(acknowledgement.encode("utf-8")).segments[0]
        return Parties(
            self.application or msh.component(3),
            self.facility or msh.component(4),
            self.receiving_application or msh.component(5),
            self.receiving_facility or msh.component(6),
            msh.component(11) or self.processing_id,
        )


@dataclass(frozen=True, slots=True)
class Reply:
    """The sender's answer. `reason`: MSA-1 and the codes of its ERR; never its free text, which may name a patient.

    `code` None: no usable answer came.
    """

    code: Literal["AA", "AE", "AR"] | None
    reason: str


def control_id_of(receipt_id: str) -> str:
    """MSH-10 of a receipt: the same at each attempt, so that the receiver recognises a repeat."""
    return "Z" + hashlib.sha256(receipt_id.encode("utf-8")).hexdigest()[: _CONTROL_ID_LENGTH - 1]


def dmp_error_code(last_error: str | None) -> str:
    """The first code in the DMP's words (`outcome.Refused.reason`: `code: context; ...`), empty when they hold none."""
    first = (last_error or "").partition("; ")[0].partition(": ")[0]
    code = first.rpartition(":")[2].strip()
    return code if _DMP_CODE.fullmatch(code) else ""


def build_zam(verdict: Verdict, *, about: str, receipt_id: str, parties: Parties, now: datetime) -> bytes:
    """ZAM^Z01^ZAM_Z01 2.6: MSH EVN OBX, and ERR when N; UTF-8, segments ended by CR, no frame.

    `about`: MSH-10 of the report's message as written; `now`: aware, written with its offset. Raises KeyError for a
    slug that is not in `REASONS`.
    """
    moment = now.strftime("%Y%m%d%H%M%S%z")
    segments = [
        _msh(parties, moment, control_id_of(receipt_id)),
        ["EVN", "", moment],
        _obx(verdict.status, about.replace(_MARKS.field, "\\F\\")),
    ]
    if verdict.status == "N":
        segments.append(_err(verdict))
    return "".join(_MARKS.field.join(s).rstrip(_MARKS.field) + "\r" for s in segments).encode("utf-8")


def _msh(parties: Parties, moment: str, control_id: str) -> list[str]:
    names = (
        parties.application,
        parties.facility,
        parties.receiving_application,
        parties.receiving_facility,
    )
    return [
        "MSH",
        _MARKS.encoding_characters,
        *(_MARKS.protect(name) for name in names),
        moment,
        "",
        "ZAM^Z01^ZAM_Z01",
        control_id,
        _MARKS.protect(parties.processing_id),
        "2.6",
        *[""] * 4,
        "FRA",
        _ENCODING,
        *[""] * 2,
        _PROFILE,
    ]


def _obx(status: Status, about: str) -> list[str]:
    code = "ACK_RECEPTION_DMP^Accusé de réception DMP^AckMetierZAM"
    return ["OBX", "1", "CWE", code, about, f"{status}^^expandedYes-NoIndicator", *[""] * 5, "F"]


def _err(verdict: Verdict) -> list[str]:
    """ERR-5 is the DMP's code, or 906 when the reason is ours (ERR-7 then tells it apart)."""
    ours = f"{_OUR_CODE}^{APPLICATION_CONDITIONS[_OUR_CODE]}^applicationErrorCondition"
    return [
        "ERR",
        *[""] * 2,
        f"{_APPLICATION_ERROR}^{ERROR_CONDITIONS[_APPLICATION_ERROR]}^messageErrorCondition",
        "E",
        f"{_MARKS.protect(verdict.dmp_code)}^^DMP_ERROR_CODE" if verdict.dmp_code else ours,
        "",
        verdict.slug,
        _MARKS.protect(REASONS[verdict.slug]),
    ]


def read_acknowledgement(answer: bytes, control_id: str) -> Reply:
    """What the receiver says to our message of that MSH-10 (`answer`: without frame).

    Raises `NotAcknowledged` for what is no acknowledgement, for one of another message, and for an unknown MSA-1. An
    AE or AR without MSA-2 is ours: there is one message on the connection, and its MSH may be what was not read.
    """
    try:
        segments = split_message(answer).segments
    except Unreadable as error:
        raise NotAcknowledged("the answer is no HL7v2 message") from error
    msa = next((s for s in segments if s.name == "MSA"), None)
    if segments[0].component(9) != "ACK" or msa is None:
        raise NotAcknowledged("the answer is no acknowledgement")
    code = _ANSWERS.get(msa.component(1))
    if code is None:
        raise NotAcknowledged("the answer says neither AA, AE nor AR")
    if msa.component(2) != control_id and (code == "AA" or msa.component(2)):
        raise NotAcknowledged("the answer acknowledges another message")
    return Reply(code, _said(code, segments))


def _said(code: str, segments: tuple[Segment, ...]) -> str:
    errors = [s for s in segments if s.name == "ERR"]
    codes = ["/".join(c for f in (3, 5) if _CODE.fullmatch(c := s.component(f))) for s in errors]
    return " ".join([code, *(text for text in codes if text)])
