"""What one step of the verification saw, as sentences: faults refuse, doubts warn, notes tell."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Finding:
    """The observations of one step; empty `faults` and `doubts` and `unjudged` mean that it held."""

    faults: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    unjudged: str = ""

    def expect(self, holds: bool, fault: str) -> bool:
        """Record `fault` unless `holds`; returns `holds`."""
        if not holds:
            self.faults.append(fault)
        return holds
