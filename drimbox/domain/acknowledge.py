"""Acknowledgements in original mode: MSH, MSA, ERR (hl7-mss 1.8). An acknowledgement never gets one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from drimbox.domain.errors import ReportRefused
from drimbox.domain.hl7v2_grammar import (
    APPLICATION_CODES,
    APPLICATION_CONDITIONS,
    ERROR_CONDITIONS,
    LOCATIONS,
    SYNTAX_RULES,
)
from drimbox.domain.hl7v2_syntax import Delimiters, Segment
from drimbox.domain.violations import Violation

AckCode = Literal["AA", "AE", "AR"]

_ECHO_MAX = 255  # characters of a field that we send back
_REASON_MAX = 1_000
_DOCUMENT = "OBX^1^5"
_DEFAULT_VERSION = "2.5"
_DEFAULT_PROCESSING = "P"
_CHARACTER_SET = "UNICODE UTF-8"


@dataclass(frozen=True, slots=True)
class MessageHeader:
    """What an answer needs of MSH; empty where unreadable.

    MSH-3 to MSH-6, `control_id`, `profile` and `version_id` keep their inner delimiters.
    """

    sending_application: str = ""
    sending_facility: str = ""
    receiving_application: str = ""
    receiving_facility: str = ""
    message_code: str = ""
    trigger_event: str = ""
    structure: str = ""
    control_id: str = ""
    processing_id: str = ""
    version: str = ""
    character_set: str = ""
    profile: str = ""
    version_id: str = ""  # MSH-12 as written: 2.5^FRA^2.11 where `version` is 2.5
    delimiters: Delimiters = field(default_factory=Delimiters)

    @classmethod
    def unknown(cls) -> MessageHeader:
        """The header of a message whose MSH cannot be read: MSA-2 will be empty."""
        return cls()

    @classmethod
    def of(cls, msh: Segment) -> MessageHeader:
        """The header of an MSH segment; what will be echoed is printable and short."""
        return cls(
            sending_application=_echo(msh.text(3)),
            sending_facility=_echo(msh.text(4)),
            receiving_application=_echo(msh.text(5)),
            receiving_facility=_echo(msh.text(6)),
            message_code=_echo(msh.component(9, 1)),
            trigger_event=_echo(msh.component(9, 2)),
            structure=_echo(msh.component(9, 3)),
            control_id=_echo(msh.text(10)),
            processing_id=_echo(msh.component(11)),
            version=_echo(msh.component(12)),
            character_set=_echo(msh.component(18)),
            profile=_echo(msh.text(21)),
            version_id=_echo(msh.text(12)),
            delimiters=msh.delimiters,
        )

    @property
    def sending_application_name(self) -> str:
        """MSH-3.1."""
        return self._first(self.sending_application)

    @property
    def sending_facility_name(self) -> str:
        """MSH-4.1."""
        return self._first(self.sending_facility)

    def _first(self, text: str) -> str:
        return self.delimiters.reveal(text.partition(self.delimiters.component)[0]).strip()

    @property
    def is_acknowledgement(self) -> bool:
        """True for a message that must never be answered."""
        return self.message_code == "ACK"


class MessageRefused(ReportRefused):
    """A message answered AE or AR. `error`: table 0357; `application_error`: table 0533 when `error` is 207.

    `location`: ERR-2 as `SEG^occurrence^field`; `reason` repeats no patient data; `code`: stable slug.
    """

    def __init__(
        self,
        ack: Literal["AE", "AR"],
        error: int,
        location: str,
        reason: str,
        header: MessageHeader,
        *,
        application_error: int | None = None,
        code: str = "",
        violations: Iterable[Violation] = (),
    ) -> None:
        super().__init__(code or f"hl7-{error}", reason, violations)
        self.ack: Literal["AE", "AR"] = ack
        self.error = error
        self.application_error = application_error
        self.location = location
        self.header = header

    @classmethod
    def of_report(
        cls,
        header: MessageHeader,
        code: str,
        reason: str,
        *,
        location: str = "",
        violations: Iterable[Violation] = (),
    ) -> MessageRefused:
        """A refusal of the document, or of the order: `code` is a rule of the CDA, or of table 0533 ("900" to "906").

        `location`: ERR-2; by default what the event and the code are about (`LOCATIONS`).
        """
        location = location or _place(header.trigger_event, code)
        if code in SYNTAX_RULES:
            return cls("AE", 102, location, reason, header, code=code, violations=violations)
        known = code.isdecimal() and int(code) in APPLICATION_CONDITIONS
        application = int(code) if known else APPLICATION_CODES.get(code, 906)
        return cls(
            "AE",
            207,
            location,
            reason,
            header,
            application_error=application,
            code=code,
            violations=violations,
        )

    @classmethod
    def unavailable(cls, header: MessageHeader) -> MessageRefused:
        """AR: nothing is wrong with the message, the sender keeps it and sends it again."""
        reason = "the message cannot be kept now: send it again later"
        return cls("AR", 207, "", reason, header, code="unavailable")

    def answer(self, *, now: datetime, control_id: str, application: str = "", facility: str = "") -> bytes:
        """The acknowledgement that says this refusal; see `acknowledge`."""
        return acknowledge(
            self.header,
            code=self.ack,
            now=now,
            control_id=control_id,
            error=self.error,
            application_error=self.application_error,
            location=self.location,
            reason=self.reason,
            diagnostic=self.code,
            application=application,
            facility=facility,
        )


def acknowledge(
    header: MessageHeader,
    *,
    code: AckCode,
    now: datetime,
    control_id: str,
    error: int | None = None,
    application_error: int | None = None,
    location: str = "",
    reason: str = "",
    diagnostic: str = "",
    application: str = "",
    facility: str = "",
) -> bytes:
    """The acknowledgement of the message of `header`: UTF-8, segments ended by CR, no frame.

    `now`: aware, written as its own local digits; `control_id`: our MSH-10, at most 20 characters in HL7 2.5;
    `application`, `facility`: MSH-3 and MSH-4 when the sender named nobody; `location`: ERR-2; `diagnostic`:
    ERR-7; `reason`: ERR-8.
    Raises ValueError for an acknowledgement of an acknowledgement.
    """
    if header.is_acknowledgement:
        raise ValueError("an acknowledgement is never acknowledged")
    marks = header.delimiters
    segments = [
        _msh(header, now, control_id, application, facility),
        ["MSA", code, header.control_id],
    ]
    if error is not None:
        segments.append(
            _err(marks, error, application_error, location=location, reason=reason, diagnostic=diagnostic)
        )
    return "".join(marks.field.join(s).rstrip(marks.field) + "\r" for s in segments).encode("utf-8")


def _msh(header: MessageHeader, now: datetime, control_id: str, application: str, facility: str) -> list[str]:
    marks = header.delimiters
    event = header.trigger_event
    kind = ["ACK", marks.protect(event), "ACK"] if event else ["ACK"]
    return [
        "MSH",
        marks.encoding_characters,
        header.receiving_application or marks.protect(application),
        header.receiving_facility or marks.protect(facility),
        header.sending_application,
        header.sending_facility,
        now.strftime("%Y%m%d%H%M%S"),
        "",
        marks.component.join(kind),
        marks.protect(control_id),
        marks.protect(header.processing_id or _DEFAULT_PROCESSING),
        header.version_id or marks.protect(_DEFAULT_VERSION),
        *[""] * 4,
        "FRA",
        marks.protect(_CHARACTER_SET),
    ]


def _err(
    marks: Delimiters,
    error: int,
    application_error: int | None,
    *,
    location: str,
    reason: str,
    diagnostic: str,
) -> list[str]:
    return [
        "ERR",
        "",
        location.replace("^", marks.component),
        _coded(marks, error, ERROR_CONDITIONS[error], "messageErrorCondition"),
        "E",
        ""
        if application_error is None
        else _coded(
            marks, application_error, APPLICATION_CONDITIONS[application_error], "applicationErrorCondition"
        ),
        "",
        marks.protect(diagnostic),
        marks.protect(reason[:_REASON_MAX]),
    ]


def _place(event: str, code: str) -> str:
    keys = (f"{event} {code}", code, event)
    return next((LOCATIONS[key] for key in keys if key in LOCATIONS), _DOCUMENT)


def _coded(marks: Delimiters, code: int, label: str, system: str) -> str:
    return marks.component.join([str(code), marks.protect(label), system])


def _echo(text: str) -> str:
    """A field that will be sent back: no control character may end a frame or a segment of ours."""
    return "".join(c for c in text[: 2 * _ECHO_MAX] if c.isprintable())[:_ECHO_MAX]
