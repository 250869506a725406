"""Is a backup whole: every fault is told, and what was lost before is told apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest

from drimbox.flow.backup_check import Checking, age_fault, made_at
from drimbox.flow.backup_plan import SEGMENTS, BackupRefused, Facts, KeptFile, Manifest, run_name

FACTS = Facts("sqlite", "0008", 4, 12)
FILES = (KeptFile(f"{SEGMENTS}a.seg", 10, "a" * 64), KeptFile("database.sqlite", 9, "d" * 64))
RUN = "20261001T120000250Z"
MANIFEST = Manifest(RUN, "0.1.0", FACTS, FILES)
AT = datetime(2026, 10, 1, 12, 0, 0, 250_000, tzinfo=UTC)


@dataclass
class Double:
    """Pool and reader in one. `wrong`: by name of a file; `ends`, `facts`: of the database."""

    wrong: dict[str, str] = field(default_factory=dict)
    ends: Mapping[str, int] = field(default_factory=lambda: {"a.seg": 10})
    facts: Facts = FACTS
    unreadable: bool = False
    hashed: list[bool] = field(default_factory=list)

    def fault(self, kept: KeptFile, *, hashed: bool, spent: Callable[[int], None]) -> str | None:
        self.hashed.append(hashed)
        spent(kept.size)
        return self.wrong.get(kept.name)

    def contents(self, _kept: KeptFile, _engine: str, *, thorough: bool) -> Double:
        assert thorough == self.hashed[0]
        if self.unreadable:
            raise BackupRefused("it is damaged")
        return self

    def faults(self, manifest: Manifest = MANIFEST, *, hashed: bool = True) -> list[tuple[str, str]]:
        found = Checking(self, self, {"0001", "0008"}).faults(manifest, hashed=hashed)
        return [(fault.name.removeprefix(SEGMENTS), fault.reason) for fault in found]


@pytest.mark.parametrize("hashed", [True, False])
def test_a_whole_one(hashed: bool) -> None:
    double = Double()
    assert double.faults(hashed=hashed) == []
    assert double.hashed == [hashed, hashed]


def test_every_fault_is_told() -> None:
    double = Double(
        {f"{SEGMENTS}a.seg": "it is not there"}, {"a.seg": 11, "b.seg": 5}, replace(FACTS, trace=9)
    )
    found = double.faults(replace(MANIFEST, facts=replace(FACTS, revision="0099")))
    assert [name for name, _ in found] == ["a.seg", "database.sqlite"]
    assert "newer program" in found[1][1]
    found = double.faults()
    assert [name for name, _ in found] == ["a.seg", "database.sqlite", "a.seg", "b.seg"]
    assert "a" * 64 in found[0][1]
    assert "up to byte 11, the run holds 10" in found[2][1]


def test_a_database_that_is_broken_is_not_opened() -> None:
    assert len(Double({"database.sqlite": "it is damaged"}, unreadable=True).faults()) == 1
    ((name, reason),) = Double(unreadable=True).faults()
    assert (name, "d" * 64 in reason) == ("database.sqlite", True)
    assert Double().faults(replace(MANIFEST, files=FILES[:1])) == [
        ("database.sqlite", "the run holds no database")
    ]


def test_what_the_appliance_had_lost_is_told_apart() -> None:
    lost = replace(MANIFEST, files=FILES[1:], lost=(f"{SEGMENTS}a.seg",))
    (fault,) = Checking(Double(), Double(hashed=[False]), {"0008"}).faults(lost, hashed=False)
    assert fault.was_lost


def test_the_age_of_a_run() -> None:
    assert made_at(run_name(AT, ())) == made_at(RUN) == AT
    assert age_fault(RUN, AT + timedelta(days=900), None) is None
    assert age_fault(RUN, AT + timedelta(hours=24), timedelta(hours=24)) is None
    late = age_fault(RUN, AT + timedelta(hours=26), timedelta(hours=24))
    assert late is not None
    assert late.reason == "it is 26.0 hours old, 24 are allowed"
    future = age_fault(RUN, AT - timedelta(seconds=1), None)
    assert future is not None
    assert "clock" in future.reason
