"""What an introspection answer must say: one rule broken at a time; whom it names."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from drimbox.domain.token_binding import Binding
from drimbox.domain.token_claims import TokenRules, expiry, identity_of, violations

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
RULES = TokenRules("https://psc/realm")
CLAIMS: dict[str, Any] = {  # trust-and-identity 1.5
    "active": True,
    "exp": int(NOW.timestamp()) + 60,
    "iss": "https://psc/realm",
    "typ": "Bearer",
    "azp": "drimbox-partenaire",
    "client_id": "drimbox-partenaire",
    "jti": "0b9c",
    "acr": "eidas1",
    "scope": "openid scope_all",
    "sub": "f:uuid:899700218896",
    "preferred_username": "899700218896",
}


def without(*names: str) -> dict[str, Any]:
    return {name: value for name, value in CLAIMS.items() if name not in names}


def test_sound_claims_break_nothing() -> None:
    assert violations(CLAIMS, RULES, NOW) == []
    assert violations(without("iss", "typ", "acr", "azp", "jti", "sub"), RULES, NOW) == []


@pytest.mark.parametrize(
    ("rule", "broken"),
    [
        ("exp", {"exp": NOW.timestamp()}),
        ("exp", {"exp": None}),
        ("exp", {"exp": str(NOW.timestamp() + 60)}),
        ("exp", {"exp": True}),
        ("exp", {"exp": float("inf")}),
        ("exp", {"exp": float("nan")}),
        ("exp", {"exp": 10**400}),
        ("iss", {"iss": "https://psc/other"}),
        ("iss", {"iss": None}),
        ("typ", {"typ": "Refresh"}),
        ("acr", {"acr": "eidas0"}),
        ("acr", {"acr": 1}),
        ("acr", {"acr": ["eidas1"]}),
        ("acr", {"acr": None}),
        ("scope", {"scope": "profile"}),
        ("scope", {"scope": "openidx"}),
        ("scope", {"scope": ["openid"]}),
        ("subject", {"preferred_username": " ", "sub": ""}),
        ("subject", {"preferred_username": None, "sub": 7}),
    ],
)
def test_each_rule_alone(rule: str, broken: dict[str, Any]) -> None:
    assert violations(CLAIMS | broken, RULES, NOW) == [rule]


@pytest.mark.parametrize("active", [False, None, "true", 1])
def test_an_inactive_token_is_inactive_and_nothing_else(active: Any) -> None:
    assert violations({"active": active}, RULES, NOW) == ["active"]


def test_every_broken_rule_is_told() -> None:
    assert violations({"active": True, "iss": "x", "acr": "x"}, RULES, NOW) == [
        *("exp", "iss", "acr", "scope", "subject")
    ]


@pytest.mark.parametrize(
    ("minimum", "acr", "sound"),
    [
        ("eidas1", "eidas1", True),
        ("eidas2", "eidas1", False),
        ("eidas2", "eidas2", True),
        ("eidas2", "eidas3", True),
        ("eidas3", "eidas2", False),
        ("eidas2", None, False),  # absent counts as eidas1
    ],
)
def test_levels_are_in_order(minimum: str, acr: str | None, sound: bool) -> None:
    claims = without("acr") | ({"acr": acr} if acr else {})
    assert (violations(claims, replace(RULES, minimum_acr=minimum), NOW) == []) is sound


def test_two_acr_members_are_no_fault() -> None:
    """trust-and-identity 1.2: a recorded token has "1", then "eidas3"; the last one counts."""
    text = json.dumps(without("acr"))[:-1] + ', "acr": "1", "acr": "eidas3"}'
    assert violations(json.loads(text), replace(RULES, minimum_acr="eidas3"), NOW) == []


@pytest.mark.parametrize(
    ("claims", "sound"),
    [
        ({"aud": "us"}, True),
        ({"aud": ["them", "us"]}, True),
        ({"azp": "us", "aud": "account"}, True),
        ({"aud": ["them"]}, False),
        ({"aud": [None, {}]}, False),
        ({}, False),
    ],
)
def test_audiences_are_checked_when_they_are_set(claims: dict[str, Any], sound: bool) -> None:
    rules = replace(RULES, audiences=frozenset({"us", "others"}))
    broken = [] if sound else ["aud"]
    assert violations(CLAIMS | claims, rules, NOW) == broken
    assert violations(CLAIMS | claims, RULES, NOW) == []


def test_an_expiry_is_an_instant() -> None:
    assert expiry({"exp": 1.5}) == 1.5
    assert [expiry({"exp": value}) for value in (None, "1", True, -1, 0, 1e12)] == [None] * 6


def named(subject: str | None = "CN=db", **claims: Any) -> tuple[str, str]:
    identity = identity_of(CLAIMS | claims, Binding.UNBOUND, subject)
    return identity.subject, identity.structure


def test_the_national_identifier_is_the_subject() -> None:
    assert named(SubjectNameID="500000001815646/CPAT00045")[0] == "500000001815646/CPAT00045"
    assert named()[0] == "899700218896"
    assert named(preferred_username=None)[0] == "f:uuid:899700218896"


ACTIVITY = {"numeroFinessSite": "", "numeroSiretSite": "34000000000011"}


@pytest.mark.parametrize(
    ("claims", "structure"),
    [
        ({"SubjectOrganizationID": "1750803454"}, "1750803454"),
        ({"SubjectOrganizationID": "", "SubjectRefPro": {"exercices": []}}, "CN=db"),
        ({"SubjectRefPro": {"exercices": [{"activities": [ACTIVITY]}]}}, "34000000000011"),
        (
            {"SubjectRefPro": {"exercices": [{"activities": [ACTIVITY, {"numeroSiretSite": "other"}]}]}},
            "CN=db",
        ),
        ({"SubjectRefPro": {"exercices": [{"activities": "x"}, 3]}}, "CN=db"),
        ({"SubjectRefPro": [1]}, "CN=db"),
    ],
)
def test_the_structure_where_the_claims_name_one(claims: dict[str, Any], structure: str) -> None:
    assert named(**claims)[1] == structure


def test_the_structure_is_the_peers_otherwise() -> None:
    assert named(None)[1] == "drimbox-partenaire"


def test_what_the_audit_keeps_is_bounded() -> None:
    identity = identity_of(CLAIMS | {"jti": "x" * 9999, "azp": 7}, Binding.ANS, None)
    assert (len(identity.jti), identity.client_id, identity.acr) == (256, "drimbox-partenaire", "eidas1")
