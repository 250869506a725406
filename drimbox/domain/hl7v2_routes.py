"""What reaches the report port and where it belongs: MSH-9 and MSH-21 to a row (hl7-mss 1.1, 1.12, 2). First row wins.

A department routes by hand: its mistakes deserve an answer that says what to send instead, or where.
"""

from __future__ import annotations

from dataclasses import dataclass

from drimbox.domain.acknowledge import MessageHeader, MessageRefused

_TELERADIOLOGY = "CISIS_TLR_HL7_V2"
_LPS = "CISIS_CDA_HL7_LPS"
_TYPE, _PROFILE = "MSH^1^9", "MSH^1^21"
_READ = 0  # no refusal


@dataclass(frozen=True, slots=True)
class Route:
    """One row. `code`, `events`: MSH-9.1 and words of MSH-9.2; `profile`: what MSH-21 names; empty = any.

    `error`: table 0357, 0 for a message that is read (`slug` then says as what); `application`: table 0533; `reason`
    says what to do. `adt`: only when ADT are read, or only when they are not.
    """

    slug: str
    code: str
    events: str
    profile: str
    error: int
    reason: str
    clause: str
    location: str = _TYPE
    application: int | None = None
    adt: bool | None = None

    def fits(self, header: MessageHeader, adt: bool) -> bool:
        """True when every column matches."""
        return (
            self.code in ("", header.message_code)
            and (not self.events or header.trigger_event in self.events.split())
            and self.profile in header.profile
            and self.adt in (None, adt)
        )


ROUTES: tuple[Route, ...] = (
    Route("acknowledgement", "ACK", "", "", 200, "an acknowledgement: noted, never answered",
          "hl7-mss 1.1, 1.8"),
    Route("teleradiology-request", "ORM", "O01", _TELERADIOLOGY, 200,
          "a request for teleradiology: it goes to the teleradiology platform", "hl7-mss 2, flows 1 and 2", _PROFILE),
    Route("teleradiology-answer", "ORU", "R01", _TELERADIOLOGY, 200,
          "the answer to a request for teleradiology carries no report: it goes to the RIS", "hl7-mss 2, flow 3",
          _PROFILE),
    Route("teleradiology-exam", "OMI", "O23", _TELERADIOLOGY, 200,
          "the exam data of teleradiology go to its platform; without this profile they change the exam here",
          "hl7-mss 2, flow 4", _PROFILE),
    Route("teleradiology", "", "", _TELERADIOLOGY, 200, "a message of teleradiology: it goes to its platform",
          "hl7-mss 2", _PROFILE),
    Route("lps-mail", "", "", _LPS, 207,
          "a document received by mail (LPS profile) goes to the software of the professional, not here",
          "hl7-mss 1.12", _PROFILE, 906),
    Route("zam-dmp-receipt", "ZAM", "Z01", "", 200,
          "a receipt of the DMP (ZAM^Z01) goes to the software that sent the report to its GESTIONNAIRE",
          "hl7-mss 1.1, flow 3"),
    Route("zam-mail-receipt", "ZAM", "Z02", "", 200,
          "a delivery receipt of MSSanté (ZAM^Z02) goes to the software that sent the report to its GESTIONNAIRE",
          "hl7-mss 1.1, flow 4"),
    Route("zam-mail-read", "ZAM", "Z03", "", 200,
          "a reading receipt of MSSanté (ZAM^Z03) goes to the software that sent the report to its GESTIONNAIRE",
          "hl7-mss 1.1, flow 5"),
    Route("zam", "ZAM", "", "", 200, "a business receipt (ZAM) goes to the software that sent the report",
          "hl7-mss 1.1"),
    Route("order-request", "ORM", "O01", "", 200,
          "a request for an exam is for the RIS: the change of an exam is announced here by OMI^O23", "hl7-mss 1.1, 2"),
    Route("results-withdrawn", "OUL", "R22", "", 200,
          "OUL^R22 was withdrawn from the profile: send ORU^R01 or MDM^T02, T10, T04", "hl7-mss 1.1"),
    Route("report", "ORU", "R01", "", _READ, "", "hl7-mss 1.1, flow 1"),
    Route("report", "MDM", "T02 T10 T04", "", _READ, "", "hl7-mss 1.1, flow 2"),
    Route("order", "OMI", "O23", "", _READ, "", "drim-m-data 9"),
    Route("adt-not-read", "ADT", "", "", 200,
          "ADT messages are not read here: the setting policy.consent_from_adt decides it", "hl7-mss 1.12", adt=False),
    Route("visit", "ADT", "A01 A03 A04 A05 A08", "", _READ, "", "hl7-mss 1.12", adt=True),
    Route("adt-event", "ADT", "", "", 201, "of ADT, only A01, A03, A04, A05 and A08 are read, for the consent in ZFA",
          "hl7-mss 1.12"),
    *(
        Route("hl7-201", code, "", "", 201, f"this event of {code} is not supported: send {events}", "hl7-mss 1.8")
        for code, events in (("ORU", "R01"), ("MDM", "T02, T10 or T04"), ("OMI", "O23"))
    ),
    Route("hl7-200", "", "", "", 200, "this message type is not supported: ORU, MDM and OMI are", "hl7-mss 1.8"),
)  # fmt: skip


def route(header: MessageHeader, *, adt: bool = False) -> Route:
    """The row of a message that is read. Raises `MessageRefused` with that of any other."""
    row = next(row for row in ROUTES if row.fits(header, adt))
    if row.error:
        raise MessageRefused(
            "AE",
            row.error,
            row.location,
            row.reason,
            header,
            application_error=row.application,
            code=row.slug,
        )
    return row
