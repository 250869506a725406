"""What is made of credential files is held while they change, and renewed when the new ones are good."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
import structlog

from drimbox.adapters.held import RETRY_SECONDS, Held
from drimbox.adapters.key_files import UnusableCredential
from fixtures.certificates import NOW


@dataclass
class Case:
    """Something held that is the text of a file."""

    path: Path
    faults: list[str] = field(default_factory=list)
    instant: float = 0.0
    made: int = 0

    def __post_init__(self) -> None:
        self.path.write_text("old")
        self.held = Held(
            "web.certificate", [self.path], self.make, lambda _: self.faults, lambda: self.instant
        )

    def make(self) -> str:
        self.made += 1
        text = self.path.read_text()
        if text == "unusable":
            raise UnusableCredential(["the key does not match"])
        return text


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path / "certificate.pem")


def test_what_is_held_does_not_follow_by_itself(case: Case) -> None:
    assert case.held.current() == "old"
    case.path.write_text("renewed")
    assert case.held.current() == "old"
    assert case.held.renew(NOW)
    assert case.held.current() == "renewed"
    assert not case.held.renew(NOW)
    assert case.made == 2


def test_what_was_never_used_stays_unread(case: Case) -> None:
    case.path.write_text("unusable")
    assert not case.held.renew(NOW)
    assert case.made == 0
    with pytest.raises(UnusableCredential, match="does not match"):
        case.held.current()


@pytest.mark.parametrize("how", ["unusable", "judged", "gone"])
def test_the_old_one_stays_in_use(case: Case, how: str) -> None:
    assert case.held.current() == "old"
    case.path.write_text(how)
    case.faults += ["it expired"] if how == "judged" else []
    if how == "gone":
        case.path.unlink()
    with pytest.raises(OSError, match=r"No such file|does not match|it expired"):
        case.held.renew(NOW)
    assert case.held.current() == "old"
    assert (case.held.fault or "").endswith("the old one stays in use")
    case.faults.clear()
    case.path.write_text("renewed")
    assert case.held.renew(NOW)
    assert case.held.fault is None


def test_who_follows_says_a_fault_once_and_tries_again(case: Case) -> None:
    assert case.held.follow(NOW) == "old"
    case.path.write_text("unusable")
    with structlog.testing.capture_logs() as logs:
        assert [case.held.follow(NOW) for _ in range(3)] == ["old"] * 3
        case.instant += RETRY_SECONDS
        assert case.held.follow(NOW) == "old"
        case.path.write_text("renewed once more")
        assert [case.held.follow(NOW) for _ in range(2)] == ["renewed once more"] * 2
    assert [line["event"] for line in logs] == [*["credential_not_renewed"] * 2, "credentials_renewed"]
    assert logs[0]["reason"] == "web.certificate: the key does not match; the old one stays in use"
