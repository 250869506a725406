"""What is said of a candidate (list, address, file, answer) that cannot be used."""

from __future__ import annotations


class Untold(Exception):
    """The listener of changes could not take one now; it is told again at the next retrieval."""


class Unusable(Exception):
    """`code`: a stable slug for machines; `reason`: a sentence for people, without secrets."""

    code: str
    reason: str

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code, self.reason = code, reason
