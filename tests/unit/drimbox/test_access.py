"""Retrieval rules: each row of the contract's table, one thing broken at a time."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from drimbox.domain.access import (
    SharedManifest,
    Wish,
    bearer,
    check_claims,
    check_manifest,
    manifest_uid,
)
from drimbox.domain.errors import AccessRefused
from drimbox.domain.lifecycle import SubmissionState

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
CLAIMS: dict[str, Any] = {
    "active": True,
    "exp": NOW.timestamp() + 60,
    "acr": "eidas1",
    "scope": "openid scope_all",
    "preferred_username": "899700218896",
}
WISH = Wish("1.2.3", None, None, "Bearer t", "2.25.1")
MANIFEST = SharedManifest(
    SubmissionState.REGISTERED, "1.2.3", frozenset({("1.2.3.1", "1.2.3.1.1"), ("1.2.3.2", "1.2.3.2.1")})
)


def refusal(call: Any, *arguments: Any) -> tuple[int, str]:
    with pytest.raises(AccessRefused) as caught:
        call(*arguments)
    return caught.value.status, caught.value.code


def test_bearer_gives_the_token() -> None:
    assert bearer("Bearer OK_Study_token") == "OK_Study_token"
    assert bearer("bearer  abc ") == "abc"


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "Basic abc", "Bearer a b", "Bearer é", "Bearer " + "x" * 20000]
)
def test_no_usable_token(header: str | None) -> None:
    assert refusal(bearer, header) == (401, "token-missing")


def test_claims_give_the_subject() -> None:
    assert check_claims(CLAIMS, NOW) == "899700218896"
    assert check_claims({k: v for k, v in CLAIMS.items() if k != "acr"}, NOW) == "899700218896"


@pytest.mark.parametrize(
    "broken",
    [
        {"active": False},
        {"exp": NOW.timestamp()},
        {"exp": None},
        {"acr": "eidas0"},
        {"scope": "profile"},
        {"preferred_username": None},
    ],
)
def test_unsound_claims(broken: dict[str, Any]) -> None:
    assert refusal(check_claims, CLAIMS | broken, NOW) == (401, "token-inactive")


@pytest.mark.parametrize("header", [None, "", "not-a-uid", "1.2.03", "1." + "2" * 64, "../etc"])
def test_kos_header(header: str | None) -> None:
    assert refusal(manifest_uid, header) == (400, "kos-header")


@pytest.mark.parametrize(
    ("state", "answer"),
    [
        ("PREPARED", (404, "kos-unknown")),
        ("SENDING", (503, "kos-in-flight")),
        ("DOUBTFUL", (503, "kos-in-flight")),
        ("RESENDING", (503, "kos-in-flight")),
        ("PARKED", (503, "kos-in-flight")),
        ("REFUSED", (404, "kos-unknown")),
        ("DROPPED", (404, "kos-unknown")),
        ("DEPRECATED", (404, "kos-replaced")),
        ("WITHDRAWN", (410, "kos-unpublished")),
    ],
)
def test_every_state_but_registered_refuses(state: str, answer: tuple[int, str]) -> None:
    assert refusal(check_manifest, WISH, replace(MANIFEST, state=SubmissionState(state))) == answer


def test_unknown_or_foreign_manifest() -> None:
    assert refusal(check_manifest, WISH, None) == (404, "kos-unknown")
    assert refusal(check_manifest, replace(WISH, study="1.2.4"), MANIFEST) == (404, "kos-unknown")


def test_what_the_manifest_shares() -> None:
    assert check_manifest(WISH, MANIFEST) == {"1.2.3.1.1", "1.2.3.2.1"}
    assert check_manifest(replace(WISH, series="1.2.3.1"), MANIFEST) == {"1.2.3.1.1"}
    wish = replace(WISH, series="1.2.3.1", sop="1.2.3.2.1")
    assert refusal(check_manifest, wish, MANIFEST) == (404, "instance-not-shared")
