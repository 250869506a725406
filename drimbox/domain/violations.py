"""A rule that a document breaks: said with its clause and its place, never just 'invalid'."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """ERROR stops the document; WARNING is kept beside it."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken rule. `rule`: stable slug; `where`: XPath, segment^field or DICOM keyword; `clause`: source."""

    rule: str
    message: str
    where: str = ""
    clause: str = ""
    severity: Severity = Severity.ERROR


def errors(violations: Iterable[Violation]) -> tuple[Violation, ...]:
    """The violations that stop the document."""
    return tuple(v for v in violations if v.severity is Severity.ERROR)
