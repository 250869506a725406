"""One table: what became of a request ↔ DIMSE status (PS3.4 B.2.3, PS3.7 C) ↔ HTTP status (PS3.18 10.5.3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Outcome(StrEnum):
    """What became of an instance that was offered."""

    STORED = "stored"
    DUPLICATE = "duplicate"
    DIFFERENT_BYTES = "different-bytes"
    NOT_UNDERSTOOD = "not-understood"
    UID_MISSING = "uid-missing"
    UID_INVALID = "uid-invalid"
    UID_MISMATCH = "uid-mismatch"
    OUT_OF_RESOURCES = "out-of-resources"
    STORAGE_FULL = "storage-full"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Answer:
    """One row: the status codes that say an outcome. `clause`: where the codes are defined."""

    dimse: int
    http: int
    clause: str


ANSWERS: Mapping[Outcome, Answer] = {
    Outcome.STORED: Answer(0x0000, 200, "PS3.4 B.2.3 Success"),
    Outcome.DUPLICATE: Answer(0x0000, 200, "PS3.4 B.2.3 Success: these very bytes are kept already"),
    Outcome.DIFFERENT_BYTES: Answer(0x0111, 409, "PS3.7 C.5.6 Duplicate SOP Instance"),
    Outcome.NOT_UNDERSTOOD: Answer(0xC000, 400, "PS3.4 B.2.3 Error: Cannot understand"),
    Outcome.UID_MISSING: Answer(0xC001, 400, "PS3.4 B.2.3 Error: Cannot understand (Cxxx)"),
    Outcome.UID_INVALID: Answer(0xC002, 400, "PS3.4 B.2.3 Error: Cannot understand (Cxxx)"),
    Outcome.UID_MISMATCH: Answer(0xA900, 409, "PS3.4 B.2.3 Error: Data Set does not match SOP Class"),
    Outcome.OUT_OF_RESOURCES: Answer(0xA700, 503, "PS3.4 B.2.3 Refused: Out of Resources"),
    Outcome.STORAGE_FULL: Answer(0xA700, 507, "PS3.4 B.2.3 Refused: Out of Resources; RFC 4918 11.5"),
    Outcome.FAILED: Answer(0x0110, 500, "PS3.7 C.5.19 Processing failure"),
}


class StoreRefused(Exception):
    """An instance is not taken. `reason` names attributes by keyword and never carries their values."""

    def __init__(self, outcome: Outcome, reason: str) -> None:
        super().__init__(f"{outcome}: {reason}")
        self.outcome = outcome
        self.reason = reason


@dataclass(eq=False)
class HttpRefusal(Exception):
    """A request of the DICOMweb door is refused: answered as `application/problem+json` (RFC 9457).

    `slug`: stable `type` of the problem; `headers`: added to the answer (WWW-Authenticate, Retry-After…).
    """

    status: int
    slug: str
    title: str
    detail: str
    headers: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__(f"{self.status} {self.slug}")
