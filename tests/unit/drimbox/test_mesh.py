"""Whether this DRIMBox may speak with the mesh and with this partner: each state, each rule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from drimbox.domain.errors import AccessRefused
from drimbox.flow.mesh import check_partner, may_exchange
from whitelist.decision import State
from whitelist.document import Domain, TrustedList

MEMBER = "CN=db1.example.fr,OU=300000000000001,O=CLINIQUE,ST=Paris (75),C=FR"
STRANGER = "CN=db9.example.fr,OU=300000000000009,O=AUTRE,ST=Paris (75),C=FR"
LIST = TrustedList("ns", "1.0.0", None, (Domain("1", "db1.example.fr", "", "EDITEUR", MEMBER, "", None),))


@dataclass(frozen=True)
class Seen:
    state: State
    trusted: TrustedList | None = LIST


@dataclass(frozen=True)
class Mesh:
    state: State

    def current(self) -> Seen:
        return Seen(self.state, None if self.state is State.NEVER else LIST)


def check(state: State, subject: str | None, rule: Any) -> list[str]:
    said: list[str] = []
    check_partner(Mesh(state), subject, rule, lambda _event, reason: said.append(reason))
    return said


@pytest.mark.parametrize(
    ("state", "may"), [("NEVER", False), ("CURRENT", True), ("STALE", True), ("ABSENT", False)]
)
def test_what_may_leave(state: str, may: bool) -> None:
    assert may_exchange(Mesh(State(state))) is may


@pytest.mark.parametrize(("state", "slug"), [("NEVER", "whitelist-unknown"), ("ABSENT", "not-in-whitelist")])
@pytest.mark.parametrize("rule", ["off", "warn", "require"])
def test_an_interrupted_box_refuses_everybody(state: str, slug: str, rule: str) -> None:
    with pytest.raises(AccessRefused) as refusal:
        check(State(state), MEMBER, rule)
    assert (refusal.value.status, refusal.value.code) == (503, slug)


@pytest.mark.parametrize("rule", ["off", "warn", "require"])
@pytest.mark.parametrize("state", [State.CURRENT, State.STALE])
def test_a_member_is_let_in(state: State, rule: str) -> None:
    assert check(state, MEMBER, rule) == []


def test_a_stranger_is_noted_or_refused_as_the_rule_says() -> None:
    assert check(State.CURRENT, STRANGER, "off") == []
    assert len(check(State.CURRENT, STRANGER, "warn")) == 1
    with pytest.raises(AccessRefused) as refusal:
        check(State.CURRENT, STRANGER, "require")
    assert (refusal.value.status, refusal.value.code) == (403, "peer-not-member")


def test_require_wants_a_certificate() -> None:
    assert check(State.CURRENT, None, "warn") == []
    with pytest.raises(AccessRefused):
        check(State.CURRENT, None, "require")
